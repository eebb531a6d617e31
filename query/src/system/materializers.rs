//! `hw_catalog.materializers`.

use highwater_log::value::{ElementType, OwnedValue, Value};
use highwater_materializers::{Materialized, Materializer};

use super::{LiveTable, LiveValue, bigint, text};
use crate::error::SqlError;

/// What is folded from the log, and how far.
pub(crate) struct MaterializersTable(pub(crate) Materialized);

impl LiveTable for MaterializersTable {
    fn name(&self) -> &'static str {
        "materializers"
    }

    fn columns(&self) -> &'static [(&'static str, ElementType)] {
        &[
            ("name", ElementType::Text),
            ("applied_lsn", ElementType::BigInt),
            ("checkpoint_lsn", ElementType::BigInt),
            ("history_from_lsn", ElementType::BigInt),
            ("memory_bytes", ElementType::BigInt),
            ("file_bytes", ElementType::BigInt),
            ("is_damaged", ElementType::Boolean),
        ]
    }

    fn rows(&self) -> Result<Vec<Vec<LiveValue>>, SqlError> {
        let (catalog, kv) = (self.0.catalog(), self.0.kv());
        let flag = |is_so| Some(OwnedValue::Plain(Value::Boolean(is_so)));
        let lsn = |lsn: highwater_log::Lsn| Some(bigint(lsn.value()));
        let of_catalog = vec![
            Some(text(catalog.name())),
            lsn(catalog.applied()),
            lsn(catalog.checkpointed()),
            None,
            None,
            None,
            flag(false),
        ];
        let of_kv = vec![
            Some(text(kv.name())),
            lsn(kv.applied()),
            lsn(kv.checkpointed()),
            lsn(kv.history_from()),
            Some(bigint(kv.unflushed_bytes())),
            Some(bigint(kv.file_bytes())),
            flag(kv.is_damaged()),
        ];
        Ok(vec![of_catalog, of_kv])
    }
}
