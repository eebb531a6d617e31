//! Statements out of text: limits first, then the parser, and our own words at the end.

mod distinct;

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

/// The statements of a text, in order. An empty text has none.
///
/// # Errors
/// `42601`; `22021` for a zero byte; `54001` beyond the limits on length and nesting, which are checked before anything recurses.
pub fn parse(sql: &str) -> Result<Vec<Parsed>, SqlError> {
    if sql.len() > STATEMENT_BYTES_MAX {
        let message = format!("a text of {} bytes is longer than the limit of {STATEMENT_BYTES_MAX}", sql.len());
        return Err(SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, message));
    }
    if sql.contains('\0') {
        return Err(SqlError::new(sqlstate::CHARACTER_NOT_IN_REPERTOIRE, "a statement cannot hold a zero byte"));
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| SqlError::syntax(format!("syntax error: {error}")))?;
    let statements = tokens.split(|token| token.token == Token::SemiColon);
    statements.filter_map(|tokens| parse_one(tokens).transpose()).collect()
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
    for (index, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::Word(word) if word.quote_style.is_some() && word.value.is_empty() => {
                return Err(SqlError::syntax("zero-length delimited identifier at or near \"\"\"\""));
            }
            Token::LParen | Token::LBracket | Token::LBrace => {
                levels.push(Level { is_subquery: is_subquery(tokens, index), ..Level::default() });
            }
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                let depth = levels.pop().map_or(0, |level| level.depth());
                if let Some(outer) = levels.last_mut() {
                    outer.operand = outer.operand.max(depth);
                }
            }
            Token::Comma => {
                if let Some(level) = levels.last_mut() {
                    *level = Level { earlier: level.depth(), is_subquery: level.is_subquery, ..Level::default() };
                }
            }
            token if is_operator(token) => {
                if let Some(level) = levels.last_mut() {
                    level.operators += if becomes_call(token) { CALL_WEIGHT } else { 1 };
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
}

impl Level {
    fn depth(&self) -> usize {
        self.earlier.max(self.operators + self.operand)
    }
}

/// Whether the parenthesis holds a query, and not one whose rows are a table's.
fn is_subquery(tokens: &[TokenWithSpan], index: usize) -> bool {
    let is_word =
        |index: Option<usize>, words: &[&str]| match index.and_then(|index| tokens.get(index)).map(|t| &t.token) {
            Some(Token::Word(word)) => {
                word.quote_style.is_none() && words.iter().any(|known| word.value.eq_ignore_ascii_case(known))
            }
            _ => false,
        };
    is_word(Some(index + 1), &["SELECT", "WITH", "VALUES"])
        && !is_word(index.checked_sub(1), &["FROM", "JOIN", "LATERAL", "AS", "UNION", "EXCEPT", "INTERSECT"])
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
            word.quote_style.is_none() && CHAINING.iter().any(|known| word.value.eq_ignore_ascii_case(known))
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
const NESTING_MAX: usize = 50;
/// The time that planning takes doubles with each one inside another.
const SUBQUERIES_MAX: usize = 16;
const OPERATORS_MAX: usize = 500;
/// Of a call the frames are larger, and at each step of planning its type is found anew through all that it is made of.
const CALL_WEIGHT: usize = 4;
const RECURSION_MAX: usize = 400;
