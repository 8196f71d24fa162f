//! Signalprocessing: takes pending requests under a lease, finds out what the inventory and the
//! Kubernetes API know about their targets, has a policy classify them, and hands them on for
//! analysis. It keeps no state: who dies in the middle is followed by whoever finds the lease expired.

pub mod audit;
pub mod domain;
pub mod live_policy;
pub mod policy;
pub mod routes;
pub mod worker;

use clap::Args;
use common::{
    client::DataStorage,
    config::{DataStorageArgs, ReplicaArgs, TokensArgs},
    health,
    inventory::LiveInventory,
    server::{App, Context, Limits, api},
};
use kubernetes::KubernetesArgs;
use live_policy::LivePolicy;
use worker::Worker;

/// The configuration of signalprocessing.
#[derive(Args, Clone, Debug)]
pub struct Configuration {
    /// Who may call.
    #[command(flatten)]
    pub tokens: TokensArgs,
    /// Where requests are kept.
    #[command(flatten)]
    pub datastorage: DataStorageArgs,
    /// The holder of leases.
    #[command(flatten)]
    pub replica: ReplicaArgs,
    /// Who is asked about the rest.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// File with namespaces, workloads and their owners; without it everything is unknown.
    #[arg(long = "inventory-file", env = "INVENTORY_FILE", value_name = "FILE", value_parser = LiveInventory::from_file)]
    pub inventory: Option<LiveInventory>,
    /// File with the policy that classifies: Rego, package classification.
    #[arg(long = "policy-file", env = "POLICY_FILE", value_name = "FILE", value_parser = LivePolicy::from_file)]
    pub policy: LivePolicy,
}

/// Builds the service.
///
/// # Errors
/// When the client of DataStorage or that of Kubernetes cannot be made.
pub async fn build(configuration: Configuration, context: Context) -> anyhow::Result<App> {
    let datastorage = DataStorage::new(&configuration.datastorage)?;
    let inventory = configuration.inventory.unwrap_or_default();
    let policy = configuration.policy;
    let Context { shutdown, health } = context;
    let worker = Worker {
        datastorage: datastorage.clone(),
        replica: configuration.replica.replica_name,
        inventory: inventory.clone(),
        kubernetes: configuration.kubernetes.client()?,
        policy: policy.clone(),
        shutdown: shutdown.clone(),
    };
    let follower = worker.clone();
    let routes = api(
        routes::routes(policy),
        configuration.tokens.tokens,
        Limits::default(),
    );
    let end = shutdown.clone();
    Ok(App::new(routes)
        .with_worker(async move {
            worker.run().await;
            Ok(())
        })
        .with_worker(async move {
            follower.follow_policy().await;
            Ok(())
        })
        .with_worker(async move {
            inventory.follow(end).await;
            Ok(())
        })
        .with_worker(async move {
            health::watch_datastorage(datastorage, health, shutdown).await;
            Ok(())
        }))
}
