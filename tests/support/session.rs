//! What tests ask of a session.

use highwater::{Outcome, Session, SqlError, types};

/// The only cell of a result.
pub(crate) async fn cell(session: &mut Session, sql: &str) -> Result<String, SqlError> {
    let Outcome::Rows(rows) = session.execute(sql).await? else { panic!("{sql} gives no rows") };
    let batches = rows.collect().await?;
    let batch = batches.iter().find(|batch| batch.num_rows() > 0).unwrap();
    let schema = batch.schema();
    let mut text = String::new();
    types::text_at(batch.column(0), 0, types::column_type(schema.field(0))?, &mut text)?;
    Ok(text)
}
