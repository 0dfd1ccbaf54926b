//! The embedded demo model: a 2.4 M-parameter OPT with its tokenizer and chat template.
//!
//! The files are those of a checkpoint folder, compiled into the binary, so that every command
//! works without a download. `train/` holds the recipe that made them.
//!
//! This crate knows its files and nothing else; it must never know how a model is loaded or run.
//!
//! ```
//! let (_, config) = vllm_demo_model::FILES
//!     .iter()
//!     .find(|(name, _)| *name == "config.json")
//!     .expect("the demo model has a config.json");
//! assert!(config.starts_with(b"{"));
//! ```

#![forbid(unsafe_code)]

/// The name by which commands and configurations ask for this model.
pub const NAME: &str = "demo";

/// The files of the checkpoint folder: (file name, contents), sorted by name.
pub const FILES: &[(&str, &[u8])] = &[
    (
        "chat_template.jinja",
        include_bytes!("../model/chat_template.jinja"),
    ),
    ("config.json", include_bytes!("../model/config.json")),
    (
        "generation_config.json",
        include_bytes!("../model/generation_config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../model/model.safetensors"),
    ),
    ("tokenizer.json", include_bytes!("../model/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../model/tokenizer_config.json"),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_embedded_in_order() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("model");
        let entries = std::fs::read_dir(folder).expect("the folder is part of the crate");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("a readable entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        let embedded: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(embedded, names);
    }
}
