//! The remediation orchestrator.
pub mod domain;
