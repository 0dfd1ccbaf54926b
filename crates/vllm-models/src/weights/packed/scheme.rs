//! Which stored tensors make up which weights, by the checkpoint's `quantization_config`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::bitsandbytes::{self, FourBit};
use super::grouped::{self, Grouped, Scheme};
use super::piece::{Kind, Piece};
use super::scaled::Scaled;
use super::{NamedFile, PackedTensor};
use crate::{Error, Result};

/// Stored tensors by name.
pub(in super::super) type Stored = BTreeMap<String, Piece>;

/// Scales of activations and of the cache, which the weights do without, and notes on layouts.
const UNUSED_SUFFIXES: [&str; 9] = [
    ".input_scale",
    ".output_scale",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".prob_scale",
    ".weight_format",
    ".input_zero_point",
    ".input_global_scale",
];

/// Refuses a `quantization_config` whose weights are not read.
pub(crate) fn check(config: &Value) -> Result<()> {
    let method = method(config);
    let unsupported = |detail: String| Err(Error::UnsupportedQuantization(detail));
    match method {
        "gptq" | "gptq_marlin" => match config["bits"].as_u64() {
            Some(2 | 4 | 8) => Ok(()),
            bits => unsupported(format!("gptq with {bits:?} bits",)),
        },
        "awq" | "awq_marlin" => {
            let version = config["version"].as_str().unwrap_or("gemm").to_lowercase();
            let bits = config["bits"]
                .as_u64()
                .or(config["w_bit"].as_u64())
                .unwrap_or(4);
            match (bits, version.as_str()) {
                (4, "gemm") => Ok(()),
                _ => unsupported(format!("awq with {bits} bits in the {version} layout")),
            }
        }
        "compressed-tensors" => {
            let format = config["format"].as_str().unwrap_or("dense");
            match format {
                "dense" | "pack-quantized" | "int-quantized" | "float-quantized"
                | "naive-quantized" | "mixed-precision" => Ok(()),
                other => unsupported(format!("compressed-tensors in the form {other}")),
            }
        }
        "fp8" | "bitsandbytes" => Ok(()),
        other => unsupported(other.to_owned()),
    }
}

fn method(config: &Value) -> &str {
    // Early checkpoints of compressed-tensors name no method.
    let named = config["quant_method"].as_str();
    named.unwrap_or(if config["config_groups"].is_object() {
        "compressed-tensors"
    } else {
        "unknown"
    })
}

/// Takes what makes up quantized weights out of `stored` and gives those weights by name.
pub(in super::super) fn assemble(
    config: &Value,
    stored: &mut Stored,
    files: &[NamedFile],
) -> Result<BTreeMap<String, PackedTensor>> {
    check(config)?;
    let mut parts = Parts { stored, files };
    let packed = match method(config) {
        "gptq" | "gptq_marlin" => parts.gptq(config),
        "awq" | "awq_marlin" => parts.awq(),
        "bitsandbytes" => parts.bitsandbytes(),
        _ => parts.scaled_or_packed(config),
    }?;
    stored.retain(|name, _| !UNUSED_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)));
    Ok(packed)
}

struct Parts<'a> {
    stored: &'a mut Stored,
    files: &'a [NamedFile],
}

impl Parts<'_> {
    /// The names that end in `suffix`, without it.
    fn prefixes(&self, suffix: &str) -> Vec<String> {
        let names = self.stored.keys();
        names
            .filter_map(|name| name.strip_suffix(suffix))
            .map(str::to_owned)
            .collect()
    }

    fn take(&mut self, prefix: &str, suffix: &str) -> Option<Piece> {
        self.stored.remove(&format!("{prefix}{suffix}"))
    }

    fn need(&mut self, prefix: &str, suffix: &str) -> Result<Piece> {
        self.take(prefix, suffix).ok_or_else(|| {
            let files: Vec<_> = self.files.iter().map(|(name, _)| name.as_str()).collect();
            Error::File {
                file: files.join(", "),
                message: format!("tensor '{prefix}{suffix}' of a quantized weight is missing"),
            }
        })
    }

    fn gptq(&mut self, config: &Value) -> Result<BTreeMap<String, PackedTensor>> {
        let bits = config["bits"].as_u64().unwrap_or(4) as u32;
        // The first form of the format stores zeros less one.
        let is_second = config["checkpoint_format"].as_str() == Some("gptq_v2");
        let scheme = Scheme::Gptq {
            zero_offset: u32::from(!is_second),
        };
        self.grouped(scheme, bits)
    }

    fn awq(&mut self) -> Result<BTreeMap<String, PackedTensor>> {
        self.grouped(Scheme::Awq, 4)
    }

    fn grouped(&mut self, scheme: Scheme, bits: u32) -> Result<BTreeMap<String, PackedTensor>> {
        let mut packed = BTreeMap::new();
        for prefix in self.prefixes(".qweight") {
            let pieces = grouped::Pieces {
                codes: self.need(&prefix, ".qweight")?,
                scales: self.need(&prefix, ".scales")?,
                zeros: self.take(&prefix, ".qzeros"),
                group_of_input: self.take(&prefix, ".g_idx"),
            };
            let weight = Grouped::assemble(scheme, bits, None, pieces, self.files)?;
            self.drop_zero_bias(&prefix)?;
            packed.insert(format!("{prefix}.weight"), weight);
        }
        Ok(packed)
    }

    /// Some quantizers write a bias of zeros to every layer.
    fn drop_zero_bias(&mut self, prefix: &str) -> Result<()> {
        let name = format!("{prefix}.bias");
        if let Some(bias) = self.stored.get(&name) {
            let view = bias.view(self.files)?;
            if view.bytes().iter().all(|byte| *byte == 0) {
                self.stored.remove(&name);
            }
        }
        Ok(())
    }

    /// compressed-tensors and FP8.
    fn scaled_or_packed(&mut self, config: &Value) -> Result<BTreeMap<String, PackedTensor>> {
        let mut packed = BTreeMap::new();
        for prefix in self.prefixes(".weight_packed") {
            let codes = self.need(&prefix, ".weight_packed")?;
            let shape = self.need(&prefix, ".weight_shape")?;
            let in_features = self.last_number(&shape)?;
            let bits = codes
                .shape
                .last()
                .filter(|words| **words > 0)
                .map(|words| {
                    32 / in_features
                        .div_ceil(*words)
                        .max(1)
                        .next_power_of_two()
                        .min(32)
                })
                .filter(|bits| matches!(bits, 2 | 4 | 8))
                .ok_or_else(|| {
                    codes.error(self.files, "packs an unknown number of bits".to_owned())
                })?;
            let pieces = grouped::Pieces {
                codes,
                scales: self.need(&prefix, ".weight_scale")?,
                zeros: self.take(&prefix, ".weight_zero_point"),
                group_of_input: self.take(&prefix, ".weight_g_idx"),
            };
            let scheme = Scheme::CompressedTensors;
            let weight =
                Grouped::assemble(scheme, bits as u32, Some(in_features), pieces, self.files)?;
            packed.insert(format!("{prefix}.weight"), weight);
        }
        let tile = tile(config);
        for suffix in [".weight_scale", ".weight_scale_inv"] {
            for prefix in self.prefixes(suffix) {
                let codes = self.need(&prefix, ".weight")?;
                let scales = self.need(&prefix, suffix)?;
                self.drop_zero_point(&prefix)?;
                let weight = Scaled::assemble(codes, scales, tile, 1.0, self.files)?;
                packed.insert(format!("{prefix}.weight"), weight);
            }
        }
        Ok(packed)
    }

    /// Symmetric weights may come with zeros that are all zero.
    fn drop_zero_point(&mut self, prefix: &str) -> Result<()> {
        let Some(zeros) = self.take(prefix, ".weight_zero_point") else {
            return Ok(());
        };
        if zeros
            .view(self.files)?
            .bytes()
            .iter()
            .all(|byte| *byte == 0)
        {
            return Ok(());
        }
        Err(zeros.error(
            self.files,
            "holds zero points other than 0, which are not supported".to_owned(),
        ))
    }

    fn last_number(&self, piece: &Piece) -> Result<usize> {
        piece.expect(&[Kind::I64, Kind::I32], self.files)?;
        let last = piece.len().checked_sub(1);
        let number = last.map(|last| Ok::<_, Error>(piece.view(self.files)?.number(last)));
        let number = number.transpose()?.filter(|number| *number >= 1.0);
        number
            .map(|number| number as usize)
            .ok_or_else(|| piece.error(self.files, "does not hold a shape".to_owned()))
    }

    fn bitsandbytes(&mut self) -> Result<BTreeMap<String, PackedTensor>> {
        let mut packed = BTreeMap::new();
        for kind in ["nf4", "fp4"] {
            let suffix = format!(".quant_state.bitsandbytes__{kind}");
            for name in self.prefixes(&suffix) {
                let pieces = bitsandbytes::Pieces {
                    codes: self.need(&name, "")?,
                    state: self.need(&name, &suffix)?,
                    scales: self.need(&name, ".absmax")?,
                    table: self.need(&name, ".quant_map")?,
                    nested_scales: self.take(&name, ".nested_absmax"),
                    nested_table: self.take(&name, ".nested_quant_map"),
                };
                packed.insert(name, FourBit::assemble(pieces, self.files)?);
            }
        }
        for prefix in self.prefixes(".SCB") {
            let scales = self.need(&prefix, ".SCB")?;
            let codes = self.need(&prefix, ".weight")?;
            let weight = Scaled::assemble(codes, scales, None, 1.0 / 127.0, self.files)?;
            packed.insert(format!("{prefix}.weight"), weight);
        }
        Ok(packed)
    }
}

/// Rows and columns that share a scale, where the config names them.
fn tile(config: &Value) -> Option<(usize, usize)> {
    let own = &config["weight_block_size"];
    let groups = config["config_groups"].as_object();
    let of_group = groups.and_then(|groups| {
        groups
            .values()
            .map(|group| &group["weights"]["block_structure"])
            .find(|size| size.is_array())
    });
    let size = if own.is_array() { own } else { of_group? };
    let side = |index: usize| {
        size[index]
            .as_u64()
            .and_then(|side| usize::try_from(side).ok())
    };
    Some((side(0)?, side(1)?))
}
