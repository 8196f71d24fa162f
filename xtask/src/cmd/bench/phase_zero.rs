//! Phase 0 on a large tree: this workspace with 5,000 more files, 100 MB, in the package that every
//! target is tested against. The floor is what cannot be saved: those very bytes, read and hashed.

use std::fs;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256};

use super::{Figure, rounds, temporary, time};
use crate::engine::Platform;
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::tag::{Inputs, Repository, tag};
use crate::process::{self, Invocation};
use crate::source::workspace::Workspace;
use crate::threads::all;

const FILES: usize = 5_000;
const FILE_BYTES: usize = 20_000;
const GIT_DEADLINE: Duration = Duration::from_secs(120);

pub(super) fn measure(workspace: &Workspace, count: usize) -> Result<Figure> {
    let (_folder, root) = temporary()?;
    let tree = root.join("tree");
    copy_tree(&workspace.root, &tree)?;
    let package = workspace.package(workspace.against.as_str())?;
    let paths = fill(&tree.join(&package.directory).join("bench"))?;
    let add = git(&tree).args(["add", "--all"]);
    process::capture(&git(&tree).args(["init", "--quiet"]), GIT_DEADLINE)?;
    process::capture(&add, GIT_DEADLINE)?;
    let target = workspace.against.as_str();
    let state = root.join("state");
    let (seconds, floor_seconds) = rounds(
        count,
        || time(|| phase_zero(&tree, target, &state)),
        || time(|| read_and_hash(&paths)),
    )?;
    Ok(Figure {
        subject: "phase-zero",
        what: format!(
            "a tag of {target} with {FILES} files and {} MB more",
            FILES * FILE_BYTES / 1_000_000
        ),
        seconds,
        floor: "reading and SHA-256 of the same files, two threads, warm",
        floor_seconds,
        ratio: seconds / floor_seconds,
        ratio_max: 1.5,
    })
}

/// As a run does it: manifests read, files listed, hashed, their bytes kept.
fn phase_zero(tree: &Utf8Path, target: &str, state: &Utf8Path) -> Result<()> {
    let workspace = Workspace::load(tree)?;
    tag(&Inputs {
        workspace: &workspace,
        target: workspace.target(target)?,
        repository: Repository::localhost(),
        platform: Platform::host()?,
        profile: Profile::E2e,
        prebuilt: None,
        keep_in: Some(state),
    })?;
    Ok(())
}

fn git(tree: &Utf8Path) -> Invocation {
    Invocation::new("git").arg("-C").arg(tree.as_str())
}

/// What git keeps of a tree, without its history.
pub(super) fn copy_tree(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let list = git(from).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listed = process::capture(&list, GIT_DEADLINE)?.stdout;
    for path in listed.split_terminator('\0') {
        let (source, copy) = (from.join(path), to.join(path));
        if !source.is_file() {
            continue;
        }
        let folder = copy.parent().context("a file has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
        fs::copy(&source, &copy).with_context(|| format!("cannot copy {source}"))?;
    }
    Ok(())
}

/// Files of which no two are alike.
fn fill(folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut paths = Vec::new();
    for index in 0..FILES {
        let path = folder.join(format!("{:02}/{index}.txt", index % 50));
        let parent = path.parent().context("a file has a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("cannot make {parent}"))?;
        let line = format!("{index} ");
        let text: String = line.repeat(FILE_BYTES / line.len() + 1);
        fs::write(&path, &text[..FILE_BYTES]).with_context(|| format!("cannot write {path}"))?;
        paths.push(path);
    }
    Ok(paths)
}

fn read_and_hash(paths: &[Utf8PathBuf]) -> Result<()> {
    let (first, second) = paths.split_at(paths.len() / 2);
    thread::scope(|scope| {
        let reading = [first, second].map(|part| scope.spawn(move || hash_all(part)));
        all(reading.into())
    })
}

fn hash_all(paths: &[Utf8PathBuf]) -> Result<()> {
    let mut buffer = Vec::with_capacity(FILE_BYTES);
    for path in paths {
        buffer.clear();
        fs::File::open(path)?.read_to_end(&mut buffer)?;
        std::hint::black_box(Sha256::digest(&buffer));
    }
    Ok(())
}
