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

mod audit;
pub mod domain;
pub mod routes;
pub mod worker;

pub use worker::Worker;

/// What the service is configured by.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Who may call.
    #[command(flatten)]
    pub tokens: TokensArgs,
    /// Where everything is stored.
    #[command(flatten)]
    pub datastorage: DataStorageArgs,
    /// Pause between two looks at the open requests, in milliseconds.
    #[arg(long, env = "POLL_INTERVAL_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub poll_interval_ms: u64,
}

/// Builds the service.
///
/// # Errors
/// When the client of DataStorage cannot be made.
pub async fn build(config: Config, context: Context) -> anyhow::Result<App> {
    let storage = DataStorage::new(&config.datastorage)?;
    let poll_interval = Duration::from_millis(config.poll_interval_ms);
    let worker = Arc::new(Worker::new(storage.clone(), poll_interval));
    let routes = server::api(
        routes::routes(storage.clone()),
        config.tokens.tokens,
        Limits::default(),
    );
    let Context { shutdown, health } = context;
    let watch = watch_datastorage(storage, health, shutdown.clone());
    Ok(App::new(routes)
        .with_worker(worker.run(shutdown))
        .with_worker(async move {
            watch.await;
            Ok(())
        }))
}
