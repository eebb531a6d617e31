//! Commits turned into what one subscriber asked for.

pub mod format;
