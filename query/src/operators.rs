//! Operators and functions take their operands as PostgreSQL's do.
//!
//! Arithmetic becomes calls of [`crate::functions`], which fail where a result does not fit. Beside a float, a decimal is one, too:
//! DataFusion would make a decimal of the float, in which it may not fit. The blanks that pad a `char(n)` are no part of it where it is
//! taken for a text.

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{Between, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, binary_expr, lit};
use datafusion::optimizer::AnalyzerRule;
use datafusion::sql::sqlparser::ast::BinaryOperator;
use highwater_log::value::{ColumnType, ElementType};

use crate::cast::{ASSIGN, cast_function, check_assignment};
use crate::functions::{arithmetic, array_order, is_arithmetic};
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
    let mut expr = expr;
    let is_changed = match &mut expr {
        Expr::InList(InList { expr, list, .. }) => {
            let are_alike = make_all_alike(expr, &mut *list, schema);
            make_zeros_alike(expr, list, schema) || are_alike
        }
        Expr::Between(between) if is_array(&between.expr, schema) => {
            return Ok(Transformed::yes(arrays_between(between)));
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq,
            right,
        }) if is_array(left, schema) && is_array(right, schema) => {
            **left = array_order(std::mem::take(&mut **left), std::mem::take(&mut **right));
            **right = lit(0_i32);
            true
        }
        Expr::Between(between) => make_all_alike(&mut between.expr, [&mut *between.low, &mut *between.high], schema),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::IsDistinctFrom | Operator::IsNotDistinctFrom, right }) => {
            make_alike(left, right, schema)
        }
        Expr::Case(case) => {
            // Literals get no type here: the operand becomes a text beside them.
            let padded = case.expr.as_mut().filter(|operand| char_length(operand, schema).is_some());
            let is_operand_changed = padded.is_some();
            if let Some(operand) = padded {
                **operand = cast_to(std::mem::take(&mut **operand), ElementType::Text);
            }
            let whens = case.when_then_expr.iter_mut().map(|(when, _)| &mut **when);
            let are_whens_changed = case.expr.as_mut().is_some_and(|operand| make_all_alike(operand, whens, schema));
            let results = case.when_then_expr.iter_mut().map(|(_, then)| &mut **then);
            make_floats(results.chain(case.else_expr.as_deref_mut()), schema) || are_whens_changed || is_operand_changed
        }
        Expr::ScalarFunction(function) if function.name() == ASSIGN => {
            check_assignment(function, schema)?;
            false
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if takes_like(func.name()) => make_floats(args, schema),
        Expr::ScalarFunction(ScalarFunction { func, args }) if takes_text(func.name()) => {
            let mut is_changed = false;
            for arg in args.iter_mut().filter(|arg| char_length(arg, schema).is_some()) {
                *arg = cast_to(std::mem::take(arg), ElementType::Text);
                is_changed = true;
            }
            is_changed
        }
        _ => false,
    };
    if let Some(element) = common_name(&expr, schema) {
        return Ok(Transformed::yes(cast_to(expr, element)));
    }
    Ok(if is_changed { Transformed::yes(expr) } else { Transformed::no(expr) })
}

/// The type of what is one of several, where Arrow's types do not tell it: they all are of it, or literals.
fn common_name(expr: &Expr, schema: &DFSchema) -> Option<ElementType> {
    let several: Vec<&Expr> = match expr {
        Expr::Case(case) => {
            let results = case.when_then_expr.iter().map(|(_, then)| then).chain(&case.else_expr);
            results.map(|result| &**result).collect()
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) => match func.name() {
            "nullif" => args.iter().take(1).collect(),
            name if takes_like(name) && name != "make_array" => args.iter().collect(),
            _ => return None,
        },
        _ => return None,
    };
    let element = several.iter().find_map(|one| match column_type(one, schema) {
        Some(ColumnType::Scalar(element @ (ElementType::Uuid | ElementType::Jsonb))) => Some(element),
        _ => None,
    })?;
    let is_of_it = |one: &&Expr| is_literal(one) || column_type(one, schema) == Some(element.into());
    (several.iter().all(is_of_it) && column_type(expr, schema) != Some(element.into())).then_some(element)
}

/// Makes 0 of −0 where floats are looked up in a list: a long one is a set of bits.
fn make_zeros_alike(one: &mut Expr, others: &mut [Expr], schema: &DFSchema) -> bool {
    let mut is_changed = false;
    for expr in std::iter::once(one).chain(others) {
        let zero = match expr.get_type(schema) {
            Ok(DataType::Float32) => lit(0.0_f32),
            Ok(DataType::Float64) => lit(0.0_f64),
            _ => continue,
        };
        match expr {
            Expr::Literal(ScalarValue::Float32(Some(value)), _) => *value += 0.0,
            Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value += 0.0,
            _ => *expr = arithmetic(std::mem::take(expr), Operator::Plus, zero),
        }
        is_changed = true;
    }
    is_changed
}

fn is_array(expr: &Expr, schema: &DFSchema) -> bool {
    matches!(expr.get_type(schema), Ok(DataType::List(_)))
}

fn arrays_between(Between { expr, negated, low, high }: &Between) -> Expr {
    let compared = |op, bound: &Expr| binary_expr(array_order(expr.as_ref().clone(), bound.clone()), op, lit(0_i32));
    let between = compared(Operator::GtEq, low).and(compared(Operator::LtEq, high));
    if *negated { Expr::Not(Box::new(between)) } else { between }
}

/// Makes one alike to each of the others, and them to what has become of it.
fn make_all_alike<'a>(one: &mut Expr, others: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) -> bool {
    let mut others: Vec<&mut Expr> = others.into_iter().collect();
    let mut is_changed = false;
    // What the last of the others makes of it is new to the first.
    for _ in 0..2 {
        for other in &mut others {
            is_changed |= make_alike(one, other, schema);
        }
    }
    is_changed
}

/// Of several that become one, makes floats of decimals where one is a float.
fn make_floats<'a>(several: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) -> bool {
    let several = several.into_iter().filter_map(|expr| expr.get_type(schema).ok().map(|data_type| (expr, data_type)));
    let several: Vec<(&mut Expr, DataType)> = several.collect();
    if !several.iter().any(|(_, data_type)| data_type.is_floating()) {
        return false;
    }
    let mut is_changed = false;
    for (expr, _) in several.into_iter().filter(|(_, data_type)| data_type.is_decimal()) {
        *expr = cast_to(std::mem::take(expr), ElementType::Double);
        is_changed = true;
    }
    is_changed
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
        for is_left in [true, false] {
            let (known, literal) = if is_left { (&left, &right) } else { (&right, &left) };
            let typed = match moment_literal(known, op, literal, schema)? {
                None => number_literal(known, literal, schema)?,
                typed => typed,
            };
            if let Some(typed) = typed {
                *(if is_left { &mut right } else { &mut left }) = typed;
                is_changed = true;
            }
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
        // DataFusion compares them in nanoseconds, which do not reach far, and has no infinities.
        (ElementType::Date | ElementType::Timestamp(_), ElementType::TimestampTz(_)) => {
            *left = cast_to(std::mem::take(left), ElementType::TimestampTz(6));
            true
        }
        (ElementType::TimestampTz(_), ElementType::Date | ElementType::Timestamp(_)) => {
            *right = cast_to(std::mem::take(right), ElementType::TimestampTz(6));
            true
        }
        (ElementType::Date, ElementType::Timestamp(_)) => {
            *left = cast_to(std::mem::take(left), ElementType::Timestamp(6));
            true
        }
        (ElementType::Timestamp(_), ElementType::Date) => {
            *right = cast_to(std::mem::take(right), ElementType::Timestamp(6));
            true
        }
        _ => false,
    }
}

/// Makes a float of a decimal beside a float, and of a real and an integer the float that holds both.
fn make_numbers_alike(left: &mut Expr, right: &mut Expr, schema: &DFSchema) -> bool {
    let (Ok(left_type), Ok(right_type)) = (left.get_type(schema), right.get_type(schema)) else { return false };
    let meets = |one: &DataType, other: &DataType| {
        (one.is_floating() && other.is_decimal()) || (*one == DataType::Float32 && other.is_integer())
    };
    if !meets(&left_type, &right_type) && !meets(&right_type, &left_type) {
        return false;
    }
    for (side, data_type) in [(left, left_type), (right, right_type)] {
        if data_type != DataType::Float64 {
            *side = cast_to(std::mem::take(side), ElementType::Double);
        }
    }
    true
}

/// A text literal beside a number is one of its type.
fn number_literal(known: &Expr, literal: &Expr, schema: &DFSchema) -> Result<Option<Expr>, DataFusionError> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), None) = literal else { return Ok(None) };
    match column_type(known, schema) {
        Some(ColumnType::Scalar(
            element @ (ElementType::SmallInt
            | ElementType::Integer
            | ElementType::BigInt
            | ElementType::Real
            | ElementType::Double),
        )) => literal_of_type(text, element.into()).map(Some),
        Some(ColumnType::Scalar(ElementType::Numeric { .. })) => {
            literal_of_type(text, ElementType::Numeric { precision: 38, scale: 9 }.into()).map(Some)
        }
        _ => Ok(None),
    }
}

/// A text literal that is added to a moment or an interval, or taken from it: to a moment, an interval is added.
fn moment_literal(
    known: &Expr,
    op: Operator,
    literal: &Expr,
    schema: &DFSchema,
) -> Result<Option<Expr>, DataFusionError> {
    let Expr::Literal(ScalarValue::Utf8(Some(text)), None) = literal else { return Ok(None) };
    if !matches!(op, Operator::Plus | Operator::Minus) {
        return Ok(None);
    }
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

/// Whether a function of this name gives one of its arguments, or all of them together.
fn takes_like(name: &str) -> bool {
    matches!(name, "coalesce" | "nullif" | "greatest" | "least" | "nvl" | "make_array")
}

/// Whether a function of this name takes a `char(n)` for a text: not what only hands it on, and not what counts its bytes.
fn takes_text(name: &str) -> bool {
    const PASSING: [&str; 3] = ["octet_length", "concat", "concat_ws"];
    !name.starts_with("hw_") && !takes_like(name) && !PASSING.contains(&name)
}
