//! The arithmetic of moments and intervals, over all that PostgreSQL's calendar reaches.
//!
//! The rules are those of PostgreSQL's `timestamp_pl_interval`, `timestamp_mi`, `interval_mul` and `interval_div`; DataFusion's
//! calendar knows no infinities, and no years before Christ.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Date32Type, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
};
use datafusion::logical_expr::Operator;
use highwater_log::value::calendar::{
    DATE_DAYS_MAX, DAYS_MIN, TIMESTAMP_DAYS_END, civil_from_days, days_from_civil, days_in_month,
};

use super::arithmetic::INTERVAL;
use crate::error::SqlError;
use crate::sqlstate;

/// What an operator does with a moment or an interval.
#[derive(Clone, Copy)]
pub(super) enum Moments {
    /// A date or timestamp, and an interval or a time of day, in this order or swapped.
    Shift { sign: i64, is_swapped: bool },
    /// From one to the other, as an interval.
    Difference,
    /// A date by a number of days, in this order or swapped.
    ShiftDays { sign: i64, is_swapped: bool },
    /// From one date to the other, in days.
    DifferenceInDays,
    /// An interval by a number, in this order or swapped.
    Scale { is_swapped: bool },
    /// An interval through a number.
    Divide,
}

impl Moments {
    pub(super) fn of(left: &DataType, operator: Operator, right: &DataType) -> Option<Self> {
        let is_timestamp = |data_type: &DataType| matches!(data_type, DataType::Timestamp(..));
        let is_moment = |data_type: &DataType| is_timestamp(data_type) || *data_type == DataType::Date32;
        let is_date = |data_type: &DataType| *data_type == DataType::Date32;
        let is_interval = |data_type: &DataType| matches!(data_type, DataType::Interval(_));
        // A time of day is added to a timestamp like an interval.
        let is_distance = |data_type: &DataType| is_interval(data_type) || matches!(data_type, DataType::Time64(_));
        match operator {
            Operator::Plus if is_moment(left) && is_distance(right) => Some(Self::Shift { sign: 1, is_swapped: false }),
            Operator::Plus if is_distance(left) && is_moment(right) => Some(Self::Shift { sign: 1, is_swapped: true }),
            Operator::Minus if is_moment(left) && is_distance(right) => {
                Some(Self::Shift { sign: -1, is_swapped: false })
            }
            Operator::Minus if is_moment(left) && is_moment(right) && (is_timestamp(left) || is_timestamp(right)) => {
                Some(Self::Difference)
            }
            Operator::Plus if is_date(left) && right.is_integer() => {
                Some(Self::ShiftDays { sign: 1, is_swapped: false })
            }
            Operator::Plus if left.is_integer() && is_date(right) => {
                Some(Self::ShiftDays { sign: 1, is_swapped: true })
            }
            Operator::Minus if is_date(left) && right.is_integer() => {
                Some(Self::ShiftDays { sign: -1, is_swapped: false })
            }
            Operator::Minus if is_date(left) && is_date(right) => Some(Self::DifferenceInDays),
            Operator::Multiply if is_interval(left) && right.is_numeric() => Some(Self::Scale { is_swapped: false }),
            Operator::Multiply if left.is_numeric() && is_interval(right) => Some(Self::Scale { is_swapped: true }),
            Operator::Divide if is_interval(left) && right.is_numeric() => Some(Self::Divide),
            _ => None,
        }
    }

    /// The types that the operands are given in.
    pub(super) fn coerced(self, types: &[DataType]) -> Vec<DataType> {
        let coerced = |data_type: &DataType| match data_type {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
            DataType::Interval(_) => INTERVAL,
            // Not through a timestamp, in which it might not fit.
            DataType::Date32 => DataType::Date32,
            _ if matches!(self, Self::ShiftDays { .. }) => DataType::Int64,
            _ => DataType::Float64,
        };
        types.iter().map(coerced).collect()
    }

    pub(super) fn result(self, types: &[DataType]) -> DataType {
        match self {
            Self::Shift { is_swapped, .. } => match &types[usize::from(is_swapped)] {
                DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
                _ => DataType::Timestamp(TimeUnit::Microsecond, None),
            },
            Self::ShiftDays { .. } => DataType::Date32,
            Self::DifferenceInDays => DataType::Int64,
            Self::Difference | Self::Scale { .. } | Self::Divide => INTERVAL,
        }
    }
}

/// Computes over two arrays of the coerced types and of one length.
pub(super) fn compute(moments: Moments, left: &ArrayRef, right: &ArrayRef) -> Result<ArrayRef, SqlError> {
    let types = [left.data_type().clone(), right.data_type().clone()];
    let rows = 0..left.len();
    match moments {
        Moments::Shift { sign, is_swapped } => {
            let (moment, distance) = if is_swapped { (right, left) } else { (left, right) };
            let (moment, distance) = (micros_of(moment), intervals_of(distance)?);
            let shifted = rows.map(|row| match (moment(row)?, distance.is_valid(row)) {
                (Some(moment), true) => shift(moment, distance.value(row), sign).map(Some),
                _ => Ok(None),
            });
            let shifted = shifted.collect::<Result<PrimitiveArray<TimestampMicrosecondType>, SqlError>>()?;
            Ok(Arc::new(shifted.with_data_type(moments.result(&types))))
        }
        Moments::Difference => {
            let (left, right) = (micros_of(left), micros_of(right));
            let differences = rows.map(|row| match (left(row)?, right(row)?) {
                (Some(left), Some(right)) => difference(left, right).map(Some),
                _ => Ok(None),
            });
            Ok(Arc::new(differences.collect::<Result<PrimitiveArray<IntervalMonthDayNanoType>, SqlError>>()?))
        }
        Moments::ShiftDays { sign, is_swapped } => {
            let (dates, days) = if is_swapped { (right, left) } else { (left, right) };
            let (dates, days) = (dates.as_primitive::<Date32Type>(), days.as_primitive::<Int64Type>());
            let shifted = rows.map(|row| match dates.is_valid(row) && days.is_valid(row) {
                true => shift_days(dates.value(row), days.value(row), sign).map(Some),
                false => Ok(None),
            });
            Ok(Arc::new(shifted.collect::<Result<PrimitiveArray<Date32Type>, SqlError>>()?))
        }
        Moments::DifferenceInDays => {
            let (left, right) = (left.as_primitive::<Date32Type>(), right.as_primitive::<Date32Type>());
            let is_infinite = |days: i32| matches!(days, i32::MIN | i32::MAX);
            let differences = rows.map(|row| match left.is_valid(row) && right.is_valid(row) {
                true if is_infinite(left.value(row)) || is_infinite(right.value(row)) => {
                    Err(SqlError::new(sqlstate::DATETIME_FIELD_OVERFLOW, "cannot subtract infinite dates"))
                }
                true => Ok(Some(i64::from(left.value(row)) - i64::from(right.value(row)))),
                false => Ok(None),
            });
            Ok(Arc::new(differences.collect::<Result<PrimitiveArray<Int64Type>, SqlError>>()?))
        }
        Moments::Scale { .. } | Moments::Divide => {
            let (interval, number) = match moments {
                Moments::Scale { is_swapped: true } => (right, left),
                _ => (left, right),
            };
            let (interval, number) = (intervals_of(interval)?, number.as_primitive::<Float64Type>());
            let scaled = rows.map(|row| {
                if interval.is_null(row) || number.is_null(row) {
                    return Ok(None);
                }
                let number = number.value(row);
                match moments {
                    Moments::Divide if number == 0.0 => {
                        Err(SqlError::new(sqlstate::DIVISION_BY_ZERO, "division by zero"))
                    }
                    Moments::Divide => scale(interval.value(row), |part| part / number).map(Some),
                    _ => scale(interval.value(row), |part| part * number).map(Some),
                }
            });
            Ok(Arc::new(scaled.collect::<Result<PrimitiveArray<IntervalMonthDayNanoType>, SqlError>>()?))
        }
    }
}

/// The moments of an array, in microseconds since 1970, infinities as [`i64::MIN`] and [`i64::MAX`].
pub(super) fn micros_of(array: &ArrayRef) -> impl Fn(usize) -> Result<Option<i64>, SqlError> + use<'_> {
    move |row| {
        if array.is_null(row) {
            return Ok(None);
        }
        if let Some(timestamps) = array.as_primitive_opt::<TimestampMicrosecondType>() {
            return Ok(Some(timestamps.value(row)));
        }
        match array.as_primitive::<Date32Type>().value(row) {
            i32::MIN => Ok(Some(i64::MIN)),
            i32::MAX => Ok(Some(i64::MAX)),
            days => timestamp(i64::from(days), 0).map(Some),
        }
    }
}

fn intervals_of(array: &ArrayRef) -> Result<PrimitiveArray<IntervalMonthDayNanoType>, SqlError> {
    if let Some(times) = array.as_primitive_opt::<Time64MicrosecondType>() {
        return Ok(times.unary(|micros| IntervalMonthDayNano::new(0, 0, micros * NANOS_PER_MICRO)));
    }
    Ok(cast(array, &INTERVAL)?.as_primitive::<IntervalMonthDayNanoType>().clone())
}

/// Months first, whose days end where the month ends; then days; then the time.
fn shift(moment: i64, distance: IntervalMonthDayNano, sign: i64) -> Result<i64, SqlError> {
    if matches!(moment, i64::MIN | i64::MAX) {
        return Ok(moment);
    }
    let (mut days, time) = (moment.div_euclid(MICROS_PER_DAY), moment.rem_euclid(MICROS_PER_DAY));
    if distance.months != 0 {
        let (year, month, day) = civil_from_days(days);
        let months = year * 12 + i64::from(month) - 1 + sign * i64::from(distance.months);
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) as u32 + 1);
        days = days_from_civil(year, month, day.min(days_in_month(year, month)));
    }
    let micros = distance.nanoseconds / NANOS_PER_MICRO;
    timestamp(days + sign * i64::from(distance.days), time)?.checked_add(sign * micros).map_or_else(
        || Err(out_of_range()),
        |shifted| timestamp(shifted.div_euclid(MICROS_PER_DAY), shifted.rem_euclid(MICROS_PER_DAY)),
    )
}

fn shift_days(date: i32, days: i64, sign: i64) -> Result<i32, SqlError> {
    if matches!(date, i32::MIN | i32::MAX) {
        return Ok(date);
    }
    let shifted = days.checked_mul(sign).and_then(|days| days.checked_add(i64::from(date)));
    let shifted = shifted.filter(|shifted| (DAYS_MIN..=DATE_DAYS_MAX).contains(shifted));
    let out_of_range = || SqlError::new(sqlstate::DATETIME_FIELD_OVERFLOW, "date out of range");
    shifted.and_then(|shifted| i32::try_from(shifted).ok()).ok_or_else(out_of_range)
}

/// Whole days and the time that is left, of one sign.
fn difference(left: i64, right: i64) -> Result<IntervalMonthDayNano, SqlError> {
    let is_infinite = |moment: i64| matches!(moment, i64::MIN | i64::MAX);
    if is_infinite(left) || is_infinite(right) {
        return Err(SqlError::new(sqlstate::DATETIME_FIELD_OVERFLOW, "cannot subtract infinite timestamps"));
    }
    let micros = left.checked_sub(right).ok_or_else(interval_out_of_range)?;
    let days = i32::try_from(micros / MICROS_PER_DAY).map_err(|_| interval_out_of_range())?;
    Ok(IntervalMonthDayNano::new(0, days, micros % MICROS_PER_DAY * NANOS_PER_MICRO))
}

/// What is left of a month goes into days of 30 to the month, what is left of a day into the time.
fn scale(interval: IntervalMonthDayNano, scaled: impl Fn(f64) -> f64) -> Result<IntervalMonthDayNano, SqlError> {
    let whole = |number: f64| match number.trunc() {
        number if number >= f64::from(i32::MIN) && number <= f64::from(i32::MAX) => Ok(number as i32),
        _ => Err(interval_out_of_range()),
    };
    let to_micros = |number: f64| (number * 1e6).round_ties_even() / 1e6;
    let months = scaled(f64::from(interval.months));
    let days = scaled(f64::from(interval.days));
    let (whole_months, mut whole_days) = (whole(months)?, whole(days)?);
    let month_days = to_micros((months - f64::from(whole_months)) * 30.0);
    let mut seconds = to_micros((days - f64::from(whole_days) + month_days - month_days.trunc()) * 86_400.0);
    if seconds.abs() >= 86_400.0 {
        whole_days = whole_days.checked_add(whole(seconds / 86_400.0)?).ok_or_else(interval_out_of_range)?;
        seconds %= 86_400.0;
    }
    whole_days = whole_days.checked_add(whole(month_days)?).ok_or_else(interval_out_of_range)?;
    let micros = (interval.nanoseconds / NANOS_PER_MICRO) as f64;
    let micros = (scaled(micros) + seconds * 1e6).round_ties_even();
    // As nanoseconds, which Arrow holds.
    if micros.abs() >= (i64::MAX / NANOS_PER_MICRO) as f64 || micros.is_nan() {
        return Err(interval_out_of_range());
    }
    Ok(IntervalMonthDayNano::new(whole_months, whole_days, micros as i64 * NANOS_PER_MICRO))
}

/// A timestamp that PostgreSQL has, too.
pub(super) fn timestamp(days: i64, time: i64) -> Result<i64, SqlError> {
    match (DAYS_MIN..TIMESTAMP_DAYS_END).contains(&days) {
        true => Ok(days * MICROS_PER_DAY + time),
        false => Err(out_of_range()),
    }
}

fn out_of_range() -> SqlError {
    SqlError::new(sqlstate::DATETIME_FIELD_OVERFLOW, "timestamp out of range")
}

fn interval_out_of_range() -> SqlError {
    SqlError::new(sqlstate::DATETIME_FIELD_OVERFLOW, "interval out of range")
}

pub(super) const MICROS_PER_DAY: i64 = 86_400_000_000;
pub(super) const NANOS_PER_MICRO: i64 = 1_000;
