//! PREPARE, EXECUTE, DEALLOCATE: statements that a session keeps under names.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{DataType, Expr, Ident, ObjectName, Statement};
use highwater_log::Lsn;
use highwater_log::value::{ColumnType, ElementType, OwnedValue, Value};

use super::{Done, Outcome, Session, TransactionState};
use crate::cast::CAST;
use crate::error::SqlError;
use crate::names::folded;
use crate::parameter::{PARAMETERS_MAX, Parameter};
use crate::parser::Parsed;
use crate::prepared::Prepared;
use crate::rewrite::{call, string, written};
use crate::sql_type;
use crate::sqlstate;
use crate::types;

/// The statements that a session has prepared under names.
#[derive(Default)]
pub(super) struct NamedStatements {
    by_name: HashMap<String, Named>,
    /// Of all of them, roughly.
    bytes: usize,
}

struct Named {
    prepared: Prepared,
    /// Of the first parameters, the types that were said.
    types: Vec<ColumnType>,
    bytes: usize,
}

impl Session {
    /// Keeps a statement under a name.
    pub(super) fn prepare_named(
        &mut self,
        name: &Ident,
        data_types: &[DataType],
        mut parsed: Parsed,
    ) -> Result<Done, SqlError> {
        let name = folded(name);
        let is_preparable = matches!(
            parsed.statement,
            Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_)
        );
        if !is_preparable {
            return Err(SqlError::syntax("only SELECT, INSERT, UPDATE, DELETE and VALUES can be prepared"));
        }
        if self.named.by_name.contains_key(&name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(SqlError::new(sqlstate::DUPLICATE_STATEMENT, message));
        }
        let types = data_types.iter().map(sql_type::column_type).collect::<Result<Vec<_>, _>>()?;
        if types.len() > PARAMETERS_MAX {
            return Err(SqlError::syntax(format!("a statement has at most {PARAMETERS_MAX} parameters")));
        }
        parsed.parameter_count = parsed.parameter_count.max(types.len());
        let text_bytes = parsed.statement.to_string().len();
        let bytes = STATEMENT_BYTES + name.len() + std::mem::size_of_val(&types[..]) + text_bytes * TREE_BYTES_PER_TEXT;
        if self.named.bytes + bytes > BYTES_MAX {
            let message = "the session's prepared statements take more memory than they may: deallocate some";
            return Err(SqlError::new(sqlstate::CONFIGURATION_LIMIT, message));
        }
        self.named.bytes += bytes;
        self.named.by_name.insert(name, Named { prepared: parsed.into(), types, bytes });
        Ok(Done::tag("PREPARE"))
    }

    /// Runs the statement of a name.
    pub(super) async fn execute_named(
        &mut self,
        name: &ObjectName,
        arguments: &[Expr],
        as_of: Option<Lsn>,
    ) -> Result<Outcome, SqlError> {
        let name = match &name.0[..] {
            [part] => part.as_ident().map(folded),
            _ => None,
        };
        let name = name.ok_or_else(|| SqlError::syntax("EXECUTE takes the name of a prepared statement"))?;
        let named = self.named.by_name.get(&name).ok_or_else(|| undefined(&name))?;
        let (prepared, types) = (named.prepared.clone(), named.types.clone());
        if arguments.len() != prepared.parameter_count() {
            let (expected, given) = (prepared.parameter_count(), arguments.len());
            let message = format!(
                "wrong number of parameters for prepared statement \"{name}\": expected {expected} parameters but got {given}"
            );
            return Err(SqlError::syntax(message));
        }
        let mut parameters = Vec::with_capacity(arguments.len());
        for (place, argument) in arguments.iter().enumerate() {
            parameters.push(self.argument(argument, types.get(place).copied()).await?);
        }
        let as_of = as_of.or(prepared.as_of());
        Box::pin(self.dispatch(prepared.request(&parameters), as_of)).await
    }

    /// Forgets the statement of a name, or all.
    pub(super) fn deallocate(&mut self, name: &Ident) -> Result<Done, SqlError> {
        if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all") {
            self.named = NamedStatements::default();
            return Ok(Done::tag("DEALLOCATE ALL"));
        }
        let name = folded(name);
        let named = self.named.by_name.remove(&name).ok_or_else(|| undefined(&name))?;
        self.named.bytes -= named.bytes;
        Ok(Done::tag("DEALLOCATE"))
    }

    /// The value of an expression, of this type if one is said.
    async fn argument(&self, expr: &Expr, declared: Option<ColumnType>) -> Result<Parameter, SqlError> {
        if declared.is_none()
            && let Some(literal) = Parameter::of_literal(expr)
        {
            return Ok(literal);
        }
        let of_type = |column_type: ColumnType| call(CAST, vec![expr.clone(), string(&column_type.to_string())]);
        let sql = format!("SELECT {}", written(&declared.map_or_else(|| expr.clone(), of_type)));
        let fresh;
        let transaction = match &self.state {
            TransactionState::Open { transaction, .. } => transaction,
            TransactionState::None | TransactionState::Failed => {
                fresh = self.snapshot(None).await?;
                &fresh
            }
        };
        let batches = self.context(transaction.at()).collect(transaction, &sql, None).await?;
        let mut rows = batches.iter().filter(|batch| batch.num_rows() > 0);
        let (Some(batch), None) = (rows.next().filter(|batch| batch.num_rows() == 1), rows.next()) else {
            return Err(SqlError::syntax("a parameter of EXECUTE is one value"));
        };
        let column_type = declared.map_or_else(|| types::column_type(batch.schema().field(0)), Ok)?;
        Ok(match types::value_at(batch.column(0), 0, column_type)? {
            None => Parameter::Null,
            Some(OwnedValue::Plain(Value::Boolean(value))) => Parameter::Bool(value),
            Some(OwnedValue::Plain(Value::SmallInt(value))) => Parameter::Int(value.into()),
            Some(OwnedValue::Plain(Value::Integer(value))) => Parameter::Int(value.into()),
            Some(OwnedValue::Plain(Value::BigInt(value))) => Parameter::Int(value),
            Some(OwnedValue::Plain(Value::Double(value))) => Parameter::Double(value),
            Some(OwnedValue::Bytea(bytes)) => Parameter::Bytes(bytes),
            Some(value) => {
                let mut text = String::new();
                highwater_log::value::write_text(column_type, value.as_value(), &mut text)?;
                match (declared, column_type) {
                    // Nobody has said that it is one.
                    (None, ColumnType::Scalar(ElementType::Text)) => Parameter::Text(text),
                    _ => Parameter::Typed { text, column_type },
                }
            }
        })
    }
}

fn undefined(name: &str) -> SqlError {
    SqlError::new(sqlstate::UNDEFINED_STATEMENT, format!("prepared statement \"{name}\" does not exist"))
}

/// What a session's prepared statements take at most, reckoned so: each by itself, and for each byte of its text.
const BYTES_MAX: usize = 16 * 1024 * 1024;
const STATEMENT_BYTES: usize = 16 * 1024;
const TREE_BYTES_PER_TEXT: usize = 64;
