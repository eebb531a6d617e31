//! Results on standard output: tables for people, JSON and CSV for programs.

use std::io::{self, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use clap::ValueEnum;
use comfy_table::{Cell, CellAlignment, Table, presets};
use highwater_changefeed::format::json;
use highwater_log::Lsn;
use highwater_log::value::{ColumnType, ElementType};
use highwater_query::types;

use super::CliError;

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for people.
    #[default]
    Table,
    /// One object: `{"lsn", "rows": […]}`.
    Json,
    /// One object a row.
    Jsonl,
    /// What PostgreSQL's `COPY … (FORMAT csv, HEADER)` writes, byte for byte.
    Csv,
    /// Tab-separated, what PostgreSQL's `COPY … (HEADER)` writes.
    Tsv,
}

/// Writes a result as its rows come, and the LSN that it was read at to standard error where the format has no place for it.
pub(crate) struct RowWriter<W> {
    format: Format,
    columns: Vec<Column>,
    lsn: Lsn,
    count: u64,
    /// A table is written at the end: its columns are as wide as their widest cell.
    table: Table,
    out: W,
}

impl<W: Write> RowWriter<W> {
    /// Begins a result of these columns.
    pub(crate) fn begin(schema: &Schema, lsn: Lsn, format: Format, mut out: W) -> Result<Self, CliError> {
        let columns: Vec<Column> = schema
            .fields()
            .iter()
            .map(|field| Ok(Column { name: field.name().clone(), column_type: types::column_type(field)? }))
            .collect::<Result<_, CliError>>()?;
        write_head(format, &columns, lsn.value(), &mut out)?;
        let table = new_table(&columns);
        Ok(Self { format, columns, lsn, count: 0, table, out })
    }

    /// Writes the next rows.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), CliError> {
        match self.format {
            Format::Table => add_rows(&mut self.table, &self.columns, batch)?,
            _ => write_batch(self.format, &self.columns, batch, self.count == 0, &mut self.out)?,
        }
        self.count += batch.num_rows() as u64;
        Ok(())
    }

    /// Ends the result.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        let (count, lsn) = (self.count, self.lsn);
        match self.format {
            Format::Table => {
                let plural = if count == 1 { "" } else { "s" };
                writeln!(self.out, "{}\n({count} row{plural}, lsn {lsn})", self.table)?;
            }
            Format::Json => writeln!(self.out, "]}}")?,
            Format::Jsonl | Format::Csv | Format::Tsv => {}
        }
        self.out.flush()?;
        if !matches!(self.format, Format::Table | Format::Json) {
            eprintln!("lsn {lsn}");
        }
        Ok(())
    }
}

struct Column {
    name: String,
    column_type: ColumnType,
}

fn write_head(format: Format, columns: &[Column], lsn: u64, out: &mut dyn Write) -> io::Result<()> {
    let mut line = String::new();
    for (index, column) in columns.iter().enumerate() {
        match format {
            Format::Csv => put_csv(index, Some(&column.name), columns.len(), &mut line),
            Format::Tsv => put_tsv(index, Some(&column.name), &mut line),
            Format::Table | Format::Json | Format::Jsonl => {}
        }
    }
    match format {
        Format::Csv | Format::Tsv => writeln!(out, "{line}"),
        Format::Json => write!(out, "{{\"lsn\":{lsn},\"rows\":["),
        Format::Table | Format::Jsonl => Ok(()),
    }
}

fn write_batch(
    format: Format,
    columns: &[Column],
    batch: &RecordBatch,
    is_first: bool,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut line = String::new();
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        line.clear();
        if format == Format::Json && (!is_first || row > 0) {
            line.push(',');
        }
        for (index, (column, array)) in columns.iter().zip(batch.columns()).enumerate() {
            if matches!(format, Format::Json | Format::Jsonl) {
                line.push(if index == 0 { '{' } else { ',' });
                json::write_string(&column.name, &mut line);
                line.push(':');
                let value = types::value_at(array, row, column.column_type)?;
                let value = value.as_ref().map(|value| value.as_value());
                json::write_value(column.column_type, value, &mut line).map_err(highwater_query::SqlError::from)?;
                continue;
            }
            text.clear();
            let is_there = types::text_at(array, row, column.column_type, &mut text)?;
            let text = is_there.then_some(text.as_str());
            match format {
                Format::Csv => put_csv(index, text, columns.len(), &mut line),
                _ => put_tsv(index, text, &mut line),
            }
        }
        match format {
            Format::Json | Format::Jsonl if columns.is_empty() => line.push_str("{}"),
            Format::Json | Format::Jsonl => line.push('}'),
            _ => {}
        }
        if format != Format::Json {
            line.push('\n');
        }
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// PostgreSQL's rule: quoted is what holds a comma, a quote or a line's end, and what would read as NULL or as the end of the data.
fn put_csv(index: usize, text: Option<&str>, columns: usize, line: &mut String) {
    if index > 0 {
        line.push(',');
    }
    let Some(text) = text else { return };
    let is_special = text.is_empty() || (columns == 1 && text == "\\.") || text.contains([',', '"', '\n', '\r']);
    if is_special {
        line.push('"');
        line.push_str(&text.replace('"', "\"\""));
        line.push('"');
    } else {
        line.push_str(text);
    }
}

fn put_tsv(index: usize, text: Option<&str>, line: &mut String) {
    if index > 0 {
        line.push('\t');
    }
    let Some(text) = text else {
        line.push_str("\\N");
        return;
    };
    for c in text.chars() {
        match c {
            '\\' => line.push_str("\\\\"),
            '\u{8}' => line.push_str("\\b"),
            '\u{c}' => line.push_str("\\f"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{b}' => line.push_str("\\v"),
            c => line.push(c),
        }
    }
}

fn new_table(columns: &[Column]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(columns.iter().map(|column| Cell::new(&column.name)));
    table
}

fn add_rows(table: &mut Table, columns: &[Column], batch: &RecordBatch) -> Result<(), CliError> {
    for row in 0..batch.num_rows() {
        let mut cells = Vec::with_capacity(columns.len());
        for (column, array) in columns.iter().zip(batch.columns()) {
            let mut text = String::new();
            types::text_at(array, row, column.column_type, &mut text)?;
            let is_number = matches!(
                column.column_type,
                ColumnType::Scalar(
                    ElementType::SmallInt
                        | ElementType::Integer
                        | ElementType::BigInt
                        | ElementType::Real
                        | ElementType::Double
                        | ElementType::Numeric { .. }
                )
            );
            let alignment = if is_number { CellAlignment::Right } else { CellAlignment::Left };
            cells.push(Cell::new(text).set_alignment(alignment));
        }
        table.add_row(cells);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_quoted_as_postgresql_quotes_it() {
        let cell = |text: Option<&str>, columns| {
            let mut line = String::new();
            put_csv(0, text, columns, &mut line);
            line
        };
        assert_eq!(cell(None, 2), "");
        assert_eq!(cell(Some(""), 2), "\"\"");
        assert_eq!(cell(Some("a,b"), 2), "\"a,b\"");
        assert_eq!(cell(Some("say \"x\""), 2), "\"say \"\"x\"\"\"");
        assert_eq!(cell(Some("\\."), 1), "\"\\.\"");
        assert_eq!(cell(Some("\\."), 2), "\\.");
        assert_eq!(cell(Some(" a"), 2), " a");
    }
}
