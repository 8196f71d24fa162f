//! Workflow execution.
pub mod call;
pub mod domain;
mod template;
