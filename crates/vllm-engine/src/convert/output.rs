use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file or folder that gets its name when it is complete and goes away if it never is.
pub(super) struct PartialOutput {
    target: PathBuf,
    partial: PathBuf,
    is_finished: bool,
}

impl PartialOutput {
    /// # Errors
    /// Something is there already.
    pub(super) fn new(target: &Path) -> Result<Self> {
        let Some(name) = target.file_name() else {
            return Err(Error::Setup(format!(
                "{} is no name for an output",
                target.display()
            )));
        };
        let mut partial = name.to_os_string();
        partial.push(".partial");
        let output = Self {
            target: target.to_owned(),
            partial: target.with_file_name(partial),
            is_finished: false,
        };
        output.refuse_existing()?;
        // What an earlier run left when it was killed.
        output.remove_partial();
        Ok(output)
    }

    fn refuse_existing(&self) -> Result<()> {
        if self.target.symlink_metadata().is_ok() {
            return Err(Error::Setup(format!(
                "{} is there already and is not overwritten: remove it or choose another name",
                self.target.display()
            )));
        }
        Ok(())
    }

    /// A writer of the output as one file.
    pub(super) fn file(&self) -> Result<BufWriter<File>> {
        self.create(&self.partial)
    }

    /// Makes the output a folder.
    pub(super) fn make_folder(&self) -> Result<()> {
        fs::create_dir(&self.partial).map_err(|error| self.error(&error))
    }

    /// A writer of a file in the folder.
    pub(super) fn file_in_folder(&self, name: &str) -> Result<BufWriter<File>> {
        let path = self.partial.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| self.error(&error))?;
        }
        self.create(&path)
    }

    fn create(&self, path: &Path) -> Result<BufWriter<File>> {
        let file = File::create(path).map_err(|error| self.error(&error))?;
        Ok(BufWriter::with_capacity(1 << 20, file))
    }

    /// Sees a file to the disk.
    pub(super) fn close(&self, writer: BufWriter<File>) -> Result<()> {
        let synced = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all());
        synced.map_err(|error| self.error(&error))
    }

    pub(super) fn write_all(&self, writer: &mut impl Write, bytes: &[u8]) -> Result<()> {
        writer.write_all(bytes).map_err(|error| self.error(&error))
    }

    /// Gives the output its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.refuse_existing()?;
        fs::rename(&self.partial, &self.target).map_err(|error| self.error(&error))?;
        self.is_finished = true;
        Ok(())
    }

    fn error(&self, error: &io::Error) -> Error {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let target = self.target.display();
        Error::Setup(match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => format!(
                "no room to write {target} ({error}): free some space or write to another disk; \
                 nothing was left there"
            ),
            _ => format!("cannot write {target}: {error}"),
        })
    }

    fn remove_partial(&self) {
        // What is not there need not be removed, and what cannot be removed is reported when it is in
        // the way.
        let _ = match self.partial.is_dir() {
            true => fs::remove_dir_all(&self.partial),
            false => fs::remove_file(&self.partial),
        };
    }
}

impl Drop for PartialOutput {
    fn drop(&mut self) {
        if !self.is_finished {
            self.remove_partial();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_appear_when_they_are_finished() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.gguf");
        let output = PartialOutput::new(&target).unwrap();
        let mut writer = output.file().unwrap();
        output.write_all(&mut writer, b"GGUF").unwrap();
        output.close(writer).unwrap();
        assert!(!target.exists());
        output.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"GGUF");
        let refused = PartialOutput::new(&target).err().unwrap().to_string();
        assert!(refused.contains("is not overwritten"), "{refused}");

        let unfinished = PartialOutput::new(&folder.path().join("model")).unwrap();
        unfinished.make_folder().unwrap();
        drop(unfinished.file_in_folder("a/b.json").unwrap());
        drop(unfinished);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let output = PartialOutput::new(&folder.path().join("out.gguf")).unwrap();
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let message = output.error(&full).to_string();
        assert!(message.contains("no room to write"), "{message}");
        assert!(message.contains("out.gguf"), "{message}");
    }
}
