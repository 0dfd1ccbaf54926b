//! Steps that only decode allocate nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use vllm_scheduler::{NewRequest, Policy, Sampled, Scheduler, SchedulerConfig, StepPlan};

/// The system's allocator with a count of the requests to it.
struct Counting;

static NUM_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUM_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` or `System.realloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        NUM_ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as for `dealloc`; the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decode_steps_allocate_nothing_after_warm_up() {
    const NUM_RUNNING: usize = 32;
    let mut scheduler = Scheduler::new(SchedulerConfig {
        max_num_batched_tokens: 64 * 1024,
        max_num_seqs: NUM_RUNNING,
        max_model_len: 4096,
        enable_chunked_prefill: true,
        long_prefill_token_threshold: 0,
        policy: Policy::Fcfs,
        num_blocks: 8192,
        block_size: 16,
        enable_prefix_caching: true,
        watermark: 0.0,
    })
    .expect("valid config");
    for id in 0..2 * NUM_RUNNING as u64 {
        let prompt_token_ids = (id as u32 * 10_000..).take(1100).collect();
        scheduler
            .add_request(NewRequest::new(id, prompt_token_ids, 1000))
            .expect("fits");
    }
    let (mut plan, mut updates, mut sampled) = (StepPlan::default(), Vec::new(), Vec::new());
    let mut step = || {
        scheduler.schedule(&mut plan);
        sampled.clear();
        sampled.extend(
            plan.sequences
                .iter()
                .map(|s| (s.request_id, Sampled::Token(7))),
        );
        scheduler.apply(&plan, &sampled, &mut updates);
        updates.len()
    };
    // Prefill, and the first growth of each request's buffers.
    for _ in 0..8 {
        step();
    }
    let before = NUM_ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..500 {
        assert_eq!(step(), NUM_RUNNING);
    }
    let num_allocations = NUM_ALLOCATIONS.load(Ordering::Relaxed) - before;
    // The pool's table of cached blocks may grow by doubling, a few times in its life.
    assert!(
        num_allocations <= 2,
        "{num_allocations} allocations in 500 steps"
    );
}
