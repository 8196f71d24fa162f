//! The process of datastorage.

use std::process::ExitCode;

use common::health::Identity;

/// Told by `/version`. Here alone, so that another digest compiles nothing but this file anew.
const SOURCE_DIGEST: Option<&str> = option_env!("E2E_SOURCE_DIGEST");
const RUSTC: Option<&str> = option_env!("E2E_RUSTC");

fn main() -> ExitCode {
    let identity = Identity::new(
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        SOURCE_DIGEST,
        RUSTC,
    );
    common::server::run(identity, datastorage::DEPENDENCIES, datastorage::build)
}
