//! Text literals take the type of what they are compared with, in that type's own text form.
//!
//! PostgreSQL's literals have no type until something gives them one. DataFusion holds them for text and casts as Arrow does, which
//! knows neither `infinity` nor blanks behind a `char(n)` nor a second spelling of a uuid.

use arrow::datatypes::Field;
use datafusion::common::config::ConfigOptions;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;
use highwater_log::value::{ColumnType, ElementType, Excess, OwnedValue, ValueError, parse_text};

use crate::error::SqlError;
use crate::types::{self, ColumnBuilder};

/// The rule; it runs before types are coerced.
#[derive(Debug)]
pub(crate) struct TypeTextLiterals;

impl AnalyzerRule for TypeTextLiterals {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = match &plan {
                LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
                plan => merge_schema(&plan.inputs()),
            };
            plan.map_expressions(|expr| expr.transform_up(|expr| typed(expr, &schema)))
        })
        .map(|transformed| transformed.data)
    }

    fn name(&self) -> &str {
        "type_text_literals"
    }
}

fn typed(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let right_typed = typed_like(&right, &left, schema)?;
            let left_typed = typed_like(&left, &right, schema)?;
            let is_changed = left_typed.is_some() || right_typed.is_some();
            let left = left_typed.map_or(left, Box::new);
            let right = right_typed.map_or(right, Box::new);
            let expr = Expr::BinaryExpr(BinaryExpr { left, op, right });
            Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        Expr::InList(InList { expr, list, negated }) => {
            let mut is_changed = false;
            let mut items = Vec::with_capacity(list.len());
            for item in list {
                let item_typed = typed_like(&item, &expr, schema)?;
                is_changed |= item_typed.is_some();
                items.push(item_typed.unwrap_or(item));
            }
            let expr = Expr::InList(InList { expr, list: items, negated });
            Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let low_typed = typed_like(&low, &expr, schema)?;
            let high_typed = typed_like(&high, &expr, schema)?;
            let is_changed = low_typed.is_some() || high_typed.is_some();
            let (low, high) = (low_typed.map_or(low, Box::new), high_typed.map_or(high, Box::new));
            let expr = Expr::Between(Between { expr, negated, low, high });
            Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        other => Ok(Transformed::no(other)),
    }
}

/// A text literal as a value of the type that `other` has; `None`: it stays as it is.
fn typed_like(literal: &Expr, other: &Expr, schema: &DFSchema) -> Result<Option<Expr>, DataFusionError> {
    let Expr::Literal(
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)),
        None,
    ) = literal
    else {
        return Ok(None);
    };
    if matches!(other, Expr::Literal(_, None)) {
        return Ok(None);
    }
    let Ok((_, field)) = other.to_field(schema) else { return Ok(None) };
    let Ok(column_type) = types::column_type(&field) else { return Ok(None) };
    if matches!(column_type, ColumnType::Scalar(ElementType::Text | ElementType::Varchar(_))) {
        return Ok(None);
    }
    // The scale of a column must not round what it is compared with.
    if matches!(column_type, ColumnType::Scalar(ElementType::Numeric { .. })) {
        return Ok(None);
    }
    // Nor must its digits of a second.
    let column_type = match column_type {
        ColumnType::Scalar(ElementType::Time(_)) => ColumnType::Scalar(ElementType::Time(6)),
        ColumnType::Scalar(ElementType::Timestamp(_)) => ColumnType::Scalar(ElementType::Timestamp(6)),
        ColumnType::Scalar(ElementType::TimestampTz(_)) => ColumnType::Scalar(ElementType::TimestampTz(6)),
        other => other,
    };
    match parse_text(column_type, text, Excess::Refused) {
        Ok(value) => literal_of(value, column_type).map(Some),
        // It is longer than any value of the column: it equals none.
        Err(ValueError::TooLong { .. }) => Ok(None),
        Err(error) => Err(SqlError::from(error).into_datafusion()),
    }
}

/// A text as a literal of this type.
pub(crate) fn literal_of_type(text: &str, column_type: ColumnType) -> Result<Expr, DataFusionError> {
    let value = parse_text(column_type, text, Excess::Refused);
    literal_of(value.map_err(|error| SqlError::from(error).into_datafusion())?, column_type)
}

fn literal_of(value: OwnedValue, column_type: ColumnType) -> Result<Expr, DataFusionError> {
    let mut builder = ColumnBuilder::new(column_type);
    builder.append(Some(value.as_value())).map_err(SqlError::into_datafusion)?;
    let scalar = ScalarValue::try_from_array(&builder.finish(), 0)?;
    let metadata = FieldMetadata::from(&Field::clone(&types::field("literal", column_type, false)));
    Ok(Expr::Literal(scalar, Some(metadata)))
}
