//! The catalog: which tables there are, at every LSN.
//!
//! Every version of every object is kept: rows in the log name the schema version that they were written under. Changes are rare, so
//! the whole history lies in memory and is written whole at a checkpoint.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use highwater_log::base::{BaseRecord, BaseState};
use highwater_log::checked_json;
use highwater_log::commit::StreamedCommit;
use highwater_log::env::Disk;
use highwater_log::position::{SchemaVersion, StorageId, TableId};
use highwater_log::schema::{CatalogEntry, FeedSchema, Namespace, TableSchema};
use highwater_log::sequencer::{KeyRange, catalog_index_key, catalog_key, catalog_name_key, catalog_object};
use highwater_log::{Change, Commit, LogId, Lsn};
use serde::{Deserialize, Serialize};

use crate::error::FoldError;
use crate::materializer::Materializer;
use crate::table::{Index, Table};

/// The versioned catalog.
pub struct Catalog {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    log: LogId,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    applied: Lsn,
    checkpointed: Lsn,
    /// The last commit that changed anything.
    changed: Lsn,
    /// Every object's versions, oldest first.
    objects: BTreeMap<u64, Vec<Version>>,
    tables: HashMap<(TableId, SchemaVersion), Arc<Table>>,
    /// By namespace and name, the tables that ever had the name, oldest first.
    named: BTreeMap<String, BTreeMap<String, Vec<u64>>>,
    /// No object, storage or index had this id or a higher one.
    next_id: u64,
}

#[derive(Clone)]
struct Version {
    lsn: Lsn,
    /// `None`: dropped.
    entry: Option<Entry>,
}

#[derive(Clone)]
enum Entry {
    Namespace(Arc<Namespace>),
    Table(Arc<Table>),
    Feed(Arc<FeedSchema>),
}

/// What a checkpoint holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    version: u32,
    log: LogId,
    applied: Lsn,
    changes: Vec<RecordedChange>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordedChange {
    lsn: Lsn,
    object: u64,
    entry: Option<CatalogEntry>,
}

impl Catalog {
    /// Opens the catalog of `log` in `directory`; what is missing or damaged there begins anew, before the first commit.
    ///
    /// # Errors
    /// [`FoldError::Io`].
    pub fn open(disk: Arc<dyn Disk>, directory: PathBuf, log: LogId) -> Result<Self, FoldError> {
        disk.create_dir(&directory).map_err(|source| FoldError::Io {
            action: "create",
            path: directory.clone(),
            source,
        })?;
        let catalog = Self { disk, directory, log, state: RwLock::new(State::beginning()) };
        let path = catalog.path();
        let bytes = checked_json::read(&*catalog.disk, &path);
        let bytes = bytes.map_err(|source| FoldError::Io { action: "read", path: path.clone(), source })?;
        let Some(bytes) = bytes else { return Ok(catalog) };
        match checked_json::decode::<Checkpoint>(TITLE, SHAPE_VERSION, &bytes) {
            Ok(checkpoint) if checkpoint.log == log => {
                let mut state = catalog.write();
                for change in checkpoint.changes {
                    state.put(change.lsn, change.object, change.entry);
                }
                (state.applied, state.checkpointed) = (checkpoint.applied, checkpoint.applied);
            }
            Ok(_) => tracing::warn!(path = %path.display(), "another log's catalog is dropped and folded anew"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "the catalog is dropped and folded anew"),
        }
        Ok(catalog)
    }

    /// What a checkpoint in `directory` proves of the log, before either is opened: its identity, and an LSN that was durable.
    #[must_use]
    pub fn witness(disk: &dyn Disk, directory: &Path) -> Option<(LogId, Lsn)> {
        let bytes = checked_json::read(disk, &directory.join(CHECKPOINT_NAME)).ok()??;
        let checkpoint: Checkpoint = checked_json::decode(TITLE, SHAPE_VERSION, &bytes).ok()?;
        Some((checkpoint.log, checkpoint.applied))
    }

    /// The LSN of the last checkpoint.
    #[must_use]
    pub fn checkpointed(&self) -> Lsn {
        self.read().checkpointed
    }

    /// The last commit that changed anything.
    #[must_use]
    pub fn changed(&self) -> Lsn {
        self.read().changed
    }

    /// There is nothing for it in the commits up to `to` but what it knows, if the last that changed anything was at `changed`.
    pub(crate) fn pass_over(&self, changed: Lsn, to: Lsn) {
        let mut state = self.write();
        if changed <= state.applied {
            state.applied = state.applied.max(to);
        }
    }

    /// What is wrong with the checkpoint in `directory`, if there is one and anything is.
    pub(crate) fn verify_file(disk: &dyn Disk, directory: &Path, log: LogId) -> Result<Option<String>, FoldError> {
        let path = directory.join(CHECKPOINT_NAME);
        let bytes = checked_json::read(disk, &path);
        let Some(bytes) = bytes.map_err(|source| FoldError::Io { action: "read", path: path.clone(), source })? else {
            return Ok(None);
        };
        Ok(match checked_json::decode::<Checkpoint>(TITLE, SHAPE_VERSION, &bytes) {
            Ok(checkpoint) if checkpoint.log == log => None,
            Ok(_) => Some(format!("{} is another log's", path.display())),
            Err(error) => Some(format!("{} is {error}", path.display())),
        })
    }

    /// The table of this name at `at`.
    #[must_use]
    pub fn table_named(&self, namespace: &str, name: &str, at: Lsn) -> Option<Arc<Table>> {
        let state = self.read();
        let named = state.named.get(namespace)?.get(name)?.iter().rev();
        named.filter_map(|object| state.entry(*object, at)).find_map(|(_, entry)| match entry {
            // It may have had the name at another time.
            Entry::Table(table) if table.schema().namespace == namespace && table.schema().name == name => {
                Some(Arc::clone(table))
            }
            _ => None,
        })
    }

    /// The table that has this name at `at`, or else the first that gets it later.
    #[must_use]
    pub fn table_named_from(&self, namespace: &str, name: &str, at: Lsn) -> Option<Arc<Table>> {
        if let Some(table) = self.table_named(namespace, name, at) {
            return Some(table);
        }
        let state = self.read();
        let named = state.named.get(namespace)?.get(name)?.iter();
        let later = named.filter_map(|object| state.objects.get(object)).flatten().filter(|version| version.lsn > at);
        let tables = later.filter_map(|version| match &version.entry {
            Some(Entry::Table(table)) if table.schema().namespace == namespace && table.schema().name == name => {
                Some((version.lsn, table))
            }
            _ => None,
        });
        tables.min_by_key(|(lsn, _)| *lsn).map(|(_, table)| Arc::clone(table))
    }

    /// The table that had this name before `at`, and at `at` has another one; of several, the last to have it.
    #[must_use]
    pub fn table_once_named(&self, namespace: &str, name: &str, at: Lsn) -> Option<Arc<Table>> {
        let state = self.read();
        let is_named = |table: &Table| table.schema().namespace == namespace && table.schema().name == name;
        let renamed = state.named.get(namespace)?.get(name)?.iter().filter_map(|object| {
            let had = state.objects.get(object)?.iter().rev().filter(|version| version.lsn <= at);
            let had = had.filter(|version| matches!(&version.entry, Some(Entry::Table(table)) if is_named(table)));
            match state.entry(*object, at)?.1 {
                Entry::Table(table) if !is_named(table) => Some((had.map(|version| version.lsn).max()?, table)),
                _ => None,
            }
        });
        renamed.max_by_key(|(lsn, _)| *lsn).map(|(_, table)| Arc::clone(table))
    }

    /// The table of this id at `at`.
    #[must_use]
    pub fn table(&self, id: TableId, at: Lsn) -> Option<Arc<Table>> {
        match self.read().entry(id.value(), at)?.1 {
            Entry::Table(table) => Some(Arc::clone(table)),
            Entry::Namespace(_) | Entry::Feed(_) => None,
        }
    }

    /// Whether the table of this id was there before `at`, and is not any more.
    #[must_use]
    pub fn is_dropped(&self, id: TableId, at: Lsn) -> bool {
        let state = self.read();
        let versions = state.objects.get(&id.value()).map_or(&[][..], Vec::as_slice);
        versions.iter().rev().find(|version| version.lsn <= at).is_some_and(|version| version.entry.is_none())
    }

    /// The table as this schema version defines it, dropped or not.
    #[must_use]
    pub fn table_at_version(&self, id: TableId, version: SchemaVersion) -> Option<Arc<Table>> {
        self.read().tables.get(&(id, version)).cloned()
    }

    /// All tables at `at`, by id.
    #[must_use]
    pub fn tables(&self, at: Lsn) -> Vec<Arc<Table>> {
        let state = self.read();
        let tables = state.entries(at).filter_map(|(_, _, entry)| match entry {
            Entry::Table(table) => Some(Arc::clone(table)),
            Entry::Namespace(_) | Entry::Feed(_) => None,
        });
        tables.collect()
    }

    /// All feeds that have a name at `at`, each with its object id and the commit that made it, by id.
    #[must_use]
    pub fn feeds(&self, at: Lsn) -> Vec<(u64, Lsn, Arc<FeedSchema>)> {
        let state = self.read();
        let feeds = state.entries(at).filter_map(|(object, made, entry)| match entry {
            Entry::Feed(feed) => Some((object, made, Arc::clone(feed))),
            Entry::Namespace(_) | Entry::Table(_) => None,
        });
        feeds.collect()
    }

    /// The names of all namespaces at `at`, [`PUBLIC`](Catalog::PUBLIC) among them.
    #[must_use]
    pub fn namespaces(&self, at: Lsn) -> Vec<String> {
        let state = self.read();
        let mut names: Vec<_> = state
            .entries(at)
            .filter_map(|(_, _, entry)| match entry {
                Entry::Namespace(namespace) => Some(namespace.name.clone()),
                Entry::Table(_) | Entry::Feed(_) => None,
            })
            .collect();
        names.sort_unstable();
        names
    }

    /// The object id of the namespace of this name at `at`.
    #[must_use]
    pub fn namespace_id(&self, name: &str, at: Lsn) -> Option<u64> {
        self.read().entries(at).find_map(|(object, _, entry)| match entry {
            Entry::Namespace(namespace) if namespace.name == name => Some(object),
            _ => None,
        })
    }

    /// The name of the namespace with this object id at `at`.
    #[must_use]
    pub fn namespace(&self, object: u64, at: Lsn) -> Option<String> {
        match self.read().entry(object, at)?.1 {
            Entry::Namespace(namespace) => Some(namespace.name.clone()),
            Entry::Table(_) | Entry::Feed(_) => None,
        }
    }

    /// An id that no object, storage or index has had, nor any above it. Taken under a condition that the catalog is unchanged.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.read().next_id
    }

    /// What a base image at `at` holds of the catalog: all that ever was, up to then.
    pub(crate) fn image(&self, at: Lsn) -> Vec<BaseRecord> {
        let changes = self.read().changes();
        let record = |RecordedChange { lsn, object, entry }: RecordedChange| {
            let entry = entry.map(|entry| entry.to_json().into());
            BaseRecord { lsn, state: BaseState::Catalog { object, entry } }
        };
        changes.into_iter().filter(|change| change.lsn <= at).map(record).collect()
    }

    /// Begins anew at a base image at `at`, whose entries these are.
    pub(crate) fn begin_at(
        &self,
        at: Lsn,
        entries: impl IntoIterator<Item = (Lsn, u64, Option<Bytes>)>,
    ) -> Result<(), FoldError> {
        let mut state = State::beginning();
        for (lsn, object, entry) in entries {
            state.put(lsn, object, entry.as_ref().map(|entry| decode_entry(lsn, entry)).transpose()?);
        }
        state.applied = at;
        *self.write() = state;
        Ok(())
    }

    /// All storages, of rows and indexes, that some read at or after `from` may need.
    #[must_use]
    pub fn storages_since(&self, from: Lsn) -> HashSet<StorageId> {
        let state = self.read();
        let mut storages = HashSet::new();
        for versions in state.objects.values() {
            // The version in force at `from`, and all after it.
            let first = versions.partition_point(|version| version.lsn <= from).saturating_sub(1);
            for version in &versions[first..] {
                if let Some(Entry::Table(table)) = &version.entry {
                    storages.insert(table.schema().storage);
                    storages.extend(table.indexes().iter().flat_map(Index::storages));
                }
            }
        }
        storages
    }

    /// The commit that wrote the key of the catalog's space last; `None` when it does not exist at `at`.
    #[must_use]
    pub fn key_version(&self, key: &[u8], at: Lsn) -> Option<Lsn> {
        if let Some(object) = catalog_object(key) {
            return self.read().entry(object, at).map(|(lsn, entry)| entry.written(lsn));
        }
        self.keys(at).into_iter().find(|(known, _)| known == key).map(|(_, lsn)| lsn)
    }

    /// The keys of the catalog's space in a range, at `at`, rising.
    #[must_use]
    pub fn keys_in(&self, range: &KeyRange, at: Lsn) -> Vec<Bytes> {
        let mut keys: Vec<_> =
            self.keys(at).into_iter().map(|(key, _)| key).filter(|key| range.contains(key)).collect();
        keys.sort_unstable();
        keys
    }

    fn keys(&self, at: Lsn) -> Vec<(Bytes, Lsn)> {
        let state = self.read();
        let keys = state.entries(at).flat_map(|(object, lsn, entry)| {
            let (name, indexes) = match entry {
                Entry::Namespace(namespace) => (Some(catalog_name_key(&namespace.name, "")), &[][..]),
                Entry::Table(table) => {
                    let schema = table.schema();
                    (Some(catalog_name_key(&schema.namespace, &schema.name)), &schema.indexes[..])
                }
                // Whoever makes one looks for its name among them all.
                Entry::Feed(_) => (None, &[][..]),
            };
            let indexes = indexes.iter().map(move |index| (catalog_index_key(index.id), lsn));
            let written = entry.written(lsn);
            let name = name.map(|name| (name, written));
            [(catalog_key(object), written)].into_iter().chain(name).chain(indexes)
        });
        keys.collect()
    }

    fn path(&self) -> PathBuf {
        self.directory.join(CHECKPOINT_NAME)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace that is always there.
    pub const PUBLIC: &'static str = "public";
}

impl Materializer for Catalog {
    fn name(&self) -> &'static str {
        "catalog"
    }

    fn applied(&self) -> Lsn {
        self.read().applied
    }

    fn apply(&self, commit: &Commit) -> Result<(), FoldError> {
        let lsn = commit.lsn;
        if lsn <= self.applied() {
            return Ok(());
        }
        let decode = |json: &Bytes| decode_entry(lsn, json);
        let mut changes = Vec::new();
        for change in &commit.changes {
            match change {
                Change::Catalog { object, entry } => changes.push((*object, entry.as_ref().map(decode).transpose()?)),
                Change::Truncate { table, entry } => changes.push((table.value(), Some(decode(entry)?))),
                Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. } | Change::Position { .. } => {}
            }
        }
        let mut state = self.write();
        for (object, entry) in changes {
            state.put(lsn, object, entry);
        }
        state.applied = lsn;
        Ok(())
    }

    fn apply_streamed(&self, commit: &StreamedCommit) -> Result<(), FoldError> {
        self.apply(&commit.head()?)
    }

    fn checkpoint(&self) -> Result<Lsn, FoldError> {
        let (checkpoint, is_new) = {
            let state = self.read();
            let changes = state.changes();
            let checkpoint = Checkpoint { version: SHAPE_VERSION, log: self.log, applied: state.applied, changes };
            (checkpoint, state.applied > state.checkpointed)
        };
        if is_new {
            let path = self.path();
            checked_json::replace(&*self.disk, &path, &checked_json::encode(TITLE, &checkpoint))
                .map_err(|source| FoldError::Io { action: "replace", path, source })?;
            self.write().checkpointed = checkpoint.applied;
        }
        Ok(checkpoint.applied)
    }

    fn reset(&self) -> Result<(), FoldError> {
        let path = self.path();
        match self.disk.remove(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(FoldError::Io { action: "remove", path, source });
            }
            _ => {}
        }
        *self.write() = State::beginning();
        Ok(())
    }
}

impl State {
    /// Before the first commit there is the namespace `public` and nothing else.
    fn beginning() -> Self {
        let mut state = Self { next_id: FIRST_FREE_ID, ..Self::default() };
        let public = Namespace { name: Catalog::PUBLIC.to_owned() };
        state.put(Lsn::ORIGIN, PUBLIC_ID, Some(CatalogEntry::Namespace(public)));
        state
    }

    fn put(&mut self, lsn: Lsn, object: u64, entry: Option<CatalogEntry>) {
        self.changed = self.changed.max(lsn);
        let entry = entry.map(|entry| match entry {
            CatalogEntry::Namespace(namespace) => Entry::Namespace(Arc::new(namespace)),
            CatalogEntry::Feed(feed) => Entry::Feed(Arc::new(feed)),
            CatalogEntry::Table(schema) => {
                self.next_id = ids_of(&schema).fold(self.next_id, |next, id| next.max(id + 1));
                let names = self.named.entry(schema.namespace.clone()).or_default();
                let named = names.entry(schema.name.clone()).or_default();
                if !named.contains(&object) {
                    named.push(object);
                }
                // Who writes rows need not know of an entry under the version that stood before.
                let written = self.tables.get(&(schema.id, schema.version)).map_or(lsn, |known| known.written());
                let before = self.objects.get(&object).and_then(|versions| versions.last());
                let table = Arc::new(match before.and_then(|version| version.entry.as_ref()) {
                    Some(Entry::Table(before)) => Table::following(before, schema, written),
                    _ => Table::new(schema, written),
                });
                self.tables.insert((table.schema().id, table.schema().version), Arc::clone(&table));
                Entry::Table(table)
            }
        });
        self.next_id = self.next_id.max(object + 1);
        self.objects.entry(object).or_default().push(Version { lsn, entry });
    }

    /// Every change of every object, rising, but for what is there from the beginning.
    fn changes(&self) -> Vec<RecordedChange> {
        let changes = self.objects.iter().flat_map(|(object, versions)| {
            versions.iter().filter(|version| version.lsn > Lsn::ORIGIN).map(|version| RecordedChange {
                lsn: version.lsn,
                object: *object,
                entry: version.entry.as_ref().map(Entry::recorded),
            })
        });
        let mut changes: Vec<_> = changes.collect();
        changes.sort_by_key(|change| change.lsn);
        changes
    }

    fn entry(&self, object: u64, at: Lsn) -> Option<(Lsn, &Entry)> {
        let version = self.objects.get(&object)?.iter().rev().find(|version| version.lsn <= at)?;
        version.entry.as_ref().map(|entry| (version.lsn, entry))
    }

    fn entries(&self, at: Lsn) -> impl Iterator<Item = (u64, Lsn, &Entry)> {
        self.objects.keys().filter_map(move |object| {
            let (lsn, entry) = self.entry(*object, at)?;
            Some((*object, lsn, entry))
        })
    }
}

impl Entry {
    /// The commit that wrote what writers have to know of an entry that stands since `lsn`.
    fn written(&self, lsn: Lsn) -> Lsn {
        match self {
            Self::Namespace(_) | Self::Feed(_) => lsn,
            Self::Table(table) => table.written(),
        }
    }

    fn recorded(&self) -> CatalogEntry {
        match self {
            Self::Namespace(namespace) => CatalogEntry::Namespace(Namespace::clone(namespace)),
            Self::Table(table) => CatalogEntry::Table(table.schema().clone()),
            Self::Feed(feed) => CatalogEntry::Feed(FeedSchema::clone(feed)),
        }
    }
}

/// Every id that a table's entry takes, but the table's own.
fn ids_of(schema: &TableSchema) -> impl Iterator<Item = u64> + use<'_> {
    let indexes = schema.indexes.iter().flat_map(|index| {
        let storages = [Some(index.storage), index.backfill].into_iter().flatten();
        storages.map(StorageId::value).chain([index.id.value()])
    });
    let uniques = schema.uniques.iter().map(|unique| unique.storage.value());
    indexes.chain(uniques).chain([schema.storage.value()])
}

fn decode_entry(lsn: Lsn, json: &Bytes) -> Result<CatalogEntry, FoldError> {
    CatalogEntry::from_json(json).map_err(|source| FoldError::Entry { lsn, source })
}

const TITLE: &str = "highwater catalog";
const CHECKPOINT_NAME: &str = "checkpoint";
const SHAPE_VERSION: u32 = 1;
const PUBLIC_ID: u64 = 1;
/// Ids below are kept for what is built in.
const FIRST_FREE_ID: u64 = 16;
