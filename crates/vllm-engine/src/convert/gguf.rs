use std::ops::ControlFlow;

use vllm_gguf::{
    ALIGNMENT, BlockType, ExportTensor, Source as Numbers, TensorKind, TensorPlan, TokenizerFiles,
    Value,
};
use vllm_models::{LoadProgress, Quantization, WeightRole};

use super::Source;
use super::output::PartialOutput;
use super::tensor::Writer;
use crate::error::{Error, Result};

/// Writes one GGUF file.
pub(super) fn write(
    source: &Source,
    output: &mut PartialOutput,
    progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let export = vllm_gguf::export(&source.config.raw, &source.tensors()?);
    let export = export.map_err(|error| source.error(&error))?;
    let plans = export.tensors.iter().map(|tensor| plan(source, tensor));
    let plans = plans.collect::<Result<Vec<_>>>()?;
    let mut metadata = export.metadata;
    metadata.push(text("general.name", &model_name(source)));
    metadata.push((
        "general.file_type".to_owned(),
        Value::Unsigned(file_type(&plans)),
    ));
    metadata.extend(tokenizer(source, &export.tensors)?);

    let header = vllm_gguf::header(&metadata, &plans);
    let data: usize = plans
        .iter()
        .map(|plan| plan.num_bytes().next_multiple_of(ALIGNMENT))
        .sum();
    let total = (header.len() + data) as u64;
    let mut writer = Writer::new(output, output.file()?, total, progress);
    let mut flow = writer.put(&header)?;
    for (plan, tensor) in plans.iter().zip(&export.tensors) {
        if flow.is_continue() {
            flow = write_tensor(source, plan, tensor, &mut writer)?;
        }
        if flow.is_continue() {
            let padding = plan.num_bytes().next_multiple_of(ALIGNMENT) - plan.num_bytes();
            flow = writer.put(&[0; ALIGNMENT][..padding])?;
        }
    }
    writer.close()?;
    Ok(flow)
}

impl Source {
    fn error(&self, error: &vllm_gguf::Error) -> Error {
        Error::Setup(format!("{}: {error}", self.folder.name()))
    }
}

/// How a tensor is packed.
fn plan(source: &Source, tensor: &ExportTensor) -> Result<TensorPlan> {
    let role = match tensor.kind {
        TensorKind::Vector | TensorKind::Router => None,
        TensorKind::Linear => Some(WeightRole::Linear),
        TensorKind::Embedding => Some(WeightRole::Embedding),
        TensorKind::Head => Some(WeightRole::Head),
    };
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let block_type = match role.map(|role| source.quantization.method(&tensor.name, role)) {
        None => BlockType::F32,
        Some(None) => source.plain_type(),
        Some(Some(Quantization::Fp8)) => {
            return Err(Error::Setup(
                "GGUF files hold no fp8: choose --format safetensors, or int8 or a GGUF type such as \
                 q4_k for --quantization"
                    .to_owned(),
            ));
        }
        Some(Some(method)) => method
            .block_type(columns)
            .unwrap_or_else(|| source.plain_type()),
    };
    Ok(TensorPlan {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        block_type,
    })
}

fn write_tensor(
    source: &Source,
    plan: &TensorPlan,
    tensor: &ExportTensor,
    writer: &mut Writer<'_>,
) -> Result<ControlFlow<()>> {
    let columns = plan.shape.last().copied().unwrap_or(1);
    let row_bytes = plan.block_type.byte_len(columns);
    let (names, order, offset) = match &tensor.source {
        Numbers::Numbers(numbers) => {
            return writer.put_rows(1, row_bytes, |_, bytes| {
                plan.block_type.quantize(numbers, bytes);
                Ok(())
            });
        }
        Numbers::Tensors {
            names,
            rows,
            offset,
        } => (names, *rows, *offset),
    };
    for name in names {
        let numbers = source.weights.numbers(name).map_err(Error::setup)?;
        let rows = numbers.num_rows();
        let flow = writer.put_rows(rows, row_bytes, |row, bytes| {
            let mut row_numbers = vec![0.0; columns];
            if numbers.shape().len() == 1 {
                // A vector is permuted as a matrix of one column would be.
                let mut stored = vec![0.0; columns];
                numbers.read(0, &mut stored).map_err(Error::setup)?;
                for (index, number) in row_numbers.iter_mut().enumerate() {
                    *number = stored[order.original_row(index, columns)];
                }
            } else {
                let original = order.original_row(row, rows);
                let read = numbers.read(original, &mut row_numbers);
                read.map_err(Error::setup)?;
            }
            if offset != 0.0 {
                row_numbers.iter_mut().for_each(|number| *number -= offset);
            }
            plan.block_type.quantize(&row_numbers, bytes);
            Ok(())
        })?;
        source.weights.release(name);
        if flow.is_break() {
            return Ok(flow);
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Keys and values of the vocabulary.
fn tokenizer(source: &Source, tensors: &[ExportTensor]) -> Result<Vec<(String, Value)>> {
    let tokenizer = source.json("tokenizer.json")?;
    if tokenizer.is_null() {
        return Err(Error::Setup(format!(
            "{} has no tokenizer.json, which the vocabulary of a GGUF file is made from",
            source.folder.name()
        )));
    }
    let config = source.json("tokenizer_config.json")?;
    let generation = source.json("generation_config.json")?;
    let ids = |value: &serde_json::Value| match value {
        serde_json::Value::Array(list) => list.iter().filter_map(|id| id.as_u64()).collect(),
        value => value.as_u64().into_iter().collect::<Vec<_>>(),
    };
    let mut ends = ids(&generation["eos_token_id"]);
    ends.extend(ids(&source.config.raw["eos_token_id"]));
    let mut seen = std::collections::BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    let table = tensors
        .iter()
        .find(|tensor| tensor.kind == TensorKind::Embedding);
    let metadata = vllm_gguf::tokenizer_metadata(&TokenizerFiles {
        tokenizer: &tokenizer,
        config: &config,
        chat_templates: &chat_templates(source, &config)?,
        ends: &ends,
        vocab_size: table.map_or(source.config.vocab_size, |table| table.shape[0]),
    });
    metadata.map_err(|error| source.error(&error))
}

/// By name; a file of its own comes before what the tokenizer's configuration says.
fn chat_templates(source: &Source, config: &serde_json::Value) -> Result<Vec<(String, String)>> {
    let own = |name: &str| -> Result<Option<String>> {
        let bytes = source.folder.read(name)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let mut templates = Vec::new();
    match &config["chat_template"] {
        serde_json::Value::String(template) => {
            templates.push(("default".to_owned(), template.clone()));
        }
        serde_json::Value::Array(list) => {
            for entry in list {
                if let (Some(name), Some(template)) =
                    (entry["name"].as_str(), entry["template"].as_str())
                {
                    templates.push((name.to_owned(), template.to_owned()));
                }
            }
        }
        _ => {}
    }
    if let Some(template) = own("chat_template.jinja")? {
        templates.retain(|(name, _)| name != "default");
        templates.insert(0, ("default".to_owned(), template));
    }
    Ok(templates)
}

/// The last part of the model's name.
fn model_name(source: &Source) -> String {
    let name = source.folder.name().trim_end_matches('/');
    let last = name.rsplit('/').next().unwrap_or(name);
    last.to_owned()
}

fn text(key: &str, text: &str) -> (String, Value) {
    (key.to_owned(), Value::String(text.to_owned()))
}

/// The number that stands for the type which most of the file's bytes are in.
fn file_type(plans: &[TensorPlan]) -> u64 {
    let bytes_of = |kind: BlockType| -> usize {
        let of_kind = plans.iter().filter(|plan| plan.block_type == kind);
        of_kind.map(TensorPlan::num_bytes).sum()
    };
    let most = BlockType::ALL
        .into_iter()
        .max_by_key(|kind| bytes_of(*kind));
    match most.unwrap_or(BlockType::F32) {
        BlockType::F32 => 0,
        BlockType::F16 => 1,
        BlockType::Q4_0 => 2,
        BlockType::Q4_1 => 3,
        BlockType::Q8_0 => 7,
        BlockType::Q5_0 => 8,
        BlockType::Q5_1 => 9,
        BlockType::Q2K => 10,
        BlockType::Q3K => 12,
        BlockType::Q4K => 15,
        BlockType::Q5K => 17,
        BlockType::Q6K => 18,
        BlockType::BF16 => 32,
    }
}
