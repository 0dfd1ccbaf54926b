//! Where to look for a model and how.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ProgressCallback;

const HUGGING_FACE_ENDPOINT: &str = "https://huggingface.co";
const MODELSCOPE_ENDPOINT: &str = "https://www.modelscope.cn";

/// Which hub a name that is not a path belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HubKind {
    /// <https://huggingface.co> or a mirror of it.
    #[default]
    HuggingFace,
    /// <https://www.modelscope.cn>, <https://www.modelscope.ai> or a mirror.
    ModelScope,
}

/// A secret that `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps an access token; surrounding white space is dropped.
    pub fn new(token: impl AsRef<str>) -> Self {
        Self(token.as_ref().trim().to_owned())
    }

    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(***)")
    }
}

/// How [`resolve`](crate::resolve) finds a model.
///
/// [`ResolveOptions::from_env`] reads the variables that the hubs' own tools read; the fields can be
/// changed afterwards. `Default` reads nothing and names no cache folder, which only suffices for
/// models on disk.
#[derive(Clone)]
pub struct ResolveOptions {
    /// The hub to ask.
    pub hub: HubKind,
    /// Branch, tag or commit of a hub model; `None` means the hub's default branch.
    pub revision: Option<String>,
    /// Access token for private and gated models.
    pub token: Option<Token>,
    /// Base address of the hub, without a slash at the end.
    pub endpoint: String,
    /// The folder that downloads are kept in; `None` where there is no home folder.
    pub cache: Option<PathBuf>,
    /// Use only what the cache has; ask no hub.
    pub offline: bool,
    /// Leave the weights where they are; for a tokenizer that is not with its model.
    pub without_weights: bool,
    /// Take PyTorch weights even where there are safetensors.
    pub pytorch_weights: bool,
    /// How many files are fetched at the same time.
    pub parallel_files: usize,
    /// How often a request or a broken download is tried again without any progress.
    pub retries: u32,
    /// How long to wait before the first retry; doubles with each further one.
    pub retry_delay: Duration,
    /// Told about each file's progress, from the downloading threads.
    pub progress: Option<Arc<ProgressCallback>>,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self {
            hub: HubKind::HuggingFace,
            revision: None,
            token: None,
            endpoint: HUGGING_FACE_ENDPOINT.to_owned(),
            cache: None,
            offline: false,
            without_weights: false,
            pytorch_weights: false,
            parallel_files: 8,
            retries: 5,
            retry_delay: Duration::from_millis(500),
            progress: None,
        }
    }
}

impl fmt::Debug for ResolveOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ResolveOptions")
            .field("hub", &self.hub)
            .field("revision", &self.revision)
            .field("token", &self.token)
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl ResolveOptions {
    /// The options that the environment asks for, by the variables of the hubs' Python tools.
    ///
    /// `VLLM_USE_MODELSCOPE` chooses the hub. For Hugging Face: `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`,
    /// `HF_HOME`, `XDG_CACHE_HOME`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`. For ModelScope:
    /// `MODELSCOPE_ENDPOINT`, `MODELSCOPE_DOMAIN`, `MODELSCOPE_API_TOKEN`, `MODELSCOPE_CACHE`.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`ResolveOptions::from_env`], with `variable` in the place of the environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variables = Variables(&variable);
        if variables.is_true("VLLM_USE_MODELSCOPE") {
            variables.modelscope()
        } else {
            variables.hugging_face()
        }
    }
}

/// The environment, with empty values taken as unset.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn hugging_face(&self) -> ResolveOptions {
        let home = self
            .path("HF_HOME")
            .or_else(|| Some(self.path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(self.user_home()?.join(".cache/huggingface")));
        let cache = self
            .path("HF_HUB_CACHE")
            .or_else(|| self.path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home.as_ref()?.join("hub")));
        let token = if self.is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            let file = self
                .path("HF_TOKEN_PATH")
                .or_else(|| Some(home?.join("token")));
            let from_file = || fs::read_to_string(file?).ok().map(Token::new);
            self.get("HF_TOKEN").map(Token::new).or_else(from_file)
        };
        let endpoint = self
            .get("HF_ENDPOINT")
            .unwrap_or_else(|| HUGGING_FACE_ENDPOINT.to_owned());
        ResolveOptions {
            hub: HubKind::HuggingFace,
            token: token.filter(|token| !token.secret().is_empty()),
            endpoint: without_trailing_slash(endpoint),
            cache,
            offline: self.is_true("HF_HUB_OFFLINE") || self.is_true("TRANSFORMERS_OFFLINE"),
            ..ResolveOptions::default()
        }
    }

    fn modelscope(&self) -> ResolveOptions {
        let endpoint = self
            .get("MODELSCOPE_ENDPOINT")
            .or_else(|| self.get("MODELSCOPE_DOMAIN"))
            .unwrap_or_else(|| MODELSCOPE_ENDPOINT.to_owned());
        let endpoint = if endpoint.contains("://") {
            endpoint
        } else {
            format!("https://{endpoint}")
        };
        let cache = self
            .path("MODELSCOPE_CACHE")
            .or_else(|| Some(self.user_home()?.join(".cache/modelscope")));
        ResolveOptions {
            hub: HubKind::ModelScope,
            token: self.get("MODELSCOPE_API_TOKEN").map(Token::new),
            endpoint: without_trailing_slash(endpoint),
            cache,
            offline: self.is_true("HF_HUB_OFFLINE"),
            ..ResolveOptions::default()
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn is_true(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default().to_ascii_lowercase();
        matches!(value.as_str(), "1" | "true" | "yes" | "on")
    }

    /// A path variable, with a leading `~` taken as the user's home.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.get(name)?;
        match value.strip_prefix('~') {
            Some(rest) => Some(self.user_home()?.join(rest.trim_start_matches(['/', '\\']))),
            None => Some(PathBuf::from(value)),
        }
    }

    fn user_home(&self) -> Option<PathBuf> {
        self.get("HOME")
            .or_else(|| self.get("USERPROFILE"))
            .map(PathBuf::from)
    }
}

fn without_trailing_slash(address: String) -> String {
    address.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> ResolveOptions {
        ResolveOptions::from_variables(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn check_cache(variables: &[(&str, &str)], cache: &str) {
        assert_eq!(
            options(variables).cache,
            Some(PathBuf::from(cache)),
            "{variables:?}"
        );
    }

    #[test]
    fn caches_are_where_the_python_tools_have_them() {
        check_cache(&[("HOME", "/u")], "/u/.cache/huggingface/hub");
        check_cache(
            &[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")],
            "/x/huggingface/hub",
        );
        check_cache(&[("HOME", "/u"), ("HF_HOME", "/h")], "/h/hub");
        check_cache(&[("HOME", "/u"), ("HF_HOME", "~/h")], "/u/h/hub");
        check_cache(
            &[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")],
            "/old",
        );
        check_cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c");
        check_cache(
            &[("HOME", "/u"), ("VLLM_USE_MODELSCOPE", "True")],
            "/u/.cache/modelscope",
        );
        check_cache(
            &[("MODELSCOPE_CACHE", "/m"), ("VLLM_USE_MODELSCOPE", "1")],
            "/m",
        );
        assert_eq!(options(&[]).cache, None);
    }

    fn check_endpoint(variables: &[(&str, &str)], endpoint: &str) {
        assert_eq!(options(variables).endpoint, endpoint, "{variables:?}");
    }

    #[test]
    fn endpoints_can_be_overridden() {
        check_endpoint(&[], "https://huggingface.co");
        check_endpoint(
            &[("HF_ENDPOINT", "https://mirror.example/")],
            "https://mirror.example",
        );
        check_endpoint(&[("HF_ENDPOINT", "")], "https://huggingface.co");
        check_endpoint(
            &[("VLLM_USE_MODELSCOPE", "True")],
            "https://www.modelscope.cn",
        );
        check_endpoint(
            &[
                ("VLLM_USE_MODELSCOPE", "True"),
                ("MODELSCOPE_DOMAIN", "www.modelscope.ai"),
            ],
            "https://www.modelscope.ai",
        );
        check_endpoint(
            &[
                ("VLLM_USE_MODELSCOPE", "True"),
                ("MODELSCOPE_ENDPOINT", "http://localhost:1"),
            ],
            "http://localhost:1",
        );
    }

    #[test]
    fn offline_is_any_of_the_words_for_yes() {
        for (value, offline) in [
            ("1", true),
            ("ON", true),
            ("True", true),
            ("0", false),
            ("", false),
        ] {
            assert_eq!(
                options(&[("HF_HUB_OFFLINE", value)]).offline,
                offline,
                "{value:?}"
            );
        }
    }

    #[test]
    fn the_token_comes_from_the_variable_or_a_file_and_is_not_printed() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        fs::write(folder.path().join("token"), "from-file\n").unwrap();

        let from_file = options(&[("HF_HOME", home)]);
        assert_eq!(from_file.token, Some(Token::new("from-file")));
        let from_variable = options(&[("HF_HOME", home), ("HF_TOKEN", "from-variable")]);
        assert_eq!(from_variable.token, Some(Token::new("from-variable")));
        assert!(!format!("{from_variable:?}").contains("from-variable"));
        let disabled = options(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]);
        assert_eq!(disabled.token, None);
    }
}
