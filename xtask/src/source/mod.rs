//! Sources: which files make a package (`closure`), their bytes and digest (`snapshot`), the tree
//! that cargo reads (`mirror`), and why a digest changed (`explain`). Knows packages and files;
//! starts no compiler.

pub mod closure;
pub mod explain;
mod manifests;
pub mod mirror;
pub mod snapshot;
pub mod workspace;
