//! Looks at what was built: every file that the local crates were compiled from must be in the
//! closure or cargo's own, every variable that they read must be known, and the binary must not
//! hold a path of this machine. What this finds would be a stale or another image elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufRead as _;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use super::environment::{self, Folders};
use super::recipe::Tools;
use crate::exit::{Exit, Failure};
use crate::source::snapshot::PackageSnapshot;

/// Variables that the build phase sets.
const OURS: [&str; 2] = ["E2E_RUSTC", "E2E_SOURCE_DIGEST"];

/// A line of `cargo build --message-format=json`.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact(Artifact),
    BuildScriptExecuted(Executed),
    #[serde(other)]
    Other,
}

/// Something that was compiled, or was there already.
#[derive(Debug, Deserialize)]
pub(super) struct Artifact {
    package_id: String,
    manifest_path: Utf8PathBuf,
    target: Target,
    filenames: Vec<Utf8PathBuf>,
    executable: Option<Utf8PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Executed {
    package_id: String,
    env: Vec<(String, String)>,
    linked_paths: Vec<String>,
    out_dir: Utf8PathBuf,
}

/// What cargo told of a build.
pub(super) struct Told {
    artifacts: Vec<Artifact>,
    /// What build scripts did, by package ID.
    scripts: BTreeMap<String, Executed>,
}

impl Told {
    /// Reads cargo's messages.
    pub(super) fn read(messages: &str) -> Result<Self> {
        let mut told = Self {
            artifacts: Vec::new(),
            scripts: BTreeMap::new(),
        };
        for line in messages.lines().filter(|line| line.starts_with('{')) {
            let message = serde_json::from_str(line)
                .with_context(|| format!("cannot read cargo's message {line}"))?;
            match message {
                Message::CompilerArtifact(artifact) => told.artifacts.push(artifact),
                Message::BuildScriptExecuted(script) => {
                    told.scripts.insert(script.package_id.clone(), script);
                }
                Message::Other => {}
            }
        }
        Ok(told)
    }

    /// The executable of this name and kind (`bin`, `test`).
    pub(super) fn executable(&self, name: &str, kind: &str) -> Result<&Utf8Path> {
        let is_it = |artifact: &&Artifact| {
            artifact.target.name == name && artifact.target.kind.iter().any(|each| each == kind)
        };
        self.artifacts
            .iter()
            .filter(is_it)
            .find_map(|artifact| artifact.executable.as_deref())
            .with_context(|| format!("cargo built no {kind} `{name}`"))
    }
}

/// What a build may have read.
pub(super) struct Allowed<'a> {
    pub(super) mirror: &'a Utf8Path,
    pub(super) folders: &'a Folders<'a>,
    pub(super) tools: &'a Tools,
    pub(super) package: &'a PackageSnapshot,
}

/// Fails when a local crate was compiled from something that nobody hashed.
pub(super) fn check_inputs(told: &Told, allowed: &Allowed<'_>) -> Result<()> {
    let closure = closure(allowed.package);
    let mut findings = BTreeSet::new();
    let is_local = |artifact: &&Artifact| artifact.manifest_path.starts_with(allowed.mirror);
    for artifact in told.artifacts.iter().filter(is_local) {
        let script = told.scripts.get(&artifact.package_id);
        let by_script: BTreeSet<&str> = script
            .iter()
            .flat_map(|script| script.env.iter().map(|(name, _)| name.as_str()))
            .collect();
        let is_script = artifact
            .target
            .kind
            .iter()
            .any(|kind| kind == "custom-build");
        if let Some(script) = script.filter(|_| is_script) {
            findings.extend(read_by_script(script, artifact, allowed, &closure)?);
        }
        for path in dep_files(artifact)? {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            let read = Read::parse(&text);
            let name = &artifact.target.name;
            for file in read
                .files
                .iter()
                .filter(|file| !allowed.file(file, &closure))
            {
                findings.insert(format!("`{name}` was compiled from {file}"));
            }
            for variable in read.variables {
                if !allowed.variable(&variable, &by_script) {
                    findings.insert(format!("`{name}` reads the variable {variable}"));
                }
            }
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    let findings: Vec<_> = findings.into_iter().collect();
    let what = format!(
        "{} was built from more than its sources:\n  {}",
        allowed.package.name(),
        findings.join("\n  ")
    );
    Err(Failure::new(Exit::Build, what)
        .hint("what a build reads must lie in the package, or in a path dependency of it")
        .into())
}

/// What a build script of a local package says that it read, and is in no closure. One that reads
/// without saying so is not found out here.
fn read_by_script(
    script: &Executed,
    artifact: &Artifact,
    allowed: &Allowed<'_>,
    closure: &BTreeSet<Utf8PathBuf>,
) -> Result<BTreeSet<String>> {
    let folder = artifact.manifest_path.parent().context("no folder")?;
    let name = folder.file_name().unwrap_or_default();
    // cargo keeps what the script said beside what it made.
    let said = script.out_dir.with_file_name("output");
    let said = fs::read_to_string(&said).with_context(|| format!("cannot read {said}"))?;
    let told = |key: &str| -> Vec<String> {
        said.lines()
            .filter_map(|line| line.strip_prefix("cargo:"))
            .map(|line| line.strip_prefix(':').unwrap_or(line))
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim().to_owned())
            .collect()
    };
    let mut findings = BTreeSet::new();
    for path in told("rerun-if-changed") {
        let path = normalised(&folder.join(path));
        // What is not there cannot have been read, and would be in the closure if it came.
        let absent = path.starts_with(allowed.mirror) && !path.exists();
        if !absent && !allowed.file(&path, closure) {
            findings.insert(format!("the build script of `{name}` reads {path}"));
        }
    }
    for variable in told("rerun-if-env-changed") {
        if environment::comes_from_the_shell(&variable) {
            findings.insert(format!(
                "the build script of `{name}` reads the variable {variable}"
            ));
        }
    }
    for path in &script.linked_paths {
        let path = path.split_once('=').map_or(path.as_str(), |(_, path)| path);
        let path = normalised(&folder.join(path));
        if !allowed.file(&path, closure) {
            findings.insert(format!(
                "the build script of `{name}` links what lies in {path}"
            ));
        }
    }
    Ok(findings)
}

/// Fails when a binary holds a path of this machine: it would be another one elsewhere.
pub(super) fn check_paths(binary: &[u8], allowed: &Allowed<'_>) -> Result<()> {
    let remaps = allowed.folders.remaps(allowed.tools);
    let mut rest = binary;
    loop {
        // Every path that we look for begins with `/`, and searching one byte is quick.
        if rest.skip_until(b'/')? == 0 || rest.is_empty() {
            return Ok(());
        }
        for (path, _) in remaps {
            let without_slash = path.as_str().trim_start_matches('/').as_bytes();
            if rest.starts_with(without_slash) {
                let text: Vec<u8> = rest
                    .iter()
                    .copied()
                    .take_while(u8::is_ascii_graphic)
                    .take(200)
                    .collect();
                let what = format!(
                    "the binary of {} holds a path of this machine: /{}",
                    allowed.package.name(),
                    String::from_utf8_lossy(&text)
                );
                return Err(Failure::new(Exit::Build, what)
                    .hint("env!(\"CARGO_MANIFEST_DIR\") and env!(\"OUT_DIR\") put paths into a binary: read such files at build time")
                    .into());
            }
        }
    }
}

fn closure(package: &PackageSnapshot) -> BTreeSet<Utf8PathBuf> {
    let entries = package.entries().iter().map(|entry| entry.path.clone());
    entries.chain(package.generated().keys().cloned()).collect()
}

impl Allowed<'_> {
    fn file(&self, file: &Utf8Path, closure: &BTreeSet<Utf8PathBuf>) -> bool {
        let file = normalised(&self.mirror.join(file));
        if let Ok(in_mirrors) = file.strip_prefix(self.folders.mirrors) {
            // What packages share is compiled once, from whichever mirror came first; the bytes
            // are the same, or it would have been thrown away.
            let in_tree: Utf8PathBuf = in_mirrors.components().skip(1).collect();
            // A folder that a macro looked through is known by what is in it.
            return closure.iter().any(|known| known.starts_with(&in_tree));
        }
        let home = &self.tools.cargo_home;
        [
            self.folders.build,
            &home.join("registry"),
            &home.join("git"),
            &self.tools.sysroot,
        ]
        .iter()
        .any(|folder| file.starts_with(folder))
    }

    fn variable(&self, name: &str, set_by_script: &BTreeSet<&str>) -> bool {
        name == "OUT_DIR"
            || (name.starts_with("CARGO_") && !environment::comes_from_the_shell(name))
            || OURS.contains(&name)
            || set_by_script.contains(name)
            || self.tools.config_variables.iter().any(|set| set == name)
    }
}

/// `a/../b` is `b`; what is compiled goes through no links.
fn normalised(path: &Utf8Path) -> Utf8PathBuf {
    let mut normalised = Utf8PathBuf::new();
    for component in path.components() {
        match component {
            Utf8Component::ParentDir => {
                normalised.pop();
            }
            Utf8Component::CurDir => {}
            other => normalised.push(other),
        }
    }
    normalised
}

/// The files in which rustc noted what it read for this artifact.
fn dep_files(artifact: &Artifact) -> Result<Vec<Utf8PathBuf>> {
    let kind = |wanted: &str| artifact.target.kind.iter().any(|kind| kind == wanted);
    let file = artifact
        .filenames
        .first()
        .context("an artifact without a file")?;
    let folder = file.parent().context("a file without a folder")?;
    let found = if kind("custom-build") {
        dep_files_in(folder, |_| true)?
    } else if kind("bin") {
        // What stands outside `deps` is a second name of what stands in it.
        let inode = fs::metadata(file)?.ino();
        let same = |dep_file: &Utf8Path| {
            let metadata = fs::metadata(dep_file.with_extension(""));
            metadata.is_ok_and(|metadata| metadata.ino() == inode)
        };
        dep_files_in(&folder.join("deps"), same)?
    } else {
        let stem = file.file_stem().unwrap_or_default();
        let stem = if artifact.executable.is_some() {
            stem
        } else {
            stem.strip_prefix("lib").unwrap_or(stem)
        };
        let path = folder.join(format!("{stem}.d"));
        if path.is_file() { vec![path] } else { vec![] }
    };
    ensure!(
        !found.is_empty(),
        "cannot tell what `{}` was compiled from: no .d file beside {file}",
        artifact.target.name
    );
    Ok(found)
}

fn dep_files_in(folder: &Utf8Path, wanted: impl Fn(&Utf8Path) -> bool) -> Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    for entry in folder
        .read_dir_utf8()
        .with_context(|| format!("cannot list {folder}"))?
    {
        let path = entry?.into_path();
        if path.extension() == Some("d") && wanted(&path) {
            found.push(path);
        }
    }
    Ok(found)
}

/// What rustc noted in a `.d` file.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    files: BTreeSet<Utf8PathBuf>,
    variables: BTreeSet<String>,
}

impl Read {
    /// Each file has a rule without prerequisites, `path:`, with spaces escaped; each variable a
    /// comment.
    fn parse(text: &str) -> Self {
        let file = |line: &str| {
            let path = line.strip_suffix(':')?;
            Some(Utf8PathBuf::from(path.replace("\\ ", " ")))
        };
        let variable = |line: &str| {
            let rest = line.strip_prefix("# env-dep:")?;
            Some(rest.split('=').next().unwrap_or(rest).to_owned())
        };
        Self {
            files: text.lines().filter_map(file).collect(),
            variables: text.lines().filter_map(variable).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Read, normalised};

    #[test]
    fn a_dep_file_tells_files_and_variables() {
        let text = "/t/deps/a-1.d: a/src/main.rs a/my\\ file.txt\n\n/t/deps/a-1: a/src/main.rs a/my\\ file.txt\n\n\
                    a/src/main.rs:\na/my\\ file.txt:\n\n# env-dep:CARGO_PKG_NAME=a\n# env-dep:UNSET\n";
        let read = Read::parse(text);
        assert_eq!(
            read.files
                .iter()
                .map(|file| file.as_str())
                .collect::<Vec<_>>(),
            ["a/my file.txt", "a/src/main.rs"]
        );
        assert_eq!(
            read.variables.iter().collect::<Vec<_>>(),
            ["CARGO_PKG_NAME", "UNSET"]
        );
        assert_eq!(normalised("/m/a/../b/./c".into()), "/m/b/c");
    }
}
