//! What the engines are asked to do.

use std::fmt::Write;

use crate::Result;

/// Requests that arrive at once. `new` tokens of output follow each prompt of `prompt` tokens, the
/// first `shared` of which are the same in all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) batch: u64,
    pub(super) prompt: u64,
    pub(super) new: u64,
    pub(super) shared: u64,
    /// The same requests with one token of output; without their time the steps of decoding remain.
    pub(super) prefill: Option<&'static str>,
    /// Part of the comparison of quantized forms.
    in_formats: bool,
}

const fn workload(name: &'static str, batch: u64, prompt: u64, new: u64) -> Workload {
    Workload {
        name,
        batch,
        prompt,
        new,
        shared: 0,
        prefill: None,
        in_formats: false,
    }
}

const ALL: [Workload; 12] = [
    workload("prefill-1x128", 1, 128, 1).in_formats(),
    workload("decode-1", 1, 128, 64)
        .after("prefill-1x128")
        .in_formats(),
    workload("prefill-8x128", 8, 128, 1).in_formats(),
    workload("decode-8", 8, 128, 64)
        .after("prefill-8x128")
        .in_formats(),
    workload("prefill-32x128", 32, 128, 1).in_formats(),
    workload("decode-32", 32, 128, 64)
        .after("prefill-32x128")
        .in_formats(),
    workload("prefill-512", 1, 512, 1).in_formats(),
    workload("prefill-2048", 1, 2048, 1),
    Workload {
        shared: 1024,
        ..workload("shared-prefix-32", 32, 1088, 32)
    },
    workload("prefill-8192", 1, 8192, 1),
    workload("long-1", 1, 8192, 32).after("prefill-8192"),
    workload("long-4", 4, 8192, 32),
];

impl Workload {
    const fn after(mut self, prefill: &'static str) -> Self {
        self.prefill = Some(prefill);
        self
    }

    const fn in_formats(mut self) -> Self {
        self.in_formats = true;
        self
    }

    /// What its rate counts: the tokens of the output, or of the prompt where there is but one.
    pub(super) fn counted_tokens(&self) -> u64 {
        let each = if self.new == 1 { self.prompt } else { self.new };
        self.batch * each
    }

    pub(super) fn is_long(&self) -> bool {
        self.prompt > 4096
    }

    /// As the measured programs take it.
    pub(super) fn argument(&self) -> String {
        let Self {
            name,
            batch,
            prompt,
            new,
            shared,
            ..
        } = self;
        format!("{name}:{batch},{prompt},{new},{shared}")
    }
}

/// The workloads of these names and what they refer to, or all.
pub(super) fn select(formats: bool, names: Option<&[String]>) -> Result<Vec<Workload>> {
    let Some(names) = names else {
        let mut all = ALL.to_vec();
        all.retain(|workload| workload.in_formats || !formats);
        return Ok(all);
    };
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in names {
        let found = ALL.iter().find(|workload| workload.name == name);
        let found =
            found.ok_or_else(|| format!("there is no workload `{name}`, only\n{}", list()))?;
        wanted.extend(found.prefill);
    }
    let selected = ALL.iter().filter(|w| wanted.contains(&w.name));
    Ok(selected.copied().collect())
}

/// All workloads, one a line.
pub(super) fn list() -> String {
    let mut lines = String::new();
    for Workload {
        name,
        batch,
        prompt,
        new,
        shared,
        ..
    } in ALL
    {
        let _ = write!(lines, "{name:18} {batch} x {prompt} tokens in, {new} out");
        let shared = if shared > 0 {
            format!(", {shared} of them shared")
        } else {
            String::new()
        };
        let _ = writeln!(lines, "{shared}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_brings_the_one_that_its_steps_are_told_apart_by() {
        let names = |selected: Vec<Workload>| selected.iter().map(|w| w.name).collect::<Vec<_>>();
        let decode = select(false, Some(&["decode-8".to_owned()])).unwrap();
        assert_eq!(names(decode), ["prefill-8x128", "decode-8"]);
        let error = select(false, Some(&["decode".to_owned()])).unwrap_err();
        assert!(
            error.contains("`decode`") && error.contains("decode-32"),
            "{error}"
        );
        assert!(select(true, None).unwrap().len() < select(false, None).unwrap().len());
    }

    #[test]
    fn references_hold_the_same_requests() {
        for workload in ALL {
            let Some(name) = workload.prefill else {
                continue;
            };
            let prefill = ALL.iter().find(|other| other.name == name).unwrap();
            assert_eq!(prefill.new, 1);
            assert_eq!(
                (prefill.batch, prefill.prompt, prefill.shared),
                (workload.batch, workload.prompt, workload.shared)
            );
        }
    }
}
