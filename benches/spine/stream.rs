//! A recorded stream made longer.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

/// Writes a stream of `factor` times the recorded pgbench: a snapshot of as many banks, then the transactions of one bank after the
/// other, each with its own keys, at positions that go on rising. What is recorded of other tables stands in the first one only.
/// Returns the number of change events.
pub(crate) fn lengthen(recorded: &Path, to: &Path, factor: u64) -> u64 {
    let lines: Vec<Value> = BufReader::new(File::open(recorded).unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    let begins = lines.iter().position(|line| !line["value"]["status"].is_null()).unwrap();
    let (snapshot, streamed) = lines.split_at(begins);
    let lsns: Vec<u64> = lines.iter().filter_map(|line| line["value"]["source"]["lsn"].as_u64()).collect();
    let span = lsns.iter().max().unwrap() - lsns.iter().min().unwrap() + 1_000_000;
    let mut out = BufWriter::with_capacity(1 << 20, File::create(to).unwrap());
    let mut events = 0;
    let mut write = |line: &Value| {
        events += u64::from(!line["value"]["op"].is_null());
        serde_json::to_writer(&mut out, line).unwrap();
        out.write_all(b"\n").unwrap();
    };
    for copy in 0..factor {
        let taken: Vec<&Value> = snapshot.iter().filter(|line| copy == 0 || is_bank(line)).collect();
        for (place, line) in taken.iter().enumerate() {
            let mut line = shifted(line, copy, 0);
            let is_first = copy == 0 && place == 0;
            let is_last = copy + 1 == factor && place + 1 == taken.len();
            let mark = if is_first {
                "first"
            } else if is_last {
                "last"
            } else {
                "true"
            };
            line["value"]["source"]["snapshot"] = json!(mark);
            write(&line);
        }
    }
    for copy in 0..factor {
        let mut transaction = Vec::new();
        for line in streamed {
            transaction.push(line);
            if line["value"]["status"] == "END" {
                if copy == 0 || transaction.iter().all(|line| is_bank(line)) {
                    transaction.iter().for_each(|line| write(&shifted(line, copy, copy * span)));
                }
                transaction.clear();
            }
        }
    }
    out.flush().unwrap();
    events
}

/// Whether a line is of pgbench's tables, or a transaction's boundary.
fn is_bank(line: &Value) -> bool {
    let table = &line["value"]["source"]["table"];
    table.as_str().map_or(!line["value"]["status"].is_null(), |table| table.starts_with("pgbench_"))
}

/// The line with the keys of the bank's copy, at a position further on.
fn shifted(line: &Value, copy: u64, further: u64) -> Value {
    let mut line = line.clone();
    if copy == 0 {
        return line;
    }
    for row in ["/key", "/value/before", "/value/after"] {
        for (column, rows) in [("aid", 100_000), ("tid", 10), ("bid", 1)] {
            if let Some(cell) = line.pointer_mut(row).and_then(|row| row.get_mut(column))
                && let Some(value) = cell.as_u64()
            {
                *cell = json!(value + copy * rows);
            }
        }
    }
    // A transaction's id is `number:position`.
    for id in ["/key/id", "/value/id", "/value/transaction/id"] {
        if let Some(id) = line.pointer_mut(id)
            && let Some((number, lsn)) = id.as_str().and_then(|id| id.split_once(':'))
        {
            let (number, lsn) = (number.parse::<u64>().unwrap(), lsn.parse::<u64>().unwrap());
            *id = json!(format!("{}:{}", number + copy * 1_000_000, lsn + further));
        }
    }
    if let Some(lsn) = line.pointer_mut("/value/source/lsn") {
        *lsn = json!(lsn.as_u64().unwrap() + further);
    }
    if let Some(number) = line.pointer_mut("/value/source/txId")
        && let Some(value) = number.as_u64().filter(|_| further > 0)
    {
        *number = json!(value + copy * 1_000_000);
    }
    line
}
