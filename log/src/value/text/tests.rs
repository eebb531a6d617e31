use super::*;

fn text(column_type: impl Into<ColumnType>, value: Value<'_>) -> String {
    let mut out = String::new();
    write_text(column_type.into(), value, &mut out).unwrap();
    out
}

/// What PostgreSQL 15 answers to `SELECT x::float8`.
#[test]
fn floats_are_written_as_postgresql_writes_them() {
    let doubles = [
        (1.5e-300, "1.5e-300"),
        (0.0, "0"),
        (-0.0, "-0"),
        (1.0, "1"),
        (-2.5, "-2.5"),
        (0.1, "0.1"),
        (0.0001, "0.0001"),
        (0.00012345, "0.00012345"),
        (0.00001, "1e-05"),
        (123_456_789_012_345.0, "123456789012345"),
        (100_000_000_000_000.0, "100000000000000"),
        (1e15, "1e+15"),
        (1_234_567_890_123_456.0, "1.234567890123456e+15"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (f64::NAN, "NaN"),
        (f64::NEG_INFINITY, "-Infinity"),
    ];
    for (value, expected) in doubles {
        assert_eq!(text(ElementType::Double, Value::Double(value)), expected);
    }
    let reals =
        [(1.5e-30, "1.5e-30"), (0.1, "0.1"), (123_456.0, "123456"), (1e6, "1e+06"), (16_777_216.0, "1.6777216e+07")];
    for (value, expected) in reals {
        assert_eq!(text(ElementType::Real, Value::Real(value)), expected);
    }
}

#[test]
fn numerics_show_all_digits_of_their_scale() {
    let numeric = |precision, scale, value| text(ElementType::Numeric { precision, scale }, Value::Numeric(value));
    assert_eq!(numeric(10, 2, 250), "2.50");
    assert_eq!(numeric(10, 2, -5), "-0.05");
    assert_eq!(numeric(5, 0, -99_999), "-99999");
    assert_eq!(numeric(38, 38, 1), format!("0.{}1", "0".repeat(37)));
    assert_eq!(numeric(30, 6, 12_345_678_901_234_567_890_123_456), "12345678901234567890.123456");
}

#[test]
fn dates_and_times_reach_from_4713_bc_to_infinity() {
    let date = |days| text(ElementType::Date, Value::Date(days));
    assert_eq!(date(0), "1970-01-01");
    assert_eq!(date(-165), "1969-07-20");
    assert_eq!(date(11_016), "2000-02-29");
    assert_eq!(date(-719_163), "0001-12-31 BC");
    assert_eq!(date(-2_440_588), "4714-11-24 BC");
    assert_eq!(date(i32::MAX), "infinity");
    assert_eq!(date(2_932_896), "9999-12-31");
    assert_eq!(date(2_932_897), "10000-01-01");
    let timestamp = |micros| text(ElementType::Timestamp(6), Value::Timestamp(micros));
    assert_eq!(timestamp(-1), "1969-12-31 23:59:59.999999");
    assert_eq!(timestamp(1_500_000), "1970-01-01 00:00:01.5");
    assert_eq!(timestamp(i64::MIN), "-infinity");
    let zoned = |micros| text(ElementType::TimestampTz(6), Value::TimestampTz(micros));
    assert_eq!(zoned(0), "1970-01-01 00:00:00+00");
    assert_eq!(zoned(-719_163 * MICROS_PER_DAY), "0001-12-31 00:00:00+00 BC");
    assert_eq!(text(ElementType::Time(6), Value::Time(MICROS_PER_DAY)), "24:00:00");
    assert_eq!(text(ElementType::Time(3), Value::Time(45_296_789_000)), "12:34:56.789");
}

#[test]
fn intervals_show_a_plus_behind_a_minus() {
    let interval =
        |months, days, micros| text(ElementType::Interval, Value::Interval(Interval { months, days, micros }));
    assert_eq!(interval(0, 0, 0), "00:00:00");
    assert_eq!(interval(14, -1, 7), "1 year 2 mons -1 days +00:00:00.000007");
    assert_eq!(interval(-13, 1, -3_600_000_000), "-1 years -1 mons +1 day -01:00:00");
    assert_eq!(interval(0, 3, 0), "3 days");
    assert_eq!(interval(0, 0, 360_000 * 1_000_000), "100:00:00");
}

#[test]
fn arrays_quote_what_would_be_misread() {
    let mut stored = Vec::new();
    let elements = ["x", "y, z", "", "NULL", "a\"b\\c", "{}"].map(|text| Some(Value::Text(text)));
    Array::encode(ElementType::Text, &[&elements[..], &[None]].concat(), &mut stored).unwrap();
    let array = Value::Array(Array::from_stored(ElementType::Text, &stored));
    assert_eq!(text(ColumnType::Array(ElementType::Text), array), r#"{x,"y, z","","NULL","a\"b\\c","{}",NULL}"#);
    let mut numbers = Vec::new();
    let numeric = ElementType::Numeric { precision: 6, scale: 2 };
    Array::encode(numeric, &[Some(Value::Numeric(150)), None, Some(Value::Numeric(-999_999))], &mut numbers).unwrap();
    let array = Value::Array(Array::from_stored(numeric, &numbers));
    assert_eq!(text(ColumnType::Array(numeric), array), "{1.50,NULL,-9999.99}");
}

#[test]
fn the_rest_is_plain() {
    assert_eq!(text(ElementType::Boolean, Value::Boolean(true)), "t");
    assert_eq!(text(ElementType::Bytea, Value::Bytea(&[0xde, 0xad])), "\\xdead");
    assert_eq!(text(ElementType::Uuid, Value::Uuid([0; 16])), "00000000-0000-0000-0000-000000000000");
    assert!(write_text(ElementType::Integer.into(), Value::Numeric(1), &mut String::new()).is_err());
}
