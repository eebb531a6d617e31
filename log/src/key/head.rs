//! Keys of maps that lie in memory.

use bytes::Bytes;

/// A key with its first bytes beside it: comparisons seldom need to go to the heap for the rest. Ordered as its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeadKey {
    /// The first 16 bytes as a number, filled up with zeros; where two are equal, the bytes decide.
    head: u128,
    bytes: Bytes,
}

impl HeadKey {
    /// The key as it is.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl From<Bytes> for HeadKey {
    fn from(bytes: Bytes) -> Self {
        let mut head = [0; 16];
        let len = bytes.len().min(head.len());
        head[..len].copy_from_slice(&bytes[..len]);
        Self { head: u128::from_be_bytes(head), bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::simulated::Random;

    #[test]
    fn keys_are_ordered_as_their_bytes_are() {
        let mut random = Random::new(1);
        let mut key = || -> Bytes {
            // Few values, so that many begin alike, and end in what the shorter one is filled up with.
            let len = random.below(20) as usize;
            (0..len).map(|_| random.below(2) as u8 * 255).collect()
        };
        for _ in 0..10_000 {
            let (a, b) = (key(), key());
            let [x, y] = [&a, &b].map(|key| HeadKey::from(key.clone()));
            assert_eq!((x.cmp(&y), x == y), (a.cmp(&b), a == b), "{a:?} {b:?}");
        }
    }
}
