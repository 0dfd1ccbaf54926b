//! What the two hubs have in common: a client, options, and the explanation of failures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::download::write_error;
use crate::http::{Client, Failure};
use crate::name::ModelName;
use crate::options::{HubKind, ResolveOptions};
use crate::select::Selection;
use crate::{Error, ModelFiles, ProgressCallback, Result};

/// One model on one hub, and where its files are kept.
pub(crate) struct Request<'a> {
    pub(crate) model: &'a ModelName,
    /// What the name of the wanted GGUF model ends in.
    pub(crate) gguf: Option<&'a str>,
    pub(crate) options: &'a ResolveOptions,
    pub(crate) client: Client,
    pub(crate) cache: &'a Path,
}

/// One revision of a model on a hub, and its place in that hub's cache.
pub(crate) trait Repository {
    /// What the hub says that there is.
    type Listing;

    /// The folder in the cache, if a model can be loaded from it.
    fn cached(&self) -> Option<PathBuf>;

    /// Asks the hub.
    fn list(&self) -> Result<Self::Listing, Failure>;

    /// Brings the needed files of a listing into the cache, and tells the folder.
    fn download(&self, listing: &Self::Listing) -> Result<PathBuf>;
}

/// The environment variables that the messages about a hub name.
pub(crate) struct VariableNames {
    pub(crate) token: &'static str,
    pub(crate) endpoint: &'static str,
    pub(crate) cache: &'static str,
}

impl<'a> Request<'a> {
    pub(crate) fn new(
        model: &'a ModelName,
        gguf: Option<&'a str>,
        options: &'a ResolveOptions,
    ) -> Result<Self> {
        let cache_variable = variable_names(options.hub).cache;
        let cache = options
            .cache
            .as_deref()
            .ok_or(Error::NoCacheFolder { cache_variable })?;
        Ok(Self {
            model,
            gguf,
            options,
            client: Client::new(options),
            cache,
        })
    }

    /// The folder of a revision with all needed files in it: as the hub has them now, or as they are
    /// in the cache when the hub must not or cannot be asked.
    pub(crate) fn snapshot(&self, repository: &impl Repository, revision: &str) -> Result<PathBuf> {
        if self.options.offline {
            return repository.cached().ok_or_else(|| self.not_cached());
        }
        match repository.list() {
            Ok(listing) => repository.download(&listing),
            Err(failure) if failure.hub_is_away() => {
                let Some(folder) = repository.cached() else {
                    return Err(self.explain(failure, revision));
                };
                tracing::warn!(
                    "{} cannot be asked about `{}`; using the copy in {}",
                    self.endpoint(),
                    self.model,
                    folder.display()
                );
                Ok(folder)
            }
            Err(failure) => Err(self.explain(failure, revision)),
        }
    }

    pub(crate) fn endpoint(&self) -> &'a str {
        &self.options.endpoint
    }

    pub(crate) fn progress(&self) -> Option<&'a ProgressCallback> {
        self.options.progress.as_deref()
    }

    pub(crate) fn variables(&self) -> VariableNames {
        variable_names(self.options.hub)
    }

    /// Which of a repository's files are to be fetched; a model without weights is an error.
    pub(crate) fn select(&self, files: &[String]) -> Result<Selection> {
        // A GGUF model that is named holds what the small files are wanted for.
        if self.options.without_weights && self.gguf.is_none() {
            return Ok(Selection::without_weights(files));
        }
        let selection = self.selection_with_weights(files);
        if !selection.weights.is_empty() {
            return Ok(selection);
        }
        let models = Selection::gguf_models(files);
        if models.is_empty() && self.gguf.is_none() {
            return Err(Error::NoWeights {
                model: self.model.to_string(),
                available: files.join(", "),
            });
        }
        Err(Error::GgufChoice {
            model: self.model.to_string(),
            available: match models.is_empty() {
                true => "none".to_owned(),
                false => models.join(", "),
            },
        })
    }

    /// Whether the folder at `snapshot` has what is asked for, so far as its file names tell.
    pub(crate) fn is_complete(&self, snapshot: &Path) -> bool {
        let Ok(files) = ModelFiles::folder(snapshot) else {
            return false;
        };
        if self.options.without_weights && self.gguf.is_none() {
            !Selection::without_weights(files.list()).small.is_empty()
        } else {
            self.selection_with_weights(files.list()).is_complete()
        }
    }

    /// The GGUF files that are meant among those of a model's folder, if GGUF files are.
    pub(crate) fn gguf_weights(&self, files: &[String]) -> Option<Vec<String>> {
        let weights = self.selection_with_weights(files).weights;
        let is_gguf = weights.first()?.ends_with(".gguf");
        is_gguf.then_some(weights)
    }

    fn selection_with_weights(&self, files: &[String]) -> Selection {
        if self.gguf.is_some() {
            return Selection::of_gguf(files, self.gguf);
        }
        let selection = match self.options.pytorch_weights {
            true => Selection::of_pytorch(files),
            false => Selection::of(files),
        };
        match selection.weights.is_empty() && !self.options.pytorch_weights {
            true => Selection::of_gguf(files, None),
            false => selection,
        }
    }

    /// What `failure` means for the user who asked for this model.
    pub(crate) fn explain(&self, failure: Failure, revision: &str) -> Error {
        let model = self.model.to_string();
        let endpoint = self.endpoint().to_owned();
        let VariableNames {
            token: token_variable,
            endpoint: endpoint_variable,
            ..
        } = self.variables();
        let unreachable = |reason| Error::Unreachable {
            model: model.clone(),
            endpoint: endpoint.clone(),
            reason,
            endpoint_variable,
        };
        let (status, code) = match failure {
            Failure::Local(error) => return error,
            Failure::Unreachable(reason) | Failure::Broken(reason) => return unreachable(reason),
            Failure::Status { status, code, .. } => (status, code.unwrap_or_default()),
        };
        match (status, code.as_str()) {
            (_, "GatedRepo") => Error::Gated {
                model,
                endpoint,
                token_variable,
            },
            (_, "RevisionNotFound") => Error::RevisionNotFound {
                model,
                revision: revision.to_owned(),
                endpoint,
            },
            (_, "RepoNotFound") | (404, _) => Error::ModelNotFound {
                model,
                endpoint,
                token_variable,
            },
            // Without a token the hub answers so for models that do not exist, to hide private ones.
            (401, _) if self.options.token.is_none() => Error::ModelNotFound {
                model,
                endpoint,
                token_variable,
            },
            (401 | 403, _) => Error::TokenRefused {
                model,
                endpoint,
                token_variable,
            },
            (429, _) => Error::RateLimited {
                endpoint,
                token_variable,
            },
            (status, _) => unreachable(format!("it answers with status {status}")),
        }
    }

    /// The error for a hub that sends what no hub should.
    pub(crate) fn nonsense(&self, what: &str) -> Error {
        self.explain(
            Failure::Broken(format!("its answer has no usable {what}")),
            "",
        )
    }

    /// The error for a model that must come from the cache and is not whole there.
    pub(crate) fn not_cached(&self) -> Error {
        Error::Offline {
            model: self.model.to_string(),
            cache: self.cache.to_path_buf(),
        }
    }

    pub(crate) fn create_folder(&self, folder: &Path) -> Result<()> {
        let cache_variable = self.variables().cache;
        fs::create_dir_all(folder).map_err(|source| write_error(folder, source, cache_variable))
    }

    /// Takes the lock at `path` for this process, as the hubs' own tools do around a download; it is
    /// held until the file is dropped.
    pub(crate) fn lock(&self, path: PathBuf) -> Result<File> {
        if let Some(folder) = path.parent() {
            self.create_folder(folder)?;
        }
        let file = File::create(&path)
            .map_err(|source| write_error(&path, source, self.variables().cache))?;
        file.lock()
            .map_err(|source| Error::io("lock", &path, source))?;
        Ok(file)
    }
}

fn variable_names(hub: HubKind) -> VariableNames {
    match hub {
        HubKind::HuggingFace => VariableNames {
            token: "HF_TOKEN",
            endpoint: "HF_ENDPOINT",
            cache: "HF_HOME",
        },
        HubKind::ModelScope => VariableNames {
            token: "MODELSCOPE_API_TOKEN",
            endpoint: "MODELSCOPE_ENDPOINT",
            cache: "MODELSCOPE_CACHE",
        },
    }
}
