//! Results as messages, each of a bounded size unless a single row is larger.

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use highwater_log::value::{ColumnType, Value};
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::{Column, ExecuteResponse, Format, ResultHeader, Row, Rows, Value as WireValue, value::Kind};
use highwater_query::{RowStream, SqlError, types};

/// Makes messages of a result's batches.
pub(super) struct ResultEncoder {
    column_types: Vec<ColumnType>,
    /// With Arrow, what writes the stream.
    arrow: Option<StreamWriter<Vec<u8>>>,
}

impl ResultEncoder {
    /// The encoder, and the first message.
    pub(super) fn begin(rows: &RowStream, format: Format) -> Result<(Self, ExecuteResponse), SqlError> {
        let schema = rows.schema();
        let column_types: Vec<_> =
            schema.fields().iter().map(|field| types::column_type(field)).collect::<Result<_, _>>()?;
        let columns = schema.fields().iter().zip(&column_types);
        let columns =
            columns.map(|(field, column_type)| Column { name: field.name().clone(), r#type: column_type.to_string() });
        let mut arrow = match format {
            Format::Rows => None,
            Format::Arrow => Some(StreamWriter::try_new(Vec::new(), schema)?),
        };
        let header = ResultHeader {
            read_lsn: rows.lsn().value(),
            columns: columns.collect(),
            arrow_schema: arrow.as_mut().map(written).unwrap_or_default(),
        };
        Ok((Self { column_types, arrow }, ExecuteResponse { answer: Some(Answer::Header(header)) }))
    }

    /// How many rows of the batch, from `from` on, go into the next message; and the message.
    pub(super) fn encode(&mut self, batch: &RecordBatch, from: usize) -> Result<(usize, ExecuteResponse), SqlError> {
        assert!(from < batch.num_rows(), "there is a row left");
        let (count, answer) = match &mut self.arrow {
            Some(writer) => {
                let row_bytes = batch.get_array_memory_size().div_ceil(batch.num_rows()).max(1);
                let count = (MESSAGE_BYTES_TARGET / row_bytes).clamp(1, batch.num_rows() - from);
                writer.write(&batch.slice(from, count))?;
                (count, Answer::Arrow(written(writer)))
            }
            None => {
                let rows = self.rows(batch, from)?;
                (rows.len(), Answer::Rows(Rows { rows }))
            }
        };
        Ok((count, ExecuteResponse { answer: Some(answer) }))
    }

    fn rows(&self, batch: &RecordBatch, from: usize) -> Result<Vec<Row>, SqlError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        for row in from..batch.num_rows() {
            let columns = batch.columns().iter().zip(&self.column_types);
            let values = columns.map(|(array, column_type)| {
                let value = types::value_at(array, row, *column_type)?;
                let kind = value.as_ref().map(|value| kind(*column_type, value.as_value())).transpose()?;
                bytes += VALUE_OVERHEAD_BYTES + kind.as_ref().map_or(0, byte_len);
                Ok(WireValue { kind })
            });
            rows.push(Row { values: values.collect::<Result<_, SqlError>>()? });
            if bytes >= MESSAGE_BYTES_TARGET {
                break;
            }
        }
        Ok(rows)
    }
}

fn kind(column_type: ColumnType, value: Value<'_>) -> Result<Kind, SqlError> {
    Ok(match value {
        Value::Boolean(value) => Kind::Bool(value),
        Value::SmallInt(value) => Kind::Int(value.into()),
        Value::Integer(value) => Kind::Int(value.into()),
        Value::BigInt(value) => Kind::Int(value),
        Value::Real(value) => Kind::Double(value.into()),
        Value::Double(value) => Kind::Double(value),
        Value::Bytea(value) => Kind::Bytes(Bytes::copy_from_slice(value)),
        Value::Text(value) | Value::Jsonb(value) => Kind::Text(value.to_owned()),
        other => {
            let mut text = String::new();
            highwater_log::value::write_text(column_type, other, &mut text)?;
            Kind::Text(text)
        }
    })
}

fn byte_len(kind: &Kind) -> usize {
    match kind {
        Kind::Bool(_) | Kind::Int(_) | Kind::Double(_) => 0,
        Kind::Bytes(bytes) => bytes.len(),
        Kind::Text(text) => text.len(),
    }
}

fn written(writer: &mut StreamWriter<Vec<u8>>) -> Bytes {
    std::mem::take(writer.get_mut()).into()
}

const MESSAGE_BYTES_TARGET: usize = 256 * 1024;
const VALUE_OVERHEAD_BYTES: usize = 12;
