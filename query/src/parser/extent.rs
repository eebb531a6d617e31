//! Where the statements of a long text end, and how many tokens each has at most, found without taking it apart: tokens take a hundred
//! times the bytes of a text that is made of them.
//!
//! It knows what hides a semicolon: strings, quoted names, dollar quotes, comments. Where it were to see that otherwise than the tokenizer
//! does, the parser would meet half a string, or a semicolon within a statement, and refuse it.

use std::ops::Range;

/// A statement in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its bytes, without the semicolon.
    pub(super) bytes: Range<usize>,
    /// The line on which its bytes begin, from 1.
    pub(super) line: u64,
    /// It has no more tokens than this, blanks counted one by one.
    pub(super) tokens_max: usize,
}

/// The statements of a text that say anything, one after another.
pub(super) fn extents(text: &str) -> impl Iterator<Item = Extent> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let (start, start_line) = (at, line);
            let (mut tokens_max, mut is_said) = (0, false);
            while at < bytes.len() && bytes[at] != b';' {
                let end = token_end(bytes, at);
                is_said |= !bytes[at].is_ascii_whitespace();
                line += bytes[at..end].iter().filter(|byte| **byte == b'\n').count() as u64;
                (at, tokens_max) = (end, tokens_max + 1);
            }
            let extent = Extent { bytes: start..at, line: start_line, tokens_max };
            at += 1;
            if is_said {
                return Some(extent);
            }
        }
        None
    })
}

/// Where what begins at `at` ends: a token, or a part of one.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let length = match rest {
        [b'\'', ..] => quoted(rest, b'\'', has_escapes(bytes, at)),
        [b'"', ..] => quoted(rest, b'"', false),
        [b'$', ..] => dollar_quoted(rest).unwrap_or(1),
        [b'-', b'-', ..] => rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len()),
        [b'/', b'*', ..] => comment(rest),
        [first, ..] if is_word(*first) => {
            // A name may have dollars in it, a number ends before one.
            let is_name = !first.is_ascii_digit();
            let goes_on = |byte: &u8| is_word(*byte) || (is_name && *byte == b'$');
            rest.iter().position(|byte| !goes_on(byte)).unwrap_or(rest.len())
        }
        _ => 1,
    };
    at + length
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

/// Whether the string that begins at `at` is one with backslashes: `E'…'`.
fn has_escapes(bytes: &[u8], at: usize) -> bool {
    match bytes[..at] {
        [.., before, b'e' | b'E'] => !is_word(before),
        [b'e' | b'E'] => true,
        _ => false,
    }
}

/// The length of what is quoted, quotes included; a quote that is doubled is part of it.
fn quoted(rest: &[u8], quote: u8, has_escapes: bool) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' if has_escapes => at += 2,
            byte if byte == quote && rest.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `$tag$…$tag$`.
fn dollar_quoted(rest: &[u8]) -> Option<usize> {
    let tag = 2 + rest[1..].iter().position(|byte| *byte == b'$')?;
    let is_tag = rest[1..tag - 1].iter().all(|byte| is_word(*byte)) && !rest[1].is_ascii_digit();
    if !is_tag {
        return None;
    }
    let (open, body) = rest.split_at(tag);
    let end = memchr::memmem::find(body, open);
    Some(end.map_or(rest.len(), |end| tag + end + tag))
}

/// The length of a comment, which may hold others.
fn comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return at + 2,
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

    use super::*;

    #[test]
    fn statements_end_where_the_tokenizer_ends_them() {
        for text in [
            "",
            ";",
            "SELECT 1; SELECT 2",
            "SELECT ';' ; SELECT 'it''s;' ; SELECT \"a;\"\"b\" ;",
            r"SELECT E'\';' ; SELECT e'a\\'; SELECT '\'; SELECT fe'\', 2",
            "SELECT $$;$$; SELECT $x$ $$ ; $x$; SELECT $1, $2; SELECT $a",
            "SELECT 1 -- ; no\r, 2; SELECT 1 -- ; no\n; SELECT /* ; /* ; */ ; */ 2; SELECT /* open ;",
            "SELECT 'open ; SELECT 1",
            "SELECT 1.5e10, a.b, x->>'y;', '{1,2}'::int[], B'01;', X'ff', U&'\\0041;'",
            "INSERT INTO t VALUES (1, 'ä;ö'), (2, NULL);\n\n  DELETE FROM t;\nSELECT 1",
            "SELECT a$b$c; SELECT 1$2",
        ] {
            let found: Vec<_> = extents(text).collect();
            let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location() else { continue };
            let is_blank = |token: &TokenWithSpan| {
                matches!(&token.token, Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab))
            };
            let split = tokens.split(|token| token.token == Token::SemiColon);
            let split: Vec<_> = split.filter(|tokens| !tokens.iter().all(is_blank)).collect();
            assert_eq!(found.len(), split.len(), "{text}");
            for (extent, tokens) in found.iter().zip(split) {
                assert!(extent.tokens_max >= tokens.len(), "{text}: {extent:?} has {} tokens", tokens.len());
                let alone = Tokenizer::new(&PostgreSqlDialect {}, &text[extent.bytes.clone()]).tokenize().unwrap();
                let told: Vec<_> = tokens.iter().map(|token| token.token.clone()).collect();
                assert_eq!(alone, told, "{text}");
                let first = tokens.first().map_or(extent.line, |token| token.span.start.line);
                assert_eq!(extent.line, first, "{text}");
            }
        }
    }
}
