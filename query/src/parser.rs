//! Statements out of text: limits first, then the parser, and our own words at the end.

mod distinct;
mod extent;

use std::collections::VecDeque;
use std::ops::Range;

use datafusion::sql::sqlparser::ast::Statement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use highwater_log::Lsn;

use crate::error::SqlError;
use crate::parameter::{no_parameter, place_of};
use crate::sqlstate;

/// A statement, and the LSN that it names behind itself.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The statement without our words.
    pub statement: Statement,
    /// `… AS OF LSN n`.
    pub as_of: Option<Lsn>,
    /// How many parameters it has: the highest number behind a `$`.
    pub parameter_count: usize,
}

/// The statements of a text, in order, each taken apart when its turn comes, but for the first few: the tree of one takes a hundred times the
/// bytes of its text and more.
pub struct Statements {
    source: Source,
    /// Those that are still to come.
    pieces: VecDeque<Piece>,
    /// The first of them.
    ready: VecDeque<Parsed>,
}

enum Source {
    /// Of a short text, whole.
    Tokens(Vec<TokenWithSpan>),
    Text(Box<str>),
}

struct Piece {
    /// Of the tokens, or of the text's bytes.
    range: Range<usize>,
    /// Where it begins in the text.
    line: u64,
}

impl Statements {
    /// The only statement; `None` unless there is exactly one.
    #[must_use]
    pub fn single(mut self) -> Option<Parsed> {
        if self.pieces.len() == 1 { self.next()?.ok() } else { None }
    }

    /// What a piece of the text says, if anything.
    fn parse(source: &Source, piece: &Piece) -> Result<Option<Parsed>, SqlError> {
        match source {
            Source::Tokens(tokens) => parse_one(&tokens[piece.range.clone()]),
            Source::Text(text) => {
                let parsed = tokenize(&text[piece.range.clone()]).and_then(|tokens| parse_one(&tokens));
                parsed.map_err(|error| {
                    let line = piece.line;
                    let message = format!("{} (in the statement whose text begins on line {line})", error.message);
                    SqlError::new(error.sqlstate, message)
                })
            }
        }
    }
}

impl Iterator for Statements {
    type Item = Result<Parsed, SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.pieces.pop_front()?;
        if let Some(ready) = self.ready.pop_front() {
            return Some(Ok(ready));
        }
        // It was parsed before, and had something to say.
        Self::parse(&self.source, &piece).transpose()
    }
}

impl std::fmt::Debug for Statements {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} statements", self.pieces.len())
    }
}

/// The statements of a text, in order, of which each was found to be one. An empty text has none.
///
/// # Errors
/// `42601`; `22021` for a zero byte; `54001` beyond the limits on length and nesting, which are checked before anything recurses.
pub fn parse(sql: &str) -> Result<Statements, SqlError> {
    let too_complex = |message: String| Err(SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, message));
    if sql.len() > STATEMENT_BYTES_MAX {
        return too_complex(format!("a text of {} bytes is longer than the limit of {STATEMENT_BYTES_MAX}", sql.len()));
    }
    if sql.contains('\0') {
        return Err(SqlError::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, "a statement cannot hold a zero byte"));
    }
    let (source, pieces) = if sql.len() <= WHOLE_BYTES_MAX {
        let tokens = tokenize(sql)?;
        let mut start = 0;
        let pieces: Vec<_> = tokens
            .split(|token| token.token == Token::SemiColon)
            .map(|tokens| {
                let range = start..start + tokens.len();
                start = range.end + 1;
                Piece { range, line: 1 }
            })
            .collect();
        (Source::Tokens(tokens), pieces)
    } else {
        let mut pieces = Vec::new();
        for extent::Extent { bytes, line, tokens_max } in extent::extents(sql) {
            if tokens_max > TOKENS_MAX {
                return too_complex(format!(
                    "the statement whose text begins on line {line} has more than {TOKENS_MAX} words, signs and blanks"
                ));
            }
            if pieces.len() == STATEMENTS_MAX {
                return too_complex(format!("the text has more than {STATEMENTS_MAX} statements"));
            }
            pieces.push(Piece { range: bytes, line });
        }
        (Source::Text(sql.into()), pieces)
    };
    let (mut said, mut ready) = (VecDeque::new(), VecDeque::new());
    for piece in pieces {
        let Some(parsed) = Statements::parse(&source, &piece)? else { continue };
        if said.len() == ready.len() && ready.len() < READY_MAX {
            ready.push_back(parsed);
        }
        said.push_back(piece);
    }
    Ok(Statements { source, pieces: said, ready })
}

fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>, SqlError> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location();
    tokens.map_err(|error| SqlError::syntax(format!("syntax error: {error}")))
}

/// An expression, as a stored DEFAULT holds it.
pub(crate) fn parse_expression(sql: &str) -> Result<datafusion::sql::sqlparser::ast::Expr, SqlError> {
    let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(sql);
    let expr = parser.and_then(|mut parser| parser.parse_expr());
    let mut expr = expr.map_err(|error| SqlError::syntax(error.to_string()))?;
    distinct::rebind(&mut expr);
    Ok(expr)
}

fn parse_one(tokens: &[TokenWithSpan]) -> Result<Option<Parsed>, SqlError> {
    let is_said = |token: &&TokenWithSpan| !matches!(token.token, Token::Whitespace(_) | Token::EOF);
    let mut tokens: Vec<TokenWithSpan> = tokens.iter().filter(is_said).cloned().collect();
    if tokens.is_empty() {
        return Ok(None);
    }
    check_complexity(&tokens)?;
    let as_of = take_as_of(&mut tokens)?;
    let parameter_count = count_parameters(&tokens)?;
    let mut parser =
        Parser::new(&PostgreSqlDialect {}).with_recursion_limit(RECURSION_MAX).with_tokens_with_locations(tokens);
    let mut statement = parser.parse_statement().map_err(|error| SqlError::syntax(error.to_string()))?;
    distinct::rebind(&mut statement);
    match parser.peek_token().token {
        Token::EOF => Ok(Some(Parsed { statement, as_of, parameter_count })),
        unexpected => Err(SqlError::syntax(format!("syntax error at or near \"{unexpected}\""))),
    }
}

/// Takes `AS OF LSN n` off the end.
fn take_as_of(tokens: &mut Vec<TokenWithSpan>) -> Result<Option<Lsn>, SqlError> {
    let [.., as_, of, lsn, number] = &tokens[..] else { return Ok(None) };
    let is_word = |token: &TokenWithSpan, expected: &str| match &token.token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case(expected),
        _ => false,
    };
    if !(is_word(as_, "as") && is_word(of, "of") && is_word(lsn, "lsn")) {
        return Ok(None);
    }
    let parsed = match &number.token {
        Token::Number(digits, _) => digits.parse().ok(),
        _ => None,
    };
    let at = parsed.ok_or_else(|| SqlError::syntax(format!("AS OF LSN takes a number, not \"{}\"", number.token)))?;
    tokens.truncate(tokens.len() - 4);
    Ok(Some(Lsn::new(at)))
}

fn count_parameters(tokens: &[TokenWithSpan]) -> Result<usize, SqlError> {
    let placeholders = tokens.iter().filter_map(|token| match &token.token {
        Token::Placeholder(placeholder) => Some(placeholder),
        _ => None,
    });
    placeholders.into_iter().try_fold(0, |count, placeholder| {
        let place = place_of(placeholder).ok_or_else(|| no_parameter(placeholder))?;
        Ok(count.max(place + 1))
    })
}

/// What nests deep or chains long ends as a deep tree, whose mere dropping overflows a stack: it is refused while it is flat.
fn check_complexity(tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let too_complex = |what: &str, max: usize| {
        Err(SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, format!("the statement {what} (limit {max})")))
    };
    let mut levels = vec![Level::default()];
    let (mut calls, mut work) = (0_u32, 0_u64);
    for (index, token) in tokens.iter().enumerate() {
        // What is said within calls within calls is parsed twice for each of them: first as the name of an argument that it is not.
        if calls > CALLS_FREE {
            work += 1 << calls.min(63);
        }
        if work > CALLS_WORK_MAX {
            return Err(SqlError::new(
                sqlstate::STATEMENT_TOO_COMPLEX,
                "the statement nests calls of functions too deep",
            ));
        }
        match &token.token {
            Token::Word(word) if word.quote_style.is_some() && word.value.is_empty() => {
                return Err(SqlError::syntax("zero-length delimited identifier at or near \"\"\"\""));
            }
            Token::LParen | Token::LBracket | Token::LBrace => {
                let is_call = is_call(tokens, index);
                calls += u32::from(is_call);
                levels.push(Level { is_subquery: is_subquery(tokens, index), is_call, ..Level::default() });
            }
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                let level = levels.pop().unwrap_or_default();
                calls -= u32::from(level.is_call);
                let depth = level.depth();
                if let Some(outer) = levels.last_mut() {
                    outer.operand = outer.operand.max(depth);
                }
            }
            Token::Comma => {
                if let Some(level) = levels.last_mut() {
                    let Level { is_subquery, is_call, .. } = *level;
                    *level = Level { earlier: level.depth(), is_subquery, is_call, ..Level::default() };
                }
            }
            token if is_operator(token) => {
                if let Some(level) = levels.last_mut() {
                    level.operators += match token {
                        token if becomes_call(token) => CALL_WEIGHT,
                        Token::Word(word) if is_prefix(&word.value) => PREFIX_WEIGHT,
                        _ => 1,
                    };
                }
            }
            _ => continue,
        }
        if levels.len() > NESTING_MAX {
            return too_complex("is nested too deep", NESTING_MAX);
        }
        if levels.iter().filter(|level| level.is_subquery).count() > SUBQUERIES_MAX {
            return too_complex("nests too many subqueries", SUBQUERIES_MAX);
        }
        let chained: usize = levels.iter().map(|level| level.operators).sum();
        if chained + levels.last().map_or(0, |level| level.operand) > OPERATORS_MAX {
            return too_complex("chains too many operators", OPERATORS_MAX);
        }
    }
    Ok(())
}

/// What an open parenthesis holds so far: how deep a tree it can become.
#[derive(Default)]
struct Level {
    /// Operators since the last comma: each may put another node over those before it.
    operators: usize,
    /// The deepest parenthesis since the last comma.
    operand: usize,
    /// The deepest item before the last comma.
    earlier: usize,
    /// It is a query in the place of a value or a condition.
    is_subquery: bool,
    /// It holds the arguments of a function, as far as tokens tell.
    is_call: bool,
}

impl Level {
    fn depth(&self) -> usize {
        self.earlier.max(self.operators + self.operand)
    }
}

/// Whether the parenthesis stands behind what may be a function's name, and holds no query.
fn is_call(tokens: &[TokenWithSpan], index: usize) -> bool {
    const BEFORE_OTHERS: [&str; 18] = [
        "FROM", "JOIN", "LATERAL", "IN", "VALUES", "AND", "OR", "NOT", "ON", "USING", "AS", "WHERE", "HAVING", "BY",
        "OVER", "WHEN", "THEN", "ELSE",
    ];
    let before = index.checked_sub(1);
    let is_behind_word = before.is_some_and(|before| matches!(tokens[before].token, Token::Word(_)));
    tokens[index].token == Token::LParen
        && is_behind_word
        && !is_word(tokens, before, &BEFORE_OTHERS)
        && !is_word(tokens, Some(index + 1), &QUERY_BEGINNINGS)
}

/// Whether the parenthesis holds a query, and not one whose rows are a table's.
fn is_subquery(tokens: &[TokenWithSpan], index: usize) -> bool {
    const BEFORE_TABLES: [&str; 7] = ["FROM", "JOIN", "LATERAL", "AS", "UNION", "EXCEPT", "INTERSECT"];
    // WITH in WITH is one wherever it stands.
    is_word(tokens, Some(index + 1), &["WITH"])
        || (is_word(tokens, Some(index + 1), &QUERY_BEGINNINGS)
            && !is_word(tokens, index.checked_sub(1), &BEFORE_TABLES))
}

/// Whether the word may make a statement of a statement.
fn is_prefix(word: &str) -> bool {
    ["EXPLAIN", "PREPARE"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// Whether there is one of these words, not quoted.
fn is_word(tokens: &[TokenWithSpan], index: Option<usize>, words: &[&str]) -> bool {
    match index.and_then(|index| tokens.get(index)).map(|token| &token.token) {
        Some(Token::Word(word)) => {
            word.quote_style.is_none() && words.iter().any(|known| word.value.eq_ignore_ascii_case(known))
        }
        _ => false,
    }
}

/// Whether the operator is planned as a call of a function.
fn becomes_call(token: &Token) -> bool {
    matches!(
        token,
        Token::DoubleColon
            | Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Caret
            | Token::Arrow
            | Token::LongArrow
    )
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            const CHAINING: [&str; 26] = [
                "AND",
                "OR",
                "NOT",
                "UNION",
                "EXCEPT",
                "INTERSECT",
                "IS",
                "LIKE",
                "ILIKE",
                "WHEN",
                "CASE",
                "JOIN",
                "BETWEEN",
                "SELECT",
                "IN",
                "AT",
                "OVERLAPS",
                "SIMILAR",
                "RLIKE",
                "REGEXP",
                "OPERATOR",
                "ISNULL",
                "NOTNULL",
                "COLLATE",
                "DIV",
                "XOR",
            ];
            word.quote_style.is_none()
                && (is_prefix(&word.value) || CHAINING.iter().any(|known| word.value.eq_ignore_ascii_case(known)))
        }
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Placeholder(_)
        | Token::Period
        | Token::EscapedStringLiteral(_)
        | Token::DollarQuotedString(_) => false,
        _ => true,
    }
}

/// A longer text is refused before it is taken apart.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A longer text is not taken apart as a whole, but statement by statement.
const WHOLE_BYTES_MAX: usize = 256 * 1024;
/// Of one statement of a long text.
const TOKENS_MAX: usize = 4_000_000;
const STATEMENTS_MAX: usize = 500_000;
/// So many statements of a text are not taken apart again when they are run.
const READY_MAX: usize = 64;
const NESTING_MAX: usize = 50;
/// The time that planning takes doubles with each one inside another.
const SUBQUERIES_MAX: usize = 16;
const OPERATORS_MAX: usize = 500;
/// Of a call the frames are larger, and at each step of planning its type is found anew through all that it is made of.
const CALL_WEIGHT: usize = 4;
/// The frames of a statement are the largest.
const PREFIX_WEIGHT: usize = 50;
const RECURSION_MAX: usize = 400;
const QUERY_BEGINNINGS: [&str; 3] = ["SELECT", "WITH", "VALUES"];
/// Calls within one another that count for nothing.
const CALLS_FREE: u32 = 4;
/// How many tokens may be looked at for that; a second or two.
const CALLS_WORK_MAX: u64 = 1_000_000;
