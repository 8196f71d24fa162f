//! The client side of a run.
