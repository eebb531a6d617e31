//! Outside ends: what comes in from elsewhere, and the decoding of others' formats.

pub mod decode;
pub mod sources;
