//! Keeping long computations away from the threads that serve sockets.

use std::panic::resume_unwind;

use crate::state::AppState;

/// Bodies from this size on are prepared on a worker thread; below it, moving the work would cost
/// more than doing it.
pub(crate) const HEAVY_BODY_BYTES: usize = 16 << 10;

/// Runs `work` here, or on a worker thread if it is `heavy`. Heavy work waits for a processor, and
/// is dropped when its caller goes away meanwhile.
pub(crate) async fn run<T: Send + 'static>(
    state: &AppState,
    heavy: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if !heavy {
        return work();
    }
    // The semaphore is never closed; without a permit the work would only be less orderly.
    let permit = state.heavy_work.acquire().await.ok();
    let done = tokio::task::spawn_blocking(work).await;
    drop(permit);
    match done {
        Ok(value) => value,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime is ending and cancelled the work; so is this future.
            Err(_) => std::future::pending().await,
        },
    }
}
