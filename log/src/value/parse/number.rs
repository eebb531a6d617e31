//! Numbers from text.

use std::str::FromStr;

use super::ValueError;
use crate::value::ElementType;
use crate::value::column_type::NUMERIC_PRECISION_MAX;

/// An integer in decimal, with an optional sign.
pub(super) fn parse_integer<T: FromStr>(element: ElementType, text: &str) -> Result<T, ValueError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ValueError::invalid(element, text));
    }
    text.parse().map_err(|_| ValueError::out_of_range(element, text))
}

pub(super) fn parse_real(text: &str) -> Result<f32, ValueError> {
    let value: f32 = parse_float(ElementType::Real, text)?;
    let is_lost = value.is_infinite() || value == 0.0;
    if is_lost && is_finite_nonzero(text) { Err(ValueError::out_of_range(ElementType::Real, text)) } else { Ok(value) }
}

pub(super) fn parse_double(text: &str) -> Result<f64, ValueError> {
    let value: f64 = parse_float(ElementType::Double, text)?;
    let is_lost = value.is_infinite() || value == 0.0;
    if is_lost && is_finite_nonzero(text) {
        Err(ValueError::out_of_range(ElementType::Double, text))
    } else {
        Ok(value)
    }
}

fn parse_float<T: FromStr>(element: ElementType, text: &str) -> Result<T, ValueError> {
    // Rust and PostgreSQL know the same words, in any case.
    text.parse().map_err(|_| ValueError::invalid(element, text))
}

/// Whether a text that is a float names a finite number other than zero: one that must not end as infinity or zero.
fn is_finite_nonzero(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    text.bytes().any(|byte| byte.is_ascii_digit()) && mantissa.bytes().any(|byte| (b'1'..=b'9').contains(&byte))
}

/// A `numeric(precision,scale)`, unscaled; digits beyond the scale are rounded, halves away from zero.
pub(super) fn parse_numeric(precision: u8, scale: u8, text: &str) -> Result<i128, ValueError> {
    let element = ElementType::Numeric { precision, scale };
    if ["nan", "inf", "infinity"].contains(&text.trim_start_matches(['+', '-']).to_ascii_lowercase().as_str()) {
        return Err(ValueError::out_of_range(element, text));
    }
    let decimal = Decimal::parse(text).ok_or_else(|| ValueError::invalid(element, text))?;
    let unscaled = decimal.unscaled(scale).ok_or_else(|| ValueError::out_of_range(element, text))?;
    if unscaled.unsigned_abs() >= 10_u128.pow(u32::from(precision)) {
        return Err(ValueError::out_of_range(element, text));
    }
    Ok(unscaled)
}

/// A decimal number in text as (unscaled, scale) with as many digits after the point as it shows; `None` when it is no number or
/// has more than 38 digits.
#[must_use]
pub fn parse_decimal(text: &str) -> Option<(i128, u8)> {
    let decimal = Decimal::parse(text)?;
    let scale = u8::try_from((-decimal.exponent).max(0)).ok().filter(|scale| *scale <= NUMERIC_PRECISION_MAX)?;
    let unscaled = decimal.unscaled(scale)?;
    (unscaled.unsigned_abs() < 10_u128.pow(u32::from(NUMERIC_PRECISION_MAX))).then_some((unscaled, scale))
}

/// `sign digits × 10^exponent`.
struct Decimal {
    is_negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (is_negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(Self { is_negative, digits, exponent: i64::from(exponent) - fraction.len() as i64 })
    }

    /// The number times 10^scale, rounded; `None` beyond 128 bits.
    fn unscaled(&self, scale: u8) -> Option<i128> {
        let significant = self.digits.iter().position(|digit| *digit != b'0').map_or(&[][..], |at| &self.digits[at..]);
        let shift = self.exponent + i64::from(scale);
        let kept = significant.len() as i64 + shift.min(0);
        if kept < 0 {
            return Some(0);
        }
        let (kept, cut) = significant.split_at((kept as usize).min(significant.len()));
        let mut value: i128 = 0;
        for digit in kept {
            value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
        }
        if shift > 0 && value != 0 {
            value = value.checked_mul(10_i128.checked_pow(u32::try_from(shift).ok()?)?)?;
        }
        if cut.first().is_some_and(|digit| *digit >= b'5') {
            value = value.checked_add(1)?;
        }
        Some(if self.is_negative { -value } else { value })
    }
}
