//! The tool behind `cargo xtask`: it hashes the sources once, builds exactly those bytes, loads,
//! deploys, proves and tests them. The modules are a library so that `compile_fail` tests and
//! `tests/it` can reach them; nothing else uses it.

pub mod bundle;
pub mod cache;
pub mod cli;
pub mod cluster;
pub mod cmd;
pub mod engine;
pub mod exit;
pub mod host;
pub mod image;
pub mod manifest;
pub mod pipeline;
pub mod poll;
pub mod process;
mod registry;
pub mod report;
pub mod run;
pub mod secrets;
pub mod source;
pub mod third_party;
mod threads;
pub mod watcher;

pub use hashing::digest;
