//! What the items of a FROM clause give: columns in their order, merged ones and those of tables.

use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, SelectItem, SelectItemQualifiedWildcardKind, WildcardAdditionalOptions,
};

use crate::error::SqlError;
use crate::names::folded;
use crate::rewrite::call;
use crate::sqlstate;

/// Which side's column a merged one is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Inner, or left outer.
    Left,
    Right,
    Full,
}

/// A column that stands for one of each side.
#[derive(Clone)]
pub(super) struct Merged {
    name: Ident,
    /// The first of these that is not NULL.
    values: Vec<Expr>,
}

impl Merged {
    pub(super) fn value(&self) -> Expr {
        first_of(&self.values)
    }

    pub(super) fn is(&self, name: &Ident) -> bool {
        folded(&self.name) == folded(name)
    }
}

fn first_of(values: &[Expr]) -> Expr {
    match values {
        [value] => value.clone(),
        values => call("coalesce", values.to_vec()),
    }
}

/// A table among those that are joined.
struct Joined {
    /// By which its columns are qualified.
    name: Option<ObjectName>,
    columns: Option<Vec<String>>,
    /// Columns that a merged one stands for.
    hidden: Vec<Ident>,
}

impl Joined {
    fn hides(&self, column: &str) -> bool {
        self.hidden.iter().any(|hidden| folded(hidden) == column)
    }

    /// Its columns but the hidden ones, if they are known.
    fn shown(&self) -> Option<impl Iterator<Item = &String>> {
        Some(self.columns.as_ref()?.iter().filter(|column| !self.hides(column)))
    }

    /// Takes a column out of what is shown; returns its qualified name.
    fn hide(&mut self, name: &Ident) -> Result<Expr, SqlError> {
        let Some(qualifier) = &self.name else {
            return Err(SqlError::unsupported("USING with a side that has no name"));
        };
        let column = qualified(qualifier, name.clone());
        self.hidden.push(name.clone());
        Ok(column)
    }
}

fn qualified(table: &ObjectName, column: Ident) -> Expr {
    Expr::CompoundIdentifier(table.0.iter().filter_map(|part| part.as_ident().cloned()).chain([column]).collect())
}

enum Part {
    Merged(Merged),
    Table(Joined),
}

impl Part {
    /// Whether a column of this name is in it; none where that cannot be told.
    fn shows(&self, name: &Ident) -> Option<bool> {
        match self {
            Self::Merged(merged) => Some(merged.is(name)),
            Self::Table(table) if table.hides(&folded(name)) => Some(false),
            Self::Table(table) => table.columns.as_ref().map(|columns| columns.contains(&folded(name))),
        }
    }
}

/// What a FROM item gives, in the order of `*`.
pub(super) struct Output {
    parts: Vec<Part>,
}

impl Output {
    /// Of one table, by the name that qualifies its columns.
    pub(super) fn of(name: Option<ObjectName>, columns: Option<Vec<String>>) -> Self {
        Self { parts: vec![Part::Table(Joined { name, columns, hidden: Vec::new() })] }
    }

    pub(super) fn beside(mut self, right: Self) -> Self {
        self.parts.extend(right.parts);
        self
    }

    /// Joins with the right side, columns of these names merged and put first; each pair of them is returned.
    ///
    /// # Errors
    /// `42703`, `42702` where not exactly one column of a side has the name; `0A000` where it cannot be told.
    pub(super) fn merge(
        &mut self,
        mut right: Self,
        names: &[Ident],
        kind: Kind,
    ) -> Result<Vec<(Expr, Expr)>, SqlError> {
        let mut merged = Vec::with_capacity(names.len());
        let mut pairs = Vec::with_capacity(names.len());
        for name in names {
            let (left, right) = (self.take(name)?, right.take(name)?);
            pairs.push((first_of(&left), first_of(&right)));
            let values = match kind {
                Kind::Left => left,
                Kind::Right => right,
                Kind::Full => [left, right].concat(),
            };
            merged.push(Part::Merged(Merged { name: name.clone(), values }));
        }
        self.parts.splice(..0, merged);
        self.parts.append(&mut right.parts);
        Ok(pairs)
    }

    /// Takes a column out of what is shown; returns what it is, the first of them that is not NULL.
    fn take(&mut self, name: &Ident) -> Result<Vec<Expr>, SqlError> {
        let has = |part: &Part| part.shows(name) == Some(true);
        let may_have = |part: &Part| part.shows(name).is_none();
        let count = |test: &dyn Fn(&Part) -> bool| self.parts.iter().filter(|part| test(part)).count();
        let found = match (count(&has), count(&may_have)) {
            (1, _) => self.parts.iter().position(has),
            (0, 1) => self.parts.iter().position(may_have),
            (0, 2..) => {
                return Err(SqlError::unsupported("USING with columns that cannot be told from the query's text"));
            }
            _ => None,
        };
        let is_missing = !self.parts.iter().any(has);
        match found.map(|found| (found, self.parts.get_mut(found))) {
            Some((_, Some(Part::Table(table)))) => Ok(vec![table.hide(name)?]),
            Some((found, Some(Part::Merged(merged)))) => {
                let values = std::mem::take(&mut merged.values);
                self.parts.remove(found);
                Ok(values)
            }
            _ => {
                let (sqlstate, fault) = match is_missing {
                    true => (sqlstate::UNDEFINED_COLUMN, "does not exist on one side of the join"),
                    false => (sqlstate::AMBIGUOUS_COLUMN, "appears more than once on one side of the join"),
                };
                let fault = format!("column \"{}\" specified in USING clause {fault}", name.value);
                Err(SqlError::new(sqlstate, fault))
            }
        }
    }

    /// The columns of NATURAL JOIN, in the order of the left side.
    ///
    /// # Errors
    /// `0A000` where a table's columns are not known.
    pub(super) fn common(&self, right: &Self) -> Result<Vec<Ident>, SqlError> {
        let (left, right) = (self.shown()?, right.shown()?);
        Ok(left.into_iter().filter(|name| right.contains(name)).map(|name| Ident::with_quote('"', name)).collect())
    }

    /// The names of all columns.
    ///
    /// # Errors
    /// As for [`Output::common`].
    pub(super) fn shown(&self) -> Result<Vec<String>, SqlError> {
        let mut shown = Vec::new();
        for part in &self.parts {
            match part {
                Part::Merged(merged) => shown.push(folded(&merged.name)),
                Part::Table(table) => shown.extend(table.shown().ok_or_else(unknown_columns)?.cloned()),
            }
        }
        Ok(shown)
    }

    /// The items of `*`, column by column if `is_in_full`.
    ///
    /// # Errors
    /// `0A000` where a table has no name, or in full where its columns are not known.
    pub(super) fn written_out(&self, is_in_full: bool) -> Result<Vec<SelectItem>, SqlError> {
        let mut items = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            match part {
                Part::Merged(merged) => {
                    items.push(SelectItem::ExprWithAlias { expr: merged.value(), alias: merged.name.clone() });
                }
                Part::Table(table) => {
                    let is_empty = table.shown().is_some_and(|mut shown| shown.next().is_none());
                    if is_empty {
                        continue;
                    }
                    let Some(name) = table.name.clone() else {
                        return Err(SqlError::unsupported("* over USING beside a table without a name"));
                    };
                    if is_in_full {
                        items.extend(qualified_items(&name, table.shown().ok_or_else(unknown_columns)?.cloned()));
                        continue;
                    }
                    let hidden = table.hidden.iter().map(|hidden| ObjectName::from(vec![hidden.clone()]));
                    let opt_exclude = (!table.hidden.is_empty()).then(|| ExcludeSelectItem::Multiple(hidden.collect()));
                    let options = WildcardAdditionalOptions { opt_exclude, ..WildcardAdditionalOptions::default() };
                    let kind = SelectItemQualifiedWildcardKind::ObjectName(name);
                    items.push(SelectItem::QualifiedWildcard(kind, options));
                }
            }
        }
        Ok(items)
    }
}

/// The columns of the table that `table.*` means, hidden ones too, if they are known.
pub(super) fn columns_of_table<'a>(
    outputs: &'a [Output],
    table: &ObjectName,
) -> Option<impl Iterator<Item = String> + 'a + use<'a>> {
    let parts =
        |name: &ObjectName| -> Vec<String> { name.0.iter().filter_map(|part| part.as_ident().map(folded)).collect() };
    let meant = parts(table);
    let is_meant = |part: &&Part| match part {
        Part::Table(Joined { name: Some(name), .. }) => parts(name).ends_with(&meant),
        _ => false,
    };
    let found = outputs.iter().flat_map(|output| &output.parts).find(is_meant);
    match found {
        Some(Part::Table(table)) => Some(table.columns.as_ref()?.iter().cloned()),
        _ => None,
    }
}

/// Items for columns of a table.
pub(super) fn qualified_items(
    table: &ObjectName,
    columns: impl Iterator<Item = String>,
) -> impl Iterator<Item = SelectItem> {
    columns.map(|column| SelectItem::UnnamedExpr(qualified(table, Ident::with_quote('"', column))))
}

/// The merged columns of wanted names that nothing else shows: the planner finds the others ambiguous, as they are.
pub(super) fn unambiguous(outputs: &[Output], is_wanted: impl Fn(&str) -> bool) -> Vec<Merged> {
    let parts = || outputs.iter().flat_map(|output| &output.parts);
    let is_alone = |merged: &&Merged| parts().filter(|part| part.shows(&merged.name) == Some(true)).count() == 1;
    let merged = parts().filter_map(|part| match part {
        Part::Merged(merged) => Some(merged),
        Part::Table(_) => None,
    });
    merged.filter(|merged| is_wanted(&folded(&merged.name))).filter(is_alone).cloned().collect()
}

fn unknown_columns() -> SqlError {
    SqlError::unsupported("NATURAL JOIN with columns that cannot be told from the query's text (name them with USING)")
}
