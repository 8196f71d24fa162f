//! Parsing and deciding, without a database: what is sent becomes a value that is right, or a
//! problem that names the field; what is wished for becomes the next state, or a refusal.

pub(crate) mod audit;
pub(crate) mod execution;
pub(crate) mod page;
pub(crate) mod request;
pub(crate) mod text;
pub(crate) mod workflow;
