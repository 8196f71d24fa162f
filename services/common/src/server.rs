//! The life of a service: three listeners, background workers, an orderly end. SIGTERM or SIGINT
//! takes readiness away, lets what was accepted end, tells the workers and waits for them; the
//! process exits 0 within ten seconds. A worker that ends before that takes the service down:
//! the engine starts it again, and nothing limps on unseen.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::serve::ListenerExt as _;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::auth::{Tokens, authenticate};
use crate::config::ListenArgs;
use crate::health::{self, Health, Identity};
use crate::problem::Problem;
use crate::shutdown::Shutdown;
use crate::{metrics, telemetry};

/// What the process has ended by, at the latest, after SIGTERM.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(9);

/// What a service is built with.
#[derive(Clone, Debug)]
pub struct Context {
    /// Requested when the service is to end.
    pub shutdown: Shutdown,
    /// What `/readyz` tells.
    pub health: Health,
}

/// What a service consists of.
pub struct App {
    /// The API, best made with [`api`].
    pub routes: Router,
    /// What runs beside it until shutdown is requested.
    pub workers: JoinSet<anyhow::Result<()>>,
}

impl App {
    /// An API without workers.
    #[must_use]
    pub fn new(routes: Router) -> Self {
        Self {
            routes,
            workers: JoinSet::new(),
        }
    }

    /// Adds a worker. It must end soon after shutdown has been requested, and not before.
    #[must_use]
    pub fn with_worker<F>(mut self, worker: F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.workers.spawn(worker);
        self
    }
}

/// Bounds of a request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// 413 beyond.
    pub body_bytes_max: usize,
    /// 408 beyond.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 1024 * 1024,
            timeout: Duration::from_secs(8),
        }
    }
}

/// Puts around the routes what every API has: log and count, bearer tokens, bounds on body and
/// time, and problems for unknown routes and methods.
pub fn api(routes: Router, tokens: Tokens, limits: Limits) -> Router {
    open_api(
        routes.route_layer(middleware::from_fn_with_state(tokens, authenticate)),
        limits,
    )
}

/// As [`api`], for everyone.
pub fn open_api(routes: Router, limits: Limits) -> Router {
    let deadline = move |request: Request, next: Next| async move {
        match tokio::time::timeout(limits.timeout, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::timeout("the request took too long").into_response(),
        }
    };
    routes
        .fallback(async || Problem::not_found("there is no such resource"))
        .method_not_allowed_fallback(async || {
            Problem::method_not_allowed("this resource does not know that method")
        })
        .layer(DefaultBodyLimit::max(limits.body_bytes_max))
        .layer(middleware::from_fn(deadline))
        .layer(middleware::from_fn(telemetry::observe))
}

/// Where a started service listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The API.
    pub api: SocketAddr,
    /// `/healthz`, `/readyz`, `/version`.
    pub probes: SocketAddr,
    /// `/metrics`.
    pub metrics: SocketAddr,
}

/// A started service.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addresses: Addresses,
    context: Context,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Ends it when shutdown is requested.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Waits for its end, of its own accord or after shutdown was requested.
    ///
    /// # Errors
    /// When a worker or a listener failed, or when it did not end in time.
    pub async fn ended(self) -> anyhow::Result<()> {
        self.task.await.context("the service panicked")?
    }

    /// Requests shutdown and waits for the end.
    ///
    /// # Errors
    /// As [`Running::ended`].
    pub async fn stop(self) -> anyhow::Result<()> {
        self.context.shutdown.request();
        self.ended().await
    }
}

/// Binds, builds and serves; gives back when the API answers. Probes and metrics answer from the
/// start, while `build` may still be waiting for a database.
///
/// # Errors
/// When an address cannot be bound, when `build` fails, or when shutdown came first.
pub async fn start<F>(
    listen: &ListenArgs,
    identity: Identity,
    context: Context,
    build: F,
) -> anyhow::Result<Running>
where
    F: AsyncFnOnce(Context) -> anyhow::Result<App>,
{
    metrics::install();
    let side_end = Shutdown::new();
    let probes = bind("--probe-address", listen.probe_address).await?;
    let scrapes = bind("--metrics-address", listen.metrics_address).await?;
    let (probe_address, metrics_address) = (probes.local_addr()?, scrapes.local_addr()?);
    let probe_routes = health::probe_routes(context.health.clone(), identity);
    tokio::spawn(serve(probes, probe_routes, side_end.clone()));
    tokio::spawn(serve(scrapes, health::metrics_routes(), side_end.clone()));

    let built = context.shutdown.unless_requested(build(context.clone()));
    let app = built.await.context("shutdown came before the start")?;
    let app = app.context("cannot start")?;
    let listener = bind("--listen-address", listen.listen_address).await?;
    let addresses = Addresses {
        api: listener.local_addr()?,
        probes: probe_address,
        metrics: metrics_address,
    };
    context.health.started();
    tracing::info!(api = %addresses.api, probes = %addresses.probes, metrics = %addresses.metrics, "listening");
    let task = tokio::spawn(live(listener, app, context.clone(), side_end));
    Ok(Running {
        addresses,
        context,
        task,
    })
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{flag} {address} cannot be bound"))
}

async fn serve(listener: TcpListener, routes: Router, end: Shutdown) -> anyhow::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Answers are small; waiting to fill a packet only costs time.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, routes)
        .with_graceful_shutdown(async move { end.requested().await })
        .await
        .context("a listener failed")
}

/// Serves until shutdown is requested or a worker ends, then drains.
async fn live(
    listener: TcpListener,
    app: App,
    context: Context,
    side_end: Shutdown,
) -> anyhow::Result<()> {
    let in_flight = Arc::new(AtomicUsize::new(0));
    let routes = counted(app.routes, in_flight.clone());
    let mut api = tokio::spawn(serve(listener, routes, context.shutdown.clone()));
    let mut workers = app.workers;
    let early = tokio::select! {
        biased;
        () = context.shutdown.requested() => Ok(()),
        Some(ended) = workers.join_next() => ended
            .context("a worker panicked")
            .flatten()
            .and_then(|()| unless_told(&context, "a worker ended too early")),
        ended = &mut api => ended
            .context("the API panicked")
            .flatten()
            .and_then(|()| unless_told(&context, "the API ended too early")),
    };
    if let Err(error) = &early {
        tracing::error!("{error:#}");
    }
    tracing::info!("draining");
    context.health.drain();
    context.shutdown.request();
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        let mut result = Ok(());
        if !api.is_finished() {
            result = api.await.context("the API panicked").flatten();
        }
        while let Some(ended) = workers.join_next().await {
            result = result.and(ended.context("a worker panicked").flatten());
        }
        result
    })
    .await;
    side_end.request();
    let left = in_flight.load(Ordering::SeqCst);
    let drained = match drained {
        Ok(result) => result,
        // A connection that is open and asks nothing is no reason to fail.
        Err(_) if left == 0 && workers.is_empty() => Ok(()),
        Err(_) => Err(anyhow::anyhow!(
            "{left} requests and {} workers did not end within {DRAIN_TIMEOUT:?}",
            workers.len()
        )),
    };
    tracing::info!("ended");
    early.and(drained)
}

/// Who is told to end may have done so before this task hears of it.
fn unless_told(context: &Context, early: &'static str) -> anyhow::Result<()> {
    if context.shutdown.is_requested() {
        return Ok(());
    }
    Err(anyhow::anyhow!(early))
}

/// Counts the requests that have no answer yet.
fn counted(routes: Router, in_flight: Arc<AtomicUsize>) -> Router {
    struct One(Arc<AtomicUsize>);
    impl Drop for One {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        in_flight.fetch_add(1, Ordering::SeqCst);
        let one = One(in_flight.clone());
        async move {
            let response = next.run(request).await;
            drop(one);
            response
        }
    }))
}

/// The flags of a service: where it listens, and its own.
#[derive(Parser, Debug)]
struct Flags<C: Args> {
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    service: C,
}

/// The whole of a service's `main`: parses the configuration (and ends with status 2 and the name
/// of the flag where it is bad), starts logging, builds, serves, drains.
pub fn run<C, F>(identity: Identity, dependencies: &[&'static str], build: F) -> ExitCode
where
    C: Args,
    F: AsyncFnOnce(C, Context) -> anyhow::Result<App>,
{
    let flags = parse::<C>(identity);
    telemetry::init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let context = Context {
        shutdown: Shutdown::new(),
        health: Health::awaiting(dependencies),
    };
    let ended = runtime.block_on(async {
        end_on_signals(context.shutdown.clone())?;
        let version = identity.version();
        tracing::info!(
            package = version.package,
            version = version.version,
            source_digest = version.source_digest,
            "starting"
        );
        let end = context.shutdown.clone();
        let service = async |context| build(flags.service, context).await;
        match start(&flags.listen, identity, context, service).await {
            Ok(running) => running.ended().await,
            Err(_) if end.is_requested() => Ok(()),
            Err(error) => Err(error),
        }
    });
    // What still hangs (a connection that asks nothing) must not keep the process.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse<C: Args>(identity: Identity) -> Flags<C> {
    let mut matches = Flags::<C>::command().name(identity.package()).get_matches();
    Flags::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
}

fn end_on_signals(shutdown: Shutdown) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.request();
    });
    Ok(())
}
