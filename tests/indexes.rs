//! Indexes built while others write, killed half way, lost and found again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/session.rs"]
mod session;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use highwater::{Database, Outcome, SqlError, sqlstate};
use session::cell;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

async fn fill(database: &Database, rows: u32) {
    let sql = format!(
        "CREATE TABLE t (id integer PRIMARY KEY, a integer, b text);
         INSERT INTO t SELECT i, i % 97, 'row ' || i FROM generate_series(1, {rows}) AS s(i)"
    );
    database.sql(&sql).await.unwrap();
}

async fn state(database: &Database, index: &str) -> String {
    let sql = format!("SELECT state FROM hw_catalog.indexes WHERE index_name = '{index}'");
    cell(&mut database.session(), &sql).await.unwrap()
}

/// Asserts that every value is found by the index as a scan finds it.
async fn assert_index_is_whole(database: &Database, index: &str) {
    let mut session = database.session();
    let plan = text(&mut session, "EXPLAIN SELECT id FROM t WHERE a = 5").await;
    assert!(plan.contains(&format!("index {index}")), "{plan}");
    for value in 0..120 {
        // Computed, the column is no index's.
        let scanned = format!("SELECT count(*) || ' ' || coalesce(sum(id), 0) FROM t WHERE a + 0 = {value}");
        let found = format!("SELECT count(*) || ' ' || coalesce(sum(id), 0) FROM t WHERE a = {value}");
        let (scanned, found) = (cell(&mut session, &scanned).await.unwrap(), cell(&mut session, &found).await.unwrap());
        assert_eq!(found, scanned, "a = {value}");
    }
}

async fn text(session: &mut highwater::Session, sql: &str) -> String {
    let Outcome::Rows(rows) = session.execute(sql).await.unwrap() else { panic!("{sql} gives no rows") };
    let batches = rows.collect().await.unwrap();
    let lines = batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(|row| {
            let mut line = String::new();
            let column_type = highwater::types::column_type(batch.schema().field(0)).unwrap();
            highwater::types::text_at(batch.column(0), row, column_type, &mut line).unwrap();
            line
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Writers that go on until they are told to stop; how often each has committed.
struct Writers {
    is_over: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), SqlError>>>,
}

impl Writers {
    fn start(database: &Arc<Database>, rows: u32) -> Self {
        let (is_over, commits) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let task = |writer: u32| {
            let (database, is_over, commits) = (Arc::clone(database), Arc::clone(&is_over), Arc::clone(&commits));
            tokio::spawn(async move {
                let mut session = database.session();
                let mut turn = writer;
                while !is_over.load(Ordering::Relaxed) {
                    turn += 4;
                    let (id, new) = (1 + turn * 31 % rows, rows + turn);
                    let sql = match turn % 5 {
                        0 => format!("UPDATE t SET a = (a + 13) % 101 WHERE id = {id}"),
                        1 => format!("DELETE FROM t WHERE id = {id}"),
                        2 => format!("INSERT INTO t VALUES ({new}, {}, 'row {new}')", turn % 103),
                        3 => format!("UPDATE t SET id = -id WHERE id = {id}"),
                        _ => format!("UPDATE t SET b = b || '.', a = NULL WHERE id = {id}"),
                    };
                    match session.execute(&sql).await {
                        Ok(_) => drop(commits.fetch_add(1, Ordering::Relaxed)),
                        Err(error) if error.is_retryable() => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            })
        };
        let tasks = (0..4).map(task).collect();
        Self { is_over, commits, tasks }
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    async fn stop(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
        self.commits.load(Ordering::Relaxed)
    }
}

#[test]
fn an_index_is_built_while_others_write_and_holds_what_they_wrote() {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(directory.path()).unwrap());
        fill(&database, 40_000).await;
        let writers = Writers::start(&database, 40_000);
        let before = writers.commits();
        database.sql("CREATE INDEX t_a ON t (a)").await.unwrap();
        database.sql("CREATE UNIQUE INDEX t_b ON t (b)").await.unwrap();
        let during = writers.commits() - before;
        assert!(during > 0, "writes went on");
        writers.stop().await;
        assert_index_is_whole(&database, "t_a").await;
        let lsn = database.visible();
        // Also as it was, and folded anew.
        database.sql("DELETE FROM t WHERE a = 7").await.unwrap();
        let at = format!("SELECT count(*) FROM t WHERE a = 7 AS OF LSN {lsn}");
        let scanned = format!("SELECT count(*) FROM t WHERE a + 0 = 7 AS OF LSN {lsn}");
        let mut session = database.session();
        assert_eq!(cell(&mut session, &at).await.unwrap(), cell(&mut session, &scanned).await.unwrap());
        drop(session);
        Arc::into_inner(database).unwrap().close().unwrap();
        for is_folded_anew in [false, true] {
            if is_folded_anew {
                std::fs::remove_dir_all(directory.path().join("materialized")).unwrap();
            }
            let database = Database::open(directory.path()).unwrap();
            assert_index_is_whole(&database, "t_a").await;
            let count = "SELECT count(*) FROM t WHERE b IN ('row 20001', 'row 20002')";
            let is_there = cell(&mut database.session(), count).await.unwrap() != "0";
            let taken = database.sql("INSERT INTO t VALUES (-900000, 1, 'row 20001'), (-900001, 1, 'row 20002')").await;
            assert_eq!(taken.err().map(|error| error.sqlstate), is_there.then_some(sqlstate::UNIQUE_VIOLATION));
        }
    });
}

#[test]
fn a_duplicate_that_comes_late_fails_the_index_and_not_the_writers() {
    runtime().block_on(async {
        let database = Arc::new(Database::in_memory().unwrap());
        fill(&database, 60_000).await;
        let builder = {
            let database = Arc::clone(&database);
            tokio::spawn(async move { database.sql("CREATE UNIQUE INDEX t_b ON t (b)").await.map(drop) })
        };
        while cell(&mut database.session(), "SELECT count(*) FROM hw_catalog.indexes WHERE index_name = 't_b'")
            .await
            .unwrap()
            == "0"
        {
            tokio::task::yield_now().await;
        }
        // A row of before has it, and it may not be in the index yet: whoever is first, one of the two is told.
        let late = database.sql("INSERT INTO t VALUES (-1, 0, 'row 59999')").await;
        let built = builder.await.unwrap();
        assert!(
            late.is_err() != built.is_err(),
            "either the writer or the index fails: {late:?}, {built:?}, {}",
            state(&database, "t_b").await
        );
        let error = late.err().or(built.err()).unwrap();
        assert_eq!(error.sqlstate, sqlstate::UNIQUE_VIOLATION);
        // Values that are there twice before it began: always the index.
        database.sql("INSERT INTO t VALUES (-2, 0, 'twice'), (-3, 0, 'thrice')").await.unwrap();
        let error = database.sql("CREATE UNIQUE INDEX t_a ON t (a)").await.unwrap_err();
        assert_eq!(error.sqlstate, sqlstate::UNIQUE_VIOLATION);
        assert!(error.message.contains("t_a") && error.message.contains("(a)="), "{error}");
        assert_eq!(state(&database, "t_a").await, "failed");
        database.sql("INSERT INTO t VALUES (-4, 0, 'and on')").await.unwrap();
        // One that has failed makes room for another of its name.
        database.sql("DELETE FROM t WHERE id > 90 OR id < 0").await.unwrap();
        database.sql("CREATE UNIQUE INDEX t_a ON t (a)").await.unwrap();
        assert_eq!(state(&database, "t_a").await, "ready");
        let error = database.sql("INSERT INTO t VALUES (-5, 1, 'again')").await.unwrap_err();
        assert_eq!(error.sqlstate, sqlstate::UNIQUE_VIOLATION);
    });
}

#[test]
fn values_too_long_for_an_index_are_refused_and_fail_one_that_comes_later() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        database.sql("CREATE TABLE l (id integer PRIMARY KEY, v text)").await.unwrap();
        database.sql("INSERT INTO l VALUES (1, repeat('x', 9000)), (2, 'short')").await.unwrap();
        let error = database.sql("CREATE INDEX l_v ON l (v)").await.unwrap_err();
        assert_eq!(error.sqlstate, sqlstate::PROGRAM_LIMIT_EXCEEDED);
        // It was begun all the same: the row may go, and must not break anything on its way.
        database.sql("UPDATE l SET v = 'short, too' WHERE id = 1").await.unwrap();
        database.sql("CREATE INDEX l_v ON l (v)").await.unwrap();
        let error = database.sql("INSERT INTO l VALUES (3, repeat('x', 9000))").await.unwrap_err();
        assert_eq!(error.sqlstate, sqlstate::PROGRAM_LIMIT_EXCEEDED);
        assert_eq!(cell(&mut database.session(), "SELECT count(*) FROM l").await.unwrap(), "2");
    });
}

#[test]
fn an_index_that_gets_ready_is_in_nobody_elses_way() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        fill(&database, 60_000).await;
        let mut writer = database.begin().await.unwrap();
        // Begun in a transaction, it is waited for by nobody.
        database.sql("BEGIN; CREATE INDEX t_a ON t (a); COMMIT").await.unwrap();
        let mut session = database.begin().await.unwrap();
        session.execute("CREATE TABLE q (id integer PRIMARY KEY); INSERT INTO q VALUES (1)").await.unwrap();
        session.execute("CREATE INDEX ON q (id)").await.unwrap();
        while state(&database, "t_a").await != "ready" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        session.execute("COMMIT").await.unwrap();
        writer.execute("INSERT INTO t VALUES (-1, 1, 'read before the index began')").await.unwrap();
        let error = writer.execute("COMMIT").await.unwrap_err();
        assert_eq!(error.sqlstate, sqlstate::SERIALIZATION_FAILURE);
    });
}

#[test]
fn a_query_goes_by_the_index_that_leaves_the_fewest_rows() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        let mut session = database.session();
        session
            .execute(
                "CREATE TABLE k (a integer, b integer); CREATE TABLE p (id integer PRIMARY KEY, a integer, b integer);
                 CREATE INDEX k_a ON k (a); CREATE INDEX p_a ON p (a); CREATE INDEX p_ab ON p (a, b);
                 CREATE UNIQUE INDEX p_b ON p (b)",
            )
            .await
            .unwrap();
        for (filter, way) in [
            ("k WHERE a = 1", "index k_a"),
            ("k WHERE a > 1", "index k_a"),
            ("k WHERE b = 1", "all keys"),
            ("p WHERE a = 1", "index p_a"),
            ("p WHERE a = 1 AND b > 1", "index p_ab"),
            ("p WHERE a IN (1, 2) AND b = 1", "index p_b"),
            ("p WHERE a = 1 AND id = 1", "1 key ranges"),
            ("p WHERE a + 0 = 1", "all keys"),
        ] {
            let plan = text(&mut session, &format!("EXPLAIN SELECT * FROM {filter}")).await;
            assert!(plan.contains(way), "{filter}: {plan}");
        }
    });
}

#[test]
fn a_join_builds_its_table_of_the_smaller_side_however_it_is_written() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        let mut session = database.session();
        let script =
            "CREATE TABLE small (id integer PRIMARY KEY); CREATE TABLE big (id integer PRIMARY KEY, s integer);
            INSERT INTO small VALUES (1), (2); INSERT INTO big SELECT v, v % 2 FROM generate_series(1, 1000) AS s(v)";
        session.execute(script).await.unwrap();
        for tables in ["small JOIN big", "big JOIN small"] {
            let plan = text(&mut session, &format!("EXPLAIN SELECT * FROM {tables} ON big.s = small.id")).await;
            let place = |scan: &str| plan.find(scan).unwrap_or_else(|| panic!("{scan} is not in {plan}"));
            let small = place("ScanExec: small");
            assert!(plan[small..].contains("about 2 rows"), "{plan}");
            assert!(small < place("ScanExec: big"), "the first side is the one that is built of: {plan}");
        }
    });
}

/// The rows of a query, each as text.
async fn rows(session: &mut highwater::Session, sql: &str) -> Vec<Vec<String>> {
    let Outcome::Rows(rows) = session.execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")) else {
        panic!("{sql} gives no rows")
    };
    let batches = rows.collect().await.unwrap();
    let lines = batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(|row| {
            let schema = batch.schema();
            let cells = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
                let (mut cell, column_type) = (String::new(), highwater::types::column_type(field).unwrap());
                match highwater::types::text_at(column, row, column_type, &mut cell).unwrap() {
                    true => cell,
                    false => "NULL".to_owned(),
                }
            });
            cells.collect::<Vec<_>>()
        })
    });
    lines.collect()
}

/// What is searched for in the table of the next test: conditions, order, limit.
fn searches() -> Vec<(&'static str, &'static str, &'static str)> {
    let conditions = [
        "",
        "k = 'k3'",
        "k = 'k3' AND n > 10",
        "k = 'k3' AND n >= 10 AND 20 > n",
        "n BETWEEN -5 AND 40 AND k = 'k7'",
        "k > 'k5' AND k <= 'k8'",
        "k < 'k1'",
        "k >= 'k9' AND k < 'k2'",
        "c = 3",
        "c = NULL",
        "c > 5",
        "c < 2",
        "c = 3 AND d > '2026-01-05'",
        "c = 3 AND d <= '2026-01-05 12:00:00' AND d > '2026-01-02'",
        "u = 77",
        "u > 290",
        "u < 0",
        "c > 2 AND c > 5",
        "k = 'k3' AND k = 'k4'",
        "k = 'k3' AND c = 3",
    ];
    let orders = [
        "",
        "k",
        "k, n",
        "k DESC, n DESC",
        "n",
        "n DESC",
        "c, d",
        "c DESC, d DESC",
        "d DESC",
        "d",
        "c, d DESC",
        "u",
        "u DESC",
        "k, n DESC",
    ];
    let mut searches = Vec::new();
    for condition in conditions {
        for order in orders {
            for limit in ["", "7", "0", "1000"] {
                searches.push((condition, order, limit));
            }
        }
    }
    searches
}

#[test]
fn ranges_and_orders_by_keys_are_what_the_planner_finds() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        let mut session = database.session();
        // One index over rows that were there before it, so that two trees lie one over the other; changes and deletions over both.
        let script = "CREATE TABLE t (k text, n integer, c integer, d timestamp, u integer, PRIMARY KEY (k, n));
            INSERT INTO t SELECT 'k' || v % 10, v / 10 - 5, CASE WHEN v % 7 <> 0 THEN v % 11 END,
                CASE WHEN v % 5 <> 0 THEN timestamp '2026-01-01' + v % 13 * interval '1 day' END, v FROM generate_series(1, 300) AS s(v);
            CREATE INDEX t_cd ON t (c, d);
            INSERT INTO t SELECT 'k' || v % 10, v, v % 11, timestamp '2026-01-03 04:05:06', CASE WHEN v % 3 = 0 THEN v END
                FROM generate_series(301, 400) AS s(v);
            CREATE UNIQUE INDEX t_u ON t (u);
            UPDATE t SET c = NULL, d = NULL WHERE u % 17 = 0; DELETE FROM t WHERE u % 19 = 0; UPDATE t SET c = 3 WHERE u % 23 = 0";
        session.execute(script).await.unwrap();
        let mut direct = 0;
        for is_in_transaction in [false, true] {
            if is_in_transaction {
                let script = "BEGIN; INSERT INTO t VALUES ('k3', 99, 3, '2026-01-04', 5000); DELETE FROM t WHERE u = 40; UPDATE t SET c = 5 WHERE u = 41";
                session.execute(script).await.unwrap();
            }
            for (condition, order, limit) in searches() {
                let clause = |word: &str, text: &str| if text.is_empty() { String::new() } else { format!(" {word} {text}") };
                let (filter, order_by, limit_to) =
                    (clause("WHERE", condition), clause("ORDER BY", order), clause("LIMIT", limit));
                let by_key = format!("SELECT k, n, c, d, u FROM t{filter}{order_by}{limit_to}");
                let planned = format!("SELECT k, n, c, d, u FROM (SELECT * FROM t) AS s{filter}{order_by}");
                direct += usize::from(text(&mut session, &format!("EXPLAIN {by_key}")).await.starts_with("RangeRead"));
                let (found, all) = (rows(&mut session, &by_key).await, rows(&mut session, &planned).await);
                let limit = limit.parse().unwrap_or(usize::MAX);
                assert_eq!(found.len(), all.len().min(limit), "{by_key}");
                // Equals stand in any order, and any of them are within the limit.
                let columns = order.split(", ").filter(|name| !name.is_empty()).map(|name| "kncdu".find(&name[..1]).unwrap());
                let columns: Vec<_> = columns.collect();
                let keys = |rows: &[Vec<String>]| -> Vec<Vec<String>> {
                    rows.iter().map(|row| columns.iter().map(|column| row[*column].clone()).collect()).collect()
                };
                assert_eq!(keys(&found), keys(&all[..found.len()]), "{by_key}");
                let (mut once, count) = (found.clone(), found.len());
                once.sort();
                once.dedup();
                assert_eq!(once.len(), count, "{by_key}: a row twice");
                assert!(once.iter().all(|row| all.contains(row)), "{by_key}: a row that the planner does not find");
            }
        }
        assert!(direct > 500, "{direct} searches went round the planner");
        session.execute("ROLLBACK").await.unwrap();
        // What is given last counts, values or limit; what fits no column is the planner's.
        session.execute("PREPARE p AS SELECT u FROM t WHERE c = $1 ORDER BY d DESC LIMIT $2").await.unwrap();
        assert_eq!(rows(&mut session, "EXECUTE p(5, 3)").await.len(), 3);
        assert_eq!(rows(&mut session, "EXECUTE p(5, 0)").await.len(), 0);
        assert_eq!(rows(&mut session, "EXECUTE p(NULL, 3)").await.len(), 0);
        assert_eq!(rows(&mut session, "EXECUTE p(5, NULL)").await, rows(&mut session, "SELECT u FROM (SELECT * FROM t) AS s WHERE c = 5 ORDER BY d DESC").await);
        assert_eq!(session.execute("EXECUTE p(5, -1)").await.err().map(|error| error.sqlstate), Some("2201W"));
        assert_eq!(rows(&mut session, "SELECT k AS n, u FROM t WHERE k = 'k1' ORDER BY n LIMIT 2").await.len(), 2);
    });
}

/// Opens the database in `HIGHWATER_INDEX_CHILD` and builds an index until it is killed.
#[test]
fn child() {
    let Some(directory) = std::env::var_os("HIGHWATER_INDEX_CHILD") else { return };
    runtime().block_on(async {
        let database = Arc::new(Database::open(directory).unwrap());
        let _writers = Writers::start(&database, 30_000);
        // It may have been begun, or be there, since an earlier life.
        match database.sql("CREATE INDEX t_a ON t (a)").await {
            Ok(_) => {}
            Err(error) => assert_eq!(error.sqlstate, sqlstate::DUPLICATE_TABLE, "{error}"),
        }
        std::future::pending::<()>().await;
    });
}

fn spawn_child(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("HIGHWATER_INDEX_CHILD", directory)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_kill_half_way_begins_the_filling_again() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let database = Database::open(directory.path()).unwrap();
        fill(&database, 30_000).await;
        database.close().unwrap();
        for kill in 0..6 {
            let mut child = spawn_child(directory.path());
            std::thread::sleep(Duration::from_millis(60 + 45 * kill));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let database = Database::open(directory.path()).unwrap();
        let mut patience = 3_000;
        // Nobody asks for it again: the opening goes on.
        while state(&database, "t_a").await != "ready" {
            assert!(patience > 0, "{}", state(&database, "t_a").await);
            patience -= 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_index_is_whole(&database, "t_a").await;
    });
}
