//! `setup`: installs what is missing, by apt; elsewhere it prints the commands.

use anyhow::Result;

use crate::source::workspace::Workspace;

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Exit::Host`] when something is still missing.
pub fn run(_workspace: &Workspace, _yes: bool) -> Result<()> {
    todo!()
}

/// Installs what the main job lacks, and says so; asks nobody.
///
/// # Errors
/// [`crate::exit::Exit::Host`] when something is still missing.
pub fn ensure(_workspace: &Workspace) -> Result<()> {
    todo!()
}
