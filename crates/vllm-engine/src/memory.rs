//! The memory plan: how many KV-cache blocks there will be, decided before anything is allocated.

use crate::config::EngineConfig;
use crate::error::{Error, Result};

/// Left to the rest of the machine when the engine plans for itself.
const SCRATCH_BYTES: u64 = 256 << 20;

/// Bytes and blocks of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of the model's weights.
    pub weight_bytes: u64,
    /// Bytes of the KV cache.
    pub kv_cache_bytes: u64,
    /// KV-cache blocks, the reserved one included.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Longest request.
    pub max_model_len: usize,
}

impl MemoryPlan {
    /// Plans the KV cache of blocks of `block_bytes`: the configured bytes, or what full batches of the longest requests
    /// could ever use, as far as the available memory allows.
    ///
    /// # Errors
    /// Not even one request of `max_model_len` tokens fits.
    pub fn new(
        config: &EngineConfig,
        block_bytes: u64,
        weight_bytes: u64,
        max_model_len: usize,
        available_bytes: u64,
    ) -> Result<Self> {
        let block_size = config.block_size;
        let blocks_per_request = max_model_len.div_ceil(block_size);
        // Block 0 is reserved, so one more than the requests need.
        let useful_blocks = config
            .resolved_max_num_seqs()
            .saturating_mul(blocks_per_request)
            + 1;
        let useful_bytes = (useful_blocks as u64).saturating_mul(block_bytes);
        let budget = match config
            .kv_cache_memory_bytes
            .or_else(kv_cache_space_from_env)
        {
            Some(bytes) => bytes,
            None => {
                let share = available_bytes as f64 * config.gpu_memory_utilization;
                useful_bytes.min((share as u64).saturating_sub(weight_bytes + SCRATCH_BYTES))
            }
        };
        let num_blocks = usize::try_from(budget / block_bytes.max(1)).unwrap_or(usize::MAX);
        let fitting_len = num_blocks.saturating_sub(1).saturating_mul(block_size);
        let max_model_len = match config.fit_max_model_len && fitting_len > 0 {
            true => max_model_len.min(fitting_len),
            false => max_model_len,
        };
        let blocks_per_request = max_model_len.div_ceil(block_size);
        let plan = Self {
            weight_bytes,
            kv_cache_bytes: num_blocks as u64 * block_bytes,
            num_blocks,
            block_size,
            max_model_len,
        };
        if num_blocks < blocks_per_request + 1 {
            let needed = (blocks_per_request as u64 + 1) * block_bytes;
            return Err(Error::Setup(format!(
                "To serve at least one request with the model's max seq len ({max_model_len}), \
                 ({} GiB KV cache is needed, which is larger than the available KV cache memory \
                 ({} GiB). Based on the available memory, the estimated maximum model length is \
                 {fitting_len}. Lower --max-model-len or give more memory with --kv-cache-memory-bytes.",
                gib(needed),
                gib(budget),
            )));
        }
        Ok(plan)
    }

    /// Requests of the longest kind that fit at once.
    pub fn max_concurrency(&self) -> f64 {
        (self.num_blocks - 1) as f64 / self.max_model_len.div_ceil(self.block_size) as f64
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "weights {} GiB, KV cache {} GiB ({} tokens in {} blocks of {}), \
             {:.2} requests of {} tokens at once",
            gib(self.weight_bytes),
            gib(self.kv_cache_bytes),
            (self.num_blocks - 1) * self.block_size,
            self.num_blocks - 1,
            self.block_size,
            self.max_concurrency(),
            self.max_model_len,
        )
    }
}

/// GiB with two decimals, or as many as a small model needs to show anything.
fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 0.1 {
        format!("{gib:.5}")
    } else {
        format!("{gib:.2}")
    }
}

/// Memory in bytes that this process may still take: what the system calls available, or less
/// where a control group limits the process.
pub fn available_memory_bytes() -> u64 {
    let system = meminfo_available().unwrap_or(4 << 30);
    match cgroup_available() {
        Some(limit) => system.min(limit),
        None => system,
    }
}

/// vLLM's `VLLM_CPU_KVCACHE_SPACE`: the size of the KV cache in GiB.
fn kv_cache_space_from_env() -> Option<u64> {
    let gib: u64 = std::env::var("VLLM_CPU_KVCACHE_SPACE")
        .ok()?
        .trim()
        .parse()
        .ok()?;
    (gib > 0).then_some(gib << 30)
}

fn meminfo_available() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What the control group (version 2, then 1) leaves.
fn cgroup_available() -> Option<u64> {
    let read =
        |path: &str| -> Option<u64> { std::fs::read_to_string(path).ok()?.trim().parse().ok() };
    let pairs = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ];
    pairs
        .iter()
        .find_map(|(limit, used)| Some(read(limit)?.saturating_sub(read(used)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_BYTES: u64 = 98_304;

    #[test]
    fn plans_no_more_than_full_batches_can_use() {
        let config = EngineConfig::new("demo");
        let plan = MemoryPlan::new(&config, BLOCK_BYTES, 0, 1024, 1 << 40).unwrap();
        assert_eq!(plan.num_blocks, 256 * 64 + 1);
        assert_eq!(plan.max_concurrency(), 256.0);
    }

    #[test]
    fn configured_bytes_win() {
        let mut config = EngineConfig::new("demo");
        config.kv_cache_memory_bytes = Some(200 * BLOCK_BYTES + 5);
        let plan = MemoryPlan::new(&config, BLOCK_BYTES, 0, 1024, 0).unwrap();
        assert_eq!(plan.num_blocks, 200);
    }

    #[test]
    fn a_length_that_is_a_wish_is_cut_to_what_fits() {
        let plan = |blocks: u64, max_model_len| {
            let mut config = EngineConfig::new("demo");
            config.fit_max_model_len = true;
            config.kv_cache_memory_bytes = Some(blocks * BLOCK_BYTES);
            MemoryPlan::new(&config, BLOCK_BYTES, 0, max_model_len, 0)
        };
        assert_eq!(plan(33, 1024).unwrap().max_model_len, 512);
        assert_eq!(plan(100, 1024).unwrap().max_model_len, 1024);
        assert!(plan(1, 1024).is_err());
    }

    #[test]
    fn refuses_a_cache_too_small_for_one_request_with_the_arithmetic() {
        let mut config = EngineConfig::new("demo");
        config.kv_cache_memory_bytes = Some(33 * BLOCK_BYTES);
        let error = MemoryPlan::new(&config, BLOCK_BYTES, 0, 1024, 0)
            .unwrap_err()
            .to_string();
        assert!(error.contains("max seq len (1024)"), "{error}");
        assert!(
            error.contains("estimated maximum model length is 512"),
            "{error}"
        );
    }
}
