//! From a store to a local file.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};

use crate::error::{Error, Result};
use crate::store::{open, runtime};
use crate::url::ObjectUrl;

impl ObjectUrl {
    /// Brings the object into `folder` and gives the file's path. A transfer that was cut off goes
    /// on where it stopped, and an object that is there already is not fetched again, as long as
    /// it has not changed. `on_progress` gets the bytes that are there and all there are.
    ///
    /// # Errors
    /// The store refuses or cannot be reached, or the file cannot be written.
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
        let name = self.to_string();
        let (store, object) = open(self.as_url()).map_err(Error::of(&name))?;
        let meta = store.head(&object).await.map_err(Error::of(&name))?;
        let path = folder.join(format!(
            "{:08x}-{}",
            version(&name, &meta),
            self.file_name()
        ));
        let whole = path.metadata().is_ok_and(|found| found.len() == meta.size);
        if whole {
            return Ok(path);
        }
        let part = path.with_added_extension("part");
        let file_error = Error::at(&part);
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&part)
            .map_err(&file_error)?;
        let mut have = file.metadata().map_err(&file_error)?.len();
        if have > meta.size {
            file.set_len(0).map_err(&file_error)?;
            have = 0;
        }
        on_progress(have, meta.size);
        if have < meta.size {
            let options = GetOptions {
                range: (have > 0).then_some(GetRange::Offset(have)),
                if_match: meta.e_tag.clone().filter(|tag| !tag.starts_with("W/")),
                ..GetOptions::default()
            };
            let found = match store.get_opts(&object, options).await {
                // A server without ranges begins again.
                Err(object_store::Error::NotSupported { .. }) if have > 0 => {
                    file.set_len(0).map_err(&file_error)?;
                    have = 0;
                    store.get(&object).await
                }
                found => found,
            };
            let mut pieces = found.map_err(Error::of(&name))?.into_stream();
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(Error::of(&name))?;
                file.write_all(&piece).map_err(&file_error)?;
                have += piece.len() as u64;
                on_progress(have, meta.size);
            }
        }
        finish(file, &part, &path, have, &meta, &name)
    }
}

fn finish(
    file: File,
    part: &Path,
    path: &Path,
    have: u64,
    meta: &ObjectMeta,
    name: &str,
) -> Result<PathBuf> {
    file.sync_all().map_err(Error::at(part))?;
    if have != meta.size {
        return Err(Error::Store {
            url: name.to_owned(),
            reason: format!("{have} of {} bytes came; run the command again", meta.size),
        });
    }
    std::fs::rename(part, path).map_err(Error::at(path))?;
    Ok(path.to_owned())
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
