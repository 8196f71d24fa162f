//! The process of datastorage.

fn main() {}
