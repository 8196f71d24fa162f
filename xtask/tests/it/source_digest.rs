//! What moves the digest of a package, and what does not; in real git repositories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use camino::Utf8Path;
use xtask::digest::Digest;
use xtask::source::snapshot::{Keep, Scope, Snapshot};
use xtask::source::workspace::Workspace;

use crate::source_tree::Tree;

/// A snapshot of every package; that of the tests with its tests.
#[track_caller]
pub(crate) fn snapshot(tree: &Tree, keep: &Keep) -> Snapshot {
    try_snapshot(tree, keep).unwrap()
}

pub(crate) fn try_snapshot(tree: &Tree, keep: &Keep) -> anyhow::Result<Snapshot> {
    let workspace = Workspace::load(tree.root())?;
    let mut packages = BTreeMap::new();
    for name in workspace.packages.keys() {
        let is_tests = *name == workspace.tests;
        let scope = if is_tests {
            Scope::Tests
        } else {
            Scope::Binary
        };
        packages.insert(name.clone(), scope);
    }
    Snapshot::take(&workspace, &packages, keep)
}

#[track_caller]
fn digests(tree: &Tree) -> BTreeMap<String, Digest> {
    let snapshot = snapshot(tree, &Keep::Nothing);
    let packages = snapshot.packages();
    packages
        .map(|package| (package.name().to_string(), package.source()))
        .collect()
}

/// After `edit`, the digests of exactly `moved` are other ones.
#[track_caller]
fn check(what: &str, edit: impl FnOnce(&Tree), moved: &[&str]) {
    check_in(&Tree::committed(), what, edit, moved);
}

#[track_caller]
fn check_in(tree: &Tree, what: &str, edit: impl FnOnce(&Tree), moved: &[&str]) {
    let before = digests(tree);
    edit(tree);
    let after = digests(tree);
    let changed = before.keys().filter(|name| before[*name] != after[*name]);
    let changed: BTreeSet<&str> = changed.map(String::as_str).collect();
    assert_eq!(changed, moved.iter().copied().collect(), "{what}");
}

const ALL: &[&str] = &["common", "gate", "store", "test-e2e"];
const MAIN: &str = "services/store/src/main.rs";

fn set_modified(path: &Utf8Path, time: SystemTime) {
    fs::File::options()
        .append(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

#[test]
fn an_edit_moves_what_is_made_of_the_file() {
    let append = |path: &'static str| {
        move |tree: &Tree| {
            let text = fs::read_to_string(tree.path(path)).unwrap();
            tree.write(path, &format!("{text}\n"));
        }
    };
    for (path, moved) in [
        (MAIN, &["store"][..]),
        ("services/store/migrations/1.sql", &["store"]),
        ("services/common/src/lib.rs", ALL),
        ("services/gate/src/main.rs", &["gate"]),
        ("services/store/tests/api.rs", &[]),
        ("test-e2e/tests/store.rs", &["test-e2e"]),
        ("README.md", &[]),
    ] {
        check(path, append(path), moved);
    }
}

#[test]
fn an_edit_cannot_hide() {
    let edit = |tree: &Tree| tree.edit(MAIN, "one()", "one(/**/)");
    let year_2000 = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
    check(
        "an old time",
        |tree| {
            edit(tree);
            set_modified(&tree.path(MAIN), year_2000);
        },
        &["store"],
    );
    check(
        "same length, same time",
        |tree| {
            let before = fs::metadata(tree.path(MAIN)).unwrap().modified().unwrap();
            tree.edit(MAIN, "one()", "two()");
            set_modified(&tree.path(MAIN), before);
        },
        &["store"],
    );
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        let tree = Tree::committed();
        tree.git(&["update-index", flag, MAIN]);
        check_in(&tree, flag, edit, &["store"]);
    }
    check(
        "staged",
        |tree| {
            edit(tree);
            tree.git(&["add", "--all"]);
        },
        &["store"],
    );
    check(
        "committed",
        |tree| {
            edit(tree);
            tree.commit();
        },
        &["store"],
    );
}

#[test]
fn files_count_as_git_sees_them() {
    let add = |path: &'static str| move |tree: &Tree| tree.write(path, "-- new\n");
    check(
        "untracked",
        add("services/store/migrations/2.sql"),
        &["store"],
    );
    check("ignored", add("services/store/migrations/2.ignored"), &[]);
    check(
        "deleted",
        |tree| fs::remove_file(tree.path("services/store/migrations/1.sql")).unwrap(),
        &["store"],
    );
    check(
        "all deleted",
        |tree| fs::remove_dir_all(tree.path("services/store/migrations")).unwrap(),
        &["store"],
    );
    check(
        "deleted and staged",
        |tree| tree.git(&["rm", "--quiet", "services/store/migrations/1.sql"]),
        &["store"],
    );
    check(
        "committed alone",
        |tree| tree.git(&["commit", "--quiet", "--allow-empty", "--message=none"]),
        &[],
    );
    let tree = Tree::committed();
    tree.write("services/store/src/forced.ignored", "one");
    tree.git(&["add", "--force", "services/store/src/forced.ignored"]);
    check_in(
        &tree,
        "tracked though ignored",
        |tree| tree.write("services/store/src/forced.ignored", "two"),
        &["store"],
    );
}

#[test]
fn a_name_in_conflict_counts_once() {
    let tree = Tree::committed();
    tree.git(&["checkout", "--quiet", "-b", "other"]);
    tree.write(MAIN, "fn main() { common::one(); /* other */ }\n");
    tree.commit();
    tree.git(&["checkout", "--quiet", "main"]);
    tree.write(MAIN, "fn main() { common::one(); /* main */ }\n");
    tree.commit();
    tree.git_fails(&["merge", "other"]);
    let snapshot = snapshot(&tree, &Keep::Nothing);
    let store = snapshot
        .packages()
        .find(|package| package.name().as_str() == "store")
        .unwrap();
    let paths = store.entries().iter().filter(|entry| entry.path == MAIN);
    assert_eq!(paths.count(), 1);
}

#[test]
fn the_executable_bit_counts_and_nothing_else_of_the_mode() {
    let mode = |bits| {
        move |tree: &Tree| {
            fs::set_permissions(tree.path(MAIN), fs::Permissions::from_mode(bits)).unwrap();
        }
    };
    check("executable", mode(0o755), &["store"]);
    check("for the group alone", mode(0o654), &[]);
    check("private", mode(0o600), &[]);
}

#[test]
fn a_file_that_became_a_folder_or_a_link_counts_as_that() {
    check(
        "folder in place of a file",
        |tree| {
            let path = "services/store/migrations/1.sql";
            fs::remove_file(tree.path(path)).unwrap();
            tree.write(&format!("{path}/one.sql"), "CREATE TABLE one();\n");
        },
        &["store"],
    );
    let link = "services/store/migrations";
    check(
        "link in place of a folder",
        |tree| {
            tree.write("services/store/sql/1.sql", "CREATE TABLE one();\n");
            fs::remove_dir_all(tree.path(link)).unwrap();
            symlink("sql", tree.path(link)).unwrap();
        },
        &["store"],
    );
}

#[test]
fn links_count_by_where_they_lead_and_what_is_there() {
    let tree = Tree::committed();
    let link = tree.path("services/store/src/current.sql");
    tree.write("services/store/migrations/2.sql", "CREATE TABLE one();\n");
    symlink("../migrations/1.sql", &link).unwrap();
    tree.commit();
    check_in(
        &tree,
        "the same bytes elsewhere",
        |_| {
            fs::remove_file(&link).unwrap();
            symlink("../migrations/2.sql", &link).unwrap();
        },
        &["store"],
    );
    check_in(
        &tree,
        "a link becomes a file",
        |_| {
            fs::remove_file(&link).unwrap();
            fs::write(&link, "CREATE TABLE one();\n").unwrap();
        },
        &["store"],
    );
}

#[test]
fn manifests_of_packages_count_as_builds_get_them() {
    let store = "services/store/Cargo.toml";
    check("a comment", append(store, "# A comment."), &[]);
    check(
        "a dependency of tests",
        append(store, "[dev-dependencies]\nryu = \"1\""),
        &[],
    );
    check(
        "an explicit test",
        append(store, "[[test]]\nname = \"api\""),
        &[],
    );
    check(
        "metadata",
        append(store, "[package.metadata.other]\nkey = 1"),
        &[],
    );
    check(
        "a feature",
        append(store, "[features]\nmore = []"),
        &["store"],
    );
    check(
        "lints",
        append(store, "[lints.rust]\nunused = \"allow\""),
        &["store"],
    );
    check(
        "spelling",
        |tree| {
            tree.edit(
                store,
                "common.workspace = true",
                "common = { workspace = true }",
            );
        },
        &[],
    );
}

fn append(path: &'static str, text: &'static str) -> impl Fn(&Tree) {
    move |tree| {
        let before = fs::read_to_string(tree.path(path)).unwrap();
        tree.write(path, &format!("{before}\n{text}\n"));
    }
}

#[test]
fn the_workspace_manifest_counts_as_builds_get_it() {
    let root = "Cargo.toml";
    check(
        "a profile in use",
        |tree| tree.edit(root, "debug = 0", "debug = 1"),
        ALL,
    );
    check(
        "a profile of one package",
        append(root, "[profile.dev.package.ryu]\nopt-level = 3"),
        &["gate", "test-e2e"],
    );
    check(
        "a profile not in use",
        |tree| tree.edit(root, "debug = 1", "debug = 2"),
        &[],
    );
    check(
        "an inherited version",
        |tree| tree.edit(root, "version = \"0.1.0\"", "version = \"0.2.0\""),
        ALL,
    );
    check(
        "an inherited dependency",
        |tree| tree.edit(root, "itoa = \"1\"", "itoa = \"1.0\""),
        ALL,
    );
    check(
        "a dependency of nobody",
        |tree| tree.edit(root, "itoa = \"1\"", "itoa = \"1\"\nzmij = \"1\""),
        &[],
    );
    check(
        "a patch of a package not reached",
        append(
            root,
            "[patch.crates-io]\nzmij = { git = \"https://localhost/zmij\" }",
        ),
        &[],
    );
    check(
        "a patch",
        append(
            root,
            "[patch.crates-io]\nryu = { git = \"https://localhost/ryu\" }",
        ),
        &["gate", "test-e2e"],
    );
}

#[test]
fn configuration_counts_as_far_as_it_reaches_builds() {
    let write = |text: &'static str| move |tree: &Tree| tree.write(".cargo/config.toml", text);
    check(
        "alias",
        write("[alias]\nxtask = \"run\"\n[build]\njobs = 1\n"),
        &[],
    );
    check(
        "flags",
        write("[build]\nrustflags = [\"--cfg=one\"]\n"),
        ALL,
    );
    check("environment", write("[env]\nONE = \"1\"\n"), ALL);
}

#[test]
fn the_lock_counts_as_far_as_it_is_reached() {
    let lock = "Cargo.lock";
    check(
        "reached by all",
        |tree| tree.edit(lock, "1.0.15", "1.0.16"),
        ALL,
    );
    check(
        "reached by some",
        |tree| tree.edit(lock, "1.0.20", "1.0.21"),
        &["gate", "test-e2e"],
    );
    check(
        "a checksum",
        |tree| tree.edit(lock, "4a5f13b8", "4a5f13b9"),
        ALL,
    );
    let second_version = |tree: &Tree| {
        // What cargo does to the text when another member wants `itoa` 0.4 as well.
        tree.edit(
            "services/gate/Cargo.toml",
            "ryu = \"1\"",
            "ryu = \"1\"\nold = { package = \"itoa\", version = \"0.4\" }",
        );
        tree.edit(
            lock,
            "dependencies = [\"itoa\"]",
            "dependencies = [\"itoa 1.0.15\"]",
        );
        tree.edit(
            lock,
            "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\", \"ryu\"]",
            "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\", \"itoa 0.4.8\", \"ryu\"]",
        );
        let entry = "[[package]]\nname = \"itoa\"\nversion = \"0.4.8\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\n";
        tree.edit(
            lock,
            "[[package]]\nname = \"itoa\"\n",
            &format!("{entry}[[package]]\nname = \"itoa\"\n"),
        );
    };
    check("a second version elsewhere", second_version, &["gate"]);
}

#[test]
fn the_digest_is_a_function_of_the_tree_alone() {
    let committed = digests(&Tree::committed());
    assert_eq!(committed, digests(&Tree::committed()), "in another folder");
    assert_eq!(committed, digests(&Tree::bare()), "without git");
    let unlike: BTreeSet<&Digest> = committed.values().collect();
    assert_eq!(unlike.len(), ALL.len());
}

#[test]
fn a_run_sees_the_tree_as_it_was_and_is_told_of_edits() {
    let tree = Tree::committed();
    let before = snapshot(&tree, &Keep::Nothing);
    let edited = || before.edited_since(&tree.workspace()).unwrap();
    assert!(edited().is_empty());
    tree.write("README.md", "Other words.\n");
    tree.write("services/store/tests/api.rs", "");
    assert!(edited().is_empty(), "{:?}", edited());
    tree.edit(MAIN, "one()", "two()");
    tree.write("services/gate/src/new.rs", "");
    tree.edit("services/gate/Cargo.toml", "ryu = \"1\"", "ryu = \"1.0\"");
    tree.edit("Cargo.lock", "1.0.20", "1.0.21");
    fs::remove_file(tree.path("services/store/migrations/1.sql")).unwrap();
    assert_eq!(
        edited(),
        [
            "Cargo.lock",
            "services/gate/Cargo.toml",
            "services/gate/src/new.rs",
            "services/store/migrations/1.sql",
            MAIN,
        ]
    );
}

#[test]
fn local_digests_cover_a_package_and_what_it_depends_on() {
    let locals = |tree: &Tree| {
        let snapshot = snapshot(tree, &Keep::Nothing);
        let of = |name: &str| {
            let package = snapshot
                .packages()
                .find(|package| package.name().as_str() == name);
            let local = package.unwrap().local();
            local
                .iter()
                .map(|(name, digest)| (name.to_string(), *digest))
                .collect::<BTreeMap<_, _>>()
        };
        (of("store"), of("gate"))
    };
    let tree = Tree::committed();
    let (store, gate) = locals(&tree);
    assert_eq!(store.keys().collect::<Vec<_>>(), ["common", "store"]);
    assert_eq!(
        store["common"], gate["common"],
        "what is shared is the same for both"
    );
    tree.edit(MAIN, "one()", "two()");
    let (store_edited, _) = locals(&tree);
    assert_eq!(store["common"], store_edited["common"]);
    assert_ne!(store["store"], store_edited["store"]);
    tree.write("services/common/src/lib.rs", "");
    let (store_rebuilt, gate_rebuilt) = locals(&tree);
    assert_ne!(store_edited["common"], store_rebuilt["common"]);
    assert_ne!(store_edited["store"], store_rebuilt["store"]);
    assert_ne!(gate["gate"], gate_rebuilt["gate"]);
}
