//! What moves the digest of a package, and what does not; in real git repositories.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
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

fn append(path: &str, text: &str) -> impl Fn(&Tree) {
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
        "the resolver",
        |tree| tree.edit(root, "resolver = \"3\"", "resolver = \"2\""),
        ALL,
    );
    let tree = Tree::committed();
    append(root, "[workspace.lints.rust]\nunused = \"warn\"")(&tree);
    append("services/store/Cargo.toml", "[lints]\nworkspace = true")(&tree);
    check_in(
        &tree,
        "inherited lints",
        |tree| tree.edit(root, "unused = \"warn\"", "unused = \"deny\""),
        &["store"],
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

/// A package below `services` without dependencies of its own, and its entry in the lock.
fn add_package(tree: &Tree, name: &str) {
    let manifest = format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\n");
    tree.write(&format!("services/{name}/Cargo.toml"), &manifest);
    tree.write(&format!("services/{name}/src/lib.rs"), "");
    append(
        "Cargo.lock",
        &format!("[[package]]\nname = \"{name}\"\nversion = \"0.1.0\""),
    )(tree);
}

#[test]
fn dependencies_count_at_any_depth_and_those_of_tests_do_not() {
    let tree = Tree::committed();
    for name in ["deep", "maker", "helper"] {
        add_package(&tree, name);
    }
    let path = |name: &str| format!("{name} = {{ path = \"../{name}\" }}");
    append("services/common/Cargo.toml", &path("deep"))(&tree);
    let store = format!(
        "[build-dependencies]\n{}\n[target.'cfg(unix)'.dev-dependencies]\n{}",
        path("maker"),
        path("helper")
    );
    append("services/store/Cargo.toml", &store)(&tree);
    tree.edit("Cargo.lock", "[\"itoa\"]", "[\"deep\", \"itoa\"]");
    tree.edit(
        "Cargo.lock",
        "name = \"store\"\nversion = \"0.1.0\"\ndependencies = [\"common\"]",
        "name = \"store\"\nversion = \"0.1.0\"\ndependencies = [\"common\", \"helper\", \"maker\"]",
    );
    tree.commit();
    for (name, moved) in [
        ("deep", &["common", "deep", "gate", "store", "test-e2e"][..]),
        ("maker", &["maker", "store"]),
        ("helper", &["helper"]),
    ] {
        let edit = |tree: &Tree| tree.write(&format!("services/{name}/src/lib.rs"), "// Edited.\n");
        check_in(&tree, name, edit, moved);
    }
}

#[test]
fn what_only_tests_are_made_of_does_not_count() {
    let add = |path: &'static str| move |tree: &Tree| tree.write(path, "fn main() {}\n");
    for path in ["tests/more.rs", "benches/one.rs", "examples/one/main.rs"] {
        let path = format!("services/store/{path}");
        check(&path, |tree| tree.write(&path, "fn main() {}\n"), &[]);
    }
    for path in ["services/store/src/tests/one.rs", "services/store/test.rs"] {
        check(path, add(path), &["store"]);
    }
    let tree = Tree::committed();
    append(
        "services/store/Cargo.toml",
        "[[test]]\nname = \"own\"\npath = \"./src/own.rs\"",
    )(&tree);
    check_in(
        &tree,
        "an explicit test",
        add("services/store/src/own.rs"),
        &[],
    );
}

#[test]
fn what_git_would_make_of_the_bytes_hides_no_edit() {
    let tree = Tree::committed();
    tree.write(".gitattributes", "*.rs text=auto\n*.sql filter=pointer\n");
    tree.git(&["config", "core.autocrlf", "true"]);
    // As large files are kept elsewhere: git itself gets the same few bytes for all.
    tree.git(&["config", "filter.pointer.clean", "echo pointer"]);
    tree.git(&["add", "--renormalize", "."]);
    tree.commit();
    check_in(
        &tree,
        "ends of lines",
        |tree| tree.edit(MAIN, "}\n", "}\r\n"),
        &["store"],
    );
    check_in(
        &tree,
        "a filter",
        |tree| tree.write("services/store/migrations/1.sql", "CREATE TABLE two();\n"),
        &["store"],
    );
}

#[test]
fn nothing_but_path_kind_and_bytes_of_a_file_counts() {
    let sql = "services/store/migrations/1.sql";
    check(
        "a time",
        |tree| set_modified(&tree.path(sql), SystemTime::UNIX_EPOCH),
        &[],
    );
    check(
        "a name",
        |tree| fs::rename(tree.path(sql), tree.path("services/store/migrations/2.sql")).unwrap(),
        &["store"],
    );
    let tree = Tree::committed();
    for name in ["0", "a", "z"] {
        tree.write(&format!("services/store/{name}.sql"), name);
    }
    check_in(
        &tree,
        "the index of git",
        |tree| tree.git(&["add", "--all"]),
        &[],
    );
}

/// With a package at the root, whose folder holds everything.
fn with_package_at_root(tree: &Tree) {
    append(
        "Cargo.toml",
        "[package]\nname = \"top\"\nversion = \"0.1.0\"\nedition = \"2024\"",
    )(tree);
    tree.write("src/lib.rs", "");
    append(
        "Cargo.lock",
        "[[package]]\nname = \"top\"\nversion = \"0.1.0\"",
    )(tree);
}

#[test]
fn without_a_repository_every_file_counts_but_those_of_builds() {
    let tree = Tree::bare();
    with_package_at_root(&tree);
    let add = |path: &'static str| move |tree: &Tree| tree.write(path, "");
    check_in(&tree, "target", add("target/debug/one"), &[]);
    let inner = "services/store/src/target/one.rs";
    check_in(&tree, inner, add(inner), &["store"]);
    let ignored = "services/store/src/one.ignored";
    check_in(&tree, ignored, add(ignored), &["store"]);
    check_in(&tree, "the root", add("build.rs"), &["top"]);
}

#[test]
fn a_repository_around_the_workspace_tells_what_is_ignored() {
    let tree = Tree::bare();
    let above = tree.root().parent().unwrap();
    let folder = tempfile::tempdir_in(above).unwrap();
    let repository = Utf8Path::from_path(folder.path()).unwrap();
    let inside = repository.join("workspace");
    fs::rename(tree.root(), &inside).unwrap();
    let digest = || {
        let workspace = Workspace::load(&inside).unwrap();
        let store = workspace.package("store").unwrap().name.clone();
        let scopes = [(store.clone(), Scope::Binary)].into();
        let snapshot = Snapshot::take(&workspace, &scopes, &Keep::Nothing).unwrap();
        snapshot.package(&store).source()
    };
    fs::create_dir(tree.root()).unwrap();
    tree.git(&["init", "--quiet", repository.as_str()]);
    let before = digest();
    fs::write(inside.join("services/store/src/one.ignored"), "").unwrap();
    assert_eq!(digest(), before);
    fs::write(inside.join("services/store/src/one.rs"), "").unwrap();
    assert_ne!(digest(), before);
}

#[test]
fn git_is_asked_about_this_tree_and_not_from_memory() {
    const ROOT: &str = "SOURCE_DIGEST_ROOT";
    if let Ok(root) = std::env::var(ROOT) {
        let workspace = Workspace::load(Utf8Path::new(&root)).unwrap();
        let store = workspace.package("store").unwrap().name.clone();
        let scopes = [(store.clone(), Scope::Binary)].into();
        let snapshot = Snapshot::take(&workspace, &scopes, &Keep::Nothing).unwrap();
        println!("digest={}", snapshot.package(&store).source());
        return;
    }
    let digest = |tree: &Tree, variables: &[(&str, &str)]| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("source_digest::git_is_asked_about_this_tree_and_not_from_memory")
            .env(ROOT, tree.root())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let found = said
            .split("digest=")
            .nth(1)
            .map(|rest| rest[..64].to_owned());
        found.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)))
    };
    let (tree, other) = (Tree::committed(), Tree::committed());
    // Another index would not know of this one.
    tree.write("services/store/src/forced.ignored", "");
    tree.git(&["add", "--force", "services/store/src/forced.ignored"]);
    tree.write("services/store/src/CASE.rs", "");
    append(".gitignore", "case.rs")(&tree);
    let plain = digest(&tree, &[]);
    let (git, index) = (other.path(".git"), other.path("no/such/index"));
    for variable in [
        ("GIT_DIR", git.as_str()),
        ("GIT_INDEX_FILE", index.as_str()),
        ("GIT_WORK_TREE", other.root().as_str()),
        ("GIT_LITERAL_PATHSPECS", "1"),
    ] {
        assert_eq!(digest(&tree, &[variable]), plain, "{variable:?}");
    }
    tree.git(&["config", "core.ignoreCase", "true"]);
    assert_eq!(digest(&tree, &[]), plain, "letters in another case");
    // As a copied submodule has it: what is new here would not be found there.
    tree.git(&["config", "core.worktree", other.root().as_str()]);
    tree.write("services/store/src/untracked.rs", "");
    assert_ne!(digest(&tree, &[]), plain, "the tree of another folder");
    fs::remove_file(tree.path("services/store/src/untracked.rs")).unwrap();
    assert_eq!(digest(&tree, &[]), plain, "this tree again");
    tree.git(&["config", "--unset", "core.worktree"]);
    tree.git(&["config", "core.untrackedCache", "true"]);
    tree.git(&["update-index", "--untracked-cache"]);
    tree.git(&["status"]);
    let monitor = tree.path("target/monitor");
    fs::create_dir_all(monitor.parent().unwrap()).unwrap();
    symlink(env!("CARGO_BIN_EXE_fake-program"), &monitor).unwrap();
    fs::write(monitor.with_extension("json"), "[{}]").unwrap();
    tree.git(&["config", "core.fsmonitor", monitor.as_str()]);
    tree.write("services/store/src/new.rs", "");
    assert_ne!(digest(&tree, &[]), plain);
    let asked = monitor.with_extension("calls");
    assert!(!asked.exists(), "a program that watches files was asked");
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
