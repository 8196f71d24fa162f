//! The secrets of a run, blacked out of what somebody else has written and people are to read.

use std::fs;

use camino::Utf8Path;

use crate::run;

/// A shorter word is no secret, and would black out half a log.
const SECRET_BYTES_MIN: usize = 8;

/// Every token and password of a run.
pub(crate) struct Blackout(Vec<String>);

impl Blackout {
    /// Those that the run in this folder has now; none when they are removed already.
    pub(crate) fn of_run(run_directory: &Utf8Path) -> Self {
        let folder = run_directory.join(run::SECRETS);
        let files = ["tokens", "passwords"].into_iter().flat_map(|kind| {
            let entries = folder.join(kind).read_dir_utf8().into_iter().flatten();
            entries.flatten()
        });
        let secrets = files
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| text.len() >= SECRET_BYTES_MIN)
            .collect();
        Self(secrets)
    }

    /// Of what holds no secrets.
    pub(crate) const fn none() -> Self {
        Self(Vec::new())
    }

    /// The text without them.
    pub(crate) fn over(&self, text: String) -> String {
        self.0
            .iter()
            .fold(text, |text, secret| match text.contains(secret.as_str()) {
                true => text.replace(secret.as_str(), "<secret of the run>"),
                false => text,
            })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use camino::Utf8Path;

    use super::Blackout;

    #[test]
    fn what_opens_something_is_blacked_out() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        for (name, text) in [
            ("tokens/a@b", "0123456789abcdef\n"),
            ("passwords/p", "short"),
        ] {
            let path = folder.join(crate::run::SECRETS).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let blackout = Blackout::of_run(folder);
        let text = "a 0123456789abcdef b short 0123456789abcdef".to_owned();
        let told = blackout.over(text);
        assert_eq!(told, "a <secret of the run> b short <secret of the run>");
    }
}
