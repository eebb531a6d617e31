//! Where rows come from.

pub mod file;
