//! `continue_final_message`: the rendered chat ends where the last message ends.
//!
//! As `transformers` does it: a tag goes behind the text of the last message, the chat is
//! rendered, and everything from the tag on is cut away.

use serde_json::Value as Json;

use crate::error::{Error, Result};

/// The trailing blank tells whether the template trims the text: if it does, the tag arrives
/// without it.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Puts the tag behind the text of the last message and returns that text as it was.
///
/// # Errors
/// If there is no such text, or the template source never mentions message contents.
pub(crate) fn tag_final_message(messages: &mut [Json], template_source: &str) -> Result<String> {
    let Some(last) = messages.last_mut() else {
        return Err(Error::NothingToContinue("the conversation is empty"));
    };
    let content = match last.get_mut("content") {
        None | Some(Json::Null) => {
            return Err(Error::NothingToContinue(
                "the final message has no `content`",
            ));
        }
        Some(content) => content,
    };
    if !template_source.contains("content") {
        return Err(Error::NothingToContinue(
            "the chat template does not use `content`",
        ));
    }
    let text = match content {
        Json::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        text => Some(text),
    };
    match text {
        Some(Json::String(text)) => {
            let original = text.clone();
            text.push_str(TAG);
            Ok(original)
        }
        _ => Err(Error::NothingToContinue(
            "the final message has no text to continue",
        )),
    }
}

/// Cuts the rendered chat after the text of the final message.
///
/// # Errors
/// [`Error::FinalMessageLost`] if the template dropped or changed that text.
pub(crate) fn cut_at_tag(mut rendered: String, final_message: &str) -> Result<String> {
    let final_message = final_message.trim();
    let found = rendered
        .rfind(TAG.trim_end())
        .filter(|_| rendered.contains(final_message));
    let Some(at) = found else {
        return Err(Error::FinalMessageLost {
            final_message: final_message.to_owned(),
            rendered,
        });
    };
    let keeps_blanks = rendered[at..].starts_with(TAG);
    rendered.truncate(at);
    if !keeps_blanks {
        rendered.truncate(rendered.trim_end().len());
    }
    Ok(rendered)
}
