use super::*;
use crate::value::{Array, ElementType, Interval};
use proptest::prelude::*;

fn layout(version: u32, types: &[ColumnType]) -> RowLayout {
    let columns = types.iter().enumerate().map(|(index, t)| (ColumnId::new(index as u32 + 1), *t));
    RowLayout::new(SchemaVersion::new(version), columns)
}

const ALL_TYPES: [ElementType; 19] = [
    ElementType::Boolean,
    ElementType::SmallInt,
    ElementType::Integer,
    ElementType::BigInt,
    ElementType::Real,
    ElementType::Double,
    ElementType::Numeric { precision: 10, scale: 2 },
    ElementType::Numeric { precision: 38, scale: 9 },
    ElementType::Text,
    ElementType::Varchar(Some(20)),
    ElementType::Char(5),
    ElementType::Bytea,
    ElementType::Date,
    ElementType::Time(6),
    ElementType::Timestamp(6),
    ElementType::TimestampTz(6),
    ElementType::Interval,
    ElementType::Uuid,
    ElementType::Jsonb,
];

/// A value of `element`, decided by `seed`; texts and bytes borrow from `text`.
fn value_of(element: ElementType, seed: u64, text: &str) -> Value<'_> {
    let signed = seed as i64;
    match element {
        ElementType::Boolean => Value::Boolean(seed % 2 == 1),
        ElementType::SmallInt => Value::SmallInt(signed as i16),
        ElementType::Integer => Value::Integer(signed as i32),
        ElementType::BigInt => Value::BigInt(signed),
        ElementType::Real => Value::Real((signed as f32) / 7.0),
        ElementType::Double => Value::Double((signed as f64) / 7.0),
        ElementType::Numeric { precision, .. } if precision <= 18 => Value::Numeric(i128::from(signed)),
        ElementType::Numeric { .. } => Value::Numeric(i128::from(signed) * i128::from(signed)),
        ElementType::Text | ElementType::Varchar(_) | ElementType::Char(_) => Value::Text(text),
        ElementType::Bytea => Value::Bytea(text.as_bytes()),
        ElementType::Date => Value::Date(signed as i32),
        ElementType::Time(_) => Value::Time(signed),
        ElementType::Timestamp(_) => Value::Timestamp(signed),
        ElementType::TimestampTz(_) => Value::TimestampTz(signed),
        ElementType::Interval => Value::Interval(Interval { months: seed as i32, days: -3, micros: signed }),
        ElementType::Uuid => Value::Uuid(u128::from(seed).to_be_bytes()),
        ElementType::Jsonb => Value::Jsonb(text),
    }
}

proptest! {
    #[test]
    fn a_row_reads_back_as_it_was_written(
        cells in prop::collection::vec((0..ALL_TYPES.len(), any::<u64>(), ".{0,30}", any::<bool>()), 0..20),
        version in 0_u32..100_000,
    ) {
        let types: Vec<ColumnType> = cells.iter().map(|cell| ALL_TYPES[cell.0].into()).collect();
        let layout = layout(version, &types);
        let values: Vec<_> = cells
            .iter()
            .map(|(index, seed, text, is_null)| (!is_null).then(|| value_of(ALL_TYPES[*index], *seed, text)))
            .collect();
        let mut bytes = Vec::new();
        layout.encode(&values, &mut bytes).unwrap();
        prop_assert_eq!(Row::schema_version(&bytes).unwrap(), SchemaVersion::new(version));
        prop_assert_eq!(Row::parse(&layout, &bytes).unwrap().values().unwrap(), values.clone());

        // A partial row of every other column, laid over the first row, changes these and no others.
        let other: Vec<_> = cells
            .iter()
            .enumerate()
            .filter(|(place, _)| place % 2 == 0)
            .map(|(place, (index, seed, text, _))| (place, Some(value_of(ALL_TYPES[*index], seed.wrapping_add(1), text))))
            .collect();
        let mut partial = Vec::new();
        layout.encode_partial(&other, &mut partial).unwrap();
        let (before, changed) = (Row::parse(&layout, &bytes).unwrap(), Row::parse(&layout, &partial).unwrap());
        let mut after = Vec::new();
        merge(&before, &changed, |_| None, &mut after).unwrap();
        let mut expected = values;
        for (place, value) in other {
            expected[place] = value;
        }
        prop_assert_eq!(Row::parse(&layout, &after).unwrap().values().unwrap(), expected);
    }

    #[test]
    fn bytes_that_are_no_row_are_an_error_and_never_a_panic(
        types in prop::collection::vec(0..ALL_TYPES.len(), 0..12),
        bytes in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let layout = layout(3, &types.iter().map(|index| ALL_TYPES[*index].into()).collect::<Vec<_>>());
        // A true head in front lets more of the inputs reach the body.
        for head in [vec![], vec![6], vec![7]] {
            let bytes: Vec<u8> = head.into_iter().chain(bytes.iter().copied()).collect();
            if let Ok(row) = Row::parse(&layout, &bytes) {
                for place in 0..layout.columns().len() {
                    if let Ok(Some(Some(Value::Array(array)))) = row.value(place) {
                        let _ = array.elements();
                    }
                }
            }
        }
    }
}

#[test]
fn an_array_keeps_its_nulls_and_its_strings() {
    let mut stored = Vec::new();
    let elements = [Some(Value::Text("x")), Some(Value::Text("y, z")), None, Some(Value::Text(""))];
    Array::encode(ElementType::Text, &elements, &mut stored).unwrap();
    assert_eq!(Array::from_stored(ElementType::Text, &stored).elements().unwrap(), elements);
}

#[test]
fn an_array_count_beyond_its_bytes_is_refused_before_it_allocates() {
    let mut stored = Vec::new();
    cells::put_varint(&mut stored, u32::MAX);
    stored.extend([0; 8]);
    assert!(Array::from_stored(ElementType::Integer, &stored).elements().is_err());
}

#[test]
fn a_row_of_more_than_64_kib_uses_wide_offsets() {
    let layout = layout(1, &[ElementType::Text.into(), ElementType::Bytea.into()]);
    let (long, bytes) = ("x".repeat(65_535), [7_u8; 9]);
    let values = [Some(Value::Text(&long)), Some(Value::Bytea(&bytes))];
    let mut row = Vec::new();
    layout.encode(&values, &mut row).unwrap();
    assert_eq!(Row::parse(&layout, &row).unwrap().values().unwrap(), values);
}

#[test]
fn a_column_added_later_is_filled_and_a_dropped_one_left_out_when_images_are_merged() {
    let old = layout(1, &[ElementType::Integer.into(), ElementType::Text.into()]);
    let new = RowLayout::new(
        SchemaVersion::new(2),
        [(ColumnId::new(1), ElementType::Integer.into()), (ColumnId::new(3), ElementType::Integer.into())],
    );
    let (mut before, mut changed, mut after) = (Vec::new(), Vec::new(), Vec::new());
    old.encode(&[Some(Value::Integer(1)), Some(Value::Text("gone"))], &mut before).unwrap();
    new.encode_partial(&[(0, Some(Value::Integer(2)))], &mut changed).unwrap();
    let (before, changed) = (Row::parse(&old, &before).unwrap(), Row::parse(&new, &changed).unwrap());
    merge(&before, &changed, |place| (place == 1).then_some(Value::Integer(42)), &mut after).unwrap();
    let after = Row::parse(&new, &after).unwrap();
    assert_eq!(after.values().unwrap(), [Some(Value::Integer(2)), Some(Value::Integer(42))]);
}

#[test]
fn a_value_of_another_type_is_refused() {
    let layout = layout(1, &[ElementType::Numeric { precision: 18, scale: 0 }.into()]);
    let too_wide = [Some(Value::Numeric(i128::from(i64::MAX) + 1))];
    assert!(matches!(layout.encode(&too_wide, &mut Vec::new()), Err(CodecError::TypeMismatch { .. })));
    assert!(matches!(layout.encode(&[Some(Value::BigInt(1))], &mut Vec::new()), Err(CodecError::TypeMismatch { .. })));
}

#[test]
fn every_varint_reads_back_and_longer_ones_are_refused() {
    for value in [0, 1, 127, 128, 300, 16_383, 16_384, u32::MAX] {
        let mut bytes = Vec::new();
        cells::put_varint(&mut bytes, value);
        assert_eq!(cells::take_varint(&bytes), Ok((value, &[][..])));
    }
    assert!(cells::take_varint(&[0xff, 0xff, 0xff, 0xff, 0x1f]).is_err());
    assert!(cells::take_varint(&[0x80; 6]).is_err());
    assert!(cells::take_varint(&[]).is_err());
}
