//! The test bed: a small HTTP workload that can be made sick and healed. Workflows act on it, and
//! its journal tells what was really done to it, which no record of our own could. It is open to
//! everyone, keeps everything in memory, and has no place in production.

pub mod act;
pub mod domain;
pub mod routes;

use std::time::Duration;

use clap::Args;
use common::server::{App, Context, Limits, open_api};

/// The longest that `/hang` may take, with room to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(routes::HANG_SECONDS_MAX + 10);

/// The test bed has nothing to configure.
#[derive(Args, Clone, Debug)]
pub struct Configuration {}

/// Builds the service.
///
/// # Errors
/// None; every service is built this way.
pub async fn build(_: Configuration, context: Context) -> anyhow::Result<App> {
    let limits = Limits {
        timeout: ANSWER_TIME_MAX,
        ..Limits::default()
    };
    Ok(App::new(open_api(routes::routes(context.shutdown), limits)))
}
