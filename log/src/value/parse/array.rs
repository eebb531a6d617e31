//! One-dimensional arrays from text: `{1,NULL,"a b"}`.

use super::{Excess, ValueError, parse_scalar};
use crate::value::{Array, ColumnType, ElementType, OwnedValue};

pub(super) fn parse(element: ElementType, text: &str, excess: Excess) -> Result<OwnedValue, ValueError> {
    let column_type = ColumnType::Array(element);
    let invalid = || ValueError::invalid(column_type, text);
    let items = split(text).ok_or_else(invalid)?;
    let values = items.iter().map(|item| item.as_deref().map(|item| parse_scalar(element, item, excess)).transpose());
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let borrowed: Vec<_> = values.iter().map(|value| value.as_ref().map(OwnedValue::as_value)).collect();
    let mut stored = Vec::new();
    Array::encode(element, &borrowed, &mut stored).map_err(|_| invalid())?;
    Ok(OwnedValue::Array { element, stored })
}

/// The items in their own text form, NULL as `None`; `None` when it is no array of one dimension.
fn split(text: &str) -> Option<Vec<Option<String>>> {
    let inner = text.trim_matches(|c: char| c.is_ascii_whitespace()).strip_prefix('{')?.strip_suffix('}')?;
    if inner.trim_matches(|c: char| c.is_ascii_whitespace()).is_empty() {
        return Some(Vec::new());
    }
    let mut items = Vec::new();
    let mut chars = inner.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        let mut item = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => item.push(chars.next()?),
                    c => item.push(c),
                }
            }
            while chars.next_if(char::is_ascii_whitespace).is_some() {}
            items.push(Some(item));
        } else {
            let mut has_escape = false;
            // Blanks behind an unquoted item are not its own, escaped ones are.
            let mut kept = 0;
            while let Some(c) = chars.next_if(|c| *c != ',') {
                match c {
                    '{' | '}' | '"' => return None,
                    '\\' => {
                        has_escape = true;
                        item.push(chars.next()?);
                        kept = item.len();
                    }
                    c => {
                        item.push(c);
                        if !c.is_ascii_whitespace() {
                            kept = item.len();
                        }
                    }
                }
            }
            item.truncate(kept);
            if item.is_empty() {
                return None;
            }
            let is_null = !has_escape && item.eq_ignore_ascii_case("null");
            items.push((!is_null).then_some(item));
        }
        match chars.next() {
            None => return Some(items),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}
