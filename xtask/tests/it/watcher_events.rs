//! The watcher on a tree of its own, with the kernel's own events: what wakes it, what does not,
//! and that nothing is lost between two readings.

use std::collections::BTreeMap;
use std::fs;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use xtask::digest::Digest;
use xtask::source::folders;
use xtask::source::snapshot::{Keep, Scope, Snapshot};
use xtask::source::workspace::{Target, Workspace};
use xtask::watcher::{Burst, Watcher};

use crate::source_tree::Tree;

/// How long a busy host may take to tell of an edit.
const WAKE_DEADLINE: Duration = Duration::from_secs(20);

fn target(workspace: &Workspace) -> &Target {
    workspace.target("pipeline").unwrap()
}

fn arm(tree: &Tree) -> Watcher {
    let workspace = tree.workspace();
    Watcher::arm(tree.root(), || folders::of(&workspace, target(&workspace))).unwrap()
}

/// What the tree says now, by package.
fn digests(tree: &Tree) -> BTreeMap<String, Digest> {
    let workspace = tree.workspace();
    let packages = target(&workspace).packages().iter();
    let mut scopes: BTreeMap<_, _> = packages.map(|name| (name.clone(), Scope::Binary)).collect();
    scopes.insert(workspace.tests.clone(), Scope::Tests);
    let snapshot = Snapshot::take(&workspace, &scopes, &Keep::Nothing).unwrap();
    let digests = snapshot.packages();
    digests
        .map(|package| (package.name().to_string(), package.source()))
        .collect()
}

/// Waits in a thread, so that a wait that does not end is a failed test and no hanging one.
fn begin_wait(watcher: Watcher) -> Receiver<Burst> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let burst = watcher.wait().unwrap();
        let _ = sender.send(burst);
    });
    receiver
}

#[track_caller]
fn woken(waiting: &Receiver<Burst>) -> Burst {
    match waiting.recv_timeout(WAKE_DEADLINE) {
        Ok(burst) => burst,
        Err(RecvTimeoutError::Timeout) => panic!("nothing woke it"),
        Err(RecvTimeoutError::Disconnected) => panic!("the wait failed"),
    }
}

/// Does it while somebody waits: it wakes, names `path`, and the digests are other ones or not.
#[track_caller]
fn check(tree: &Tree, path: &str, changes: &[&str], act: impl FnOnce(&Tree)) {
    let watcher = arm(tree);
    let before = digests(tree);
    let waiting = begin_wait(watcher);
    act(tree);
    let burst = woken(&waiting);
    assert!(burst.paths.contains(&tree.path(path)), "{burst:?}");
    let after = digests(tree);
    let changed: Vec<&str> = before
        .iter()
        .filter(|(package, digest)| after[*package] != **digest)
        .map(|(package, _)| package.as_str())
        .collect();
    assert_eq!(changed, changes, "{path}");
}

#[test]
fn an_edit_wakes_it_and_moves_what_it_should() {
    let tree = Tree::committed();
    let main = "services/gate/src/main.rs";
    check(&tree, main, &["gate"], |tree| {
        tree.write(main, "fn main() { }\n");
    });
    let common = "services/common/src/lib.rs";
    check(&tree, common, &["gate", "store", "test-e2e"], |tree| {
        tree.edit(common, "1 }", "2 }");
    });
    let test = "test-e2e/tests/pipeline.rs";
    check(&tree, test, &["test-e2e"], |tree| {
        tree.edit(test, "flows", "streams");
    });
    check(
        &tree,
        "Cargo.toml",
        &["gate", "store", "test-e2e"],
        |tree| {
            tree.edit("Cargo.toml", "debug = 0", "debug = 2");
        },
    );
}

#[test]
fn an_editor_that_renames_over_the_file_is_noticed() {
    let tree = Tree::committed();
    let main = "services/gate/src/main.rs";
    check(&tree, main, &["gate"], |tree| {
        let beside = tree.path("services/gate/src/.main.rs.swp");
        fs::write(&beside, "fn main() { main() }\n").unwrap();
        fs::rename(&beside, tree.path(main)).unwrap();
    });
}

#[test]
fn what_is_deleted_is_noticed() {
    let tree = Tree::committed();
    let migration = "services/store/migrations/1.sql";
    check(&tree, migration, &["store"], |tree| {
        fs::remove_file(tree.path(migration)).unwrap();
    });
    // The folder is empty now; git forgets it, the watcher does not.
    check(
        &tree,
        "services/store/migrations/2.sql",
        &["store"],
        |tree| {
            tree.write("services/store/migrations/2.sql", "CREATE TABLE two();\n");
        },
    );
    let folder = "services/store/migrations";
    check(&tree, folder, &["store"], |tree| {
        fs::remove_dir_all(tree.path(folder)).unwrap();
    });
}

#[test]
fn what_changes_no_digest_wakes_it_for_nothing() {
    let tree = Tree::committed();
    let main = "services/gate/src/main.rs";
    check(&tree, main, &[], |tree| {
        let file = fs::File::options()
            .append(true)
            .open(tree.path(main))
            .unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    });
    let ignored = "services/gate/src/main.rs.ignored";
    check(&tree, ignored, &[], |tree| tree.write(ignored, "x"));
    check(&tree, main, &[], |tree| {
        let text = fs::read_to_string(tree.path(main)).unwrap();
        tree.write(main, "");
        tree.write(main, &text);
    });
}

#[test]
fn a_new_folder_is_watched_for_the_next_reading() {
    let tree = Tree::committed();
    let folder = "services/gate/src/inner";
    check(&tree, folder, &[], |tree| {
        fs::create_dir_all(tree.path(&format!("{folder}/deeper"))).unwrap();
    });
    let file = "services/gate/src/inner/deeper/one.rs";
    check(&tree, file, &["gate"], |tree| tree.write(file, "// one\n"));
    // Away and back again under the same name.
    let moved = "services/gate/elsewhere";
    check(&tree, folder, &["gate"], |tree| {
        fs::rename(tree.path(folder), tree.path(moved)).unwrap();
        fs::create_dir_all(tree.path(&format!("{folder}/deeper"))).unwrap();
    });
    check(&tree, file, &["gate"], |tree| tree.write(file, "// two\n"));
}

#[test]
fn what_happens_before_the_wait_is_not_lost() {
    let tree = Tree::committed();
    let watcher = arm(&tree);
    tree.write("services/gate/src/main.rs", "fn main() { loop {} }\n");
    let burst = woken(&begin_wait(watcher));
    let path: Utf8PathBuf = tree.path("services/gate/src/main.rs");
    assert!(burst.paths.contains(&path), "{burst:?}");
}

#[test]
fn edits_in_quick_succession_are_one_burst() {
    let tree = Tree::committed();
    let waiting = begin_wait(arm(&tree));
    let paths = ["services/gate/src/main.rs", "services/store/src/main.rs"];
    for path in paths {
        tree.write(path, "fn main() { loop {} }\n");
    }
    let burst = woken(&waiting);
    for path in paths {
        assert!(burst.paths.contains(&tree.path(path)), "{burst:?}");
    }
}

#[test]
fn folders_are_those_where_an_edit_can_count() {
    let tree = Tree::committed();
    tree.write("services/gate/made.ignored/one.rs", "");
    tree.write("target/debug/x", "");
    tree.write("services/other/src/lib.rs", "");
    tree.write(
        "services/other/Cargo.toml",
        "[package]\nname = \"other\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    );
    fs::create_dir_all(tree.path("services/gate/empty")).unwrap();
    let workspace = tree.workspace();
    let found = folders::of(&workspace, target(&workspace)).unwrap();
    let has = |folder: &str| found.contains(Utf8Path::new(folder));
    for folder in [
        "",
        "services",
        "services/gate",
        "services/gate/src",
        "services/gate/empty",
        "services/common/src",
        "services/store/migrations",
        "test-e2e/tests",
    ] {
        assert!(has(folder), "{folder}: {found:?}");
    }
    for folder in [
        ".git",
        "target",
        "target/debug",
        "services/gate/made.ignored",
        "services/other",
        "services/other/src",
        ".cargo",
    ] {
        assert!(!has(folder), "{folder}: {found:?}");
    }
}
