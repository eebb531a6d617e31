//! Transactions beside one another: interleaved steps, with what a real PostgreSQL makes of the same; and random histories, checked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/session.rs"]
mod session;

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater::{Database, Outcome, Session, SqlError, sqlstate, types};
use highwater_log::Lsn;
use highwater_log::env::simulated::Random;
use postgres::Postgres;
use tokio_postgres::SimpleQueryMessage;

/// Sessions that take steps in turn. Who fails takes no more steps.
struct Case {
    name: &'static str,
    setup: &'static str,
    /// Session, statement, and what a query gives: rows by commas.
    steps: &'static [(char, &'static str, Option<&'static str>)],
    /// What is asked at the end.
    check: &'static str,
    repeatable_read: Expected,
    serializable: Expected,
}

/// Who commits, and what the check gives then.
struct Expected {
    postgres: (&'static str, &'static str),
    here: (&'static str, &'static str),
}

const fn same(committed: &'static str, check: &'static str) -> Expected {
    Expected { postgres: (committed, check), here: (committed, check) }
}

const fn other(postgres: (&'static str, &'static str), here: (&'static str, &'static str)) -> Expected {
    Expected { postgres, here }
}

const TWO: &str = "CREATE TABLE test (id integer PRIMARY KEY, value integer); INSERT INTO test VALUES (1, 10), (2, 20)";
const CLASSES: &str = "CREATE TABLE test (id integer PRIMARY KEY, class integer, value integer);
    CREATE INDEX test_class ON test (class);
    INSERT INTO test VALUES (1, 1, 10), (2, 1, 20), (3, 2, 100), (4, 2, 200)";

const CASES: &[Case] = &[
    Case {
        name: "G1a: what was rolled back is not read",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "UPDATE test SET value = 101 WHERE id = 1", None),
            ('b', "SELECT value FROM test ORDER BY id", Some("10,20")),
            ('a', "ROLLBACK", None),
            ('b', "SELECT value FROM test ORDER BY id", Some("10,20")),
            ('b', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("ab", "30"),
        serializable: same("ab", "30"),
    },
    Case {
        name: "G1b: what was in between is not read",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "UPDATE test SET value = 101 WHERE id = 1", None),
            ('b', "SELECT value FROM test ORDER BY id", Some("10,20")),
            ('a', "UPDATE test SET value = 11 WHERE id = 1", None),
            ('a', "COMMIT", None),
            ('b', "SELECT value FROM test ORDER BY id", Some("10,20")),
            ('b', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("ab", "31"),
        serializable: same("ab", "31"),
    },
    Case {
        name: "G1c: two do not see each other's writes",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "UPDATE test SET value = 11 WHERE id = 1", None),
            ('b', "UPDATE test SET value = 22 WHERE id = 2", None),
            ('a', "SELECT value FROM test WHERE id = 2", Some("20")),
            ('b', "SELECT value FROM test WHERE id = 1", Some("10")),
            ('a', "COMMIT", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("ab", "33"),
        serializable: same("a", "31"),
    },
    Case {
        name: "lost update",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT value FROM test WHERE id = 1", Some("10")),
            ('b', "SELECT value FROM test WHERE id = 1", Some("10")),
            ('a', "UPDATE test SET value = 11 WHERE id = 1", None),
            ('a', "COMMIT", None),
            ('b', "UPDATE test SET value = 12 WHERE id = 1", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT value FROM test WHERE id = 1",
        repeatable_read: same("a", "11"),
        serializable: same("a", "11"),
    },
    Case {
        name: "read skew (G-single)",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT value FROM test WHERE id = 1", Some("10")),
            ('b', "UPDATE test SET value = value + 1 WHERE id IN (1, 2)", None),
            ('b', "COMMIT", None),
            ('a', "SELECT value FROM test WHERE id = 2", Some("20")),
            ('a', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("ab", "32"),
        serializable: same("ab", "32"),
    },
    Case {
        name: "read skew, and a write to what was changed",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT value FROM test WHERE id = 1", Some("10")),
            ('b', "UPDATE test SET value = 12 WHERE id = 1", None),
            ('b', "UPDATE test SET value = 18 WHERE id = 2", None),
            ('b', "COMMIT", None),
            ('a', "DELETE FROM test WHERE value = 20", None),
            ('a', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("b", "30"),
        serializable: same("b", "30"),
    },
    Case {
        name: "phantom, read twice",
        setup: CLASSES,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT count(*) FROM test WHERE class = 1", Some("2")),
            ('b', "INSERT INTO test VALUES (5, 1, 30)", None),
            ('b', "COMMIT", None),
            ('a', "SELECT count(*) FROM test WHERE class = 1", Some("2")),
            ('a', "COMMIT", None),
        ],
        check: "SELECT count(*) FROM test",
        repeatable_read: same("ab", "5"),
        serializable: same("ab", "5"),
    },
    Case {
        name: "phantom, written upon (G2)",
        setup: CLASSES,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT sum(value) FROM test WHERE class = 1", Some("30")),
            ('b', "SELECT sum(value) FROM test WHERE class = 2", Some("300")),
            ('a', "INSERT INTO test VALUES (5, 2, 30)", None),
            ('b', "INSERT INTO test VALUES (6, 1, 300)", None),
            ('a', "COMMIT", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT count(*) FROM test",
        repeatable_read: same("ab", "6"),
        serializable: same("a", "5"),
    },
    Case {
        name: "write skew (G2-item)",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT sum(value) FROM test WHERE id IN (1, 2)", Some("30")),
            ('b', "SELECT sum(value) FROM test WHERE id IN (1, 2)", Some("30")),
            ('a', "UPDATE test SET value = value - 30 WHERE id = 1", None),
            ('b', "UPDATE test SET value = value - 30 WHERE id = 2", None),
            ('a', "COMMIT", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT sum(value) >= 0 FROM test",
        repeatable_read: same("ab", "f"),
        serializable: same("a", "t"),
    },
    Case {
        name: "write skew over a row that is not there",
        setup: "CREATE TABLE test (id integer PRIMARY KEY, value integer UNIQUE)",
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT count(*) FROM test WHERE value = 1", Some("0")),
            ('b', "SELECT count(*) FROM test WHERE value = 2", Some("0")),
            ('a', "INSERT INTO test VALUES (1, 2)", None),
            ('b', "INSERT INTO test VALUES (2, 1)", None),
            ('a', "COMMIT", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT count(*) FROM test",
        repeatable_read: same("ab", "2"),
        serializable: same("a", "1"),
    },
    Case {
        name: "the read-only anomaly",
        setup: "CREATE TABLE test (id integer PRIMARY KEY, value integer); INSERT INTO test VALUES (1, 0), (2, 0)",
        steps: &[
            ('b', "BEGIN", None),
            ('b', "SELECT sum(value) FROM test WHERE id IN (1, 2)", Some("0")),
            ('a', "BEGIN", None),
            ('a', "UPDATE test SET value = value + 20 WHERE id = 2", None),
            ('a', "COMMIT", None),
            ('c', "BEGIN", None),
            ('c', "SELECT value FROM test ORDER BY id", Some("0,20")),
            ('c', "COMMIT", None),
            // The penalty is for what c says was not so.
            ('b', "UPDATE test SET value = value - 11 WHERE id = 1", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("abc", "9"),
        serializable: same("ac", "20"),
    },
    Case {
        name: "two edges behind a reader (Fekete)",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('a', "SELECT value FROM test ORDER BY id", Some("10,20")),
            ('b', "BEGIN", None),
            ('b', "UPDATE test SET value = value + 5 WHERE id = 2", None),
            ('b', "COMMIT", None),
            ('c', "BEGIN", None),
            ('c', "SELECT value FROM test ORDER BY id", Some("10,25")),
            ('c', "COMMIT", None),
            ('a', "UPDATE test SET value = 0 WHERE id = 1", None),
            ('a', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("abc", "25"),
        serializable: same("bc", "35"),
    },
    Case {
        name: "a key that two want",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT count(*) FROM test WHERE id = 3", Some("0")),
            ('b', "SELECT count(*) FROM test WHERE id = 3", Some("0")),
            ('a', "INSERT INTO test VALUES (3, 1)", None),
            ('a', "COMMIT", None),
            ('b', "INSERT INTO test VALUES (3, 2)", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT value FROM test WHERE id = 3",
        repeatable_read: same("a", "1"),
        serializable: same("a", "1"),
    },
    Case {
        name: "a row that one changes and another deletes",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('b', "SELECT count(*) FROM test", Some("2")),
            ('a', "DELETE FROM test WHERE id = 1", None),
            ('a', "COMMIT", None),
            ('b', "UPDATE test SET value = 1 WHERE id = 1", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT count(*) FROM test",
        repeatable_read: same("a", "1"),
        serializable: same("a", "1"),
    },
    Case {
        name: "other rows of one table",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "UPDATE test SET value = value + 1 WHERE id = 1", None),
            ('b', "UPDATE test SET value = value + 1 WHERE id = 2", None),
            ('a', "COMMIT", None),
            ('b', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("ab", "32"),
        serializable: same("ab", "32"),
    },
    Case {
        name: "rows inserted beside what was read",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT count(*) FROM test WHERE id BETWEEN 1 AND 5", Some("2")),
            ('b', "INSERT INTO test VALUES (6, 60)", None),
            ('b', "COMMIT", None),
            ('a', "INSERT INTO test VALUES (3, 30)", None),
            ('a', "COMMIT", None),
        ],
        check: "SELECT count(*) FROM test",
        repeatable_read: same("ab", "4"),
        serializable: same("ab", "4"),
    },
    // From here on: who would not have to fail, and does here.
    Case {
        name: "one edge is no cycle: what a wrote upon was changed meanwhile",
        setup: TWO,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT value FROM test WHERE id = 1", Some("10")),
            ('b', "UPDATE test SET value = 11 WHERE id = 1", None),
            ('b', "COMMIT", None),
            ('a', "UPDATE test SET value = 21 WHERE id = 2", None),
            ('a', "COMMIT", None),
        ],
        check: "SELECT sum(value) FROM test",
        repeatable_read: same("ab", "32"),
        serializable: other(("ab", "32"), ("b", "31")),
    },
    Case {
        name: "an index that is not unique counts as the table",
        setup: CLASSES,
        steps: &[
            ('a', "BEGIN", None),
            ('b', "BEGIN", None),
            ('a', "SELECT sum(value) FROM test WHERE class = 1", Some("30")),
            ('b', "INSERT INTO test VALUES (5, 2, 30)", None),
            ('b', "COMMIT", None),
            ('a', "INSERT INTO test VALUES (6, 1, 1)", None),
            ('a', "COMMIT", None),
        ],
        check: "SELECT count(*) FROM test",
        repeatable_read: same("ab", "6"),
        serializable: other(("ab", "6"), ("b", "5")),
    },
];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

/// Somebody who runs statements: rows by commas, or the SQLSTATE.
enum Party {
    Here(Box<Session>),
    There(tokio_postgres::Client),
}

impl Party {
    async fn run(&mut self, sql: &str) -> Result<String, String> {
        match self {
            Self::Here(session) => match session.execute(sql).await.map_err(|error| error.sqlstate.to_owned())? {
                Outcome::Rows(rows) => first_column(rows.collect().await.map_err(|error| error.sqlstate.to_owned())?),
                Outcome::Done(done) => Ok(done.tag),
                Outcome::Returned(..) => panic!("nothing is returned"),
            },
            Self::There(client) => {
                let answers = client.simple_query(sql).await;
                let answers = answers.map_err(|error| error.code().unwrap().code().to_owned())?;
                let cells = answers.iter().filter_map(|answer| match answer {
                    SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
                    _ => None,
                });
                Ok(cells.collect::<Vec<_>>().join(","))
            }
        }
    }
}

fn first_column(batches: Vec<arrow::array::RecordBatch>) -> Result<String, String> {
    let mut cells = Vec::new();
    for batch in &batches {
        let column_type = types::column_type(batch.schema().field(0)).unwrap();
        for row in 0..batch.num_rows() {
            let mut text = String::new();
            types::text_at(batch.column(0), row, column_type, &mut text).unwrap();
            cells.push(text);
        }
    }
    Ok(cells.join(","))
}

/// Runs a case: who committed, and what the check gave.
async fn run(case: &Case, level: &str, parties: &mut BTreeMap<char, Party>) -> (String, String) {
    let mut failed = String::new();
    for (who, sql, expected) in case.steps {
        if failed.contains(*who) {
            continue;
        }
        let sql = if *sql == "BEGIN" { format!("BEGIN ISOLATION LEVEL {level}") } else { (*sql).to_owned() };
        let party = parties.get_mut(who).unwrap();
        match party.run(&sql).await {
            Ok(rows) => {
                let expected = expected.unwrap_or(&rows);
                assert_eq!(rows, expected, "{}, {level}: {who}: {sql}", case.name);
            }
            Err(code) => {
                assert!(["40001", "23505"].contains(&code.as_str()), "{}, {level}: {who}: {sql}: {code}", case.name);
                failed.push(*who);
                // After a COMMIT that fails there is no transaction any more.
                let _ = party.run("ROLLBACK").await;
            }
        }
    }
    let committed: String = parties.keys().filter(|who| !failed.contains(**who)).collect();
    let check = parties.get_mut(&'a').unwrap().run(case.check).await.unwrap();
    (committed, check)
}

fn sessions(case: &Case) -> Vec<char> {
    let mut sessions: Vec<char> = case.steps.iter().map(|(who, ..)| *who).collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions
}

const LEVELS: [&str; 2] = ["REPEATABLE READ", "SERIALIZABLE"];

impl Case {
    fn expected(&self, level: &str) -> &Expected {
        if level == LEVELS[0] { &self.repeatable_read } else { &self.serializable }
    }
}

#[test]
fn interleaved_steps_end_as_they_are_expected_to() {
    runtime().block_on(async {
        for case in CASES {
            for level in LEVELS {
                let database = Database::in_memory().unwrap();
                database.sql(case.setup).await.unwrap();
                let party = |who: char| (who, Party::Here(Box::new(database.session())));
                let mut parties = sessions(case).into_iter().map(party).collect();
                let (committed, check) = run(case, level, &mut parties).await;
                let expected = case.expected(level).here;
                assert_eq!((&*committed, &*check), expected, "{}, {level}", case.name);
            }
        }
    });
}

#[test]
fn postgresql_makes_of_them_what_is_said_of_it() {
    let Some(postgres) = Postgres::find() else { return };
    runtime().block_on(async {
        for case in CASES {
            for level in LEVELS {
                let mut parties = BTreeMap::new();
                for who in sessions(case) {
                    let (client, connection) =
                        tokio_postgres::connect(&postgres.connection, tokio_postgres::NoTls).await.unwrap();
                    tokio::spawn(connection);
                    parties.insert(who, Party::There(client));
                }
                let setup = format!("DROP TABLE IF EXISTS test; {}", case.setup);
                parties.get_mut(&'a').unwrap().run(&setup).await.unwrap();
                let (committed, check) = run(case, level, &mut parties).await;
                let expected = case.expected(level).postgres;
                assert_eq!((&*committed, &*check), expected, "{}, {level}", case.name);
            }
        }
    });
}

const REGISTERS: u64 = 12;

/// What one transaction of a random history saw and did.
#[derive(Debug)]
struct Past {
    /// Where it read, and where it committed if it wrote.
    read: Lsn,
    committed: Option<Lsn>,
    /// By question, what was answered.
    answers: Vec<(Question, String)>,
    writes: Vec<(u64, Option<u64>)>,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    /// The value of a register.
    One(u64),
    /// The sum over a range of them.
    Range(u64, u64),
    /// How many have this remainder, by an index or by reading all.
    Class(u64),
}

impl Question {
    fn sql(self) -> String {
        match self {
            Self::One(id) => format!("SELECT coalesce(max(value), -1) FROM r WHERE id = {id}"),
            Self::Range(from, to) => format!("SELECT coalesce(sum(value), 0) FROM r WHERE id >= {from} AND id < {to}"),
            Self::Class(class) => format!("SELECT count(*) FROM r WHERE class = {class}"),
        }
    }

    fn answer(self, state: &BTreeMap<u64, u64>) -> String {
        match self {
            Self::One(id) => state.get(&id).map_or("-1".to_owned(), u64::to_string),
            Self::Range(from, to) => state.range(from..to.max(from)).map(|(_, value)| value).sum::<u64>().to_string(),
            Self::Class(class) => state.values().filter(|value| *value % 5 == class).count().to_string(),
        }
    }
}

async fn transaction(session: &mut Session, random: &mut Random, fresh: u64) -> Result<Past, SqlError> {
    session.execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await?;
    let mut past = Past { read: session.read_lsn().unwrap(), committed: None, answers: Vec::new(), writes: Vec::new() };
    for _ in 0..1 + random.below(3) {
        let question = match random.below(5) {
            0 | 1 => Question::One(random.below(REGISTERS)),
            2 | 3 => {
                let from = random.below(REGISTERS);
                Question::Range(from, from + random.below(4))
            }
            _ => Question::Class(random.below(5)),
        };
        // Before its own writes, which would be in the answer.
        let answer = session::cell(session, &question.sql()).await?;
        past.answers.push((question, answer));
        tokio::task::yield_now().await;
    }
    if !random.one_in(4) {
        for turn in 0..1 + random.below(2) {
            let id = random.below(REGISTERS);
            if past.writes.iter().any(|(known, _)| *known == id) {
                continue;
            }
            let value = fresh * 2 + turn;
            let (sql, write) = match random.below(4) {
                0 => (format!("DELETE FROM r WHERE id = {id}"), None),
                _ => {
                    let class = value % 5;
                    let sql = format!(
                        "INSERT INTO r VALUES ({id}, {value}, {class})
                         ON CONFLICT (id) DO UPDATE SET value = excluded.value, class = excluded.class"
                    );
                    (sql, Some(value))
                }
            };
            session.execute(&sql).await?;
            past.writes.push((id, write));
        }
    }
    let Outcome::Done(done) = session.execute("COMMIT").await? else { panic!("COMMIT gives no rows") };
    past.committed = done.lsn;
    Ok(past)
}

#[test]
fn random_histories_are_those_of_transactions_one_after_another() {
    for seed in 0..12 {
        let history = runtime().block_on(async {
            let database = Arc::new(Database::in_memory().unwrap());
            database.sql("CREATE TABLE r (id bigint PRIMARY KEY, value bigint, class bigint)").await.unwrap();
            if seed % 2 == 0 {
                database.sql("CREATE INDEX r_class ON r (class)").await.unwrap();
            }
            let tasks: Vec<_> = (0..6u64)
                .map(|task| {
                    let database = Arc::clone(&database);
                    tokio::spawn(async move {
                        let mut random = Random::new(seed * 100 + task);
                        let (mut history, mut failures) = (Vec::new(), 0);
                        for turn in 0..60 {
                            let mut session = database.session();
                            match transaction(&mut session, &mut random, 1 + task * 1000 + turn).await {
                                Ok(past) => history.push(past),
                                Err(error) => {
                                    let known = [sqlstate::SERIALIZATION_FAILURE, sqlstate::UNIQUE_VIOLATION];
                                    assert!(known.contains(&error.sqlstate), "{error}");
                                    failures += 1;
                                }
                            }
                        }
                        (history, failures)
                    })
                })
                .collect();
            let (mut history, mut failures) = (Vec::new(), 0);
            for task in tasks {
                let (own, failed) = task.await.unwrap();
                history.extend(own);
                failures += failed;
            }
            assert!(failures > 0, "they get in each other's way");
            history
        });
        assert!(history.len() > 100);
        check(seed, history);
    }
}

/// Whether each transaction saw what those before it left: who wrote, at its commit; who only read, where it read.
fn check(seed: u64, mut history: Vec<Past>) {
    history.sort_by_key(|past| match past.committed {
        Some(lsn) => (lsn, 0),
        None => (past.read, 1),
    });
    let mut state = BTreeMap::new();
    for past in history {
        for (question, answer) in &past.answers {
            assert_eq!(*answer, question.answer(&state), "seed {seed}: {question:?} of {past:?}");
        }
        for (id, value) in past.writes {
            match value {
                Some(value) => drop(state.insert(id, value)),
                None => drop(state.remove(&id)),
            }
        }
    }
}
