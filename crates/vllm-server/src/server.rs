//! The service from its first accepted connection to its last answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{interval, sleep};
use tokio_rustls::TlsAcceptor;
use vllm_engine::EngineClient;

use crate::accept::Connections;
use crate::config::{HttpConfig, ServerConfig};
use crate::error::Result;
use crate::front::Front;
use crate::listen::BoundSocket;
use crate::metrics::log::PeriodicLog;
use crate::router;
use crate::shutdown::{Phase, Shutdown};
use crate::state::{self, AppState, Shared};
use crate::tls;

/// The target of start-up lines in the form that uvicorn made common; a subscriber prints them
/// without vLLM's prefix.
pub const LIFECYCLE_TARGET: &str = "vllm_server::lifecycle";

/// How often the engine is asked whether it lives.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// How long ending requests may take to get their last words out, twice: first the engine's, then
/// the service's own.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Why the service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCause {
    /// It was asked to.
    Stopped,
    /// The engine died.
    EngineDead,
}

impl ServerConfig {
    /// Tells what [`Server::new`] would refuse, so that it is known before a model is loaded.
    ///
    /// # Errors
    /// A template that does not parse, a parser that does not exist, certificate files that cannot
    /// be used.
    pub fn validate(&self) -> Result<()> {
        self.http.tls.as_ref().map(tls::acceptor).transpose()?;
        state::chat_template(&self.api)?;
        state::tool_parser(&self.api)?;
        Ok(())
    }
}

/// A service that is ready to accept connections.
pub struct Server {
    state: Shared,
    front: Front,
    routes: Vec<String>,
    tls: Option<TlsAcceptor>,
    http: HttpConfig,
    shutdown: Shutdown,
}

impl Server {
    /// Puts a service together around an engine. `shutdown` will stop it.
    ///
    /// # Errors
    /// Options that do not go together, a chat template that does not parse, certificate files
    /// that cannot be used.
    pub fn new(
        config: &ServerConfig,
        engine: Arc<dyn EngineClient>,
        shutdown: Shutdown,
    ) -> Result<Self> {
        let tls = config.http.tls.as_ref().map(tls::acceptor).transpose()?;
        let state = Arc::new(AppState::new(config, engine, shutdown.clone())?);
        let (router, routes) = router::build(&state, config);
        let front = Front::new(config, router);
        Ok(Self {
            state,
            front,
            routes,
            tls,
            http: config.http.clone(),
            shutdown,
        })
    }

    /// Serves until it is stopped or the engine dies, then tells running requests why they end
    /// and returns.
    ///
    /// # Errors
    /// The socket cannot listen.
    pub async fn serve(self, socket: BoundSocket) -> Result<ExitCause> {
        let Self {
            state,
            front,
            routes,
            tls,
            http,
            shutdown,
        } = self;
        tracing::info!(
            "Starting vLLM server on {}",
            http.listen.display(tls.is_some())
        );
        tracing::info!("Available routes are:");
        for route in routes {
            tracing::info!("{route}");
        }
        let pid = std::process::id();
        tracing::info!(target: LIFECYCLE_TARGET, "Started server process [{pid}]");
        tracing::info!(target: LIFECYCLE_TARGET, "Waiting for application startup.");
        let listener = socket.listen()?;
        tracing::info!(target: LIFECYCLE_TARGET, "Application startup complete.");

        let _periodic =
            AbortOnDrop(tokio::spawn(log_periodically(Arc::clone(&state))).abort_handle());
        let watch = watch_engine(Arc::clone(&state), http.keep_alive_on_engine_death);
        let _watch = AbortOnDrop(tokio::spawn(watch).abort_handle());
        let connections = Connections::new(front, &http, tls, shutdown.clone());
        let open = Arc::new(connections).accept_all(listener).await;
        let engine_died = !state.engine.is_alive();
        drain(open, &state, http.shutdown_timeout).await;
        Ok(if engine_died {
            ExitCause::EngineDead
        } else {
            ExitCause::Stopped
        })
    }
}

/// Lets open connections finish, in phases, each cut short by a second signal.
async fn drain(mut open: JoinSet<()>, state: &AppState, patience: Duration) {
    let shutdown = &state.shutdown;
    tracing::info!("[shutdown] API server: shutdown triggered");
    if !patience.is_zero() {
        wait_for_all(&mut open, patience, shutdown).await;
    }
    tracing::info!(
        "[shutdown] API server: stopping engine client mode=abort timeout={}s",
        patience.as_secs()
    );
    // The engine may be in the middle of a long step; nobody waits for that.
    let engine = Arc::clone(&state.engine);
    tokio::task::spawn_blocking(move || engine.shutdown());
    wait_for_all(&mut open, LAST_WORDS, shutdown).await;
    shutdown.advance(Phase::Ending);
    wait_for_all(&mut open, LAST_WORDS, shutdown).await;
    open.abort_all();
}

async fn wait_for_all(open: &mut JoinSet<()>, patience: Duration, shutdown: &Shutdown) {
    tokio::select! {
        () = async { while open.join_next().await.is_some() {} } => {}
        () = sleep(patience) => {}
        () = shutdown.reached(Phase::Killed) => {}
    }
}

/// Stops the service when the engine dies, so that whoever supervises the process can restart it.
async fn watch_engine(state: Shared, keep_alive: bool) {
    let mut ticks = interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        if !state.engine.is_alive() {
            break;
        }
    }
    if state.shutdown.phase() == Phase::Running {
        tracing::error!("the engine has died");
        if !keep_alive {
            state.shutdown.stop();
        }
    }
}

async fn log_periodically(state: Shared) {
    if !state.log.statistics {
        return;
    }
    let mut ticks = interval(
        state
            .log
            .statistics_interval
            .max(Duration::from_millis(100)),
    );
    ticks.tick().await;
    let mut log = PeriodicLog::new(Instant::now());
    loop {
        ticks.tick().await;
        let engine = &state.engine;
        if let Some(line) = log.line(Instant::now(), engine.statistics(), engine.info()) {
            tracing::info!("{line}");
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
