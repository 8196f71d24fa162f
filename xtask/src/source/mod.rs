//! Sources: which files make a package (`closure`), their bytes and digest (`snapshot`), the tree
//! that cargo reads (`mirror`), why a digest changed (`explain`), and where an edit can count
//! (`folders`). Knows packages and files; starts no compiler.

mod closure;
mod contents;
mod cut;
mod digests;
pub mod explain;
pub mod folders;
mod lock;
mod manifests;
pub mod mirror;
mod objects;
mod reading;
mod seen;
pub mod snapshot;
pub mod workspace;
