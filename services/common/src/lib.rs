//! What the services share: the wire types, the transition tables, configuration, telemetry,
//! health and version, errors, shutdown, and the DataStorage client. It knows no service by name
//! except where the transition tables do, and it does not read the source digest: each service's
//! own `main.rs` does, and hands it on.

pub mod api;
pub mod transitions;
