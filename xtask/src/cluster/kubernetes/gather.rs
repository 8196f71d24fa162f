//! What explains a failure on Kubernetes, written down before what failed goes. Secrets are not asked
//! for, and the run's own are blacked out wherever somebody else has written them. No file is larger
//! than a reader can use.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use crate::process::{self, Invocation};
use crate::run::Run;
use crate::secrets::Blackout;

/// One question on a busy host.
const ASK_DEADLINE: Duration = Duration::from_secs(20);
/// Of a longer answer the end is kept.
const FILE_BYTES_MAX: usize = 2_000_000;
/// Where it lies in the folder of a run.
pub(crate) const FOLDER: &str = "must-gather";

/// Asks all of these, each for a file of its own; what cannot be told is told as such in its file.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(
    run: &Run,
    questions: Vec<(impl AsRef<Utf8Path> + Send, Invocation)>,
) -> Result<()> {
    let folder = run.directory().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
    let blackout = Blackout::of_run(run.directory());
    thread::scope(|scope| {
        let (folder, blackout) = (&folder, &blackout);
        let asking = questions.into_iter().map(|(name, ask)| {
            scope.spawn(move || {
                let path = folder.join(name);
                let text = bounded(&blackout.over(answer(&ask)));
                fs::write(&path, text).with_context(|| format!("cannot write {path}"))
            })
        });
        crate::threads::all(asking.collect())
    })
}

fn answer(ask: &Invocation) -> String {
    match process::output(ask, ASK_DEADLINE) {
        Ok(captured) if captured.code == 0 => captured.stdout,
        Ok(captured) => format!(
            "{ask}\nended with {}\n{}{}",
            captured.code, captured.stdout, captured.stderr
        ),
        Err(error) => format!("{error}\n"),
    }
}

fn bounded(text: &str) -> String {
    let over = text.len().saturating_sub(FILE_BYTES_MAX);
    if over == 0 {
        return text.to_owned();
    }
    let mut lines = text.char_indices().skip_while(|(index, _)| *index < over);
    let from = lines.find(|(_, character)| *character == '\n');
    let from = from.map_or(text.len(), |(index, _)| index + 1);
    format!("<{from} bytes before this are left out>\n{}", &text[from..])
}

#[cfg(test)]
mod tests {
    use super::{FILE_BYTES_MAX, bounded};

    #[test]
    fn of_a_long_answer_the_end_is_kept_in_whole_lines() {
        assert_eq!(bounded("short\n"), "short\n");
        let line = "äöü line of a log\n";
        let long = line.repeat(2 * FILE_BYTES_MAX / line.len());
        let told = bounded(&long);
        assert!(told.len() < FILE_BYTES_MAX + 100);
        let (head, rest) = told.split_once('\n').unwrap();
        assert!(head.ends_with("are left out>"));
        assert!(rest.starts_with(line) && rest.ends_with(line));
    }
}
