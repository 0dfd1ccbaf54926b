use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use vllm_tensor::{DType, Device, Embedding, LayerNorm, Linear, Tensor, activation_dtype};

use crate::{Error, Result, WeightFiles};

/// Hands a model its tensors by name, checked, in the dtype they are to be kept in, and notices what
/// is left over.
pub(crate) struct WeightLoader<'a> {
    files: &'a WeightFiles,
    /// Canonical name → name in the files.
    names: BTreeMap<String, String>,
    taken: RefCell<BTreeSet<String>>,
    device: Device,
    dtype: DType,
}

/// Buffers that older checkpoints carry and no model needs.
const IGNORABLE_SUFFIXES: [&str; 7] = [
    "rotary_emb.inv_freq",
    "cos_cached",
    "sin_cached",
    // The causal masks of GPT-2 and GPT-NeoX.
    ".attn.bias",
    ".attn.masked_bias",
    ".attention.bias",
    ".attention.masked_bias",
];

impl<'a> WeightLoader<'a> {
    pub(crate) fn new(
        files: &'a WeightFiles,
        canonical_name: fn(&str) -> &str,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut names = BTreeMap::new();
        for name in files.tensor_names() {
            let canonical = canonical_name(name).to_owned();
            if let Some(other) = names.insert(canonical, name.to_owned()) {
                return Err(Error::File {
                    file: files.file_names(),
                    message: format!("tensors '{other}' and '{name}' are the same weight"),
                });
            }
        }
        let taken = RefCell::default();
        Ok(Self {
            files,
            names,
            taken,
            device: device.clone(),
            dtype,
        })
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// How weights are kept.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// A linear layer from `{prefix}.weight` and, if `bias`, `{prefix}.bias`.
    pub(crate) fn linear(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Result<Linear> {
        self.stacked_linear(&[(prefix.to_owned(), out_features)], in_features, bias)
    }

    /// A linear layer whose weight the checkpoint stores as `[in, out]`.
    pub(crate) fn transposed_linear(
        &self,
        prefix: &str,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Result<Linear> {
        let weight = self.matrix(&format!("{prefix}.weight"), in_features, out_features)?;
        let bias = bias
            .then(|| self.vector(&format!("{prefix}.bias"), out_features))
            .transpose()?;
        Ok(Linear::new(weight.t()?, bias)?)
    }

    /// One linear layer from several of the same input, given as prefix and output width, whose
    /// outputs lie side by side: one pass over the input instead of several.
    pub(crate) fn stacked_linear(
        &self,
        parts: &[(String, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear> {
        let weights = parts.iter().map(|(prefix, out_features)| {
            self.matrix(&format!("{prefix}.weight"), *out_features, in_features)
        });
        let weight = concatenate(weights.collect::<Result<_>>()?)?;
        let bias = if bias {
            let biases = parts.iter().map(|(prefix, out_features)| {
                self.vector(&format!("{prefix}.bias"), *out_features)
            });
            Some(concatenate(biases.collect::<Result<_>>()?)?)
        } else {
            None
        };
        Ok(Linear::new(weight, bias)?)
    }

    /// An embedding table, `[rows, width]`.
    pub(crate) fn embedding(&self, name: &str, rows: usize, width: usize) -> Result<Embedding> {
        Ok(Embedding::new(self.matrix(name, rows, width)?)?)
    }

    /// The output layer `lm_head`, shared with `embedding`, the table `embedding_name`, where
    /// `tied`. A head in the checkpoint wins over the tie, unless it is the table once more.
    pub(crate) fn lm_head(
        &self,
        embedding: &Embedding,
        embedding_name: &str,
        tied: bool,
    ) -> Result<Linear> {
        const HEAD: &str = "lm_head.weight";
        let shared = match (self.names.get(HEAD), self.names.get(embedding_name)) {
            (Some(head), Some(table)) => tied && self.files.are_equal(head, table),
            _ => tied,
        };
        if shared {
            self.taken.borrow_mut().insert(HEAD.to_owned());
            return Ok(Linear::tied_to(embedding)?);
        }
        let (vocab_size, width) = embedding.dims();
        self.linear("lm_head", width, vocab_size, false)
    }

    /// The weight of a norm without a bias, `{prefix}.weight`, in the dtype of activations.
    pub(crate) fn norm_weight(&self, prefix: &str, size: usize) -> Result<Tensor> {
        self.vector(&format!("{prefix}.weight"), size)
    }

    /// A layer norm from `{prefix}.weight` and `{prefix}.bias`; without them if not `affine`.
    pub(crate) fn layer_norm(
        &self,
        prefix: &str,
        size: usize,
        eps: f64,
        affine: bool,
    ) -> Result<LayerNorm> {
        let parameter = |kind: &str| {
            affine
                .then(|| self.vector(&format!("{prefix}.{kind}"), size))
                .transpose()
        };
        Ok(LayerNorm::new(
            parameter("weight")?,
            parameter("bias")?,
            size,
            eps,
        )?)
    }

    /// Complains of tensors that nobody asked for.
    pub(crate) fn finish(&self, architecture: &str) -> Result<()> {
        let taken = self.taken.borrow();
        let surplus: Vec<String> = self
            .names
            .iter()
            .filter(|(canonical, _)| !taken.contains(*canonical))
            .map(|(_, name)| name.clone())
            .filter(|name| {
                !IGNORABLE_SUFFIXES
                    .iter()
                    .any(|suffix| name.ends_with(suffix))
            })
            .collect();
        if surplus.is_empty() {
            return Ok(());
        }
        Err(Error::SurplusTensors {
            architecture: architecture.to_owned(),
            tensors: surplus,
        })
    }

    /// `number` as the weights' dtype holds it.
    pub(crate) fn round(&self, number: f64) -> Result<f64> {
        let rounded = Tensor::new(number, &Device::Cpu)?.to_dtype(self.dtype)?;
        Ok(rounded.to_dtype(DType::F64)?.to_scalar()?)
    }

    /// A weight, `[rows, columns]`, as it is to be kept.
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.tensor(name, &[rows, columns], self.dtype)
    }

    /// A norm's weight or a bias, in the dtype of activations.
    pub(crate) fn vector(&self, name: &str, size: usize) -> Result<Tensor> {
        self.tensor(name, &[size], activation_dtype(&self.device, self.dtype))
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let Some(file_name) = self.names.get(name) else {
            return Err(Error::MissingTensor {
                tensor: name.to_owned(),
                files: self.files.file_names(),
                expected: shape.to_vec(),
            });
        };
        self.taken.borrow_mut().insert(name.to_owned());
        self.files.tensor(file_name, shape, dtype, &self.device)
    }
}

fn concatenate(mut tensors: Vec<Tensor>) -> Result<Tensor> {
    if tensors.len() == 1 {
        return Ok(tensors.remove(0));
    }
    Ok(Tensor::cat(&tensors, 0)?)
}
