//! Recordings of what a scheduler was told and what it decided, and their replay.
//!
//! A recording is a text of JSON lines, each an object with the key `event`. The first line,
//! `start`, holds the version of the format and the configuration; the others follow in the order
//! of the calls:
//!
//! | `event` | told | decided |
//! |---|---|---|
//! | `start` | `format`, `config` | |
//! | `add` | `request` | `refused`: the message, or null |
//! | `abort` | `request_id` | `known` |
//! | `schedule` | | `plan` |
//! | `apply` | `sampled`: pairs of request id and `{"token": id}` or `"failed"` | `updates` |
//! | `reset_prefix_cache` | | `done` |
//!
//! The scheduler is deterministic, so [`replay`] needs no model: it repeats the calls and compares
//! the decisions. Recordings contain the tokens of the prompts; treat them as the prompts
//! themselves.
//!
//! ```
//! use vllm_scheduler::record::{StepRecorder, replay};
//! # use vllm_scheduler::{NewRequest, Policy, Scheduler, SchedulerConfig, StepPlan};
//! # fn main() -> vllm_scheduler::Result<()> {
//! # let config = SchedulerConfig { max_num_batched_tokens: 4, max_num_seqs: 2, max_model_len: 64,
//! #     enable_chunked_prefill: true, long_prefill_token_threshold: 0, policy: Policy::Fcfs,
//! #     num_blocks: 17, block_size: 4, enable_prefix_caching: true, watermark: 0.0 };
//! let mut scheduler = Scheduler::new(config)?;
//! let mut recorder = StepRecorder::new(Vec::new(), scheduler.config())?;
//!
//! let request = NewRequest::new(1, vec![5, 6, 7], 2);
//! let result = scheduler.add_request(request.clone());
//! recorder.add(&request, &result)?;
//! let mut plan = StepPlan::default();
//! scheduler.schedule(&mut plan);
//! recorder.schedule(&plan)?;
//!
//! let recording = recorder.into_inner()?;
//! assert_eq!(replay(recording.as_slice())?.difference, None);
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::fmt;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Error, NewRequest, RequestId, Result, Sampled, Scheduler, SchedulerConfig, SequenceUpdate,
    StepPlan,
};

/// Version of the format, in the first line of each recording.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Start {
        format: u32,
        config: Cow<'a, SchedulerConfig>,
    },
    Add {
        request: Cow<'a, NewRequest>,
        refused: Option<String>,
    },
    Abort {
        request_id: RequestId,
        known: bool,
    },
    Schedule {
        plan: Cow<'a, StepPlan>,
    },
    Apply {
        sampled: Cow<'a, [(RequestId, Sampled)]>,
        updates: Cow<'a, [SequenceUpdate]>,
    },
    ResetPrefixCache {
        done: bool,
    },
}

/// Writes a recording: one call after each call to the scheduler.
#[derive(Debug)]
pub struct StepRecorder<W: Write> {
    writer: W,
}

impl<W: Write> StepRecorder<W> {
    /// Starts a recording of a fresh scheduler. Give a buffered writer.
    ///
    /// # Errors
    /// When `writer` fails, as all methods.
    pub fn new(writer: W, config: &SchedulerConfig) -> Result<Self> {
        let mut recorder = Self { writer };
        recorder.write(&Event::Start {
            format: FORMAT,
            config: Cow::Borrowed(config),
        })?;
        Ok(recorder)
    }

    /// Records [`Scheduler::add_request`] and its result.
    pub fn add(&mut self, request: &NewRequest, result: &Result<()>) -> Result<()> {
        let refused = result.as_ref().err().map(ToString::to_string);
        self.write(&Event::Add {
            request: Cow::Borrowed(request),
            refused,
        })
    }

    /// Records [`Scheduler::abort`] and its result.
    pub fn abort(&mut self, request_id: RequestId, known: bool) -> Result<()> {
        self.write(&Event::Abort { request_id, known })
    }

    /// Records [`Scheduler::schedule`] and the plan it wrote.
    pub fn schedule(&mut self, plan: &StepPlan) -> Result<()> {
        self.write(&Event::Schedule {
            plan: Cow::Borrowed(plan),
        })
    }

    /// Records [`Scheduler::apply`] of the plan recorded last, and the updates it wrote.
    pub fn apply(
        &mut self,
        sampled: &[(RequestId, Sampled)],
        updates: &[SequenceUpdate],
    ) -> Result<()> {
        let (sampled, updates) = (Cow::Borrowed(sampled), Cow::Borrowed(updates));
        self.write(&Event::Apply { sampled, updates })
    }

    /// Records [`Scheduler::reset_prefix_cache`] and its result.
    pub fn reset_prefix_cache(&mut self, done: bool) -> Result<()> {
        self.write(&Event::ResetPrefixCache { done })
    }

    /// Flushes the writer.
    pub fn flush(&mut self) -> Result<()> {
        Ok(self.writer.flush()?)
    }

    /// Flushes the writer and gives it back.
    pub fn into_inner(mut self) -> Result<W> {
        self.flush()?;
        Ok(self.writer)
    }

    fn write(&mut self, event: &Event<'_>) -> Result<()> {
        serde_json::to_writer(&mut self.writer, event).map_err(std::io::Error::from)?;
        Ok(self.writer.write_all(b"\n")?)
    }
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// Calls repeated, up to the difference if there is one.
    pub num_events: usize,
    /// The first decision that came out otherwise than recorded.
    pub difference: Option<Difference>,
}

/// A decision that came out otherwise than recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Line of the recording, counted from 1.
    pub line: usize,
    /// Place within the line, as in `plan.sequences[3].num_tokens`.
    pub path: String,
    /// The recorded value there; null if there is none.
    pub recorded: Value,
    /// The value now; null if there is none.
    pub replayed: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            path,
            recorded,
            replayed,
        } = self;
        write!(
            f,
            "line {line}: {path} was {recorded} and is now {replayed}"
        )
    }
}

/// Runs a recording through a fresh scheduler and stops at the first difference.
///
/// # Errors
/// When the recording cannot be read; the message names the line.
pub fn replay(recording: impl BufRead) -> Result<Replay> {
    let mut lines = recording.lines().zip(1..);
    let mut scheduler = match lines.next() {
        Some((text, line)) => start(&text?, line)?,
        None => return Err(refuse(1, "the recording is empty")),
    };
    let mut plan = StepPlan::default();
    let mut num_events = 0;
    for (text, line) in lines {
        let text = text?;
        let recorded: Value = parse(&text, line)?;
        let event = serde_json::from_value(recorded.clone()).map_err(|e| refuse(line, e))?;
        let replayed = repeat(event, &mut scheduler, &mut plan).map_err(|e| refuse(line, e))?;
        let replayed = serde_json::to_value(replayed).map_err(|e| refuse(line, e))?;
        num_events += 1;
        if let Some((path, recorded, replayed)) = first_difference("", &recorded, &replayed) {
            let difference = Some(Difference {
                line,
                path,
                recorded,
                replayed,
            });
            return Ok(Replay {
                num_events,
                difference,
            });
        }
    }
    Ok(Replay {
        num_events,
        difference: None,
    })
}

fn start(text: &str, line: usize) -> Result<Scheduler> {
    match parse(text, line)? {
        Event::Start {
            format: FORMAT,
            config,
        } => Scheduler::new(config.into_owned()),
        Event::Start { format, .. } => Err(refuse(
            line,
            format!("the format is {format}, and this version reads {FORMAT}"),
        )),
        _ => Err(refuse(line, "the first event is not `start`")),
    }
}

/// Repeats the call of an event; the event with what was decided now.
fn repeat(
    event: Event<'_>,
    scheduler: &mut Scheduler,
    plan: &mut StepPlan,
) -> std::result::Result<Event<'static>, &'static str> {
    Ok(match event {
        Event::Start { .. } => return Err("`start` in the middle of a recording"),
        Event::Add { request, .. } => {
            let request = request.into_owned();
            let result = scheduler.add_request(request.clone());
            let refused = result.err().map(|error| error.to_string());
            Event::Add {
                request: Cow::Owned(request),
                refused,
            }
        }
        Event::Abort { request_id, .. } => Event::Abort {
            request_id,
            known: scheduler.abort(request_id),
        },
        Event::Schedule { .. } => {
            scheduler.schedule(plan);
            Event::Schedule {
                plan: Cow::Owned(plan.clone()),
            }
        }
        Event::Apply { sampled, .. } => {
            let mut updates = Vec::new();
            scheduler.apply(plan, &sampled, &mut updates);
            Event::Apply {
                sampled: Cow::Owned(sampled.into_owned()),
                updates: updates.into(),
            }
        }
        Event::ResetPrefixCache { .. } => Event::ResetPrefixCache {
            done: scheduler.reset_prefix_cache(),
        },
    })
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, line: usize) -> Result<T> {
    serde_json::from_str(text).map_err(|error| refuse(line, error))
}

fn refuse(line: usize, message: impl ToString) -> Error {
    Error::Recording {
        line,
        message: message.to_string(),
    }
}

/// Place and values of the first difference, depth first.
fn first_difference(path: &str, old: &Value, new: &Value) -> Option<(String, Value, Value)> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|&key| !old.contains_key(key));
            old.keys().chain(added).find_map(|key| {
                let dot = if path.is_empty() { "" } else { "." };
                let (old, new) = (value_or_null(old.get(key)), value_or_null(new.get(key)));
                first_difference(&format!("{path}{dot}{key}"), old, new)
            })
        }
        (Value::Array(old), Value::Array(new)) => (0..old.len().max(new.len())).find_map(|index| {
            let (old, new) = (value_or_null(old.get(index)), value_or_null(new.get(index)));
            first_difference(&format!("{path}[{index}]"), old, new)
        }),
        _ => (old != new).then(|| (path.to_owned(), old.clone(), new.clone())),
    }
}

fn value_or_null(value: Option<&Value>) -> &Value {
    value.unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests;
