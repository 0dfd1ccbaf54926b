//! Which of a repository's files are needed to run the model.

use crate::files::split_model;

/// Small files that a tokenizer, a template, a configuration or an index is read from.
const SMALL_FILES: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "generation_config.json",
    "hf_quant_config.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "quant_config.json",
    "quantize_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// Named templates beside the main one.
const TEMPLATE_FOLDER: &str = "additional_chat_templates/";

/// The weight files of one format, best format first: name before the shard number, and extension.
const WEIGHT_FORMATS: &[(&str, &str)] = &[("model", ".safetensors"), ("pytorch_model", ".bin")];

/// What to fetch of a repository.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Configuration, tokenizer and template files, and the index of a sharded checkpoint.
    pub(crate) small: Vec<String>,
    /// Weight files of the best format that is there.
    pub(crate) weights: Vec<String>,
}

impl Selection {
    /// Chooses from the names of all files of a repository.
    pub(crate) fn of(files: &[String]) -> Self {
        Self::of_formats(files, WEIGHT_FORMATS)
    }

    /// Chooses as [`Selection::of`] does, with weights in PyTorch's format only.
    pub(crate) fn of_pytorch(files: &[String]) -> Self {
        Self::of_formats(files, &WEIGHT_FORMATS[1..])
    }

    fn of_formats(files: &[String], formats: &[(&str, &str)]) -> Self {
        let weights = weight_files(files, formats);
        let index = weights.first().and_then(|file| index_of(file));
        let is_small = |file: &&String| {
            SMALL_FILES.contains(&file.as_str())
                || Some(file.as_str()) == index
                || file.strip_prefix(TEMPLATE_FOLDER).is_some_and(is_template)
        };
        Self {
            small: files.iter().filter(is_small).cloned().collect(),
            weights,
        }
    }

    /// Chooses the GGUF model whose name ends in `wanted`, or the only one; no weights where that does not
    /// say which.
    pub(crate) fn of_gguf(files: &[String], wanted: Option<&str>) -> Self {
        let mut models = Self::gguf_models(files);
        if let Some(wanted) = wanted {
            models.retain(|model| ends_in(model, wanted));
        }
        let weights = match &models[..] {
            [only] => {
                let is_part = |file: &&String| gguf_model(file) == Some(only);
                files.iter().filter(is_part).cloned().collect()
            }
            _ => Vec::new(),
        };
        Self {
            weights,
            ..Self::of_formats(files, &[])
        }
    }

    /// The GGUF models that are there, without the ends of their files' names. Projectors of images are
    /// none.
    pub(crate) fn gguf_models(files: &[String]) -> Vec<&str> {
        let mut models: Vec<&str> = files.iter().filter_map(|file| gguf_model(file)).collect();
        models.sort_unstable();
        models.dedup();
        models
    }

    /// Chooses as [`Selection::of`] does, without any weights.
    pub(crate) fn without_weights(files: &[String]) -> Self {
        Self {
            weights: Vec::new(),
            ..Self::of(files)
        }
    }

    /// Whether a model can be loaded from these files: it has a configuration and all its shards.
    pub(crate) fn is_complete(&self) -> bool {
        // GGUF files have a configuration within.
        let is_gguf = self.weights.iter().any(|file| file.ends_with(GGUF));
        let is_configured = is_gguf || self.small.iter().any(|file| file == "config.json");
        is_configured && self.has_every_shard()
    }

    /// All files, small ones first, so that a wrong model is noticed before gigabytes travel.
    pub(crate) fn files(&self) -> impl Iterator<Item = &String> {
        self.small.iter().chain(&self.weights)
    }

    fn has_every_shard(&self) -> bool {
        let first = self.weights.first();
        if let Some((_, count)) = first.and_then(|first| split_gguf(first)) {
            return self.weights.len() == count;
        }
        match first.and_then(|first| Shard::parse(first)) {
            Some(shard) => self.weights.len() == shard.count,
            None => !self.weights.is_empty(),
        }
    }
}

const GGUF: &str = ".gguf";

/// The model that a GGUF file is, or is a part of: its name without extension and number. It may lie in a
/// folder of its own.
fn gguf_model(file: &str) -> Option<&str> {
    let model = match split_gguf(file) {
        Some((model, _)) => model,
        None => file.strip_suffix(GGUF)?,
    };
    let (folder, name) = model.rsplit_once('/').unwrap_or(("x", model));
    (is_plain(folder) && is_plain(name) && !name.starts_with("mmproj")).then_some(model)
}

/// The model that a file is a part of, and how many parts it has.
fn split_gguf(file: &str) -> Option<(&str, usize)> {
    let (model, count_and_ending) = split_model(file)?;
    let count = count_and_ending.strip_suffix(GGUF)?;
    Some((model, count.parse().ok()?))
}

/// Whether the last words of a name are `end`, in whatever case.
fn ends_in(name: &str, end: &str) -> bool {
    let Some(start) = name.len().checked_sub(end.len()) else {
        return false;
    };
    name.get(start..)
        .is_some_and(|tail| tail.eq_ignore_ascii_case(end))
        && name[..start]
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_ascii_alphanumeric())
}

fn is_template(file: &str) -> bool {
    file.ends_with(".jinja") && is_plain(file)
}

/// Whether a name that a hub sent stays in the folder that it is put in.
fn is_plain(file: &str) -> bool {
    !file.contains(['/', '\\', ':']) && !file.starts_with('.')
}

fn weight_files(files: &[String], formats: &[(&str, &str)]) -> Vec<String> {
    for (stem, extension) in formats {
        let whole = format!("{stem}{extension}");
        if files.contains(&whole) {
            return vec![whole];
        }
        let is_shard = |file: &&String| {
            Shard::parse(file).is_some_and(|shard| shard.stem == *stem && file.ends_with(extension))
        };
        let shards: Vec<String> = files.iter().filter(is_shard).cloned().collect();
        if !shards.is_empty() {
            return shards;
        }
    }
    let is_other_checkpoint = |file: &&String| {
        file.ends_with(".safetensors") && is_plain(file) && !file.starts_with("adapter_")
    };
    if formats != WEIGHT_FORMATS {
        return Vec::new();
    }
    files.iter().filter(is_other_checkpoint).cloned().collect()
}

/// The name of the index that tells which tensor is in which shard.
fn index_of(weight_file: &str) -> Option<&'static str> {
    match Shard::parse(weight_file)?.stem {
        "model" => Some("model.safetensors.index.json"),
        "pytorch_model" => Some("pytorch_model.bin.index.json"),
        _ => None,
    }
}

/// A file name such as `model-00002-of-00005.safetensors`, taken apart.
struct Shard<'a> {
    stem: &'a str,
    count: usize,
}

impl<'a> Shard<'a> {
    fn parse(file: &'a str) -> Option<Self> {
        let (name, _extension) = file.split_once('.')?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (is_number(number) && is_number(count))
            .then(|| {
                Some(Self {
                    stem,
                    count: count.parse().ok()?,
                })
            })
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn check(repository: &str, small: &str, weights: &str) {
        let selection = Selection::of(&names(repository));
        let expected = Selection {
            small: names(small),
            weights: names(weights),
        };
        assert_eq!(selection, expected, "of {repository}");
    }

    #[test]
    fn safetensors_are_preferred() {
        check(
            "README.md config.json model.safetensors pytorch_model.bin flax_model.msgpack tokenizer.json",
            "config.json tokenizer.json",
            "model.safetensors",
        );
    }

    #[test]
    fn shards_come_with_their_index_and_no_other() {
        check(
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors \
             model.safetensors.index.json pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
            "config.json model.safetensors.index.json",
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors",
        );
    }

    #[test]
    fn pickled_weights_are_taken_where_there_is_nothing_else() {
        check(
            "config.json merges.txt vocab.json pytorch_model.bin training_args.bin optimizer.bin",
            "config.json merges.txt vocab.json",
            "pytorch_model.bin",
        );
    }

    #[test]
    fn pickled_weights_are_taken_when_asked_for() {
        let files = names("config.json model.safetensors pytorch_model.bin");
        assert_eq!(Selection::of_pytorch(&files).weights, ["pytorch_model.bin"]);
        let files = names("config.json other.safetensors");
        assert!(Selection::of_pytorch(&files).weights.is_empty());
    }

    #[test]
    fn variants_adapters_and_subfolders_stay_on_the_hub() {
        check(
            "config.json model.safetensors model.fp16.safetensors adapter_model.safetensors \
             consolidated.safetensors onnx/model.safetensors original/config.json",
            "config.json",
            "model.safetensors",
        );
    }

    #[test]
    fn names_that_leave_the_folder_are_never_taken() {
        check(
            "config.json ../evil.safetensors ..\\evil.safetensors C:evil.safetensors .x.safetensors \
             additional_chat_templates/../../evil.jinja additional_chat_templates/..\\evil.jinja",
            "config.json",
            "",
        );
    }

    #[test]
    fn an_unusual_name_is_taken_when_it_is_all_there_is() {
        check(
            "config.json weights.safetensors",
            "config.json",
            "weights.safetensors",
        );
    }

    #[test]
    fn named_templates_are_needed() {
        check(
            "additional_chat_templates/tool_use.jinja chat_template.jinja additional_chat_templates/x.md",
            "additional_chat_templates/tool_use.jinja chat_template.jinja",
            "",
        );
    }

    fn check_gguf(repository: &str, wanted: Option<&str>, weights: &str) {
        let selection = Selection::of_gguf(&names(repository), wanted);
        assert_eq!(selection.weights, names(weights), "{wanted:?}");
        assert_eq!(selection.is_complete(), !weights.is_empty(), "{wanted:?}");
    }

    #[test]
    fn one_gguf_model_is_chosen_by_the_end_of_its_name() {
        let repository = "config.json README.md tiny-1.5b-Q4_K_M.gguf tiny-1.5b-IQ4_K_M.gguf \
                          tiny.Q8_0.gguf mmproj-F16.gguf F16/tiny-F16-00001-of-00002.gguf \
                          F16/tiny-F16-00002-of-00002.gguf ../evil-Q2_K.gguf a/b/c-Q2_K.gguf";
        let check = |wanted, weights| check_gguf(repository, wanted, weights);
        check(Some("Q4_K_M"), "tiny-1.5b-Q4_K_M.gguf");
        check(Some("q8_0"), "tiny.Q8_0.gguf");
        check(
            Some("F16"),
            "F16/tiny-F16-00001-of-00002.gguf F16/tiny-F16-00002-of-00002.gguf",
        );
        check(Some("Q2_K"), "");
        check(Some("K_M"), "");
        check(None, "");
        check_gguf("a-Q8_0.gguf mmproj-a.gguf", None, "a-Q8_0.gguf");
    }

    fn check_complete(files: &str, is_complete: bool) {
        assert_eq!(
            Selection::of(&names(files)).is_complete(),
            is_complete,
            "{files}"
        );
    }

    #[test]
    fn a_model_is_complete_with_configuration_and_every_shard() {
        check_complete("config.json model.safetensors", true);
        check_complete("config.json", false);
        check_complete("model.safetensors", false);
        check_complete("config.json model-00001-of-00002.safetensors", false);
        check_complete(
            "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors",
            true,
        );
    }
}
