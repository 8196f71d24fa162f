//! Parses, dispatches, maps errors to exit codes; nothing else.

use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory as _, FromArgMatches as _};
use xtask::process::interrupt;
use xtask::report::{self, live};
use xtask::{cli::Cli, cmd};

fn main() -> ExitCode {
    cmd::completions::answer();
    let color = match live::is_on() {
        true => ColorChoice::Auto,
        false => ColorChoice::Never,
    };
    let matches = Cli::command().color(color).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(cmd::usage::tell(&error)),
    };
    let _clean = live::leave_a_clean_terminal();
    match interrupt::install().and_then(|()| cmd::run(&cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::from(report::exit_of(&error) as u8)
        }
    }
}
