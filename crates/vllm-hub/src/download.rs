//! Bringing one file to disk: resumed where an earlier attempt stopped, and checked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::digest::{Checker, Digest};
use crate::http::{Client, Failure, read_some};
use crate::{Error, Progress, ProgressCallback, Result};

const BUFFER_SIZE: usize = 256 * 1024;

/// A file on a hub and what is known about it before it is fetched.
#[derive(Debug)]
pub(crate) struct RemoteFile<'a> {
    /// Its name inside the model.
    pub(crate) file: &'a str,
    pub(crate) url: String,
    pub(crate) size: Option<u64>,
    pub(crate) digest: Option<Digest>,
}

/// How a file's contents turned out, once all its bytes were here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    Right,
    /// Damaged in two whole downloads; nothing of them is kept.
    Wrong,
}

/// Fetches `remote` into the file at `partial`, going on from what is there already.
///
/// A broken connection is taken up again; only attempts that brought no byte count as retries.
pub(crate) fn fetch(
    client: &Client,
    remote: &RemoteFile<'_>,
    partial: &Path,
    progress: Option<&ProgressCallback>,
    cache_variable: &'static str,
) -> Result<Contents, Failure> {
    let transfer = Transfer {
        client,
        remote,
        partial,
        progress,
        cache_variable,
    };
    let mut idle_attempts = 0;
    let mut is_second_download = false;
    loop {
        let before = length(partial);
        match transfer.attempt() {
            Ok(checker) => {
                if checker.matches() {
                    transfer.tell(Progress::Finished { file: remote.file });
                    return Ok(Contents::Right);
                }
                fs::remove_file(partial)
                    .map_err(|source| Error::io("remove damaged", partial, source))?;
                if is_second_download {
                    return Ok(Contents::Wrong);
                }
                is_second_download = true;
            }
            Err(failure) => {
                idle_attempts = if length(partial) > before {
                    1
                } else {
                    idle_attempts + 1
                };
                let may_pass = failure.is_transient() || matches!(failure, Failure::Unreachable(_));
                if !may_pass || idle_attempts > client.retries {
                    return Err(failure);
                }
                std::thread::sleep(client.delay(idle_attempts, &failure));
            }
        }
    }
}

/// Does `work` for every item on up to `threads` threads; after a failure nothing new is begun.
pub(crate) fn in_parallel<T: Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let first_failure = || failure.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(item) {
                        next.store(items.len(), Ordering::Relaxed);
                        first_failure().get_or_insert(error);
                    }
                }
            });
        }
    });
    match first_failure().take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct Transfer<'a> {
    client: &'a Client,
    remote: &'a RemoteFile<'a>,
    partial: &'a Path,
    progress: Option<&'a ProgressCallback>,
    cache_variable: &'static str,
}

impl Transfer<'_> {
    /// One request for what is missing; the checker has seen all bytes of the file afterwards.
    fn attempt(&self) -> Result<Checker, Failure> {
        let size = self.remote.size;
        let mut output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.partial)
            .map_err(|source| self.write_error(source))?;
        let mut present = length(self.partial);
        if size.is_some_and(|size| present > size) {
            present = self.start_over(&output)?;
        }
        let mut checker = self.checker_of_present(present)?;
        self.tell(Progress::Started {
            file: self.remote.file,
            size,
            present,
        });
        if present > 0 && size == Some(present) {
            return Ok(checker);
        }

        let answer = match self.client.open_from(&self.remote.url, present) {
            Err(Failure::Status { status: 416, .. }) => {
                self.start_over(&output)?;
                return Err(Failure::Broken("the hub refuses to resume".to_owned()));
            }
            other => other?,
        };
        let is_whole = answer.status().as_u16() != 206;
        if is_whole && present > 0 {
            present = self.start_over(&output)?;
            checker = self.checker_of_present(0)?;
        }

        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let count = read_some(&mut body, &mut buffer)?;
            if count == 0 {
                break;
            }
            output
                .write_all(&buffer[..count])
                .map_err(|source| self.write_error(source))?;
            checker.update(&buffer[..count]);
            present += count as u64;
            self.tell(Progress::Advanced {
                file: self.remote.file,
                present,
            });
        }
        if let Some(size) = size.filter(|size| *size != present) {
            return Err(Failure::Broken(format!(
                "the connection ended at {present} of {size} bytes"
            )));
        }
        output
            .sync_all()
            .map_err(|source| self.write_error(source))?;
        Ok(checker)
    }

    /// Empties the partial file; what it has does not fit what the hub sends.
    fn start_over(&self, output: &File) -> Result<u64> {
        output
            .set_len(0)
            .map_err(|source| self.write_error(source))?;
        Ok(0)
    }

    fn checker_of_present(&self, present: u64) -> Result<Checker> {
        let mut checker = Checker::new(self.remote.digest.clone(), self.remote.size);
        if present > 0 && self.remote.digest.is_some() {
            let read_error = |source| Error::io("read", self.partial, source);
            let mut input = File::open(self.partial).map_err(read_error)?;
            let mut buffer = vec![0; BUFFER_SIZE];
            loop {
                let count = input.read(&mut buffer).map_err(read_error)?;
                if count == 0 {
                    break;
                }
                checker.update(&buffer[..count]);
            }
        }
        Ok(checker)
    }

    fn tell(&self, event: Progress<'_>) {
        if let Some(progress) = self.progress {
            progress(&event);
        }
    }

    fn write_error(&self, source: io::Error) -> Error {
        write_error(self.partial, source, self.cache_variable)
    }
}

/// An error while writing at `path`, with a full disk told apart.
pub(crate) fn write_error(path: &Path, source: io::Error, cache_variable: &'static str) -> Error {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        Error::DiskFull {
            path: path.to_path_buf(),
            cache_variable,
        }
    } else {
        Error::io("write", path, source)
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_items_are_worked_on_once() {
        let items: Vec<usize> = (0..100).collect();
        let seen = Mutex::new(Vec::new());
        in_parallel(&items, 4, |item| {
            seen.lock().unwrap().push(*item);
            Ok(())
        })
        .unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!(seen, items);
    }

    #[test]
    fn nothing_is_begun_after_a_failure() {
        let items: Vec<usize> = (0..100).collect();
        let begun = AtomicUsize::new(0);
        let outcome = in_parallel(&items, 1, |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 3 {
                Err(Error::NoCacheFolder {
                    cache_variable: "X",
                })
            } else {
                Ok(())
            }
        });
        assert!(outcome.is_err());
        assert_eq!(begun.into_inner(), 4);
    }

    #[test]
    fn no_items_need_no_work() {
        in_parallel::<usize>(&[], 8, |_| unreachable!("there are no items")).unwrap();
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let path = Path::new("/cache/blob");
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let message = write_error(path, kind.into(), "HF_HOME").to_string();
            assert!(
                message.starts_with("no space left for `/cache/blob`"),
                "{message}"
            );
            assert!(message.contains("HF_HOME"), "{message}");
        }
        let message =
            write_error(path, io::ErrorKind::PermissionDenied.into(), "HF_HOME").to_string();
        assert!(
            message.starts_with("cannot write `/cache/blob`"),
            "{message}"
        );
    }
}
