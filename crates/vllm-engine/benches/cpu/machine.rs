//! The limits of this machine: what all cores together read from memory and multiply per second.
//!
//! A step can be no faster than its bytes through the one or its operations through the other.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};

/// Together the threads read this much, far more than caches hold.
const READ_BYTES: usize = 1 << 30;

/// How long the arithmetic of one measurement goes on.
const BURST: Duration = Duration::from_millis(300);

/// Measurements of each limit; the best counts, since a disturbance only ever slows.
const REPEATS: usize = 5;

pub(crate) fn measure() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("threads {threads}");
    println!(
        "read_bytes_per_second {:.4e}",
        read_bytes_per_second(threads)
    );
    #[cfg(target_arch = "x86_64")]
    for (name, operations) in x86::arithmetic() {
        println!("{name} {:.4e}", operations_per_second(threads, operations));
    }
}

/// Reads a large buffer with every thread, each over several streams side by side, since one stream
/// does not keep enough of memory busy.
fn read_bytes_per_second(threads: usize) -> f64 {
    let mut buffer = MmapMut::map_anon(READ_BYTES).unwrap();
    // Fewer address translations; where it is not granted, the figure is that of small pages.
    let _ = buffer.advise(Advice::HugePage);
    buffer.fill(1);
    // SAFETY: any bits are good as u64, and the aligned middle of the buffer is all of it.
    let (_, words, _) = unsafe { buffer.align_to::<u64>() };
    let mut best = 0.0_f64;
    for streams in [1, 2, 4, 8, 16] {
        for _ in 0..REPEATS {
            let seconds = on_all(threads, |thread| {
                let part = words.len() / threads;
                let words = &words[thread * part..][..part];
                std::hint::black_box(sum(words, streams));
            });
            best = best.max(READ_BYTES as f64 / seconds);
        }
    }
    best
}

/// Adds up `words`, read as `streams` equal parts in turns of a page's quarter.
fn sum(words: &[u64], streams: usize) -> u64 {
    const TURN: usize = 128;
    let length = words.len() / streams;
    let mut sums = [0_u64; TURN];
    for at in (0..length).step_by(TURN) {
        for stream in 0..streams {
            let turn = &words[stream * length + at..];
            add(&mut sums, &turn[..TURN]);
        }
    }
    sums.iter().fold(0, |sum, part| sum.wrapping_add(*part))
}

fn add(sums: &mut [u64], words: &[u64]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions.
        return unsafe { x86::add(sums, words) };
    }
    for (sum, word) in sums.iter_mut().zip(words) {
        *sum = sum.wrapping_add(*word);
    }
}

/// `burst` does some arithmetic and says how many operations it was.
fn operations_per_second(threads: usize, burst: fn() -> u64) -> f64 {
    let once = |_| {
        let counts: Vec<_> = (0..threads).map(|_| std::sync::Mutex::new(0.0)).collect();
        on_all(threads, |thread| {
            let started = Instant::now();
            let mut operations = 0;
            while started.elapsed() < BURST {
                operations += burst();
            }
            let rate = operations as f64 / started.elapsed().as_secs_f64();
            *counts[thread].lock().unwrap() = rate;
        });
        counts.iter().map(|count| *count.lock().unwrap()).sum()
    };
    (0..REPEATS).map(once).fold(0.0, f64::max)
}

/// Seconds for which all of the threads run `work`.
fn on_all(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(thread);
                })
            })
            .collect();
        barrier.wait();
        let started = Instant::now();
        for handle in handles {
            handle.join().unwrap();
        }
        started.elapsed().as_secs_f64()
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    /// Instructions in a row that do not wait for one another.
    const CHAINS: usize = 16;
    const ROUNDS: u64 = 4096;

    /// A name, and a run that tells how many operations it made.
    type Arithmetic = (&'static str, fn() -> u64);

    /// Names of what this processor multiplies with, and a burst of each.
    pub(super) fn arithmetic() -> Vec<Arithmetic> {
        let mut found: Vec<Arithmetic> = Vec::new();
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions.
            found.push(("f32_flops", || unsafe { f32_avx512() }));
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instructions.
            found.push(("f32_flops", || unsafe { f32_avx2() }));
        }
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the processor has the instructions.
            found.push(("bf16_vector_flops", || unsafe { bf16_avx512() }));
        }
        if has_tiles() {
            // SAFETY: the processor has the instructions and the system permits them.
            found.push(("bf16_tile_flops", || unsafe { bf16_tiles() }));
        }
        found
    }

    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn add(sums: &mut [u64], words: &[u64]) {
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(*word);
        }
    }

    /// # Safety
    /// The processor has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn f32_avx512() -> u64 {
        let factor = std::hint::black_box(_mm512_set1_ps(0.5));
        let mut sums = [factor; CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        std::hint::black_box(sums);
        ROUNDS * CHAINS as u64 * 16 * 2
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn f32_avx2() -> u64 {
        // Sixteen registers in all: with a factor, twelve chains stay in them.
        const CHAINS: usize = 12;
        let factor = std::hint::black_box(_mm256_set1_ps(0.5));
        let mut sums = [factor; CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        std::hint::black_box(sums);
        ROUNDS * CHAINS as u64 * 8 * 2
    }

    /// # Safety
    /// The processor has AVX-512 with BF16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn bf16_avx512() -> u64 {
        let zero = std::hint::black_box(_mm512_setzero_ps());
        let factor = _mm512_cvtne2ps_pbh(zero, zero);
        let mut sums = [zero; CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, factor, factor);
            }
        }
        std::hint::black_box(sums);
        ROUNDS * CHAINS as u64 * 32 * 2
    }

    /// Multiplies tiles of zeros; the time does not depend on values.
    ///
    /// # Safety
    /// The processor has AMX with BF16, and the system permits it.
    unsafe fn bf16_tiles() -> u64 {
        // Palette 1, all eight tiles of 16 rows of 64 bytes.
        let mut config = [0_u8; 64];
        config[0] = 1;
        for tile in 0..8 {
            config[16 + 2 * tile] = 64;
            config[48 + tile] = 16;
        }
        // SAFETY: the caller's promise; the tiles are released before anybody else could use them.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "tilezero tmm4",
                "tilezero tmm5",
                "tilezero tmm6",
                "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) config.as_ptr(),
                rounds = inout(reg) ROUNDS => _,
                options(nostack),
            );
        }
        // Four products of [16, 32] by [32, 16] a round.
        ROUNDS * 4 * (16 * 32 * 16) * 2
    }

    /// Whether CPUID lists AMX-BF16 and AMX-TILE and Linux lets this process use them.
    fn has_tiles() -> bool {
        const WANTED: u32 = 1 << 22 | 1 << 24;
        let listed = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & WANTED == WANTED;
        listed && cfg!(target_os = "linux") && permits_tiles()
    }

    fn permits_tiles() -> bool {
        const SYS_ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
        const XFEATURE_XTILEDATA: u64 = 18;
        let result: i64;
        // SAFETY: the call reads no memory and changes only what the process may use.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") SYS_ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }
}
