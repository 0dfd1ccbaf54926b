//! What can go wrong with a chat template.

/// Result of the operations of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A template that cannot be parsed, or a conversation that it cannot render.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The template source is not valid Jinja.
    #[error("the chat template is not valid Jinja: {0}")]
    Syntax(String),
    /// The template called `raise_exception`; the text is exactly what it said.
    #[error("{0}")]
    Raised(String),
    /// The template did something that Jinja does not allow, such as reading an attribute of an
    /// undefined value.
    #[error("the chat template failed to render: {0}")]
    Render(String),
    /// The template ran longer than any honest template does.
    #[error(
        "the chat template was stopped after too much work; it loops or recurses without end, \
         or the conversation is far larger than any context"
    )]
    OutOfFuel,
    /// A template argument would replace a variable that belongs to the request.
    #[error("the template argument `{0}` is reserved; remove it from `chat_template_kwargs`")]
    ReservedArgument(String),
    /// A message is not a JSON object.
    #[error("a chat message must be a JSON object with a `role`, got {0}")]
    MessageNotAnObject(String),
    /// `continue_final_message` and `add_generation_prompt` exclude one another.
    #[error(
        "`continue_final_message` and `add_generation_prompt` cannot be combined: the first \
         continues the last message, the second starts a new one"
    )]
    ContinueAndGenerate,
    /// `continue_final_message` was asked for, but there is nothing to continue.
    #[error("`continue_final_message` is set but {0}")]
    NothingToContinue(&'static str),
    /// The template dropped or rewrote the message that should be continued.
    #[error(
        "`continue_final_message` is set but the final message does not appear in the rendered \
         chat; the template removes or changes parts of it. Final message: {final_message}\n\
         Rendered chat:\n{rendered}"
    )]
    FinalMessageLost {
        /// The text that should have been continued, trimmed.
        final_message: String,
        /// What the template made of the conversation.
        rendered: String,
    },
}

/// Marks the engine error of a `raise_exception` call, so that its text survives untouched.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RaisedByTemplate(pub(crate) String);

impl From<minijinja::Error> for Error {
    fn from(error: minijinja::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(current) = cause {
            if let Some(raised) = current.downcast_ref::<RaisedByTemplate>() {
                return Error::Raised(raised.0.clone());
            }
            if let Some(engine) = current.downcast_ref::<minijinja::Error>() {
                match engine.kind() {
                    minijinja::ErrorKind::SyntaxError => return Error::Syntax(error.to_string()),
                    minijinja::ErrorKind::OutOfFuel => return Error::OutOfFuel,
                    _ => {}
                }
            }
            cause = current.source();
        }
        Error::Render(error.to_string())
    }
}
