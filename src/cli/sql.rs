//! `highwater sql`: a shell, a statement, a script.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use highwater_query::{Outcome, Session};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::output::{Format, write_rows};
use super::{CliError, open_database};
use crate::Database;

/// Run SQL: a statement, a script, or a shell.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct SqlCommand {
    /// Statements to run, parted by `;`. Without any, and without `--file`, a shell opens.
    statements: Option<String>,

    /// Run the statements of a file; `-` is standard input.
    #[arg(long, conflicts_with = "statements")]
    file: Option<PathBuf>,

    /// The data directory. It is opened by this process: no server may run on it.
    #[arg(long, default_value = "./highwater-data", env = "HIGHWATER_DATA")]
    data: PathBuf,

    /// How results are written.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl SqlCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let runtime = super::runtime()?;
        let database = open_database(&self.data)?;
        let outcome = runtime.block_on(self.run_in(&database));
        // Also behind an error: what was committed before it is closed in good order.
        database.close()?;
        outcome
    }

    async fn run_in(&self, database: &Database) -> Result<ExitCode, CliError> {
        let mut session = database.session();
        let script = match (&self.statements, &self.file) {
            (Some(statements), _) => Some(statements.clone()),
            (None, Some(path)) if path.as_os_str() == "-" => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map_err(CliError::Input)?;
                Some(text)
            }
            (None, Some(path)) => Some(std::fs::read_to_string(path).map_err(CliError::Input)?),
            (None, None) if io::stdin().is_terminal() => None,
            (None, None) => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).map_err(CliError::Input)?;
                Some(text)
            }
        };
        match script {
            Some(script) => run_script(&mut session, &script, self.output).await?,
            None => shell(&mut session, self.output, &self.data).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs statements until one fails.
async fn run_script(session: &mut Session, script: &str, format: Format) -> Result<(), CliError> {
    for parsed in session.parse(script)? {
        let outcome = session.run(parsed).await?;
        show(outcome, format).await?;
    }
    Ok(())
}

async fn show(outcome: Outcome, format: Format) -> Result<(), CliError> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match outcome {
        Outcome::Rows(rows) => {
            write_rows(rows, format, &mut out).await?;
        }
        Outcome::Done(done) if done.tag.is_empty() => {}
        Outcome::Done(done) => {
            let lsn = done.lsn.map_or(String::new(), |lsn| format!(" (lsn {lsn})"));
            match format {
                Format::Table => writeln!(out, "{}{lsn}", done.tag)?,
                // Standard output holds rows and nothing else.
                _ => eprintln!("{}{lsn}", done.tag),
            }
        }
    }
    out.flush()?;
    Ok(())
}

async fn shell(session: &mut Session, format: Format, data: &std::path::Path) -> Result<(), CliError> {
    let mut editor = DefaultEditor::new().map_err(|error| CliError::Input(io::Error::other(error)))?;
    let history = data.join(HISTORY_NAME);
    // There is none the first time.
    let _ = editor.load_history(&history);
    println!("highwater {}: \\? for help, \\q to leave", env!("CARGO_PKG_VERSION"));
    let mut text = String::new();
    loop {
        let prompt = match (text.is_empty(), session.is_in_transaction()) {
            (true, false) => "highwater=> ",
            (true, true) => "highwater=*> ",
            (false, _) => "highwater-> ",
        };
        match editor.readline(prompt) {
            Ok(line) => {
                if text.is_empty() && line.trim_start().starts_with('\\') {
                    let _ = editor.add_history_entry(line.trim());
                    if line.trim() == "\\q" {
                        break;
                    }
                    report(meta(session, line.trim(), format).await);
                    continue;
                }
                text.push_str(&line);
                text.push('\n');
                if is_complete(&text) {
                    let statements = std::mem::take(&mut text);
                    let _ = editor.add_history_entry(statements.trim());
                    report(run_script(session, &statements, format).await);
                }
            }
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(CliError::Input(io::Error::other(error))),
        }
    }
    if let Err(error) = editor.save_history(&history) {
        eprintln!("the history was not saved: {error}");
    }
    Ok(())
}

/// In the shell an error is told, and the shell goes on.
fn report(outcome: Result<(), CliError>) {
    if let Err(error) = outcome {
        eprintln!("{}", highwater_log::error_chain(&error));
    }
}

/// Whether a `;` ends the text, outside of quotes.
fn is_complete(text: &str) -> bool {
    let trimmed = text.trim();
    trimmed.is_empty() || (trimmed.ends_with(';') && trimmed.matches('\'').count().is_multiple_of(2))
}

async fn meta(session: &mut Session, command: &str, format: Format) -> Result<(), CliError> {
    let (word, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let name = argument.trim().replace('\'', "''");
    let (namespace, table) = name.split_once('.').unwrap_or(("public", &name));
    match word {
        "\\d" | "\\dt" if name.is_empty() => run_script(session, LIST_TABLES, format).await,
        "\\dn" => run_script(session, LIST_SCHEMAS, format).await,
        "\\d" | "\\dt" => {
            let place = format!("table_schema = '{namespace}' AND table_name = '{table}'");
            run_script(session, &DESCRIBE_TABLE.replace("{place}", &place), format).await
        }
        "\\?" => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprintln!("unknown command {word}; \\? for help");
            Ok(())
        }
    }
}

const LIST_TABLES: &str = "SELECT table_schema AS schema, table_name AS name FROM information_schema.tables \
     ORDER BY table_schema, table_name";
const LIST_SCHEMAS: &str = "SELECT schema_name AS schema FROM information_schema.schemata ORDER BY schema_name";
const DESCRIBE_TABLE: &str = "SELECT column_name AS column, formatted_type AS type, is_nullable AS nullable, \
     column_default AS default FROM information_schema.columns WHERE {place} ORDER BY ordinal_position; \
     SELECT constraint_name AS constraint, constraint_type AS kind FROM information_schema.table_constraints WHERE {place} \
     ORDER BY constraint_name";
const HISTORY_NAME: &str = "sql_history";

const HELP: &str = "\
In the shell:
  \\d         tables            \\d NAME    columns and constraints of a table
  \\dn        schemas           \\q         leave
  A statement ends with `;`. A query may end with `AS OF LSN n`: it sees the state at that commit.
";
