//! Where bytes from outside come in: each entry takes any bytes, and must neither panic nor hang, nor take memory out of proportion to them. What
//! it takes for valid must hold: written again it is the same.
//!
//! The fuzz targets call them, and `tests/hostile.rs`, which runs the corpus and changed copies of it without a fuzzer.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use highwater_connectors::decode::debezium::{CellEncoding, Change, Decoder, Event, decode_cell};
use highwater_log::commit::{EncodedCommit, decode_part};
use highwater_log::conformance::sample_group;
use highwater_log::env::simulated::machine;
use highwater_log::env::{Access, Disk};
use highwater_log::frame::{self, FrameHeader, FrameKind, FrameSeed};
use highwater_log::position::{ColumnId, SchemaVersion, SegmentId};
use highwater_log::row::{Row, RowLayout};
use highwater_log::value::{ColumnType, ElementType, Excess, OwnedValue, Value, parse_text};
use highwater_log::{CommitLog, Epoch, LogView, Lsn, SegmentedLog, SegmentedOptions, key};

type Entry = fn(&[u8]);

/// Every entry, by the name of its corpus.
#[allow(dead_code, reason = "a target calls one")]
pub(crate) const ENTRIES: [(&str, Entry); 6] =
    [("frame", frame), ("envelope", envelope), ("row", row), ("key", key_order), ("sql", sql), ("debezium", debezium)];

/// A log whose segment holds these bytes behind its own frames: as they are, or as frames with right checksums that say what the
/// bytes say. It opens, or says why not; what it gives is in order.
pub(crate) fn frame(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else { return };
    let (env, disk, _) = machine(1);
    let path = Path::new("/data/log");
    let options = SegmentedOptions {
        segment_bytes_min: 16 * 1024,
        segment_bytes_max: 16 * 1024,
        free_bytes_min: 0,
        is_self_maintained: false,
        scrub: None,
        ..SegmentedOptions::default()
    };
    let open = || SegmentedLog::open(&env, path, options.clone());
    let log = open().expect("an empty directory");
    log.append(log.epoch(), Lsn::ORIGIN, &sample_group(Lsn::ORIGIN, 3)).expect("three commits");
    log.make_durable().expect("a disk that works");
    drop(log);
    let names = disk.list(path).expect("the directory");
    let manifest = names.iter().filter(|name| name.starts_with("manifest-")).max().expect("a manifest");
    let salt = salt_in(&read(&*disk, &path.join(manifest)));
    let segment = path.join(format!("segment-{:020}", 1));
    let written = read(&*disk, &segment);
    let frames_end = written.iter().rposition(|byte| *byte != 0).map_or(4096, |at| (at + 1).next_multiple_of(16));
    disk.damage(&segment, |bytes| {
        if mode % 2 == 0 {
            let count = data.len().min(bytes.len() - frames_end);
            bytes[frames_end..frames_end + count].copy_from_slice(&data[..count]);
        } else {
            put_frames(FrameSeed::new(salt), data, frames_end, bytes);
        }
    });
    if let Ok(view) = LogView::open(&env, path) {
        let _ = view.verify(|_| {});
        let _ = view.commits(view.earliest().previous(), |_| ControlFlow::Continue(()));
    }
    let Ok(log) = open() else { return };
    let mut reader = log.read_after(Lsn::ORIGIN).expect("nothing was trimmed");
    while let Ok(Some(commit)) = reader.try_next() {
        let _ = commit.decode();
    }
    let end = log.appended();
    let _ = log.append(log.epoch(), end, &sample_group(end, 1)).and_then(|()| log.make_durable());
}

/// Frames that say what the bytes say, twelve bytes and a payload each.
fn put_frames(seed: FrameSeed, mut data: &[u8], mut offset: usize, bytes: &mut [u8]) {
    let mut previous = u32::from_le_bytes(bytes[offset - 4..offset].try_into().expect("four bytes"));
    while let Some((says, rest)) = data.split_first_chunk::<12>() {
        let kind = [FrameKind::Commit, FrameKind::Mark, FrameKind::Seal, FrameKind::Base][usize::from(says[0] % 4)];
        let payload = &rest[..usize::from(says[1]).min(rest.len())];
        let header = FrameHeader {
            kind,
            is_first: says[2] & 1 > 0,
            is_last: says[2] & 2 > 0,
            payload_bytes: payload.len() as u32,
            segment: SegmentId::new(u64::from(says[3] % 3)),
            epoch: Epoch::new(u64::from(says[4] % 4)),
            lsn: Lsn::new(u64::from(says[5] % 8)),
            synced: Lsn::new(u64::from(says[6] % 8)),
            previous: if says[7] & 1 > 0 { previous } else { u32::from(says[8]) },
            part: u32::from(says[9] % 4),
        };
        let mut encoded = Vec::new();
        previous = frame::encode(seed, offset as u64, &header, payload, &mut encoded);
        let Some(place) = bytes.get_mut(offset..offset + encoded.len()) else { return };
        place.copy_from_slice(&encoded);
        offset += encoded.len();
        data = &rest[payload.len()..];
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, Access::Read).expect("it is there");
    let mut bytes = vec![0; file.byte_len().expect("its length") as usize];
    file.read_at(&mut bytes, 0).expect("it can be read");
    bytes
}

fn salt_in(manifest: &[u8]) -> [u8; 16] {
    let text = std::str::from_utf8(manifest).expect("a manifest is text");
    let salt = text.split_once("\"salt\":\"").and_then(|(_, rest)| rest.split('"').next()).expect("it has a salt");
    let digits: Vec<u8> = salt.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |at: usize| u8::from_str_radix(std::str::from_utf8(&digits[2 * at..2 * at + 2]).expect("digits"), 16);
    std::array::from_fn(|at| byte(at).expect("digits"))
}

/// A part of a commit.
pub(crate) fn envelope(data: &[u8]) {
    let part = Bytes::copy_from_slice(data);
    let decoded = decode_part(&part);
    let commit = EncodedCommit::from_parts(Lsn::new(1), vec![part]).decode();
    assert!(commit.is_err() || decoded.is_ok(), "a commit is no more than its parts");
    if let Ok(commit) = commit
        && let Ok(again) = EncodedCommit::encode(&commit)
    {
        assert_eq!(again.decode().expect("what was encoded is decoded"), commit);
    }
}

const TYPES: [ElementType; 19] = [
    ElementType::Boolean,
    ElementType::SmallInt,
    ElementType::Integer,
    ElementType::BigInt,
    ElementType::Real,
    ElementType::Double,
    ElementType::Numeric { precision: 12, scale: 2 },
    ElementType::Numeric { precision: 38, scale: 10 },
    ElementType::Text,
    ElementType::Varchar(Some(5)),
    ElementType::Char(4),
    ElementType::Bytea,
    ElementType::Date,
    ElementType::Time(6),
    ElementType::Timestamp(3),
    ElementType::TimestampTz(6),
    ElementType::Interval,
    ElementType::Uuid,
    ElementType::Jsonb,
];

fn column_type(byte: u8) -> ColumnType {
    let element = TYPES[usize::from(byte) % TYPES.len()];
    if byte >= 200 { ColumnType::Array(element) } else { ColumnType::Scalar(element) }
}

/// A row: how many columns, their types, then its bytes.
pub(crate) fn row(data: &[u8]) {
    let Some((count, rest)) = data.split_first() else { return };
    let count = usize::from(count % 12).min(rest.len());
    let (types, bytes) = rest.split_at(count);
    let columns = types.iter().zip(1..).map(|(byte, id)| (ColumnId::new(id), column_type(*byte)));
    let layout = RowLayout::new(SchemaVersion::new(1), columns);
    let _ = Row::schema_version(bytes);
    let Ok(row) = Row::parse(&layout, bytes) else { return };
    for place in 0..count {
        let _ = row.value(place);
    }
    let Ok(values) = row.values() else { return };
    let mut text = String::new();
    for value in values.iter().flatten() {
        // What is written of a value, people and feeds see.
        text.clear();
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{value:?}"));
    }
    let mut again = Vec::new();
    if layout.encode(&values, &mut again).is_ok() {
        let parsed = Row::parse(&layout, &again).and_then(|row| row.values().map(|values| format!("{values:?}")));
        assert_eq!(parsed.expect("what was encoded is parsed"), format!("{values:?}"));
    }
}

/// Two texts of one type, divided by a zero byte: where both are values, their keys are alike or stand in an order, and neither is the
/// beginning of the other.
pub(crate) fn key_order(data: &[u8]) {
    let Some((byte, rest)) = data.split_first() else { return };
    let column_type = column_type(*byte);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let keys: Vec<Vec<u8>> = text
        .splitn(2, '\0')
        .filter_map(|text| {
            let value = parse_text(column_type, text, Excess::Refused).ok()?;
            let mut key = Vec::new();
            key::encode([(column_type, Some(value.as_value()))], &mut key).ok()?;
            let same = value_text(column_type, &value);
            let again = parse_text(column_type, &same, Excess::Refused);
            assert!(
                again.is_ok_and(|again| value_text(column_type, &again) == same),
                "{column_type} {text:?} {same:?}"
            );
            Some(key)
        })
        .collect();
    if let [one, other] = &keys[..]
        && one != other
    {
        assert!(!one.starts_with(other) && !other.starts_with(one), "{column_type} {text:?}");
    }
}

fn value_text(column_type: ColumnType, value: &OwnedValue) -> String {
    let mut text = String::new();
    let value: Value<'_> = value.as_value();
    // A value that was parsed is of its type.
    let _ = highwater_log::value::write_text(column_type, value, &mut text);
    text
}

/// Statements.
pub(crate) fn sql(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(statements) = highwater_query::parse(text) {
        for statement in statements {
            drop(format!("{:?}", statement.expect("it was parsed before")));
        }
    }
}

/// Debezium's events, line by line.
pub(crate) fn debezium(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut decoder = Decoder::default();
    for line in text.lines() {
        let Ok(Event::Change(change)) = decoder.decode(line) else { continue };
        let Change { source, key, before, after, .. } = *change;
        let _ = source.last_commit_lsn();
        let before = before.and_then(|before| before.cells().ok());
        for (place, (_, cell)) in [key, before, after].into_iter().flatten().flatten().enumerate() {
            for (byte, encoding) in [
                (place as u8, CellEncoding::Adaptive),
                (place as u8 + 7, CellEncoding::Nanoseconds),
                (13, CellEncoding::Milliseconds),
                (14, CellEncoding::Microseconds),
                (6, CellEncoding::Unscaled(2)),
                (7, CellEncoding::Unscaled(38)),
                (203, CellEncoding::Adaptive),
            ] {
                let _ = decode_cell(cell, column_type(byte), encoding);
            }
        }
    }
}
