//! Parses, dispatches, maps errors to exit codes; nothing else.

use std::process::ExitCode;

use clap::Parser as _;
use xtask::process::interrupt;
use xtask::report::{self, live};
use xtask::{cli::Cli, cmd};

fn main() -> ExitCode {
    cmd::completions::answer();
    let cli = Cli::parse();
    let _clean = live::leave_a_clean_terminal();
    match interrupt::install().and_then(|()| cmd::run(&cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::from(report::exit_of(&error) as u8)
        }
    }
}
