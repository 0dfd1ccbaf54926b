//! What a model may be called on a hub.

use std::fmt;

/// The longest name that hubs accept, in bytes.
const LONGEST_NAME: usize = 96;

/// A model's name on a hub: `organization/name`, or a bare `name` for the oldest models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelName(String);

impl ModelName {
    /// The name in `text`, or `None` when no hub could have a model of that name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let shape_is_right =
            parts.clone().count() <= 2 && parts.all(is_name_part) && text.len() <= LONGEST_NAME;
        shape_is_right.then(|| Self(text.to_owned()))
    }

    /// The name as it was typed.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one folder name, as both hubs' tools write it: `organization--name`.
    pub(crate) fn folder_name(&self) -> String {
        self.0.replace('/', "--")
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn is_name_part(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty()
        && part.chars().all(allowed)
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, is_name: bool) {
        assert_eq!(ModelName::parse(text).is_some(), is_name, "{text:?}");
    }

    #[test]
    fn names_of_hub_models_are_told_from_paths() {
        check("facebook/opt-125m", true);
        check("Qwen/Qwen3-0.6B", true);
        check("gpt2", true);
        check("", false);
        check("a/b/c", false);
        check("/models/opt", false);
        check("./opt", false);
        check("../opt", false);
        check("org/", false);
        check("org/na me", false);
        check("org/a--b", false);
        check("org/a..b", false);
        check("org/.hidden", false);
        check("C:\\models", false);
        check(&format!("org/{}", "x".repeat(100)), false);
    }

    #[test]
    fn folder_name_joins_the_parts() {
        let name = ModelName::parse("facebook/opt-125m").unwrap();
        assert_eq!(name.folder_name(), "facebook--opt-125m");
    }
}
