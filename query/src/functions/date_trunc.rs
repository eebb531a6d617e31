//! `date_trunc(unit, moment)`, over all that PostgreSQL's calendar reaches. The rules are those of its `timestamp_trunc`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, exec_err};
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use highwater_log::value::calendar::{civil_from_days, days_from_civil};

use super::arithmetic::INTERVAL;
use super::calendar::{MICROS_PER_DAY, NANOS_PER_MICRO, micros_of, timestamp};
use crate::error::SqlError;
use crate::sqlstate;

/// `date_trunc(unit, timestamp | timestamptz | date | interval)`.
pub(super) fn date_trunc_function() -> ScalarUDF {
    DateTrunc { signature: Signature::user_defined(Volatility::Immutable), aliases: vec!["datetrunc".to_owned()] }
        .into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    signature: Signature,
    /// Those of the function that it takes the place of, which would come back under them.
    aliases: Vec<String>,
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        "date_trunc"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        let [unit, moment] = types else {
            return exec_err!("No function matches: date_trunc takes a unit and a moment");
        };
        if !(unit.is_string() || unit.is_null()) {
            return exec_err!("No function matches: date_trunc takes the name of a unit first");
        }
        let moment = match moment {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Interval(_) => INTERVAL,
            DataType::Date32 => DataType::Date32,
            // A text literal: PostgreSQL takes it for a moment with a zone.
            DataType::Null | DataType::Utf8 | DataType::Utf8View => zoned(),
            other => return exec_err!("No function matches: date_trunc of {other}"),
        };
        Ok(vec![DataType::Utf8, moment])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(match &types[1] {
            // PostgreSQL has none for dates, and takes the one with a zone.
            DataType::Date32 => zoned(),
            other => other.clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let result = args.return_field.data_type();
        let truncated = |args: &[ArrayRef]| truncated(&args[0], &args[1], result).map_err(SqlError::into_datafusion);
        make_scalar_function(truncated, Vec::new())(&args.args)
    }
}

fn zoned() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

fn truncated(units: &ArrayRef, moments: &ArrayRef, result: &DataType) -> Result<ArrayRef, SqlError> {
    let units = units.as_string::<i32>();
    let unit = |row: usize| if units.is_null(row) { Ok(None) } else { Unit::parse(units.value(row)).map(Some) };
    let rows = 0..moments.len();
    if let Some(intervals) = moments.as_primitive_opt::<IntervalMonthDayNanoType>() {
        let truncated = rows.map(|row| match unit(row)? {
            Some(unit) if intervals.is_valid(row) => unit.truncate_interval(intervals.value(row)).map(Some),
            _ => Ok(None),
        });
        return Ok(Arc::new(truncated.collect::<Result<PrimitiveArray<IntervalMonthDayNanoType>, SqlError>>()?));
    }
    let moment = micros_of(moments);
    let truncated = rows.map(|row| match (unit(row)?, moment(row)?) {
        (Some(unit), Some(moment)) => unit.truncate(moment).map(Some),
        _ => Ok(None),
    });
    let truncated = truncated.collect::<Result<PrimitiveArray<TimestampMicrosecondType>, SqlError>>()?;
    Ok(Arc::new(truncated.with_data_type(result.clone())))
}

/// What is cut off below.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Of so many microseconds.
    Clock(i64),
    Week,
    /// Of so many months.
    Months(i64),
}

impl Unit {
    fn parse(name: &str) -> Result<Self, SqlError> {
        const SECOND: i64 = 1_000_000;
        Ok(match name.to_ascii_lowercase().as_str() {
            "microsecond" | "microseconds" => Self::Clock(1),
            "millisecond" | "milliseconds" => Self::Clock(1_000),
            "second" | "seconds" => Self::Clock(SECOND),
            "minute" | "minutes" => Self::Clock(60 * SECOND),
            "hour" | "hours" => Self::Clock(3_600 * SECOND),
            "day" | "days" => Self::Clock(MICROS_PER_DAY),
            "week" | "weeks" => Self::Week,
            "month" | "months" => Self::Months(1),
            "quarter" | "quarters" => Self::Months(3),
            "year" | "years" => Self::Months(12),
            "decade" | "decades" => Self::Months(120),
            "century" | "centuries" => Self::Months(1_200),
            "millennium" | "millennia" => Self::Months(12_000),
            _ => {
                let message = format!("unit \"{name}\" is not recognized");
                return Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message));
            }
        })
    }

    fn truncate(self, moment: i64) -> Result<i64, SqlError> {
        if matches!(moment, i64::MIN | i64::MAX) {
            return Ok(moment);
        }
        let days = moment.div_euclid(MICROS_PER_DAY);
        match self {
            Self::Clock(micros) => timestamp(days, moment.rem_euclid(MICROS_PER_DAY) / micros * micros),
            // 1970-01-01 was a Thursday.
            Self::Week => timestamp(days - (days + 3).rem_euclid(7), 0),
            Self::Months(count) => {
                let (year, month, _) = civil_from_days(days);
                // Centuries and millennia begin with the years 1, 101, 1001; there is no year 0 among them.
                let first = if count > 120 { 1 } else { 0 };
                let months = (year - first) * 12 + i64::from(month) - 1;
                let begin = months.div_euclid(count) * count;
                timestamp(days_from_civil(begin.div_euclid(12) + first, begin.rem_euclid(12) as u32 + 1, 1), 0)
            }
        }
    }

    /// Toward zero.
    fn truncate_interval(self, interval: IntervalMonthDayNano) -> Result<IntervalMonthDayNano, SqlError> {
        Ok(match self {
            Self::Week => {
                let message = "unit \"week\" is not supported for type interval";
                return Err(SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, message));
            }
            Self::Clock(MICROS_PER_DAY) => IntervalMonthDayNano::new(interval.months, interval.days, 0),
            Self::Clock(micros) => {
                let nanos = micros * NANOS_PER_MICRO;
                let clock = interval.nanoseconds / nanos * nanos;
                IntervalMonthDayNano::new(interval.months, interval.days, clock)
            }
            Self::Months(count) => {
                let count = count as i32;
                IntervalMonthDayNano::new(interval.months / count * count, 0, 0)
            }
        })
    }
}
