//! Statements rewritten before they are planned: casts into our functions, session functions into what they answer.

mod exists;
pub(crate) mod joins;
mod membership;
mod operators;
mod own;

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, DataType, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, Interval, LimitClause, ObjectName, Query, SelectItem,
    SetExpr, SetOperator, SetQuantifier, UnaryOperator, Value, ValueWithSpan, VisitMut, VisitorMut, visit_expressions,
};
use highwater_log::Lsn;
use highwater_log::value::{ColumnType, ElementType, parse_decimal, write_text};

use crate::cast::CAST;
use crate::error::SqlError;
use crate::functions::SINGLE;
use crate::sql_type;
use crate::sqlstate;
pub(crate) use operators::null;
use operators::{all_of, any_of, binary, is_signed_power, nested, operation, row_is_null, rows_in_list, unary};

/// What the functions that ask about the session answer.
#[derive(Clone, Debug)]
pub(crate) struct SessionFacts {
    pub(crate) visible: Lsn,
    pub(crate) read: Lsn,
    pub(crate) last_write: Option<Lsn>,
    pub(crate) namespace: String,
}

/// Rewrites a query or an expression in place.
///
/// # Errors
/// `0A000`, `42704` for types that are none of ours.
pub(crate) fn rewrite<N: VisitMut>(
    node: &mut N,
    facts: &SessionFacts,
    is_aggregate: &dyn Fn(&str) -> bool,
) -> Result<(), SqlError> {
    match node.visit(&mut Rewriter { facts, is_aggregate, compared: HashSet::new() }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewriter<'a> {
    facts: &'a SessionFacts,
    /// Whether the planner knows an aggregate function of this name.
    is_aggregate: &'a dyn Fn(&str) -> bool,
    /// The queries that stand behind ANY and ALL, known by where they are: those may have many rows.
    compared: HashSet<*const Query>,
}

impl VisitorMut for Rewriter<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        if !query.locks.is_empty() {
            return ControlFlow::Break(SqlError::unsupported("FOR UPDATE, FOR SHARE"));
        }
        membership::with_nulls(query);
        exists::as_values(query, &|function| {
            let gives_rows = ["unnest", "generate_series"].contains(&&*function.name.to_string().to_lowercase());
            function.over.is_none() && !gives_rows && !self.is_aggregate(function)
        });
        if let Some(fetch) = query.fetch.take() {
            if fetch.with_ties || fetch.percent {
                return ControlFlow::Break(SqlError::unsupported("FETCH with ties or percent"));
            }
            let one = || Expr::Value(Value::Number("1".to_owned(), false).into());
            let limit = Some(fetch.quantity.unwrap_or_else(one));
            let offset = match query.limit_clause.take() {
                Some(LimitClause::LimitOffset { offset, limit: None, .. }) => offset,
                None => None,
                Some(_) => return ControlFlow::Break(SqlError::syntax("both LIMIT and FETCH")),
            };
            query.limit_clause = Some(LimitClause::LimitOffset { limit, offset, limit_by: Vec::new() });
        }
        match check_set_operations(&query.body).and_then(|()| check_limit(query.limit_clause.as_ref())) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match expr {
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => {
                if let Expr::Subquery(query) = &**right {
                    self.compared.insert(&raw const **query);
                }
            }
            // The signs belong to the base.
            Expr::UnaryOp { op: UnaryOperator::Minus, .. } if is_signed_power(expr) => {
                let mut signs = 0;
                while let Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand } = expr {
                    *expr = std::mem::replace(&mut **operand, null());
                    signs += 1;
                }
                let mut base = &mut *expr;
                while let Expr::BinaryOp { left, op: BinaryOperator::PGExp, .. } = base {
                    base = left;
                }
                for _ in 0..signs {
                    let operand = Box::new(std::mem::replace(base, null()));
                    *base = Expr::UnaryOp { op: UnaryOperator::Minus, expr: operand };
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        match self.rewritten(expr) {
            Ok(Some(rewritten)) => *expr = rewritten,
            Ok(None) => {}
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter<'_> {
    fn rewritten(&self, expr: &Expr) -> Result<Option<Expr>, SqlError> {
        Ok(match expr {
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, format: None, .. } => {
                Some(cast((**expr).clone(), data_type)?)
            }
            Expr::Cast { .. } => return Err(SqlError::unsupported("a cast that is neither CAST nor ::")),
            Expr::TypedString(typed) => Some(cast(Expr::Value(typed.value.clone()), &typed.data_type)?),
            Expr::Interval(interval) => Some(interval_call(interval)?),
            Expr::SimilarTo { .. } => return Err(SqlError::unsupported("SIMILAR TO")),
            Expr::Function(function) => {
                check_function(function)?;
                self.function(function).or_else(|| filtered(function))
            }
            Expr::Value(value) => match &value.value {
                Value::Number(digits, false) if digits.contains(['e', 'E']) => Some(number(digits)?),
                _ => None,
            },
            Expr::Subquery(query) if self.compared.contains(&(&raw const **query)) => None,
            Expr::Subquery(query) => self.single_row(query),
            Expr::AnyOp { left, compare_op, right, .. } => any_of(left, compare_op, right)?,
            Expr::AllOp { left, compare_op, right } => all_of(left, compare_op, right)?,
            Expr::BinaryOp { left, op, right } => binary(left, op, right)?,
            Expr::InList { expr, list, negated } => rows_in_list(expr, list, *negated)?,
            Expr::IsNull(row) => row_is_null(row, false),
            Expr::IsNotNull(row) => row_is_null(row, true),
            Expr::InSubquery { expr, .. } if matches!(**expr, Expr::Tuple(_)) => {
                return Err(SqlError::unsupported("a row of several columns before IN (SELECT …)"));
            }
            // Planned as EXTRACT, it would be the planner's own function.
            Expr::Extract { field, expr, .. } => {
                Some(call("date_part", vec![string(&field.to_string()), (**expr).clone()]))
            }
            Expr::UnaryOp { op, expr } => unary(*op, expr),
            Expr::Identifier(ident) if is_session_word(ident) => self.session_word(&ident.value.to_lowercase()),
            _ => None,
        })
    }

    fn function(&self, function: &Function) -> Option<Expr> {
        let name = function.name.to_string().to_lowercase();
        let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
        let has_arguments = match &function.args {
            FunctionArguments::None => false,
            FunctionArguments::List(list) => !list.args.is_empty(),
            FunctionArguments::Subquery(_) => true,
        };
        if has_arguments {
            return with_arguments(name, function);
        }
        if function.over.is_some() {
            return None;
        }
        let bigint = ColumnType::Scalar(ElementType::BigInt);
        let lsn = |lsn: Option<Lsn>| {
            let value = lsn.map_or(Value::Null, |lsn| Value::Number(lsn.value().to_string(), false));
            cast_to(Expr::Value(value.into()), bigint)
        };
        Some(match name {
            "hw_lsn" => lsn(Some(self.facts.visible)),
            "hw_read_lsn" => lsn(Some(self.facts.read)),
            "hw_last_write_lsn" => lsn(self.facts.last_write),
            "version" => string(&format!("PostgreSQL 15 compatible, Highwater {}", env!("CARGO_PKG_VERSION"))),
            "current_database" | "current_catalog" => string(crate::providers::CATALOG),
            "current_schema" => string(&self.facts.namespace),
            "current_user" | "session_user" | "user" => string("highwater"),
            "gen_random_uuid" => cast_to(call("uuid", Vec::new()), ElementType::Uuid.into()),
            "now" | "current_timestamp" | "transaction_timestamp" | "statement_timestamp" => {
                cast_to(Expr::Function(named(function, "now")), ElementType::TimestampTz(6).into())
            }
            "localtimestamp" => cast_to(call("now", Vec::new()), ElementType::Timestamp(6).into()),
            "current_time" | "localtime" => cast_to(call("now", Vec::new()), ElementType::Time(6).into()),
            _ => return None,
        })
    }

    /// A scalar subquery with its one value taken by `hw_single`: the planner decorrelates aggregates only.
    fn single_row(&self, query: &Query) -> Option<Expr> {
        let is_plain = query.with.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
        let SetExpr::Select(select) = &*query.body else { return None };
        let is_ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(expressions, modifiers)
            if expressions.is_empty() && modifiers.is_empty());
        // Of no table, and without a filter, it has its one row.
        let is_one_row = select.from.is_empty() && select.selection.is_none();
        if !is_plain || !is_ungrouped || select.distinct.is_some() || select.having.is_some() || is_one_row {
            return None;
        }
        let [SelectItem::UnnamedExpr(value) | SelectItem::ExprWithAlias { expr: value, .. }] = &select.projection[..]
        else {
            return None;
        };
        let has_aggregate = visit_expressions(value, |expr| match expr {
            Expr::Function(function) if function.over.is_some() || self.is_aggregate(function) => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        if has_aggregate.is_break() {
            return None;
        }
        let mut select = select.clone();
        select.projection = vec![SelectItem::UnnamedExpr(call(SINGLE, vec![value.clone()]))];
        let body = Box::new(SetExpr::Select(select));
        Some(Expr::Subquery(Box::new(Query { body, order_by: None, ..query.clone() })))
    }

    fn is_aggregate(&self, function: &Function) -> bool {
        (self.is_aggregate)(&function.name.to_string().to_lowercase())
    }

    fn session_word(&self, name: &str) -> Option<Expr> {
        match name {
            "current_user" | "session_user" | "user" => Some(string("highwater")),
            "current_catalog" => Some(string(crate::providers::CATALOG)),
            "current_schema" => Some(string(&self.facts.namespace)),
            _ => None,
        }
    }
}

/// Whether a bare word asks about the session, and is no column.
pub(crate) fn is_session_word(ident: &Ident) -> bool {
    const WORDS: [&str; 5] = ["current_user", "session_user", "user", "current_catalog", "current_schema"];
    ident.quote_style.is_none() && WORDS.iter().any(|word| ident.value.eq_ignore_ascii_case(word))
}

/// The planner plans these as operations on sets, not on rows.
fn check_set_operations(body: &SetExpr) -> Result<(), SqlError> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return Ok(()) };
    let is_all = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
    match op {
        SetOperator::Except if is_all => Err(SqlError::unsupported("EXCEPT ALL")),
        SetOperator::Intersect if is_all => Err(SqlError::unsupported("INTERSECT ALL")),
        _ => check_set_operations(left).and_then(|()| check_set_operations(right)),
    }
}

fn check_limit(clause: Option<&LimitClause>) -> Result<(), SqlError> {
    let Some(LimitClause::LimitOffset { limit, offset, .. }) = clause else { return Ok(()) };
    let is_negative = |expr: &Expr| match expr {
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
            matches!(&**expr, Expr::Value(value) if matches!(&value.value, Value::Number(digits, _) if digits != "0"))
        }
        _ => false,
    };
    if limit.as_ref().is_some_and(is_negative) {
        return Err(SqlError::new(sqlstate::INVALID_ROW_COUNT_IN_LIMIT, "LIMIT must not be negative"));
    }
    if offset.as_ref().is_some_and(|offset| is_negative(&offset.value)) {
        return Err(SqlError::new(sqlstate::INVALID_ROW_COUNT_IN_OFFSET, "OFFSET must not be negative"));
    }
    Ok(())
}

/// The planner's functions of these names take other patterns than PostgreSQL's.
fn check_function(function: &Function) -> Result<(), SqlError> {
    let name = function.name.to_string().to_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    let count = match &function.args {
        FunctionArguments::List(list) => list.args.len(),
        FunctionArguments::None | FunctionArguments::Subquery(_) => 0,
    };
    match name {
        "to_char" => Err(SqlError::unsupported("to_char")),
        "to_date" | "to_timestamp" if count > 1 => Err(SqlError::unsupported(&format!("{name} with a pattern"))),
        _ => Ok(()),
    }
}

fn with_arguments(name: &str, function: &Function) -> Option<Expr> {
    match name {
        "row" => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let column = |argument: &FunctionArg| match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                _ => None,
            };
            list.args.iter().map(column).collect::<Option<Vec<_>>>().map(Expr::Tuple)
        }
        "sign" => Some(renamed(function, "signum")),
        "variance" => Some(renamed(function, "var_samp")),
        "every" => Some(renamed(function, "bool_and")),
        "encode" => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let [bytes, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(format)))] = &list.args[..] else {
                return None;
            };
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(bytes)) = bytes else { return None };
            let is_base64 =
                matches!(&format.value, Value::SingleQuotedString(name) if name.eq_ignore_ascii_case("base64"));
            is_base64.then(|| call("encode", vec![bytes.clone(), string("base64pad")]))
        }
        "to_timestamp" => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(seconds))] = &list.args[..] else { return None };
            let seconds = cast_to(seconds.clone(), ElementType::Double.into());
            let million = Expr::Value(Value::Number("1000000".to_owned(), false).into());
            let micros = cast_to(operation(seconds, BinaryOperator::Multiply, million), ElementType::BigInt.into());
            Some(cast_to(call("to_timestamp_micros", vec![micros]), ElementType::TimestampTz(6).into()))
        }
        "mod" => {
            let FunctionArguments::List(list) = &function.args else { return None };
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(left)), FunctionArg::Unnamed(FunctionArgExpr::Expr(right))] =
                &list.args[..]
            else {
                return None;
            };
            Some(nested(operation(nested(left.clone()), BinaryOperator::Modulo, nested(right.clone()))))
        }
        _ => None,
    }
}

/// `sum(x) FILTER (WHERE …)` with an x that is computed only where it is wanted: the planner computes it for all rows.
fn filtered(function: &Function) -> Option<Expr> {
    const IGNORING_NULL: [&str; 16] = [
        "sum",
        "avg",
        "min",
        "max",
        "count",
        "bool_and",
        "bool_or",
        "stddev",
        "stddev_pop",
        "stddev_samp",
        "var_pop",
        "var_samp",
        "var",
        "bit_and",
        "bit_or",
        "bit_xor",
    ];
    let filter = function.filter.as_ref()?;
    let name = function.name.to_string().to_lowercase();
    let FunctionArguments::List(list) = &function.args else { return None };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = &list.args[..] else { return None };
    let is_plain =
        matches!(argument, Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) | Expr::Case { .. });
    if is_plain || !IGNORING_NULL.contains(&name.as_str()) {
        return None;
    }
    let case = Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition: (**filter).clone(), result: argument.clone() }],
        else_result: None,
    };
    let args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(case))];
    let list = FunctionArgumentList { args, ..list.clone() };
    Some(Expr::Function(Function { args: FunctionArguments::List(list), ..function.clone() }))
}

fn renamed(function: &Function, name: &str) -> Expr {
    Expr::Function(Function { name: ObjectName::from(vec![Ident::new(name)]), ..function.clone() })
}

/// A number with an exponent, written out; a `double precision` where it has more than 38 digits.
fn number(digits: &str) -> Result<Expr, SqlError> {
    let exact = parse_decimal(digits).map(|(unscaled, scale)| {
        let mut text = String::new();
        let numeric = ElementType::Numeric { precision: 38, scale };
        write_text(numeric.into(), highwater_log::value::Value::Numeric(unscaled), &mut text).map(|()| text)
    });
    match exact {
        Some(text) => Ok(Expr::Value(Value::Number(text?, false).into())),
        None => Ok(cast_to(string(digits), ElementType::Double.into())),
    }
}

fn named(function: &Function, name: &str) -> Function {
    let arguments = FunctionArgumentList { duplicate_treatment: None, args: Vec::new(), clauses: Vec::new() };
    Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        args: FunctionArguments::List(arguments),
        ..function.clone()
    }
}

fn cast(expr: Expr, data_type: &DataType) -> Result<Expr, SqlError> {
    Ok(cast_to(expr, sql_type::column_type(data_type)?))
}

fn cast_to(expr: Expr, column_type: ColumnType) -> Expr {
    call(CAST, vec![expr, string(&column_type.to_string())])
}

/// `INTERVAL '1 day'`, `INTERVAL '1' DAY`.
fn interval_call(interval: &Interval) -> Result<Expr, SqlError> {
    let interval_type = ColumnType::Scalar(ElementType::Interval);
    if interval.last_field.is_some() || interval.leading_precision.is_some() {
        return Err(SqlError::unsupported("an interval with a range of fields or a precision"));
    }
    let Expr::Value(value) = &*interval.value else {
        return Err(SqlError::unsupported("an interval of an expression (multiply an interval instead)"));
    };
    let text = value.value.clone().into_string().unwrap_or_else(|| value.value.to_string());
    let text = match &interval.leading_field {
        None => text,
        Some(
            field @ (DateTimeField::Year
            | DateTimeField::Month
            | DateTimeField::Day
            | DateTimeField::Hour
            | DateTimeField::Minute
            | DateTimeField::Second),
        ) => format!("{text} {field}"),
        Some(field) => return Err(SqlError::unsupported(&format!("an interval in {field}"))),
    };
    Ok(cast_to(string(&text), interval_type))
}

/// A part of a statement as text that reads back as the same: the parser has taken its quotes out of their doubling, and its own way
/// of writing them out guesses whether it has.
pub(crate) fn written<N: VisitMut + Clone + std::fmt::Display>(node: &N) -> String {
    let mut node = node.clone();
    let _: ControlFlow<()> = node.visit(&mut QuoteDoubler);
    node.to_string()
}

struct QuoteDoubler;

impl VisitorMut for QuoteDoubler {
    type Break = ();

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        match &mut value.value {
            Value::SingleQuotedString(text) => *text = text.replace('\'', "''"),
            // Whatever its spelling was, it is this text.
            Value::EscapedStringLiteral(text) => value.value = Value::SingleQuotedString(text.replace('\'', "''")),
            Value::DollarQuotedString(text) => value.value = Value::SingleQuotedString(text.value.replace('\'', "''")),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// A text literal.
pub(crate) fn string(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).into())
}

/// A call of a function by name.
pub(crate) fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
