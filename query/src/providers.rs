//! One statement's catalog, as DataFusion asks for it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;

use crate::catalog::{CatalogView, QualifiedName};
use crate::error::SqlError;
use crate::rows::RowSource;
use crate::scan::TableScan;
use crate::system::{self, LiveTables};

/// The name of the only catalog.
pub(crate) const CATALOG: &str = "highwater";
/// The schema under which statements that change rows find what they need.
pub(crate) const TARGET_NAMESPACE: &str = "hw_target";

/// The catalog and the rows that a statement sees.
#[derive(Clone)]
pub(crate) struct StatementCatalog {
    pub(crate) view: CatalogView,
    pub(crate) source: RowSource,
    /// What the statement's own query has beside them.
    pub(crate) target: Option<Target>,
    pub(crate) live: Arc<LiveTables>,
}

/// What a query of ours finds under [`TARGET_NAMESPACE`].
#[derive(Clone)]
pub(crate) enum Target {
    /// The table that the statement changes, with the keys of its rows.
    Table(QualifiedName),
    /// Rows that are there already, by name.
    Given(Vec<(&'static str, RecordBatch)>),
}

impl std::fmt::Debug for StatementCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatementCatalog").field("at", &self.view.at()).finish_non_exhaustive()
    }
}

impl CatalogProviderList for StatementCatalog {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for StatementCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.view.namespaces()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(StatementNamespace { catalog: self.clone(), namespace: name.to_owned() }))
    }
}

#[derive(Debug)]
struct StatementNamespace {
    catalog: StatementCatalog,
    namespace: String,
}

impl StatementNamespace {
    fn provider(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, SqlError> {
        let source = self.catalog.source.clone();
        if system::is_system(&self.namespace) {
            source.note_catalog_read()?;
            let Some(batch) = system::table(&self.namespace, name, &self.catalog.view, &self.catalog.live)? else {
                return Ok(None);
            };
            return in_memory(batch).map(Some);
        }
        if self.namespace == TARGET_NAMESPACE {
            return match &self.catalog.target {
                None => Ok(None),
                Some(Target::Table(target)) => {
                    let table = self.catalog.view.table(target)?;
                    Ok(Some(Arc::new(TableScan::with_key_column(table, source))))
                }
                Some(Target::Given(given)) => given
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, batch)| in_memory(batch.clone()))
                    .transpose(),
            };
        }
        let qualified = QualifiedName { namespace: self.namespace.clone(), name: name.to_owned() };
        // What is no table may still be a function that gives one.
        let table = self.catalog.view.find(&qualified);
        Ok(table.map(|table| Arc::new(TableScan::new(table, source)) as Arc<dyn TableProvider>))
    }
}

fn in_memory(batch: RecordBatch) -> Result<Arc<dyn TableProvider>, SqlError> {
    Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
}

#[async_trait]
impl SchemaProvider for StatementNamespace {
    fn table_names(&self) -> Vec<String> {
        let tables = self.catalog.view.tables().into_iter();
        tables.filter(|t| t.schema().namespace == self.namespace).map(|t| t.schema().name.clone()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        self.provider(name).map_err(SqlError::into_datafusion)
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }
}
