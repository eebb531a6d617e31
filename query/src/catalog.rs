//! The catalog as one statement sees it: the database's at an LSN, with the transaction's own changes over it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_log::Lsn;
use highwater_log::schema::{CatalogEntry, Namespace, TableSchema};
use highwater_materializers::{Catalog, Table};

use crate::error::SqlError;
use crate::sqlstate;

/// A schema-qualified name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    /// The schema.
    pub namespace: String,
    /// The object in it.
    pub name: String,
}

impl std::fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace == Catalog::PUBLIC {
            f.write_str(&self.name)
        } else {
            write!(f, "{}.{}", self.namespace, self.name)
        }
    }
}

/// The name of a table's primary key constraint, if it has a key.
pub(crate) fn primary_key_name(schema: &TableSchema) -> Cow<'_, str> {
    match &schema.primary_key_name {
        Some(name) => Cow::Borrowed(name),
        None => Cow::Owned(format!("{}_pkey", schema.name)),
    }
}

/// What the catalog holds at one LSN, and what a transaction has changed of it.
#[derive(Clone)]
pub(crate) struct CatalogView {
    catalog: Arc<Catalog>,
    at: Lsn,
    /// Objects that the transaction wrote; `None`: dropped.
    own: BTreeMap<u64, Option<OwnEntry>>,
    next_id: Option<u64>,
}

#[derive(Clone)]
pub(crate) enum OwnEntry {
    Namespace(Namespace),
    Table {
        table: Arc<Table>,
        /// The rows of before are gone: the commit says TRUNCATE.
        is_truncated: bool,
    },
}

impl OwnEntry {
    pub(crate) fn to_entry(&self) -> CatalogEntry {
        match self {
            Self::Namespace(namespace) => CatalogEntry::Namespace(namespace.clone()),
            Self::Table { table, .. } => CatalogEntry::Table(table.schema().clone()),
        }
    }
}

impl QualifiedName {
    /// The name of a table.
    pub(crate) fn of(table: &Table) -> Self {
        let schema = table.schema();
        Self { namespace: schema.namespace.clone(), name: schema.name.clone() }
    }
}

impl CatalogView {
    pub(crate) fn new(catalog: Arc<Catalog>, at: Lsn) -> Self {
        Self { catalog, at, own: BTreeMap::new(), next_id: None }
    }

    /// The LSN under the transaction's own changes.
    #[must_use]
    pub(crate) const fn at(&self) -> Lsn {
        self.at
    }

    /// The catalog below.
    #[must_use]
    pub(crate) const fn shared(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// All tables, by id.
    #[must_use]
    pub(crate) fn tables(&self) -> Vec<Arc<Table>> {
        let shared = self.catalog.tables(self.at).into_iter();
        let mut tables: Vec<_> = shared.filter(|table| !self.own.contains_key(&table.schema().id.value())).collect();
        tables.extend(self.own.values().flatten().filter_map(|entry| match entry {
            OwnEntry::Table { table, .. } => Some(Arc::clone(table)),
            OwnEntry::Namespace(_) => None,
        }));
        tables
    }

    /// The table of this name.
    #[must_use]
    pub(crate) fn find(&self, name: &QualifiedName) -> Option<Arc<Table>> {
        if self.own.is_empty() {
            return self.catalog.table_named(&name.namespace, &name.name, self.at);
        }
        let is_it = |table: &Arc<Table>| table.schema().namespace == name.namespace && table.schema().name == name.name;
        self.tables().into_iter().find(is_it)
    }

    /// The table of this name.
    ///
    /// # Errors
    /// `42P01`.
    pub(crate) fn table(&self, name: &QualifiedName) -> Result<Arc<Table>, SqlError> {
        self.find(name).ok_or_else(|| {
            SqlError::new(sqlstate::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist (at lsn {})", self.at))
        })
    }

    /// The names of all schemas, sorted.
    #[must_use]
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let mut names = self.catalog.namespaces(self.at);
        for (object, entry) in &self.own {
            match entry {
                Some(OwnEntry::Namespace(namespace)) => names.push(namespace.name.clone()),
                None => {
                    let dropped = self.catalog.namespace(*object, self.at);
                    names.retain(|name| Some(name) != dropped.as_ref());
                }
                Some(OwnEntry::Table { .. }) => {}
            }
        }
        names.sort_unstable();
        names
    }

    /// The object id of a namespace.
    pub(crate) fn namespace_id(&self, name: &str) -> Option<u64> {
        let own = self.own.iter().find_map(|(object, entry)| match entry {
            Some(OwnEntry::Namespace(namespace)) if namespace.name == name => Some(*object),
            _ => None,
        });
        let shared = || self.catalog.namespace_id(name, self.at).filter(|object| !self.own.contains_key(object));
        own.or_else(shared)
    }

    /// An id that no object has had. The commit is conditional on the catalog being unchanged.
    pub(crate) fn take_id(&mut self) -> u64 {
        let id = self.next_id.unwrap_or_else(|| self.catalog.next_id());
        self.next_id = Some(id + 1);
        id
    }

    pub(crate) fn put_namespace(&mut self, object: u64, name: &str) {
        self.own.insert(object, Some(OwnEntry::Namespace(Namespace { name: name.to_owned() })));
    }

    /// Sets a table. Its version is given at the commit; until then it only has to differ from all that rows were written under.
    pub(crate) fn put_table(&mut self, schema: TableSchema, is_truncated: bool) -> Arc<Table> {
        let object = schema.id.value();
        let was_truncated = matches!(self.own.get(&object), Some(Some(OwnEntry::Table { is_truncated: true, .. })));
        // What was written by nobody yet is written by the commit to come.
        let table = Arc::new(Table::new(schema, self.at.next()));
        let entry = OwnEntry::Table { table: Arc::clone(&table), is_truncated: is_truncated || was_truncated };
        self.own.insert(object, Some(entry));
        table
    }

    pub(crate) fn drop_object(&mut self, object: u64) {
        self.own.insert(object, None);
    }

    pub(crate) const fn own(&self) -> &BTreeMap<u64, Option<OwnEntry>> {
        &self.own
    }

    pub(crate) fn has_own(&self) -> bool {
        !self.own.is_empty()
    }
}
