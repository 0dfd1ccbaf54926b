//! Where to look for a model and how.

/// How [`resolve`](crate::resolve) finds a model.
#[derive(Debug, Clone, Default)]
pub struct ResolveOptions {
    /// Branch, tag or commit of a hub model; `None` means the hub's default branch.
    pub revision: Option<String>,
}

impl ResolveOptions {
    /// The options that the environment asks for.
    #[must_use]
    pub fn from_env() -> Self {
        Self::default()
    }
}
