//! `sum` of integers and decimals that fails where the result does not fit; DataFusion's wraps around.
//!
//! Sums are kept in 128 bits. Those of integers overflow only as results: an intermediate sum beyond 64 bits is none.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, ListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, Int64Type};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, Signature,
};

use crate::error::SqlError;
use crate::sqlstate;

/// DataFusion's `sum`, checked.
pub(super) fn sum_function(inner: Arc<AggregateUDF>) -> AggregateUDF {
    CheckedSum { inner }.into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedSum {
    inner: Arc<AggregateUDF>,
}

/// Whether sums of this type are ours.
fn is_exact(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Int64 | DataType::Decimal128(..))
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>, DataFusionError> {
        let data_type = args.return_field.data_type();
        if !is_exact(data_type) {
            return self.inner.accumulator(args);
        }
        Ok(match args.is_distinct {
            true => Box::new(DistinctSum { data_type: data_type.clone(), values: HashSet::new() }),
            false => Box::new(Sum::new(data_type.clone())),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>, DataFusionError> {
        if args.is_distinct || !is_exact(args.return_field.data_type()) {
            return self.inner.create_sliding_accumulator(args);
        }
        Ok(Box::new(Sum::new(args.return_field.data_type().clone())))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>, DataFusionError> {
        let data_type = args.return_field.data_type();
        if !is_exact(data_type) {
            return self.inner.create_groups_accumulator(args);
        }
        Ok(Box::new(GroupSums { data_type: data_type.clone(), sums: Vec::new() }))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>, DataFusionError> {
        let data_type = args.return_field.data_type().clone();
        if !is_exact(&data_type) {
            return self.inner.state_fields(args);
        }
        let state = state_type(&data_type);
        Ok(match args.is_distinct {
            true => vec![Field::new_list("values", Field::new_list_field(state, true), false).into()],
            false => vec![Field::new("sum", state, true).into(), Field::new("count", DataType::Int64, false).into()],
        })
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }
}

/// A sum that is not complete, in 128 bits whatever is summed.
fn state_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Decimal128(_, scale) => DataType::Decimal128(38, *scale),
        _ => DataType::Decimal128(38, 0),
    }
}

/// Visits the values that are not NULL.
fn for_each(
    values: &ArrayRef,
    mut visit: impl FnMut(usize, i128) -> Result<(), SqlError>,
) -> Result<(), DataFusionError> {
    let mut visit_row = |row: usize, value: i128| match values.is_valid(row) {
        true => visit(row, value).map_err(SqlError::into_datafusion),
        false => Ok(()),
    };
    if let Some(integers) = values.as_primitive_opt::<Int64Type>() {
        return integers.values().iter().enumerate().try_for_each(|(row, value)| visit_row(row, i128::from(*value)));
    }
    let decimals = values.as_primitive::<Decimal128Type>();
    decimals.values().iter().enumerate().try_for_each(|(row, value)| visit_row(row, *value))
}

fn add(sum: &mut i128, value: i128) -> Result<(), SqlError> {
    *sum = sum.checked_add(value).ok_or_else(|| out_of_range("numeric"))?;
    Ok(())
}

fn out_of_range(data_type: &str) -> SqlError {
    SqlError::new(sqlstate::NUMERIC_VALUE_OUT_OF_RANGE, format!("sum: {data_type} out of range"))
}

/// Sums as an array of the result's type.
fn results(data_type: &DataType, sums: impl Iterator<Item = Option<i128>>) -> Result<ArrayRef, DataFusionError> {
    let DataType::Decimal128(precision, scale) = data_type else {
        let narrow = |sum: i128| i64::try_from(sum).map_err(|_| out_of_range("bigint").into_datafusion());
        let sums = sums.map(|sum| sum.map(narrow).transpose());
        return Ok(Arc::new(sums.collect::<Result<Int64Array, DataFusionError>>()?));
    };
    let fits = |sum: i128| match sum.unsigned_abs() < DIGITS_END {
        true => Ok(sum),
        false => Err(out_of_range("numeric").into_datafusion()),
    };
    let sums = sums.map(|sum| sum.map(fits).transpose()).collect::<Result<Decimal128Array, DataFusionError>>()?;
    Ok(Arc::new(sums.with_precision_and_scale(*precision, *scale)?))
}

fn states(data_type: &DataType, sums: impl Iterator<Item = Option<i128>>) -> ArrayRef {
    Arc::new(sums.collect::<Decimal128Array>().with_data_type(state_type(data_type)))
}

/// The sum of all values, or of those in a window.
#[derive(Debug)]
struct Sum {
    data_type: DataType,
    sum: i128,
    count: i64,
}

impl Sum {
    const fn new(data_type: DataType) -> Self {
        Self { data_type, sum: 0, count: 0 }
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<(), DataFusionError> {
        self.count += (values[0].len() - values[0].null_count()) as i64;
        for_each(&values[0], |_, value| add(&mut self.sum, value))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<(), DataFusionError> {
        self.count -= (values[0].len() - values[0].null_count()) as i64;
        for_each(&values[0], |_, value| add(&mut self.sum, -value))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue, DataFusionError> {
        let sum = (self.count > 0).then_some(self.sum);
        ScalarValue::try_from_array(&results(&self.data_type, std::iter::once(sum))?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>, DataFusionError> {
        let sum = states(&self.data_type, std::iter::once(Some(self.sum)));
        Ok(vec![ScalarValue::try_from_array(&sum, 0)?, ScalarValue::Int64(Some(self.count))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<(), DataFusionError> {
        self.count += states[1].as_primitive::<Int64Type>().values().iter().sum::<i64>();
        for_each(&states[0], |_, sum| add(&mut self.sum, sum))
    }
}

/// The sum of the different ones of all values.
#[derive(Debug)]
struct DistinctSum {
    data_type: DataType,
    values: HashSet<i128>,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<(), DataFusionError> {
        for_each(&values[0], |_, value| {
            self.values.insert(value);
            Ok(())
        })
    }

    fn evaluate(&mut self) -> Result<ScalarValue, DataFusionError> {
        let mut sum = 0;
        self.values.iter().try_for_each(|value| add(&mut sum, *value)).map_err(SqlError::into_datafusion)?;
        let sum = (!self.values.is_empty()).then_some(sum);
        ScalarValue::try_from_array(&results(&self.data_type, std::iter::once(sum))?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<i128>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>, DataFusionError> {
        let values = states(&self.data_type, self.values.iter().copied().map(Some));
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([values.len()]);
        Ok(vec![ScalarValue::List(Arc::new(ListArray::try_new(item, offsets, values, None)?))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<(), DataFusionError> {
        let lists = states[0].as_list::<i32>();
        lists.iter().flatten().try_for_each(|values| self.update_batch(&[values]))
    }
}

/// A sum for each group.
struct GroupSums {
    data_type: DataType,
    /// With how many values are in it.
    sums: Vec<(i128, i64)>,
}

impl GroupsAccumulator for GroupSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        group_count: usize,
    ) -> Result<(), DataFusionError> {
        self.sums.resize(group_count, (0, 0));
        for_each(&values[0], |row, value| {
            if filter.is_some_and(|filter| filter.is_null(row) || !filter.value(row)) {
                return Ok(());
            }
            let (sum, count) = &mut self.sums[groups[row]];
            *count += 1;
            add(sum, value)
        })
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef, DataFusionError> {
        let sums = emit.take_needed(&mut self.sums);
        results(&self.data_type, sums.into_iter().map(|(sum, count)| (count > 0).then_some(sum)))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>, DataFusionError> {
        let sums = emit.take_needed(&mut self.sums);
        let counts = sums.iter().map(|(_, count)| *count).collect::<Vec<_>>();
        Ok(vec![
            states(&self.data_type, sums.into_iter().map(|(sum, _)| Some(sum))),
            Arc::new(Int64Array::from(counts)),
        ])
    }

    fn merge_batch(
        &mut self,
        states: &[ArrayRef],
        groups: &[usize],
        group_count: usize,
    ) -> Result<(), DataFusionError> {
        self.sums.resize(group_count, (0, 0));
        let counts = states[1].as_primitive::<Int64Type>();
        for_each(&states[0], |row, value| {
            let (sum, count) = &mut self.sums[groups[row]];
            *count += counts.value(row);
            add(sum, value)
        })
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>, DataFusionError> {
        let is_passed = |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
        let mut sums = vec![(0, 0); values[0].len()];
        for_each(&values[0], |row, value| {
            if is_passed(row) {
                sums[row] = (value, 1);
            }
            Ok(())
        })?;
        let counts = Int64Array::new(sums.iter().map(|(_, count)| *count).collect(), None::<NullBuffer>);
        Ok(vec![states(&self.data_type, sums.into_iter().map(|(sum, _)| Some(sum))), Arc::new(counts)])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<(i128, i64)>()
    }
}

/// The first number of 39 digits.
const DIGITS_END: u128 = 10_u128.pow(38);

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn sums_of_groups_are_those_of_their_parts_merged() {
        let groups = || GroupSums { data_type: DataType::Int64, sums: Vec::new() };
        let mut whole = groups();
        let values = integers(&[Some(i64::MAX), None, Some(5), Some(i64::MAX), Some(-i64::MAX), None]);
        let places = [0, 1, 2, 0, 0, 1];
        whole.update_batch(&[Arc::clone(&values)], &places, None, 4).unwrap();
        let mut merged = groups();
        let mut part = groups();
        part.update_batch(&[values.slice(0, 3)], &places[..3], None, 3).unwrap();
        merged.merge_batch(&part.state(EmitTo::All).unwrap(), &[0, 1, 2], 4).unwrap();
        let states = groups().convert_to_state(&[values.slice(3, 3)], None).unwrap();
        merged.merge_batch(&states, &places[3..], 4).unwrap();
        let expected = integers(&[Some(i64::MAX), None, Some(5), None]);
        assert_eq!(&whole.evaluate(EmitTo::All).unwrap(), &expected);
        assert_eq!(&merged.evaluate(EmitTo::First(2)).unwrap(), &expected.slice(0, 2));
        assert_eq!(&merged.evaluate(EmitTo::All).unwrap(), &expected.slice(2, 2));
    }

    #[test]
    fn a_filter_that_is_null_lets_nothing_pass() {
        let mut sums = GroupSums { data_type: DataType::Int64, sums: Vec::new() };
        let filter = BooleanArray::from(vec![Some(true), None, Some(false)]);
        let values = integers(&[Some(1), Some(2), Some(4)]);
        sums.update_batch(&[Arc::clone(&values)], &[0, 0, 0], Some(&filter), 1).unwrap();
        let states = sums.convert_to_state(&[values], Some(&filter)).unwrap();
        sums.merge_batch(&states, &[0, 0, 0], 1).unwrap();
        assert_eq!(&sums.evaluate(EmitTo::All).unwrap(), &integers(&[Some(2)]));
    }

    #[test]
    fn a_window_may_leave_values_and_a_sum_be_merged() {
        let mut sum = Sum::new(DataType::Int64);
        sum.update_batch(&[integers(&[Some(i64::MAX), Some(i64::MAX), None])]).unwrap();
        assert!(sum.evaluate().is_err(), "beyond bigint");
        sum.retract_batch(&[integers(&[Some(i64::MAX), None])]).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(i64::MAX)));
        let state = sum.state().unwrap();
        let state: Vec<ArrayRef> = state.iter().map(|value| value.to_array().unwrap()).collect();
        let mut other = Sum::new(DataType::Int64);
        assert_eq!(other.evaluate().unwrap(), ScalarValue::Int64(None));
        other.update_batch(&[integers(&[Some(-1)])]).unwrap();
        other.merge_batch(&state).unwrap();
        assert_eq!(other.evaluate().unwrap(), ScalarValue::Int64(Some(i64::MAX - 1)));
        other.retract_batch(&[integers(&[Some(-1)])]).unwrap();
        other.retract_batch(&[integers(&[Some(i64::MAX)])]).unwrap();
        assert_eq!(other.evaluate().unwrap(), ScalarValue::Int64(None), "of nothing");
    }

    #[test]
    fn a_sum_of_different_values_is_merged_from_parts_that_overlap() {
        let distinct = || DistinctSum { data_type: DataType::Int64, values: HashSet::new() };
        let mut parts = [distinct(), distinct()];
        parts[0].update_batch(&[integers(&[Some(1), Some(2), Some(2), None])]).unwrap();
        parts[1].update_batch(&[integers(&[Some(2), Some(3)])]).unwrap();
        let mut merged = distinct();
        assert_eq!(merged.evaluate().unwrap(), ScalarValue::Int64(None));
        for part in &mut parts {
            let state = part.state().unwrap().iter().map(|value| value.to_array().unwrap()).collect::<Vec<_>>();
            merged.merge_batch(&state).unwrap();
        }
        assert_eq!(merged.evaluate().unwrap(), ScalarValue::Int64(Some(6)));
    }

    #[test]
    fn a_decimal_of_39_digits_is_refused() {
        let data_type = DataType::Decimal128(38, 2);
        let largest = Decimal128Array::from(vec![DIGITS_END as i128 - 1, 1]).with_precision_and_scale(38, 2).unwrap();
        let mut sum = Sum::new(data_type.clone());
        let largest: ArrayRef = Arc::new(largest);
        sum.update_batch(&[largest.slice(0, 1)]).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Decimal128(Some(DIGITS_END as i128 - 1), 38, 2));
        sum.update_batch(&[largest.slice(1, 1)]).unwrap();
        assert!(sum.evaluate().is_err());
    }
}
