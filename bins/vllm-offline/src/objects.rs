//! Objects in stores: fetched before the job, sent after it, with the journal on a local disk.

use std::path::{Path, PathBuf};

use indicatif::HumanBytes;
use vllm_batch::Error;
use vllm_storage::ObjectUrl;
use vllm_terminal::ByteBar;

use crate::args::DataArgs;

/// The objects that the flags name, and the folder where their local copies are.
pub(crate) struct Objects {
    input: Option<ObjectUrl>,
    output: Option<ObjectUrl>,
    folder: PathBuf,
    fetched: Option<PathBuf>,
}

impl Objects {
    pub(crate) fn of(args: &DataArgs) -> Result<Self, Error> {
        let found = Self {
            input: object(args.input.as_deref())?,
            output: object(args.output.as_deref())?,
            folder: PathBuf::new(),
            fetched: None,
        };
        if found.input.is_none() && found.output.is_none() {
            return Ok(found);
        }
        let work_dir = args.work_dir.clone().or_else(default_work_dir);
        let work_dir = work_dir.ok_or_else(|| {
            let message = "no home folder to keep the journal and copies of objects in; give one \
                           with --work-dir";
            Error::Input(message.to_owned())
        })?;
        Ok(Self {
            folder: work_dir.join(job_name(args)),
            ..found
        })
    }

    /// Brings the data set here, if it is an object.
    pub(crate) fn fetch_input(&mut self) -> Result<Option<PathBuf>, Error> {
        let Some(url) = &self.input else {
            return Ok(None);
        };
        let (fetched, bytes) = with_bar("Fetching", |show| url.fetch(&self.folder, show));
        let fetched = fetched.map_err(text)?;
        match bytes {
            0 => eprintln!("{url} was fetched before."),
            bytes => eprintln!("Fetched {url}, {}.", HumanBytes(bytes)),
        }
        self.fetched = Some(fetched.clone());
        Ok(Some(fetched))
    }

    /// Makes sure that the output will be taken: the time to learn otherwise is not when all rows
    /// are done. Gives the local file beside which its journal lies.
    pub(crate) fn stand_in_for_output(&self) -> Result<Option<PathBuf>, Error> {
        let Some(url) = &self.output else {
            return Ok(None);
        };
        url.check_writable().map_err(text)?;
        let file_error = |source| Error::File {
            path: self.folder.clone(),
            source,
        };
        std::fs::create_dir_all(&self.folder).map_err(file_error)?;
        eprintln!("The journal is kept in {}.", self.folder.display());
        Ok(Some(self.folder.join(url.file_name())))
    }

    /// Sends the output, or moves it where it is a file.
    pub(crate) fn deliver(&self, written: &Path, output: &Path) -> Result<(), Error> {
        let Some(url) = &self.output else {
            return vllm_batch::move_into_place(written, output);
        };
        let (sent, bytes) = with_bar("Sending", |show| url.upload(written, show));
        sent.map_err(|error| {
            Error::Output(std::io::Error::other(format!(
                "{error}; they are in {}, and the same command sends them again",
                written.display()
            )))
        })?;
        eprintln!("Sent {} to {url}.", HumanBytes(bytes));
        Ok(())
    }

    /// Removes the copy of the data set, and the folder if nothing is left in it. What cannot be
    /// removed does no harm.
    pub(crate) fn clean_up(&self) {
        if let Some(fetched) = &self.fetched {
            let _ = std::fs::remove_file(fetched);
        }
        if self.input.is_some() || self.output.is_some() {
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}

/// Runs a transfer, shows it on a terminal, and tells how many bytes there are in all.
fn with_bar<T>(
    what: &'static str,
    transfer: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T,
) -> (T, u64) {
    let bar = ByteBar::on_terminal(what);
    let mut bytes = 0;
    let outcome = transfer(&mut |done, total| {
        bytes = total;
        if let Some(bar) = &bar {
            bar.show(done, total);
        }
    });
    (outcome, bytes)
}

fn object(path: Option<&Path>) -> Result<Option<ObjectUrl>, Error> {
    let address = path
        .and_then(Path::to_str)
        .filter(|text| ObjectUrl::is_one(text));
    address.map(str::parse).transpose().map_err(text)
}

/// The same for every run of a job, so that a run finds what the one before has left.
fn job_name(args: &DataArgs) -> String {
    const LONGEST: usize = 200;
    let is_object = |path: &Path| path.to_str().is_some_and(ObjectUrl::is_one);
    // Results that go to a stream have no journal, so only the data set is kept.
    let file = args.output.as_ref().filter(|path| *path != Path::new("-"));
    let named = match file.or(args.input.as_ref()) {
        Some(path) if is_object(path) => path.clone(),
        Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
        None => PathBuf::new(),
    };
    let name = named.to_string_lossy();
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || ".-".contains(c) {
            c
        } else {
            '_'
        }
    };
    // Ends of addresses tell more than beginnings.
    let skipped = name.chars().count().saturating_sub(LONGEST);
    name.chars().skip(skipped).map(plain).collect()
}

/// Below vLLM's own folder for what can be made again.
fn default_work_dir() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = variable("VLLM_CACHE_ROOT").map(PathBuf::from).or_else(|| {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("vllm"))
    });
    cache.map(|cache| cache.join("batch"))
}

fn text(error: vllm_storage::Error) -> Error {
    Error::Input(error.to_string())
}
