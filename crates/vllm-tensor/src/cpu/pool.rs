//! The threads of this crate's kernels: hot within a step of a model, asleep between steps.
//!
//! A kernel is over in microseconds, so a worker that went to sleep after each would be late for the
//! next one. Workers therefore watch for work for a short while before they sleep, and whoever has
//! work begins at once and waits only for workers that joined in.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::affinity;
use crate::{Error, Result};

/// The threads in use. Results never depend on how many there are.
static POOL: RwLock<Option<Arc<Pool>>> = RwLock::new(None);

/// Below this many multiplications an operation is over before another thread has noticed it.
const MIN_PARALLEL_WORK: usize = 1 << 15;

/// How long a worker without work watches for more: longer than the pauses between the operations of
/// a step, too short to be seen in the load of an idle process.
const WATCH: Duration = Duration::from_micros(200);

/// Looks at the counter between two looks at the clock.
const LOOKS: u32 = 64;

/// Set in [`Shared::gate`] while a job takes workers in; the rest counts those inside.
const OPEN: usize = 1 << (usize::BITS - 1);

/// Sets how many threads CPU operations use from now on; 0 is one per available core, the default, or
/// per CPU that `VLLM_CPU_OMP_THREADS_BIND` lists.
///
/// # Errors
/// The operating system refuses to start them, or the variable lists fewer CPUs.
pub fn set_num_threads(num_threads: usize) -> Result<()> {
    let pool = Pool::start(num_threads)?;
    *POOL.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pool));
    Ok(())
}

/// How many threads CPU operations use; starts them if none were needed before.
///
/// # Errors
/// As [`set_num_threads`].
pub fn num_threads() -> Result<usize> {
    Ok(current()?.workers.len() + 1)
}

/// Runs `task(0)` to `task(num_tasks - 1)` in any order, on several threads if the `work` of all of
/// them, in multiplications, is worth it.
///
/// Tasks of a busy pool, and tasks started by tasks, run on the calling thread alone.
pub(crate) fn for_each(num_tasks: usize, work: usize, task: impl Fn(usize) + Sync) -> Result<()> {
    if num_tasks > 1 && work >= MIN_PARALLEL_WORK {
        current()?.run(num_tasks, &task);
    } else {
        (0..num_tasks).for_each(task);
    }
    Ok(())
}

fn current() -> Result<Arc<Pool>> {
    if let Some(pool) = POOL.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
        return Ok(pool.clone());
    }
    let mut pool = POOL.write().unwrap_or_else(PoisonError::into_inner);
    match pool.as_ref() {
        Some(pool) => Ok(pool.clone()),
        None => Ok(pool.insert(Arc::new(Pool::start(0)?)).clone()),
    }
}

struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by whoever has work, so that jobs do not mix.
    busy: Mutex<()>,
}

/// What the workers and the one with work see.
#[derive(Default)]
struct Shared {
    /// Grows by one with each job.
    jobs: AtomicUsize,
    /// [`OPEN`] and the number of workers inside.
    gate: AtomicUsize,
    /// The job behind the gate: a `Job` on the stack of [`Pool::run`].
    job: AtomicPtr<Job<'static>>,
    /// Workers asleep, or about to be.
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
    stop: AtomicBool,
}

struct Job<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    num_tasks: usize,
    next: AtomicUsize,
    /// What a panicking task left behind.
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

impl Job<'_> {
    /// Takes tasks until there are none.
    fn help(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.num_tasks {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (self.task)(index))) {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
    }
}

impl Pool {
    fn start(num_threads: usize) -> Result<Self> {
        let cpus = affinity::wanted()?;
        let num_threads = match (num_threads, cpus) {
            (0, Some(cpus)) => cpus.len(),
            // Follows the affinity of the process and its cgroup's quota.
            (0, None) => std::thread::available_parallelism().map_or(1, NonZero::get),
            (given, Some(cpus)) if given > cpus.len() => {
                let reason = format!(
                    "{given} threads are wanted, and VLLM_CPU_OMP_THREADS_BIND lists {} CPUs",
                    cpus.len()
                );
                return Err(Error::Threads(reason));
            }
            (given, _) => given,
        };
        let mut pool = Self {
            shared: Arc::default(),
            workers: Vec::with_capacity(num_threads - 1),
            busy: Mutex::new(()),
        };
        for index in 1..num_threads {
            let shared = pool.shared.clone();
            let cpu = cpus.map(|cpus| cpus[index]);
            let (bound, outcome) = mpsc::channel();
            let worker = std::thread::Builder::new()
                .name(format!("vllm-cpu-{index}"))
                .spawn(move || {
                    // Nobody waits for the answer but `start`, which is still there.
                    let _ = bound.send(cpu.map_or(Ok(()), affinity::bind));
                    shared.work();
                })
                .map_err(|e| Error::Threads(e.to_string()))?;
            pool.workers.push(worker);
            outcome
                .recv()
                .unwrap_or_else(|e| Err(Error::Threads(e.to_string())))?;
        }
        Ok(pool)
    }

    fn run(&self, num_tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let turn = self.busy.try_lock();
        if self.workers.is_empty() || turn.is_err() {
            return (0..num_tasks).for_each(task);
        }
        let job = Job {
            task,
            num_tasks,
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
        };
        self.shared.open(&job);
        job.help();
        // From here on no worker can reach the job, so it may leave the stack.
        self.shared.close();
        let panic = job
            .panic
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // Workers catch the panics of tasks and have none of their own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Lets the workers in on `job`, until [`Shared::close`].
    fn open(&self, job: &Job<'_>) {
        let job = std::ptr::from_ref(job).cast_mut().cast::<Job<'static>>();
        self.job.store(job, Ordering::Relaxed);
        self.gate.store(OPEN, Ordering::Release);
        self.jobs.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake_all();
        }
    }

    /// Lets no more workers in and waits until those inside have left.
    fn close(&self) {
        self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while self.gate.load(Ordering::Acquire) != 0 {
            looks += 1;
            if looks % (16 * LOOKS) == 0 {
                // The worker may have lost its core to another process.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }

    fn wake_all(&self) {
        let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.alarm.notify_all();
    }

    /// A worker's life.
    fn work(&self) {
        let mut seen = self.jobs.load(Ordering::SeqCst);
        while !self.stop.load(Ordering::SeqCst) {
            if self.watch(seen) {
                seen = self.jobs.load(Ordering::SeqCst);
                self.join_in();
            } else {
                self.sleep(seen);
            }
        }
    }

    /// Waits awake for a job after the one numbered `seen`; `false` if none comes.
    fn watch(&self, seen: usize) -> bool {
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if self.jobs.load(Ordering::Acquire) != seen {
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > WATCH {
                return false;
            }
        }
    }

    fn sleep(&self, seen: usize) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.jobs.load(Ordering::SeqCst) == seen && !self.stop.load(Ordering::SeqCst) {
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Helps with the job behind the gate, if it is open still.
    fn join_in(&self) {
        let enter = |gate| (gate & OPEN != 0).then_some(gate + 1);
        let entered = self
            .gate
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, enter);
        if entered.is_err() {
            return;
        }
        // SAFETY: the gate was open, so the job lives until `close` has seen this worker leave.
        unsafe { &*self.job.load(Ordering::Relaxed) }.help();
        self.gate.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pool: &Pool, num_tasks: usize) -> Vec<usize> {
        let counts: Vec<_> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(num_tasks, &|index| {
            counts[index].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once_awake_or_asleep() {
        for num_threads in [1, 2, 5] {
            let pool = Pool::start(num_threads).unwrap();
            for round in 0..2000 {
                let num_tasks = round % 7;
                assert_eq!(counts(&pool, num_tasks), vec![1; num_tasks]);
                if round % 500 == 0 {
                    std::thread::sleep(3 * WATCH);
                }
            }
        }
    }

    #[test]
    fn tasks_may_start_tasks_and_callers_may_meet() {
        let pool = Pool::start(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(3, &|_| assert_eq!(counts(&pool, 4), vec![1; 4]));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::start(2).unwrap();
        let fails = AssertUnwindSafe(|| pool.run(50, &|index| assert_ne!(index, 30)));
        assert!(catch_unwind(fails).is_err());
        assert_eq!(counts(&pool, 50), vec![1; 50]);
    }
}
