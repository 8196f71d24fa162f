//! The system of record: audit events in verifiable chains, remediation requests, workflows and
//! executions. Every rule is enforced here or in the database, where no service can go around it;
//! it keeps nothing but what PostgreSQL keeps, and it decides nothing: it says what may be decided.

pub mod config;
mod database;
mod domain;
mod routes;
mod store;
mod watch;

use common::server::{App, Context};

use crate::config::Config;
use crate::store::Store;
use crate::watch::Watches;

/// What must have answered before the service is ready.
pub const DEPENDENCIES: &[&str] = &[database::DEPENDENCY];

/// Prepares the database and builds the service.
///
/// # Errors
/// When the database refuses: a wrong password, a migration that fails. One that is away is
/// waited for.
pub async fn build(config: Config, context: Context) -> anyhow::Result<App> {
    let pool = database::open(&config.database).await?;
    let probe = database::probe(config.database.clone(), context.clone());
    let store = Store::new(pool, context.health);
    let watches = Watches::new(context.shutdown);
    let listening = watches
        .clone()
        .listen(database::listening_pool(&config.database));
    let routes = routes::routes(store, watches, config.tokens.tokens);
    Ok(App::new(routes).with_worker(probe).with_worker(listening))
}
