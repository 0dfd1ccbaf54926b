//! Downloads from a server that behaves as the Hugging Face hub does.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use support::hugging_face::{COMMIT, Faults, Hub, MODEL, WEIGHTS, hub_reply};
use support::{Reply, Request, Server, git_blob, sha256, weights};
use vllm_hub::{Error, ModelFiles, Progress, ResolveOptions, Result, Token, resolve};

fn message(outcome: Result<ModelFiles>) -> String {
    outcome.unwrap_err().to_string()
}

#[test]
fn only_the_needed_files_are_fetched_into_the_shared_layout() {
    let hub = Hub::start(Faults::default());
    let model = hub.resolve().unwrap();

    assert_eq!(model.name(), MODEL);
    assert_eq!(
        model.list(),
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        hub.check_contents(&model, file);
    }
    assert_eq!(fs::read_to_string(hub.cached("refs/main")).unwrap(), COMMIT);
    let blob = hub
        .cached("blobs")
        .join(sha256(&hub.files["model.safetensors"]));
    assert_eq!(fs::metadata(&blob).unwrap().len(), WEIGHTS as u64);
    assert!(
        hub.cached("blobs")
            .join(git_blob(&hub.files["config.json"]))
            .exists()
    );
    let left_over = fs::read_dir(hub.cached("blobs")).unwrap().flatten();
    assert_eq!(left_over.count(), 3, "nothing incomplete is left");
}

#[cfg(unix)]
#[test]
fn snapshots_are_relative_links_to_blobs() {
    let hub = Hub::start(Faults::default());
    hub.resolve().unwrap();
    let link = fs::read_link(hub.cached("snapshots").join(COMMIT).join("config.json")).unwrap();
    let expected = PathBuf::from("../../blobs").join(git_blob(&hub.files["config.json"]));
    assert_eq!(link, expected);
}

#[test]
fn without_weights_only_the_small_files_are_fetched() {
    let hub = Hub::start(Faults::default());
    let options = ResolveOptions {
        without_weights: true,
        ..hub.options()
    };
    let files = resolve(MODEL, &options).unwrap();
    assert_eq!(files.list(), ["config.json", "tokenizer.json"]);
    let offline = ResolveOptions {
        offline: true,
        ..options
    };
    assert!(resolve(MODEL, &offline).is_ok());
    let with_weights = ResolveOptions {
        without_weights: false,
        ..offline
    };
    assert!(matches!(
        resolve(MODEL, &with_weights),
        Err(Error::Offline { .. })
    ));
}

#[test]
fn a_cached_model_costs_one_request() {
    let hub = Hub::start(Faults::default());
    hub.resolve().unwrap();
    let before = hub.server.requests().len();
    let model = hub.resolve().unwrap();
    hub.check_contents(&model, "model.safetensors");
    assert_eq!(hub.server.requests().len() - before, 1);
    assert_eq!(hub.store.requests().len(), 1);
}

#[test]
fn what_another_tool_downloaded_is_found_without_a_network() {
    let hub = Hub::start(Faults::default());
    let snapshot = hub.cached("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(hub.cached("refs")).unwrap();
    fs::write(hub.cached("refs/main"), format!("{COMMIT}\n")).unwrap();
    fs::write(snapshot.join("config.json"), b"{}").unwrap();
    fs::write(snapshot.join("model.safetensors"), b"x").unwrap();

    let offline = ResolveOptions {
        offline: true,
        ..hub.options()
    };
    assert_eq!(
        &*resolve(MODEL, &offline)
            .unwrap()
            .open("model.safetensors")
            .unwrap(),
        b"x"
    );
    let by_commit = ResolveOptions {
        revision: Some(COMMIT.to_owned()),
        ..offline
    };
    assert!(resolve(MODEL, &by_commit).is_ok());
    assert_eq!(hub.server.requests().len(), 0);
}

#[test]
fn offline_without_the_model_says_so() {
    let hub = Hub::start(Faults::default());
    let offline = ResolveOptions {
        offline: true,
        ..hub.options()
    };
    let message = message(resolve(MODEL, &offline));
    assert!(
        message.contains("HF_HUB_OFFLINE") && message.contains(MODEL),
        "{message}"
    );
    assert_eq!(hub.server.requests().len(), 0);
}

#[test]
fn offline_with_a_shard_missing_is_not_taken_for_the_model() {
    let hub = Hub::start(Faults::default());
    let snapshot = hub.cached("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("config.json"), b"{}").unwrap();
    fs::write(snapshot.join("model-00001-of-00002.safetensors"), b"x").unwrap();
    let revision = Some(COMMIT.to_owned());
    let offline = ResolveOptions {
        offline: true,
        revision,
        ..hub.options()
    };
    assert!(matches!(
        resolve(MODEL, &offline),
        Err(Error::Offline { .. })
    ));
}

#[test]
fn without_a_network_the_cache_is_used_or_the_way_out_is_told() {
    let hub = Hub::start(Faults::default());
    let away = ResolveOptions {
        endpoint: Server::address_of_nobody(),
        ..hub.options()
    };
    let message = message(resolve(MODEL, &away));
    for mention in [MODEL, &away.endpoint, "HTTPS_PROXY", "HF_ENDPOINT"] {
        assert!(message.contains(mention), "{message}");
    }
    hub.resolve().unwrap();
    hub.check_contents(&resolve(MODEL, &away).unwrap(), "model.safetensors");
}

#[test]
fn the_token_goes_to_the_hub_and_not_to_its_store() {
    let hub = Hub::start(Faults {
        private: true,
        ..Faults::default()
    });
    let options = ResolveOptions {
        token: Some(Token::new("secret")),
        ..hub.options()
    };
    hub.check_contents(&resolve(MODEL, &options).unwrap(), "model.safetensors");
    let sent = |server: &Server| {
        server
            .requests()
            .iter()
            .filter(|request| request.header("authorization").is_some())
            .count()
    };
    assert_eq!(sent(&hub.server), hub.server.requests().len());
    assert_eq!((sent(&hub.store), hub.store.requests().len()), (0, 1));
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
    let breaks = 3;
    let hub = Hub::start(Faults {
        broken_transfers: breaks.into(),
        ..Faults::default()
    });
    hub.check_contents(&hub.resolve().unwrap(), "model.safetensors");

    let starts: Vec<Option<usize>> = hub
        .store
        .requests()
        .iter()
        .map(Request::range_start)
        .collect();
    let quarter = WEIGHTS / 4;
    assert_eq!(
        starts,
        [None, Some(quarter), Some(2 * quarter), Some(3 * quarter)]
    );
}

#[test]
fn a_download_of_a_stopped_program_goes_on_where_it_stopped() {
    let hub = Hub::start(Faults::default());
    let contents = &hub.files["model.safetensors"];
    fs::create_dir_all(hub.cached("blobs")).unwrap();
    let partial = hub
        .cached("blobs")
        .join(format!("{}.incomplete", sha256(contents)));
    fs::write(&partial, &contents[..1000]).unwrap();

    hub.check_contents(&hub.resolve().unwrap(), "model.safetensors");
    assert_eq!(hub.store.requests()[0].range_start(), Some(1000));
    assert!(!partial.exists());
}

#[test]
fn a_partial_file_with_wrong_bytes_is_fetched_anew() {
    let hub = Hub::start(Faults::default());
    let contents = &hub.files["model.safetensors"];
    fs::create_dir_all(hub.cached("blobs")).unwrap();
    let partial = hub
        .cached("blobs")
        .join(format!("{}.incomplete", sha256(contents)));
    fs::write(&partial, [7; 1000]).unwrap();
    hub.check_contents(&hub.resolve().unwrap(), "model.safetensors");
}

#[test]
fn a_partial_file_that_is_too_long_is_fetched_anew() {
    let hub = Hub::start(Faults::default());
    let contents = &hub.files["model.safetensors"];
    fs::create_dir_all(hub.cached("blobs")).unwrap();
    let partial = hub
        .cached("blobs")
        .join(format!("{}.incomplete", sha256(contents)));
    fs::write(&partial, vec![7; WEIGHTS + 1]).unwrap();
    hub.check_contents(&hub.resolve().unwrap(), "model.safetensors");
}

#[test]
fn a_transfer_that_always_breaks_off_ends_in_an_error() {
    let empty_answers = Server::start(|_| Reply::new(200, weights(1000)).cut_after(0));
    let hub = Hub::start(Faults::default());
    let options = ResolveOptions {
        endpoint: empty_answers.address().to_owned(),
        ..hub.options()
    };
    assert!(matches!(
        resolve(MODEL, &options),
        Err(Error::Unreachable { .. })
    ));
    assert_eq!(
        empty_answers.requests().len(),
        4,
        "the first attempt and three retries"
    );
}

#[test]
fn damaged_contents_are_never_kept() {
    let hub = Hub::start(Faults {
        damaged: true,
        ..Faults::default()
    });
    let message = message(hub.resolve());
    assert!(
        message.contains("`model.safetensors`") && message.contains("hash"),
        "{message}"
    );
    assert_eq!(
        hub.store.requests().len(),
        2,
        "tried a second time from the start"
    );
    let digest = sha256(&hub.files["model.safetensors"]);
    assert!(!hub.cached("blobs").join(&digest).exists());
    assert!(
        !hub.cached("blobs")
            .join(format!("{digest}.incomplete"))
            .exists()
    );
    assert!(
        !hub.cached("refs/main").exists(),
        "half a model is not remembered"
    );
}

#[test]
fn a_hub_that_sends_no_tags_is_good_enough() {
    let hub = Hub::start(Faults {
        without_tags: true,
        ..Faults::default()
    });
    let model = hub.resolve().unwrap();
    hub.check_contents(&model, "config.json");
    hub.check_contents(&model, "model.safetensors");
}

#[test]
fn too_many_requests_are_waited_out_or_explained() {
    let hub = Hub::start(Faults {
        throttled_listings: 2.into(),
        ..Faults::default()
    });
    assert!(hub.resolve().is_ok());
    let hub = Hub::start(Faults {
        throttled_listings: 100.into(),
        ..Faults::default()
    });
    let message = message(hub.resolve());
    assert!(
        message.contains("too many requests") && message.contains("HF_TOKEN"),
        "{message}"
    );
}

#[test]
fn a_wrong_name_is_explained() {
    let hub = Hub::start(Faults::default());
    let message = message(resolve("org/typo", &hub.options()));
    for mention in [
        "org/typo",
        hub.server.address(),
        "spelling",
        "HF_TOKEN",
        "--hf-token",
    ] {
        assert!(message.contains(mention), "{message}");
    }
}

#[test]
fn a_gated_model_is_explained() {
    let hub = Hub::start(Faults {
        gated: true,
        ..Faults::default()
    });
    let page = format!("{}/{MODEL}", hub.server.address());
    let message = message(hub.resolve());
    for mention in [page.as_str(), "accept its terms", "HF_TOKEN", "--hf-token"] {
        assert!(message.contains(mention), "{message}");
    }
}

#[test]
fn a_refused_token_is_told_from_a_missing_one() {
    let hub = Hub::start(Faults {
        needs_token: true,
        ..Faults::default()
    });
    assert!(matches!(hub.resolve(), Err(Error::ModelNotFound { .. })));
    let options = ResolveOptions {
        token: Some(Token::new("expired")),
        ..hub.options()
    };
    let message = message(resolve(MODEL, &options));
    assert!(
        message.contains("refuses access") && !message.contains("expired"),
        "{message}"
    );
}

#[test]
fn revisions_are_asked_for_and_remembered() {
    let hub = Hub::start(Faults::default());
    for revision in ["v1", "refs/pr/1"] {
        let options = ResolveOptions {
            revision: Some(revision.to_owned()),
            ..hub.options()
        };
        resolve(MODEL, &options).unwrap();
        let reference = hub.cached("refs").join(revision);
        assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    }
}

#[test]
fn an_unknown_revision_is_explained() {
    let hub = Hub::start(Faults::default());
    for revision in ["v9", "../../../evil", "/evil", ""] {
        let options = ResolveOptions {
            revision: Some(revision.to_owned()),
            ..hub.options()
        };
        let message = message(resolve(MODEL, &options));
        assert!(
            message.contains(&format!("no revision `{revision}`")),
            "{message}"
        );
    }
}

#[test]
fn a_repository_without_weights_is_explained_before_anything_is_fetched() {
    let files = BTreeMap::from([("config.json", b"{}".to_vec()), ("model.onnx", weights(10))]);
    let hub = Hub::with_files(Faults::default(), files);
    let message = message(hub.resolve());
    assert!(message.contains("config.json, model.onnx"), "{message}");
    assert_eq!(hub.server.requests().len(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_explained() {
    let hub = Hub::start(Faults::default());
    fs::create_dir_all(hub.cached("blobs")).unwrap();
    let digest = sha256(&hub.files["model.safetensors"]);
    let partial = hub.cached("blobs").join(format!("{digest}.incomplete"));
    std::os::unix::fs::symlink("/dev/full", partial).unwrap();
    let message = message(hub.resolve());
    assert!(
        message.contains("no space left") && message.contains("HF_HOME"),
        "{message}"
    );
}

#[test]
fn shards_travel_at_the_same_time() {
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let files = BTreeMap::from([
        ("config.json", b"{}".to_vec()),
        (shards[0], weights(5000)),
        (shards[1], weights(6000)),
    ]);
    let hub = Hub::with_files(Faults::default(), files.clone());

    // A store that answers nobody before both shards have been asked for.
    let waiting = Arc::new((Mutex::new(0), Condvar::new()));
    let store = Server::start(move |request| {
        let (count, changed) = &*waiting;
        *count.lock().unwrap() += 1;
        changed.notify_all();
        let limit = Duration::from_secs(20);
        let arrived = count.lock().unwrap();
        let (_arrived, timeout) = changed
            .wait_timeout_while(arrived, limit, |n| *n < 2)
            .unwrap();
        if timeout.timed_out() {
            return Reply::new(500, "the shards came one after the other");
        }
        Reply::contents(request, &files[request.target.trim_start_matches('/')])
    });
    let (files, faults) = (hub.files.clone(), Faults::default());
    let address = store.address().to_owned();
    let server = Server::start(move |request| hub_reply(request, &files, &faults, &address));
    let endpoint = server.address().to_owned();
    let options = ResolveOptions {
        endpoint,
        retries: 0,
        ..hub.options()
    };
    let model = resolve(MODEL, &options).unwrap();
    for shard in shards {
        hub.check_contents(&model, shard);
    }
}

#[test]
fn two_starts_at_the_same_time_fetch_once() {
    let hub = Hub::start(Faults::default());
    std::thread::scope(|scope| {
        let both: Vec<_> = (0..2).map(|_| scope.spawn(|| hub.resolve())).collect();
        for start in both {
            hub.check_contents(&start.join().unwrap().unwrap(), "model.safetensors");
        }
    });
    assert_eq!(hub.store.requests().len(), 1);
}

#[test]
fn progress_is_told_for_every_file() {
    let hub = Hub::start(Faults::default());
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let options = ResolveOptions {
        progress: Some(Arc::new(move |event: &Progress<'_>| {
            let line = match event {
                Progress::Started {
                    file,
                    size,
                    present,
                } => {
                    format!("{file} starts {size:?} {present}")
                }
                Progress::Advanced { file, present } if *present < WEIGHTS as u64 / 2 => {
                    format!("{file} grows")
                }
                Progress::Advanced { file, present } => format!("{file} has {present}"),
                Progress::Finished { file } => format!("{file} is done"),
            };
            sink.lock().unwrap().push(line);
        })),
        ..hub.options()
    };
    resolve(MODEL, &options).unwrap();
    let events = events.lock().unwrap();
    for expected in [
        format!("model.safetensors starts Some({WEIGHTS}) 0"),
        format!("model.safetensors has {WEIGHTS}"),
        "model.safetensors is done".to_owned(),
        "config.json is done".to_owned(),
        "tokenizer.json is done".to_owned(),
    ] {
        assert!(
            events.contains(&expected),
            "{expected} is not in {events:?}"
        );
    }
}

#[test]
fn one_of_several_gguf_models_is_fetched_by_its_type() {
    let files = BTreeMap::from([
        ("README.md", b"# Tiny".to_vec()),
        ("tiny-Q4_K_M.gguf", weights(100)),
        ("tiny-Q8_0.gguf", weights(200)),
    ]);
    let hub = Hub::with_files(Faults::default(), files);
    let choose = |choice: &str, offline| {
        let options = ResolveOptions {
            offline,
            ..hub.options()
        };
        resolve(&format!("{MODEL}{choice}"), &options)
    };
    let small = choose(":Q4_K_M", false).unwrap();
    assert_eq!(small.name(), format!("{MODEL}:Q4_K_M"));
    assert_eq!(small.list(), ["tiny-Q4_K_M.gguf"]);
    hub.check_contents(&small, "tiny-Q4_K_M.gguf");
    assert!(matches!(choose(":Q8_0", true), Err(Error::Offline { .. })));
    // The other one lies beside it from now on.
    let large = choose(":q8_0", false).unwrap();
    assert_eq!(large.list(), ["tiny-Q8_0.gguf"]);
    assert_eq!(choose(":Q4_K_M", true).unwrap().list(), small.list());
    for choice in ["", ":Q2_K"] {
        let message = message(choose(choice, false));
        assert!(
            message.contains("there are: tiny-Q4_K_M, tiny-Q8_0"),
            "{message}"
        );
    }
}
