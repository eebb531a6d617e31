//! SQLSTATE codes: PostgreSQL's, and our own in class `HW`.

/// `08003`: there is no such session.
pub const NO_SUCH_SESSION: &str = "08003";
/// `08P01`: not as many values as a statement has parameters.
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// `0A000`
pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
/// `21000`: a scalar subquery gave more than one row.
pub const CARDINALITY_VIOLATION: &str = "21000";
/// Data that is not what it is given as.
pub const DATA_EXCEPTION: &str = "22000";
/// `22001`
pub const STRING_DATA_RIGHT_TRUNCATION: &str = "22001";
/// `22003`
pub const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
/// `22007`
pub const INVALID_DATETIME_FORMAT: &str = "22007";
/// `22008`
pub const DATETIME_FIELD_OVERFLOW: &str = "22008";
/// `22012`
pub const DIVISION_BY_ZERO: &str = "22012";
/// `2201E`
pub const INVALID_ARGUMENT_FOR_LOGARITHM: &str = "2201E";
/// `2201F`
pub const INVALID_ARGUMENT_FOR_POWER: &str = "2201F";
/// `2201W`
pub const INVALID_ROW_COUNT_IN_LIMIT: &str = "2201W";
/// `2201X`
pub const INVALID_ROW_COUNT_IN_OFFSET: &str = "2201X";
/// `22021`
pub const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// `22023`
pub const INVALID_PARAMETER_VALUE: &str = "22023";
/// `22P02`
pub const INVALID_TEXT_REPRESENTATION: &str = "22P02";
/// `23502`
pub const NOT_NULL_VIOLATION: &str = "23502";
/// `23505`
pub const UNIQUE_VIOLATION: &str = "23505";
/// `25001`
pub const ACTIVE_TRANSACTION: &str = "25001";
/// `25006`
pub const READ_ONLY_TRANSACTION: &str = "25006";
/// `25P01`
pub const NO_ACTIVE_TRANSACTION: &str = "25P01";
/// `25P02`: the transaction has failed and waits for its ROLLBACK.
pub const FAILED_TRANSACTION: &str = "25P02";
/// `26000`: no statement was prepared under this name.
pub const UNDEFINED_STATEMENT: &str = "26000";
/// `2BP01`: other objects hang on it.
pub const DEPENDENT_OBJECTS: &str = "2BP01";
/// `3F000`
pub const UNDEFINED_SCHEMA: &str = "3F000";
/// `40001`: run the transaction again.
pub const SERIALIZATION_FAILURE: &str = "40001";
/// `42000`
pub const SYNTAX_OR_ACCESS: &str = "42000";
/// `42601`
pub const SYNTAX_ERROR: &str = "42601";
/// `42701`
pub const DUPLICATE_COLUMN: &str = "42701";
/// `42702`
pub const AMBIGUOUS_COLUMN: &str = "42702";
/// `42703`
pub const UNDEFINED_COLUMN: &str = "42703";
/// `42704`
pub const UNDEFINED_OBJECT: &str = "42704";
/// `42602`
pub const INVALID_NAME: &str = "42602";
/// `42710`
pub const DUPLICATE_OBJECT: &str = "42710";
/// `42803`
pub const GROUPING_ERROR: &str = "42803";
/// `42804`
pub const DATATYPE_MISMATCH: &str = "42804";
/// `42809`: it is a relation of another kind.
pub const WRONG_OBJECT_TYPE: &str = "42809";
/// `42846`
pub const CANNOT_COERCE: &str = "42846";
/// `42883`
pub const UNDEFINED_FUNCTION: &str = "42883";
/// `42P01`
pub const UNDEFINED_TABLE: &str = "42P01";
/// `42P02`: there is nothing that stands for it.
pub const UNDEFINED_PARAMETER: &str = "42P02";
/// `42P05`: a statement was prepared under this name.
pub const DUPLICATE_STATEMENT: &str = "42P05";
/// `42P06`
pub const DUPLICATE_SCHEMA: &str = "42P06";
/// `42P07`
pub const DUPLICATE_TABLE: &str = "42P07";
/// `42P10`: no unique constraint has these columns.
pub const INVALID_COLUMN_REFERENCE: &str = "42P10";
/// `42P16`
pub const INVALID_TABLE_DEFINITION: &str = "42P16";
/// The disk is full, or nearly: the write was not committed.
pub const DISK_FULL: &str = "53100";
/// `54011`
pub const TOO_MANY_COLUMNS: &str = "54011";
/// `53200`
pub const OUT_OF_MEMORY: &str = "53200";
/// `53300`
pub const TOO_MANY_CONNECTIONS: &str = "53300";
/// `53400`: a session holds as much as it may.
pub const CONFIGURATION_LIMIT: &str = "53400";
/// `54000`
pub const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
/// `54001`: a statement too long or nested too deep.
pub const STATEMENT_TOO_COMPLEX: &str = "54001";
/// `55006`: another call has the session or the source, or a read may still need what is to go.
pub const OBJECT_IN_USE: &str = "55006";
/// `57014`: whoever asked is gone.
pub const QUERY_CANCELED: &str = "57014";
/// `57P03`: the database takes no writes now.
pub const CANNOT_CONNECT_NOW: &str = "57P03";
/// `58030`
pub const IO_ERROR: &str = "58030";
/// `XX000`
pub const INTERNAL_ERROR: &str = "XX000";
/// `XX001`
pub const DATA_CORRUPTED: &str = "XX001";
/// `72000`: a read was open for too long.
pub const SNAPSHOT_TOO_OLD: &str = "72000";
/// `HW001`: below retention or history; the message names the earliest LSN.
pub const BELOW_HISTORY: &str = "HW001";
/// `HW002`: the LSN was not reached in time.
pub const LSN_NOT_REACHED: &str = "HW002";
/// `HW003`: whether it was committed is unknown.
pub const OUTCOME_UNKNOWN: &str = "HW003";
/// `HW004`: committed, not yet readable. Don't retry.
pub const NOT_YET_READABLE: &str = "HW004";
/// `HW005`: the log is poisoned, the database closed.
pub const LOG_POISONED: &str = "HW005";

/// What the disk's answer comes to.
pub(crate) fn of_io(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => DISK_FULL,
        _ => IO_ERROR,
    }
}
