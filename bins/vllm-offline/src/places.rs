//! Where the data set and the output are: files, or objects for which local copies stand in.

use std::path::{Path, PathBuf};

use vllm_batch::Error;

use crate::args::DataArgs;
#[cfg(feature = "object-store")]
use crate::objects as remote;

/// Local files for what the flags name.
pub(crate) struct Places {
    /// The file to read, and what to call it.
    pub(crate) input: Option<(PathBuf, String)>,
    /// The file to write.
    pub(crate) output: Option<PathBuf>,
    remote: remote::Objects,
}

impl Places {
    /// Finds the files; a data set that is an object is fetched.
    pub(crate) fn find(args: &DataArgs) -> Result<Self, Error> {
        let mut remote = remote::Objects::of(args)?;
        // Before the data set, which may take long to fetch.
        let output = remote
            .stand_in_for_output()?
            .or_else(|| args.output.clone());
        let input = args.input.as_ref().map(|path| {
            let local = remote.fetch_input()?.unwrap_or_else(|| path.clone());
            Ok::<_, Error>((local, path.display().to_string()))
        });
        Ok(Self {
            input: input.transpose()?,
            output,
            remote,
        })
    }

    /// Takes the finished output, `written`, to its place, which locally is `output`.
    pub(crate) fn deliver(&self, written: &Path, output: &Path) -> Result<(), Error> {
        self.remote.deliver(written, output)
    }

    /// Removes what only an unfinished job needs.
    pub(crate) fn clean_up(&self) {
        self.remote.clean_up();
    }
}

/// What stands in for object stores in builds without them.
#[cfg(not(feature = "object-store"))]
mod remote {
    use super::{DataArgs, Error, Path, PathBuf};

    pub(super) struct Objects;

    impl Objects {
        pub(super) fn of(args: &DataArgs) -> Result<Self, Error> {
            let names = [&args.input, &args.output];
            let mut names = names
                .into_iter()
                .flatten()
                .map(|path| path.to_string_lossy());
            match names.find(|name| name.contains("://")) {
                Some(name) => Err(Error::Input(format!(
                    "{name}: this build reaches no object stores; give a file"
                ))),
                None => Ok(Self),
            }
        }

        pub(super) fn fetch_input(&mut self) -> Result<Option<PathBuf>, Error> {
            Ok(None)
        }

        pub(super) fn stand_in_for_output(&self) -> Result<Option<PathBuf>, Error> {
            Ok(None)
        }

        pub(super) fn deliver(&self, written: &Path, output: &Path) -> Result<(), Error> {
            vllm_batch::move_into_place(written, output)
        }

        pub(super) fn clean_up(&self) {}
    }
}
