//! The process of signalprocessing.

fn main() {}
