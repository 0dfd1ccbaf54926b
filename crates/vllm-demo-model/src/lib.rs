//! The embedded demo model: a 2.4 M-parameter OPT with its tokenizer and chat template.
