/// Tells the C library's allocator to keep memory that is freed, for the next operation. For programs
/// to call when they start, before other threads do.
///
/// The results of operations on long prompts are tens of megabytes each. glibc would get every one from
/// the system and give it back at once, and the system clears each page anew: about a third of the time
/// of such a step. Where the C library is another one this does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Larger than any result.
        const NEVER: libc::c_int = libc::c_int::MAX;
        // SAFETY: sets parameters of the allocator, which takes a lock of its own to do so.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, NEVER);
            libc::mallopt(libc::M_TRIM_THRESHOLD, NEVER);
            // The arenas of single threads hold no more than 64 MiB; what is larger would be got from
            // the system after all.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}
