//! What stands in for Parquet in builds without it.

use std::convert::Infallible;
use std::fs::File;
use std::io::{Error as IoError, Result as IoResult, Write};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

const MESSAGE: &str = "this build cannot handle Parquet files";

pub(crate) struct ParquetRows(Infallible);

impl ParquetRows {
    pub(crate) fn open(name: &str, _: File) -> Result<Self> {
        Err(Error::Input(format!("{name}: {MESSAGE}")))
    }

    pub(crate) fn columns(&self) -> &[String] {
        match self.0 {}
    }

    pub(crate) fn next_row(&mut self) -> Result<Option<Map<String, Value>>> {
        match self.0 {}
    }
}

#[derive(Default)]
pub(crate) struct TableSchema;

impl TableSchema {
    pub(crate) fn add(&mut self, _: &Map<String, Value>) {}
}

pub(crate) struct ParquetWriter(Infallible);

impl ParquetWriter {
    pub(crate) fn new(_: impl Write, _: TableSchema) -> IoResult<Self> {
        Err(IoError::other(MESSAGE))
    }

    pub(crate) fn add(&mut self, _: &Map<String, Value>, _: usize) -> IoResult<()> {
        match self.0 {}
    }

    pub(crate) fn finish(self) -> IoResult<()> {
        match self.0 {}
    }
}
