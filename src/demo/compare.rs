//! The end: every table and every sum beside the recording's.

use highwater_log::Lsn;

use super::panels::{BANK, Panels};
use super::recording::Expected;
use super::watch::{column, has_bank, sums_query};
use super::{DemoError, Verdict};
use crate::cli::{Format, RowWriter};
use crate::client::{Client, RemoteSession, Reply};

/// Compares, and tells.
pub(super) async fn compare(client: &Client, panels: &Panels, expected: &Expected) -> Result<Verdict, DemoError> {
    let mut session = client.session().await?;
    let mut differing = 0_u32;
    let mut tell = |is_equal: bool, what: &str| {
        println!("{} {what}", if is_equal { "  equal" } else { "DIFFERS" });
        differing += u32::from(!is_equal);
    };
    for (table, csv) in expected {
        let key = column(&mut session, &key_query(table)).await?.0;
        let (found, lsn) = read(&mut session, &table_query(table, &key, csv)).await?;
        tell(found == *csv, &format!("{table} at lsn {lsn}, {} bytes of CSV", csv.len()));
    }
    if has_bank(expected) {
        let recorded: Vec<_> = BANK.iter().map(|(table, column)| recorded_sum(&expected[*table], column)).collect();
        let (sums, lsn) = column(&mut session, &sums_query()).await?;
        let as_text: Vec<_> = recorded.iter().map(i128::to_string).collect();
        tell(sums == as_text, &format!("the bank's four sums, queried at lsn {lsn}: {}", sums.join(", ")));
        let shown = panels.shown();
        tell(
            shown.sums[..] == recorded[..],
            &format!("the same folded from the changefeed up to lsn {}", shown.feed_lsn),
        );
        let agree = shown.commits_disagreeing == 0 && shown.commits_checked > 0;
        tell(
            agree,
            &format!(
                "the four sums agreed at {} of {} commits after the snapshot",
                shown.commits_checked - shown.commits_disagreeing,
                shown.commits_checked
            ),
        );
    }
    if expected.is_empty() {
        println!("nothing to compare with: no recorded tables were given (--expected)");
    }
    Ok(if differing == 0 { Verdict::Equal } else { Verdict::Different })
}

/// The columns of a table's primary key, in key order.
fn key_query(table: &str) -> String {
    format!(
        "SELECT k.column_name FROM information_schema.key_column_usage AS k \
         JOIN information_schema.table_constraints AS c ON c.constraint_name = k.constraint_name \
         AND c.table_schema = k.table_schema AND c.table_name = k.table_name \
         WHERE c.constraint_type = 'PRIMARY KEY' AND c.table_schema = 'public' AND c.table_name = '{}' \
         ORDER BY k.ordinal_position",
        table.replace('\'', "''")
    )
}

/// A table in the order of its key; one without a key as counted groups of the recorded columns.
fn table_query(table: &str, key: &[String], csv: &[u8]) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let table = quoted(table);
    if !key.is_empty() {
        let key: Vec<_> = key.iter().map(|name| quoted(name)).collect();
        return format!("SELECT * FROM {table} ORDER BY {}", key.join(", "));
    }
    let head = csv.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let head = String::from_utf8_lossy(head);
    let mut columns: Vec<_> = head.split(',').map(quoted).collect();
    let count = columns.pop().unwrap_or_default();
    let columns = columns.join(", ");
    format!("SELECT {columns}, count(*) AS {count} FROM {table} GROUP BY {columns} ORDER BY {columns}")
}

/// A result as CSV.
async fn read(session: &mut RemoteSession, sql: &str) -> Result<(Vec<u8>, Lsn), DemoError> {
    let mut replies = session.execute(sql).await?;
    let (mut csv, mut read) = (Vec::new(), Lsn::ORIGIN);
    let mut writer = None;
    let failed = |error: crate::cli::CliError| DemoError::Feed(error.to_string());
    while let Some(reply) = replies.next().await? {
        match (reply, &mut writer) {
            (Reply::Header(schema, lsn), _) => {
                read = lsn;
                writer = Some(RowWriter::begin(&schema, lsn, Format::Csv, &mut csv).map_err(failed)?);
            }
            (Reply::Batch(batch), Some(writer)) => writer.write(&batch).map_err(failed)?,
            _ => {}
        }
    }
    drop(writer);
    Ok((csv, read))
}

/// The sum of a column of whole numbers.
fn recorded_sum(csv: &[u8], column: &str) -> i128 {
    let text = String::from_utf8_lossy(csv);
    let mut lines = text.lines();
    let head: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
    let (Some(place), counted) = (head.iter().position(|name| *name == column), head.last() == Some(&"n")) else {
        return 0;
    };
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<i128>().ok()).unwrap_or(0);
    lines
        .map(|line| {
            let cells: Vec<_> = line.split(',').collect();
            let times = if counted { number(cells.last()) } else { 1 };
            number(cells.get(place)) * times
        })
        .sum()
}
