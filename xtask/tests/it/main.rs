//! The tool from outside: real children, real trees, real archives.

mod audit_patterns;
mod build_phase;
mod build_recipe;
mod cli_words;
mod cluster_secrets;
mod engine_probe;
mod image_assembly;
mod manifest_reading;
mod process_children;
mod process_interrupt;
mod run_life;
mod source_cargo;
mod source_digest;
mod source_mirror;
mod source_refusals;
mod source_tree;
mod source_workspace;
mod third_party_names;
mod tidy;
mod watcher_events;
