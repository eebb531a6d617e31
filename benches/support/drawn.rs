//! What benches draw and write.

/// A number below another, as if drawn by chance: SplitMix64's.
pub(crate) fn drawn(at: i64, below: i64) -> i64 {
    let mixed = (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 1) as i64 % below
}

/// The text of a row: 80 bytes.
pub(crate) fn text(id: i64) -> String {
    format!("{id:0>80}")
}
