//! Parameters of statements: `$1`, `$2`, …, and the values that are given for them.
//!
//! A value stands where its parameter stood as a literal would: `bind` writes it into the statement's tree, never into its text. So a
//! text takes the type of what it meets, as PostgreSQL's parameters of no declared type do.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Ident, LimitClause, OrderByKind, Query, Select, SelectItem, Statement, UnaryOperator,
    Value as Literal, ValueWithSpan, VisitMut, VisitorMut,
};
use highwater_log::value::{ColumnType, ElementType, Value, write_text};

use crate::cast::CAST;
use crate::error::SqlError;
use crate::rewrite::{call, null, string};
use crate::sqlstate;

/// What stands for one parameter of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// NULL.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number without a fraction, as a literal: it fits any column of numbers that it fits into.
    Int(i64),
    /// A `double precision`.
    Double(f64),
    /// A `bytea`.
    Bytes(Vec<u8>),
    /// A text, as a quoted literal: it takes the type of what it meets, in that type's own text form.
    Text(String),
    /// A value of this type, in its text form.
    Typed {
        /// The value as text.
        text: String,
        /// Its type.
        column_type: ColumnType,
    },
}

impl Parameter {
    /// The value of a literal, if the expression is one that a parameter can be.
    pub(crate) fn of_literal(expr: &Expr) -> Option<Self> {
        match expr {
            Expr::Value(value) => match &value.value {
                Literal::Null => Some(Self::Null),
                Literal::Boolean(value) => Some(Self::Bool(*value)),
                Literal::Number(digits, false) => digits.parse().ok().map(Self::Int),
                Literal::SingleQuotedString(text) | Literal::EscapedStringLiteral(text) => {
                    Some(Self::Text(text.clone()))
                }
                _ => None,
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match Self::of_literal(expr)? {
                // −0 and numbers that are signed twice are the planner's.
                Self::Int(value) if value > 0 => Some(Self::Int(-value)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The bytes of a value that has any outside itself.
    const fn byte_len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len() * 2,
            Self::Text(text) | Self::Typed { text, .. } => text.len(),
            _ => 0,
        }
    }

    /// The expression that stands in the parameter's place.
    fn to_expr(&self) -> Result<Expr, SqlError> {
        let literal = |literal: Literal| Expr::Value(literal.into());
        Ok(match self {
            Self::Null => null(),
            Self::Bool(value) => literal(Literal::Boolean(*value)),
            // Its digits without the sign are no `bigint`.
            Self::Int(i64::MIN) => typed(&i64::MIN.to_string(), ElementType::BigInt.into()),
            Self::Int(value) => {
                let digits = literal(Literal::Number(value.unsigned_abs().to_string(), false));
                match value.is_negative() {
                    false => digits,
                    true => Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(digits) })),
                }
            }
            Self::Double(value) => {
                let mut text = String::new();
                write_text(ElementType::Double.into(), Value::Double(*value), &mut text)?;
                typed(&text, ElementType::Double.into())
            }
            Self::Bytes(bytes) => {
                let mut text = String::with_capacity(2 + bytes.len() * 2);
                write_text(ElementType::Bytea.into(), Value::Bytea(bytes), &mut text)?;
                typed(&text, ElementType::Bytea.into())
            }
            Self::Text(text) => string(text),
            Self::Typed { text, column_type } => typed(text, *column_type),
        })
    }

    /// The expression that stands in the parameter's place where a bare number would mean a column.
    fn to_constant(&self) -> Result<Expr, SqlError> {
        match self {
            Self::Int(value) => Ok(typed(&value.to_string(), ElementType::BigInt.into())),
            other => other.to_expr(),
        }
    }

    /// The expression for how many rows are wanted or passed over.
    fn to_row_count(&self) -> Result<Expr, SqlError> {
        let count = match self {
            Self::Text(text) => text.trim().parse().map(Self::Int).map_err(|_| {
                let message = format!("invalid input syntax for type bigint: \"{text}\"");
                SqlError::new(sqlstate::INVALID_TEXT_REPRESENTATION, message)
            })?,
            other => other.clone(),
        };
        // A sign is to be seen by who looks for one.
        Ok(match count.to_expr()? {
            Expr::Nested(signed) => *signed,
            other => other,
        })
    }
}

fn typed(text: &str, column_type: ColumnType) -> Expr {
    call(CAST, vec![string(text), string(&column_type.to_string())])
}

impl From<bool> for Parameter {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i32> for Parameter {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<i64> for Parameter {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Parameter {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl From<&str> for Parameter {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Parameter {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<Vec<u8>> for Parameter {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl<T: Into<Self>> From<Option<T>> for Parameter {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The place of a placeholder's value, from 0; `None`: it is none of `$1` to `$65535`.
pub(crate) fn place_of(placeholder: &str) -> Option<usize> {
    let digits = placeholder.strip_prefix('$')?;
    let number: usize = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    (1..=PARAMETERS_MAX).contains(&number).then(|| number - 1)
}

/// The place of the value that stands for an expression, if it is a parameter.
pub(crate) fn parameter_place(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(value) => match &value.value {
            Literal::Placeholder(placeholder) => place_of(placeholder),
            _ => None,
        },
        Expr::Nested(inner) => parameter_place(inner),
        _ => None,
    }
}

/// There is nothing that stands for this parameter.
pub(crate) fn no_parameter(placeholder: &str) -> SqlError {
    SqlError::new(sqlstate::UNDEFINED_PARAMETER, format!("there is no parameter {placeholder}"))
}

/// Whether as many values are given as a statement has parameters.
///
/// # Errors
/// `08P01`, as PostgreSQL has it.
pub(crate) fn check_count(given: usize, wanted: usize) -> Result<(), SqlError> {
    if given == wanted {
        return Ok(());
    }
    let message = format!("{given} parameters were given, but the statement has {wanted}");
    Err(SqlError::new(sqlstate::PROTOCOL_VIOLATION, message))
}

/// Writes the values into a statement.
///
/// # Errors
/// `42P02` where the statement is none that takes parameters, or has one that there is no value for; `22021` for a zero byte;
/// `22P02` for a number of rows that is none; `54001` where long values stand in many places.
pub(crate) fn bind(statement: &mut Statement, parameters: &[Parameter]) -> Result<(), SqlError> {
    let takes_parameters = matches!(
        statement,
        Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Explain { .. }
    );
    if !takes_parameters {
        return Err(no_parameter("$1"));
    }
    let has_zero = |parameter: &Parameter| match parameter {
        Parameter::Text(text) | Parameter::Typed { text, .. } => text.contains('\0'),
        _ => false,
    };
    if parameters.iter().any(has_zero) {
        return Err(SqlError::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, "a parameter cannot hold a zero byte"));
    }
    let mut binder = Binder { parameters, is_put: vec![false; parameters.len()], repeated_bytes: 0 };
    match statement.visit(&mut binder) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Binder<'a> {
    parameters: &'a [Parameter],
    /// Which stand in the statement already.
    is_put: Vec<bool>,
    /// Of values that stand in one more place.
    repeated_bytes: usize,
}

impl Binder<'_> {
    /// Puts a value in an expression's place, if that is a parameter.
    fn put(&mut self, expr: &mut Expr, form: impl Fn(&Parameter) -> Result<Expr, SqlError>) -> Result<(), SqlError> {
        let Some(place) = parameter_place(expr) else { return Ok(()) };
        let parameter = self.parameters.get(place).ok_or_else(|| no_parameter(&format!("${}", place + 1)))?;
        if std::mem::replace(&mut self.is_put[place], true) {
            self.repeated_bytes += parameter.byte_len();
        }
        if self.repeated_bytes > REPEATED_BYTES_MAX {
            let message = format!(
                "values of parameters that stand in several places have more than {REPEATED_BYTES_MAX} bytes there"
            );
            return Err(SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, message));
        }
        *expr = form(parameter)?;
        Ok(())
    }

    fn bind_query(&mut self, query: &mut Query) -> Result<(), SqlError> {
        if let Some(order_by) = &mut query.order_by
            && let OrderByKind::Expressions(keys) = &mut order_by.kind
        {
            keys.iter_mut().try_for_each(|key| self.put(&mut key.expr, Parameter::to_constant))?;
        }
        if let Some(LimitClause::LimitOffset { limit, offset, .. }) = &mut query.limit_clause {
            let counts = limit.iter_mut().chain(offset.iter_mut().map(|offset| &mut offset.value));
            counts.into_iter().try_for_each(|count| self.put(count, Parameter::to_row_count))?;
        }
        let fetched = query.fetch.iter_mut().filter_map(|fetch| fetch.quantity.as_mut());
        fetched.into_iter().try_for_each(|count| self.put(count, Parameter::to_row_count))
    }

    fn bind_select(&mut self, select: &mut Select) -> Result<(), SqlError> {
        for item in &mut select.projection {
            // What becomes of it has another name.
            if let SelectItem::UnnamedExpr(expr) = item
                && parameter_place(expr).is_some()
            {
                let mut expr = std::mem::replace(expr, null());
                self.put(&mut expr, Parameter::to_expr)?;
                *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', UNNAMED) };
            }
        }
        if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
            keys.iter_mut().try_for_each(|key| self.put(key, Parameter::to_constant))?;
        }
        if let Some(Distinct::On(keys)) = &mut select.distinct {
            keys.iter_mut().try_for_each(|key| self.put(key, Parameter::to_constant))?;
        }
        Ok(())
    }
}

impl VisitorMut for Binder<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        self.bind_query(query).map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        self.bind_select(select).map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        self.put(expr, Parameter::to_expr).map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<SqlError> {
        match &value.value {
            // It is part of something else than an expression.
            Literal::Placeholder(placeholder) => {
                ControlFlow::Break(SqlError::unsupported(&format!("the parameter {placeholder} in this place")))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// How many parameters a statement may have.
pub(crate) const PARAMETERS_MAX: usize = 65_535;
/// Planning takes its time over every byte of a statement, also of one that is short until its values stand in it.
const REPEATED_BYTES_MAX: usize = 1024 * 1024;
/// What PostgreSQL calls a column of no name.
const UNNAMED: &str = "?column?";
