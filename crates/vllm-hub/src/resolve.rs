//! From a name to files.

use std::path::Path;

use crate::hub::Request;
use crate::name::ModelName;
use crate::{Error, HubKind, ModelFiles, ResolveOptions, Result, hugging_face, modelscope};

/// Finds the files of `model`: a folder, a single file (such as a `.gguf`), or a model of the hub
/// that `options` name, downloaded first where its cache does not have it. `org/name:Q4_K_M` is the GGUF
/// model of that type among those of `org/name`.
///
/// What exists on disk is never looked for on a hub.
///
/// # Errors
/// [`Error::UnknownModel`] for what is neither a path nor a name, and otherwise what the disk or the
/// hub objected to; every message says what to do next.
pub fn resolve(model: &str, options: &ResolveOptions) -> Result<ModelFiles> {
    let path = Path::new(model);
    if path.is_dir() {
        return ModelFiles::folder(path);
    }
    if path.is_file() {
        return ModelFiles::single_file(path);
    }
    let unknown = || Error::UnknownModel {
        model: model.to_owned(),
    };
    let (repository, gguf) = match model.rsplit_once(':') {
        Some((repository, gguf)) if is_gguf_choice(gguf) => (repository, Some(gguf)),
        _ => (model, None),
    };
    let name = ModelName::parse(repository).ok_or_else(unknown)?;
    let request = Request::new(&name, gguf, options)?;
    let folder = match options.hub {
        HubKind::HuggingFace => hugging_face::snapshot(&request)?,
        HubKind::ModelScope => modelscope::snapshot(&request)?,
    };
    let files = ModelFiles::named_folder(model.to_owned(), &folder)?;
    Ok(match request.gguf_weights(files.list()) {
        Some(weights) => files.with_weights(&weights),
        None => files,
    })
}

/// Whether text can be what tells one GGUF model from another, such as `Q4_K_M`.
fn is_gguf_choice(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_and_a_file_are_taken_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.gguf");
        std::fs::write(&weights, b"GGUF").unwrap();
        let options = ResolveOptions::default();

        let path = folder.path().to_str().unwrap();
        let files = resolve(path, &options).unwrap();
        assert_eq!(
            (files.name(), files.list()),
            (path, &["model.gguf".to_owned()][..])
        );
        let files = resolve(weights.to_str().unwrap(), &options).unwrap();
        assert_eq!(files.list(), ["model.gguf"]);
    }

    #[test]
    fn what_is_neither_path_nor_name_is_refused_without_a_network() {
        for model in [
            "/no/such/folder",
            "./missing",
            "a/b/c",
            "",
            "a/b:",
            "a/b:c:d",
        ] {
            let error = resolve(model, &ResolveOptions::default()).unwrap_err();
            assert!(
                matches!(error, Error::UnknownModel { .. }),
                "{model}: {error}"
            );
            assert!(error.to_string().contains(&format!("`{model}`")), "{error}");
        }
    }

    #[test]
    fn without_a_home_the_variable_for_a_cache_is_named() {
        let error = resolve("org/name", &ResolveOptions::default()).unwrap_err();
        assert!(error.to_string().contains("HF_HOME"), "{error}");
    }
}
