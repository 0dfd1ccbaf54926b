//! Writes scheduling decisions to a file while the engine runs, for replays without a model.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use vllm_scheduler::record::StepRecorder;
use vllm_scheduler::{Result as SchedulerResult, SchedulerConfig};

use crate::error::{Error, Result};

/// A recording that may not exist: a file that cannot be written ends the recording, never a
/// request.
pub(crate) struct Recorder(Option<StepRecorder<BufWriter<File>>>);

impl Recorder {
    /// Records to `path`, or nothing without one.
    pub(crate) fn open(path: Option<&Path>, config: &SchedulerConfig) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let file = File::create(path)
            .map_err(|error| Error::Setup(format!("{}: {error}", path.display())))?;
        StepRecorder::new(BufWriter::new(file), config)
            .map(|r| Self(Some(r)))
            .map_err(Error::setup)
    }

    pub(crate) fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// Hands the recorder to `write` if there is one.
    pub(crate) fn note(
        &mut self,
        write: impl FnOnce(&mut StepRecorder<BufWriter<File>>) -> SchedulerResult<()>,
    ) {
        if let Some(recorder) = &mut self.0
            && let Err(error) = write(recorder)
        {
            tracing::error!(%error, "the recording of steps ends here");
            self.0 = None;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.note(StepRecorder::flush);
    }
}
