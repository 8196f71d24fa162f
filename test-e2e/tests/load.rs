//! The load of each service that has one: how much of it is taken and how soon, and whether all that
//! was accepted is there once. `cargo xtask bench load <service>` runs it; no ordinary run does.

#[path = "load/datastorage.rs"]
mod datastorage;
#[path = "load/gateway.rs"]
mod gateway;
#[path = "load/remediationorchestrator.rs"]
mod remediationorchestrator;
#[path = "load/signalprocessing.rs"]
mod signalprocessing;
#[path = "load/workflowexecution.rs"]
mod workflowexecution;
