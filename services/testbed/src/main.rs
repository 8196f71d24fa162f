//! The process of testbed. The source digest is read here and nowhere else, so that a changed
//! digest compiles this file alone.

use std::process::ExitCode;

use common::health::Identity;
use testbed::act;

const SOURCE_DIGEST: Option<&str> = option_env!("E2E_SOURCE_DIGEST");
const RUSTC: Option<&str> = option_env!("E2E_RUSTC");

const IDENTITY: Identity = Identity::new(
    env!("CARGO_PKG_NAME"),
    env!("CARGO_PKG_VERSION"),
    SOURCE_DIGEST,
    RUSTC,
);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == act::COMMAND).is_some() {
        return act::run(std::iter::once(act::COMMAND.to_owned()).chain(arguments));
    }
    common::server::run(IDENTITY, &[], testbed::build)
}
