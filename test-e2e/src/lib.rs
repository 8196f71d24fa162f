//! The client side of a run: what a scenario needs to find the deployment, act on it through the
//! network and see what came of it. It deploys nothing, and knows nothing of the services but
//! their wire types and names.

pub mod audit;
pub mod child;
pub mod cluster;
pub mod compiled;
pub mod config_map;
pub mod crowd;
pub mod database;
pub mod engine;
pub mod fault;
pub mod forward;
pub mod http;
pub mod kubernetes;
pub mod link;
pub mod load;
pub mod metrics;
pub mod poll;
pub mod requests;
pub mod run;
pub mod scenario;
pub mod signals;
pub mod testbed;
pub mod workflows;

pub use crate::http::{Answer, Api, NoAnswer};
pub use crate::poll::{Look, eventually};
pub use crate::scenario::{Access, Scenario};

/// A short name that no other execution of any test has: lower-case letters and digits.
#[must_use]
pub fn unique() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    random.chars().take(12).collect()
}
