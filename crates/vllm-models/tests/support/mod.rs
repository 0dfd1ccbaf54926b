//! Checkpoints of `tests/fixtures` and ways to run their prompts.
#![allow(dead_code, clippy::unwrap_used)] // Each test program uses some of this.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use vllm_models::{
    Batch, BatchSequence, Error, FileBuffer, LoadFormat, Model, ModelConfig, Result, WeightFiles,
    load_model,
};
use vllm_tensor::{DType, Device, KvCache};

pub(crate) const BLOCK_SIZE: usize = 4;

/// Logits by position.
pub(crate) type Logits = Vec<Vec<f32>>;

pub(crate) fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// All checkpoints, sorted.
pub(crate) fn fixture_names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(fixture_path(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Loads the checkpoint in `folder`, whatever its form.
pub(crate) fn load(folder: &Path, config: &ModelConfig, dtype: DType) -> Result<Box<dyn Model>> {
    let names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "expected.safetensors")
        .collect();
    let weights = WeightFiles::open(&names, LoadFormat::Auto, |name| {
        std::fs::read(folder.join(name)).map(|bytes| Arc::new(bytes) as FileBuffer)
    })?;
    load_model(config, weights, &Device::Cpu, dtype)
}

/// Loads files given as name and bytes.
pub(crate) fn load_files(
    config: &str,
    files: Vec<(&str, Vec<u8>)>,
) -> Result<Box<dyn Model>, Error> {
    let config = ModelConfig::from_json(config.as_bytes())?;
    let files = files
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), Arc::new(bytes) as FileBuffer))
        .collect();
    load_model(&config, WeightFiles::new(files)?, &Device::Cpu, DType::F32)
}

/// A checkpoint with what transformers makes of it.
pub(crate) struct Fixture {
    pub(crate) name: String,
    folder: PathBuf,
    /// How long the sequences of the run may be, where it is not what the config says.
    max_model_len: Option<usize>,
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) expected: Vec<Logits>,
    /// What greedy decoding appends to each prompt.
    pub(crate) greedy: Vec<Vec<u32>>,
}

/// Part of a prompt that runs in a step.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) prompt: usize,
    pub(crate) tokens: Range<usize>,
}

impl Fixture {
    pub(crate) fn read(name: &str) -> Self {
        let folder = fixture_path(name);
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let recorded = SafeTensors::deserialize(&bytes).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let settings = metadata.metadata().clone().unwrap_or_default();
        let mut fixture = Self {
            name: name.to_owned(),
            folder,
            max_model_len: settings
                .get("max_model_len")
                .map(|len| len.parse().unwrap()),
            prompts: Vec::new(),
            expected: Vec::new(),
            greedy: Vec::new(),
        };
        let ids = |name: &str| -> Option<Vec<u32>> {
            let ids = recorded.tensor(name).ok()?;
            let (ids, _) = ids.data().as_chunks::<4>();
            Some(ids.iter().map(|id| u32::from_le_bytes(*id)).collect())
        };
        while let Some(prompt) = ids(&format!("prompt.{}", fixture.prompts.len())) {
            let index = fixture.prompts.len();
            fixture.prompts.push(prompt);
            fixture
                .greedy
                .push(ids(&format!("greedy.{index}")).unwrap());
            let logits = recorded.tensor(&format!("logits.{index}")).unwrap();
            let (values, _) = logits.data().as_chunks::<4>();
            let values: Vec<f32> = values
                .iter()
                .map(|value| f32::from_le_bytes(*value))
                .collect();
            fixture.expected.push(
                values
                    .chunks(logits.shape()[1])
                    .map(<[f32]>::to_vec)
                    .collect(),
            );
        }
        assert!(fixture.prompts.len() >= 3, "{name} has too few prompts");
        fixture
    }

    pub(crate) fn weights(&self) -> WeightFiles {
        let bytes = std::fs::read(self.folder.join("model.safetensors")).unwrap();
        let file = (
            "model.safetensors".to_owned(),
            Arc::new(bytes) as FileBuffer,
        );
        WeightFiles::new(vec![file]).unwrap()
    }

    pub(crate) fn config(&self) -> ModelConfig {
        let json = std::fs::read(self.folder.join("config.json")).unwrap();
        let mut config = ModelConfig::from_json(&json).unwrap();
        if let Some(max_model_len) = self.max_model_len {
            config.max_model_len = max_model_len;
        }
        config
    }

    /// The same checkpoint with all prompts several times over.
    pub(crate) fn repeated(&self, copies: usize) -> Self {
        let prompts = self.prompts.iter().cycle();
        Self {
            prompts: prompts.take(copies * self.prompts.len()).cloned().collect(),
            name: self.name.clone(),
            folder: self.folder.clone(),
            max_model_len: self.max_model_len,
            expected: Vec::new(),
            greedy: Vec::new(),
        }
    }

    /// The same checkpoint with all of each greedy continuation but its last token as prompts.
    pub(crate) fn continued(&self) -> Self {
        let prompts = self.prompts.iter().zip(&self.greedy);
        let prompts =
            prompts.map(|(prompt, greedy)| [prompt, &greedy[..greedy.len() - 1]].concat());
        Self {
            name: self.name.clone(),
            folder: self.folder.clone(),
            max_model_len: self.max_model_len,
            prompts: prompts.collect(),
            expected: Vec::new(),
            greedy: Vec::new(),
        }
    }

    /// `beginnings` of the prompts in one step, then token by token.
    pub(crate) fn prefill_then_decode(&self, beginnings: &[Vec<u32>]) -> Vec<Vec<Step>> {
        let mut steps: Vec<Vec<Step>> = Vec::new();
        for (Step { prompt, tokens }, beginning) in self.all_prompts().zip(beginnings) {
            let decoded = (beginning.len()..tokens.end).map(|start| start..start + 1);
            let parts = std::iter::once(0..beginning.len()).chain(decoded);
            for (index, tokens) in parts.enumerate() {
                steps.resize_with(steps.len().max(index + 1), Vec::new);
                steps[index].push(Step { prompt, tokens });
            }
        }
        steps
    }

    /// Each prompt as a whole.
    pub(crate) fn all_prompts(&self) -> impl Iterator<Item = Step> {
        self.prompts
            .iter()
            .enumerate()
            .map(|(prompt, tokens)| Step {
                prompt,
                tokens: 0..tokens.len(),
            })
    }

    /// All prompts side by side, `chunk` tokens of each in a step, until all are done.
    pub(crate) fn in_chunks(&self, chunk: usize) -> Vec<Vec<Step>> {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap();
        (0..longest)
            .step_by(chunk)
            .map(|start| {
                self.all_prompts()
                    .filter(|step| step.tokens.end > start)
                    .map(|step| Step {
                        tokens: start..step.tokens.end.min(start + chunk),
                        ..step
                    })
                    .collect()
            })
            .collect()
    }

    /// Prompts that begin one step after the other, so that some decode while others prefill: the
    /// first half of a prompt at once, a quarter, then token by token.
    pub(crate) fn mixed(&self) -> Vec<Vec<Step>> {
        let mut steps: Vec<Vec<Step>> = Vec::new();
        for Step { prompt, tokens } in self.all_prompts() {
            let len = tokens.end;
            let mut bounds = vec![0, len / 2, len / 2 + len / 4];
            bounds.extend(len / 2 + len / 4 + 1..=len);
            for (index, pair) in bounds.windows(2).enumerate() {
                let step = prompt + index;
                steps.resize_with(steps.len().max(step + 1), Vec::new);
                if pair[0] < pair[1] {
                    steps[step].push(Step {
                        prompt,
                        tokens: pair[0]..pair[1],
                    });
                }
            }
        }
        steps.retain(|step| !step.is_empty());
        steps
    }

    /// Runs the steps over one cache and returns the logits of every prompt and position.
    pub(crate) fn run(&self, dtype: DType, steps: &[Vec<Step>]) -> Vec<Logits> {
        let mut logits: Vec<Logits> = vec![Vec::new(); self.prompts.len()];
        self.run_with(
            dtype,
            steps,
            |_| true,
            |prompt, row| logits[prompt].push(row),
        );
        logits
    }

    /// The logits of each prompt's last token, asked for alone.
    pub(crate) fn last_rows(&self, dtype: DType) -> Vec<Vec<f32>> {
        let mut rows = Vec::new();
        let ends: Vec<usize> = self.prompts.iter().map(Vec::len).collect();
        let wanted = |step: (usize, usize)| step.1 + 1 == ends[step.0];
        let steps = [self.all_prompts().collect()];
        self.run_with(dtype, &steps, wanted, |_, row| rows.push(row));
        rows
    }

    fn run_with(
        &self,
        dtype: DType,
        steps: &[Vec<Step>],
        wanted: impl Fn((usize, usize)) -> bool,
        take: impl FnMut(usize, Vec<f32>),
    ) {
        let config = self.config();
        let model = load(&self.folder, &config, dtype).unwrap();
        assert_eq!(model.kv_cache_spec(), config.kv_cache_spec(dtype));
        self.run_model(model.as_ref(), steps, wanted, take);
    }

    /// Runs the steps on `model`, which need not come from the fixture's own files.
    pub(crate) fn run_model(
        &self,
        model: &dyn Model,
        steps: &[Vec<Step>],
        wanted: impl Fn((usize, usize)) -> bool,
        mut take: impl FnMut(usize, Vec<f32>),
    ) {
        // Blocks in no particular order, no two sequences next to each other.
        let blocks_each = self
            .prompts
            .iter()
            .map(Vec::len)
            .max()
            .unwrap()
            .div_ceil(BLOCK_SIZE);
        let stride = self.prompts.len().max(5);
        let block_tables: Vec<Vec<u32>> = (0..self.prompts.len())
            .map(|prompt| {
                (0..blocks_each)
                    .rev()
                    .map(|i| 1 + (i * stride + prompt) as u32)
                    .collect()
            })
            .collect();
        let num_blocks = 1 + blocks_each * stride;
        let spec = model.kv_cache_spec();
        let mut kv = KvCache::new(spec, num_blocks, BLOCK_SIZE, &Device::Cpu).unwrap();
        for step in steps {
            let (mut token_ids, mut positions) = (Vec::new(), Vec::new());
            let (mut sequences, mut logit_rows, mut owners) = (Vec::new(), Vec::new(), Vec::new());
            for Step { prompt, tokens } in step {
                sequences.push(BatchSequence {
                    query_start: token_ids.len(),
                    query_len: tokens.len(),
                    context_len: tokens.start,
                    block_table: &block_tables[*prompt],
                });
                for position in tokens.clone() {
                    if wanted((*prompt, position)) {
                        logit_rows.push(token_ids.len() as u32);
                        owners.push(*prompt);
                    }
                    token_ids.push(self.prompts[*prompt][position]);
                    positions.push(position as u32);
                }
            }
            let batch = Batch {
                token_ids: &token_ids,
                positions: &positions,
                sequences: &sequences,
                logit_rows: &logit_rows,
            };
            let logits = model.forward(&batch, &mut kv).unwrap();
            for (owner, row) in owners.into_iter().zip(logits.to_vec2::<f32>().unwrap()) {
                take(owner, row);
            }
        }
    }
}

pub(crate) fn max_difference(actual: &Logits, expected: &Logits) -> f32 {
    assert_eq!(actual.len(), expected.len());
    let pairs = actual.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(a, e)| (a - e).abs()).fold(0.0, f32::max)
}
