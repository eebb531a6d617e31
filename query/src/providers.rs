//! One statement's catalog, as DataFusion asks for it.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::datasource::MemTable;

use crate::catalog::{CatalogView, QualifiedName};
use crate::error::SqlError;
use crate::information;
use crate::rows::RowSource;
use crate::scan::TableScan;

/// The name of the only catalog.
pub(crate) const CATALOG: &str = "highwater";
/// The schema under which UPDATE and DELETE find their table, with the keys of its rows.
pub(crate) const TARGET_NAMESPACE: &str = "hw_target";

/// The catalog and the rows that a statement sees.
#[derive(Clone)]
pub(crate) struct StatementCatalog {
    pub(crate) view: CatalogView,
    pub(crate) source: RowSource,
    /// The table that the statement changes.
    pub(crate) target: Option<QualifiedName>,
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
        if self.namespace == information::NAMESPACE {
            let Some(batch) = information::table(name, &self.catalog.view)? else { return Ok(None) };
            return Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)));
        }
        if self.namespace == TARGET_NAMESPACE {
            let Some(target) = self.catalog.target.as_ref() else { return Ok(None) };
            let table = self.catalog.view.table(target)?;
            return Ok(Some(Arc::new(TableScan::with_key_column(table, source))));
        }
        let qualified = QualifiedName { namespace: self.namespace.clone(), name: name.to_owned() };
        // What is no table may still be a function that gives one.
        let table = self.catalog.view.find(&qualified);
        Ok(table.map(|table| Arc::new(TableScan::new(table, source)) as Arc<dyn TableProvider>))
    }
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
