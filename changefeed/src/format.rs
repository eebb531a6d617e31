//! The forms in which changes and rows leave.

pub mod json;
