//! Operators and functions take their operands as PostgreSQL's do.
//!
//! Arithmetic becomes calls of [`crate::functions`], which fail where a result does not fit. Beside a float, a decimal is one, too:
//! DataFusion would make a decimal of the float, in which it may not fit. The blanks that pad a `char(n)` are no part of it where it is
//! taken for a text.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use highwater_log::value::{ColumnType, ElementType};

use crate::cast::cast_function;
use crate::functions::{arithmetic, is_arithmetic};
use crate::literals::literal_of_type;
use crate::types;

/// Plans operators with two operands, where they stand in a statement.
#[derive(Debug)]
pub(crate) struct OperatorPlanner;

impl ExprPlanner for OperatorPlanner {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>, DataFusionError> {
        let op = match &expr.op {
            BinaryOperator::Plus => Operator::Plus,
            BinaryOperator::Minus => Operator::Minus,
            BinaryOperator::Multiply => Operator::Multiply,
            BinaryOperator::Divide => Operator::Divide,
            BinaryOperator::StringConcat => Operator::StringConcat,
            BinaryOperator::Eq => Operator::Eq,
            BinaryOperator::NotEq => Operator::NotEq,
            BinaryOperator::Lt => Operator::Lt,
            BinaryOperator::LtEq => Operator::LtEq,
            BinaryOperator::Gt => Operator::Gt,
            BinaryOperator::GtEq => Operator::GtEq,
            _ => return Ok(PlannerResult::Original(expr)),
        };
        let RawBinaryExpr { op: written, left, right } = expr;
        Ok(match binary(left, op, right, schema)? {
            Ok(planned) => PlannerResult::Planned(planned),
            Err((left, right)) => PlannerResult::Original(RawBinaryExpr { op: written, left, right }),
        })
    }
}

/// The rule for what has more operands; it runs when text literals have their types, and before types are coerced.
#[derive(Debug)]
pub(crate) struct TypeOperators;

impl AnalyzerRule for TypeOperators {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan, DataFusionError> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = match &plan {
                LogicalPlan::TableScan(scan) => scan.projected_schema.as_ref().clone(),
                plan => merge_schema(&plan.inputs()),
            };
            let names = NamePreserver::new(&plan);
            let plan = plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let typed = expr.transform_up(|expr| typed(expr, &schema))?;
                Ok(typed.update_data(|expr| name.restore(expr)))
            })?;
            plan.map_data(LogicalPlan::recompute_schema)
        })
        .map(|transformed| transformed.data)
    }

    fn name(&self) -> &str {
        "type_operators"
    }
}

fn typed(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    match expr {
        Expr::InList(InList { mut expr, mut list, negated }) => {
            let mut is_changed = false;
            for item in &mut list {
                is_changed |= make_alike(&mut expr, item, schema);
            }
            let expr = Expr::InList(InList { expr, list, negated });
            Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        Expr::Between(mut between) => {
            let is_low_changed = make_alike(&mut between.expr, &mut between.low, schema);
            let is_high_changed = make_alike(&mut between.expr, &mut between.high, schema);
            let expr = Expr::Between(between);
            Ok(if is_low_changed || is_high_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        Expr::ScalarFunction(ScalarFunction { func, mut args }) if takes_text(func.name()) => {
            let mut is_changed = false;
            for arg in args.iter_mut().filter(|arg| char_length(arg, schema).is_some()) {
                *arg = cast_to(std::mem::take(arg), ElementType::Text);
                is_changed = true;
            }
            let expr = Expr::ScalarFunction(ScalarFunction { func, args });
            Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The operator over its operands, or these as they were.
fn binary(
    mut left: Expr,
    op: Operator,
    mut right: Expr,
    schema: &DFSchema,
) -> Result<Result<Expr, (Expr, Expr)>, DataFusionError> {
    let is_arithmetical = matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide);
    let mut is_changed = false;
    if op == Operator::StringConcat {
        for side in [&mut left, &mut right] {
            if char_length(side, schema).is_some() {
                *side = cast_to(std::mem::take(side), ElementType::Text);
                is_changed = true;
            }
        }
    } else if is_arithmetical {
        if let Some(typed) = moment_literal(&left, op, &right, schema)? {
            (right, is_changed) = (typed, true);
        } else if let Some(typed) = moment_literal(&right, op, &left, schema)? {
            (left, is_changed) = (typed, true);
        }
        is_changed |= make_numbers_alike(&mut left, &mut right, schema);
        if let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema))
            && is_arithmetic(&left_type, op, &right_type)
        {
            return Ok(Ok(arithmetic(left, op, right)));
        }
    } else {
        is_changed = make_alike(&mut left, &mut right, schema);
    }
    Ok(match is_changed {
        true => Ok(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })),
        false => Err((left, right)),
    })
}

/// Casts what is compared to what both can be; `false`: they are as they were.
fn make_alike(left: &mut Expr, right: &mut Expr, schema: &DFSchema) -> bool {
    if make_numbers_alike(left, right, schema) {
        return true;
    }
    let types = [column_type(left, schema), column_type(right, schema)];
    let [Some(ColumnType::Scalar(left_type)), Some(ColumnType::Scalar(right_type))] = types else { return false };
    match (left_type, right_type) {
        // A literal gets the type of what it is compared with, and two of one length are padded alike.
        (ElementType::Char(left_length), ElementType::Char(right_length)) if left_length == right_length => false,
        (ElementType::Char(_), _) | (_, ElementType::Char(_)) if is_literal(left) || is_literal(right) => false,
        (ElementType::Char(_), other) | (other, ElementType::Char(_)) if is_text(other) => {
            for (side, element) in [(left, left_type), (right, right_type)] {
                if matches!(element, ElementType::Char(_)) {
                    *side = cast_to(std::mem::take(side), ElementType::Text);
                }
            }
            true
        }
        // DataFusion compares them in nanoseconds, which do not reach far.
        (ElementType::Date, moment @ (ElementType::Timestamp(_) | ElementType::TimestampTz(_))) => {
            *left = cast_to(std::mem::take(left), moment);
            true
        }
        (moment @ (ElementType::Timestamp(_) | ElementType::TimestampTz(_)), ElementType::Date) => {
            *right = cast_to(std::mem::take(right), moment);
            true
        }
        _ => false,
    }
}

/// Makes a float of a decimal beside a float.
fn make_numbers_alike(left: &mut Expr, right: &mut Expr, schema: &DFSchema) -> bool {
    let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema)) else { return false };
    let decimal = if left_type.is_floating() && right_type.is_decimal() {
        right
    } else if left_type.is_decimal() && right_type.is_floating() {
        left
    } else {
        return false;
    };
    *decimal = Expr::Cast(Cast::new(Box::new(std::mem::take(decimal)), DataType::Float64));
    true
}

/// A text literal that is added to a moment or an interval, or taken from it: to a moment, an interval is added.
fn moment_literal(
    known: &Expr,
    op: Operator,
    literal: &Expr,
    schema: &DFSchema,
) -> Result<Option<Expr>, DataFusionError> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), None) = literal else { return Ok(None) };
    let Some(ColumnType::Scalar(element)) = column_type(known, schema) else { return Ok(None) };
    let is_moment = matches!(element, ElementType::Date | ElementType::Timestamp(_) | ElementType::TimestampTz(_));
    let element = match element {
        ElementType::Interval => ElementType::Interval,
        _ if is_moment && op == Operator::Plus => ElementType::Interval,
        _ if is_moment => element,
        _ => return Ok(None),
    };
    literal_of_type(text, element.into()).map(Some)
}

fn column_type(expr: &Expr, schema: &DFSchema) -> Option<ColumnType> {
    let (_, field) = expr.to_field(schema).ok()?;
    types::column_type(&field).ok()
}

fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(..))
}

fn is_text(element: ElementType) -> bool {
    matches!(element, ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_))
}

/// Of a `char(n)`, n.
fn char_length(expr: &Expr, schema: &DFSchema) -> Option<u32> {
    match column_type(expr, schema) {
        Some(ColumnType::Scalar(ElementType::Char(length))) => Some(length),
        _ => None,
    }
}

fn cast_to(expr: Expr, element: ElementType) -> Expr {
    let name = ColumnType::Scalar(element).to_string();
    cast_function().call(vec![expr, Expr::Literal(ScalarValue::Utf8(Some(name)), None)])
}

/// Whether a function of this name takes a `char(n)` for a text: not what only hands it on, and not what counts its bytes.
fn takes_text(name: &str) -> bool {
    const PASSING: [&str; 8] =
        ["coalesce", "nullif", "greatest", "least", "octet_length", "nvl", "concat", "concat_ws"];
    !name.starts_with("hw_") && !PASSING.contains(&name)
}
