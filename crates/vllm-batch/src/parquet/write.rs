//! Results into a Parquet file.

use std::io::{Error as IoError, Result as IoResult, Write};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use serde_json::{Map, Value};

use crate::parquet::schema::{TableSchema, message_type};
use crate::parquet::shred::{Leaf, Shredder, Values};

type Result<T> = std::result::Result<T, ParquetError>;

/// A row group ends at so many rows or bytes of JSON, which bounds what is held in memory.
const MAX_GROUP_ROWS: usize = 1 << 16;
const MAX_GROUP_BYTES: usize = 16 << 20;

/// Writes rows of a known schema. The same rows give the same bytes.
pub(crate) struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    shredder: Shredder,
    group_bytes: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    pub(crate) fn new(out: W, schema: TableSchema) -> IoResult<Self> {
        Self::begin(out, schema).map_err(IoError::other)
    }

    fn begin(out: W, schema: TableSchema) -> Result<Self> {
        let columns = schema.into_columns();
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
        let properties = Arc::new(properties.build());
        Ok(Self {
            file: SerializedFileWriter::new(out, message_type(&columns)?, properties)?,
            shredder: Shredder::new(&columns),
            group_bytes: 0,
        })
    }

    /// Adds a row that takes about `num_bytes`.
    pub(crate) fn add(&mut self, row: &Map<String, Value>, num_bytes: usize) -> IoResult<()> {
        self.shredder.add(row);
        self.group_bytes += num_bytes;
        if self.shredder.num_rows() >= MAX_GROUP_ROWS || self.group_bytes >= MAX_GROUP_BYTES {
            self.end_group().map_err(IoError::other)?;
        }
        Ok(())
    }

    /// Ends the file and gives back what it was written to.
    pub(crate) fn finish(mut self) -> IoResult<W> {
        if self.shredder.num_rows() > 0 {
            self.end_group().map_err(IoError::other)?;
        }
        self.file.into_inner().map_err(IoError::other)
    }

    fn end_group(&mut self) -> Result<()> {
        self.group_bytes = 0;
        let mut group = self.file.next_row_group()?;
        for leaf in self.shredder.take() {
            let Some(mut column) = group.next_column()? else {
                return Err(ParquetError::General("more columns than types".to_owned()));
            };
            match &leaf.values {
                Values::Bool(values) => write::<BoolType>(&mut column, values, &leaf)?,
                Values::Int(values) => write::<Int64Type>(&mut column, values, &leaf)?,
                Values::Float(values) => write::<DoubleType>(&mut column, values, &leaf)?,
                Values::Text(values) => write::<ByteArrayType>(&mut column, values, &leaf)?,
            }
            column.close()?;
        }
        group.close().map(|_| ())
    }
}

fn write<T: DataType>(
    column: &mut SerializedColumnWriter<'_>,
    values: &[T::T],
    leaf: &Leaf,
) -> Result<()> {
    let definition = leaf.definition_levels.as_slice();
    let repetition = leaf.repetition_levels.as_slice();
    column
        .typed::<T>()
        .write_batch(values, Some(definition), Some(repetition))
        .map(|_| ())
}
