//! What explains a failure on Kubernetes, written down before what failed goes. Secrets are not asked
//! for, and the run's own are blacked out wherever somebody else has written them. No file is larger
//! than a reader can use.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use crate::process::{self, Invocation};
use crate::run::{self, Run};

/// One question on a busy host.
const ASK_DEADLINE: Duration = Duration::from_secs(20);
/// Of a longer answer the end is kept.
const FILE_BYTES_MAX: usize = 2_000_000;
/// Where it lies in the folder of a run.
pub(crate) const FOLDER: &str = "must-gather";
/// A shorter word is no secret, and would black out half a log.
const SECRET_BYTES_MIN: usize = 8;

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
    let secrets = secrets(&run.directory().join(run::SECRETS));
    thread::scope(|scope| {
        let (folder, secrets) = (&folder, &secrets);
        let asking = questions.into_iter().map(|(name, ask)| {
            scope.spawn(move || {
                let path = folder.join(name);
                let text = bounded(&blacked_out(answer(&ask), secrets));
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

/// Every token and password of the run.
fn secrets(folder: &Utf8Path) -> Vec<String> {
    let files = ["tokens", "passwords"].into_iter().flat_map(|kind| {
        let entries = folder.join(kind).read_dir_utf8().into_iter().flatten();
        entries.flatten()
    });
    files
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| text.len() >= SECRET_BYTES_MIN)
        .collect()
}

fn blacked_out(text: String, secrets: &[String]) -> String {
    secrets
        .iter()
        .fold(text, |text, secret| match text.contains(secret.as_str()) {
            true => text.replace(secret.as_str(), "<secret of the run>"),
            false => text,
        })
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
    use std::fs;

    use camino::Utf8Path;

    use super::{FILE_BYTES_MAX, blacked_out, bounded, secrets};

    #[test]
    fn what_opens_something_is_blacked_out() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        for (name, text) in [
            ("tokens/a@b", "0123456789abcdef\n"),
            ("passwords/p", "short"),
        ] {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let known = secrets(folder);
        assert_eq!(known, ["0123456789abcdef"]);
        let text = "a 0123456789abcdef b short 0123456789abcdef".to_owned();
        let told = blacked_out(text, &known);
        assert_eq!(told, "a <secret of the run> b short <secret of the run>");
    }

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
