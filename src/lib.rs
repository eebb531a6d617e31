//! Highwater, the database as a whole. So far: what its command line needs of it.

pub mod cli;
