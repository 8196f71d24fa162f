//! The arrow: each phase consumes what the phase before produced.
//!
//! ```text
//! 0 tag      Workspace, Target                 -> Images<Tagged>      sources hashed once, references made
//! 1 build    Images<Tagged>                    -> Images<Built>, TestProgram
//! 2 cluster  Run, Engine                       -> Cluster             in parallel with 0 and 1
//! 3 load     Images<Built>, &Cluster           -> Images<Loaded>      seen in the cluster's own listing
//! 4 deploy   Images<Loaded>, &mut Cluster      -> Deployment          rolled out and reachable
//! 5 attest   Deployment, &Cluster              -> Attested            what runs is what was built
//! 6 test     &Attested, &TestProgram           -> TestReport
//! 7 clean    everything                        -> nothing left
//! ```
//!
//! Fields are private to the file of their phase, and each value is made only by the code that
//! observed the fact, so a wrong order, a subset of the images, or a reference from a string does
//! not compile: not outside this crate, and not in another phase either.

pub mod attest;
pub mod build;
pub mod clean;
pub mod deploy;
pub mod load;
pub mod push;
#[cfg(doctest)]
mod refused;
mod repository;
pub mod tag;
pub mod test;

pub use tag::{Frozen, Images, Stage};
