//! Offline jobs: rows of a data set in, results out, none lost.
//!
//! Knows how rows are written down (text lines, JSON lines, CSV and Parquet tables, OpenAI batch
//! files), keeps the engine's batch full while it reads ahead, and keeps results in a journal, so
//! that a job that is cut off goes on where it stopped. A bad row becomes an error result and the job goes on.
//! Nothing in memory grows with the data set. It must never know command lines, terminals, HTTP or
//! tensors.
//!
//! ```no_run
//! # fn main() -> vllm_batch::Result<()> {
//! use std::{path::Path, sync::Arc};
//! use vllm_batch::{
//!     InputOptions, Job, JobIdentity, JobSettings, LockedJournal, OutputOrder, RowReader, Stop,
//! };
//!
//! # let (engine, settings): (Arc<vllm_engine::AsyncLlm>, JobSettings) = todo!();
//! let rows = RowReader::open(Path::new("prompts.txt"), &InputOptions::default())?;
//! let mut journal = LockedJournal::open(Path::new("answers.jsonl"))?
//!     .resume(&JobIdentity::new(), 0, false)?;
//! let (done, progress) = (journal.done().clone(), journal.progress());
//! let on_result = |result| journal.put(&result);
//! Job::new(engine, settings).run(rows, done, progress, &Stop::default(), on_result, |_| ())?;
//! journal.finish(OutputOrder::Input)
//! # }
//! ```
#![forbid(unsafe_code)]

mod done;
mod error;
mod feed;
mod job;
mod journal;
mod line;
mod openai;
mod order;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(not(feature = "parquet"))]
#[path = "parquet/absent.rs"]
mod parquet;
mod reader;
mod result;
mod row;
mod seed;
mod shard;
mod stop;

pub use done::DoneRows;
pub use error::{Error, Result};
pub use job::{Job, JobSettings, Progress};
pub use journal::{JobIdentity, Journal, LockedJournal, OutputOrder, move_into_place};
pub use openai::BatchRequest;
pub use order::InOrder;
pub use reader::{InputFormat, InputOptions, Record, RowReader, Survey};
pub use result::{Answer, RowResult, Tokens};
pub use row::{Row, RowInput, UnreadRow};
pub use shard::Shard;
pub use stop::Stop;
