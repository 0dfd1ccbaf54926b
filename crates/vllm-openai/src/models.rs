//! The model list and the version answer.

use serde::Serialize;

use crate::error::{ErrorResponse, Result};
use crate::ids::random_id;

/// The vLLM release whose protocol is spoken.
pub const PROTOCOL_VERSION: &str = "0.32.0";

/// `GET /version`.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    /// The release of the protocol.
    pub version: &'static str,
}

impl Default for Version {
    fn default() -> Self {
        Self {
            version: PROTOCOL_VERSION,
        }
    }
}

/// `GET /v1/models`.
#[derive(Debug, Clone, Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

#[derive(Debug, Clone, Serialize)]
struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    parent: Option<String>,
    max_model_len: Option<usize>,
    permission: [ModelPermission; 1],
}

#[derive(Debug, Clone, Serialize)]
struct ModelPermission {
    id: String,
    object: &'static str,
    created: u64,
    allow_create_engine: bool,
    allow_sampling: bool,
    allow_logprobs: bool,
    allow_search_indices: bool,
    allow_view: bool,
    allow_fine_tuning: bool,
    organization: &'static str,
    group: Option<String>,
    is_blocking: bool,
}

impl ModelList {
    /// One card per served name, in order. `root` is the model as the server was told to load it;
    /// `created` is the present time in seconds.
    pub fn new(served_names: &[String], root: &str, max_model_len: usize, created: u64) -> Self {
        let card = |name: &String| ModelCard {
            id: name.clone(),
            object: "model",
            created,
            owned_by: "vllm",
            root: root.to_owned(),
            parent: None,
            max_model_len: Some(max_model_len),
            permission: [ModelPermission {
                id: format!("modelperm-{}", random_id()),
                object: "model_permission",
                created,
                allow_create_engine: false,
                allow_sampling: true,
                allow_logprobs: true,
                allow_search_indices: false,
                allow_view: true,
                allow_fine_tuning: false,
                organization: "*",
                group: None,
                is_blocking: false,
            }],
        };
        Self {
            object: "list",
            data: served_names.iter().map(card).collect(),
        }
    }
}

/// Checks the `model` field of a request. A missing, null or empty name means the served model.
///
/// # Errors
/// 404 when the name is not among `served_names`.
pub fn check_model(requested: Option<&str>, served_names: &[String]) -> Result<()> {
    match requested {
        Some(name) if !name.is_empty() && !served_names.iter().any(|served| served == name) => {
            Err(ErrorResponse::unknown_model(name, served_names))
        }
        _ => Ok(()),
    }
}
