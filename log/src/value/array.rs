//! One-dimensional arrays, encoded as rows and keys carry them.

use super::{ElementType, Value};
use crate::row::{CodecError, cells};

/// An array in its stored form: the element count (LEB128), then the elements as [`cells`] lays them out.
///
/// Two arrays are equal when type and stored bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array<'a> {
    element: ElementType,
    stored: &'a [u8],
}

impl<'a> Array<'a> {
    /// Encodes `elements` (NULL is `None`) into `out`, which [`Array::from_stored`] then reads.
    ///
    /// # Errors
    /// [`CodecError::TypeMismatch`] when an element is not of type `element`.
    pub fn encode(element: ElementType, elements: &[Option<Value<'_>>], out: &mut Vec<u8>) -> Result<(), CodecError> {
        let count = u32::try_from(elements.len()).map_err(|_| CodecError::TooLarge)?;
        cells::put_varint(out, count);
        cells::encode(elements.iter().map(|value| (element.into(), *value)), out)
    }

    /// An array over its stored form; what is wrong with the bytes shows when elements are read.
    #[must_use]
    pub const fn from_stored(element: ElementType, stored: &'a [u8]) -> Self {
        Self { element, stored }
    }

    /// The type of its elements.
    #[must_use]
    pub const fn element_type(self) -> ElementType {
        self.element
    }

    /// The stored form.
    #[must_use]
    pub const fn stored(self) -> &'a [u8] {
        self.stored
    }

    /// Its elements in order, NULL as `None`.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] when the stored form is no array of this type.
    pub fn elements(self) -> Result<Vec<Option<Value<'a>>>, CodecError> {
        let (count, rest) = cells::take_varint(self.stored)?;
        // Each element takes at least a bit: a count that no body of this length can hold must not allocate.
        if count as usize / 8 > rest.len() {
            return Err(CodecError::Malformed("array count"));
        }
        cells::decode_all(std::iter::repeat_n(self.element.into(), count as usize), rest)
    }
}
