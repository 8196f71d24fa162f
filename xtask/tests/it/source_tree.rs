//! A small workspace in a temporary folder, in a git repository or not, for tests of sources.

use std::fs;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use xtask::source::workspace::Workspace;

/// The folder is removed when this is dropped.
pub(crate) struct Tree {
    _directory: tempfile::TempDir,
    root: Utf8PathBuf,
}

const ROOT: &str = r#"
[workspace]
resolver = "3"
members = ["services/*", "test-e2e"]

[workspace.package]
version = "0.1.0"
edition = "2024"

[workspace.dependencies]
common = { path = "services/common" }
itoa = "1"

[workspace.metadata.e2e]
against = "store"

[workspace.metadata.e2e.targets.pipeline]
needs = ["gate"]

[profile.e2e]
inherits = "dev"
debug = 0

[profile.bench]
debug = 1
"#;

const COMMON: &str = r#"
[package]
name = "common"
version.workspace = true
edition.workspace = true

[dependencies]
itoa.workspace = true
"#;

const STORE: &str = r#"
[package]
name = "store"
version.workspace = true
edition.workspace = true

[package.metadata.e2e]
third-party = ["postgres"]

[dependencies]
common.workspace = true
"#;

const GATE: &str = r#"
[package]
name = "gate"
version.workspace = true
edition.workspace = true

[package.metadata.e2e]
needs = ["store"]
ready-deadline-seconds = 7

[package.metadata.e2e.secrets.gate]
"tokens.json" = "accepted-tokens"
"store-token" = "token:store"

[dependencies]
common.workspace = true
ryu = "1"
"#;

const TESTS: &str = r#"
[package]
name = "test-e2e"
version.workspace = true
edition.workspace = true

[dependencies]
common.workspace = true

[dev-dependencies]
ryu = "1"
"#;

const LOCK: &str = r#"
version = 4

[[package]]
name = "common"
version = "0.1.0"
dependencies = ["itoa"]

[[package]]
name = "gate"
version = "0.1.0"
dependencies = ["common", "ryu"]

[[package]]
name = "itoa"
version = "1.0.15"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "4a5f13b858c8d314ee3e8f639011f7ccefe71f97f96e50151fb991f267928e2c"

[[package]]
name = "ryu"
version = "1.0.20"
source = "registry+https://github.com/rust-lang/crates.io-index"
checksum = "28d3b2b1366ec20994f1fd18c3c594f05c5dd4bc44d8bb0c1c632c8d6829481f"

[[package]]
name = "store"
version = "0.1.0"
dependencies = ["common"]

[[package]]
name = "test-e2e"
version = "0.1.0"
dependencies = ["common", "ryu"]
"#;

impl Tree {
    /// Without a repository.
    pub(crate) fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        let root = root.canonicalize_utf8().unwrap();
        let tree = Self {
            _directory: directory,
            root,
        };
        for (path, text) in [
            ("Cargo.toml", ROOT),
            ("Cargo.lock", LOCK),
            ("README.md", "A workspace.\n"),
            (".gitignore", "/target/\n*.ignored\n"),
            ("services/common/Cargo.toml", COMMON),
            ("services/common/src/lib.rs", "pub fn one() -> u8 { 1 }\n"),
            ("services/store/Cargo.toml", STORE),
            (
                "services/store/src/main.rs",
                "fn main() { common::one(); }\n",
            ),
            ("services/store/migrations/1.sql", "CREATE TABLE one();\n"),
            ("services/store/tests/api.rs", "#[test] fn api() {}\n"),
            ("services/gate/Cargo.toml", GATE),
            ("services/gate/src/main.rs", "fn main() {}\n"),
            ("test-e2e/Cargo.toml", TESTS),
            ("test-e2e/src/lib.rs", "pub fn two() -> u8 { 2 }\n"),
            ("test-e2e/tests/store.rs", "#[test] fn stores() {}\n"),
            ("test-e2e/tests/pipeline.rs", "#[test] fn flows() {}\n"),
        ] {
            tree.write(path, text);
        }
        tree
    }

    /// In a repository, everything committed.
    pub(crate) fn committed() -> Self {
        let tree = Self::bare();
        tree.git(&["init", "--quiet", "--initial-branch=main"]);
        tree.commit();
        tree
    }

    pub(crate) fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=all"]);
    }

    pub(crate) fn root(&self) -> &Utf8Path {
        &self.root
    }

    pub(crate) fn path(&self, path: &str) -> Utf8PathBuf {
        self.root.join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Replaces the one place where `from` stands.
    #[track_caller]
    pub(crate) fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(path)).unwrap();
        assert_eq!(text.matches(from).count(), 1, "`{from}` in {path}");
        self.write(path, &text.replace(from, to));
    }

    #[track_caller]
    pub(crate) fn workspace(&self) -> Workspace {
        Workspace::load(&self.root).unwrap()
    }

    #[track_caller]
    pub(crate) fn git(&self, arguments: &[&str]) {
        let output = self.run_git(arguments);
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
    }

    /// git says no, as it should.
    #[track_caller]
    pub(crate) fn git_fails(&self, arguments: &[&str]) {
        let output = self.run_git(arguments);
        assert!(!output.status.success(), "git {arguments:?}: {output:?}");
    }

    /// Runs git as a stranger to whatever is configured here.
    fn run_git(&self, arguments: &[&str]) -> std::process::Output {
        Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@localhost"])
            .args(arguments)
            .current_dir(&self.root)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap()
    }
}
