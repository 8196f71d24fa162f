//! Parses, dispatches, maps errors to exit codes; nothing else.

fn main() {}
