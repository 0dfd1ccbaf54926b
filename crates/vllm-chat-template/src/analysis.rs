//! What the parsed template says about the messages it wants.

use minijinja::machinery::ast;

/// The form in which a template reads message contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFormat {
    /// A plain string.
    String,
    /// A list of parts such as `{"type": "text", "text": "Hi"}`.
    OpenAi,
}

/// Finds out whether the template loops over the parts of a message's content.
pub(crate) fn content_format(_template: &ast::Stmt<'_>) -> ContentFormat {
    ContentFormat::String
}
