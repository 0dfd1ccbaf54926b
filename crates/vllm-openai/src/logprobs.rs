//! Logprobs objects of both endpoints.

use indexmap::IndexMap;
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use vllm_sampling::{DecodedLogprob, PositionLogprobs};

/// What stands for minus infinity, which JSON cannot express.
const IMPOSSIBLE: f64 = -9999.0;

pub(crate) fn finite(logprob: f32) -> f64 {
    f64::from(logprob).max(IMPOSSIBLE)
}

pub(crate) fn token_text(entry: &DecodedLogprob, as_token_id: bool) -> String {
    match as_token_id {
        true => format!("token_id:{}", entry.token_id),
        false => entry.decoded_token.clone(),
    }
}

/// `logprobs` of a completion choice: four lists with one entry per token.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct CompletionLogprobs {
    text_offset: Vec<usize>,
    token_logprobs: Vec<Option<f64>>,
    tokens: Vec<String>,
    top_logprobs: Vec<Option<TokenTable>>,
}

/// Token texts with their logprobs, in order; a text that occurs twice keeps its first place and
/// its last value.
#[derive(Debug, Clone, Default, PartialEq)]
struct TokenTable(IndexMap<String, f64>);

impl Serialize for TokenTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl CompletionLogprobs {
    /// Logprobs of `positions`; `None` stands for the first prompt token, of which nothing is
    /// known but its text in `first_token`. At most `count` likeliest tokens are shown beside the
    /// chosen one (-1: all). Offsets begin at `initial_offset` characters.
    pub(crate) fn new<'a>(
        positions: impl Iterator<Item = Option<&'a PositionLogprobs>>,
        first_token: &str,
        count: i64,
        as_token_id: bool,
        initial_offset: usize,
    ) -> Self {
        let mut result = Self::default();
        let mut offset = initial_offset;
        // The chosen token stands first whether or not it is one of the likeliest.
        let shown = usize::try_from(count).map_or(usize::MAX, |count| count + 1);
        for position in positions {
            let token = match position.and_then(|entries| entries.first()) {
                Some(chosen) => {
                    let entries = position.into_iter().flatten().take(shown);
                    let table = entries
                        .map(|entry| (token_text(entry, as_token_id), finite(entry.logprob)))
                        .collect();
                    result.token_logprobs.push(Some(finite(chosen.logprob)));
                    result.top_logprobs.push(Some(TokenTable(table)));
                    token_text(chosen, as_token_id)
                }
                None => {
                    result.token_logprobs.push(None);
                    result.top_logprobs.push(None);
                    first_token.to_owned()
                }
            };
            result.text_offset.push(offset);
            offset += token.chars().count();
            result.tokens.push(token);
        }
        result
    }
}

/// `logprobs` of a chat choice: one entry per token.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatTokenLogprobs>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ChatTokenLogprobs {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
    top_logprobs: Vec<ChatTokenLogprob>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ChatTokenLogprob {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Logprobs of `positions`, each with `count` likeliest tokens (-1: all), the chosen one
    /// first and counted.
    pub(crate) fn new(positions: &[PositionLogprobs], count: i64, as_token_id: bool) -> Self {
        let shown = usize::try_from(count).unwrap_or(usize::MAX);
        let describe = |entry: &DecodedLogprob| {
            let token = token_text(entry, as_token_id);
            ChatTokenLogprob {
                bytes: token.clone().into_bytes(),
                token,
                logprob: finite(entry.logprob),
            }
        };
        let content = positions.iter().filter_map(|entries| {
            let chosen = entries.first()?;
            Some(ChatTokenLogprobs {
                token: token_text(chosen, as_token_id),
                logprob: finite(chosen.logprob),
                bytes: chosen.decoded_token.clone().into_bytes(),
                top_logprobs: entries.iter().take(shown).map(describe).collect(),
            })
        });
        Self {
            content: content.collect(),
        }
    }
}

/// `prompt_logprobs`: per prompt token null or an object from token ids to details.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PromptLogprobs(Vec<Option<PositionLogprobs>>);

impl PromptLogprobs {
    /// The engine's prompt logprobs for the wire.
    pub(crate) fn new(positions: &[Option<PositionLogprobs>]) -> Self {
        Self(positions.to_vec())
    }
}

#[derive(Serialize)]
struct PromptTokenLogprob<'a> {
    logprob: f64,
    rank: u32,
    decoded_token: &'a str,
}

struct Position<'a>(&'a [DecodedLogprob]);

impl Serialize for Position<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for entry in self.0 {
            let details = PromptTokenLogprob {
                logprob: finite(entry.logprob),
                rank: entry.rank,
                decoded_token: &entry.decoded_token,
            };
            map.serialize_entry(&entry.token_id.to_string(), &details)?;
        }
        map.end()
    }
}

impl Serialize for PromptLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for position in &self.0 {
            list.serialize_element(&position.as_deref().map(Position))?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(entries: &[(&str, f32)]) -> PositionLogprobs {
        let entry = |(index, (token, logprob)): (usize, &(&str, f32))| DecodedLogprob {
            token_id: index as u32,
            logprob: *logprob,
            rank: index as u32 + 1,
            decoded_token: (*token).to_owned(),
        };
        entries.iter().enumerate().map(entry).collect()
    }

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).expect("logprobs serialize")
    }

    #[test]
    fn completions_show_the_chosen_token_and_the_likeliest() {
        let first = position(&[("é", -0.5), ("b", -1.0), ("c", -2.0)]);
        let second = position(&[("b", f32::NEG_INFINITY), ("b", -1.0)]);
        let positions = [None, Some(&first), Some(&second)];
        let check = |count, as_ids, expected: &str| {
            let logprobs = CompletionLogprobs::new(positions.into_iter(), "<s>", count, as_ids, 2);
            assert_eq!(json(&logprobs), expected);
        };
        check(
            1,
            false,
            r#"{"text_offset":[2,5,6],"token_logprobs":[null,-0.5,-9999.0],"tokens":["<s>","é","b"],"top_logprobs":[null,{"é":-0.5,"b":-1.0},{"b":-1.0}]}"#,
        );
        check(
            0,
            true,
            r#"{"text_offset":[2,5,15],"token_logprobs":[null,-0.5,-9999.0],"tokens":["<s>","token_id:0","token_id:0"],"top_logprobs":[null,{"token_id:0":-0.5},{"token_id:0":-9999.0}]}"#,
        );
    }

    #[test]
    fn chat_counts_the_chosen_token() {
        let positions = [position(&[("é", -0.5), ("b", -1.0), ("c", -2.0)])];
        let check = |count, as_ids, expected: &str| {
            assert_eq!(
                json(&ChatLogprobs::new(&positions, count, as_ids)),
                expected
            );
        };
        check(
            0,
            false,
            r#"{"content":[{"token":"é","logprob":-0.5,"bytes":[195,169],"top_logprobs":[]}]}"#,
        );
        check(
            1,
            true,
            r#"{"content":[{"token":"token_id:0","logprob":-0.5,"bytes":[195,169],"top_logprobs":[{"token":"token_id:0","logprob":-0.5,"bytes":[116,111,107,101,110,95,105,100,58,48]}]}]}"#,
        );
        assert_eq!(
            ChatLogprobs::new(&positions, -1, false).content[0]
                .top_logprobs
                .len(),
            3
        );
    }

    #[test]
    fn prompt_logprobs_are_keyed_by_token_id() {
        let positions = PromptLogprobs::new(&[None, Some(position(&[("a", -1.0)]))]);
        assert_eq!(
            json(&positions),
            r#"[null,{"0":{"logprob":-1.0,"rank":1,"decoded_token":"a"}}]"#
        );
    }
}
