//! The process of signalprocessing. The source digest is read here and nowhere else, so that a changed
//! digest compiles this file alone.

use std::process::ExitCode;

use common::health::{DATASTORAGE, Identity};

const SOURCE_DIGEST: Option<&str> = option_env!("E2E_SOURCE_DIGEST");
const RUSTC: Option<&str> = option_env!("E2E_RUSTC");

const IDENTITY: Identity = Identity::new(
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_VERSION"),
    SOURCE_DIGEST,
    RUSTC,
);

fn main() -> ExitCode {
    common::server::run(IDENTITY, &[DATASTORAGE], signalprocessing::build)
}
