//! What is done for each of thousands of files: it is read, once, and hashed. A package of its own
//! because it is compiled with optimisation, in a tool that is not: a newcomer waits for the tool
//! to compile, and everybody waits for phase 0. It knows bytes, single files and
//! names, and how they are written down to be hashed; which files count is not asked here.

pub mod digest;
pub mod encoding;
pub mod file;
pub mod files;
pub mod names;
pub mod rest;
