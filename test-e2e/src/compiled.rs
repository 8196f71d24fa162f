//! What this test program was compiled from, beside what lies there now. cargo decides by times of
//! modification whether to compile it again, and a file that was edited and got an older time is not
//! noticed; a kept run would then be judged by tests that nobody sees any more.

use std::env;
use std::fs;
use std::path::PathBuf;

/// A source of the test program as it was compiled.
#[derive(Clone, Copy, Debug)]
pub struct Compiled {
    /// Relative to the package.
    pub path: &'static str,
    /// Its text then.
    pub text: &'static str,
}

/// The file in which it stands, and the root of its test program; both below `tests`.
#[macro_export]
macro_rules! compiled {
    () => {
        [
            $crate::compiled::Compiled {
                path: ::core::concat!("../", ::core::file!()),
                text: ::core::include_str!(::core::concat!(
                    ::core::env!("CARGO_MANIFEST_DIR"),
                    "/../",
                    ::core::file!()
                )),
            },
            $crate::compiled::Compiled {
                path: ::core::concat!("tests/", ::core::env!("CARGO_CRATE_NAME"), ".rs"),
                text: ::core::include_str!(::core::concat!(
                    ::core::env!("CARGO_MANIFEST_DIR"),
                    "/tests/",
                    ::core::env!("CARGO_CRATE_NAME"),
                    ".rs"
                )),
            },
        ]
    };
}

macro_rules! own {
    ($($name:literal),* $(,)?) => {
        &[$(Compiled {
            path: concat!("src/", $name),
            text: include_str!($name),
        }),*]
    };
}

/// Every source of this library.
const OWN: &[Compiled] = own![
    "audit.rs",
    "child.rs",
    "cluster.rs",
    "compiled.rs",
    "config_map.rs",
    "crowd.rs",
    "database.rs",
    "engine.rs",
    "fault.rs",
    "forward.rs",
    "http.rs",
    "kubernetes.rs",
    "kubernetes/jobs.rs",
    "kubernetes/killing.rs",
    "kubernetes/pods.rs",
    "kubernetes/remains.rs",
    "kubernetes/rights.rs",
    "kubernetes/scale.rs",
    "lib.rs",
    "link.rs",
    "load.rs",
    "load/pgbench.rs",
    "load/rows.rs",
    "load/work.rs",
    "metrics.rs",
    "poll.rs",
    "requests.rs",
    "run.rs",
    "scenario.rs",
    "signals.rs",
    "testbed.rs",
    "workflows.rs",
];

impl Compiled {
    /// Whether the file still holds what was compiled.
    fn check(&self) -> Result<(), String> {
        let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let path = package.unwrap_or_default().join(self.path);
        let text = fs::read_to_string(&path);
        if text.as_ref().is_ok_and(|text| text == self.text) {
            return Ok(());
        }
        let how = match text {
            Ok(_) => "has another content now".to_owned(),
            Err(error) => format!("cannot be read: {error}"),
        };
        Err(format!(
            "this test program is an old one: {} {how}, and cargo, which goes by times of \
             modification, did not compile it again; `touch` the file",
            path.display()
        ))
    }
}

/// Whether these files, and those of this library, are what was compiled.
///
/// # Errors
/// The first that is not.
pub(crate) fn check(files: &[Compiled]) -> Result<(), String> {
    files.iter().chain(OWN).try_for_each(Compiled::check)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::{Compiled, OWN, check};

    fn below(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => below(&path, found),
                false => {
                    let package = env!("CARGO_MANIFEST_DIR");
                    let relative = path.strip_prefix(package).expect("of the package");
                    found.insert(relative.display().to_string());
                }
            }
        }
    }

    #[test]
    fn every_source_of_the_library_is_looked_at() {
        let mut found = BTreeSet::new();
        below(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut found,
        );
        let listed: BTreeSet<String> = OWN.iter().map(|one| one.path.to_owned()).collect();
        assert_eq!(listed, found);
    }

    #[test]
    fn what_was_edited_since_is_told() {
        let here = Compiled {
            path: "src/compiled.rs",
            text: include_str!("compiled.rs"),
        };
        check(&[here]).expect("the same");
        let edited = Compiled {
            text: "what it was",
            ..here
        };
        let told = check(&[edited]).expect_err("another");
        assert!(
            told.contains("src/compiled.rs has another content"),
            "{told}"
        );
        let gone = Compiled {
            path: "tests/absent.rs",
            ..here
        };
        assert!(check(&[gone]).expect_err("gone").contains("cannot be read"));
    }
}
