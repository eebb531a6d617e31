//! Intervals from text: PostgreSQL's verbose form, clock times, and ISO 8601 with designators.

use super::ValueError;
use super::calendar::fraction_micros;
use crate::value::{ElementType, Interval};

pub(super) fn parse(text: &str) -> Result<Interval, ValueError> {
    let invalid = || ValueError::invalid_time(ElementType::Interval, text);
    let sums = match text.strip_prefix('P') {
        Some(rest) => iso(rest).ok_or_else(invalid)?,
        None => verbose(text).ok_or_else(invalid)?,
    };
    sums.interval().ok_or_else(|| ValueError::time_out_of_range(text))
}

/// Parts summed up, wide enough that only the end can overflow.
#[derive(Default)]
struct Sums {
    months: i128,
    days: i128,
    micros: i128,
}

/// `whole.fraction`, of which the fraction is kept in millionths.
#[derive(Clone, Copy)]
struct Quantity {
    whole: i128,
    /// Of the same sign.
    millionths: i128,
}

impl Quantity {
    fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
        if rest.len() > 30 || (whole.is_empty() && fraction.is_empty()) || !whole.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        Some(Self { whole: sign * whole, millionths: sign * i128::from(fraction_micros(fraction)?) })
    }
}

impl Sums {
    /// Adds so many of a unit. Fractions spill into smaller units as PostgreSQL spills them: of a month into days (30 a month), of a
    /// day into time.
    fn add(&mut self, quantity: Quantity, unit: &str) -> Option<()> {
        let Quantity { whole, millionths } = quantity;
        let months = |sums: &mut Self, months_per: i128| {
            let fraction = millionths * months_per;
            // Fractions of more than a month are cut to whole months.
            sums.months += whole * months_per + if months_per > 1 { rounded(fraction) } else { 0 };
            if months_per == 1 {
                sums.add_days_fraction(fraction * 30);
            }
        };
        match unit {
            "millennium" | "millennia" | "millenniums" | "mil" | "mils" => months(self, 12_000),
            "century" | "centuries" | "cent" | "c" => months(self, 1_200),
            "decade" | "decades" | "dec" | "decs" => months(self, 120),
            "year" | "years" | "y" | "yr" | "yrs" => months(self, 12),
            "month" | "months" | "mon" | "mons" => months(self, 1),
            "week" | "weeks" | "w" => {
                self.days += whole * 7;
                self.add_days_fraction(millionths * 7);
            }
            "day" | "days" | "d" => {
                self.days += whole;
                self.add_days_fraction(millionths);
            }
            "hour" | "hours" | "h" | "hr" | "hrs" => self.micros += (whole * MILLION + millionths) * 3_600,
            "minute" | "minutes" | "m" | "min" | "mins" => self.micros += (whole * MILLION + millionths) * 60,
            "second" | "seconds" | "s" | "sec" | "secs" => self.micros += whole * MILLION + millionths,
            "millisecond" | "milliseconds" | "ms" | "msec" | "msecs" => {
                self.micros += whole * 1_000 + millionths / 1_000;
            }
            "microsecond" | "microseconds" | "us" | "usec" | "usecs" => self.micros += whole,
            _ => return None,
        }
        Some(())
    }

    fn add_days_fraction(&mut self, day_millionths: i128) {
        self.days += day_millionths / MILLION;
        self.micros += day_millionths % MILLION * SECONDS_PER_DAY;
    }

    fn interval(&self) -> Option<Interval> {
        Some(Interval {
            months: i32::try_from(self.months).ok()?,
            days: i32::try_from(self.days).ok()?,
            micros: i64::try_from(self.micros).ok()?,
        })
    }
}

fn rounded(millionths: i128) -> i128 {
    (millionths + if millionths < 0 { -MILLION / 2 } else { MILLION / 2 }) / MILLION
}

/// `1 year 2 mons -3 days 04:05:06.789`, `1.5 hours ago`, `1-2` (years and months), a bare number of seconds.
fn verbose(text: &str) -> Option<Sums> {
    let lower = text.to_ascii_lowercase();
    let body = lower.strip_prefix('@').unwrap_or(&lower).trim();
    let (body, is_ago) = body.strip_suffix("ago").map_or((body, false), |body| (body.trim_end(), true));
    let mut words = words(body)?.into_iter().peekable();
    words.peek()?;
    let mut sums = Sums::default();
    while let Some(word) = words.next() {
        if word.contains(':') {
            sums.micros += clock(word)?;
        } else if let Some((years, months)) = word.get(1..).and_then(|rest| rest.split_once('-')) {
            let (sign, first) = match word.as_bytes()[0] {
                b'-' => (-1, ""),
                b'+' => (1, ""),
                _ => (1, &word[..1]),
            };
            let years: i128 = [first, years].concat().parse().ok()?;
            let months: i128 = months.parse().ok().filter(|months| (0..12).contains(months))?;
            sums.months += sign * (years * 12 + months);
        } else {
            let quantity = Quantity::parse(word)?;
            match words.peek() {
                Some(unit) if unit.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                    sums.add(quantity, unit)?;
                    words.next();
                }
                // A number before a clock time counts days, one at the end seconds.
                Some(next) if next.contains(':') => sums.add(quantity, "days")?,
                Some(_) => return None,
                None => sums.add(quantity, "seconds")?,
            }
        }
    }
    if is_ago {
        sums = Sums { months: -sums.months, days: -sums.days, micros: -sums.micros };
    }
    Some(sums)
}

/// Numbers, clock times and unit names, with or without blanks between them.
fn words(text: &str) -> Option<Vec<&str>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_name = first.is_ascii_alphabetic();
        let end = rest
            .char_indices()
            .find(|(at, c)| {
                let is_sign = matches!(c, '+' | '-') && *at > 0 && is_name;
                c.is_ascii_whitespace() || c.is_ascii_alphabetic() != is_name || is_sign
            })
            .map_or(rest.len(), |(at, _)| at);
        if end == 0 {
            return None;
        }
        words.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ',');
    }
    Some(words)
}

/// `hh:mm`, `hh:mm:ss.ffffff` with any number of hours.
fn clock(word: &str) -> Option<i128> {
    let (sign, rest) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let parts: Vec<&str> = whole.split(':').collect();
    if !(2..=3).contains(&parts.len()) || parts.iter().any(|part| part.is_empty() || part.len() > 18) {
        return None;
    }
    if !parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let mut numbers = parts.iter().map(|part| part.parse::<i128>()).collect::<Result<Vec<_>, _>>().ok()?;
    if parts.len() == 2 && !fraction.is_empty() {
        // `mm:ss.fff`
        numbers.insert(0, 0);
    }
    numbers.resize(3, 0);
    if numbers[1] > 59 || numbers[2] > 60 {
        return None;
    }
    let seconds = (numbers[0] * 60 + numbers[1]) * 60 + numbers[2];
    Some(sign * (seconds * MILLION + i128::from(fraction_micros(fraction)?)))
}

/// `1Y2M3DT4H5M6.5S`, what follows the `P`.
fn iso(text: &str) -> Option<Sums> {
    let mut sums = Sums::default();
    let mut is_time = false;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('T') {
            if is_time || after.is_empty() {
                return None;
            }
            (is_time, rest) = (true, after);
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let quantity = Quantity::parse(&rest[..end])?;
        let unit = match (is_time, rest.as_bytes()[end]) {
            (false, b'Y') => "year",
            (false, b'M') => "month",
            (false, b'W') => "week",
            (false, b'D') => "day",
            (true, b'H') => "hour",
            (true, b'M') => "minute",
            (true, b'S') => "second",
            _ => return None,
        };
        sums.add(quantity, unit)?;
        rest = &rest[end + 1..];
    }
    Some(sums)
}

const MILLION: i128 = 1_000_000;
const SECONDS_PER_DAY: i128 = 86_400;
