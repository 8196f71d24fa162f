//! `--plan`
use crate::cli;
use crate::source::workspace::{Target, Workspace};
use anyhow::Result;
pub(super) fn print(
    _workspace: &Workspace,
    _targets: &[&Target],
    _options: &cli::E2e,
) -> Result<()> {
    todo!()
}
