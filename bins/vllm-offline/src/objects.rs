//! Objects in stores: fetched before the job, sent after it, with the journal on a local disk.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use vllm_batch::Error;
use vllm_storage::ObjectUrl;

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
        let bar = transfer_bar("fetching");
        let fetched = url.fetch(&self.folder, |have, size| show(&bar, have, size));
        bar.finish_and_clear();
        self.fetched = Some(fetched.map_err(text)?);
        Ok(self.fetched.clone())
    }

    /// The local file beside which the journal of a remote output lies.
    pub(crate) fn stand_in_for_output(&self) -> Result<Option<PathBuf>, Error> {
        let Some(url) = &self.output else {
            return Ok(None);
        };
        let file_error = |source| Error::File {
            path: self.folder.clone(),
            source,
        };
        std::fs::create_dir_all(&self.folder).map_err(file_error)?;
        eprintln!("The journal is kept in {}.", self.folder.display());
        Ok(Some(self.folder.join(url.file_name())))
    }

    pub(crate) fn deliver(&self, written: &Path, output: &Path) -> Result<(), Error> {
        let Some(url) = &self.output else {
            return vllm_batch::move_into_place(written, output);
        };
        let bar = transfer_bar("sending");
        let sent = url.upload(written, |sent, size| show(&bar, sent, size));
        bar.finish_and_clear();
        sent.map_err(|error| Error::Output(std::io::Error::other(error)))
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

fn object(path: Option<&Path>) -> Result<Option<ObjectUrl>, Error> {
    let address = path
        .and_then(Path::to_str)
        .filter(|text| ObjectUrl::is_one(text));
    address.map(str::parse).transpose().map_err(text)
}

/// The same for every run of a job, so that a run finds what the one before has left. Jobs whose
/// results go to a stream cannot be continued and get a folder of their own.
fn job_name(args: &DataArgs) -> String {
    const LONGEST: usize = 200;
    let named = match &args.output {
        Some(path) if path == Path::new("-") => None,
        Some(path) if object(Some(path.as_path())).is_ok_and(|found| found.is_some()) => {
            Some(path.clone())
        }
        Some(path) => Some(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        None => None,
    };
    let name = named.map_or_else(
        || format!("stream-{}", std::process::id()),
        |path| path.to_string_lossy().into_owned(),
    );
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

fn show(bar: &ProgressBar, done: u64, size: u64) {
    bar.set_length(size);
    bar.set_position(done);
}

/// Hidden where standard error is no terminal.
fn transfer_bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_message(what);
    let template = "{msg} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
