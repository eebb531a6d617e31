//! `date_part(field, source)`, which is what EXTRACT is planned as, over all that PostgreSQL's calendar reaches.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType, TimeUnit};
use datafusion::common::{DataFusionError, exec_err};
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use highwater_log::value::calendar::{civil_from_days, days_from_civil};

use super::arithmetic::INTERVAL;
use super::calendar::{MICROS_PER_DAY, NANOS_PER_MICRO, micros_of};
use crate::error::SqlError;
use crate::sqlstate;

pub(super) fn date_part_function() -> ScalarUDF {
    DatePart { signature: Signature::user_defined(Volatility::Immutable), aliases: vec!["datepart".to_owned()] }.into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DatePart {
    signature: Signature,
    /// Those of the function that it takes the place of, which would come back under them.
    aliases: Vec<String>,
}

impl ScalarUDFImpl for DatePart {
    fn name(&self) -> &str {
        "date_part"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        let [field, source] = types else {
            return exec_err!("No function matches: date_part takes a field and a source");
        };
        if !(field.is_string() || field.is_null()) {
            return exec_err!("No function matches: date_part takes the name of a field first");
        }
        let source = match source {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
            DataType::Interval(_) => INTERVAL,
            DataType::Date32 => DataType::Date32,
            DataType::Null => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => return exec_err!("No function matches: date_part of {other}"),
        };
        Ok(vec![DataType::Utf8, source])
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let parts = |args: &[ArrayRef]| match parts(&args[0], &args[1]) {
            Ok(parts) => Ok(Arc::new(parts) as ArrayRef),
            Err(error) => Err(error.into_datafusion()),
        };
        make_scalar_function(parts, Vec::new())(&args.args)
    }
}

fn parts(fields: &ArrayRef, sources: &ArrayRef) -> Result<Float64Array, SqlError> {
    let names = fields.as_string::<i32>();
    let rows = (0..sources.len()).map(|row| (row, names.is_valid(row) && sources.is_valid(row)));
    if let Some(intervals) = sources.as_primitive_opt::<IntervalMonthDayNanoType>() {
        let part = |(row, is_given)| match is_given {
            true => of_interval(names.value(row), intervals.value(row)).map(Some),
            false => Ok(None),
        };
        return rows.map(part).collect();
    }
    if let Some(times) = sources.as_primitive_opt::<Time64MicrosecondType>() {
        let part = |(row, is_given)| match is_given {
            true => of_time(names.value(row), times.value(row), "time").map(Some),
            false => Ok(None),
        };
        return rows.map(part).collect();
    }
    let moment = micros_of(sources);
    let part = |(row, is_given)| match (is_given, moment(row)?) {
        (true, Some(moment @ (i64::MIN | i64::MAX))) => of_infinity(names.value(row), moment > 0),
        (true, Some(moment)) => of_moment(names.value(row), moment).map(Some),
        _ => Ok(None),
    };
    rows.map(part).collect()
}

fn of_moment(name: &str, moment: i64) -> Result<f64, SqlError> {
    let (days, time) = (moment.div_euclid(MICROS_PER_DAY), moment.rem_euclid(MICROS_PER_DAY));
    let (year, month, day) = civil_from_days(days);
    // There is no year 0: before 1 comes 1 BC, which is −1.
    let shown = |year: i64| if year > 0 { year } else { year - 1 };
    // 1970-01-01 was a Thursday; Monday is 0.
    let weekday = (days + 3).rem_euclid(7);
    // The week is that of its Thursday.
    let thursday = days - weekday + 3;
    let (iso_year, ..) = civil_from_days(thursday);
    Ok(match name.to_ascii_lowercase().as_str() {
        "millennium" | "millennia" => grouped(year, 1000),
        "century" | "centuries" => grouped(year, 100),
        "decade" | "decades" => year.div_euclid(10) as f64,
        "year" | "years" => shown(year) as f64,
        "isoyear" => shown(iso_year) as f64,
        "quarter" | "quarters" => f64::from((month - 1) / 3 + 1),
        "month" | "months" => f64::from(month),
        "week" | "weeks" => ((thursday - days_from_civil(iso_year, 1, 1)) / 7 + 1) as f64,
        "day" | "days" => f64::from(day),
        "doy" => (days - days_from_civil(year, 1, 1) + 1) as f64,
        "dow" => ((weekday + 1) % 7) as f64,
        "isodow" => (weekday + 1) as f64,
        "julian" => (days + JULIAN_1970) as f64 + time as f64 / MICROS_PER_DAY as f64,
        "epoch" => moment as f64 / MICROS_PER_SECOND,
        name => return of_time(name, time, "timestamp"),
    })
}

/// The century or millennium of a year: the first begins with year 1.
fn grouped(year: i64, length: i64) -> f64 {
    let count = if year > 0 { (year + length - 1) / length } else { -((length - year) / length) };
    count as f64
}

fn of_time(name: &str, time: i64, type_name: &str) -> Result<f64, SqlError> {
    const MINUTE: i64 = 60_000_000;
    Ok(match name.to_ascii_lowercase().as_str() {
        "hour" | "hours" => (time / (60 * MINUTE)) as f64,
        "minute" | "minutes" => (time / MINUTE % 60) as f64,
        "second" | "seconds" => (time % MINUTE) as f64 / MICROS_PER_SECOND,
        "millisecond" | "milliseconds" => (time % MINUTE) as f64 / 1e3,
        "microsecond" | "microseconds" => (time % MINUTE) as f64,
        "epoch" => time as f64 / MICROS_PER_SECOND,
        _ => {
            let message = format!("unit \"{name}\" is not recognized or not supported for type {type_name}");
            return Err(SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message));
        }
    })
}

/// What grows without end is infinite, what comes round is NULL.
fn of_infinity(name: &str, is_positive: bool) -> Result<Option<f64>, SqlError> {
    const ENDLESS: [&str; 11] = [
        "millennium",
        "millennia",
        "century",
        "centuries",
        "decade",
        "decades",
        "year",
        "years",
        "isoyear",
        "julian",
        "epoch",
    ];
    // Whatever there is no such part of fails here, too.
    of_moment(name, 0)?;
    let is_endless = ENDLESS.contains(&name.to_ascii_lowercase().as_str());
    Ok(is_endless.then_some(if is_positive { f64::INFINITY } else { f64::NEG_INFINITY }))
}

fn of_interval(name: &str, interval: IntervalMonthDayNano) -> Result<f64, SqlError> {
    let (years, months) = (f64::from(interval.months / 12), f64::from(interval.months % 12));
    let micros = interval.nanoseconds / NANOS_PER_MICRO;
    Ok(match name.to_ascii_lowercase().as_str() {
        "millennium" | "millennia" => f64::from(interval.months / 12_000),
        "century" | "centuries" => f64::from(interval.months / 1_200),
        "decade" | "decades" => f64::from(interval.months / 120),
        "year" | "years" => years,
        "quarter" | "quarters" => f64::from(interval.months % 12 / 3 + 1),
        "month" | "months" => months,
        "day" | "days" => f64::from(interval.days),
        // Years of 365.25 days, months of 30.
        "epoch" => {
            let days = years * 365.25 + months * 30.0 + f64::from(interval.days);
            days * SECONDS_PER_DAY + micros as f64 / MICROS_PER_SECOND
        }
        name => of_time(name, micros, "interval")?,
    })
}

/// The Julian day of 1970-01-01.
const JULIAN_1970: i64 = 2_440_588;
const MICROS_PER_SECOND: f64 = 1e6;
const SECONDS_PER_DAY: f64 = 86_400.0;
