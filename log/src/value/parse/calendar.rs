//! Dates, times of day and points in time from text, year first.

use super::{ValueError, round_micros};
use crate::value::ElementType;
use crate::value::calendar::{DATE_DAYS_MAX, DAYS_MIN, TIMESTAMP_DAYS_END, days_from_civil, days_in_month};

/// A date in days since 1970-01-01.
pub(super) fn parse_date(text: &str) -> Result<i32, ValueError> {
    if let Some(infinity) = infinity(text) {
        return Ok(if infinity { i32::MAX } else { i32::MIN });
    }
    let element = ElementType::Date;
    if text.eq_ignore_ascii_case("epoch") {
        return Ok(0);
    }
    let moment = Moment::parse(element, text)?;
    i32::try_from(moment.days).map_err(|_| ValueError::time_out_of_range(text))
}

/// A time of day in microseconds.
pub(super) fn parse_time(digits: u8, text: &str) -> Result<i64, ValueError> {
    let element = ElementType::Time(digits);
    let (clock, zone) = split_zone(text);
    if zone.is_some_and(|zone| zone_micros(zone).is_none()) {
        return Err(ValueError::invalid_time(element, text));
    }
    let micros = clock_micros(clock).ok_or_else(|| ValueError::invalid_time(element, text))?;
    let micros = micros.map_err(|OutOfRange| ValueError::time_out_of_range(text))?;
    Ok(round_micros(micros, digits))
}

/// A point in time in microseconds since 1970-01-01 00:00; of a type with a zone, in UTC.
pub(super) fn parse_timestamp(element: ElementType, digits: u8, text: &str) -> Result<i64, ValueError> {
    if let Some(infinity) = infinity(text) {
        return Ok(if infinity { i64::MAX } else { i64::MIN });
    }
    if text.eq_ignore_ascii_case("epoch") {
        return Ok(0);
    }
    let moment = Moment::parse(element, text)?;
    let out_of_range = || ValueError::time_out_of_range(text);
    if !(DAYS_MIN..TIMESTAMP_DAYS_END).contains(&moment.days) {
        return Err(out_of_range());
    }
    let micros = moment.days.checked_mul(MICROS_PER_DAY).and_then(|micros| micros.checked_add(moment.micros));
    let zone = if matches!(element, ElementType::TimestampTz(_)) { moment.zone_micros } else { 0 };
    micros
        .and_then(|micros| micros.checked_sub(zone))
        .map(|micros| round_micros(micros, digits))
        .ok_or_else(out_of_range)
}

fn infinity(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "infinity" | "+infinity" => Some(true),
        "-infinity" => Some(false),
        _ => None,
    }
}

struct Moment {
    days: i64,
    micros: i64,
    zone_micros: i64,
}

struct OutOfRange;

impl Moment {
    fn parse(element: ElementType, text: &str) -> Result<Self, ValueError> {
        let invalid = || ValueError::invalid_time(element, text);
        let out_of_range = || ValueError::time_out_of_range(text);
        let upper = text.to_ascii_uppercase();
        let (body, is_before_christ) = match upper.strip_suffix("BC").map(str::trim_end) {
            Some(body) => (body, true),
            None => (upper.strip_suffix("AD").map_or(&*upper, str::trim_end), false),
        };
        let date_end = body.find([' ', 'T']).unwrap_or(body.len());
        let (date, rest) = body.split_at(date_end);
        let (year, month, day) = split_date(date).ok_or_else(invalid)?;
        let year = match (is_before_christ, year) {
            (_, 0) => return Err(out_of_range()),
            (true, year) => 1 - year,
            (false, year) => year,
        };
        if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
            return Err(out_of_range());
        }
        let days = days_from_civil(year, month, day);
        if !(DAYS_MIN..=DATE_DAYS_MAX).contains(&days) {
            return Err(out_of_range());
        }
        let rest = rest.trim_start_matches([' ', 'T']);
        if rest.is_empty() {
            return Ok(Self { days, micros: 0, zone_micros: 0 });
        }
        let (clock, zone) = split_zone(rest);
        let micros = clock_micros(clock).ok_or_else(invalid)?.map_err(|OutOfRange| out_of_range())?;
        let zone_micros = zone.map_or(Some(0), zone_micros).ok_or_else(invalid)?;
        Ok(Self { days, micros, zone_micros })
    }
}

/// `2024-02-29`, `2024/02/29`, `20240229`.
fn split_date(date: &str) -> Option<(i64, u32, u32)> {
    let is_number = |part: &str| !part.is_empty() && part.len() <= 7 && part.bytes().all(|byte| byte.is_ascii_digit());
    let separator = if date.contains('/') { '/' } else { '-' };
    let parts: Vec<&str> = match date.len() {
        8 if is_number(&date[..4]) && is_number(&date[4..]) => vec![&date[..4], &date[4..6], &date[6..]],
        _ => date.split(separator).collect(),
    };
    match parts[..] {
        // A year of fewer than three digits could be a month or a day.
        [year, month, day]
            if year.len() >= 3 && parts.iter().all(|part| is_number(part)) && month.len() <= 2 && day.len() <= 2 =>
        {
            Some((year.parse().ok()?, month.parse().ok()?, day.parse().ok()?))
        }
        _ => None,
    }
}

/// Splits a clock time from the zone behind it.
fn split_zone(text: &str) -> (&str, Option<&str>) {
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.'))).unwrap_or(text.len());
    let (clock, rest) = text.split_at(end);
    let trimmed = rest.trim_start();
    let upper = trimmed.get(..2).unwrap_or_default().to_ascii_uppercase();
    if upper == "AM" || upper == "PM" {
        let with_half = text.len() - trimmed.len() + 2;
        let zone = text[with_half..].trim();
        return (&text[..with_half], (!zone.is_empty()).then_some(zone));
    }
    (clock, (!trimmed.is_empty()).then_some(trimmed))
}

/// `04:05`, `04:05:06.789`, `040506`, each perhaps with `AM` or `PM`; microseconds since midnight.
fn clock_micros(text: &str) -> Option<Result<i64, OutOfRange>> {
    let upper = text.to_ascii_uppercase();
    let (clock, half) = match (upper.strip_suffix("AM"), upper.strip_suffix("PM")) {
        (Some(rest), _) => (rest.trim_end(), Some(0)),
        (_, Some(rest)) => (rest.trim_end(), Some(12)),
        _ => (&*upper, None),
    };
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let parts: Vec<&str> = match whole.len() {
        6 if !whole.contains(':') => vec![whole.get(..2)?, whole.get(2..4)?, whole.get(4..)?],
        _ => whole.split(':').collect(),
    };
    if !(2..=3).contains(&parts.len()) || (parts.len() == 2 && !fraction.is_empty()) {
        return None;
    }
    let number = |part: &&str| {
        let is_number = !part.is_empty() && part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<i64>().ok()).flatten()
    };
    let mut numbers = parts.iter().map(number).collect::<Option<Vec<_>>>()?;
    numbers.resize(3, 0);
    if let Some(half) = half {
        if !(1..=12).contains(&numbers[0]) {
            return Some(Err(OutOfRange));
        }
        numbers[0] = numbers[0] % 12 + half;
    }
    let fraction = fraction_micros(fraction)?;
    let [hours, minutes, seconds] = numbers[..] else { return None };
    let micros = ((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND + fraction;
    // A leap second counts into the next minute; a whole day is 24:00:00 and no more.
    let is_fit = minutes < 60 && seconds <= 60 && micros <= MICROS_PER_DAY;
    Some(if is_fit { Ok(micros) } else { Err(OutOfRange) })
}

/// Digits behind the point of a second, rounded to microseconds.
pub(super) fn fraction_micros(digits: &str) -> Option<i64> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let six = format!("{:0<6}", &digits[..digits.len().min(6)]);
    let micros: i64 = six.parse().ok()?;
    let rounds_up = digits.as_bytes().get(6).is_some_and(|digit| *digit >= b'5');
    Some(micros + i64::from(rounds_up))
}

/// `Z`, `UTC`, `+02`, `-0330`, `+05:30`, `+05:30:15`: microseconds east of UTC.
fn zone_micros(zone: &str) -> Option<i64> {
    if ["Z", "UTC", "GMT", "ZULU", "UT"].contains(&zone.to_ascii_uppercase().as_str()) {
        return Some(0);
    }
    let (sign, rest) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+')?),
    };
    let parts: Vec<&str> = match rest.len() {
        4 if !rest.contains(':') => vec![rest.get(..2)?, rest.get(2..)?],
        _ => rest.split(':').collect(),
    };
    if parts.len() > 3
        || !parts.iter().all(|part| matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_digit()))
    {
        return None;
    }
    let mut numbers = parts.iter().map(|part| part.parse::<i64>()).collect::<Result<Vec<_>, _>>().ok()?;
    numbers.resize(3, 0);
    let seconds = (numbers[0] * 60 + numbers[1]) * 60 + numbers[2];
    let is_fit = numbers[0] < 16 && numbers[1] < 60 && numbers[2] < 60;
    is_fit.then_some(sign * seconds * MICROS_PER_SECOND)
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
