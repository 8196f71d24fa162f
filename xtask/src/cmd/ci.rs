//! x
use crate::source::workspace::Workspace;
use anyhow::Result;
/// x
pub fn run<T>(_workspace: &Workspace, _options: &T) -> Result<()> {
    todo!()
}
