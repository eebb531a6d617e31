//! Recordings: a change stream, the schema, and the tables as they must be at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use highwater_connectors::sources::file::open_lines;
use highwater_query::{SchemaDump, SqlError, parse_schema_dump};

/// A recorded stream, and what is known of its end.
pub(crate) struct Recording {
    /// Debezium's events as JSON lines.
    pub(super) stream: Box<dyn BufRead + Send>,
    /// The tables' columns.
    pub(super) tables: Option<SchemaDump>,
    /// Each table at the end, as PostgreSQL's COPY writes it in the order of its key, by name. A table without a key is given as
    /// counted groups, the last column of which is the count.
    pub(super) expected: Expected,
}

pub(super) type Expected = BTreeMap<String, Vec<u8>>;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordingError {
    #[error("cannot read {path}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot read the schema")]
    Schema(#[from] SqlError),
}

impl Recording {
    /// The one that is compiled in: what Debezium emitted for `pgbench` and the hard cases of a real PostgreSQL.
    pub(crate) fn built_in() -> Result<Self, RecordingError> {
        let damaged = |source| RecordingError::Read { path: "the recording that is compiled in".into(), source };
        let archive = zstd::decode_all(EXPECTED).map_err(damaged)?;
        let (mut expected, mut tables) = (Expected::new(), None);
        for entry in tar::Archive::new(&archive[..]).entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let path = entry.path().map_err(damaged)?.into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(damaged)?;
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("csv") => {
                    expected.insert(stem(&path), content);
                }
                Some("sql") => tables = Some(parse_schema_dump(&String::from_utf8_lossy(&content))?),
                _ => {}
            }
        }
        Ok(Self { stream: open_lines(STREAM).map_err(damaged)?, tables, expected })
    }

    /// One of files: the stream, plain or zstd, a schema dump, and a folder of `TABLE.csv`.
    pub(crate) fn open(stream: &Path, tables: Option<&Path>, expected: Option<&Path>) -> Result<Self, RecordingError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RecordingError::Read { path, source }
        };
        let tables = match tables {
            Some(path) => Some(parse_schema_dump(&std::fs::read_to_string(path).map_err(failed(path))?)?),
            None => None,
        };
        let mut found = Expected::new();
        if let Some(folder) = expected {
            for entry in std::fs::read_dir(folder).map_err(failed(folder))? {
                let path = entry.map_err(failed(folder))?.path();
                if path.extension().is_some_and(|extension| extension == "csv") {
                    found.insert(stem(&path), std::fs::read(&path).map_err(failed(&path))?);
                }
            }
        }
        let file = File::open(stream).map_err(failed(stream))?;
        Ok(Self { stream: open_lines(file).map_err(failed(stream))?, tables, expected: found })
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

static STREAM: &[u8] = include_bytes!("../../tests/data/postgres-cdc/events.jsonl.zst");
static EXPECTED: &[u8] = include_bytes!("../../tests/data/postgres-cdc/expected.tar.zst");
