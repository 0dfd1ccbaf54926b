use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vllm_tensor::{
    DType, Device, LayerNorm, QuantizedMatrix, ScaledMatrix, Tensor, WeightRows, activation_dtype,
};

use crate::deferred::{Deferred, Load};
use crate::weights::{NarrowWeight, ScaledRows, WeightRole, Weights};
use crate::{Error, Result};

/// A linear layer whose weights may not have been read yet.
pub(crate) type Linear = Deferred<vllm_tensor::Linear>;

/// An embedding table that may not have been read yet.
pub(crate) type Embedding = Deferred<vllm_tensor::Embedding>;

/// Hands a model its parts by the names of their tensors, checked, in the dtype they are to be kept
/// in, and notices what is left over.
///
/// Whatever is large is only found and checked here and read when the whole model has been.
pub(crate) struct WeightLoader {
    weights: Arc<Weights>,
    /// Canonical name → name in the files.
    names: BTreeMap<String, String>,
    taken: RefCell<BTreeSet<String>>,
    loads: RefCell<Vec<Box<dyn Load>>>,
    roles: RefCell<Roles>,
    device: Device,
    dtype: DType,
}

/// A tensor that was found and fits, to be read later.
pub(crate) struct FoundTensor {
    weights: Arc<Weights>,
    /// In the files.
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    device: Device,
    role: WeightRole,
}

impl FoundTensor {
    pub(crate) fn read(&self) -> Result<Tensor> {
        self.weights
            .tensor(&self.name, &self.shape, self.dtype, &self.device)
    }

    /// The rows of a matrix, where they lie.
    pub(crate) fn rows(&self) -> Result<Box<dyn WeightRows + '_>> {
        let columns = self.shape.iter().skip(1).product();
        let num_rows = self.shape.first().copied().unwrap_or(1);
        self.weights.rows(&self.name, num_rows, columns, self.dtype)
    }

    /// Says that it will not be read again.
    pub(crate) fn release(&self) {
        self.weights.release(&self.name);
    }

    /// The weight in a narrow form, where the device multiplies those.
    fn narrow(&self) -> Result<Option<NarrowWeight<'_>>> {
        match (self.weights.files(), &self.shape[..]) {
            (Some(files), [rows, columns]) if self.device.is_cpu() => {
                files.narrow(&self.name, *rows, *columns, self.role)
            }
            _ => Ok(None),
        }
    }

    /// Bytes that it will take.
    pub(crate) fn num_bytes(&self) -> u64 {
        let kept = self
            .weights
            .files()
            .and_then(|files| files.kept_bytes(&self.name, self.role));
        if let Some(kept) = kept.filter(|_| self.device.is_cpu()) {
            return kept;
        }
        let elements = self.shape.iter().product::<usize>();
        elements as u64 * self.dtype.size_in_bytes() as u64
    }
}

/// Matrices of one width, one below the other, in a narrow form.
enum Narrow {
    Codes(QuantizedMatrix),
    Scaled(ScaledMatrix),
}

impl Narrow {
    /// `None` where they do not all have such a form.
    fn read(weights: &[FoundTensor], dtype: DType) -> Result<Option<Self>> {
        let (mut codes, mut scaled) = (Vec::new(), Vec::new());
        for weight in weights {
            match weight.narrow()? {
                Some(NarrowWeight::Codes(matrix)) if scaled.is_empty() => codes.push(matrix),
                Some(NarrowWeight::Scaled(rows)) if codes.is_empty() => scaled.push(rows),
                _ => return Ok(None),
            }
        }
        let narrow = match codes.is_empty() {
            true => ScaledRows::stack(&scaled, dtype)?.map(Self::Scaled),
            false => Some(Self::Codes(QuantizedMatrix::stack(codes)?)),
        };
        if narrow.is_some() {
            weights.iter().for_each(FoundTensor::release);
        }
        Ok(narrow)
    }
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

/// What matrices are for, by their names in the files.
pub(crate) type Roles = BTreeMap<String, WeightRole>;

/// The output layer's weight.
const HEAD: &str = "lm_head.weight";

impl WeightLoader {
    pub(crate) fn new(
        weights: Weights,
        canonical_name: fn(&str) -> &str,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let mut names = BTreeMap::new();
        if let Some(files) = weights.files() {
            for name in files.tensor_names() {
                let canonical = canonical_name(name).to_owned();
                if let Some(other) = names.insert(canonical, name.to_owned()) {
                    return Err(Error::File {
                        file: files.file_names(),
                        message: format!("tensors '{other}' and '{name}' are the same weight"),
                    });
                }
            }
        }
        Ok(Self {
            weights: Arc::new(weights),
            names,
            taken: RefCell::default(),
            loads: RefCell::default(),
            roles: RefCell::default(),
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

    fn note_role(&self, weight: &FoundTensor) {
        let mut roles = self.roles.borrow_mut();
        roles.insert(weight.name.clone(), weight.role);
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
        Ok(self.defer(weight.num_bytes(), move || {
            let bias = bias.map(|bias| bias.read()).transpose()?;
            Ok(vllm_tensor::Linear::new(weight.read()?.t()?, bias)?)
        }))
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
        let weights = weights.collect::<Result<Vec<_>>>()?;
        weights.iter().for_each(|weight| self.note_role(weight));
        let biases = parts
            .iter()
            .filter(|_| bias)
            .map(|(prefix, out_features)| self.vector(&format!("{prefix}.bias"), *out_features));
        let biases = biases.collect::<Result<Vec<_>>>()?;
        let num_bytes = weights.iter().map(FoundTensor::num_bytes).sum();
        let (dtype, device) = (self.dtype, self.device.clone());
        Ok(self.defer(num_bytes, move || {
            let bias = bias.then(|| read_and_concatenate(&biases)).transpose()?;
            match Narrow::read(&weights, dtype)? {
                Some(Narrow::Codes(weight)) => {
                    return Ok(vllm_tensor::Linear::quantized(weight, bias)?);
                }
                Some(Narrow::Scaled(weight)) => {
                    return Ok(vllm_tensor::Linear::scaled(weight, bias)?);
                }
                None => {}
            }
            let parts = weights.iter().map(FoundTensor::rows);
            let parts = parts.collect::<Result<Vec<_>>>()?;
            let parts: Vec<&dyn WeightRows> = parts.iter().map(|part| &**part).collect();
            let linear = vllm_tensor::Linear::from_rows(&parts, in_features, dtype, &device, bias)?;
            weights.iter().for_each(FoundTensor::release);
            Ok(linear)
        }))
    }

    /// An embedding table, `[rows, width]`.
    pub(crate) fn embedding(&self, name: &str, rows: usize, width: usize) -> Result<Embedding> {
        let mut weight = self.matrix(name, rows, width)?;
        weight.role = WeightRole::Embedding;
        self.note_role(&weight);
        let (dtype, device) = (self.dtype, self.device.clone());
        Ok(self.defer(weight.num_bytes(), move || {
            match Narrow::read(std::slice::from_ref(&weight), dtype)? {
                Some(Narrow::Codes(table)) => return Ok(vllm_tensor::Embedding::quantized(table)),
                Some(Narrow::Scaled(table)) => return Ok(vllm_tensor::Embedding::scaled(table)),
                None => {}
            }
            let table = weight.rows()?;
            let table = vllm_tensor::Embedding::from_rows(&*table, width, dtype, &device)?;
            weight.release();
            Ok(table)
        }))
    }

    /// The output layer `lm_head`, shared where `tied` with `embedding`, the table `embedding_name`
    /// of `[rows, width]`. A head in the checkpoint wins over the tie, unless it is the table once
    /// more.
    pub(crate) fn lm_head(
        &self,
        embedding: &Embedding,
        embedding_name: &str,
        (rows, width): (usize, usize),
        tied: bool,
    ) -> Result<Linear> {
        let files = self.weights.files();
        let shared = match (files, self.names.get(HEAD), self.names.get(embedding_name)) {
            (Some(files), Some(head), Some(table)) => tied && files.are_equal(head, table),
            _ => tied,
        };
        if shared {
            self.taken.borrow_mut().insert(HEAD.to_owned());
            let embedding = embedding.clone();
            return Ok(self.defer(0, move || {
                Ok(vllm_tensor::Linear::tied_to(embedding.load()?)?)
            }));
        }
        self.linear("lm_head", width, rows, false)
    }

    /// A part of the model that `make` reads, later, from tensors of `num_bytes`.
    pub(crate) fn defer<T: Send + Sync + 'static>(
        &self,
        num_bytes: u64,
        make: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Deferred<T> {
        let part = Deferred::new(num_bytes, make);
        self.loads.borrow_mut().push(Box::new(part.clone()));
        part
    }

    /// The weight of a norm without a bias, `{prefix}.weight`, in the dtype of activations.
    pub(crate) fn norm_weight(&self, prefix: &str, size: usize) -> Result<Tensor> {
        self.vector(&format!("{prefix}.weight"), size)?.read()
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
                .then(|| self.vector(&format!("{prefix}.{kind}"), size)?.read())
                .transpose()
        };
        Ok(LayerNorm::new(
            parameter("weight")?,
            parameter("bias")?,
            size,
            eps,
        )?)
    }

    /// What is to be loaded and what matrices are for; an error if there are tensors that nobody asked
    /// for.
    pub(crate) fn finish(self, architecture: &str) -> Result<(Vec<Box<dyn Load>>, Roles)> {
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
            return Ok((self.loads.into_inner(), self.roles.into_inner()));
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
    pub(crate) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<FoundTensor> {
        self.find(name, &[rows, columns], self.dtype)
    }

    /// A norm's weight or a bias, in the dtype of activations.
    pub(crate) fn vector(&self, name: &str, size: usize) -> Result<FoundTensor> {
        self.find(name, &[size], activation_dtype(&self.device, self.dtype))
    }

    fn find(&self, name: &str, shape: &[usize], dtype: DType) -> Result<FoundTensor> {
        let stored_name = match self.weights.files() {
            Some(files) => {
                let Some(stored_name) = self.names.get(name) else {
                    return Err(Error::MissingTensor {
                        tensor: name.to_owned(),
                        files: files.file_names(),
                        expected: shape.to_vec(),
                    });
                };
                files.check(stored_name, shape)?;
                stored_name
            }
            None => name,
        };
        self.taken.borrow_mut().insert(name.to_owned());
        Ok(FoundTensor {
            weights: self.weights.clone(),
            name: stored_name.to_owned(),
            shape: shape.to_vec(),
            dtype,
            device: self.device.clone(),
            role: match name {
                HEAD => WeightRole::Head,
                _ => WeightRole::Linear,
            },
        })
    }
}

fn read_and_concatenate(tensors: &[FoundTensor]) -> Result<Tensor> {
    let tensors = tensors.iter().map(FoundTensor::read);
    let mut tensors = tensors.collect::<Result<Vec<_>>>()?;
    if tensors.len() == 1 {
        return Ok(tensors.remove(0));
    }
    Ok(Tensor::cat(&tensors, 0)?)
}
