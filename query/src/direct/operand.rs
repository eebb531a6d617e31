//! Values in a statement that goes round the planner: given in it, or by a parameter.

use datafusion::sql::sqlparser::ast::{Expr, Value as Literal};
use highwater_log::value::{ColumnType, ElementType, Excess, OwnedValue, Value, parse_text};

use crate::dml::literal_value;
use crate::parameter::{Parameter, parameter_place};

/// A value of a column, or what gives it.
#[derive(Clone)]
pub(super) enum Operand {
    /// It is known; `None`: NULL.
    Known(Option<OwnedValue>),
    /// The parameter at this place, from 0.
    Parameter(usize),
}

impl Operand {
    /// What a column is compared with.
    pub(super) fn of_comparison(expr: &Expr, column_type: ColumnType) -> Option<Self> {
        match parameter_place(expr) {
            Some(place) => Some(Self::Parameter(place)),
            None => compared(&Parameter::of_literal(expr)?, column_type).map(Self::Known),
        }
    }

    /// What a column is set to.
    pub(super) fn of_assignment(expr: &Expr, column_type: ColumnType) -> Option<Self> {
        match parameter_place(expr) {
            Some(place) => Some(Self::Parameter(place)),
            None => match Parameter::of_literal(expr) {
                Some(literal) => assigned(&literal, column_type).map(Self::Known),
                // A decimal is rounded once on its way into a float, or twice.
                None if is_float(column_type) => None,
                None => literal_value(expr, column_type, "")?.ok().map(Self::Known),
            },
        }
    }

    /// The value to compare with; `None`: it is the planner's to say.
    pub(super) fn compared(&self, parameters: &[Parameter], column_type: ColumnType) -> Option<Option<OwnedValue>> {
        match self {
            Self::Known(value) => Some(value.clone()),
            Self::Parameter(place) => compared(parameters.get(*place)?, column_type),
        }
    }

    /// The value to be set; `None`: it is the planner's to say.
    pub(super) fn assigned(&self, parameters: &[Parameter], column_type: ColumnType) -> Option<Option<OwnedValue>> {
        match self {
            Self::Known(value) => Some(value.clone()),
            Self::Parameter(place) => assigned(parameters.get(*place)?, column_type),
        }
    }
}

const fn is_float(column_type: ColumnType) -> bool {
    matches!(column_type, ColumnType::Scalar(ElementType::Real | ElementType::Double))
}

/// A value that equals in the column's type what it equals as it was given.
fn compared(parameter: &Parameter, column_type: ColumnType) -> Option<Option<OwnedValue>> {
    let ColumnType::Scalar(element) = column_type else { return None };
    let plain = |value| Some(Some(OwnedValue::Plain(value)));
    match (parameter, element) {
        (Parameter::Null, _) => Some(None),
        (Parameter::Bool(value), ElementType::Boolean) => plain(Value::Boolean(*value)),
        (Parameter::Int(value), ElementType::SmallInt) => plain(Value::SmallInt((*value).try_into().ok()?)),
        (Parameter::Int(value), ElementType::Integer) => plain(Value::Integer((*value).try_into().ok()?)),
        (Parameter::Int(value), ElementType::BigInt) => plain(Value::BigInt(*value)),
        (Parameter::Bytes(bytes), ElementType::Bytea) => Some(Some(OwnedValue::Bytea(bytes.clone()))),
        (Parameter::Text(text), ElementType::Text | ElementType::Varchar(_)) if !text.contains('\0') => {
            Some(Some(OwnedValue::Text(text.clone())))
        }
        (
            Parameter::Text(text),
            ElementType::Boolean
            | ElementType::SmallInt
            | ElementType::Integer
            | ElementType::BigInt
            | ElementType::Uuid
            | ElementType::Date
            | ElementType::Bytea,
        ) => parse_text(column_type, text, Excess::Refused).ok().map(Some),
        // The column's digits of a second do not round what it is compared with.
        (Parameter::Text(text), ElementType::Timestamp(_)) => of_moment(text, ElementType::Timestamp(6)),
        (Parameter::Text(text), ElementType::TimestampTz(_)) => of_moment(text, ElementType::TimestampTz(6)),
        _ => None,
    }
}

fn of_moment(text: &str, element: ElementType) -> Option<Option<OwnedValue>> {
    parse_text(element.into(), text, Excess::Refused).ok().map(Some)
}

/// The value that a column holds which it is assigned to.
fn assigned(parameter: &Parameter, column_type: ColumnType) -> Option<Option<OwnedValue>> {
    let plain = |value| Some(Some(OwnedValue::Plain(value)));
    match (parameter, column_type) {
        (Parameter::Null, _) => Some(None),
        (Parameter::Int(value), ColumnType::Scalar(ElementType::BigInt)) => plain(Value::BigInt(*value)),
        (Parameter::Double(value), ColumnType::Scalar(ElementType::Double)) => plain(Value::Double(*value)),
        (Parameter::Bytes(bytes), ColumnType::Scalar(ElementType::Bytea)) => {
            Some(Some(OwnedValue::Bytea(bytes.clone())))
        }
        (Parameter::Text(text), _) if !text.contains('\0') => {
            parse_text(column_type, text, Excess::Refused).ok().map(Some)
        }
        // A larger one is rounded once on its way into a real, or twice.
        (Parameter::Int(value), ColumnType::Scalar(ElementType::Real)) if value.unsigned_abs() > 1 << 24 => None,
        (Parameter::Int(value), _) => {
            let digits = Literal::Number(value.to_string(), false);
            literal_value(&Expr::Value(digits.into()), column_type, "")?.ok()
        }
        (Parameter::Bool(value), _) => {
            literal_value(&Expr::Value(Literal::Boolean(*value).into()), column_type, "")?.ok()
        }
        _ => None,
    }
}
