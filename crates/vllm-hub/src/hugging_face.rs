//! Models of the Hugging Face hub, kept in the cache that its Python tools use:
//!
//! ```text
//! models--org--name/
//!   blobs/<entity tag>                contents, each once
//!   refs/<branch or tag>              the commit it was at
//!   snapshots/<commit>/<file>         links to the blobs
//! .locks/models--org--name/<entity tag>.lock
//! ```

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::digest::{Digest, sha256};
use crate::download::{Contents, RemoteFile, fetch, in_parallel, write_error};
use crate::http::{Failure, percent_encode, percent_encode_path, text_header};
use crate::hub::{self, Request};
use crate::{Error, Result};

const DEFAULT_REVISION: &str = "main";

/// The folder of the wanted revision with all needed files in it.
pub(crate) fn snapshot(request: &Request<'_>) -> Result<PathBuf> {
    let revision = request
        .options
        .revision
        .as_deref()
        .unwrap_or(DEFAULT_REVISION);
    let repository = Repository::new(request, revision)?;
    request.snapshot(&repository, revision)
}

/// The hub's description of one revision of a model.
#[derive(Deserialize)]
struct Listing {
    /// The commit.
    sha: String,
    /// All files.
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

struct Repository<'a> {
    request: &'a Request<'a>,
    revision: &'a str,
    /// `models--org--name`, the name of the model's folder in the cache.
    folder_name: String,
    folder: PathBuf,
}

impl hub::Repository for Repository<'_> {
    type Listing = Listing;

    fn cached(&self) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.folder.join("refs").join(self.revision));
        let commit = commit.unwrap_or_else(|_| self.revision.to_owned());
        let snapshot = self.snapshot_folder(commit.trim());
        self.request.is_complete(&snapshot).then_some(snapshot)
    }

    fn list(&self) -> Result<Listing, Failure> {
        let url = format!(
            "{}/api/models/{}/revision/{}",
            self.request.endpoint(),
            self.request.model,
            percent_encode(self.revision)
        );
        let text = self.request.client.text(&url)?;
        let listing: Listing = serde_json::from_str(&text)
            .map_err(|error| Failure::Broken(format!("its answer is not understood: {error}")))?;
        if is_file_name(&listing.sha) {
            Ok(listing)
        } else {
            Err(self.request.nonsense("commit").into())
        }
    }

    fn download(&self, listing: &Listing) -> Result<PathBuf> {
        let names: Vec<String> = listing
            .siblings
            .iter()
            .map(|sibling| sibling.rfilename.clone())
            .collect();
        let selection = self.request.select(&names)?;
        let commit = &listing.sha;
        let files: Vec<&String> = selection.files().collect();
        in_parallel(&files, self.request.options.parallel_files, |file| {
            self.download_file(commit, file)
        })?;
        self.remember(commit)?;
        Ok(self.snapshot_folder(commit))
    }
}

impl<'a> Repository<'a> {
    fn new(request: &'a Request<'a>, revision: &'a str) -> Result<Self> {
        let is_plain = !revision.is_empty()
            && Path::new(revision)
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
        if !is_plain {
            return Err(Error::RevisionNotFound {
                model: request.model.to_string(),
                revision: revision.to_owned(),
                endpoint: request.endpoint().to_owned(),
            });
        }
        let folder_name = format!("models--{}", request.model.folder_name());
        let folder = request.cache.join(&folder_name);
        Ok(Self {
            request,
            revision,
            folder_name,
            folder,
        })
    }

    fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Writes down which commit the revision was at, so that it is found without a network.
    fn remember(&self, commit: &str) -> Result<()> {
        if self.revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(self.revision);
        if let Some(folder) = path.parent() {
            self.request.create_folder(folder)?;
        }
        fs::write(&path, commit).map_err(|source| self.write_error(&path, source))
    }

    fn download_file(&self, commit: &str, file: &str) -> Result<()> {
        let pointer = self.snapshot_folder(commit).join(file);
        if pointer.exists() {
            return Ok(());
        }
        let (tag, remote) = self
            .describe(commit, file)
            .map_err(|failure| self.request.explain(failure, self.revision))?;

        let blobs = self.folder.join("blobs");
        self.request.create_folder(&blobs)?;
        let locks = self.request.cache.join(".locks").join(&self.folder_name);
        let _lock = self.request.lock(locks.join(format!("{tag}.lock")))?;
        let blob = blobs.join(&tag);
        if !blob.exists() {
            let partial = blobs.join(format!("{tag}.incomplete"));
            self.bring(&remote, &partial)?;
            fs::rename(&partial, &blob).map_err(|source| self.write_error(&blob, source))?;
        }
        self.link(&blob, &pointer)
    }

    fn bring(&self, remote: &RemoteFile<'_>, partial: &Path) -> Result<()> {
        let request = self.request;
        let cache_variable = request.variables().cache;
        match fetch(
            &request.client,
            remote,
            partial,
            request.progress(),
            cache_variable,
        ) {
            Ok(Contents::Right) => Ok(()),
            Ok(Contents::Wrong) => Err(Error::Corrupt {
                model: request.model.to_string(),
                file: remote.file.to_owned(),
                endpoint: request.endpoint().to_owned(),
            }),
            Err(failure) => Err(request.explain(failure, self.revision)),
        }
    }

    /// Asks the hub for a file's entity tag and size. Large files are redirected to a store; the
    /// hub's own answer carries what the store's would, under names of its own.
    fn describe<'f>(
        &self,
        commit: &str,
        file: &'f str,
    ) -> Result<(String, RemoteFile<'f>), Failure> {
        let url = format!(
            "{}/{}/resolve/{commit}/{}",
            self.request.endpoint(),
            self.request.model,
            percent_encode_path(file)
        );
        let answer = self.request.client.head(&url)?;
        let is_redirect = answer.status().is_redirection();
        let own_length = || text_header(&answer, "content-length").filter(|_| !is_redirect);
        let size = text_header(&answer, "x-linked-size").or_else(own_length);
        let tag = text_header(&answer, "x-linked-etag")
            .or_else(|| text_header(&answer, "etag"))
            .map(|tag| tag.trim_start_matches("W/").trim_matches('"'))
            .filter(|tag| is_file_name(tag));
        let remote = RemoteFile {
            file,
            url,
            size: size.and_then(|size| size.parse().ok()),
            digest: tag.and_then(Digest::from_entity_tag),
        };
        // Some mirrors send no tag; the blob then gets a name of its own.
        let blob_name = tag.map_or_else(
            || sha256(format!("{commit}/{file}").as_bytes()),
            str::to_owned,
        );
        Ok((blob_name, remote))
    }

    /// Makes `pointer` show the blob: by a relative link, or by a copy where links are not allowed.
    fn link(&self, blob: &Path, pointer: &Path) -> Result<()> {
        if let Some(folder) = pointer.parent() {
            self.request.create_folder(folder)?;
        }
        if pointer.exists() {
            return Ok(());
        }
        let _ = fs::remove_file(pointer);
        let depth = pointer
            .strip_prefix(&self.folder)
            .map_or(0, |path| path.components().count());
        let mut target: PathBuf = std::iter::repeat_n("..", depth.saturating_sub(1)).collect();
        target.push("blobs");
        target.push(blob.file_name().unwrap_or_default());
        symlink(&target, pointer)
            .or_else(|_| fs::copy(blob, pointer).map(|_| ()))
            .map_err(|source| self.write_error(pointer, source))
    }

    fn write_error(&self, path: &Path, source: std::io::Error) -> Error {
        write_error(path, source, self.request.variables().cache)
    }
}

/// Whether text from the hub can be the name of a file.
fn is_file_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}
