//! The local cluster: containers on a private network, restarted by the engine when they end, so
//! that it holds after the tool has gone. Ports are random on 127.0.0.1. It honours a closed list
//! of what a manifest may say and refuses the rest, naming the field and `--cluster kind`.

use anyhow::Result;

/// The local cluster of a run.
#[derive(Debug)]
pub struct Local(());

impl Local {
    /// The state of every container, one line each.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn describe(&self) -> Result<Vec<String>> {
        todo!()
    }
}
