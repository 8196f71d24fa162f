//! What cargo itself says about a mirror: its manifests are whole, and its lock needs nothing that
//! was not frozen.

use std::collections::BTreeMap;
use std::process::Command;

use camino::Utf8Path;
use xtask::source::mirror::Mirror;
use xtask::source::snapshot::{Keep, Scope, Snapshot};
use xtask::source::workspace::{PackageName, Workspace};

fn metadata(root: &Utf8Path, locked: bool) {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new(env!("CARGO"));
    command
        .args([
            "metadata",
            "--offline",
            "--format-version=1",
            "--filter-platform",
            &host,
        ])
        .arg(format!("--manifest-path={root}/Cargo.toml"))
        .current_dir("/");
    if locked {
        command.arg("--locked");
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{root}: {said}");
    assert!(!said.contains("warning"), "{root}: {said}");
}

/// What the lock names is in cargo's folder, as it is once a workspace was built.
fn fetch(root: &Utf8Path) {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["fetch", "--locked"])
        .arg(format!("--manifest-path={root}/Cargo.toml"));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{root}: {said}");
}

/// The oracle: for every package of this very workspace.
#[test]
fn cargo_takes_every_mirror_and_prunes_its_lock_within_what_was_frozen() {
    let workspace = Workspace::load(&Workspace::find_root().unwrap()).unwrap();
    fetch(&workspace.root);
    let state = tempfile::tempdir().unwrap();
    let state = Utf8Path::from_path(state.path()).unwrap();
    let scope = |name: &PackageName| {
        if *name == workspace.tests {
            Scope::Tests
        } else {
            Scope::Binary
        }
    };
    let packages = workspace
        .packages
        .keys()
        .map(|name| (name.clone(), scope(name)));
    let packages: BTreeMap<_, _> = packages.collect();
    let keep = Keep::Objects(state.to_owned());
    let snapshot = Snapshot::take(&workspace, &packages, &keep).unwrap();
    for package in snapshot.packages() {
        let mirror = Mirror::sync(state, package).unwrap();
        metadata(mirror.root(), false);
        mirror.check_lock(package).unwrap();
        metadata(mirror.root(), true);
    }
    assert!(snapshot.packages().count() >= 8);
}
