//! From a local file to a store.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use object_store::{Error as StoreError, ObjectStoreExt, PutPayload, WriteMultipart};

use crate::error::{Error, Result};
use crate::provider::Provider;
use crate::store::{Direction, open, runtime};
use crate::url::ObjectUrl;

/// The smallest part of an upload in parts, in bytes.
const MIN_PART: u64 = 8 << 20;
/// Stores take at most 10,000 parts.
const MAX_PARTS: u64 = 9_000;
/// Parts under way at once.
const PARTS_AT_ONCE: usize = 4;
/// The largest file that goes to a web server, which knows no parts, in bytes.
const MAX_WHOLE: u64 = 1 << 30;

impl ObjectUrl {
    /// Finds out whether [`ObjectUrl::upload`] would be refused, without writing the object: begins
    /// an upload in parts and gives it up. Of a web server it only shows that it answers.
    ///
    /// # Errors
    /// The store refuses or cannot be reached.
    pub fn check_writable(&self) -> Result<()> {
        let runtime = runtime().map_err(|error| Error::store(self, error.to_string()))?;
        let outcome = runtime.block_on(self.begin_and_give_up());
        outcome.map_err(Error::of(self, Direction::Send))
    }

    async fn begin_and_give_up(&self) -> object_store::Result<()> {
        let (store, object) = open(self.as_url(), Direction::Send)?;
        if self.provider() == Provider::Web {
            return match store.head(&object).await {
                // What PUT would be answered, HEAD does not tell.
                Err(error) if crate::advice::is_unreachable(&error) => Err(error),
                _ => Ok(()),
            };
        }
        let mut upload = match store.put_multipart(&object).await {
            // Small outputs need no parts.
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                return Ok(());
            }
            begun => begun?,
        };
        if self.provider() == Provider::Azure {
            // There the first part begins an upload; one that no list names is dropped.
            upload.put_part(PutPayload::from_static(b"-")).await?;
        }
        // What is left behind expires.
        let _ = upload.abort().await;
        Ok(())
    }

    /// Sends a file, in parts where it is large; the object appears when all of it has arrived.
    /// `on_progress` gets the bytes that were handed over and all there are.
    ///
    /// # Errors
    /// The store refuses or cannot be reached, or the file cannot be read; the file stays.
    pub fn upload(&self, file: &Path, on_progress: impl FnMut(u64, u64)) -> Result<()> {
        let runtime = runtime().map_err(Error::at(file))?;
        runtime.block_on(self.upload_from(file, on_progress))
    }

    async fn upload_from(&self, path: &Path, mut on_progress: impl FnMut(u64, u64)) -> Result<()> {
        let failed = Error::of(self, Direction::Send);
        let (store, object) = open(self.as_url(), Direction::Send).map_err(&failed)?;
        let mut file = File::open(path).map_err(Error::at(path))?;
        let size = file.metadata().map_err(Error::at(path))?.len();
        let is_web = self.provider() == Provider::Web;
        if is_web && size > MAX_WHOLE {
            let reason = "a web server takes at most 1 GiB; use a store, or a file as the output";
            return Err(Error::store(self, reason.to_owned()));
        }
        if is_web || size <= MIN_PART {
            let mut whole = Vec::new();
            file.read_to_end(&mut whole).map_err(Error::at(path))?;
            let payload = PutPayload::from(whole);
            store.put(&object, payload).await.map_err(&failed)?;
            on_progress(size, size);
            return Ok(());
        }
        let upload = store.put_multipart(&object).await.map_err(&failed)?;
        let part = MIN_PART.max(size.div_ceil(MAX_PARTS));
        let mut parts = WriteMultipart::new_with_chunk_size(upload, part as usize);
        let mut sent = 0;
        let mut buffer = vec![0; MIN_PART as usize];
        loop {
            let read = file.read(&mut buffer).map_err(Error::at(path));
            let outcome = match read {
                Ok(0) => break,
                Ok(count) => {
                    let ready = parts.wait_for_capacity(PARTS_AT_ONCE).await;
                    ready.map(|()| count).map_err(&failed)
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(count) => {
                    parts.write(&buffer[..count]);
                    sent += count as u64;
                    on_progress(sent, size);
                }
                Err(error) => {
                    // The first error says what went wrong; parts that stay behind expire.
                    let _ = parts.abort().await;
                    return Err(error);
                }
            }
        }
        parts.finish().await.map_err(&failed)?;
        Ok(())
    }
}
