//! Statements with parameters: what goes round the planner does what the planner does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use highwater::{ColumnType, Database, Outcome, Parameter, Prepared, Session, types};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What a statement answers, as text; its SQLSTATE where it fails.
async fn answer(outcome: Result<Outcome, highwater::SqlError>) -> String {
    let rows = match outcome {
        Err(error) => return format!("error {}", error.sqlstate),
        Ok(Outcome::Done(done)) => return done.tag,
        Ok(Outcome::Rows(rows) | Outcome::Returned(rows, _)) => rows,
    };
    let schema = rows.schema().clone();
    let mut text = String::new();
    for field in schema.fields() {
        let column_type = types::column_type(field).unwrap();
        text.push_str(&format!("{} {column_type} {};", field.name(), field.is_nullable()));
    }
    let batches = match rows.collect().await {
        Err(error) => return format!("error {}", error.sqlstate),
        Ok(batches) => batches,
    };
    for batch in &batches {
        assert_eq!(batch.schema(), schema);
        for row in 0..batch.num_rows() {
            text.push('\n');
            for (field, array) in schema.fields().iter().zip(batch.columns()) {
                let is_there = types::text_at(array, row, types::column_type(field).unwrap(), &mut text).unwrap();
                text.push_str(if is_there { "|" } else { "NULL|" });
            }
        }
    }
    text
}

/// A database and a session of it, and the statements that it has prepared.
struct Side {
    session: Session,
    prepared: HashMap<String, Prepared>,
    _database: Database,
}

impl Side {
    fn new() -> Self {
        let database = Database::in_memory().unwrap();
        Self { session: database.session(), prepared: HashMap::new(), _database: database }
    }

    async fn run(&mut self, sql: &str, parameters: &[Parameter]) -> String {
        if !self.prepared.contains_key(sql) {
            let prepared = self.session.prepare(sql).unwrap();
            self.prepared.insert(sql.to_owned(), prepared);
        }
        let outcome = self.session.run_prepared(&self.prepared[sql], parameters).await;
        answer(outcome).await
    }

    async fn execute(&mut self, sql: &str) -> String {
        let outcome = self.session.execute(sql).await;
        answer(outcome).await
    }
}

/// Numbers that only have to differ (xorshift64*, Vigna 2016).
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap() % below
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.next(all.len())]
    }

    fn value(&mut self) -> Parameter {
        let typed = |text: &str, of: &str| Parameter::Typed {
            text: text.to_owned(),
            column_type: of.parse::<ColumnType>().unwrap(),
        };
        match self.next(24) {
            0 | 1 => Parameter::Null,
            2..8 => Parameter::Int(self.next(8) as i64 - 2),
            8 => Parameter::Int(*self.of(&[i64::MAX, i64::MIN, 40_000, -40_000, 3_000_000_000, i64::MIN + 1])),
            9..16 => {
                const TEXTS: [&str; 24] = [
                    "",
                    "a",
                    "a ",
                    "b",
                    "1",
                    " 2",
                    "3.5",
                    "x'y''z\\",
                    "ünï",
                    "longer than five",
                    "t",
                    "no",
                    "{1,2}",
                    "2024-02-29",
                    "2024-05-05 05:05:05.1235",
                    "infinity",
                    "\\x00ff",
                    "NaN",
                    "1e3",
                    "$1",
                    "{\"a\": 1}",
                    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                    "A0EEBC999C0B4EF8BB6D6BB9BD380A11",
                    "-0",
                ];
                Parameter::Text((*self.of(&TEXTS)).to_owned())
            }
            16 => Parameter::Bool(self.next(2) == 0),
            17 => Parameter::Double(*self.of(&[0.0, -0.0, 1.0, 2.5, f64::NAN, f64::INFINITY, 1e300])),
            18 => Parameter::Bytes(self.of(&[Vec::new(), vec![0, 255], b"a".to_vec()]).clone()),
            19 => typed("2", "integer"),
            20 => typed("a", "text"),
            21 => typed("1.005", "numeric(6,3)"),
            22 => typed("2024-02-29", "date"),
            _ => Parameter::Text("a\0b".to_owned()),
        }
    }
}

const COLUMNS: [&str; 15] = ["r", "id", "name", "n", "s", "d", "at", "day", "b", "u", "f", "bytes", "v", "c", "doc"];

const TABLES: &str = "
    CREATE TABLE t (id bigint PRIMARY KEY, name text UNIQUE, n integer DEFAULT 7, s smallint, d numeric(10,2), at timestamp(3),
        day date, b boolean, u uuid, f double precision, r real, bytes bytea, v varchar(5) NOT NULL DEFAULT 'v', c char(4), doc jsonb);
    CREATE TABLE two (a text, b integer, v text, w integer, PRIMARY KEY (b, a), UNIQUE (v, w))";

/// A statement that goes round the planner, if its values let it, and one that means the same and is planned.
fn drawn(draw: &mut Draw) -> (String, String, usize) {
    let column = *draw.of(&COLUMNS);
    let filtered = |statement: String, filter: &str, count: usize| {
        (format!("{statement} WHERE {filter}"), format!("{statement} WHERE {filter} AND true"), count)
    };
    let keys = [
        ("t", "id = $1", 1),
        ("t", "$1 = t.id", 1),
        ("t", "name = $1", 1),
        ("t", "u = $1", 1),
        ("t", "day = $1", 1),
        ("t", "at = $1", 1),
        ("t", "b = $1", 1),
        ("t", "bytes = $1", 1),
        ("t", "s = $1", 1),
        ("t", "v = $1", 1),
        ("two", "a = $1 AND b = $2", 2),
        ("two", "(b = $2) AND (a = $1)", 2),
        ("two", "v = $1 AND w = $2", 2),
        ("two", "a = 'a' AND b = $1", 1),
        ("t", "id = 1", 0),
        ("t", "id = '2'", 0),
        ("t", "id = -1", 0),
        ("t", "name = NULL", 0),
    ];
    let (table, filter, count) = *draw.of(&keys);
    match draw.next(10) {
        0..3 => {
            let items = match table {
                "t" => *draw.of(&["*", "id, name", "t.n AS x, id AS x", "\"day\", d, at"]),
                _ => *draw.of(&["*", "v, a"]),
            };
            filtered(format!("SELECT {items} FROM {table}"), filter, count)
        }
        3 => filtered(format!("DELETE FROM {table}"), filter, count),
        4 if table == "t" && draw.next(3) == 0 => {
            const LITERALS: [&str; 16] = [
                "0",
                "-0",
                "-0.0",
                "(-0)",
                "1",
                "-5",
                "1.5",
                "-2.005",
                "1.00000005960464477540",
                "16777217",
                "true",
                "'x'",
                "'-0'",
                "NULL",
                "340282346638528859811704183484516925440",
                "9007199254740993",
            ];
            filtered(format!("UPDATE t SET {column} = {}", draw.of(&LITERALS)), filter, count)
        }
        4 if table == "t" => filtered(format!("UPDATE t SET {column} = ${}", count + 1), filter, count + 1),
        5 if table == "t" => {
            let moved =
                *draw.of(&["n = n + ", "s = s - ", "d = d + ", "d = n - ", "id = id + ", "n = s + ", "s = d - "]);
            let set = match draw.next(2) {
                0 => format!("{moved}${}", count + 1),
                _ => format!("{moved}{}, name = ${}", draw.next(30_000), count + 1),
            };
            filtered(format!("UPDATE t SET {set}"), filter, count + 1)
        }
        4 | 5 => filtered(format!("UPDATE two SET v = ${0}, b = ${0}", count + 1), filter, count + 1),
        6 => {
            let into = "INSERT INTO two (a, b, v, w)";
            (format!("{into} VALUES ($1, $2, $3, 5)"), format!("{into} SELECT $1, $2, $3, 5"), 3)
        }
        _ if column == "id" || column == "name" => {
            let into = "INSERT INTO t (id, name)";
            (format!("{into} VALUES ($1, $2)"), format!("{into} SELECT $1, $2"), 2)
        }
        _ => {
            let into = format!("INSERT INTO t (id, name, {column})");
            (format!("{into} VALUES ($1, $2, $3)"), format!("{into} SELECT $1, $2, $3"), 3)
        }
    }
}

#[test]
fn what_goes_round_the_planner_does_what_the_planner_does() {
    let seeds = if std::env::var_os("HIGHWATER_LONG").is_some() { 60 } else { 3 };
    for seed in 1..=seeds {
        runtime().block_on(compare(seed));
    }
}

async fn compare(seed: u64) {
    let mut draw = Draw(seed * 7919);
    let (mut direct, mut planned) = (Side::new(), Side::new());
    for side in [&mut direct, &mut planned] {
        assert!(!side.execute(TABLES).await.starts_with("error"));
        for id in 0..4 {
            side.run(
                "INSERT INTO t (id, name, s) VALUES ($1, $2, $3)",
                &[id.into(), ["", "a", "b", "1"][id as usize].into(), id.into()],
            )
            .await;
            side.run("INSERT INTO two VALUES ($1, $2, $3, $4)", &["a".into(), id.into(), "1".into(), id.into()]).await;
        }
    }
    let mut answers: HashMap<String, usize> = HashMap::new();
    for step in 0..2_000 {
        let common = match draw.next(60) {
            0 | 1 => "BEGIN",
            2 => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            3..6 => "COMMIT",
            6 => "ROLLBACK",
            7 => "CREATE UNIQUE INDEX by_day ON t (day)",
            8 => "CREATE UNIQUE INDEX by_at ON t (at)",
            9 => "CREATE UNIQUE INDEX by_u ON t (u)",
            10 => "DROP INDEX by_day",
            11 => "ALTER TABLE two ADD COLUMN x integer DEFAULT 3",
            12 => "ALTER TABLE two DROP COLUMN x",
            _ => "",
        };
        if !common.is_empty() {
            let (one, other) = (direct.execute(common).await, planned.execute(common).await);
            assert_eq!(one, other, "seed {seed}, step {step}: {common}");
            continue;
        }
        let (sql, other_sql, count) = drawn(&mut draw);
        let parameters: Vec<Parameter> = (0..count).map(|_| draw.value()).collect();
        let (one, other) = (direct.run(&sql, &parameters).await, planned.run(&other_sql, &parameters).await);
        // Of several values that do not fit, INSERT names another first than the SELECT in it does.
        let told = |answer: String| match sql.starts_with("INSERT") && answer.starts_with("error") {
            true if answer.starts_with("error 22") || answer.starts_with("error 42") => "error of a value".to_owned(),
            _ => answer,
        };
        let (one, other) = (told(one), told(other));
        *answers.entry(one.split([' ', ';']).next().unwrap().to_owned()).or_default() += 1;
        assert_eq!(one, other, "seed {seed}, step {step}: {sql} with {parameters:?}");
    }
    for side in [&mut direct, &mut planned] {
        side.execute("COMMIT").await;
    }
    for all in ["SELECT * FROM t ORDER BY id", "SELECT * FROM two ORDER BY b, a"] {
        assert_eq!(direct.execute(all).await, planned.execute(all).await, "seed {seed}");
    }
    // It was worth the trouble: everything was there.
    for kind in ["INSERT", "UPDATE", "DELETE", "error", "id"] {
        assert!(answers.get(kind).is_some_and(|count| *count > 20), "seed {seed}: few of {kind} in {answers:?}");
    }
}

#[test]
fn explain_says_what_goes_round_the_planner() {
    runtime().block_on(async {
        let mut side = Side::new();
        side.execute(TABLES).await;
        let direct = [
            ("SELECT * FROM t WHERE id = 5", "PointRead: t, primary key"),
            ("SELECT x.name AS y FROM public.t AS x WHERE 5 = x.id", "PointRead: t, primary key"),
            ("SELECT id FROM t WHERE name = 'a'", "PointRead: t, index t_name_key"),
            ("SELECT * FROM two WHERE (a = 'a' AND b = 1)", "PointRead: two, primary key"),
            ("SELECT * FROM two WHERE w = 1 AND v = '1'", "PointRead: two, index two_v_w_key"),
        ];
        for (sql, expected) in direct {
            let explained = side.execute(&format!("EXPLAIN {sql}")).await;
            assert!(explained.ends_with(&format!("{expected}|")), "{sql}: {explained}");
            let analyzed = side.execute(&format!("EXPLAIN ANALYZE {sql}")).await;
            assert!(analyzed.ends_with(&format!("{expected}, metrics=[output_rows=0]|")), "{sql}: {analyzed}");
        }
        let planned = [
            "SELECT * FROM t WHERE id = 5 AND n = 1",
            "SELECT * FROM t WHERE id = 5 OR id = 6",
            "SELECT * FROM t WHERE id = 5.0",
            "SELECT * FROM t WHERE id = 5 LIMIT 1",
            "SELECT DISTINCT id FROM t WHERE id = 5",
            "SELECT id + 1 FROM t WHERE id = 5",
            "SELECT count(*) FROM t WHERE id = 5",
            "SELECT * FROM two WHERE b = 1",
            "SELECT * FROM two WHERE b = 1 AND a > 'a'",
            "SELECT * FROM t, two WHERE id = 5",
            "SELECT id FROM t WHERE id = 5 UNION SELECT 1",
            "SELECT current_user FROM t WHERE id = 5",
        ];
        for sql in planned {
            let explained = side.execute(&format!("EXPLAIN {sql}")).await;
            assert!(!explained.contains("PointRead") && !explained.starts_with("error"), "{sql}: {explained}");
        }
    });
}

#[test]
fn values_are_given_as_many_as_there_are_parameters() {
    runtime().block_on(async {
        let mut side = Side::new();
        side.execute(TABLES).await;
        assert_eq!(side.run("SELECT $1 + 1 AS x", &[Parameter::Int(1)]).await, "x bigint false;\n2|");
        assert_eq!(side.run("SELECT $2 AS x", &["a".into(), "b".into()]).await, "x text false;\nb|");
        for (sql, parameters, expected) in [
            ("SELECT $1", &[][..], "error 42P02"),
            ("SELECT $1", &[1.into(), 2.into()], "error 08P01"),
            ("SELECT 1", &[1.into()], "error 08P01"),
            ("SELECT $1, $3", &[1.into()], "error 08P01"),
            ("CREATE TABLE x (a integer DEFAULT $1)", &[1.into()], "error 42P02"),
            ("SET search_path = $1", &["x".into()], "error 42P02"),
            ("SELECT $1::text", &["a\0b".into()], "error 22021"),
            ("SELECT id FROM t LIMIT $1", &["many".into()], "error 22P02"),
            ("SELECT id FROM t LIMIT $1", &[(-1).into()], "error 2201W"),
            ("SELECT id FROM t OFFSET $1", &[(-1).into()], "error 2201X"),
            ("SELECT 'a' LIKE 'a' ESCAPE $1", &["!".into()], "error 0A000"),
        ] {
            assert_eq!(side.run(sql, parameters).await, expected, "{sql}");
        }
        for sql in ["SELECT $0", "SELECT $65536", "SELECT $99999999999999999999"] {
            assert_eq!(side.session.prepare(sql).unwrap_err().sqlstate, "42P02", "{sql}");
        }
        for sql in ["", "SELECT 1; SELECT 2", "SELECT"] {
            assert_eq!(side.session.prepare(sql).unwrap_err().sqlstate, "42601", "{sql}");
        }
    });
}

#[test]
fn a_statement_with_as_many_parameters_as_there_may_be_is_run() {
    runtime().block_on(async {
        let mut side = Side::new();
        side.execute("CREATE TABLE wide (id bigint PRIMARY KEY, v text)").await;
        let rows: Vec<String> = (0..32_767).map(|row| format!("(${}, ${})", row * 2 + 1, row * 2 + 2)).collect();
        let sql = format!("INSERT INTO wide VALUES {}", rows.join(", "));
        let parameters: Vec<Parameter> =
            (0..32_767).flat_map(|row: i64| [Parameter::Int(row), Parameter::Text(format!("row {row}"))]).collect();
        assert_eq!(side.run(&sql, &parameters).await, "INSERT 0 32767");
        assert_eq!(
            side.execute("SELECT max(id) AS m, count(v) AS c FROM wide").await,
            "m bigint true;c bigint false;\n32766|32767|"
        );
    });
}

#[test]
fn values_are_never_read_as_statements() {
    runtime().block_on(async {
        let mut side = Side::new();
        side.execute(TABLES).await;
        for text in ["'", "''", "'''", "'); DROP TABLE t; --", "\\'", "$1", "E'\\n'", "\"", "a''b'c"] {
            // Planned and written out anew, too.
            for sql in [
                "SELECT $1 AS x",
                "SELECT v AS x FROM (VALUES ($1)) AS s(v)",
                "INSERT INTO two (a, b) VALUES ($1, 1) RETURNING a AS x",
                "INSERT INTO two (a, b) SELECT $1 || '', 2 RETURNING a AS x",
                "UPDATE two SET v = $1 || '' WHERE b = 1 RETURNING v AS x",
                "DELETE FROM two WHERE a = $1 AND b > 0 AND b < 2 RETURNING a AS x",
                "DELETE FROM two WHERE a = $1 || '' RETURNING a AS x",
            ] {
                let answered = side.run(sql, &[text.into()]).await;
                assert!(answered.ends_with(&format!("\n{text}|")), "{sql} with {text}: {answered}");
            }
        }
    });
}

#[test]
fn explaining_a_read_is_no_reading() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        database.sql("CREATE TABLE t (id bigint PRIMARY KEY)").await.unwrap();
        for (explain, is_read) in [("EXPLAIN", false), ("EXPLAIN ANALYZE", true)] {
            let (mut one, mut other) = (database.session(), database.session());
            for (session, read, written) in [(&mut one, 40, 41), (&mut other, 41, 40)] {
                session.execute("BEGIN ISOLATION LEVEL SERIALIZABLE").await.unwrap();
                let explained = session.execute(&format!("{explain} SELECT * FROM t WHERE id = {read}")).await;
                assert!(answer(explained).await.contains("PointRead"));
                session.execute(&format!("INSERT INTO t VALUES ({written})")).await.unwrap();
            }
            one.execute("COMMIT").await.unwrap();
            let last = answer(other.execute("COMMIT").await).await;
            assert_eq!(last, if is_read { "error 40001" } else { "COMMIT" }, "{explain}");
            database.sql("DELETE FROM t").await.unwrap();
        }
    });
}

#[test]
fn what_was_interrupted_before_is_not_begun() {
    runtime().block_on(async {
        let mut side = Side::new();
        side.execute(TABLES).await;
        let interrupt = highwater::Interrupt::default();
        interrupt.raise();
        side.session.interrupted_by(interrupt);
        for sql in ["SELECT * FROM t WHERE id = 1", "INSERT INTO t (id) VALUES (1)", "DELETE FROM t WHERE id = 1"] {
            assert_eq!(side.execute(sql).await, "error 57014", "{sql}");
        }
        side.session.interrupted_by(highwater::Interrupt::default());
        assert!(side.execute("SELECT id FROM t").await.ends_with("false;"));
    });
}

#[test]
fn what_is_kept_and_what_is_repeated_has_bounds() {
    runtime().block_on(async {
        let mut side = Side::new();
        let mut kept = 0;
        let refused = loop {
            match side.execute(&format!("PREPARE p{kept} AS SELECT {kept}")).await.as_str() {
                "PREPARE" => kept += 1,
                other => break other.to_owned(),
            }
        };
        assert_eq!(refused, "error 53400");
        assert!((500..2_000).contains(&kept), "{kept}");
        assert_eq!(side.execute("DEALLOCATE p0").await, "DEALLOCATE");
        assert_eq!(side.execute("PREPARE again AS SELECT 1").await, "PREPARE");
        assert_eq!(side.execute("DEALLOCATE ALL").await, "DEALLOCATE ALL");
        let long = "x".repeat(300_000);
        assert_eq!(side.execute(&format!("PREPARE long AS SELECT '{long}'")).await, "error 53400");
        assert_eq!(side.execute("EXECUTE long").await, "error 26000");
        // A value is as long as it likes where it stands once; in several places it makes a statement longer.
        let value = [Parameter::Text("x".repeat(2_000_000))];
        assert!(side.run("SELECT length($1) AS l", &value).await.ends_with("\n2000000|"));
        assert_eq!(side.run("SELECT length($1) + length($1) AS l", &value).await, "error 54001");
        let value = [Parameter::Text("x".repeat(400_000))];
        assert!(side.run("SELECT length($1) AS l WHERE $1 > 'a' AND $1 > 'b'", &value).await.ends_with("\n400000|"));
    });
}
