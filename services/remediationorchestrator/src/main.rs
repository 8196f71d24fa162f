//! The process of remediationorchestrator.

fn main() {}
