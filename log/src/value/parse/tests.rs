use super::*;
use crate::value::write_text;

fn column_type(name: &str) -> ColumnType {
    name.parse().unwrap()
}

/// What a text becomes, written out again.
fn through(name: &str, text: &str) -> Result<String, ValueError> {
    let value = parse_text(column_type(name), text, Excess::Refused)?;
    let mut out = String::new();
    write_text(column_type(name), value.as_value(), &mut out).unwrap();
    Ok(out)
}

/// Inputs with what PostgreSQL 15 answers.
#[test]
fn texts_become_the_values_that_postgresql_makes_of_them() {
    let cases = [
        ("boolean", " YES ", "t"),
        ("boolean", "of", "f"),
        ("smallint", " -32768 ", "-32768"),
        ("bigint", "+9223372036854775807", "9223372036854775807"),
        ("real", "3.4028235e38", "3.4028235e+38"),
        ("double precision", "-inf", "-Infinity"),
        ("double precision", ".5", "0.5"),
        ("numeric(10,2)", "1.005", "1.01"),
        ("numeric(10,2)", "-1.005", "-1.01"),
        ("numeric(10,2)", "1e3", "1000.00"),
        ("numeric(10,2)", "1e-9", "0.00"),
        ("numeric(5,0)", "99999.4", "99999"),
        ("numeric(38,0)", "99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ("character varying(3)", "abc   ", "abc"),
        ("character(5)", "äö", "äö   "),
        ("bytea", "\\xDEad be", "\\xdeadbe"),
        ("bytea", "a\\\\b\\000", "\\x615c6200"),
        ("date", "4714-11-24 BC", "4714-11-24 BC"),
        ("date", "20240229", "2024-02-29"),
        ("date", "infinity", "infinity"),
        ("date", "5874897-12-31", "5874897-12-31"),
        ("date", "2024-01-02 23:59:59", "2024-01-02"),
        ("time without time zone", "24:00", "24:00:00"),
        ("time(0) without time zone", "12:34:56.5", "12:34:57"),
        ("time without time zone", "04:05:06 PM", "16:05:06"),
        ("time without time zone", "040506", "04:05:06"),
        ("timestamp without time zone", "2024-02-29T12:00:00.1234567Z", "2024-02-29 12:00:00.123457"),
        ("timestamp(3) without time zone", "1969-12-31 23:59:59.9996", "1970-01-01 00:00:00"),
        ("timestamp with time zone", "2024-01-01 00:00:00+05:30", "2023-12-31 18:30:00+00"),
        ("timestamp with time zone", "0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
        ("timestamp with time zone", "-infinity", "-infinity"),
        ("interval", "1 year 2 mons -3 days 04:05:06.789", "1 year 2 mons -3 days +04:05:06.789"),
        ("interval", "1.5 hours ago", "-01:30:00"),
        ("interval", "P1Y2M3DT4H5M6.5S", "1 year 2 mons 3 days 04:05:06.5"),
        ("interval", "1-2", "1 year 2 mons"),
        ("interval", "1.5 days", "1 day 12:00:00"),
        ("interval", "3 4:05", "3 days 04:05:00"),
        ("interval", "2h30m", "02:30:00"),
        ("interval", "0.5 months", "15 days"),
        ("interval", "90", "00:01:30"),
        ("uuid", "{A0EEBC99-9C0B4EF8-BB6D6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("integer[]", " { 1 , NULL , -3 } ", "{1,NULL,-3}"),
        ("integer[]", "{}", "{}"),
        ("text[]", r#"{"a b","null",null,"q\"\\",x y }"#, r#"{"a b","null",NULL,"q\"\\","x y"}"#),
        (
            "jsonb",
            r#"{"bb":1,"a":[true,null,"x\ty"],"c":{"b":1,"b":2}}"#,
            r#"{"a": [true, null, "x\ty"], "c": {"b": 2}, "bb": 1}"#,
        ),
        ("jsonb", "[1.50, 1e5, -0, 12E-3, 1.5e1, \"\\u00e4\"]", "[1.50, 100000, 0, 0.012, 15, \"ä\"]"),
    ];
    for (name, text, expected) in cases {
        assert_eq!(through(name, text).as_deref(), Ok(expected), "{name} from {text:?}");
    }
}

#[test]
fn what_is_no_value_of_the_type_is_refused_by_kind() {
    let invalid = [
        ("integer", ""),
        ("integer", "1.5"),
        ("integer", "0x10"),
        ("boolean", "o"),
        ("double precision", "1e"),
        ("numeric(5,2)", "1.2.3"),
        ("uuid", "a0eebc99"),
        ("bytea", "\\x123"),
        ("bytea", "\\9"),
        ("integer[]", "1,2"),
        ("integer[]", "{1,}"),
        ("integer[]", "{{1}}"),
        ("jsonb", "{\"a\":01}"),
        ("jsonb", "{} x"),
        ("jsonb", "\"\\u0000\""),
        ("text", "\0"),
    ];
    for (name, text) in invalid {
        assert!(matches!(through(name, text), Err(ValueError::Invalid { .. })), "{name} from {text:?}");
    }
    for (name, text) in
        [("date", "tomorrow-ish"), ("interval", "1 fortnight"), ("timestamp without time zone", "12:00")]
    {
        assert!(matches!(through(name, text), Err(ValueError::InvalidTime { .. })), "{name} from {text:?}");
    }
    let beyond = [
        ("smallint", "32768"),
        ("real", "1e39"),
        ("double precision", "1e-400"),
        ("numeric(5,2)", "999.995"),
        ("numeric(38,9)", "NaN"),
    ];
    for (name, text) in beyond {
        assert!(matches!(through(name, text), Err(ValueError::OutOfRange { .. })), "{name} from {text:?}");
    }
    let no_time = ["2023-02-29", "2024-13-01", "0000-01-01", "4714-11-23 BC", "2024-01-01 25:00", "300000-01-01 00:00"];
    for text in no_time {
        let refused = through("timestamp without time zone", text);
        assert!(matches!(refused, Err(ValueError::TimeOutOfRange { .. })), "{text:?}: {refused:?}");
    }
    assert!(matches!(through("character varying(2)", "abc"), Err(ValueError::TooLong { .. })));
    let deep = "[".repeat(100) + &"]".repeat(100);
    assert!(through("jsonb", &deep).is_err());
}

#[test]
fn an_explicit_cast_cuts_what_does_not_fit() {
    let cut = parse_text(column_type("character varying(2)"), "äbc", Excess::Cut).unwrap();
    assert_eq!(cut, OwnedValue::Text("äb".into()));
}
