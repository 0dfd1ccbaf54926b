//! From a store to a local file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as StoreError, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt,
};

use crate::error::{Error, Result};
use crate::store::{Direction, open, runtime};
use crate::url::ObjectUrl;

/// How long to wait before a transfer that was cut off goes on.
const PAUSE: Duration = Duration::from_millis(500);

impl ObjectUrl {
    /// Brings the object into `folder` and gives the file's path. A transfer that is cut off goes
    /// on where it stopped, in this call as long as some bytes come each time, or in the next one.
    /// An object that is there already is not fetched again, as long as it has not changed.
    /// `on_progress` gets the bytes that are there and all there are.
    ///
    /// # Errors
    /// The store refuses or cannot be reached, the file cannot be written, or another process
    /// fetches the same object into the same folder.
    pub fn fetch(&self, folder: &Path, on_progress: impl FnMut(u64, u64)) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(Error::at(folder))?;
        let runtime = runtime().map_err(Error::at(folder))?;
        runtime.block_on(self.fetch_into(folder, on_progress))
    }

    async fn fetch_into(
        &self,
        folder: &Path,
        mut on_progress: impl FnMut(u64, u64),
    ) -> Result<PathBuf> {
        let failed = Error::of(self, Direction::Fetch);
        let (store, object) = open(self.as_url(), Direction::Fetch).map_err(&failed)?;
        let meta = store.head(&object).await.map_err(&failed)?;
        let version = version(&self.to_string(), &meta);
        let path = folder.join(format!("{version:08x}-{}", self.file_name()));
        if path.metadata().is_ok_and(|found| found.len() == meta.size) {
            return Ok(path);
        }
        let mut part = Part::open(path.with_added_extension("part"), meta.size)?;
        on_progress(part.have, meta.size);
        while part.have < meta.size {
            let before = part.have;
            match copy(&*store, &object, &meta, &mut part, &mut on_progress).await {
                Ok(()) if part.have >= meta.size => {}
                // A line that breaks now and then still brings the object; a dead one does not.
                Err(Failure::Store(StoreError::Generic { .. })) | Ok(()) if part.have > before => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Failure::Store(error)) => return Err(failed(error)),
                Err(Failure::File(source)) => return Err(Error::at(&part.path)(source)),
                Ok(()) => break,
            }
        }
        part.finish(self, &path, meta.size)
    }
}

/// A file that is not whole yet, and that no other process writes to.
struct Part {
    path: PathBuf,
    file: File,
    have: u64,
}

impl Part {
    fn open(path: PathBuf, size: u64) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(Error::at(&path))?;
        let in_use = || std::io::Error::other("another process fetches this; wait for it");
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::at(&path)(in_use())),
            Err(TryLockError::Error(error)) => return Err(Error::at(&path)(error)),
        }
        let have = file.metadata().map_err(Error::at(&path))?.len();
        let mut part = Self { path, file, have };
        if have > size {
            part.empty().map_err(Error::at(&part.path))?;
        }
        Ok(part)
    }

    fn empty(&mut self) -> std::io::Result<()> {
        self.have = 0;
        self.file.set_len(0)
    }

    fn finish(self, url: &ObjectUrl, path: &Path, size: u64) -> Result<PathBuf> {
        self.file.sync_all().map_err(Error::at(&self.path))?;
        if self.have != size {
            let have = self.have;
            let reason = format!("{have} of {size} bytes came; give the command again");
            return Err(Error::store(url, reason));
        }
        std::fs::rename(&self.path, path).map_err(Error::at(path))?;
        Ok(path.to_owned())
    }
}

enum Failure {
    Store(StoreError),
    File(std::io::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Appends what is missing, until it is all there or the connection ends.
async fn copy(
    store: &dyn ObjectStore,
    object: &ObjectPath,
    meta: &ObjectMeta,
    part: &mut Part,
    on_progress: &mut impl FnMut(u64, u64),
) -> std::result::Result<(), Failure> {
    let options = GetOptions {
        range: (part.have > 0).then_some(GetRange::Offset(part.have)),
        if_match: meta.e_tag.clone().filter(|tag| !tag.starts_with("W/")),
        ..GetOptions::default()
    };
    let found = match store.get_opts(object, options).await {
        // A server without ranges begins again.
        Err(StoreError::NotSupported { .. }) if part.have > 0 => {
            part.empty().map_err(Failure::File)?;
            store.get(object).await
        }
        found => found,
    };
    let mut pieces = found?.into_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        part.file.write_all(&piece).map_err(Failure::File)?;
        part.have += piece.len() as u64;
        on_progress(part.have, meta.size);
    }
    Ok(())
}

/// A number that changes with the object.
fn version(name: &str, meta: &ObjectMeta) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name.as_bytes());
    hasher.update(&meta.size.to_le_bytes());
    match &meta.e_tag {
        Some(tag) => hasher.update(tag.as_bytes()),
        None => hasher.update(&meta.last_modified.timestamp().to_le_bytes()),
    }
    hasher.finalize()
}
