//! What feeds need of SQL and Arrow.

mod arrow;
mod selection;

pub use self::arrow::{ArrowChanges, ArrowEncoder};
pub(crate) use self::selection::FeedSelector;
