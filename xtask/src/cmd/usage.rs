//! What stands below clap's words on a wrong command line: the fix, where clap does not know it. The
//! names of targets are in the workspace, and a value may come from a variable.

use std::env;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::completions;
use crate::report;

/// Flags that a variable stands for, with what each may be.
const VARIABLES: [(&str, &str, &str); 2] = [
    ("--engine", "E2E_ENGINE", "auto, podman or docker"),
    ("--cluster", "E2E_CLUSTER", "local or kind"),
];

/// Prints what clap says, and the fix if there is one to add; gives the exit code. Help is no error.
#[must_use]
pub fn tell(error: &clap::Error) -> u8 {
    // A reader that has gone is no failure.
    let _ = error.print();
    if let Some(hint) = hint(error) {
        report::say!("hint: {hint}");
    }
    u8::try_from(error.exit_code()).unwrap_or(2)
}

fn hint(error: &clap::Error) -> Option<String> {
    let argument = match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(argument) => argument.as_str(),
        ContextValue::Strings(arguments) => arguments.first()?,
        _ => return None,
    };
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let names = |candidates: Vec<clap_complete::CompletionCandidate>| {
        let names = candidates
            .iter()
            .map(|one| one.get_value().to_string_lossy());
        names.collect::<Vec<_>>().join(", ")
    };
    match (error.kind(), argument) {
        (ErrorKind::MissingRequiredArgument, target) if target.starts_with("<TARGET>") => {
            Some(format!("targets: {}", names(completions::targets())))
        }
        (ErrorKind::MissingRequiredArgument, "<SERVICE>") => {
            Some(format!("services: {}", names(completions::services())))
        }
        (ErrorKind::MissingRequiredArgument, "<LOADED>") => {
            Some(format!("services with a load: {}", names(completions::loads())))
        }
        (ErrorKind::InvalidValue | ErrorKind::MissingRequiredArgument, "<SHELL>") => Some(
            "there is a script for bash, zsh and fish: `cargo xtask completions bash`; in any other shell `cargo xtask --help` lists the commands"
                .to_owned(),
        ),
        (ErrorKind::InvalidValue, "--engine <ENGINE>" | "--cluster <CLUSTER>") => {
            of_variable(argument, value)
        }
        (ErrorKind::ValueValidation, "--timeout <SECONDS>") => {
            Some("give a whole number of seconds, 1 or more: `--timeout 600`".to_owned())
        }
        (ErrorKind::ValueValidation, "--jobs <COUNT|auto>") => {
            Some("give how many at a time, or leave that to the tool: `--jobs 2`, `--jobs auto`".to_owned())
        }
        (ErrorKind::ValueValidation, "--rounds <COUNT>") => {
            Some("give a whole number, 1 or more: `--rounds 5`".to_owned())
        }
        _ => None,
    }
}

/// Whoever set a variable does not look for its value on the command line.
fn of_variable(argument: &str, value: &str) -> Option<String> {
    let mut known = VARIABLES.iter();
    let (flag, variable, values) = known.find(|(flag, ..)| argument.starts_with(flag))?;
    let on_command_line = env::args().any(|argument| argument.starts_with(flag));
    let is_its = env::var(variable).is_ok_and(|held| held == value);
    (is_its && !on_command_line).then(|| {
        format!("`{value}` is what the variable {variable} holds: unset it, or set it to {values}")
    })
}
