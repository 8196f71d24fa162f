//! Drives remediation requests to an end: chooses a workflow from the catalog, has it executed,
//! and says what became of it. It keeps no state of its own; it does not classify, and it acts
//! upon no target.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::client::DataStorage;
use common::config::{DataStorageArgs, TokensArgs};
use common::health::watch_datastorage;
use common::server::{self, App, Context, Limits};
use tokio::sync::mpsc;

mod audit;
pub mod checks;
pub mod domain;
pub mod routes;
pub mod rules;
pub mod worker;

use routes::Api;
use rules::LiveRules;
pub use worker::Worker;

/// Decisions that wait to be acted upon.
const NUDGES_MAX: usize = 64;

/// What the service is configured by.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Who may call.
    #[command(flatten)]
    pub tokens: TokensArgs,
    /// Where everything is stored.
    #[command(flatten)]
    pub datastorage: DataStorageArgs,
    /// File with cool-down, backoff and deadlines for each namespace; without it they are built in.
    #[arg(long = "policy-file", env = "POLICY_FILE", value_name = "FILE", value_parser = LiveRules::from_file)]
    pub rules: Option<LiveRules>,
    /// Pause between two questions for requests with a deadline behind them, in milliseconds.
    #[arg(long, env = "DUE_INTERVAL_MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub due_interval_ms: u64,
}

/// Builds the service.
///
/// # Errors
/// When the client of DataStorage cannot be made.
pub async fn build(config: Config, context: Context) -> anyhow::Result<App> {
    let storage = DataStorage::new(&config.datastorage)?;
    let due_interval = Duration::from_millis(config.due_interval_ms);
    let rules = config.rules.unwrap_or_default();
    let worker = Worker::new(storage.clone(), rules.clone(), due_interval);
    let (nudges, nudged) = mpsc::channel(NUDGES_MAX);
    let api = Api {
        storage: storage.clone(),
        rules: rules.clone(),
        nudges,
    };
    let routes = server::api(routes::routes(api), config.tokens.tokens, Limits::default());
    let Context { shutdown, health } = context;
    let watch = watch_datastorage(storage, health, shutdown.clone());
    let end = shutdown.clone();
    Ok(App::new(routes)
        .with_worker(Arc::new(worker).run(nudged, shutdown))
        .with_worker(async move {
            rules.follow(end.clone()).await;
            end.requested().await;
            Ok(())
        })
        .with_worker(async move {
            watch.await;
            Ok(())
        }))
}
