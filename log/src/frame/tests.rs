use super::*;

fn seed() -> FrameSeed {
    FrameSeed::new([1; 16])
}

fn header(payload: &[u8]) -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Commit,
        is_first: true,
        is_last: false,
        payload_bytes: payload.len() as u32,
        segment: SegmentId::new(3),
        epoch: Epoch::new(2),
        lsn: Lsn::new(9),
        synced: Lsn::new(7),
        previous: 0xdead_beef,
        part: 1,
    }
}

#[test]
fn a_frame_reads_back_and_is_padded() {
    for length in [0, 1, 15, 16, 17, 4_000] {
        let payload = vec![0xa5; length];
        let mut bytes = Vec::new();
        let checksum = encode(seed(), 4096, &header(&payload), &payload, &mut bytes);
        assert_eq!(bytes.len() % FRAME_ALIGNMENT, 0);
        let checked = decode_header(seed(), 4096, &bytes).unwrap();
        assert_eq!(checked.header, header(&payload));
        assert_eq!(checked.checksum, checksum);
        assert_eq!(checked.header.frame_bytes(), bytes.len() as u64);
        checked.check_payload(&bytes[FRAME_HEADER_BYTES..][..length]).unwrap();
    }
}

#[test]
fn every_flipped_bit_of_header_and_payload_is_found() {
    let payload = b"some payload";
    let mut bytes = Vec::new();
    encode(seed(), 4096, &header(payload), payload, &mut bytes);
    for bit in 0..(FRAME_HEADER_BYTES + payload.len()) * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = decode_header(seed(), 4096, &damaged)
            .and_then(|checked| checked.check_payload(&damaged[FRAME_HEADER_BYTES..][..payload.len()]));
        assert!(found.is_err(), "bit {bit}");
    }
}

#[test]
fn a_frame_copied_to_another_place_or_log_is_none() {
    let mut bytes = Vec::new();
    encode(seed(), 4096, &header(b"x"), b"x", &mut bytes);
    assert_eq!(decode_header(seed(), 4112, &bytes).unwrap_err(), FrameError::Header);
    let other = FrameSeed::new([2; 16]);
    assert_eq!(decode_header(other, 4096, &bytes).unwrap_err(), FrameError::Header);
}

#[test]
fn zeros_are_blank_and_short_bytes_are_cut() {
    assert_eq!(decode_header(seed(), 0, &[0; 64]).unwrap_err(), FrameError::Blank);
    assert_eq!(decode_header(seed(), 0, &[0; 63]).unwrap_err(), FrameError::Cut);
}

#[test]
fn what_a_newer_program_wrote_is_named_as_such() {
    for (at, what) in [(4, "version"), (5, "kind"), (6, "flags"), (7, "codec")] {
        let mut bytes = Vec::new();
        encode(seed(), 0, &header(b""), b"", &mut bytes);
        bytes[at] = 0x44;
        let checksum = crc32c::crc32c_append(seed().at(0), &bytes[..HEADER_CHECKSUM_AT]);
        bytes[HEADER_CHECKSUM_AT..][..4].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(decode_header(seed(), 0, &bytes).unwrap_err(), FrameError::Newer { what, found: 0x44 });
    }
}
