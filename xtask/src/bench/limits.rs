//! How fast a workload could be on a machine that wastes nothing.

use std::fmt;

use super::workloads::Workload;
use crate::Result;

/// What this machine can do, all cores together.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) threads: f64,
    pub(super) read_bytes_per_second: f64,
    /// Name and operations per second of each way to multiply.
    pub(super) flops: Vec<(String, f64)>,
}

impl Machine {
    /// Reads what the program prints when asked for `machine`.
    pub(super) fn parse(lines: &str) -> Result<Self> {
        let flops = values(lines)?
            .into_iter()
            .filter_map(|(name, value)| Some((name.strip_suffix("_flops")?.to_owned(), value)))
            .collect();
        Ok(Self {
            threads: value(lines, "threads")?,
            read_bytes_per_second: value(lines, "read_bytes_per_second")?,
            flops,
        })
    }

    fn best_flops(&self) -> f64 {
        self.flops
            .iter()
            .fold(f64::NAN, |best, (_, flops)| best.max(*flops))
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = self.read_bytes_per_second / 1e9;
        write!(f, "{} threads read {gigabytes:.1} GB/s", self.threads)?;
        for (name, flops) in &self.flops {
            let name = name.replace('_', " ");
            write!(f, ", {name} {:.0} GFLOP/s", flops / 1e9)?;
        }
        Ok(())
    }
}

/// What a step of the model reads and computes.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    layer_weights: f64,
    head_weights: f64,
    kv_values: f64,
    attention_flops: f64,
}

/// Bytes of a value of the KV cache, and of a weight unless it is quantized: bfloat16.
const BF16_BYTES: f64 = 2.0;

impl Shape {
    /// Reads what the program prints when asked for `shape`.
    pub(super) fn parse(lines: &str) -> Result<Self> {
        Ok(Self {
            layer_weights: value(lines, "layer_weights")?,
            head_weights: value(lines, "head_weights")?,
            kv_values: value(lines, "kv_values")?,
            attention_flops: value(lines, "attention_flops")?,
        })
    }

    /// Bytes of the weights in bfloat16.
    pub(super) fn weight_bytes(&self) -> f64 {
        BF16_BYTES * (self.layer_weights + self.head_weights)
    }

    /// Seconds that the prompts of `workload` take at least.
    pub(super) fn prefill_seconds(&self, machine: &Machine, workload: &Workload) -> f64 {
        let Workload {
            batch,
            prompt,
            shared,
            ..
        } = *workload;
        let (batch, prompt, shared) = (batch as f64, prompt as f64, shared as f64);
        let tokens = shared + batch * (prompt - shared);
        // Every query looks at the positions before it; shared ones look once.
        let pairs = (shared * shared + batch * (prompt * prompt - shared * shared)) / 2.0;
        let flops = 2.0 * (self.layer_weights * tokens + self.head_weights * batch)
            + self.attention_flops * pairs;
        let bytes = self.weight_bytes();
        seconds(machine, flops, bytes)
    }

    /// Seconds that a step of decoding takes at least, in the middle of `workload`'s output.
    pub(super) fn step_seconds(&self, machine: &Machine, workload: &Workload) -> f64 {
        let batch = workload.batch as f64;
        let context = (workload.prompt + workload.new / 2) as f64;
        let bytes = self.weight_bytes() + BF16_BYTES * self.kv_values * context * batch;
        let flops = batch
            * (2.0 * (self.layer_weights + self.head_weights) + self.attention_flops * context);
        seconds(machine, flops, bytes)
    }

    /// Seconds that `workload` takes at least.
    pub(super) fn seconds(&self, machine: &Machine, workload: &Workload) -> f64 {
        let steps = (workload.new - 1) as f64;
        self.prefill_seconds(machine, workload) + steps * self.step_seconds(machine, workload)
    }
}

fn seconds(machine: &Machine, flops: f64, bytes: f64) -> f64 {
    (flops / machine.best_flops()).max(bytes / machine.read_bytes_per_second)
}

/// The lines of two words, a name and a number.
pub(super) fn values(lines: &str) -> Result<Vec<(String, f64)>> {
    let value = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    lines
        .lines()
        .map(|line| value(line).ok_or_else(|| format!("`{line}` is not a name and a number")))
        .collect()
}

fn value(lines: &str, wanted: &str) -> Result<f64> {
    values(lines)?
        .into_iter()
        .find_map(|(name, value)| (name == wanted).then_some(value))
        .ok_or_else(|| format!("the measuring program does not tell `{wanted}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workloads::select;

    const MACHINE: &str =
        "threads 2\nread_bytes_per_second 1e10\nf32_flops 1e11\nbf16_flops 1e12\n";
    const SHAPE: &str =
        "layer_weights 4e8\nhead_weights 1e8\nkv_values 1000\nattention_flops 1000\n";

    #[test]
    fn decoding_is_bound_by_memory_and_prefill_by_arithmetic() {
        let machine = Machine::parse(MACHINE).unwrap();
        let shape = Shape::parse(SHAPE).unwrap();
        let select = |name: &str| {
            *select(false, Some(&[name.to_owned()]))
                .unwrap()
                .last()
                .unwrap()
        };
        // 1 GB of weights and 160 positions of 2000 bytes at 10 GB/s.
        let step = shape.step_seconds(&machine, &select("decode-1"));
        assert!(
            (step - (1e9 + 160.0 * 2000.0) / 1e10).abs() < 1e-9,
            "{step}"
        );
        let prefill = shape.prefill_seconds(&machine, &select("prefill-512"));
        let flops = 2.0 * (4e8 * 512.0 + 1e8) + 1000.0 * 512.0 * 512.0 / 2.0;
        assert!((prefill - flops / 1e12).abs() < 1e-9, "{prefill}");
    }

    #[test]
    fn what_the_program_prints_is_checked() {
        assert!(
            Machine::parse("threads 2\n")
                .unwrap_err()
                .contains("read_bytes_per_second")
        );
        assert!(
            Shape::parse("layer_weights many\n")
                .unwrap_err()
                .contains("many")
        );
    }
}
