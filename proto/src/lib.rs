//! The gRPC interface of Highwater, as `highwater/v1/highwater.proto` describes it.

mod codec;

/// Version 1: messages, clients and servers.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "made from the description, which holds the words")]
pub mod v1 {
    tonic::include_proto!("highwater.v1");
}

/// The description itself, as a `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
