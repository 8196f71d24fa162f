//! One file per command. A command gives `Ok` when it ends green; everything else is an error that
//! knows its exit code.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cli::Command;
use crate::exit::{Exit, Failure};
use crate::report::live;
use crate::source::workspace::Workspace;

pub mod audit;
pub mod bench;
pub mod build;
mod bundle;
pub mod ci;
pub mod clean;
pub mod completions;
pub mod crash;
pub mod doctor;
pub mod e2e;
pub mod logs;
pub mod matrix;
mod paused;
pub(crate) mod room;
mod run_file;
pub mod setup;
pub mod status;
pub mod tag;
pub mod test;
pub mod usage;

/// Runs a command on the workspace that holds the current folder.
///
/// # Errors
/// What the command gives.
pub fn run(command: &Command) -> Result<()> {
    let workspace = Workspace::load(&Workspace::find_root()?)?;
    run_on(&workspace, command).map_err(|error| room::explain(&workspace, None, error))
}

fn run_on(workspace: &Workspace, command: &Command) -> Result<()> {
    match command {
        Command::E2e(options) => e2e::run(workspace, options),
        Command::Tag(options) => tag::run(workspace, options),
        Command::Build(options) => build::run(workspace, options),
        Command::Matrix(_) => matrix::run(workspace),
        Command::Audit(_) => audit::run(workspace),
        Command::Status(options) => status::run(workspace, options),
        Command::Logs(options) => logs::run(workspace, options),
        Command::Clean(options) => clean::run(workspace, options),
        Command::Test(options) => test::run(workspace, options),
        Command::Bench(options) => bench::run(workspace, options),
        Command::Crash(options) => crash::run(workspace, options),
        Command::Ci(options) => ci::run(workspace, options),
        Command::Completions(options) => completions::run(options.shell),
        Command::Doctor(options) => doctor::run(workspace, options),
        Command::Setup(options) => setup::run(workspace, options),
    }
}

/// Makes a folder that an option names, and sees that files can be written there: before minutes
/// are spent on what would be written.
///
/// # Errors
/// [`Exit::Usage`], naming option and folder.
pub(crate) fn check_folder(option: &str, folder: &Utf8Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .and_then(|()| tempfile::tempfile_in(folder).map(drop))
        .map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("{option} {folder}: no files can be written there"),
            )
            .hint("name a folder that is yours")
            .caused_by(error)
            .into()
        })
}

/// A folder that goes with the value, by its real name: no build may see two names for one place.
fn temporary() -> Result<(tempfile::TempDir, Utf8PathBuf)> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let path = Utf8PathBuf::try_from(folder.path().to_owned())?.canonicalize_utf8()?;
    Ok((folder, path))
}

/// Writes data to standard output. A reader that has gone (`| head`) is no failure.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn print_data(text: &str) -> Result<()> {
    let written = live::above(text.ends_with('\n'), || {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
    });
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
