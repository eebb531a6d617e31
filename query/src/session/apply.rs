//! What writing statements do within a transaction.

use datafusion::sql::sqlparser::ast::Statement;

use super::{Done, Outcome};
use crate::ddl::{self, BegunIndex};
use crate::direct::Written;
use crate::dml;
use crate::error::SqlError;
use crate::prepared::Request;
use crate::statement::{RowStream, StatementContext};
use crate::transaction::Transaction;

/// What a writing statement has come to, before its transaction is committed.
pub(super) struct Applied {
    pub(super) done: Done,
    /// An index to wait for behind the commit.
    pub(super) begun: Option<BegunIndex>,
    pub(super) returned: Option<RowStream>,
}

impl Applied {
    pub(super) fn into_outcome(self) -> Outcome {
        match self.returned {
            None => Outcome::Done(self.done),
            Some(rows) => Outcome::Returned(rows, self.done),
        }
    }
}

/// Does what a writing statement says, in a transaction.
pub(super) async fn apply(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    request: &Request<'_>,
) -> Result<Applied, SqlError> {
    context.interrupt.check()?;
    let direct = request.direct(&transaction.catalog, &context.facts.namespace);
    let written = direct.map(|direct| direct.write(transaction, request.parameters())).transpose()?.flatten();
    if let Some(Written { tag, count }) = written {
        return Ok(Applied { done: counted(tag, count), begun: None, returned: None });
    }
    Box::pin(apply_planned(context, transaction, request)).await
}

fn counted(tag: &str, rows: usize) -> Done {
    Done { rows: Some(rows as u64), ..Done::tag(format!("{tag} {rows}")) }
}

/// The same, by the planner.
async fn apply_planned(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    request: &Request<'_>,
) -> Result<Applied, SqlError> {
    let bound = request.bound()?;
    let (mut begun, mut returned) = (None, None);
    let mut changed = |tag: &str, changed: dml::Changed| {
        returned = changed.returned;
        counted(tag, changed.count)
    };
    let done = match &*bound {
        Statement::Insert(insert) => Ok(changed("INSERT 0", dml::insert(context, transaction, insert).await?)),
        Statement::Update(update) => Ok(changed("UPDATE", dml::update(context, transaction, update).await?)),
        Statement::Delete(delete) => Ok(changed("DELETE", dml::delete(context, transaction, delete).await?)),
        Statement::CreateTable(create) => match ddl::create_table(context, transaction, create).await? {
            Some(rows) => Ok(counted("SELECT", rows)),
            None => Ok(Done::tag("CREATE TABLE")),
        },
        Statement::CreateIndex(create) => {
            begun = ddl::create_index(context, transaction, create)?;
            Ok(Done::tag("CREATE INDEX"))
        }
        Statement::AlterIndex { name, operation } => {
            ddl::alter_index(context, transaction, name, operation)?;
            Ok(Done::tag("ALTER INDEX"))
        }
        Statement::AlterTable(alter) => {
            ddl::alter_table(context, transaction, alter).await?;
            Ok(Done::tag("ALTER TABLE"))
        }
        Statement::Truncate(truncate) => {
            ddl::truncate(context, transaction, truncate)?;
            Ok(Done::tag("TRUNCATE TABLE"))
        }
        Statement::CreateSchema { schema_name, if_not_exists, .. } => {
            ddl::create_schema(transaction, schema_name, *if_not_exists)?;
            Ok(Done::tag("CREATE SCHEMA"))
        }
        Statement::Drop { object_type, if_exists, names, cascade, temporary: false, .. } => {
            ddl::drop_objects(context, transaction, *object_type, names, *if_exists, *cascade)?;
            Ok(Done::tag(format!("DROP {object_type}")))
        }
        other => Err(SqlError::internal(format!("{other} writes nothing"))),
    }?;
    Ok(Applied { done, begun, returned })
}
