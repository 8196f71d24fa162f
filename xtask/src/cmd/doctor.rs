//! `doctor`: what is there, what is missing, which engine would be chosen and why. Changes nothing.

use anyhow::Result;

use crate::source::workspace::Workspace;

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Exit::Host`] when the main job could not run.
pub fn run(_workspace: &Workspace) -> Result<()> {
    todo!()
}
