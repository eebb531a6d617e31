//! Changes of the row that a key names, and rows of plain values.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use highwater_log::key::HeadKey;
use highwater_log::value::{ColumnType, ElementType, Excess, OwnedValue, Value};
use highwater_materializers::Table;

use super::Written;
use super::operand::Operand;
use super::shape::{Shape, Verb, last_part};
use super::single::{Found, Single};
use crate::cast::convert;
use crate::dml::{default_expression, encode_values};
use crate::error::SqlError;
use crate::names::folded;
use crate::parameter::{Parameter, parameter_place};
use crate::rows::SeenRow;
use crate::transaction::{RowChange, Transaction};

pub(super) enum Write {
    /// Rows, each with a value for every place of the layout.
    Insert(Vec<Vec<Operand>>),
    Update {
        single: Single,
        sets: Vec<Set>,
    },
    Delete(Single),
}

/// What a column becomes.
pub(super) struct Set {
    /// Its place in the layout.
    place: usize,
    column_type: ColumnType,
    to: To,
}

enum To {
    Value(Operand),
    /// A number more, or less, than another column holds.
    Moved {
        from: usize,
        from_type: ColumnType,
        is_less: bool,
        by: By,
    },
}

/// A whole number.
enum By {
    Known(i64),
    Parameter(usize),
}

impl Write {
    pub(super) fn of(shape: &Shape<'_>, table: &Table) -> Option<Self> {
        match &shape.verb {
            Verb::Select { .. } => None,
            Verb::Insert { columns, rows } => {
                let names = columns.iter().map(|name| last_part(name).map(folded)).collect::<Option<Vec<_>>>()?;
                let width = rows.rows.first()?.content.len();
                if rows.rows.iter().any(|row| row.content.len() != width) {
                    return None;
                }
                let template = Template::of(table, &names, width)?;
                let rows = rows.rows.iter().map(|row| template.row(&row.content));
                rows.collect::<Option<Vec<_>>>().map(Self::Insert)
            }
            Verb::Update { assignments, equals } => {
                let mut sets: Vec<Set> = Vec::with_capacity(assignments.len());
                for (name, value) in assignments {
                    let set = Set::of(shape, table, &folded(last_part(name)?), value)?;
                    if sets.iter().any(|known| known.place == set.place) {
                        return None;
                    }
                    sets.push(set);
                }
                Some(Self::Update { single: Single::of(shape, equals, table)?, sets })
            }
            Verb::Delete { equals } => Single::of(shape, equals, table).map(Self::Delete),
        }
    }

    /// Whether the values are of the key's types, where a key is asked for.
    pub(super) fn is_fitting(&self, parameters: &[Parameter]) -> bool {
        match self {
            Self::Insert(_) => true,
            Self::Update { single, .. } | Self::Delete(single) => single.key(parameters).is_some(),
        }
    }

    pub(super) fn apply(
        &self,
        table: &Arc<Table>,
        transaction: &mut Transaction,
        parameters: &[Parameter],
    ) -> Result<Option<Written>, SqlError> {
        let (tag, changes) = match self {
            Self::Insert(rows) => {
                let mut changes = Vec::with_capacity(rows.len());
                for row in rows {
                    let Some(after) = inserted(table, row, parameters) else { return Ok(None) };
                    changes.push(RowChange::Insert { after });
                }
                ("INSERT 0", changes)
            }
            Self::Update { single, sets } => {
                let Some(changes) = updated(table, transaction, single, sets, parameters)? else { return Ok(None) };
                ("UPDATE", changes)
            }
            Self::Delete(single) => match single.row(table, transaction.source_ref(), parameters)? {
                Found::Unknown => return Ok(None),
                Found::Nothing => ("DELETE", Vec::new()),
                Found::Row(key, _) => ("DELETE", vec![RowChange::Delete { key: key.bytes().clone() }]),
            },
        };
        let count = if changes.is_empty() { 0 } else { transaction.write(table, changes)? };
        Ok(Some(Written { tag, count }))
    }
}

/// How rows of VALUES become rows of a table.
struct Template {
    /// For each place of the layout what stands there where nothing is said.
    operands: Vec<Operand>,
    /// For each value of a row, its place in the layout and the column's type.
    places: Vec<(usize, ColumnType)>,
}

impl Template {
    /// For rows of so many values for the columns of these names; without names, for the first columns.
    fn of(table: &Table, names: &[String], width: usize) -> Option<Self> {
        let columns = &table.schema().columns;
        let is_wide_enough = if names.is_empty() { width <= columns.len() } else { width == names.len() };
        if !is_wide_enough {
            return None;
        }
        let mut operands: Vec<Operand> = (0..table.layout().columns().len()).map(|_| Operand::Known(None)).collect();
        let mut places: Vec<Option<(usize, ColumnType)>> = vec![None; width];
        for (declared, column) in columns.iter().enumerate() {
            let place = table.layout().index_of(column.id)?;
            let at = match names {
                [] => Some(declared).filter(|at| *at < width),
                names => names.iter().position(|name| *name == column.name),
            };
            match at {
                Some(at) => places[at] = Some((place, column.column_type)),
                None => {
                    let default = default_expression(table, declared).ok()?;
                    operands[place] = Operand::of_assignment(&default, column.column_type)?;
                }
            }
        }
        // A name that is none, or is there twice, has found no column.
        Some(Self { operands, places: places.into_iter().collect::<Option<_>>()? })
    }

    /// What a row says of every column, in the order of the layout.
    fn row(&self, row: &[Expr]) -> Option<Vec<Operand>> {
        let mut operands = self.operands.clone();
        for ((place, column_type), value) in self.places.iter().zip(row) {
            operands[*place] = Operand::of_assignment(value, *column_type)?;
        }
        Some(operands)
    }
}

/// A row's bytes; `None`: the planner is to say what is wrong with it.
fn inserted(table: &Table, row: &[Operand], parameters: &[Parameter]) -> Option<Vec<u8>> {
    let types = table.layout().columns().iter().map(|(_, column_type)| *column_type);
    let values = row.iter().zip(types).map(|(operand, column_type)| operand.assigned(parameters, column_type));
    let values = values.collect::<Option<Vec<_>>>()?;
    let values: Vec<Option<Value<'_>>> = values.iter().map(|value| value.as_ref().map(OwnedValue::as_value)).collect();
    encode_values(table, &values).ok()
}

/// The change that an UPDATE makes, if there is such a row; `None`: the planner is to say what is wrong with it.
fn updated(
    table: &Table,
    transaction: &Transaction,
    single: &Single,
    sets: &[Set],
    parameters: &[Parameter],
) -> Result<Option<Vec<RowChange>>, SqlError> {
    let (key, row): (HeadKey, SeenRow) = match single.row(table, transaction.source_ref(), parameters)? {
        Found::Unknown => return Ok(None),
        // A value that is none of its column's is an error whether there is a row or not.
        Found::Nothing if sets.iter().all(|set| set.is_known_to_fit(parameters)) => return Ok(Some(Vec::new())),
        Found::Nothing => return Ok(None),
        Found::Row(key, row) => (key, row),
    };
    let view = row.view(table)?;
    let current = view.values()?;
    let new = sets.iter().map(|set| set.value(&current, parameters)).collect::<Option<Vec<_>>>();
    let Some(new) = new else { return Ok(None) };
    let mut values = current;
    for (set, value) in sets.iter().zip(&new) {
        values[set.place] = value.as_ref().map(OwnedValue::as_value);
    }
    let Ok(after) = encode_values(table, &values) else { return Ok(None) };
    Ok(Some(vec![RowChange::Update { key: key.bytes().clone(), after }]))
}

impl Set {
    fn of(shape: &Shape<'_>, table: &Table, name: &str, value: &Expr) -> Option<Self> {
        let column_of = |name: &str| {
            let column = table.schema().columns.iter().find(|column| column.name == name)?;
            Some((table.layout().index_of(column.id)?, column.column_type))
        };
        let (place, column_type) = column_of(name)?;
        if let Some(operand) = Operand::of_assignment(value, column_type) {
            return Some(Self { place, column_type, to: To::Value(operand) });
        }
        let Expr::BinaryOp { left, op: op @ (BinaryOperator::Plus | BinaryOperator::Minus), right } = value else {
            return None;
        };
        let (from, from_type) = column_of(&shape.column(left)?)?;
        let is_number = |column_type| {
            use ElementType::{BigInt, Integer, Numeric, SmallInt};
            matches!(column_type, ColumnType::Scalar(SmallInt | Integer | BigInt | Numeric { .. }))
        };
        let by = match (parameter_place(right), Parameter::of_literal(right)) {
            (Some(place), _) => By::Parameter(place),
            (None, Some(Parameter::Int(by))) => By::Known(by),
            _ => return None,
        };
        let is_less = matches!(op, BinaryOperator::Minus);
        let is_of_numbers = is_number(from_type) && is_number(column_type);
        is_of_numbers.then_some(Self { place, column_type, to: To::Moved { from, from_type, is_less, by } })
    }

    /// Whether its value fits the column whatever the row holds.
    fn is_known_to_fit(&self, parameters: &[Parameter]) -> bool {
        match &self.to {
            To::Value(operand) => operand.assigned(parameters, self.column_type).is_some(),
            To::Moved { by, .. } => by.number(parameters).is_some(),
        }
    }

    /// Its value; `None`: the planner is to say.
    fn value(&self, current: &[Option<Value<'_>>], parameters: &[Parameter]) -> Option<Option<OwnedValue>> {
        match &self.to {
            To::Value(operand) => operand.assigned(parameters, self.column_type),
            To::Moved { from, from_type, is_less, by } => {
                let by = by.number(parameters)?;
                let Some(value) = current[*from] else { return Some(None) };
                let moved = moved(value, *from_type, if *is_less { by.checked_neg()? } else { by })?;
                let (value, from_type) = moved;
                convert(OwnedValue::Plain(value), from_type, self.column_type, Excess::Refused).ok().map(Some)
            }
        }
    }
}

impl By {
    fn number(&self, parameters: &[Parameter]) -> Option<i64> {
        match self {
            Self::Known(by) => Some(*by),
            Self::Parameter(place) => match parameters.get(*place)? {
                Parameter::Int(by) => Some(*by),
                _ => None,
            },
        }
    }
}

/// A number of a column and a whole number, added; `None`: the sum is none of its type.
fn moved(value: Value<'_>, column_type: ColumnType, by: i64) -> Option<(Value<'static>, ColumnType)> {
    let whole = |value: i64| Some((Value::BigInt(value.checked_add(by)?), ElementType::BigInt.into()));
    match (value, column_type) {
        (Value::SmallInt(value), _) => whole(value.into()),
        (Value::Integer(value), _) => whole(value.into()),
        (Value::BigInt(value), _) => whole(value),
        (Value::Numeric(unscaled), ColumnType::Scalar(ElementType::Numeric { scale, .. })) => {
            let by = i128::from(by).checked_mul(10_i128.checked_pow(scale.into())?)?;
            let sum = unscaled.checked_add(by).filter(|sum| sum.unsigned_abs() < 10_u128.pow(38))?;
            Some((Value::Numeric(sum), ElementType::Numeric { precision: 38, scale }.into()))
        }
        _ => None,
    }
}
