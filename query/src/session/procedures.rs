//! CALL: what is neither a query nor a change of tables.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Value as Literal,
};
use highwater_log::Lsn;
use highwater_log::value::{ElementType, Value};

use super::Session;
use crate::error::SqlError;
use crate::sqlstate;
use crate::statement::RowStream;
use crate::types;

impl Session {
    /// `CALL hw_trim_log([lsn])`: gives up the log's commits up to `lsn`, without it all that no read in the past may need, and answers
    /// with the earliest that is left. A caller who goes away does not stop it.
    pub(super) async fn call(&self, procedure: &Function) -> Result<RowStream, SqlError> {
        let name = procedure.name.to_string();
        if !name.eq_ignore_ascii_case(TRIM_LOG) {
            return Err(SqlError::new(sqlstate::UNDEFINED_FUNCTION, format!("procedure {name} does not exist")));
        }
        if self.is_in_transaction() {
            let message = format!("{TRIM_LOG} cannot run inside a transaction block");
            return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
        }
        if self.settings.is_read_only() {
            let message = format!("cannot call {TRIM_LOG} in a read-only session");
            return Err(SqlError::new(sqlstate::READ_ONLY_TRANSACTION, message));
        }
        let earliest = self.engine.trim_log(argument(&procedure.args)?).await?;
        let column_type = ElementType::BigInt.into();
        let mut column = types::ColumnBuilder::new(column_type);
        column.append(Some(Value::BigInt(i64::try_from(earliest.value()).unwrap_or(i64::MAX))))?;
        let schema = Schema::new(vec![types::field("earliest", column_type, false)]);
        Ok(RowStream::of(RecordBatch::try_new(Arc::new(schema), vec![column.finish()])?, self.engine.visible()))
    }
}

/// None, or one number.
fn argument(arguments: &FunctionArguments) -> Result<Option<Lsn>, SqlError> {
    let arguments = match arguments {
        FunctionArguments::None => &[][..],
        FunctionArguments::List(list) if list.clauses.is_empty() && list.duplicate_treatment.is_none() => &list.args,
        _ => return Err(undefined()),
    };
    match arguments {
        [] => Ok(None),
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] => match &value.value {
            Literal::Number(digits, false) => digits.parse().map(|lsn| Some(Lsn::new(lsn))).map_err(|_| undefined()),
            _ => Err(undefined()),
        },
        _ => Err(undefined()),
    }
}

fn undefined() -> SqlError {
    SqlError::new(sqlstate::UNDEFINED_FUNCTION, format!("{TRIM_LOG} takes an LSN, a number, or nothing"))
}

const TRIM_LOG: &str = "hw_trim_log";
