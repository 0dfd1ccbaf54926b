//! A server that behaves as the Hugging Face hub does, with its store of large files on a host of
//! its own, and things that can be wrong with both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use vllm_hub::{ModelFiles, ResolveOptions, Result, resolve};

use super::{Reply, Request, Server, git_blob, sha256, weights};

pub(crate) const MODEL: &str = "org/tiny.model";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const WEIGHTS: usize = 1 << 20;

/// What is wrong with the hub, counted down by each request that it hits.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) gated: bool,
    pub(crate) private: bool,
    pub(crate) needs_token: bool,
    pub(crate) without_tags: bool,
    pub(crate) damaged: bool,
    pub(crate) throttled_listings: AtomicUsize,
    pub(crate) broken_transfers: AtomicUsize,
}

pub(crate) struct Hub {
    pub(crate) server: Server,
    pub(crate) store: Server,
    pub(crate) cache: TempDir,
    pub(crate) files: BTreeMap<&'static str, Vec<u8>>,
}

impl Hub {
    pub(crate) fn start(faults: Faults) -> Self {
        let files = BTreeMap::from([
            ("README.md", b"# Tiny".to_vec()),
            ("config.json", b"{\"model_type\": \"opt\"}".to_vec()),
            ("model.safetensors", weights(WEIGHTS)),
            ("pytorch_model.bin", weights(10)),
            ("tokenizer.json", b"{}".to_vec()),
        ]);
        Self::with_files(faults, files)
    }

    pub(crate) fn with_files(faults: Faults, files: BTreeMap<&'static str, Vec<u8>>) -> Self {
        let faults = Arc::new(faults);
        let store = {
            let (files, faults) = (files.clone(), Arc::clone(&faults));
            Server::start(move |request| store_reply(request, &files, &faults))
        };
        let server = {
            let files = files.clone();
            // The real store is on another host; by another name this machine is one too.
            let store = store.address().replace("127.0.0.1", "localhost");
            Server::start(move |request| hub_reply(request, &files, &faults, &store))
        };
        Self {
            server,
            store,
            cache: tempfile::tempdir().unwrap(),
            files,
        }
    }

    pub(crate) fn options(&self) -> ResolveOptions {
        ResolveOptions {
            endpoint: self.server.address().to_owned(),
            cache: Some(self.cache.path().to_path_buf()),
            retries: 3,
            retry_delay: Duration::from_millis(1),
            ..ResolveOptions::default()
        }
    }

    pub(crate) fn resolve(&self) -> Result<ModelFiles> {
        resolve(MODEL, &self.options())
    }

    /// A path below the model's folder in the cache.
    pub(crate) fn cached(&self, path: &str) -> PathBuf {
        self.cache.path().join("models--org--tiny.model").join(path)
    }

    pub(crate) fn check_contents(&self, model: &ModelFiles, file: &str) {
        assert!(
            *model.open(file).unwrap() == *self.files[file],
            "{file} is not what the hub has"
        );
    }
}

pub(crate) fn hub_reply(
    request: &Request,
    files: &BTreeMap<&'static str, Vec<u8>>,
    faults: &Faults,
    store: &str,
) -> Reply {
    let has_token = request.header("authorization") == Some("Bearer secret");
    if faults.private && !has_token {
        return Reply::new(401, "{}").with("X-Error-Code", "RepoNotFound");
    }
    if faults.needs_token && !has_token {
        return Reply::new(401, "{}");
    }
    if let Some(rest) = request.target.strip_prefix("/api/models/") {
        if take_one(&faults.throttled_listings) {
            return Reply::new(429, "").with("Retry-After", 0);
        }
        return match rest.strip_prefix("org/tiny.model/revision/") {
            Some("main" | "v1" | "refs%2Fpr%2F1" | COMMIT) => Reply::new(200, listing(files)),
            Some(_) => Reply::new(404, "{}").with("X-Error-Code", "RevisionNotFound"),
            None => Reply::new(401, "{}").with("X-Error-Code", "RepoNotFound"),
        };
    }
    if faults.gated {
        return Reply::new(403, "{}").with("X-Error-Code", "GatedRepo");
    }
    let prefix = format!("/org/tiny.model/resolve/{COMMIT}/");
    let moved = format!("/moved{prefix}");
    // The hub sends small files from another path of its own.
    if let Some(file) = request.target.strip_prefix(&prefix)
        && files[file].len() < 1000
    {
        return Reply::new(307, "").with("Location", format!("{moved}{file}"));
    }
    let file = request
        .target
        .strip_prefix(&moved)
        .or(request.target.strip_prefix(&prefix))
        .unwrap();
    let contents = &files[file];
    if contents.len() < 1000 {
        let reply = Reply::contents(request, contents);
        return if faults.without_tags {
            reply
        } else {
            reply.with("ETag", format!("W/\"{}\"", git_blob(contents)))
        };
    }
    let reply = Reply::new(302, "").with("Location", format!("{store}/{file}"));
    if faults.without_tags {
        return reply;
    }
    reply
        .with("X-Linked-Etag", format!("\"{}\"", sha256(contents)))
        .with("X-Linked-Size", contents.len())
}

fn store_reply(
    request: &Request,
    files: &BTreeMap<&'static str, Vec<u8>>,
    faults: &Faults,
) -> Reply {
    let contents = &files[request.target.trim_start_matches('/')];
    if faults.damaged {
        return Reply::new(200, vec![0; contents.len()]);
    }
    let reply = Reply::contents(request, contents);
    if take_one(&faults.broken_transfers) {
        reply.cut_after(contents.len() / 4)
    } else {
        reply
    }
}

fn take_one(counter: &AtomicUsize) -> bool {
    counter
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
}

fn listing(files: &BTreeMap<&'static str, Vec<u8>>) -> String {
    let names: Vec<String> = files
        .keys()
        .map(|file| format!("{{\"rfilename\": \"{file}\"}}"))
        .collect();
    format!(
        "{{\"sha\": \"{COMMIT}\", \"gated\": false, \"siblings\": [{}]}}",
        names.join(",")
    )
}
