//! The process of gateway.

fn main() {}
