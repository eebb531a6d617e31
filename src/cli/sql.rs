//! `highwater sql`: a shell, a statement, a script.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;
use highwater_log::Lsn;
use highwater_query::{Outcome, RowStream, Session};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::output::{Format, RowWriter};
use super::place::{Found, Place};
use super::{CliError, open_database};
use crate::client::{Client, RemoteSession, Reply};

/// Run SQL: a statement, a script, or a shell.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct SqlCommand {
    /// Statements to run, parted by `;`. Without any, and without `--file`, a shell opens.
    statements: Option<String>,

    /// Run the statements of a file; `-` is standard input.
    #[arg(long, conflicts_with = "statements")]
    file: Option<PathBuf>,

    #[command(flatten)]
    place: Place,

    /// How results are written.
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl SqlCommand {
    pub(super) fn run(self) -> Result<ExitCode, CliError> {
        let runtime = super::runtime()?;
        let url = match self.place.find() {
            Found::Server(url) => url,
            Found::Directory(data) => {
                let database = open_database(&data)?;
                let mut connection = Connection::Embedded(Box::new(database.session()));
                let outcome = runtime.block_on(self.run_in(&mut connection));
                drop(connection);
                // Also behind an error: what was committed before it is closed in good order.
                database.close()?;
                return outcome;
            }
        };
        runtime.block_on(async {
            let session = Client::connect(&url).await?.session().await?;
            let mut connection = Connection::Remote(Box::new(session));
            let outcome = self.run_in(&mut connection).await;
            if let Connection::Remote(session) = connection {
                session.close().await;
            }
            outcome
        })
    }

    async fn run_in(&self, connection: &mut Connection) -> Result<ExitCode, CliError> {
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
            Some(script) => connection.run_script(&script, self.output).await?,
            None => shell(connection, self.output, &self.place).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Where statements are run.
enum Connection {
    Embedded(Box<Session>),
    Remote(Box<RemoteSession>),
}

impl Connection {
    fn is_in_transaction(&self) -> bool {
        match self {
            Self::Embedded(session) => session.is_in_transaction(),
            Self::Remote(session) => session.is_in_transaction(),
        }
    }

    /// Runs statements until one fails, showing what each answers.
    async fn run_script(&mut self, script: &str, format: Format) -> Result<(), CliError> {
        let mut out = io::BufWriter::new(io::stdout());
        match self {
            Self::Embedded(session) => {
                for parsed in session.parse(script)? {
                    match session.run(parsed?).await? {
                        Outcome::Rows(rows) => show_rows(rows, format, &mut out).await?,
                        Outcome::Done(done) => show_done(&done.tag, done.lsn, format, &mut out)?,
                        Outcome::Returned(rows, done) => {
                            show_rows(rows, format, &mut out).await?;
                            show_done(&done.tag, done.lsn, format, &mut out)?;
                        }
                    }
                }
            }
            Self::Remote(session) => {
                let outcome = run_remote(session, script, format, &mut out).await;
                if let Err(CliError::Client(error)) = &outcome
                    && error.is_no_session()
                {
                    // The server closes what nobody has used for long: the next statements run in another one.
                    **session = session.again().await?;
                }
                outcome?;
            }
        }
        Ok(())
    }
}

async fn show_rows(mut rows: RowStream, format: Format, out: &mut impl Write) -> Result<(), CliError> {
    let mut writer = RowWriter::begin(rows.schema(), rows.lsn(), format, out)?;
    while let Some(batch) = rows.next().await {
        writer.write(&batch?)?;
    }
    writer.finish()
}

async fn run_remote(
    session: &mut RemoteSession,
    script: &str,
    format: Format,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let mut replies = session.execute(script).await?;
    let mut writer = None;
    while let Some(reply) = replies.next().await? {
        match (reply, &mut writer) {
            (Reply::Header(schema, lsn), _) => {
                writer = Some(RowWriter::begin(&schema, lsn, format, io::BufWriter::new(io::stdout()))?);
            }
            (Reply::Batch(batch), Some(writer)) => writer.write(&batch)?,
            (Reply::Batch(_), None) => {}
            (Reply::Completion(done), _) => {
                let is_query = match writer.take() {
                    Some(writer) => {
                        writer.finish()?;
                        done.tag.starts_with("SELECT ")
                    }
                    None => false,
                };
                if !is_query {
                    show_done(&done.tag, done.commit_lsn.map(Lsn::new), format, out)?;
                }
            }
        }
    }
    Ok(())
}

/// Standard output holds rows and nothing else, unless people read it.
fn show_done(tag: &str, lsn: Option<Lsn>, format: Format, out: &mut impl Write) -> Result<(), CliError> {
    let lsn = lsn.map_or(String::new(), |lsn| format!(" (lsn {lsn})"));
    match (tag, format) {
        ("", _) => {}
        (_, Format::Table) => writeln!(out, "{tag}{lsn}")?,
        _ => eprintln!("{tag}{lsn}"),
    }
    out.flush()?;
    Ok(())
}

async fn shell(connection: &mut Connection, format: Format, place: &Place) -> Result<(), CliError> {
    let mut editor = DefaultEditor::new().map_err(|error| CliError::Input(io::Error::other(error)))?;
    // Beside the data; with a server, wherever the shell is not, there is none.
    let history = match place.find() {
        Found::Directory(data) => Some(data.join(HISTORY_NAME)),
        Found::Server(_) => None,
    };
    if let Some(history) = &history {
        // There is none the first time.
        let _ = editor.load_history(history);
    }
    println!("highwater {}: \\? for help, \\q to leave", env!("CARGO_PKG_VERSION"));
    let mut text = String::new();
    loop {
        let prompt = match (text.is_empty(), connection.is_in_transaction()) {
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
                    report(meta(connection, line.trim(), format).await);
                    continue;
                }
                text.push_str(&line);
                text.push('\n');
                if is_complete(&text) {
                    let statements = std::mem::take(&mut text);
                    let _ = editor.add_history_entry(statements.trim());
                    report(connection.run_script(&statements, format).await);
                }
            }
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(CliError::Input(io::Error::other(error))),
        }
    }
    if let Some(history) = history
        && let Err(error) = editor.save_history(&history)
    {
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

async fn meta(connection: &mut Connection, command: &str, format: Format) -> Result<(), CliError> {
    let (word, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let name = argument.trim().replace('\'', "''");
    let (namespace, table) = name.split_once('.').unwrap_or(("public", &name));
    match word {
        "\\d" | "\\dt" if name.is_empty() => connection.run_script(LIST_TABLES, format).await,
        "\\dn" => connection.run_script(LIST_SCHEMAS, format).await,
        "\\d" | "\\dt" => {
            let place = format!("table_schema = '{namespace}' AND table_name = '{table}'");
            connection.run_script(&DESCRIBE_TABLE.replace("{place}", &place), format).await
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
