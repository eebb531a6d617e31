//! Others' formats.

pub mod debezium;
