//! Downloads from a server that behaves as the ModelScope hub does.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{Reply, Request, Server, sha256, weights};
use tempfile::TempDir;
use vllm_hub::{Error, HubKind, ModelFiles, ResolveOptions, Result, Token, resolve};

const MODEL: &str = "org/tiny.model";
const FILES: &str = "/api/v1/models/org/tiny.model/repo/files?Revision=";
const CONTENTS: &str = "/api/v1/models/org/tiny.model/repo?Revision=master&FilePath=";
const WEIGHTS: usize = 100_000;

struct Hub {
    server: Server,
    cache: TempDir,
}

impl Hub {
    /// A hub that breaks off this many transfers of the weights half-way.
    fn start(broken_transfers: usize) -> Self {
        let left = Arc::new(AtomicUsize::new(broken_transfers));
        let server = Server::start(move |request| reply(request, &left));
        Self {
            server,
            cache: tempfile::tempdir().unwrap(),
        }
    }

    fn options(&self) -> ResolveOptions {
        ResolveOptions {
            hub: HubKind::ModelScope,
            endpoint: self.server.address().to_owned(),
            cache: Some(self.cache.path().to_path_buf()),
            retries: 2,
            retry_delay: Duration::from_millis(1),
            ..ResolveOptions::default()
        }
    }

    fn resolve(&self) -> Result<ModelFiles> {
        resolve(MODEL, &self.options())
    }
}

fn reply(request: &Request, broken_transfers: &AtomicUsize) -> Reply {
    if let Some(query) = request.target.strip_prefix(FILES) {
        return match query {
            "master&Recursive=True" => Reply::new(200, listing()),
            _ => Reply::new(
                404,
                r#"{"Code": 10010205001, "Message": "no such revision"}"#,
            ),
        };
    }
    let contents = match request.target.strip_prefix(CONTENTS) {
        Some("config.json") => b"{}".to_vec(),
        Some("additional_chat_templates%2Ftool_use.jinja") => b"template".to_vec(),
        Some("model.safetensors") => weights(WEIGHTS),
        _ => return Reply::new(404, r#"{"Code": 10010205001, "Message": "not found"}"#),
    };
    let is_broken = contents.len() == WEIGHTS
        && broken_transfers
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
    let reply = Reply::contents(request, &contents);
    if is_broken {
        reply.cut_after(WEIGHTS / 2)
    } else {
        reply
    }
}

fn listing() -> String {
    let entry = |path: &str, contents: &[u8]| {
        format!(
            r#"{{"Path": "{path}", "Name": "{path}", "Type": "blob", "Size": {}, "Sha256": "{}"}}"#,
            contents.len(),
            sha256(contents)
        )
    };
    let entries = [
        r#"{"Path": "additional_chat_templates", "Type": "tree", "Size": 0, "Sha256": ""}"#.into(),
        entry("additional_chat_templates/tool_use.jinja", b"template"),
        entry("README.md", b"# Tiny"),
        entry("config.json", b"{}"),
        entry("model.safetensors", &weights(WEIGHTS)),
    ];
    format!(
        r#"{{"Code": 200, "Data": {{"Files": [{}]}}, "Success": true}}"#,
        entries.join(",")
    )
}

#[test]
fn needed_files_are_fetched_into_the_shared_layout() {
    let hub = Hub::start(0);
    let model = hub.resolve().unwrap();
    let expected = [
        "additional_chat_templates/tool_use.jinja",
        "config.json",
        "model.safetensors",
    ];
    assert_eq!(model.list(), expected);
    assert!(*model.open("model.safetensors").unwrap() == *weights(WEIGHTS));
    let folder = hub
        .cache
        .path()
        .join("models/org--tiny.model/snapshots/master");
    assert_eq!(model.path(), Some(folder.as_path()));

    hub.resolve().unwrap();
    assert_eq!(
        hub.server.count("GET", "FilePath=model.safetensors"),
        1,
        "fetched only once"
    );
}

#[test]
fn a_download_of_the_older_tools_is_used_in_its_place() {
    let hub = Hub::start(0);
    for older in ["models/org/tiny___model", "hub/models/org/tiny___model"] {
        let folder = hub.cache.path().join(older);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("model.safetensors"), weights(WEIGHTS)).unwrap();
        assert_eq!(hub.resolve().unwrap().path(), Some(folder.as_path()));
        fs::remove_dir_all(&folder).unwrap();
    }
    assert_eq!(hub.server.count("GET", "FilePath=model.safetensors"), 0);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let hub = Hub::start(1);
    let model = hub.resolve().unwrap();
    assert!(*model.open("model.safetensors").unwrap() == *weights(WEIGHTS));
    let requests = hub.server.requests();
    let starts: Vec<Option<usize>> = requests
        .iter()
        .filter(|request| request.target.ends_with("model.safetensors"))
        .map(Request::range_start)
        .collect();
    assert_eq!(starts, [None, Some(WEIGHTS / 2)]);
}

#[test]
fn the_token_is_sent_in_both_forms() {
    let hub = Hub::start(0);
    let options = ResolveOptions {
        token: Some(Token::new("secret")),
        ..hub.options()
    };
    resolve(MODEL, &options).unwrap();
    for request in hub.server.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer secret"));
        assert_eq!(request.header("cookie"), Some("m_session_id=secret"));
    }
}

#[test]
fn a_wrong_name_is_explained() {
    let hub = Hub::start(0);
    let message = resolve("org/typo", &hub.options()).unwrap_err().to_string();
    for mention in ["org/typo", hub.server.address(), "MODELSCOPE_API_TOKEN"] {
        assert!(message.contains(mention), "{message}");
    }
}

#[test]
fn offline_uses_the_cache_or_says_what_is_missing() {
    let hub = Hub::start(0);
    let offline = ResolveOptions {
        offline: true,
        ..hub.options()
    };
    assert!(matches!(
        resolve(MODEL, &offline),
        Err(Error::Offline { .. })
    ));
    hub.resolve().unwrap();
    assert!(resolve(MODEL, &offline).is_ok());
}

#[test]
fn without_a_network_the_cache_is_used_or_the_way_out_is_told() {
    let hub = Hub::start(0);
    let away = ResolveOptions {
        endpoint: Server::address_of_nobody(),
        ..hub.options()
    };
    let message = resolve(MODEL, &away).unwrap_err().to_string();
    assert!(message.contains("MODELSCOPE_ENDPOINT"), "{message}");
    hub.resolve().unwrap();
    assert!(resolve(MODEL, &away).is_ok());
}
