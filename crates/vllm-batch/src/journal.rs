//! Results on disk as they finish, so that a job that is cut off loses nothing.
//!
//! Beside the output lies a journal: a line that says which job it belongs to, then one line for
//! each finished row. Every line begins with the CRC-32 of its rest, so a line that was torn by
//! a crash is recognised; it and what follows are dropped and done again. When all rows are done
//! the output is written from the journal under another name and renamed into place.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::done::DoneRows;
use crate::error::{Error, Result};
use crate::job::Progress;
use crate::line::{EntryHead, read_entry, seal};
use crate::order::InOrder;
use crate::parquet::{ParquetWriter, TableSchema};
use crate::result::RowResult;

const MAGIC: &str = "{\"vllm-offline-journal\":1,";
/// Longest time that a finished row may be lost to a power failure. (A killed process loses
/// none: the system has its lines.)
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// In which order rows come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputOrder {
    /// As in the data set.
    Input,
    /// As they finished.
    Finished,
}

/// What makes a job the same one: members by name, compared one by one.
pub type JobIdentity = Map<String, Value>;

/// A journal that no other process can use, not read yet.
#[derive(Debug)]
pub struct LockedJournal {
    output: PathBuf,
    path: PathBuf,
    file: File,
}

impl LockedJournal {
    /// Takes hold of the journal of an output file, before there is anything to do.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be opened.
    pub fn open(output: &Path) -> Result<Self> {
        // A link is followed, so that the file it names is replaced and not the link.
        let output = output.canonicalize().unwrap_or_else(|_| output.to_owned());
        let path = with_suffix(&output, ".partial");
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(Error::at(&path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(Error::File { path, source }),
            }
            // The holder before may have finished and removed the file in between.
            if is_at(&file, &path) {
                return Ok(Self { output, path, file });
            }
        }
    }

    /// Reads what has been done of `job`, whose first row is `first_row`, or begins it. With
    /// `restart` nothing has been done.
    ///
    /// # Errors
    /// The journal is of another job, or cannot be read or written.
    pub fn resume(self, job: &JobIdentity, first_row: u64, restart: bool) -> Result<Journal> {
        let Self { output, path, file } = self;
        let mut journal = Journal {
            output,
            done: DoneRows::starting_at(first_row),
            progress: Progress::default(),
            created: 0,
            entries_at: 0,
            last_sync: Instant::now(),
            path,
            file,
        };
        match journal.read_header(restart)? {
            Some(header) => {
                journal.compare(job, &header)?;
                journal.read_entries()?;
            }
            None => journal.begin(job)?,
        }
        Ok(journal)
    }
}

/// The journal of a running job.
#[derive(Debug)]
pub struct Journal {
    output: PathBuf,
    path: PathBuf,
    file: File,
    done: DoneRows,
    progress: Progress,
    created: u64,
    /// Where the first entry begins.
    entries_at: u64,
    last_sync: Instant,
}

impl Journal {
    /// The rows that are done.
    pub fn done(&self) -> &DoneRows {
        &self.done
    }

    /// How far the job is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Unix time at which the job was begun.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// Adds a finished row.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&mut self, result: &RowResult) -> Result<()> {
        let head = EntryHead {
            index: result.index,
            checksum: result.checksum,
            failed: result.error.is_some(),
            tokens: result.tokens,
        };
        let line = seal(&format!("{head} {}", result.to_json_line()));
        // In one piece, so that a killed process leaves a line or nothing.
        self.file
            .write_all(line.as_bytes())
            .map_err(Error::at(&self.path))?;
        self.done.insert(result.index, result.checksum);
        self.progress.add(result.tokens, head.failed);
        if self.last_sync.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&mut self) -> Result<()> {
        self.last_sync = Instant::now();
        self.file.sync_data().map_err(Error::at(&self.path))
    }

    /// Turns the journal of a job whose rows are all done into its output: a Parquet file where
    /// its name ends so, else JSON lines.
    ///
    /// # Errors
    /// The output cannot be written; the journal stays.
    pub fn finish(self, order: OutputOrder) -> Result<()> {
        self.finish_with(order, move_into_place)
    }

    /// Like [`Journal::finish`]; `deliver` takes the written file, whole and on the disk, to the
    /// output's place.
    ///
    /// # Errors
    /// The output cannot be written or delivered; the journal stays.
    pub fn finish_with(
        mut self,
        order: OutputOrder,
        deliver: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<()> {
        self.sync()?;
        let unfinished = with_suffix(&self.output, ".tmp");
        let file = File::create(&unfinished).map_err(Error::at(&unfinished))?;
        let mut out = BufWriter::with_capacity(1 << 18, file);
        match self.output.extension().is_some_and(|end| end == "parquet") {
            true => self.write_table(order, &mut out)?,
            false => self.each_row(order, |json| {
                out.write_all(json.as_bytes())?;
                out.write_all(b"\n")
            })?,
        }
        let written = out.into_inner().map_err(|error| error.into_error());
        written
            .and_then(|file| file.sync_all())
            .map_err(Error::at(&unfinished))?;
        deliver(&unfinished, &self.output)?;
        // Where it was delivered elsewhere it is still here.
        if unfinished.exists() {
            std::fs::remove_file(&unfinished).map_err(Error::at(&unfinished))?;
        }
        std::fs::remove_file(&self.path).map_err(Error::at(&self.path))
    }

    /// Writes a Parquet file: one pass finds the types of the columns, another writes them.
    fn write_table(&self, order: OutputOrder, out: &mut BufWriter<File>) -> Result<()> {
        let mut schema = TableSchema::default();
        self.each_row(order, |json| {
            schema.add(&serde_json::from_str(json)?);
            Ok(())
        })?;
        let mut table = ParquetWriter::new(out, schema)?;
        self.each_row(order, |json| {
            table.add(&serde_json::from_str(json)?, json.len())
        })?;
        table.finish()?;
        Ok(())
    }

    /// Gives the line of every row.
    fn each_row(
        &self,
        order: OutputOrder,
        mut emit: impl FnMut(&str) -> std::io::Result<()>,
    ) -> Result<()> {
        let mut reader = self.entries()?;
        let mut in_order = InOrder::starting_at(self.done.first());
        let mut line = Vec::new();
        let mut num_rows = 0;
        let mut emit = |json: &str| {
            num_rows += 1;
            emit(json)
        };
        while let Some((head, json)) =
            read_entry(&mut reader, &mut line).map_err(Error::at(&self.path))?
        {
            match order {
                OutputOrder::Finished => emit(json)?,
                OutputOrder::Input => {
                    in_order.push(head.index, json.to_owned(), |json| emit(&json))?;
                }
            }
        }
        if num_rows != self.done.len() {
            return Err(self.refuse(&format!(
                "it was changed from outside: {num_rows} of {} rows are left",
                self.done.len()
            )));
        }
        Ok(())
    }

    fn entries(&self) -> Result<BufReader<&File>> {
        let mut reader = BufReader::with_capacity(1 << 18, &self.file);
        reader
            .seek(SeekFrom::Start(self.entries_at))
            .map_err(Error::at(&self.path))?;
        Ok(reader)
    }

    /// The first line, or nothing where the job is to be begun.
    fn read_header(&mut self, restart: bool) -> Result<Option<Map<String, Value>>> {
        let mut line = Vec::new();
        let mut reader = self.entries()?;
        reader
            .read_until(b'\n', &mut line)
            .map_err(Error::at(&self.path))?;
        if restart || is_torn_header(&line) {
            return Ok(None);
        }
        let header = crate::line::open(&line)
            .filter(|text| text.starts_with(MAGIC))
            .and_then(|text| serde_json::from_str(text).ok());
        if header.is_none() {
            return Err(self.refuse("this is not the journal of a job"));
        }
        self.entries_at = line.len() as u64;
        Ok(header)
    }

    fn begin(&mut self, job: &JobIdentity) -> Result<()> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        self.created = now.map_or(0, |now| now.as_secs());
        let rest = json!({"created": self.created, "job": job}).to_string();
        let line = seal(&format!("{MAGIC}{}", rest.trim_start_matches('{')));
        self.entries_at = line.len() as u64;
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .and_then(|_| self.file.write_all(line.as_bytes()))
            .and_then(|()| self.file.sync_all())
            .map_err(Error::at(&self.path))?;
        sync_folder(&self.path)
    }

    fn compare(&mut self, job: &JobIdentity, header: &Map<String, Value>) -> Result<()> {
        let empty = Map::new();
        let begun = header.get("job").and_then(Value::as_object);
        let begun = begun.unwrap_or(&empty);
        let other = job
            .keys()
            .chain(begun.keys())
            .find(|name| job.get(*name) != begun.get(*name));
        if let Some(name) = other {
            let shown = |value: Option<&Value>| value.unwrap_or(&Value::Null).to_string();
            let (before, now) = (shown(begun.get(name)), shown(job.get(name)));
            return Err(self.refuse(&format!(
                "it was begun by a job with other flags or data: {name} was {before} and is {now}"
            )));
        }
        self.created = header.get("created").and_then(Value::as_u64).unwrap_or(0);
        Ok(())
    }

    /// Takes in all entries up to the first one that is damaged, and cuts off the rest.
    fn read_entries(&mut self) -> Result<()> {
        let mut end = self.entries_at;
        let mut done = self.done.clone();
        let mut progress = self.progress;
        let mut line = Vec::new();
        let mut reader = self.entries()?;
        while let Some((head, _)) =
            read_entry(&mut reader, &mut line).map_err(Error::at(&self.path))?
        {
            if done.insert(head.index, head.checksum) {
                progress.add(head.tokens, head.failed);
            }
            end += line.len() as u64;
        }
        (self.done, self.progress) = (done, progress);
        self.file
            .set_len(end)
            .and_then(|()| self.file.seek(SeekFrom::Start(end)))
            .map_err(Error::at(&self.path))?;
        Ok(())
    }

    fn refuse(&self, reason: &str) -> Error {
        Error::OtherJob {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }
}

/// Renames a file that is whole and on the disk, so that the change outlasts a crash.
///
/// # Errors
/// What the system says.
pub fn move_into_place(written: &Path, output: &Path) -> Result<()> {
    std::fs::rename(written, output).map_err(Error::at(output))?;
    sync_folder(output)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether a journal's first line was cut off while it was written, or never was.
fn is_torn_header(line: &[u8]) -> bool {
    let checksum_and_blank = 9;
    let begun = line.get(checksum_and_blank..).unwrap_or_default();
    let compared = begun.len().min(MAGIC.len());
    !line.ends_with(b"\n") && begun[..compared] == MAGIC.as_bytes()[..compared]
}

/// Makes what happened to names in a folder last.
fn sync_folder(file: &Path) -> Result<()> {
    if cfg!(unix) {
        let folder = file.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(Error::at(folder))?;
    }
    Ok(())
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let opened = file.metadata().map(identity);
    let named = path.metadata().map(identity);
    matches!((opened, named), (Ok(opened), Ok(named)) if opened == named)
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}
