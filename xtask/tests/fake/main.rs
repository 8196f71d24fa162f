//! A program that says what a file beside it tells it to say: `<program>.json` holds answers, the
//! first that fits is given, and every call is noted in `<program>.calls`. For tests of what the
//! tool makes of the words of other programs; it pretends nothing else.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Deserialize;

/// One answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// Every one of these stands among the arguments.
    #[serde(default)]
    arguments: Vec<String>,
    /// This variable is set to a file that holds this text; an empty text is an unset variable.
    #[serde(default)]
    file: Option<(String, String)>,
    /// This variable is set.
    #[serde(default)]
    variable: Option<String>,
    #[serde(default)]
    stdout: String,
    #[serde(default)]
    stderr: String,
    #[serde(default)]
    code: u8,
    /// Standard input is read to its end, into `<program>.stdin`.
    #[serde(default)]
    reads: bool,
    /// It never ends by itself.
    #[serde(default)]
    hangs: bool,
}

impl Answer {
    fn fits(&self, arguments: &[String]) -> bool {
        let file = self.file.as_ref().is_none_or(|(variable, text)| {
            let path = std::env::var(variable).ok();
            match (path, text.as_str()) {
                (None, "") => true,
                (Some(path), text) if !text.is_empty() => std::fs::read_to_string(path)
                    .expect("the file that a variable names")
                    .contains(text),
                _ => false,
            }
        });
        let variable = self.variable.as_ref();
        let variable = variable.is_none_or(|name| std::env::var_os(name).is_some());
        file && variable && self.arguments.iter().all(|one| arguments.contains(one))
    }
}

fn main() -> ExitCode {
    let program = std::env::args_os().next().expect("a name of its own");
    let beside = |end: &str| PathBuf::from(&program).with_extension(end);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut calls = OpenOptions::new()
        .create(true)
        .append(true)
        .open(beside("calls"))
        .expect("a file for calls");
    writeln!(calls, "{}", arguments.join(" ")).expect("a call can be noted");
    let text = std::fs::read(beside("json")).expect("answers");
    let answers: Vec<Answer> = serde_json::from_slice(&text).expect("answers that can be read");
    let Some(answer) = answers.iter().find(|answer| answer.fits(&arguments)) else {
        eprintln!("no answer fits {arguments:?}");
        return ExitCode::from(99);
    };
    if answer.reads {
        let mut bytes = Vec::new();
        let read = std::io::stdin().read_to_end(&mut bytes);
        read.and_then(|_| std::fs::write(beside("stdin"), bytes))
            .expect("standard input can be kept");
    }
    print!("{}", answer.stdout);
    eprint!("{}", answer.stderr);
    if answer.hangs {
        loop {
            std::thread::park();
        }
    }
    ExitCode::from(answer.code)
}
