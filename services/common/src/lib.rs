//! What the services share: the wire types, the transition tables, configuration, telemetry,
//! health and version, errors, shutdown, and the DataStorage client. It knows no service by name
//! except where the transition tables do, and it does not read the source digest: each service's
//! own `main.rs` does, and hands it on.

pub mod api;
pub mod auth;
pub mod canonical;
pub mod client;
pub mod config;
pub mod event_id;
pub mod extract;
pub mod health;
pub mod inventory;
pub mod metrics;
pub mod problem;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod transitions;
pub mod watch;
pub mod watched_file;
