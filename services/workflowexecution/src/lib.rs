//! Claims workflow executions, runs their steps against the target, and reports what became of
//! them. It keeps no state of its own, chooses no workflow, and never runs anything twice.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use common::client::DataStorage;
use common::config::{DataStorageArgs, ReplicaArgs, TokensArgs};
use common::health::watch_datastorage;
use common::server::{self, App, Context, Limits};
use kubernetes::jobs::JobsArgs;

mod audit;
pub mod call;
pub mod domain;
pub mod job;
mod routes;
mod run;
mod template;
pub mod watchdog;
pub mod worker;

use call::Caller;
use watchdog::Watchdog;
use worker::{Settings, Worker};

/// What the service is configured by.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Who may call.
    #[command(flatten)]
    pub tokens: TokensArgs,
    /// Where everything is stored.
    #[command(flatten)]
    pub datastorage: DataStorageArgs,
    /// The holder of its claims.
    #[command(flatten)]
    pub replica: ReplicaArgs,
    /// Whether steps may run Jobs.
    #[command(flatten)]
    pub jobs: JobsArgs,
    /// Executions that run at the same time.
    #[arg(long, env = "RUNNING_MAX", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub running_max: u16,
    /// Time that a claim holds beyond what its calls may take, for reports in between.
    #[arg(long, env = "CLAIM_SLACK_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub claim_slack_seconds: u64,
    /// Time after a deadline before the watchdog ends an execution.
    #[arg(long, env = "WATCHDOG_GRACE_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub watchdog_grace_seconds: u64,
}

/// Builds the service.
///
/// # Errors
/// When a client cannot be made.
pub async fn build(config: Config, context: Context) -> anyhow::Result<App> {
    let storage = DataStorage::new(&config.datastorage)?;
    let grace = Duration::from_secs(config.watchdog_grace_seconds);
    let settings = Settings {
        replica_name: config.replica.replica_name,
        running_max: config.running_max.into(),
        slack: Duration::from_secs(config.claim_slack_seconds),
        grace,
    };
    let jobs = config.jobs.client()?;
    let worker = Worker::new(storage.clone(), Caller::new()?, jobs, settings);
    let worker = Arc::new(worker);
    let watchdog = Watchdog::new(storage.clone(), grace);
    let routes = server::api(
        routes::routes(storage.clone()),
        config.tokens.tokens,
        Limits::default(),
    );
    let Context { shutdown, health } = context;
    let watch = watch_datastorage(storage, health, shutdown.clone());
    Ok(App::new(routes)
        .with_worker(worker.run(shutdown.clone()))
        .with_worker(watchdog.run(shutdown))
        .with_worker(async move {
            watch.await;
            Ok(())
        }))
}
