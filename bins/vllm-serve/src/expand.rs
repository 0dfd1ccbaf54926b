//! From the words typed to the words parsed: `_` for `-`, `--no-` forms, a `--config` file, and
//! vLLM's flags that have no place here.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{ArgAction, Command};
use saphyr::{LoadableYamlNode, Scalar, Yaml};

use crate::compatibility::{self, Verdict};

/// A command line that only holds what this program knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) arguments: Vec<String>,
    /// What to tell once there is a log.
    pub(crate) warnings: Vec<String>,
}

/// Rewrites the words after the program's name for `command`.
///
/// # Errors
/// One sentence about a configuration file or a flag that cannot be followed.
pub(crate) fn expand(
    words: impl Iterator<Item = String>,
    command: &Command,
) -> Result<Expanded, String> {
    let words: Vec<String> = words.map(|word| with_dashes(&word)).collect();
    let words = insert_config(words)?;
    let mut expanded = Expanded::default();
    let known = Known::of(command);
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            expanded.arguments.push(word);
            expanded.arguments.extend(words.by_ref());
            break;
        }
        let Some(flag) = flag_name(&word) else {
            expanded.arguments.push(word);
            continue;
        };
        if known.flags.contains(flag) {
            expanded.arguments.push(word);
        } else if let Some(opposite) = known.opposite(flag) {
            expanded.arguments.retain(|earlier| *earlier != opposite);
        } else if let Some(verdict) = compatibility::verdict(flag) {
            let mut values: Vec<String> = word
                .split_once('=')
                .map(|(_, v)| v.to_owned())
                .into_iter()
                .collect();
            if verdict.takes_values() {
                while let Some(value) =
                    words.next_if(|next| values.is_empty() && flag_name(next).is_none())
                {
                    values.push(value);
                }
            }
            judge(flag, &verdict, &values, &mut expanded)?;
        } else {
            expanded.arguments.push(word);
        }
    }
    Ok(expanded)
}

fn judge(
    flag: &str,
    verdict: &Verdict,
    values: &[String],
    expanded: &mut Expanded,
) -> Result<(), String> {
    match verdict {
        Verdict::WithoutEffect | Verdict::SwitchWithoutEffect => {
            expanded
                .warnings
                .push(format!("--{flag} has no effect here and is ignored"));
            Ok(())
        }
        Verdict::Only { accepted, reason }
            if !values
                .iter()
                .all(|value| accepted.contains(&value.as_str())) =>
        {
            let values = values.join(" ");
            Err(format!("--{flag} {values} is not supported: {reason}"))
        }
        Verdict::Only { .. } => Ok(()),
        Verdict::Refused(reason) => Err(format!("--{flag} is not supported: {reason}")),
    }
}

/// The flags of a command.
struct Known {
    flags: BTreeSet<String>,
    switches: BTreeSet<String>,
}

impl Known {
    fn of(command: &Command) -> Self {
        let mut known = Self {
            flags: BTreeSet::new(),
            switches: BTreeSet::new(),
        };
        for argument in command.get_arguments() {
            let names = argument.get_long_and_visible_aliases().unwrap_or_default();
            let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
            for name in names {
                known.flags.insert(name.to_owned());
                if is_switch {
                    known.switches.insert(name.to_owned());
                }
            }
        }
        known
    }

    /// The word that `flag` takes back: `--x` for `no-x`, `--no-x` for `x`.
    fn opposite(&self, flag: &str) -> Option<String> {
        let opposite = match flag.strip_prefix("no-") {
            Some(positive) if self.switches.contains(positive) => positive.to_owned(),
            _ => format!("no-{flag}"),
        };
        self.switches
            .contains(&opposite)
            .then(|| format!("--{opposite}"))
    }
}

/// The flag's name without dashes and value; `None` for anything else, negative numbers included.
fn flag_name(word: &str) -> Option<&str> {
    let dashless = match word.strip_prefix("--") {
        Some(long) => long,
        None => word
            .strip_prefix('-')
            .filter(|rest| rest.starts_with(|first: char| first.is_ascii_alphabetic()))?,
    };
    let name = dashless.split('=').next()?;
    (!name.is_empty()).then_some(name)
}

/// Underscores in a flag's name count as dashes; its value stays as it is.
pub(crate) fn with_dashes(word: &str) -> String {
    match word.strip_prefix("--") {
        Some(_) => {
            let (name, value) = word.split_at(word.find('=').unwrap_or(word.len()));
            format!("{}{value}", name.replace('_', "-"))
        }
        None => word.to_owned(),
    }
}

/// Replaces `--config FILE` by the file's content, in front of the other flags.
fn insert_config(mut words: Vec<String>) -> Result<Vec<String>, String> {
    let Some(place) = words.iter().position(|word| word == "--config") else {
        return Ok(words);
    };
    let Some(path) = words.get(place + 1).cloned() else {
        return Err("--config needs a file: --config FILE.yaml".to_owned());
    };
    words.drain(place..place + 2);
    if words.iter().any(|word| word == "--config") {
        return Err("--config was given twice; put all flags into one file".to_owned());
    }
    let Config { model, flags } = read_config(Path::new(&path))?;
    let typed_model = words
        .first()
        .filter(|word| flag_name(word).is_none())
        .cloned();
    if typed_model.is_some() {
        words.remove(0);
    }
    let names_model = words.iter().any(|word| flag_name(word) == Some("model"));
    let model = match typed_model.or(model) {
        Some(model) => Some(model),
        None if names_model => None,
        None => {
            return Err(
                "No model specified! Please specify model either as a positional \
                        argument or in a config file."
                    .to_owned(),
            );
        }
    };
    Ok(model.into_iter().chain(flags).chain(words).collect())
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Config {
    model: Option<String>,
    flags: Vec<String>,
}

fn read_config(path: &Path) -> Result<Config, String> {
    let shown = path.display();
    if !matches!(
        path.extension().and_then(|end| end.to_str()),
        Some("yaml" | "yml")
    ) {
        return Err(format!(
            "the configuration {shown} must be a .yaml or .yml file"
        ));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the configuration {shown}: {error}"))?;
    let documents = Yaml::load_from_str(&text)
        .map_err(|error| format!("the configuration {shown} is no YAML: {error}"))?;
    let mut config = Config::default();
    let Some(document) = documents.first() else {
        return Ok(config);
    };
    let Yaml::Mapping(entries) = document else {
        return Err(format!(
            "the configuration {shown} must map flags to values"
        ));
    };
    for (key, value) in entries {
        let key = scalar_text(key)
            .ok_or_else(|| format!("a key in {shown} is no flag's name"))?
            .replace('_', "-");
        match (key.as_str(), value) {
            ("model", value) => config.model = scalar_text(value),
            (_, Yaml::Value(Scalar::Boolean(true))) => config.flags.push(format!("--{key}")),
            // vLLM drops these; the way to switch something off is the `no-` form.
            (_, Yaml::Value(Scalar::Boolean(false) | Scalar::Null)) => {}
            (_, Yaml::Sequence(items)) => {
                config.flags.push(format!("--{key}"));
                config.flags.extend(items.iter().map(value_text));
            }
            (_, value) => {
                config.flags.push(format!("--{key}"));
                config.flags.push(value_text(value));
            }
        }
    }
    Ok(config)
}

/// A value as it would be typed: mappings and nested lists as JSON.
fn value_text(value: &Yaml<'_>) -> String {
    scalar_text(value).unwrap_or_else(|| json(value).to_string())
}

fn scalar_text(value: &Yaml<'_>) -> Option<String> {
    let Yaml::Value(scalar) = value else {
        return None;
    };
    Some(match scalar {
        Scalar::Null => String::new(),
        Scalar::Boolean(value) => value.to_string(),
        Scalar::Integer(value) => value.to_string(),
        Scalar::FloatingPoint(value) => value.to_string(),
        Scalar::String(value) => value.to_string(),
    })
}

fn json(value: &Yaml<'_>) -> serde_json::Value {
    match value {
        Yaml::Value(Scalar::Boolean(value)) => (*value).into(),
        Yaml::Value(Scalar::Integer(value)) => (*value).into(),
        Yaml::Value(Scalar::FloatingPoint(value)) => value.into_inner().into(),
        Yaml::Value(Scalar::String(value)) => value.as_ref().into(),
        Yaml::Sequence(items) => items.iter().map(json).collect(),
        Yaml::Mapping(entries) => {
            let members = entries
                .iter()
                .map(|(key, value)| (scalar_text(key).unwrap_or_default(), json(value)));
            serde_json::Value::Object(members.collect())
        }
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Args;

    fn expand_words(line: &str) -> Result<Expanded, String> {
        expand(line.split_whitespace().map(str::to_owned), &Args::command())
    }

    fn check(line: &str, expected: &str) {
        let expanded = expand_words(line).unwrap();
        assert_eq!(expanded.arguments.join(" "), expected, "{line}");
    }

    #[test]
    fn underscores_in_names_are_dashes() {
        check(
            "m --served_model_name a_b --max_model_len=4_k",
            "m --served-model-name a_b --max-model-len=4_k",
        );
    }

    #[test]
    fn the_last_of_a_switch_and_its_opposite_wins() {
        check("m --enable-log-requests --no-enable-log-requests", "m");
        check(
            "m --no-enable-log-requests --enable-log-requests",
            "m --enable-log-requests",
        );
        check("m --no-enable-prefix-caching --enable-prefix-caching", "m");
        check("m --enable_prefix_caching", "m");
    }

    #[test]
    fn flags_without_a_place_here_are_told_or_refused() {
        let expanded = expand_words("m --enforce-eager --convert auto --port 1").unwrap();
        assert_eq!(expanded.arguments.join(" "), "m --port 1");
        assert_eq!(
            expanded.warnings,
            ["--enforce-eager has no effect here and is ignored"]
        );

        check("m --tensor-parallel-size 1 -tp 1", "m");
        check("m --pipeline-parallel-size=1", "m");
        let refused = |line: &str, mention: &str| {
            let message = expand_words(line).unwrap_err();
            assert!(message.contains(mention), "{line}: {message}");
        };
        refused("m --tensor-parallel-size 2", "--tensor-parallel-size 2");
        refused("m --enable-lora", "--enable-lora");
        refused(
            "m --speculative-config.method ngram",
            "--speculative-config.method",
        );
    }

    #[test]
    fn unknown_flags_are_left_for_the_parser_to_refuse() {
        check("m --frobnicate 3 -x", "m --frobnicate 3 -x");
    }

    fn with_config(yaml: &str, line: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, yaml).unwrap();
        let line = line.replace("FILE", path.to_str().unwrap());
        expand_words(&line).map(|expanded| expanded.arguments.join(" "))
    }

    #[test]
    fn a_file_stands_in_front_of_the_flags() {
        let yaml = "model: m\nport: 12\nserved_model_name: [a, b]\nenable-log-requests: true\n\
                    enable-prefix-caching: false\ngpu-memory-utilization: 0.5\n\
                    default-chat-template-kwargs: {a: true, b: [1, x]}\n";
        let flags = "--port 12 --served-model-name a b --enable-log-requests \
                     --gpu-memory-utilization 0.5 --default-chat-template-kwargs \
                     {\"a\":true,\"b\":[1,\"x\"]}";
        assert_eq!(
            with_config(yaml, "--config FILE --port 1"),
            Ok(format!("m {flags} --port 1"))
        );
        assert_eq!(
            with_config(yaml, "n --config FILE"),
            Ok(format!("n {flags}"))
        );
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let check = |yaml: &str, line: &str, mention: &str| {
            let message = with_config(yaml, line).unwrap_err();
            assert!(message.contains(mention), "{message}");
        };
        check("port: 1\n", "--config FILE", "No model specified");
        check("- a\n", "--config FILE", "must map flags to values");
        check("a: [\n", "--config FILE", "is no YAML");
        check("", "--config", "--config needs a file");
        check("", "m --config FILE --config FILE", "twice");
        check("", "m --config no-such.yaml", "no-such.yaml");
        check(
            "",
            "m --config settings.json",
            "must be a .yaml or .yml file",
        );
    }
}
