//! Every log under the one suite.

use highwater_log::{LogId, MemoryLog, conformance};

#[test]
fn the_memory_log_conforms() {
    conformance::run(|| MemoryLog::new(LogId::from_bytes([7; 16])));
}
