//! Offline jobs: rows of a data set in, results in order out.
//!
//! Knows how rows are written down (text lines, JSON lines), keeps the engine's batch full while
//! it reads ahead, and hands results back in input order. A bad row becomes an error result and
//! the job goes on. It must never know command lines, terminals, HTTP or tensors.
#![forbid(unsafe_code)]

mod error;
mod job;
mod reader;
mod record;
mod row;

pub use error::{Error, Result};
pub use job::{Job, Progress};
pub use reader::{InputFormat, RowReader};
pub use record::{RowResult, to_json_line};
pub use row::{Row, RowInput};
