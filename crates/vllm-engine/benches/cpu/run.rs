//! Workloads on our engine, timed from outside it.

use std::time::{Duration, Instant};

use vllm_engine::{EngineConfig, Llm, SamplingParams};

use crate::peak;
use crate::random::Random;

/// As much as the Python vLLM is given, so that neither engine has to preempt.
const KV_CACHE_BYTES: u64 = 4 << 30;

/// `NAME:BATCH,PROMPT,NEW[,SHARED]`: requests at once, tokens of each prompt, tokens that each is
/// continued by, and tokens that all prompts begin with.
struct Workload {
    name: String,
    batch: usize,
    prompt: usize,
    new: usize,
    shared: usize,
}

impl Workload {
    fn parse(text: &str) -> Self {
        let (name, numbers) = text.split_once(':').unwrap();
        let mut numbers = numbers.split(',').map(|number| number.parse().unwrap());
        Self {
            name: name.to_owned(),
            batch: numbers.next().unwrap(),
            prompt: numbers.next().unwrap(),
            new: numbers.next().unwrap(),
            shared: numbers.next().unwrap_or(0),
        }
    }

    /// Fresh prompts; none repeats an earlier one, so that no cache of another run helps.
    fn prompts(&self, random: &mut Random) -> Vec<Vec<u32>> {
        let mut tokens = |count| -> Vec<u32> {
            let token = || 10 + (random.next() % 9990) as u32;
            std::iter::repeat_with(token).take(count).collect()
        };
        let shared = tokens(self.shared);
        let own = self.prompt - self.shared;
        (0..self.batch)
            .map(|_| [shared.as_slice(), &tokens(own)].concat())
            .collect()
    }

    /// The best of three runs, of fewer if they are long.
    fn measure(&self, llm: &Llm, random: &mut Random) -> Duration {
        let repeats = match self.batch * (self.prompt - self.shared) {
            0..2048 => 3,
            2048..8192 => 2,
            _ => 1,
        };
        let once = |_| {
            let prompts = self.prompts(random);
            let started = Instant::now();
            generate(llm, &prompts, self.new);
            started.elapsed()
        };
        (0..repeats).map(once).min().unwrap()
    }
}

fn generate(llm: &Llm, prompts: &[Vec<u32>], new: usize) {
    let params = SamplingParams {
        max_tokens: Some(new as i64),
        ignore_eos: true,
        detokenize: false,
        ..SamplingParams::greedy()
    };
    let outputs = llm.generate(prompts, &params).unwrap();
    assert!(outputs.iter().all(|o| o.outputs[0].token_ids.len() == new));
}

pub(crate) fn run(model: &str, workloads: &[&str]) {
    let workloads: Vec<Workload> = workloads.iter().map(|text| Workload::parse(text)).collect();
    let longest = workloads.iter().map(|w| w.prompt + w.new).max();
    let mut config = EngineConfig::new(model);
    config.max_model_len = Some(longest.unwrap_or(0).max(2304));
    config.kv_cache_memory_bytes = Some(KV_CACHE_BYTES);

    let llm = Llm::with_config(&config).unwrap();
    generate(&llm, &[vec![11, 12, 13, 14]], 1);
    if let Some(seconds) = peak::age_seconds() {
        println!("ready {seconds:.2}");
    }
    let mut random = Random::new(1);
    for workload in &workloads {
        let seconds = workload.measure(&llm, &mut random).as_secs_f64();
        println!("workload {} {seconds:.4}", workload.name);
    }
    if let Some(bytes) = peak::resident_bytes() {
        println!("peak {bytes}");
    }
}
