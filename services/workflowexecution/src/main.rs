//! The process of workflowexecution.

use std::process::ExitCode;

use common::health::{DATASTORAGE, Identity};

const SOURCE_DIGEST: Option<&str> = option_env!("E2E_SOURCE_DIGEST");
const RUSTC: Option<&str> = option_env!("E2E_RUSTC");

fn main() -> ExitCode {
    let package = env!("CARGO_PKG_NAME");
    let identity = Identity::new(package, env!("CARGO_PKG_VERSION"), SOURCE_DIGEST, RUSTC);
    common::server::run(identity, &[DATASTORAGE], workflowexecution::build)
}
