use std::collections::{BTreeMap, BTreeSet};

use super::{FileBuffer, LoadFormat};
use crate::{Error, Result};

/// The files to read.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) files: Vec<String>,
    /// Tensor → file, where an index says so.
    pub(super) indexed_tensors: BTreeMap<String, String>,
}

/// Forms of a checkpoint, best first: name of the index, and how its files end.
const FORMS: [(&str, &str); 4] = [
    ("model.safetensors.index.json", ".safetensors"),
    ("pytorch_model.bin.index.json", ".bin"),
    ("", ".pt"),
    ("", GGUF),
];

const GGUF: &str = ".gguf";

/// What trainers leave beside the weights.
const NOT_WEIGHTS: [&str; 5] = [
    "training_args.bin",
    "optimizer.bin",
    "optimizer.pt",
    "scheduler.pt",
    "scaler.pt",
];

/// Chooses the weight files among the names of a model folder.
pub(super) fn weight_files(
    names: &[String],
    format: LoadFormat,
    open: &mut impl FnMut(&str) -> Result<FileBuffer>,
) -> Result<Selection> {
    let forms = match format {
        LoadFormat::Safetensors => &FORMS[..1],
        LoadFormat::Pt => &FORMS[1..3],
        LoadFormat::Gguf => &FORMS[3..],
        LoadFormat::Auto | LoadFormat::Dummy => &FORMS[..],
    };
    for (index, extension) in forms {
        if names.iter().any(|name| name == *index) {
            return read_index(index, open(index)?.as_ref().as_ref(), names);
        }
        let mut files: Vec<String> = names
            .iter()
            .filter(|name| is_form(name, extension))
            .filter(|name| !NOT_WEIGHTS.contains(&name.as_str()))
            .cloned()
            .collect();
        // The consolidated copy of a checkpoint repeats it under other tensor names.
        if files.iter().any(|name| !name.starts_with("consolidated")) {
            files.retain(|name| !name.starts_with("consolidated"));
        }
        if !files.is_empty() {
            files.sort();
            if *extension == GGUF {
                files = one_gguf_model(files)?;
            }
            return Ok(Selection {
                files,
                ..Selection::default()
            });
        }
    }
    Err(Error::NoWeights {
        format: format.name(),
        expected: match format {
            LoadFormat::Safetensors => "*.safetensors",
            LoadFormat::Pt => "*.bin or *.pt",
            LoadFormat::Gguf => "*.gguf",
            LoadFormat::Auto | LoadFormat::Dummy => "*.safetensors, *.bin, *.pt or *.gguf",
        },
        files: names.to_vec(),
    })
}

/// Split GGUF models may lie in a folder of their own.
fn is_form(name: &str, extension: &str) -> bool {
    name.ends_with(extension) && (extension == GGUF || !name.contains('/'))
}

/// The names of the GGUF files that [`WeightFiles::open`](crate::WeightFiles::open) would read among
/// those of a model folder; empty where it would read others.
///
/// # Errors
/// Files of more than one model, or a missing file of a split one.
pub fn gguf_files(names: &[String]) -> Result<Vec<String>> {
    let others = FORMS.iter().filter(|(_, extension)| *extension != GGUF);
    for (_, extension) in others {
        let is_weights = |name: &&String| !NOT_WEIGHTS.contains(&name.as_str());
        if names
            .iter()
            .filter(is_weights)
            .any(|name| is_form(name, extension))
        {
            return Ok(Vec::new());
        }
    }
    let mut files: Vec<String> = names
        .iter()
        .filter(|name| is_form(name, GGUF))
        .cloned()
        .collect();
    files.sort();
    if files.is_empty() {
        Ok(files)
    } else {
        one_gguf_model(files)
    }
}

/// The files of the only model among `files`. Projectors of images lie beside some models.
fn one_gguf_model(mut files: Vec<String>) -> Result<Vec<String>> {
    files.retain(|name| {
        let file = name.rsplit('/').next().unwrap_or(name);
        !file.starts_with("mmproj")
    });
    let Some(first) = files.first() else {
        return Ok(files);
    };
    let model = vllm_gguf::split_names(first).unwrap_or_else(|| vec![first.clone()]);
    if let Some(other) = files.iter().find(|name| !model.contains(name)) {
        return Err(Error::File {
            file: first.clone(),
            message: format!("lies beside another model, {other}; name the file that is meant"),
        });
    }
    if let Some(missing) = model.iter().find(|name| !files.contains(name)) {
        return Err(Error::File {
            file: first.clone(),
            message: format!("belongs to a split model whose file {missing} is missing; fetch it"),
        });
    }
    Ok(model)
}

fn read_index(index: &str, json: &[u8], names: &[String]) -> Result<Selection> {
    let error = |message: String| Error::File {
        file: index.to_owned(),
        message,
    };
    let json: serde_json::Value =
        serde_json::from_slice(json).map_err(|e| error(format!("invalid JSON: {e}")))?;
    let weight_map = json["weight_map"]
        .as_object()
        .ok_or_else(|| error("expected an object 'weight_map' of tensor and file names".into()))?;
    let mut selection = Selection::default();
    let mut files = BTreeSet::new();
    for (tensor, file) in weight_map {
        let file = file
            .as_str()
            .ok_or_else(|| error(format!("tensor '{tensor}' has no file name: {file}")))?;
        if !names.iter().any(|name| name == file) {
            return Err(error(format!(
                "names the shard '{file}', which is missing; fetch it"
            )));
        }
        files.insert(file.to_owned());
        selection
            .indexed_tensors
            .insert(tensor.clone(), file.to_owned());
    }
    selection.files = files.into_iter().collect();
    Ok(selection)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn select(names: &[&str], index: &'static str) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let format = LoadFormat::Auto;
        let open = &mut |_: &str| Ok(Arc::new(index) as FileBuffer);
        let selection = weight_files(&names, format, open)?;
        Ok(selection.files)
    }

    #[test]
    fn the_best_form_is_chosen() {
        let check = |names: &[&str], index, expected: &[&str]| {
            assert_eq!(select(names, index).unwrap(), expected, "{names:?}");
        };
        check(
            &["config.json", "pytorch_model.bin", "flax.msgpack"],
            "",
            &["pytorch_model.bin"],
        );
        check(
            &["pytorch_model.bin", "model.safetensors"],
            "",
            &["model.safetensors"],
        );
        check(
            &["b.safetensors", "a.safetensors"],
            "",
            &["a.safetensors", "b.safetensors"],
        );
        check(
            &["pytorch_model.bin", "training_args.bin"],
            "",
            &["pytorch_model.bin"],
        );
        check(
            &["consolidated.safetensors", "model.safetensors"],
            "",
            &["model.safetensors"],
        );
        check(&["original/x.safetensors", "model.pt"], "", &["model.pt"]);
        check(
            &[
                "1.safetensors",
                "2.safetensors",
                "3.safetensors",
                "model.safetensors.index.json",
            ],
            r#"{"weight_map": {"x": "2.safetensors", "y": "1.safetensors"}}"#,
            &["1.safetensors", "2.safetensors"],
        );
    }

    #[test]
    fn the_format_decides_where_both_are_there() {
        let names = ["model.safetensors", "pytorch_model.bin"].map(str::to_owned);
        let check = |format, names: &[String], expected: Option<&str>| {
            let open = &mut |_: &str| Ok(Arc::new("") as FileBuffer);
            let files = weight_files(names, format, open).map(|selection| selection.files);
            match expected {
                Some(expected) => assert_eq!(files.unwrap(), [expected]),
                None => {
                    let message = files.unwrap_err().to_string();
                    assert!(message.contains(format.name()), "{message}");
                }
            }
        };
        check(LoadFormat::Auto, &names, Some("model.safetensors"));
        check(LoadFormat::Safetensors, &names, Some("model.safetensors"));
        check(LoadFormat::Pt, &names, Some("pytorch_model.bin"));
        check(LoadFormat::Safetensors, &names[1..], None);
        check(LoadFormat::Pt, &names[..1], None);
    }

    #[test]
    fn errors_name_what_is_missing() {
        let check = |names: &[&str], index, expected: &str| {
            let message = select(names, index).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(
            &["config.json", "training_args.bin"],
            "",
            "no weights found",
        );
        let index = "model.safetensors.index.json";
        check(&[index], "{", "invalid JSON");
        check(&[index], "{}", "weight_map");
        check(&[index], r#"{"weight_map": {"x": 1}}"#, "no file name");
        check(
            &[index],
            r#"{"weight_map": {"x": "gone.safetensors"}}"#,
            "'gone.safetensors'",
        );
    }
}
