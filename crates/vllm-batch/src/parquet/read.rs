//! Rows of a Parquet file, one at a time.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::basic::ConvertedType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Iterates over the rows of a file, reading one page of each column at a time.
pub(crate) struct ParquetRows {
    name: String,
    columns: Vec<String>,
    rows: RowIter<'static>,
}

impl ParquetRows {
    /// Opens a file, called `name` in messages.
    ///
    /// # Errors
    /// It is no Parquet file, or holds a type that cannot be read.
    pub(crate) fn open(name: &str, file: File) -> Result<Self> {
        let reader = guard(name, || SerializedFileReader::new(file))?
            .map_err(|error| Error::Input(format!("{name}: not a Parquet file: {error}")))?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let intervals = schema.columns().iter();
        if let Some(column) = intervals
            .into_iter()
            .find(|column| column.converted_type() == ConvertedType::INTERVAL)
        {
            let column = column.path();
            return Err(Error::Input(format!(
                "{name}: the column `{column}` holds intervals, which cannot be read; write the \
                 file without it"
            )));
        }
        let fields = schema.root_schema().get_fields();
        Ok(Self {
            columns: fields.iter().map(|field| field.name().to_owned()).collect(),
            rows: RowIter::from_file_into(Box::new(reader)),
            name: name.to_owned(),
        })
    }

    /// The names of the top-level columns.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The columns of the next row. Binary values become base64, dates and times text.
    pub(crate) fn next_row(&mut self) -> Result<Option<Map<String, Value>>> {
        let Self { name, rows, .. } = self;
        let row = guard(name, || {
            rows.next()
                .map(|row| row.map(|row| row.to_json_value()))
                .transpose()
        })?;
        match row.map_err(|error| Error::Input(format!("{name}: cannot be read on: {error}")))? {
            Some(Value::Object(columns)) => Ok(Some(columns)),
            _ => Ok(None),
        }
    }
}

/// The library panics on some values and damage; neither may pass for the end of the file.
fn guard<T>(name: &str, read: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| {
        Error::Input(format!(
            "{name}: is damaged, or holds values that cannot be read"
        ))
    })
}
