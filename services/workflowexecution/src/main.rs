//! The process of workflowexecution.

fn main() {}
