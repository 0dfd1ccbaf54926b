//! Which CPUs the threads of this crate's kernels run on.

use std::sync::OnceLock;

use crate::{Error, Result};

/// As in vLLM: `auto` and `nobind` leave the threads to the system, a list such as `0-3,8` gives each
/// thread a CPU of its own.
const VARIABLE: &str = "VLLM_CPU_OMP_THREADS_BIND";

/// More CPUs than any system counts.
const MAX_CPUS: usize = 1 << 16;

/// The CPUs that the environment names, one for each thread, the first for the thread that runs models.
///
/// # Errors
/// The variable holds no list of CPUs.
pub(super) fn wanted() -> Result<Option<&'static [usize]>> {
    static WANTED: OnceLock<Result<Option<Vec<usize>>, String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| parse(&std::env::var(VARIABLE).unwrap_or_default()));
    match wanted {
        Ok(cpus) => Ok(cpus.as_deref()),
        Err(reason) => Err(refused(reason.clone())),
    }
}

/// Binds the calling thread, if the environment names CPUs, to the first of them: for the thread that
/// runs models, which takes part in the work.
///
/// # Errors
/// `VLLM_CPU_OMP_THREADS_BIND` holds no list of CPUs, or the system refuses the first one.
pub fn bind_this_thread() -> Result<()> {
    match wanted()? {
        Some(cpus) => bind(cpus[0]),
        None => Ok(()),
    }
}

/// Binds the calling thread to one CPU.
#[cfg(target_os = "linux")]
pub(super) fn bind(cpu: usize) -> Result<()> {
    let bits = usize::BITS as usize;
    let mut mask = vec![0usize; cpu / bits + 1];
    mask[cpu / bits] |= 1 << (cpu % bits);
    // SAFETY: the mask has as many bytes as said, and the system only reads it. 0 is this thread.
    let answer =
        unsafe { libc::sched_setaffinity(0, size_of_val(&mask[..]), mask.as_ptr().cast()) };
    match answer {
        0 => Ok(()),
        _ => {
            let error = std::io::Error::last_os_error();
            Err(refused(format!("CPU {cpu} cannot be used here ({error})")))
        }
    }
}

/// Elsewhere the system decides.
#[cfg(not(target_os = "linux"))]
pub(super) fn bind(_cpu: usize) -> Result<()> {
    Err(refused("threads can be bound on Linux only".to_owned()))
}

fn refused(reason: String) -> Error {
    Error::ThreadBinding(VARIABLE, reason)
}

/// Ranges and single CPUs between commas; `None` where the system is to decide.
fn parse(value: &str) -> Result<Option<Vec<usize>>, String> {
    let value = value.trim();
    if matches!(value, "" | "auto" | "nobind") {
        return Ok(None);
    }
    if value.contains('|') {
        return Err(format!(
            "'{value}' lists the CPUs of several processes; there is one here"
        ));
    }
    let cpu = |text: &str| match text.trim().parse::<usize>() {
        Ok(cpu) if cpu < MAX_CPUS => Ok(cpu),
        _ => Err(format!(
            "'{text}' in '{value}' is no CPU; write a list such as 0-3,8"
        )),
    };
    let mut cpus = Vec::new();
    for part in value.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (cpu(first)?, cpu(last)?);
        if first > last {
            return Err(format!("'{part}' in '{value}' ends before it begins"));
        }
        cpus.extend(first..=last);
    }
    let mut sorted = cpus.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(format!("'{value}' names CPU {} twice", twice[0])),
        None => Ok(Some(cpus)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_others_refused() {
        for free in ["", "auto", "nobind"] {
            assert_eq!(parse(free), Ok(None));
        }
        assert_eq!(parse("0-2,8"), Ok(Some(vec![0, 1, 2, 8])));
        assert_eq!(parse(" 5 "), Ok(Some(vec![5])));
        for (list, reason) in [
            ("0-3|4-7", "several processes"),
            ("a", "'a' in 'a' is no CPU"),
            ("0-", "is no CPU"),
            ("0,,1", "is no CPU"),
            ("99999999", "is no CPU"),
            ("3-1", "ends before it begins"),
            ("0-3,2", "names CPU 2 twice"),
        ] {
            let error = parse(list).unwrap_err();
            assert!(error.contains(reason), "{list}: {error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_is_bound_to_a_cpu_that_is_there() {
        let outcome = std::thread::spawn(|| {
            // SAFETY: reads a number.
            let here = unsafe { libc::sched_getcpu() };
            let here = usize::try_from(here).unwrap();
            bind(here).unwrap();
            assert_eq!(std::thread::available_parallelism().unwrap().get(), 1);
            bind(MAX_CPUS - 1).unwrap_err().to_string()
        });
        let message = outcome.join().unwrap();
        assert!(message.contains("CPU 65535 cannot be used"), "{message}");
    }
}
