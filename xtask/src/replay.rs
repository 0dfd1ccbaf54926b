//! Runs a recording of scheduling steps again, without a model.

use std::fs::File;
use std::io::BufReader;

use vllm_scheduler::record::replay;

use crate::Result;

/// Replays the recording that `arguments` names.
///
/// # Errors
/// The file cannot be read, or the scheduler now decides otherwise: then the first difference.
pub(crate) fn replay_file(arguments: &[String]) -> Result<()> {
    let [path] = arguments else {
        return Err("usage: cargo xtask replay FILE".to_owned());
    };
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let outcome = replay(BufReader::new(file)).map_err(|error| format!("{path}: {error}"))?;
    match outcome.difference {
        None => {
            eprintln!("{} events replayed, no difference", outcome.num_events);
            Ok(())
        }
        Some(difference) => Err(format!("{path}: {difference}")),
    }
}
