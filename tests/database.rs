//! The embedded database: sessions beside one another, reopening, and statements that mean harm.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/session.rs"]
mod session;

use std::sync::Arc;
use std::time::Duration;

use highwater::{
    Database, FeedError, FeedOptions, FeedStart, Interrupt, Options, Outcome, Session, SqlError, sqlstate,
};
use highwater_log::sequencer::SequencerOptions;
use highwater_log::{Lsn, SegmentedOptions};
use highwater_materializers::KvOptions;
use highwater_query::EngineOptions;
use session::cell;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

fn sqlstate_of(outcome: Result<Outcome, SqlError>) -> &'static str {
    outcome.err().map_or("00000", |error| error.sqlstate)
}

#[test]
fn concurrent_updates_of_one_row_are_all_counted() {
    runtime().block_on(async {
        let database = Arc::new(Database::in_memory().unwrap());
        database
            .sql("CREATE TABLE counter (id integer PRIMARY KEY, n bigint); INSERT INTO counter VALUES (1, 0)")
            .await
            .unwrap();
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let database = Arc::clone(&database);
                tokio::spawn(async move {
                    let mut session = database.session();
                    let mut succeeded = 0;
                    for _ in 0..50 {
                        match session.execute("UPDATE counter SET n = n + 1 WHERE id = 1").await {
                            Ok(_) => succeeded += 1,
                            Err(error) => assert_eq!(error.sqlstate, sqlstate::SERIALIZATION_FAILURE),
                        }
                    }
                    succeeded
                })
            })
            .collect();
        let mut succeeded = 0;
        for task in tasks {
            succeeded += task.await.unwrap();
        }
        let n = cell(&mut database.session(), "SELECT n FROM counter").await.unwrap();
        assert_eq!(n, succeeded.to_string());
        assert!(succeeded > 0);
    });
}

#[test]
fn a_statement_that_loses_a_race_is_run_again() {
    const STATEMENTS: i64 = 9;
    const ROUNDS: i64 = 200;
    runtime().block_on(async {
        let database = Arc::new(Database::in_memory().unwrap());
        let script = "CREATE TABLE counter (id integer PRIMARY KEY, n bigint); INSERT INTO counter VALUES (1, 0)";
        database.sql(script).await.unwrap();
        for _ in 0..ROUNDS {
            // A statement loses once to each of the other's at most: ten attempts are always enough.
            let tasks = [(), ()].map(|()| {
                let database = Arc::clone(&database);
                tokio::spawn(async move {
                    let mut session = database.session();
                    for _ in 0..STATEMENTS {
                        session.execute("UPDATE counter SET n = n + 1 WHERE id = 1").await.unwrap();
                    }
                })
            });
            for task in tasks {
                task.await.unwrap();
            }
        }
        let n = cell(&mut database.session(), "SELECT n FROM counter").await.unwrap();
        assert_eq!(n, (2 * STATEMENTS * ROUNDS).to_string());
    });
}

#[test]
fn a_read_waits_for_the_lsn_that_it_was_told() {
    runtime().block_on(async {
        let database = Arc::new(Database::in_memory().unwrap());
        database.sql("CREATE TABLE t (id integer PRIMARY KEY)").await.unwrap();
        let mut session = database.session();
        session.execute(&format!("SET hw.min_lsn = {}", database.visible().next())).await.unwrap();
        session.execute("SET hw.min_lsn_timeout = '10min'").await.unwrap();
        let mut read = Box::pin(async move { cell(&mut session, "SELECT count(*) FROM t").await });
        let is_early = tokio::time::timeout(Duration::from_millis(50), &mut read).await.is_ok();
        assert!(!is_early, "it has answered before the LSN was there");
        database.sql("INSERT INTO t VALUES (1)").await.unwrap();
        assert_eq!(read.await.unwrap(), "1");
    });
}

#[test]
fn a_transaction_larger_than_its_limit_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let sequencer = SequencerOptions { transaction_bytes_max: 1024 * 1024, ..SequencerOptions::default() };
        let options = Options { sequencer, ..Options::default() };
        let database = Database::open_with(directory.path(), options, |_| {}).unwrap();
        database.sql("CREATE TABLE t (id integer PRIMARY KEY, v text)").await.unwrap();
        let insert = |from: u32, to: u32| {
            format!("INSERT INTO t SELECT n, repeat('x', 1000) FROM generate_series({from}, {to}) AS s(n)")
        };
        let refused = database.sql(&insert(1, 2_000)).await.err().unwrap();
        assert_eq!(refused.sqlstate, sqlstate::PROGRAM_LIMIT_EXCEEDED, "{refused}");
        // Statement by statement it is as large.
        let mut session = database.begin().await.unwrap();
        session.execute(&insert(1, 600)).await.unwrap();
        let second = session.execute(&insert(601, 1_200)).await;
        let outcome = if second.is_ok() { session.execute("COMMIT").await } else { second };
        assert_eq!(sqlstate_of(outcome), sqlstate::PROGRAM_LIMIT_EXCEEDED);
        drop(session);
        let mut session = database.session();
        assert_eq!(cell(&mut session, "SELECT count(*) FROM t").await.unwrap(), "0");
        session.execute(&insert(1, 600)).await.unwrap();
        assert_eq!(cell(&mut session, "SELECT count(*) FROM t").await.unwrap(), "600");
    });
}

#[test]
fn the_first_committer_wins() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        database
            .sql("CREATE TABLE t (id integer PRIMARY KEY, v integer); INSERT INTO t VALUES (1, 0), (2, 0)")
            .await
            .unwrap();
        let (mut one, mut two) = (database.begin().await.unwrap(), database.begin().await.unwrap());
        one.execute("UPDATE t SET v = 1 WHERE id = 1").await.unwrap();
        two.execute("UPDATE t SET v = 2 WHERE id = 1").await.unwrap();
        assert_eq!(cell(&mut two, "SELECT v FROM t WHERE id = 1").await.unwrap(), "2", "own writes are read");
        one.execute("COMMIT").await.unwrap();
        assert_eq!(sqlstate_of(two.execute("COMMIT").await), sqlstate::SERIALIZATION_FAILURE);
        assert_eq!(cell(&mut two, "SELECT v FROM t WHERE id = 1").await.unwrap(), "1");

        // Two rows of one key: the second one to commit is a duplicate.
        let (mut one, mut two) = (database.begin().await.unwrap(), database.begin().await.unwrap());
        one.execute("INSERT INTO t VALUES (9, 1)").await.unwrap();
        two.execute("INSERT INTO t VALUES (9, 2)").await.unwrap();
        one.execute("COMMIT").await.unwrap();
        assert_eq!(sqlstate_of(two.execute("COMMIT").await), sqlstate::UNIQUE_VIOLATION);

        // A change of the schema and a write that was planned before it.
        let mut writer = database.begin().await.unwrap();
        writer.execute("INSERT INTO t VALUES (10, 1)").await.unwrap();
        database.sql("ALTER TABLE t ADD COLUMN w integer").await.unwrap();
        assert_eq!(sqlstate_of(writer.execute("COMMIT").await), sqlstate::SERIALIZATION_FAILURE);

        // A snapshot stays what it was.
        let mut reader = database.begin().await.unwrap();
        assert_eq!(cell(&mut reader, "SELECT count(*) FROM t").await.unwrap(), "3");
        database.sql("DELETE FROM t WHERE id = 2").await.unwrap();
        assert_eq!(cell(&mut reader, "SELECT count(*) FROM t").await.unwrap(), "3");
        reader.execute("COMMIT").await.unwrap();
        assert_eq!(cell(&mut reader, "SELECT count(*) FROM t").await.unwrap(), "2");
    });
}

#[test]
fn what_was_committed_is_there_again() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let database = Database::open(directory.path()).unwrap();
        database.sql("CREATE TABLE t (id integer PRIMARY KEY, v text)").await.unwrap();
        let mut session = database.session();
        session.execute("INSERT INTO t VALUES (1, 'synced')").await.unwrap();
        session.execute("SET synchronous_commit = off").await.unwrap();
        let Outcome::Done(done) = session.execute("INSERT INTO t VALUES (2, 'buffered')").await.unwrap() else {
            panic!()
        };
        assert_eq!(done.lsn, None, "a buffered commit has no LSN yet");
        session.execute("SET synchronous_commit = on").await.unwrap();
        // A synced commit covers what was buffered before it.
        session.execute("INSERT INTO t VALUES (3, 'synced')").await.unwrap();
        let refused = Database::open(directory.path()).err().unwrap().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "the owner is named: {refused}");
        drop(session);
        // Dropped, not closed: as a kill would.
        drop(database);
        let database = Database::open(directory.path()).unwrap();
        assert_eq!(cell(&mut database.session(), "SELECT count(*) FROM t").await.unwrap(), "3");
        database.sql("TRUNCATE t").await.unwrap();
        database.close().unwrap();
        // What is folded is a cache: without it, the same answers.
        std::fs::remove_dir_all(directory.path().join("materialized")).unwrap();
        let database = Database::open(directory.path()).unwrap();
        let mut session = database.session();
        assert_eq!(cell(&mut session, "SELECT count(*) FROM t").await.unwrap(), "0");
        assert_eq!(cell(&mut session, "SELECT count(*) FROM t AS OF LSN 4").await.unwrap(), "3");
        drop(session);
        database.close().unwrap();
    });
}

#[test]
fn a_trimmed_log_answers_as_before_and_feeds_begin_behind_what_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let options = || {
        let log = SegmentedOptions { segment_bytes_min: 32 << 10, segment_bytes_max: 32 << 10, ..Default::default() };
        Options { log, rows: KvOptions { history: Duration::ZERO, ..KvOptions::default() }, ..Options::default() }
    };
    let open = |options| Database::open_with(directory.path(), options, |_| {}).unwrap();
    let highwater = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_highwater"));
        let output = command.args(arguments).arg("--data").arg(directory.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    const SUMS: &str = "SELECT count(*)::text || ' ' || sum(n)::text || ' ' || sum(length(v))::text FROM t";
    runtime().block_on(async {
        let database = open(options());
        let mut session = database.session();
        session
            .execute("CREATE TABLE t (id bigint PRIMARY KEY, n integer UNIQUE, gone text, v text DEFAULT 'old')")
            .await
            .unwrap();
        session.execute("CREATE TABLE dropped (id integer PRIMARY KEY); INSERT INTO dropped VALUES (1)").await.unwrap();
        for id in 0..200 {
            let v = "v".repeat(id * 5);
            session.execute(&format!("INSERT INTO t VALUES ({id}, {id}, 'g', '{v}')")).await.unwrap();
        }
        session
            .execute("ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ADD COLUMN gone integer DEFAULT 7")
            .await
            .unwrap();
        session.execute("UPDATE t SET n = n + 1000 WHERE id % 2 = 0; DELETE FROM t WHERE id % 5 = 0").await.unwrap();
        session.execute("DROP TABLE dropped").await.unwrap();
        let sums = cell(&mut session, SUMS).await.unwrap();

        for (call, sqlstate) in [
            ("CALL hw_trim_log(99999)", sqlstate::OBJECT_IN_USE),
            ("CALL hw_trim_log('all')", sqlstate::UNDEFINED_FUNCTION),
            ("CALL hw_trim_log(1, 2)", sqlstate::UNDEFINED_FUNCTION),
            ("CALL hw_trim_log(-1)", sqlstate::UNDEFINED_FUNCTION),
            ("CALL nothing_of_the_kind()", sqlstate::UNDEFINED_FUNCTION),
            ("BEGIN; CALL hw_trim_log()", sqlstate::ACTIVE_TRANSACTION),
        ] {
            assert_eq!(sqlstate_of(session.execute(call).await), sqlstate, "{call}");
        }
        session.execute("ROLLBACK").await.unwrap();
        assert_eq!(cell(&mut session, "CALL hw_trim_log(0)").await.unwrap(), "1", "nothing was asked for");
        let held = {
            let mut reader = database.session();
            reader.execute("BEGIN READ ONLY").await.unwrap();
            reader
        };
        let at = held.read_lsn().unwrap();
        session.execute("UPDATE t SET n = -n").await.unwrap();
        let beyond = format!("CALL hw_trim_log({})", at.next());
        assert_eq!(sqlstate_of(session.execute(&beyond).await), sqlstate::OBJECT_IN_USE, "a transaction reads there");
        session.execute("UPDATE t SET n = -n").await.unwrap();
        drop(held);

        let earliest: u64 = cell(&mut session, "CALL hw_trim_log()").await.unwrap().parse().unwrap();
        assert!(earliest > 150, "{earliest}");
        assert_eq!(cell(&mut session, "CALL hw_trim_log()").await.unwrap(), earliest.to_string());
        assert_eq!(cell(&mut session, SUMS).await.unwrap(), sums);
        let past = session.execute("SELECT count(*) FROM t AS OF LSN 100").await;
        assert_eq!(sqlstate_of(past), sqlstate::BELOW_HISTORY);
        let subscribe = |after| database.subscribe(&["t"], FeedStart::After(Lsn::new(after)), FeedOptions::default());
        let error = subscribe(earliest - 2).err().unwrap();
        assert!(matches!(error, FeedError::TooOld { earliest: named, .. } if named.value() == earliest), "{error}");
        assert!(subscribe(earliest - 1).is_ok());
        drop(session);
        database.close().unwrap();

        let listed = highwater(&["log", "verify"]);
        assert!(listed.contains(" 0 damaged places"), "{listed}");
        let first = highwater(&["log", "cat", "--limit", "1"]);
        assert!(first.contains(&format!("\"lsn\":{earliest},")), "{first}");
        assert!(highwater(&["log", "ls"]).lines().count() < 6);

        // Folded anew, from the base image.
        std::fs::remove_dir_all(directory.path().join("materialized")).unwrap();
        let database = open(Options::default());
        let mut session = database.session();
        assert_eq!(cell(&mut session, SUMS).await.unwrap(), sums);
        assert_eq!(cell(&mut session, "SELECT sum(gone) FROM t").await.unwrap(), (7 * 160).to_string());
        let taken = session.execute("INSERT INTO t VALUES (1000, 1, 'v', 1)").await;
        assert_eq!(sqlstate_of(taken), sqlstate::UNIQUE_VIOLATION, "unique indexes are folded, too");
        assert_eq!(sqlstate_of(session.execute("SELECT * FROM dropped").await), sqlstate::UNDEFINED_TABLE);
        session.execute("CREATE TABLE dropped (id integer PRIMARY KEY); INSERT INTO dropped VALUES (2)").await.unwrap();
        assert_eq!(cell(&mut session, "SELECT id FROM dropped").await.unwrap(), "2");
        drop(session);
        database.close().unwrap();
    });
}

#[test]
fn statements_that_mean_harm_are_refused() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        let mut session = database.session();
        let nested = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
        assert_eq!(sqlstate_of(session.execute(&nested).await), sqlstate::STATEMENT_TOO_COMPLEX);
        let chained = format!("SELECT 1{}", " + 1".repeat(100_000));
        assert_eq!(sqlstate_of(session.execute(&chained).await), sqlstate::STATEMENT_TOO_COMPLEX);
        let united = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(50_000));
        assert_eq!(sqlstate_of(session.execute(&united).await), sqlstate::STATEMENT_TOO_COMPLEX);
        let long = format!("SELECT '{}'", "x".repeat(65 * 1024 * 1024));
        assert_eq!(sqlstate_of(session.execute(&long).await), sqlstate::STATEMENT_TOO_COMPLEX);
        let exists = |depth: usize| {
            format!("SELECT 1 WHERE {}true{}", "EXISTS (SELECT 1 WHERE ".repeat(depth), ")".repeat(depth))
        };
        assert_eq!(sqlstate_of(session.execute(&exists(17)).await), sqlstate::STATEMENT_TOO_COMPLEX);
        assert_eq!(cell(&mut session, &exists(8)).await.unwrap(), "1");
        let derived =
            format!("SELECT n FROM {}(SELECT 1 AS n) AS s{}", "(SELECT n FROM ".repeat(30), ") AS s".repeat(30));
        assert_eq!(cell(&mut session, &derived).await.unwrap(), "1", "tables in tables are no such subqueries");
        // What is just allowed is answered, on a thread of ordinary size.
        let chained = format!("SELECT 1{}", " + 1".repeat(120));
        assert_eq!(cell(&mut session, &chained).await.unwrap(), "121");
        let chained = format!("SELECT count(*) FROM (SELECT 1 AS n) AS s WHERE n = 0{}", " OR n = 1".repeat(240));
        assert_eq!(cell(&mut session, &chained).await.unwrap(), "1");
        let nested = format!("SELECT {}1{}", "(".repeat(45), ")".repeat(45));
        assert_eq!(cell(&mut session, &nested).await.unwrap(), "1");
        database.sql("CREATE TABLE t (id text PRIMARY KEY)").await.unwrap();
        let casts = format!("SELECT 1{}", "::int".repeat(490));
        assert_eq!(sqlstate_of(session.execute(&casts).await), sqlstate::STATEMENT_TOO_COMPLEX);
        let mut nested = "1".to_owned();
        for _ in 0..4 {
            nested = format!("({nested}{})", " + 1".repeat(400));
        }
        assert_eq!(sqlstate_of(session.execute(&format!("SELECT {nested}")).await), sqlstate::STATEMENT_TOO_COMPLEX);
        let many = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(200));
        assert_eq!(sqlstate_of(session.execute(&many).await), "00000", "a long union is planned in one go");
        let long_key = format!("INSERT INTO t VALUES ('{}')", "k".repeat(9_000));
        assert_eq!(sqlstate_of(session.execute(&long_key).await), sqlstate::PROGRAM_LIMIT_EXCEEDED);
        let joined = |count: usize| {
            let joins: String = (1..=count).map(|n| format!(" JOIN t AS t{n} ON t{n}.id = t0.id")).collect();
            format!("SELECT count(*) FROM t AS t0{joins}")
        };
        assert_eq!(cell(&mut session, &joined(100)).await.unwrap(), "0");
        assert_eq!(sqlstate_of(session.execute(&joined(101)).await), sqlstate::STATEMENT_TOO_COMPLEX);
        let stars = format!("SELECT *{} FROM t", ", *".repeat(1_664));
        assert_eq!(sqlstate_of(session.execute(&stars).await), sqlstate::TOO_MANY_COLUMNS);
        let zero = session.execute("INSERT INTO t VALUES ('\u{0}')").await;
        assert_eq!(sqlstate_of(zero), sqlstate::CHARACTER_NOT_IN_REPERTOIRE);
    });
}

#[test]
fn damage_that_shows_in_a_read_is_mended_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let database = Database::open(directory.path()).unwrap();
        database.sql("CREATE TABLE t (id integer PRIMARY KEY, v text)").await.unwrap();
        let rows: Vec<_> = (0..5_000).map(|id| format!("({id}, 'value {id} {}')", "x".repeat(id % 97))).collect();
        database.sql(&format!("INSERT INTO t VALUES {}", rows.join(","))).await.unwrap();
        let query = "SELECT count(*) || ' ' || sum(length(v)) FROM t";
        let expected = cell(&mut database.session(), query).await.unwrap();
        database.close().unwrap();
        // In the middle of every file of rows: their blocks are read when they are needed.
        let mut damaged = 0;
        let mut folders = vec![directory.path().join("materialized")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let mut bytes = std::fs::read(&path).unwrap();
                if bytes.len() > 32 * 1024 {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x10;
                    std::fs::write(&path, bytes).unwrap();
                    damaged += 1;
                }
            }
        }
        assert!(damaged > 0, "there are files of rows");
        let database = Database::open(directory.path()).unwrap();
        let mut errors = 0;
        let found = loop {
            match cell(&mut database.session(), query).await {
                Ok(found) => break found,
                // Until the rows are folded anew, and for a read that this overtakes.
                Err(error) => {
                    let known = [sqlstate::DATA_CORRUPTED, sqlstate::SERIALIZATION_FAILURE, sqlstate::LSN_NOT_REACHED];
                    assert!(known.contains(&error.sqlstate), "{error} ({})", error.sqlstate);
                    errors += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            }
        };
        assert!(errors > 0, "the damage was met");
        assert_eq!(found, expected);
        // Writes go on behind the mending.
        while let Err(error) = database.sql("INSERT INTO t VALUES (-1, 'after')").await {
            assert_eq!(error.sqlstate, sqlstate::CANNOT_CONNECT_NOW, "{error}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        database.close().unwrap();
    });
}

#[test]
fn a_query_that_computes_for_days_ends_when_it_is_interrupted() {
    runtime().block_on(async {
        let database = Arc::new(Database::in_memory().unwrap());
        database.sql("CREATE TABLE t (id integer PRIMARY KEY)").await.unwrap();
        database.sql("INSERT INTO t SELECT value FROM generate_series(1, 2000) AS s (value)").await.unwrap();
        // What a join gathers of more tables would outgrow the memory of queries, perhaps before anybody interrupts it.
        let tables = "t a, t b, t c";
        for statement in [
            format!("SELECT count(*) FROM {tables} WHERE a.id + b.id + c.id = -1"),
            format!("SELECT count(*) FROM {tables}, t d, t e WHERE a.id = b.id AND b.id < c.id AND c.id + d.id + e.id = -1"),
            format!("SELECT sum(a.id + c.id) FROM {tables}"),
            "SELECT count(*) FROM t a JOIN t b ON a.id / 4000 = b.id / 4000
                JOIN t c ON b.id / 4000 = c.id / 4000 AND a.id + b.id + c.id = -1 JOIN t d ON c.id / 4000 = d.id / 4000"
                .to_owned(),
            format!("DELETE FROM t WHERE id = (SELECT count(*) FROM {tables} WHERE a.id + b.id < -c.id)"),
            "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i FROM n) SELECT count(*) FROM n".to_owned(),
        ] {
            let interrupt = Interrupt::default();
            let mut session = database.session();
            session.interrupted_by(interrupt.clone());
            let raised = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                interrupt.raise();
            });
            let outcome = match session.execute(&statement).await {
                Ok(Outcome::Rows(rows)) => rows.collect().await.map(drop),
                Ok(Outcome::Done(done) | Outcome::Returned(_, done)) => panic!("{done:?}"),
                Err(error) => Err(error),
            };
            assert_eq!(outcome.unwrap_err().sqlstate, sqlstate::QUERY_CANCELED, "{statement}");
            raised.await.unwrap();
        }
        assert_eq!(cell(&mut database.session(), "SELECT count(*) FROM t").await.unwrap(), "2000");
    });
}

/// What `hw_catalog.result_cache` tells: hits, misses, and how many of those found a result that did not hold.
async fn results_told(session: &mut Session) -> [u64; 3] {
    let told =
        cell(session, "SELECT hits || ' ' || misses || ' ' || stale FROM hw_catalog.result_cache").await.unwrap();
    let numbers: Vec<u64> = told.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn results_are_kept_until_one_of_their_tables_changes() {
    runtime().block_on(async {
        let queries = EngineOptions { result_cache_bytes: 1 << 20, ..EngineOptions::default() };
        let database = Database::in_memory_with(Options { queries, ..Options::default() }).unwrap();
        let mut session = database.session();
        let script = "CREATE TABLE t (id integer PRIMARY KEY, v integer); CREATE TABLE u (id integer PRIMARY KEY);
            INSERT INTO t SELECT n, n FROM generate_series(1, 10) AS s(n)";
        session.execute(script).await.unwrap();
        let lsn = session.last_write().unwrap();
        let sum = "SELECT sum(v) FROM t WHERE v > 5";
        let mut expected = [0, 0, 0];
        let mut ask = async |session: &mut Session, sql: &str, answer: &str, hits: u64, misses: u64, stale: u64| {
            assert_eq!(cell(session, sql).await.unwrap(), answer, "{sql}");
            for (number, more) in expected.iter_mut().zip([hits, misses, stale]) {
                *number += more;
            }
            assert_eq!(results_told(session).await, expected, "{sql}");
        };
        ask(&mut session, sum, "40", 0, 1, 0).await;
        ask(&mut session, "select  sum(v)\n from t where v > 5", "40", 1, 0, 0).await;
        ask(&mut database.session(), sum, "40", 1, 0, 0).await;
        // Another table's rows, and what a transaction has written that is not committed.
        session.execute("INSERT INTO u VALUES (1)").await.unwrap();
        ask(&mut session, sum, "40", 1, 0, 0).await;
        session.execute("BEGIN; UPDATE t SET v = 100 WHERE id = 10").await.unwrap();
        ask(&mut session, sum, "130", 0, 0, 0).await;
        ask(&mut database.session(), sum, "40", 1, 0, 0).await;
        session.execute("COMMIT").await.unwrap();
        ask(&mut session, sum, "130", 0, 1, 1).await;
        ask(&mut session, sum, "130", 1, 0, 0).await;
        // In the past it is another result.
        ask(&mut session, &format!("{sum} AS OF LSN {lsn}"), "40", 0, 1, 1).await;
        ask(&mut session, &format!("{sum} AS OF LSN {lsn}"), "40", 1, 0, 0).await;
        ask(&mut session, sum, "130", 0, 1, 1).await;
        // A subquery's table, a parameter, a name that means another table.
        let inner = "SELECT count(*) FROM t WHERE id IN (SELECT id FROM u)";
        ask(&mut session, inner, "1", 0, 1, 0).await;
        session.execute("INSERT INTO u VALUES (2)").await.unwrap();
        ask(&mut session, inner, "2", 0, 1, 1).await;
        session.execute("PREPARE p AS SELECT count(*) FROM t WHERE v > $1").await.unwrap();
        ask(&mut session, "EXECUTE p(5)", "5", 0, 1, 0).await;
        ask(&mut session, "EXECUTE p(8)", "2", 0, 1, 0).await;
        ask(&mut session, "EXECUTE p(5)", "5", 1, 0, 0).await;
        // What is written out alike need not be the same.
        let quotes = "CREATE TABLE q (v text); INSERT INTO q VALUES ('a''b'), ('a''''b'), ('a''''b')";
        session.execute(quotes).await.unwrap();
        session.execute("PREPARE o AS SELECT count(*) FROM q WHERE v = $1").await.unwrap();
        ask(&mut session, "EXECUTE o('a''b')", "1", 0, 1, 0).await;
        ask(&mut session, "EXECUTE o('a''''b')", "2", 0, 1, 0).await;
        ask(&mut session, "EXECUTE o('a''b')", "1", 1, 0, 0).await;
        session.execute("DELETE FROM t WHERE v < 8; DELETE FROM t WHERE v = 8").await.unwrap();
        ask(&mut session, sum, "109", 0, 1, 1).await;
        session.execute("TRUNCATE t").await.unwrap();
        ask(&mut session, "SELECT count(*) FROM t", "0", 0, 1, 0).await;
        ask(&mut session, "SELECT count(*) FROM t", "0", 1, 0, 0).await;
        session
            .execute("ALTER TABLE t RENAME TO old; CREATE TABLE t (id integer, v integer); INSERT INTO t VALUES (1, 1)")
            .await
            .unwrap();
        ask(&mut session, "SELECT count(*) FROM t", "1", 0, 1, 1).await;
        session.execute("DROP TABLE t").await.unwrap();
        assert_eq!(sqlstate_of(session.execute("SELECT count(*) FROM t").await), sqlstate::UNDEFINED_TABLE);
        // What is not of the rows alone is computed each time, and so is what is too large.
        session
            .execute("CREATE TABLE t AS SELECT v, repeat('x', 1000) AS b FROM generate_series(1, 300) AS s(v)")
            .await
            .unwrap();
        let before = results_told(&mut session).await;
        for sql in [
            "SELECT count(*) FROM t WHERE now() > '2020-01-01'",
            "SELECT hw_lsn() FROM t",
            "SELECT count(*) FROM hw_catalog.indexes",
        ] {
            session.execute(sql).await.unwrap();
            session.execute(sql).await.unwrap();
        }
        assert_eq!(results_told(&mut session).await, before);
        for _ in 0..2 {
            let Outcome::Rows(rows) = session.execute("SELECT * FROM t").await.unwrap() else { panic!("rows") };
            rows.collect().await.unwrap();
        }
        assert_eq!(results_told(&mut session).await[..2], [before[0], before[1] + 2]);
    });
}
