//! The process of testbed.

fn main() {}
