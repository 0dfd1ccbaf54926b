use std::ops::Range;

use super::family::{Family, architecture};
use crate::{BlockType, Checkpoint, CheckpointTensor, Error, Result, TensorInfo};

/// A tensor under its Hugging Face name, and how to read it.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// Name in a Hugging Face checkpoint.
    pub name: String,
    /// Index of the file that holds it.
    pub file: usize,
    /// Where it lies there.
    pub bytes: Range<usize>,
    /// `[rows, columns]` or `[size]`.
    pub shape: Vec<usize>,
    /// How its elements are packed.
    pub block_type: BlockType,
    /// Where the rows of a Hugging Face checkpoint are found.
    pub rows: RowOrder,
    /// What a Hugging Face checkpoint's numbers have on top of those in the file.
    pub offset: f32,
}

/// In which order a file holds the rows of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// As a Hugging Face checkpoint does.
    Same,
    /// The two halves of each head, which turn against each other, take turns row by row.
    Interleaved {
        /// Number of heads.
        heads: usize,
    },
}

impl RowOrder {
    /// Which of the file's `rows` rows is row `row` of a Hugging Face checkpoint.
    pub fn source_row(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { heads } => {
                let head_dim = rows / heads;
                let half = head_dim / 2;
                let (head, within) = (row / head_dim, row % head_dim);
                head * head_dim + 2 * (within % half) + within / half
            }
        }
    }

    /// The reverse: which row of a Hugging Face checkpoint is row `row` of the file's `rows`.
    pub fn original_row(self, row: usize, rows: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { heads } => {
                let head_dim = rows / heads;
                let (head, within) = (row / head_dim, row % head_dim);
                head * head_dim + within % 2 * (head_dim / 2) + within / 2
            }
        }
    }
}

/// Names outside the layers.
pub(crate) const OUTER_NAMES: &[(&str, &str)] = &[
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Names within a layer. A family's own names come before these.
pub(crate) const LAYER_NAMES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
];

const GEMMA_NAMES: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
const PHI3_NAMES: &[(&str, &str)] = &[("ffn_up", "mlp.gate_up_proj")];
const MIXTRAL_NAMES: &[(&str, &str)] = &[("ffn_gate_inp", "block_sparse_moe.gate")];

/// Stacks of experts: name in the file, and an expert's part in most families and in Mixtral.
pub(crate) const EXPERT_NAMES: &[(&str, &str, &str)] = &[
    ("ffn_gate_exps", "gate_proj", "w1"),
    ("ffn_up_exps", "up_proj", "w3"),
    ("ffn_down_exps", "down_proj", "w2"),
];

/// All tensors of a model under the names that a Hugging Face checkpoint gives them.
///
/// # Errors
/// An unknown family, a tensor that it does not have, or one of a type that is not read.
pub fn weights(checkpoint: &Checkpoint) -> Result<Vec<Weight>> {
    let naming = Naming::new(checkpoint)?;
    let mut weights = Vec::new();
    for tensor in checkpoint.tensors() {
        // Factors of rotations are part of the configuration.
        if !tensor.info.name.starts_with("rope_") {
            naming.add(tensor, &mut weights)?;
        }
    }
    Ok(weights)
}

/// More than any model has.
const MAX_HEADS: usize = 1 << 16;
const MAX_EXPERTS: usize = 1 << 14;

struct Naming {
    family: Family,
    heads: usize,
    kv_heads: usize,
}

impl Naming {
    fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let architecture = architecture(checkpoint)?;
        let size = |key: &str| -> Result<Option<usize>> {
            let size = checkpoint
                .metadata()
                .size(&format!("{architecture}.{key}"))?;
            Ok(size
                .and_then(|size| usize::try_from(size).ok())
                .filter(|size| (1..=MAX_HEADS).contains(size)))
        };
        let heads = size("attention.head_count")?.unwrap_or(1);
        Ok(Self {
            family: Family::of(checkpoint)?,
            heads,
            kv_heads: size("attention.head_count_kv")?.unwrap_or(heads),
        })
    }

    fn add(&self, tensor: &CheckpointTensor, weights: &mut Vec<Weight>) -> Result<()> {
        let info = &tensor.info;
        let block_type = info
            .block_type
            .clone()
            .map_err(|type_name| Error::UnsupportedType {
                tensor: info.name.clone(),
                type_name,
            })?;
        let unknown = || {
            Error::Damaged(format!(
                "it holds a tensor '{}', which its architecture does not have",
                info.name
            ))
        };
        let (stem, kind) = info.name.rsplit_once('.').ok_or_else(unknown)?;
        let mut weight = Weight {
            name: String::new(),
            file: tensor.file,
            bytes: info.bytes.clone(),
            shape: info.shape.clone(),
            block_type,
            rows: RowOrder::Same,
            offset: 0.0,
        };
        let Some((layer, part)) = layer_and_part(stem) else {
            weight.name = format!("{}.{kind}", find(OUTER_NAMES, stem).ok_or_else(unknown)?);
            weight.offset = self.family.offset(stem);
            weights.push(weight);
            return Ok(());
        };
        if let Some((_, part, mixtral_part)) = EXPERT_NAMES.iter().find(|(name, ..)| *name == part)
        {
            let prefix = match self.family {
                Family::Mixtral => format!("model.layers.{layer}.block_sparse_moe.experts"),
                _ => format!("model.layers.{layer}.mlp.experts"),
            };
            let part = if self.family == Family::Mixtral {
                mixtral_part
            } else {
                part
            };
            return add_experts(info, &weight, weights, |expert| {
                format!("{prefix}.{expert}.{part}.{kind}")
            });
        }
        let name = self.layer_name(part).ok_or_else(unknown)?;
        weight.name = format!("model.layers.{layer}.{name}.{kind}");
        weight.offset = self.family.offset(part);
        if part == "ffn_gate_inp_shexp" && weight.shape.len() == 1 {
            weight.shape.insert(0, 1);
        }
        if self.family.interleaves() {
            let heads = match part {
                "attn_q" => self.heads,
                "attn_k" => self.kv_heads,
                _ => 0,
            };
            if heads > 0 {
                if !weight.shape[0].is_multiple_of(2 * heads) {
                    return Err(Error::Damaged(format!(
                        "tensor '{}' of shape {:?} cannot be cut into {heads} heads",
                        info.name, info.shape
                    )));
                }
                weight.rows = RowOrder::Interleaved { heads };
            }
        }
        weights.push(weight);
        Ok(())
    }

    fn layer_name(&self, part: &str) -> Option<String> {
        let own = self.family.own_names();
        if let Some(name) = find(own, part).or_else(|| find(LAYER_NAMES, part)) {
            return Some(name.to_owned());
        }
        // Files from before experts were stacked: `ffn_gate.3`.
        let (part, expert) = part.split_once('.')?;
        let expert: usize = expert.parse().ok()?;
        let (_, _, part) = EXPERT_NAMES
            .iter()
            .find(|(name, ..)| name.strip_suffix("_exps") == Some(part))?;
        (self.family == Family::Mixtral)
            .then(|| format!("block_sparse_moe.experts.{expert}.{part}"))
    }
}

impl Family {
    /// Names within a layer that are its own.
    pub(crate) fn own_names(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Gemma2 | Self::Gemma3 => GEMMA_NAMES,
            Self::Phi3 => PHI3_NAMES,
            Self::Mixtral => MIXTRAL_NAMES,
            _ => &[],
        }
    }

    /// Whether files hold the rows of queries and keys as [`RowOrder::Interleaved`].
    pub(crate) fn interleaves(self) -> bool {
        matches!(self, Self::Llama | Self::Mixtral)
    }

    /// Gemma's norms multiply by one more than what a Hugging Face checkpoint holds; files hold the
    /// factor itself.
    pub(crate) fn offset(self, part: &str) -> f32 {
        if self.is_gemma() && part.ends_with("norm") {
            -1.0
        } else {
            0.0
        }
    }
}

fn find<'a>(names: &[(&str, &'a str)], wanted: &str) -> Option<&'a str> {
    names
        .iter()
        .find(|(name, _)| *name == wanted)
        .map(|(_, name)| *name)
}

/// `blk.7.attn_q` is part `attn_q` of layer 7.
fn layer_and_part(stem: &str) -> Option<(usize, &str)> {
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// One weight for each expert of a stack `[experts, rows, columns]`.
fn add_experts(
    info: &TensorInfo,
    whole: &Weight,
    weights: &mut Vec<Weight>,
    name: impl Fn(usize) -> String,
) -> Result<()> {
    let [experts, rows, columns] = info.shape[..] else {
        return Err(Error::Damaged(format!(
            "tensor '{}' has shape {:?} instead of [experts, rows, columns]",
            info.name, info.shape
        )));
    };
    if experts > MAX_EXPERTS {
        return Err(Error::Damaged(format!(
            "tensor '{}' stacks {experts} experts",
            info.name
        )));
    }
    // The whole stack was found to fit, so its parts do.
    let size = info.bytes.len() / experts;
    for expert in 0..experts {
        let start = info.bytes.start + expert * size;
        weights.push(Weight {
            name: name(expert),
            bytes: start..start + size,
            shape: vec![rows, columns],
            ..whole.clone()
        });
    }
    Ok(())
}
