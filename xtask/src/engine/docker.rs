//! docker: asked, told about, and not chosen yet. Its client is often there with no server behind
//! it, so the server is asked, never `--version`.

use std::time::Duration;

use super::INSTALL;
use crate::exit::{Exit, Failure};
use crate::host;
use crate::process::{self, Invocation};

/// A server that is there answers at once.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Why docker is not used: always a reason.
pub(super) fn probe() -> anyhow::Error {
    let Some(program) = host::program("docker") else {
        return Failure::new(Exit::Host, "is not installed")
            .hint(INSTALL)
            .into();
    };
    let ask =
        Invocation::new(program.as_str()).args(["version", "--format", "{{.Server.Version}}"]);
    let reason = match process::output(&ask, ANSWER_DEADLINE) {
        Ok(output) if output.code == 0 => format!(
            "{program}, server {}: works, but is not supported yet",
            output.stdout.trim()
        ),
        Ok(output) => format!(
            "{program} is a client without a server, and is not supported yet: {}",
            output
                .stderr
                .trim()
                .lines()
                .last()
                .unwrap_or("it gives no reason")
        ),
        Err(error) => format!("{program} does not answer: {error}"),
    };
    Failure::new(Exit::Host, reason).hint(INSTALL).into()
}
