//! Reads and understands rows on a thread of their own, ahead of the engine.

use futures::SinkExt;
use futures::channel::mpsc::{Receiver, channel};
use futures::executor::block_on;

use crate::done::{DoneRows, Recheck};
use crate::error::{Error, Result};
use crate::reader::Record;
use crate::row::{Row, UnreadRow};

/// Rows that wait to be started.
const READ_AHEAD: usize = 256;

/// A row that is to be answered.
pub(crate) struct ReadRow {
    pub(crate) index: u64,
    pub(crate) checksum: u32,
    /// The row, or why it is none.
    pub(crate) row: std::result::Result<Box<Row>, UnreadRow>,
}

/// The rows that are not done, as they are read. The thread ends with the rows, with the first
/// error, or with its next row after the receiver is gone: a stream that gives nothing cannot be
/// interrupted, and must not keep the job.
pub(crate) fn feed(
    records: impl Iterator<Item = Result<Record>> + Send + 'static,
    done: DoneRows,
) -> Result<Receiver<Result<ReadRow>>> {
    let (mut sender, receiver) = channel(READ_AHEAD);
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || {
            for row in Rows::new(records, done) {
                if block_on(sender.send(row)).is_err() {
                    return;
                }
            }
        })?;
    Ok(receiver)
}

struct Rows<R> {
    records: R,
    recheck: Recheck,
    /// The row up to which the input has to go to be the one that was begun.
    must_reach: u64,
    ended: bool,
}

impl<R: Iterator<Item = Result<Record>>> Rows<R> {
    fn new(records: R, done: DoneRows) -> Self {
        Self {
            records,
            must_reach: if done.is_empty() { 0 } else { done.low() },
            recheck: Recheck::new(done),
            ended: false,
        }
    }

    fn read(&mut self) -> Result<Option<ReadRow>> {
        loop {
            let Some(record) = self.records.next().transpose()? else {
                return match self.must_reach {
                    0 => Ok(None),
                    row => Err(changed(row - 1)),
                };
            };
            let (index, checksum) = (record.index, record.checksum);
            if index + 1 >= self.must_reach {
                self.must_reach = 0;
            }
            if self.recheck.skips(index, checksum).map_err(changed)? {
                continue;
            }
            return Ok(Some(ReadRow {
                index,
                checksum,
                row: record.parse().map(Box::new),
            }));
        }
    }
}

impl<R: Iterator<Item = Result<Record>>> Iterator for Rows<R> {
    type Item = Result<ReadRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = self.read().transpose();
        self.ended = !matches!(row, Some(Ok(_)));
        row
    }
}

fn changed(row: u64) -> Error {
    Error::OtherInput { row }
}
