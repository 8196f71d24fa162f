//! Gateway: takes signals from monitoring and makes remediation requests of them, one for each
//! target. It keeps no state: what it answered for is in DataStorage, request and audit event
//! both, before the answer goes out.

pub mod audit;
pub mod domain;
pub mod intake;
pub mod routes;

use clap::Args;
use common::{
    client::DataStorage,
    config::{DataStorageArgs, TokensArgs},
    health,
    inventory::LiveInventory,
    server::{App, Context, Limits, api},
};
use domain::Scope;
use intake::Intake;
use routes::Gate;

/// The configuration of gateway.
#[derive(Args, Clone, Debug)]
pub struct Configuration {
    /// Who may send signals.
    #[command(flatten)]
    pub tokens: TokensArgs,
    /// Where requests are kept.
    #[command(flatten)]
    pub datastorage: DataStorageArgs,
    /// Cluster of signals that do not tell theirs.
    #[arg(long, env = "CLUSTER_NAME", default_value = "local")]
    pub cluster_name: String,
    /// Namespaces whose signals are taken, separated by commas; a trailing * makes a prefix.
    /// Empty: all.
    #[arg(long, env = "NAMESPACES", default_value = "")]
    pub namespaces: Scope,
    /// Messages that each source may send in a second, on average and at once; one more is asked to
    /// come again.
    #[arg(long, env = "MESSAGES_PER_SECOND", default_value = "200")]
    pub messages_per_second: std::num::NonZeroU32,
    /// File with namespaces, workloads and their owners; without it every owner is unknown.
    #[arg(long = "inventory-file", env = "INVENTORY_FILE", value_name = "FILE", value_parser = LiveInventory::from_file)]
    pub inventory: Option<LiveInventory>,
}

/// Builds the service.
///
/// # Errors
/// When the client of DataStorage cannot be made.
pub async fn build(configuration: Configuration, context: Context) -> anyhow::Result<App> {
    let datastorage = DataStorage::new(&configuration.datastorage)?;
    let inventory = configuration.inventory.unwrap_or_default();
    let intake = Intake {
        datastorage: datastorage.clone(),
        cluster: configuration.cluster_name,
        scope: configuration.namespaces,
        inventory: inventory.clone(),
    };
    let routes = api(
        routes::routes(Gate::new(intake, configuration.messages_per_second)),
        configuration.tokens.tokens,
        Limits::default(),
    );
    let Context { shutdown, health } = context;
    let end = shutdown.clone();
    Ok(App::new(routes)
        .with_worker(async move {
            health::watch_datastorage(datastorage, health, shutdown).await;
            Ok(())
        })
        .with_worker(async move {
            inventory.follow(end).await;
            Ok(())
        }))
}
