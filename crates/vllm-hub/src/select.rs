//! Which of a repository's files are needed to run the model.

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

    /// Chooses as [`Selection::of`] does, without any weights.
    pub(crate) fn without_weights(files: &[String]) -> Self {
        Self {
            weights: Vec::new(),
            ..Self::of(files)
        }
    }

    /// Whether a model can be loaded from these files: it has a configuration and all its shards.
    pub(crate) fn is_complete(&self) -> bool {
        self.small.iter().any(|file| file == "config.json") && self.has_every_shard()
    }

    /// All files, small ones first, so that a wrong model is noticed before gigabytes travel.
    pub(crate) fn files(&self) -> impl Iterator<Item = &String> {
        self.small.iter().chain(&self.weights)
    }

    fn has_every_shard(&self) -> bool {
        match self.weights.first().and_then(|first| Shard::parse(first)) {
            Some(shard) => self.weights.len() == shard.count,
            None => !self.weights.is_empty(),
        }
    }
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
