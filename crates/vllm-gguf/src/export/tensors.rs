use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{ExportTensor, Source, TensorKind, not_written};
use crate::Result;
use crate::hugging_face::{EXPERT_NAMES, Family, LAYER_NAMES, OUTER_NAMES, RowOrder};

/// Buffers that some checkpoints carry.
const IGNORED: [&str; 1] = ["rotary_emb.inv_freq"];

/// The experts' weights of a part of a layer.
#[derive(Default)]
struct Stack {
    shape: Vec<usize>,
    /// Names of the tensors.
    experts: BTreeMap<usize, String>,
}

/// The tensors of a file, those outside the layers first.
pub(super) fn tensors(
    config: &Json,
    family: Family,
    tensors: &[(String, Vec<usize>)],
) -> Result<Vec<ExportTensor>> {
    let size = |key: &str| config[key].as_u64().map(|size| size as usize);
    let heads = size("num_attention_heads").unwrap_or(1);
    let naming = Naming {
        family,
        heads,
        kv_heads: size("num_key_value_heads").unwrap_or(heads),
    };
    let mut exported = BTreeMap::new();
    // By layer and part.
    let mut stacks: BTreeMap<(usize, String), Stack> = BTreeMap::new();
    for (name, shape) in tensors {
        if IGNORED.iter().any(|ignored| name.ends_with(ignored)) {
            continue;
        }
        let unknown = || {
            not_written(format!(
                "tensor '{name}' has no name in GGUF files of this architecture"
            ))
        };
        let (stem, kind) = name.rsplit_once('.').ok_or_else(unknown)?;
        if let Some((layer, part, expert)) = naming.expert(stem) {
            let key = (layer, format!("{part}.{kind}"));
            let Stack {
                shape: stack_shape,
                experts,
            } = stacks.entry(key).or_default();
            if !stack_shape.is_empty() && stack_shape != shape {
                return Err(not_written(format!(
                    "the experts of layer {layer} are of different shapes"
                )));
            }
            stack_shape.clone_from(shape);
            experts.insert(expert, name.clone());
            continue;
        }
        let (layer, part) = naming.part(stem).ok_or_else(unknown)?;
        let tensor = naming.tensor(name, shape, layer, part, kind)?;
        exported.insert((layer, tensor.name.clone()), tensor);
    }
    for ((layer, part), Stack { shape, experts }) in stacks {
        if experts.keys().copied().ne(0..experts.len()) {
            return Err(not_written(format!(
                "not all experts of layer {layer} are there"
            )));
        }
        let name = format!("blk.{layer}.{part}");
        let tensor = ExportTensor {
            shape: [&[experts.len()], &shape[..]].concat(),
            source: Source::Tensors {
                names: experts.into_values().collect(),
                rows: RowOrder::Same,
                offset: 0.0,
            },
            kind: TensorKind::Linear,
            name: name.clone(),
        };
        exported.insert((Some(layer), name), tensor);
    }
    Ok(exported.into_values().collect())
}

struct Naming {
    family: Family,
    heads: usize,
    kv_heads: usize,
}

impl Naming {
    /// Layer, part and number of an expert.
    fn expert(&self, stem: &str) -> Option<(usize, &'static str, usize)> {
        let (layer, rest) = layer_and_rest(stem)?;
        let prefix = match self.family {
            Family::Mixtral => "block_sparse_moe.experts.",
            _ => "mlp.experts.",
        };
        let (expert, wanted) = rest.strip_prefix(prefix)?.split_once('.')?;
        let (part, ..) = EXPERT_NAMES.iter().find(|(_, part, mixtral_part)| {
            wanted
                == match self.family {
                    Family::Mixtral => *mixtral_part,
                    _ => *part,
                }
        })?;
        Some((layer, part, expert.parse().ok()?))
    }

    /// Layer, if it is in one, and part.
    fn part(&self, stem: &str) -> Option<(Option<usize>, &'static str)> {
        let find = |names: &[(&'static str, &str)], wanted: &str| {
            names
                .iter()
                .find(|(_, name)| *name == wanted)
                .map(|(part, _)| *part)
        };
        if let Some((layer, rest)) = layer_and_rest(stem) {
            let own = find(self.family.own_names(), rest);
            return Some((Some(layer), own.or_else(|| find(LAYER_NAMES, rest))?));
        }
        Some((None, find(OUTER_NAMES, stem)?))
    }

    fn tensor(
        &self,
        source: &str,
        shape: &[usize],
        layer: Option<usize>,
        part: &str,
        kind: &str,
    ) -> Result<ExportTensor> {
        let name = match layer {
            Some(layer) => format!("blk.{layer}.{part}.{kind}"),
            None => format!("{part}.{kind}"),
        };
        let mut shape = shape.to_vec();
        if part == "ffn_gate_inp_shexp" && shape.first() == Some(&1) {
            shape.remove(0);
        }
        let heads = match part {
            "attn_q" => self.heads,
            "attn_k" => self.kv_heads,
            _ => 0,
        };
        let is_interleaved = heads > 0 && self.family.interleaves();
        if is_interleaved && !shape[0].is_multiple_of(2 * heads) {
            return Err(not_written(format!(
                "tensor '{source}' of shape {shape:?} cannot be cut into {heads} heads"
            )));
        }
        Ok(ExportTensor {
            name,
            kind: match part {
                _ if shape.len() < 2 => TensorKind::Vector,
                "ffn_gate_inp" => TensorKind::Router,
                "token_embd" => TensorKind::Embedding,
                "output" => TensorKind::Head,
                _ => TensorKind::Linear,
            },
            shape,
            source: Source::Tensors {
                names: vec![source.to_owned()],
                rows: match is_interleaved {
                    true => RowOrder::Interleaved { heads },
                    false => RowOrder::Same,
                },
                offset: self.family.offset(part),
            },
        })
    }
}

/// `model.layers.7.mlp.up_proj` is `mlp.up_proj` of layer 7.
fn layer_and_rest(stem: &str) -> Option<(usize, &str)> {
    let (layer, rest) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}
