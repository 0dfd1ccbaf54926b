//! Many clients at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Semaphore;

use crate::error::Result;
use crate::serve::arrivals::Arrivals;
use crate::serve::client::Client;
use crate::serve::prompts::TextRequest;
use crate::serve::report::Observation;

/// How requests reach the server.
#[derive(Debug, Clone)]
pub struct LoadSettings {
    /// The model that requests name.
    pub model: String,
    /// When requests arrive.
    pub arrivals: Arrivals,
    /// Requests that may be under way at once; those that arrive beyond wait.
    pub max_concurrency: Option<usize>,
}

/// What the clients saw.
#[derive(Debug, Clone)]
pub struct Load {
    /// From the first request to the end of the last answer.
    pub duration: Duration,
    /// One for each request, in their order.
    pub observations: Vec<Observation>,
}

/// Sends all requests at their times and waits for the answers.
///
/// # Errors
/// Arrivals that do not exist. A request that fails is an observation.
pub async fn apply_load(
    client: &Client,
    requests: &[TextRequest],
    settings: &LoadSettings,
    mut on_finished: impl FnMut(&Observation),
) -> Result<Load> {
    let times = settings.arrivals.times(requests.len())?;
    let most = settings.max_concurrency.unwrap_or(Semaphore::MAX_PERMITS);
    let slots = Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS)));
    let start = Instant::now();
    let run = |index: usize, time: Duration, request: TextRequest| {
        let (client, slots) = (client.clone(), Arc::clone(&slots));
        let model = settings.model.clone();
        // A task of its own, so that clients do not wait for each other's parsing.
        let task = tokio::spawn(async move {
            tokio::time::sleep_until((start + time).into()).await;
            let _slot = slots.acquire().await;
            client.measure(&model, &request, start).await
        });
        async move {
            let observation = task.await.unwrap_or_else(|error| Observation {
                error: Some(error.to_string()),
                ..Observation::default()
            });
            (index, observation)
        }
    };
    let mut running: FuturesUnordered<_> = times
        .into_iter()
        .zip(requests)
        .enumerate()
        .map(|(index, (time, request))| run(index, time, request.clone()))
        .collect();
    let mut observations = vec![Observation::default(); requests.len()];
    while let Some((index, observation)) = running.next().await {
        on_finished(&observation);
        observations[index] = observation;
    }
    Ok(Load {
        duration: start.elapsed(),
        observations,
    })
}
