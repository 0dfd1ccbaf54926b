//! A resolved model: a named set of files on disk or inside the program.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::{Error, FileBytes, Result};

/// Files compiled into the program: name and contents.
type EmbeddedFiles = &'static [(&'static str, &'static [u8])];

/// How deep below the model's folder files are listed; `additional_chat_templates/x.jinja` is two.
const LISTED_DEPTH: usize = 2;

/// A model whose files are at hand: a folder, a single file, or a table compiled into the program.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    name: String,
    place: Place,
    files: Vec<String>,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    Embedded(EmbeddedFiles),
}

impl ModelFiles {
    /// The model in the folder at `path`, named as the path was given.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn folder(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::named_folder(path.display().to_string(), path)
    }

    /// The model in the folder at `path`, under the name it was asked for.
    pub(crate) fn named_folder(name: String, path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        list_folder(path, "", LISTED_DEPTH, &mut files)?;
        files.sort();
        Ok(Self {
            name,
            place: Place::Folder(path.to_path_buf()),
            files,
        })
    }

    /// The model that consists of the one file at `path`, such as a `.gguf`; of all its parts where the
    /// name is that of a part, as in `x-00001-of-00003.gguf`.
    ///
    /// # Errors
    /// [`Error::UnknownModel`] when `path` names no file, [`Error::Io`] when the folder of a part cannot
    /// be listed.
    pub fn single_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let Some(file) = path.file_name().and_then(|file| file.to_str()) else {
            return Err(Error::UnknownModel { model: name });
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut files = vec![file.to_owned()];
        if let Some(model) = split_model(file) {
            let beside = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                &folder
            };
            files.clear();
            list_folder(beside, "", 1, &mut files)?;
            files.retain(|other| split_model(other) == Some(model));
            files.sort();
        }
        Ok(Self {
            name,
            place: Place::Folder(folder),
            files,
        })
    }

    /// The same with no weights but `weights`: other models may lie beside them.
    pub(crate) fn with_weights(mut self, weights: &[String]) -> Self {
        const EXTENSIONS: [&str; 4] = [".gguf", ".safetensors", ".bin", ".pt"];
        self.files.retain(|file| {
            let is_weights = EXTENSIONS.iter().any(|extension| file.ends_with(extension));
            !is_weights || weights.contains(file)
        });
        self
    }

    /// A model compiled into the program.
    #[must_use]
    pub fn embedded(name: &'static str, files: EmbeddedFiles) -> Self {
        let mut names: Vec<String> = files.iter().map(|(file, _)| (*file).to_owned()).collect();
        names.sort();
        Self {
            name: name.to_owned(),
            place: Place::Embedded(files),
            files: names,
        }
    }

    /// The model's name as it was asked for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder that holds the files, or `None` for an embedded model.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(folder) => Some(folder),
            Place::Embedded(_) => None,
        }
    }

    /// The names of the files, relative to the model, sorted, with `/` between folders.
    #[must_use]
    pub fn list(&self) -> &[String] {
        &self.files
    }

    /// Whether the model has a file of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.files.iter().any(|file| file == name)
    }

    /// The contents of a small file, or `None` when the model has no such file.
    ///
    /// # Errors
    /// [`Error::Io`] when the file exists and cannot be read, [`Error::UnsafeFileName`] for a name
    /// that leaves the model's folder.
    pub fn read(&self, name: &str) -> Result<Option<FileBytes>> {
        match &self.place {
            Place::Embedded(files) => Ok(find_embedded(files, name)),
            Place::Folder(folder) => {
                let path = self.checked_path(folder, name)?;
                match fs::read(&path) {
                    Ok(bytes) => Ok(Some(FileBytes::Owned(bytes))),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(Error::io("read", &path, error)),
                }
            }
        }
    }

    /// The contents of a file that must exist, memory-mapped when it is on disk.
    ///
    /// # Errors
    /// [`Error::MissingFile`] when the model has no such file, otherwise as [`ModelFiles::read`].
    pub fn open(&self, name: &str) -> Result<FileBytes> {
        let missing = || Error::MissingFile {
            model: self.name.clone(),
            file: name.to_owned(),
            available: self.files.join(", "),
        };
        match &self.place {
            Place::Embedded(files) => find_embedded(files, name).ok_or_else(missing),
            Place::Folder(folder) => {
                let path = self.checked_path(folder, name)?;
                if path.is_file() {
                    FileBytes::map(&path)
                } else {
                    Err(missing())
                }
            }
        }
    }

    fn checked_path(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let relative = Path::new(name);
        let is_plain = !name.is_empty()
            && relative
                .components()
                .all(|component| matches!(component, Component::Normal(_)));
        if is_plain {
            Ok(folder.join(relative))
        } else {
            Err(Error::UnsafeFileName {
                model: self.name.clone(),
                file: name.to_owned(),
            })
        }
    }
}

/// What the parts of one model have in common: what stands before the number, and count and ending.
pub(crate) fn split_model(file: &str) -> Option<(&str, &str)> {
    let (rest, count_and_ending) = file.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let (count, _) = count_and_ending.split_once('.')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((stem, count_and_ending))
}

fn find_embedded(files: EmbeddedFiles, name: &str) -> Option<FileBytes> {
    files
        .iter()
        .find(|(file, _)| *file == name)
        .map(|(_, bytes)| FileBytes::Static(bytes))
}

/// Adds the files below `folder` to `files`, following links as hub caches need; hidden entries and
/// links that lead nowhere are left out.
fn list_folder(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|source| Error::io("list", folder, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| Error::io("list", folder, source))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        let Ok(metadata) = fs::metadata(entry.path()) else {
            continue;
        };
        let relative = format!("{prefix}{name}");
        if metadata.is_file() {
            files.push(relative);
        } else if depth > 1 {
            list_folder(&entry.path(), &format!("{relative}/"), depth - 1, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: EmbeddedFiles = &[("b.json", b"bb"), ("a.json", b"a")];

    fn sample_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), b"{}").unwrap();
        fs::write(folder.path().join("empty.txt"), b"").unwrap();
        fs::write(folder.path().join(".hidden"), b"x").unwrap();
        fs::create_dir_all(folder.path().join("templates/deeper")).unwrap();
        fs::write(folder.path().join("templates/tool.jinja"), b"t").unwrap();
        fs::write(folder.path().join("templates/deeper/no.txt"), b"n").unwrap();
        folder
    }

    #[test]
    fn embedded_files_are_listed_read_and_opened() {
        let files = ModelFiles::embedded("demo", TABLE);
        assert_eq!(files.name(), "demo");
        assert_eq!(files.path(), None);
        assert_eq!(files.list(), ["a.json", "b.json"]);
        assert_eq!(&*files.read("b.json").unwrap().unwrap(), b"bb");
        assert_eq!(&*files.open("a.json").unwrap(), b"a");
        assert!(files.read("c.json").unwrap().is_none());
        assert!(!files.contains("c.json"));
    }

    #[test]
    fn folder_lists_visible_files_two_levels_deep() {
        let folder = sample_folder();
        let files = ModelFiles::folder(folder.path()).unwrap();
        assert_eq!(
            files.list(),
            ["config.json", "empty.txt", "templates/tool.jinja"]
        );
        assert_eq!(files.path(), Some(folder.path()));
    }

    #[test]
    fn folder_files_are_mapped_and_empty_ones_are_empty() {
        let folder = sample_folder();
        let files = ModelFiles::folder(folder.path()).unwrap();
        assert!(matches!(
            files.open("config.json").unwrap(),
            FileBytes::Mapped(_)
        ));
        assert_eq!(&*files.open("templates/tool.jinja").unwrap(), b"t");
        assert!(files.open("empty.txt").unwrap().is_empty());
        assert_eq!(&*files.read("config.json").unwrap().unwrap(), b"{}");
        assert!(files.read("absent.json").unwrap().is_none());
    }

    #[test]
    fn a_missing_file_names_the_files_that_are_there() {
        let folder = sample_folder();
        let files = ModelFiles::folder(folder.path()).unwrap();
        let message = files.open("model.safetensors").unwrap_err().to_string();
        assert!(message.contains("`model.safetensors`"), "{message}");
        assert!(message.contains("config.json, empty.txt"), "{message}");
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let folder = sample_folder();
        let files = ModelFiles::folder(folder.path()).unwrap();
        for name in [
            "../secret",
            "/etc/passwd",
            "templates/../../secret",
            "",
            "./config.json",
        ] {
            let opened = files.open(name);
            assert!(
                matches!(opened, Err(Error::UnsafeFileName { .. })),
                "{name}: {opened:?}"
            );
            assert!(
                matches!(files.read(name), Err(Error::UnsafeFileName { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_io_error_with_its_path() {
        let message = ModelFiles::folder("/no/such/folder")
            .unwrap_err()
            .to_string();
        assert!(
            message.starts_with("cannot list `/no/such/folder`"),
            "{message}"
        );
    }

    #[test]
    fn a_part_of_a_model_brings_the_others() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "a-1.5-00001-of-00002.gguf",
            "a-1.5-00002-of-00002.gguf",
            "b-00001-of-00002.gguf",
        ] {
            fs::write(folder.path().join(name), b"GGUF").unwrap();
        }
        let files =
            ModelFiles::single_file(folder.path().join("a-1.5-00002-of-00002.gguf")).unwrap();
        assert_eq!(
            files.list(),
            ["a-1.5-00001-of-00002.gguf", "a-1.5-00002-of-00002.gguf"]
        );
    }

    #[test]
    fn a_single_file_is_a_model_of_one_file() {
        let folder = sample_folder();
        let files = ModelFiles::single_file(folder.path().join("config.json")).unwrap();
        assert_eq!(files.list(), ["config.json"]);
        assert_eq!(&*files.open("config.json").unwrap(), b"{}");
    }
}
