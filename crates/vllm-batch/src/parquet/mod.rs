//! Tables in Apache Parquet files: rows out of them, results into them.
//!
//! Values travel as JSON, the common form of all rows and results; the types of the file that is
//! written are those of the values.

mod read;
mod schema;
mod shred;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use read::ParquetRows;
pub(crate) use schema::TableSchema;
pub(crate) use write::ParquetWriter;
