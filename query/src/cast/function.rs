//! The functions that stand for casts in plans.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue, exec_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use highwater_log::value::{ColumnType, ElementType, Excess};

use super::{Context, convert, is_allowed};
use crate::error::SqlError;
use crate::sqlstate;
use crate::types::{self, ColumnBuilder};

/// The name of the function for explicit casts: `hw_cast(value, 'type')`.
pub(crate) const CAST: &str = "hw_cast";
/// The name of the function for assignments to columns: `hw_assign(value, 'type', 'column')`.
pub(crate) const ASSIGN: &str = "hw_assign";

pub(crate) fn cast_function() -> ScalarUDF {
    CastFunction { context: Context::Explicit, signature: Signature::any(2, Volatility::Immutable) }.into()
}

pub(crate) fn assign_function() -> ScalarUDF {
    CastFunction { context: Context::Assignment, signature: Signature::any(3, Volatility::Immutable) }.into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CastFunction {
    context: Context,
    signature: Signature,
}

impl ScalarUDFImpl for CastFunction {
    fn name(&self) -> &str {
        match self.context {
            Context::Explicit => CAST,
            Context::Assignment => ASSIGN,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        exec_err!("the type of a cast follows from its arguments")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        let target = target_type(args.scalar_arguments.get(1).copied().flatten())?;
        let source = &args.arg_fields[0];
        // A literal text is of no type yet, nor is NULL.
        let is_untyped = *source.data_type() == DataType::Null
            || (source.metadata().get(types::TYPE_KEY).is_none()
                && matches!(
                    args.scalar_arguments[0],
                    Some(ScalarValue::Utf8(_) | ScalarValue::LargeUtf8(_) | ScalarValue::Utf8View(_))
                ));
        let is_open = self.context == Context::Assignment && is_type_open(source, target);
        let is_known = !is_untyped && !is_open;
        let from = is_known.then(|| types::column_type(source)).transpose().map_err(SqlError::into_datafusion)?;
        if !is_allowed(from, target, self.context) {
            let from = from.map_or_else(|| "unknown".to_owned(), |from| from.to_string());
            let error = match (self.context, args.scalar_arguments.get(2).copied().flatten()) {
                (Context::Assignment, Some(ScalarValue::Utf8(Some(column)))) => mismatch(column, target, &from),
                _ => SqlError::new(sqlstate::CANNOT_COERCE, format!("cannot cast type {from} to {target}")),
            };
            return Err(error.into_datafusion());
        }
        Ok(Arc::new(types::planned_field(self.name(), target, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let target = types::column_type(&args.return_field).map_err(SqlError::into_datafusion)?;
        let excess = match self.context {
            Context::Explicit => Excess::Cut,
            Context::Assignment => Excess::Refused,
        };
        let is_scalar = matches!(args.args[0], ColumnarValue::Scalar(_));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let array = args.args[0].to_array(rows)?;
        let cast = cast_array(&array, &args.arg_fields[0], target, excess).map_err(SqlError::into_datafusion)?;
        if is_scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&cast, 0)?));
        }
        Ok(ColumnarValue::Array(cast))
    }
}

/// Whether a result that Arrow takes for a text may turn out to be of a type of ours that only fields' metadata tell: what CASE gives has
/// none until [`crate::operators`] has seen it.
fn is_type_open(source: &Field, target: ColumnType) -> bool {
    matches!(target, ColumnType::Scalar(ElementType::Uuid | ElementType::Jsonb))
        && *source.data_type() == DataType::Utf8
        && !source.metadata().contains_key(types::TYPE_KEY)
}

/// What an assignment is that no type is open in any more: an error where it is one of a text.
///
/// # Errors
/// `42804`.
pub(crate) fn check_assignment(function: &ScalarFunction, schema: &DFSchema) -> Result<(), DataFusionError> {
    let [value, target, column] = &function.args[..] else { return Ok(()) };
    let (Expr::Literal(target, _), Expr::Literal(ScalarValue::Utf8(Some(column)), _)) = (target, column) else {
        return Ok(());
    };
    let target = target_type(Some(target))?;
    let is_open = !matches!(value, Expr::Literal(..)) && is_type_open(&value.to_field(schema)?.1, target);
    if is_open { Err(mismatch(column, target, "text").into_datafusion()) } else { Ok(()) }
}

fn mismatch(column: &str, target: ColumnType, from: &str) -> SqlError {
    let message = format!("column \"{column}\" is of type {target} but expression is of type {from}");
    SqlError::new(sqlstate::DATATYPE_MISMATCH, message)
}

fn cast_array(array: &ArrayRef, field: &FieldRef, target: ColumnType, excess: Excess) -> Result<ArrayRef, SqlError> {
    let target_arrow = types::arrow_type(target);
    if *array.data_type() == DataType::Null || array.null_count() == array.len() {
        return Ok(new_null_array(&target_arrow, array.len()));
    }
    let source = types::column_type(field)?;
    let array = types::canonical_array(array, &types::arrow_type(source))?;
    if source == target || is_reinterpretation(source, target) {
        return Ok(array);
    }
    let mut builder = ColumnBuilder::new(target);
    for row in 0..array.len() {
        let value = types::value_at(&array, row, source)?;
        let converted = value.map(|value| convert(value, source, target, excess)).transpose()?;
        builder.append(converted.as_ref().map(|value| value.as_value()))?;
    }
    Ok(builder.finish())
}

/// Whether every value of the one type is one of the other as it stands.
fn is_reinterpretation(from: ColumnType, to: ColumnType) -> bool {
    matches!(
        (from, to),
        (
            ColumnType::Scalar(ElementType::Text | ElementType::Varchar(_) | ElementType::Uuid | ElementType::Jsonb),
            ColumnType::Scalar(ElementType::Text | ElementType::Varchar(None))
        )
    )
}

fn target_type(argument: Option<&ScalarValue>) -> Result<ColumnType, DataFusionError> {
    match argument {
        Some(ScalarValue::Utf8(Some(name))) => {
            name.parse().map_err(|_| SqlError::internal(format!("no column type: {name}")).into_datafusion())
        }
        _ => Err(SqlError::internal("a cast names its type").into_datafusion()),
    }
}
