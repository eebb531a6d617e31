use super::*;
use crate::value::{Array, Interval};
use std::cmp::Ordering;

use proptest::prelude::*;

fn key(element: ElementType, value: Option<Value<'_>>) -> Vec<u8> {
    let mut out = Vec::new();
    encode([(element.into(), value)], &mut out).unwrap();
    out
}

/// Asserts that the keys of `values` rise strictly, in the order given.
fn assert_rising(element: ElementType, values: &[Option<Value<'_>>]) {
    let keys: Vec<_> = values.iter().map(|value| key(element, *value)).collect();
    for (pair, values) in keys.windows(2).zip(values.windows(2)) {
        assert!(pair[0] < pair[1], "{values:?}");
    }
}

#[test]
fn numbers_and_times_rise_and_nulls_come_last() {
    let integers = [i32::MIN, -1, 0, 1, i32::MAX];
    assert_rising(ElementType::Integer, &integers.map(|v| Some(Value::Integer(v))));
    assert_rising(ElementType::Integer, &[Some(Value::Integer(i32::MAX)), None]);
    assert_rising(ElementType::SmallInt, &[i16::MIN, -1, 0, i16::MAX].map(|v| Some(Value::SmallInt(v))));
    assert_rising(ElementType::Date, &[i32::MIN, -4, 9, i32::MAX].map(|v| Some(Value::Date(v))));
    assert_rising(ElementType::Timestamp(6), &[i64::MIN, -4, 9, i64::MAX].map(|v| Some(Value::Timestamp(v))));
    let numeric = ElementType::Numeric { precision: 10, scale: 2 };
    assert_rising(numeric, &[-1_000_i128, -1, 0, 5, 1 << 60].map(|v| Some(Value::Numeric(v))));
}

#[test]
fn floats_rise_with_nan_greatest_and_one_zero() {
    let doubles = [f64::NEG_INFINITY, -1e300, -1.0, -f64::MIN_POSITIVE, 0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN];
    assert_rising(ElementType::Double, &doubles.map(|v| Some(Value::Double(v))));
    assert_rising(ElementType::Real, &[f32::NEG_INFINITY, -1.0, 0.0, 2.0, f32::NAN].map(|v| Some(Value::Real(v))));
    assert_eq!(key(ElementType::Double, Some(Value::Double(-0.0))), key(ElementType::Double, Some(Value::Double(0.0))));
    let negative_nan = Value::Double(f64::from_bits(f64::NAN.to_bits() | 1 << 63));
    assert_eq!(key(ElementType::Double, Some(negative_nan)), key(ElementType::Double, Some(Value::Double(f64::NAN))));
}

#[test]
fn trailing_blanks_of_char_do_not_count() {
    let char5 = ElementType::Char(5);
    assert_eq!(key(char5, Some(Value::Text("ab   "))), key(char5, Some(Value::Text("ab"))));
    assert_ne!(key(ElementType::Text, Some(Value::Text("ab "))), key(ElementType::Text, Some(Value::Text("ab"))));
}

#[test]
fn intervals_that_sql_holds_equal_are_one_key() {
    let month = Value::Interval(Interval { months: 1, days: 0, micros: 0 });
    let days = Value::Interval(Interval { months: 0, days: 30, micros: 0 });
    let more = Value::Interval(Interval { months: 0, days: 30, micros: 1 });
    assert_eq!(key(ElementType::Interval, Some(month)), key(ElementType::Interval, Some(days)));
    assert_rising(ElementType::Interval, &[Some(days), Some(more)]);
}

#[test]
fn arrays_rise_element_by_element() {
    let lists: [&[Option<i32>]; 5] = [&[], &[Some(1)], &[Some(1), Some(-5)], &[Some(1), None], &[Some(2)]];
    let keys: Vec<_> = lists
        .iter()
        .map(|list| {
            let (mut stored, mut out) = (Vec::new(), Vec::new());
            let elements: Vec<_> = list.iter().map(|v| v.map(Value::Integer)).collect();
            Array::encode(ElementType::Integer, &elements, &mut stored).unwrap();
            let array = Value::Array(Array::from_stored(ElementType::Integer, &stored));
            encode([(ColumnType::Array(ElementType::Integer), Some(array))], &mut out).unwrap();
            out
        })
        .collect();
    assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");
}

#[test]
fn jsonb_and_keys_that_are_too_long_are_refused() {
    let mut out = Vec::new();
    let jsonb = encode([(ElementType::Jsonb.into(), Some(Value::Jsonb("1")))], &mut out);
    assert!(matches!(jsonb, Err(CodecError::NoKeyOrder(_))));
    let long = "x".repeat(KEY_BYTES_MAX);
    let result = encode([(ElementType::Text.into(), Some(Value::Text(&long)))], &mut Vec::new());
    assert!(matches!(result, Err(CodecError::KeyTooLong(_))));
    let just_fits = "x".repeat(KEY_BYTES_MAX - 3);
    assert!(encode([(ElementType::Text.into(), Some(Value::Text(&just_fits)))], &mut Vec::new()).is_ok());
}

proptest! {
    #[test]
    fn keys_of_two_columns_order_as_their_values(
        a in (prop::collection::vec(0_u8..4, 0..6), any::<i64>()),
        b in (prop::collection::vec(0_u8..4, 0..6), any::<i64>()),
    ) {
        let encoded = |(bytes, number): &(Vec<u8>, i64)| {
            let mut out = Vec::new();
            let columns = [
                (ElementType::Bytea.into(), Some(Value::Bytea(bytes))),
                (ElementType::BigInt.into(), Some(Value::BigInt(*number))),
            ];
            encode(columns, &mut out).unwrap();
            out
        };
        let (key_a, key_b) = (encoded(&a), encoded(&b));
        prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
        if a != b {
            prop_assert!(!key_a.starts_with(&key_b) && !key_b.starts_with(&key_a));
        }
        // The key of the first column alone is a prefix of exactly those that begin with its value.
        let mut prefix = Vec::new();
        encode([(ElementType::Bytea.into(), Some(Value::Bytea(&a.0)))], &mut prefix).unwrap();
        prop_assert_eq!(key_b.starts_with(&prefix), a.0.cmp(&b.0) == Ordering::Equal);
    }
}
