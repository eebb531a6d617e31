//! Messages on the wire, within bounds.

use bytes::Buf;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

/// Tonic's codec for protobuf, which refuses a message of too many fields before it is taken apart: two bytes on the wire can be fifty in
/// memory.
pub(crate) struct BoundedCodec<T, U>(ProstCodec<T, U>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(ProstCodec::default())
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = BoundedDecoder<<ProstCodec<T, U> as Codec>::Decoder>;

    fn encoder(&mut self) -> Self::Encoder {
        self.0.encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(self.0.decoder())
    }
}

pub(crate) struct BoundedDecoder<D>(D);

impl<D: Decoder<Error = Status>> Decoder for BoundedDecoder<D> {
    type Item = D::Item;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        check_fields(message.chunk())?;
        // What cannot be decoded is the sender's mistake, and no defect here.
        self.0.decode(message).map_err(|status| Status::invalid_argument(status.message()))
    }

    fn buffer_settings(&self) -> tonic::codec::BufferSettings {
        self.0.buffer_settings()
    }
}

/// Counts the fields of a message, not those of messages in it. What is malformed is told by whoever decodes it.
fn check_fields(mut message: &[u8]) -> Result<(), Status> {
    let mut count = 0;
    while !message.is_empty() {
        count += 1;
        if count > FIELDS_MAX {
            return Err(Status::resource_exhausted(format!("a message of more than {FIELDS_MAX} fields")));
        }
        let Some(tag) = varint(&mut message) else { return Ok(()) };
        let length = match tag & 7 {
            0 if varint(&mut message).is_some() => 0,
            1 => 8,
            2 => match varint(&mut message) {
                Some(length) => length,
                None => return Ok(()),
            },
            5 => 4,
            // No message of ours has them, and what lies in them would not be counted.
            3 | 4 => return Err(Status::invalid_argument("a message with groups in it")),
            _ => return Ok(()),
        };
        let Some(rest) = usize::try_from(length).ok().and_then(|length| message.get(length..)) else { return Ok(()) };
        message = rest;
    }
    Ok(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// As many as a statement has parameters, and what else a message says.
const FIELDS_MAX: u32 = 70_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ExecuteRequest, Value, value::Kind};

    #[test]
    fn fields_are_counted_and_what_is_malformed_is_left_to_the_decoder() {
        let value = || Value { kind: Some(Kind::Text("x".repeat(300))) };
        let request = |count| ExecuteRequest {
            sql: "SELECT 1".to_owned(),
            min_lsn: u64::MAX,
            parameters: (0..count).map(|_| value()).collect(),
            ..ExecuteRequest::default()
        };
        assert!(check_fields(&request(65_535).encode_to_vec()).is_ok());
        assert!(check_fields(&request(70_000).encode_to_vec()).is_err());
        assert!(check_fields(&[0x3a, 0].repeat(70_000)).is_ok());
        assert!(check_fields(&[0x3a, 0].repeat(70_001)).is_err());
        let whole = request(3).encode_to_vec();
        for length in 0..whole.len() {
            assert!(check_fields(&whole[..length]).is_ok());
        }
        for malformed in [&[0xff; 12][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f], &[0x09, 1], &[0x0d]] {
            assert!(check_fields(malformed).is_ok(), "{malformed:?}");
        }
        assert!(check_fields(&[0xa3, 6, 0xa4, 6]).is_err(), "what a group holds would not be counted");
    }
}
