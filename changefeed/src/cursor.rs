//! Where a reader of a feed stands.

use std::fmt;
use std::str::FromStr;

use highwater_log::{LogId, Lsn};

/// A place in a log: every commit up to `lsn`, and of the commit after it the changes before `position`.
///
/// ```text
///   commits   … lsn │ lsn + 1                 │ lsn + 2 …
///   changes         │ 0  1  2 … position …    │
///   ════════ dealt with ════════╡ next
/// ```
///
/// Cursors of one log are ordered. Another log's is refused wherever one is taken, unless this log goes on from that one and has all
/// commits up to there. As text it is `log id/lsn/position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// The log.
    pub log: LogId,
    /// The last commit that is dealt with whole.
    pub lsn: Lsn,
    /// How many changes of the commit after it are dealt with, those that the feed does not tell of among them.
    pub position: u64,
}

impl Cursor {
    /// Behind commit `lsn`.
    #[must_use]
    pub const fn after(log: LogId, lsn: Lsn) -> Self {
        Self { log, lsn, position: 0 }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.log, self.lsn, self.position)
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is written log id/lsn/position")]
pub struct CursorSyntaxError;

impl FromStr for Cursor {
    type Err = CursorSyntaxError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let (Some(log), Some(lsn), Some(position), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CursorSyntaxError);
        };
        Ok(Self {
            log: log.parse().map_err(|_| CursorSyntaxError)?,
            lsn: Lsn::new(lsn.parse().map_err(|_| CursorSyntaxError)?),
            position: position.parse().map_err(|_| CursorSyntaxError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let cursor = Cursor { log: LogId::from_bytes([7; 16]), lsn: Lsn::new(812), position: 3 };
        assert_eq!(cursor.to_string(), "07070707-0707-0707-0707-070707070707/812/3");
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for text in [
            "",
            "812",
            "07070707-0707-0707-0707-070707070707/812",
            "x/1/2",
            "07070707-0707-0707-0707-070707070707/1/2/3",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorSyntaxError), "{text}");
        }
    }
}
