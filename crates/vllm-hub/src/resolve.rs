//! From a name to files.

use std::path::Path;

use crate::{Error, ModelFiles, ResolveOptions, Result};

/// Finds the files of `model`: a folder or a single file on disk.
///
/// # Errors
/// [`Error::UnknownModel`] when nothing of that name exists, [`Error::Io`] when it cannot be listed.
pub fn resolve(model: &str, _options: &ResolveOptions) -> Result<ModelFiles> {
    let path = Path::new(model);
    if path.is_dir() {
        return ModelFiles::folder(path);
    }
    if path.is_file() {
        return ModelFiles::single_file(path);
    }
    Err(Error::UnknownModel {
        model: model.to_owned(),
    })
}
