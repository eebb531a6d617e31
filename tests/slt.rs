//! SQL against the expected results in `tests/slt`: what is in `shared` runs here and on a real PostgreSQL, with one result for both;
//! what is in `ours` has no counterpart there.
//!
//! `UPDATE_SLT=1` writes the results of `shared` anew, as PostgreSQL gives them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use highwater::{Database, Options, Outcome, Session, SqlError, types};
use highwater_query::EngineOptions;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tokio_postgres::SimpleQueryMessage;

#[path = "support/postgres.rs"]
mod postgres;

use postgres::Postgres;

/// So many statements run on both at least.
const SHARED_STATEMENTS_MIN: usize = 1_900;

struct Highwater {
    session: Session,
    _database: std::sync::Arc<Database>,
}

#[async_trait::async_trait]
impl AsyncDB for Highwater {
    type Error = SqlError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, SqlError> {
        match self.session.execute(sql).await? {
            Outcome::Done(done) => Ok(DBOutput::StatementComplete(done.rows.unwrap_or(0))),
            Outcome::Rows(rows) | Outcome::Returned(rows, _) => {
                let columns = rows.schema().fields().len();
                let batches = rows.collect().await?;
                let rows = batches.iter().flat_map(text_rows).collect();
                Ok(DBOutput::Rows { types: vec![DefaultColumnType::Text; columns], rows })
            }
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "highwater"
    }

    fn error_sql_state(error: &SqlError) -> Option<String> {
        Some(error.sqlstate.to_owned())
    }
}

fn text_rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let schema = batch.schema();
    let row = |row| {
        let cells = schema.fields().iter().zip(batch.columns()).map(|(field, array)| {
            let mut text = String::new();
            let is_there = types::text_at(array, row, types::column_type(field).unwrap(), &mut text).unwrap();
            shown(is_there.then_some(text.as_str()))
        });
        cells.collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

fn shown(text: Option<&str>) -> String {
    match text {
        None => "NULL".to_owned(),
        Some("") => "(empty)".to_owned(),
        Some(text) => text.replace('\n', "\\n"),
    }
}

struct Peer {
    client: tokio_postgres::Client,
}

#[async_trait::async_trait]
impl AsyncDB for Peer {
    type Error = tokio_postgres::Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, tokio_postgres::Error> {
        let (mut columns, mut rows, mut complete) = (None, Vec::new(), 0);
        for message in self.client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(described) => columns = Some(described.len()),
                SimpleQueryMessage::Row(row) => rows.push((0..row.len()).map(|at| shown(row.get(at))).collect()),
                SimpleQueryMessage::CommandComplete(count) => complete = count,
                _ => {}
            }
        }
        match columns {
            Some(columns) => Ok(DBOutput::Rows { types: vec![DefaultColumnType::Text; columns], rows }),
            None => Ok(DBOutput::StatementComplete(complete)),
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "postgresql"
    }

    fn error_sql_state(error: &tokio_postgres::Error) -> Option<String> {
        error.code().map(|code| code.code().to_owned())
    }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    assert!(!files.is_empty(), "no files in {folder}");
    files
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap()
}

/// Runs every file of a folder on a database of its own, and names all that fail.
fn run_here(folder: &str, options: &Options) {
    let runtime = runtime();
    let mut failures = Vec::new();
    for file in files(folder) {
        let database = std::sync::Arc::new(Database::in_memory_with(options.clone()).unwrap());
        let mut runner = Runner::new(|| {
            let database = std::sync::Arc::clone(&database);
            async move { Ok(Highwater { session: database.session(), _database: database }) }
        });
        let records = sqllogictest::parse_file(&file).unwrap();
        for record in records {
            // Each is tried, so that one run tells all.
            if let Err(error) = runtime.block_on(runner.run_async(record)) {
                failures.push(error.display(false).to_string());
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn shared_statements_answer_as_they_are_expected_to() {
    run_here("shared", &Options::default());
}

#[test]
fn our_own_statements_answer_as_they_are_expected_to() {
    run_here("ours", &Options::default());
}

#[test]
fn statements_answer_the_same_where_transactions_do_not_lie_in_memory_and_results_are_kept() {
    let (transaction_memory_bytes, result_cache_bytes) = (0, 64 * 1024 * 1024);
    let queries = EngineOptions { transaction_memory_bytes, result_cache_bytes, ..EngineOptions::default() };
    let options = Options { queries, ..Options::default() };
    run_here("shared", &options);
    run_here("ours", &options);
}

#[test]
fn postgresql_gives_the_shared_statements_the_same_results() {
    let Some(postgres) = Postgres::find() else { return };
    let runtime = runtime();
    let (mut statements, mut failures) = (0, Vec::new());
    for file in files("shared") {
        runtime.block_on(async {
            let (admin, connection) =
                tokio_postgres::connect(&postgres.connection, tokio_postgres::NoTls).await.unwrap();
            let admin_task = tokio::spawn(connection);
            // Each file begins with an empty database, as ours does.
            admin.batch_execute("DROP DATABASE IF EXISTS slt").await.unwrap();
            admin.batch_execute("CREATE DATABASE slt").await.unwrap();
            let address = postgres.connection.replace("dbname=postgres", "dbname=slt");
            let mut runner = Runner::new(|| {
                let address = address.clone();
                async move {
                    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await?;
                    tokio::spawn(connection);
                    Ok(Peer { client })
                }
            });
            if std::env::var_os("UPDATE_SLT").is_some() {
                let validator = sqllogictest::default_validator;
                let normalizer = sqllogictest::default_normalizer;
                let types = sqllogictest::default_column_validator;
                runner.update_test_file(&file, "\t", validator, normalizer, types).await.unwrap();
                return;
            }
            for record in sqllogictest::parse_file(&file).unwrap() {
                let is_statement =
                    matches!(record, sqllogictest::Record::Statement { .. } | sqllogictest::Record::Query { .. });
                statements += usize::from(is_statement);
                if let Err(error) = runner.run_async(record).await {
                    failures.push(error.display(false).to_string());
                }
            }
            runner.shutdown_async().await;
            drop(runner);
            drop(admin);
            admin_task.abort();
        });
    }
    if std::env::var_os("UPDATE_SLT").is_some() {
        return;
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n\n"));
    assert!(statements >= SHARED_STATEMENTS_MIN, "only {statements} statements ran on both");
    println!("{statements} statements ran on PostgreSQL with the results that are expected here");
}
