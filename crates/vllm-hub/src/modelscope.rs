//! Models of the ModelScope hub, kept where its Python tools keep them:
//!
//! ```text
//! models/org--name/snapshots/<revision>/<file>
//! .lock/file_<hash>.lock
//! ```
//!
//! Downloads of older tools (`models/org/na___me` and `hub/models/org/na___me`, with dots of the
//! name written as three underscores) are found and completed in place.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::digest::{Digest, sha256};
use crate::download::{Contents, RemoteFile, fetch, in_parallel, write_error};
use crate::http::{Failure, percent_encode};
use crate::hub::{self, Request};
use crate::{Error, Result};

const DEFAULT_REVISION: &str = "master";

/// The folder of the wanted revision with all needed files in it.
pub(crate) fn snapshot(request: &Request<'_>) -> Result<PathBuf> {
    let revision = request
        .options
        .revision
        .as_deref()
        .unwrap_or(DEFAULT_REVISION);
    let repository = Repository {
        request,
        revision,
        folder: model_folder(request, revision),
    };
    request.snapshot(&repository, revision)
}

fn model_folder(request: &Request<'_>, revision: &str) -> PathBuf {
    let older_name = request.model.as_str().replace('.', "___");
    let older = ["models", "hub/models"].map(|group| request.cache.join(group).join(&older_name));
    let has_files =
        |folder: &PathBuf| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    older.into_iter().find(has_files).unwrap_or_else(|| {
        let model = request
            .cache
            .join("models")
            .join(request.model.folder_name());
        model
            .join("snapshots")
            .join(revision.replace(['/', '\\'], "--"))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    data: Option<Listing>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    files: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    path: String,
    #[serde(rename = "Type")]
    kind: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
}

struct Repository<'a> {
    request: &'a Request<'a>,
    revision: &'a str,
    folder: PathBuf,
}

impl hub::Repository for Repository<'_> {
    type Listing = Vec<Entry>;

    fn cached(&self) -> Option<PathBuf> {
        let is_complete = self.request.is_complete(&self.folder);
        is_complete.then(|| self.folder.clone())
    }

    fn list(&self) -> Result<Vec<Entry>, Failure> {
        let url = format!(
            "{}/api/v1/models/{}/repo/files?Revision={}&Recursive=True",
            self.request.endpoint(),
            self.request.model,
            percent_encode(self.revision)
        );
        let text = self.request.client.text(&url)?;
        let envelope: Envelope = serde_json::from_str(&text)
            .map_err(|error| Failure::Broken(format!("its answer is not understood: {error}")))?;
        match envelope.data {
            Some(listing) => Ok(listing.files),
            None => Err(Failure::Status {
                status: 404,
                code: None,
                retry_after: None,
            }),
        }
    }

    fn download(&self, entries: &Vec<Entry>) -> Result<PathBuf> {
        let files = entries
            .iter()
            .filter(|entry| entry.kind.as_deref() != Some("tree"));
        let names: Vec<String> = files.map(|entry| entry.path.clone()).collect();
        let selection = self.request.select(&names)?;
        let wanted: Vec<&Entry> = selection
            .files()
            .filter_map(|file| entries.iter().find(|entry| entry.path == *file))
            .collect();
        in_parallel(&wanted, self.request.options.parallel_files, |entry| {
            self.download_file(entry)
        })?;
        Ok(self.folder.clone())
    }
}

impl Repository<'_> {
    fn download_file(&self, entry: &Entry) -> Result<()> {
        let target = self.folder.join(&entry.path);
        if is_there(&target, entry.size) {
            return Ok(());
        }
        let _lock = self.request.lock(self.lock_path(&entry.path))?;
        if is_there(&target, entry.size) {
            return Ok(());
        }
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let partial = target.with_file_name(format!(".{name}.incomplete"));
        if let Some(folder) = target.parent() {
            self.request.create_folder(folder)?;
        }
        self.bring(entry, &partial)?;
        let cache_variable = self.request.variables().cache;
        fs::rename(&partial, &target).map_err(|source| write_error(&target, source, cache_variable))
    }

    fn bring(&self, entry: &Entry, partial: &Path) -> Result<()> {
        let request = self.request;
        let remote = RemoteFile {
            file: &entry.path,
            url: format!(
                "{}/api/v1/models/{}/repo?Revision={}&FilePath={}",
                request.endpoint(),
                request.model,
                percent_encode(self.revision),
                percent_encode(&entry.path)
            ),
            size: entry.size,
            digest: entry.sha256.as_deref().and_then(Digest::from_entity_tag),
        };
        let cache_variable = request.variables().cache;
        match fetch(
            &request.client,
            &remote,
            partial,
            request.progress(),
            cache_variable,
        ) {
            Ok(Contents::Right) => Ok(()),
            Ok(Contents::Wrong) => Err(Error::Corrupt {
                model: request.model.to_string(),
                file: entry.path.clone(),
                endpoint: request.endpoint().to_owned(),
            }),
            Err(failure) => Err(request.explain(failure, self.revision)),
        }
    }

    /// The lock that the Python tools take around the same download.
    fn lock_path(&self, file: &str) -> PathBuf {
        let model = self.request.model.as_str();
        let key = [
            "modelscope-hub-download-lock-v2",
            "file",
            "model",
            model,
            file,
        ]
        .join("\0");
        let name = format!("file_{}.lock", sha256(key.as_bytes()));
        self.request.cache.join(".lock").join(name)
    }
}

fn is_there(target: &Path, size: Option<u64>) -> bool {
    let metadata = fs::metadata(target);
    metadata.is_ok_and(|found| found.is_file() && size.is_none_or(|size| size == found.len()))
}
