//! From a model's name to its files: folder, embedded, Hugging Face, ModelScope.
