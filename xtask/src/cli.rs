//! The clap tree.
