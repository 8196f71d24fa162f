//! Sources that cannot be hashed: each is refused, named, and comes with what to do about it.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use xtask::exit::{Exit, Failure};
use xtask::source::snapshot::Keep;

use crate::source_digest::{snapshot, try_snapshot};
use crate::source_tree::Tree;

/// What the tool says; message and hint.
#[track_caller]
fn refusal(tree: &Tree) -> String {
    let error = try_snapshot(tree, &Keep::Nothing).unwrap_err();
    let failure = Failure::find(&error).unwrap_or_else(|| panic!("no failure: {error:#}"));
    assert_eq!(failure.exit(), Exit::Source, "{error:#}");
    format!("{error:#}; {}", failure.hint_text().unwrap_or_default())
}

/// Refused after `edit`, with and without a repository, in words that hold all of `expected`.
#[track_caller]
fn check(edit: impl Fn(&Tree), expected: &[&str]) {
    for tree in [Tree::committed(), Tree::bare()] {
        edit(&tree);
        let text = refusal(&tree);
        for part in expected {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }
}

const PIPE: &str = "services/store/src/pipe";

fn make_pipe(tree: &Tree, path: &str) {
    let mode = Mode::from_bits_truncate(0o644);
    mknodat(CWD, tree.path(path).as_str(), FileType::Fifo, mode, 0).unwrap();
}

fn link(tree: &Tree, target: &str) {
    symlink(target, tree.path("services/store/src/link")).unwrap();
}

#[test]
fn what_is_no_file() {
    check(
        |tree| make_pipe(tree, PIPE),
        &[PIPE, "named pipe", ".gitignore"],
    );
    check(
        |tree| drop(UnixListener::bind(tree.path("services/store/socket")).unwrap()),
        &["services/store/socket", "is a socket", "remove it"],
    );
    check(
        |tree| {
            fs::remove_file(tree.path("services/store/src/main.rs")).unwrap();
            make_pipe(tree, "services/store/src/main.rs");
        },
        &["services/store/src/main.rs", "named pipe"],
    );
}

#[test]
fn what_is_no_file_may_lie_where_nothing_is_hashed() {
    let tree = Tree::committed();
    make_pipe(&tree, "services/store/src/pipe.ignored");
    make_pipe(&tree, "services/store/tests/pipe");
    make_pipe(&tree, "pipe");
    snapshot(&tree, &Keep::Nothing);
}

#[test]
fn links_that_leave_the_closure() {
    let fix = "make it lead to a file of this package";
    let path = "services/store/src/link";
    check(
        |tree| link(tree, "/etc/passwd"),
        &[path, "leaves the workspace", "/etc/passwd", fix],
    );
    check(
        |tree| link(tree, "../../../README.md"),
        &[path, "README.md", "not among the sources"],
    );
    check(
        |tree| link(tree, "../../gate/src/main.rs"),
        &[path, "services/gate/src/main.rs", fix],
    );
    check(
        |tree| link(tree, "../tests/api.rs"),
        &[path, "services/store/tests/api.rs", fix],
    );
    check(
        |tree| link(tree, "nothing.rs"),
        &[path, "leads nowhere", "nothing.rs"],
    );
    check(|tree| link(tree, "link"), &[path, "leads nowhere"]);
    check(
        |tree| link(tree, "../Cargo.toml"),
        &[path, "services/store/Cargo.toml", "a manifest"],
    );
    check(
        |tree| link(tree, ".."),
        &[path, "folder services/store that it lies in"],
    );
}

#[test]
fn links_within_the_closure_are_fine() {
    let tree = Tree::committed();
    link(&tree, "../../common/src/lib.rs");
    symlink("../migrations", tree.path("services/store/src/sql")).unwrap();
    let snapshot = snapshot(&tree, &Keep::Nothing);
    let store = snapshot
        .packages()
        .find(|package| package.name().as_str() == "store")
        .unwrap();
    let paths = store.entries().iter().map(|entry| entry.path.as_str());
    let links: Vec<&str> = paths
        .filter(|path| path.starts_with("services/store/src/"))
        .collect();
    let expected = [
        "services/store/src/link",
        "services/store/src/main.rs",
        "services/store/src/sql/1.sql",
    ];
    assert_eq!(links, expected);
}

#[test]
fn repositories_in_the_repository() {
    let nested = |tree: &Tree| {
        fs::create_dir_all(tree.path("services/store/vendor")).unwrap();
        tree.git(&["init", "--quiet", "services/store/vendor"]);
        tree.write("services/store/vendor/lib.rs", "");
    };
    check(nested, &["services/store/vendor", "repository of its own"]);
    let tree = Tree::committed();
    nested(&tree);
    tree.git(&["-C", "services/store/vendor", "add", "--all"]);
    tree.git(&[
        "-C",
        "services/store/vendor",
        "commit",
        "--quiet",
        "--message=all",
    ]);
    tree.git(&["add", "services/store/vendor"]);
    assert!(
        refusal(&tree).contains("services/store/vendor"),
        "a submodule"
    );
    fs::remove_dir_all(tree.path("services/store/vendor")).unwrap();
    fs::create_dir(tree.path("services/store/vendor")).unwrap();
    assert!(
        refusal(&tree).contains("services/store/vendor"),
        "a submodule that is not fetched"
    );
    let tree = Tree::committed();
    tree.git(&["init", "--quiet", "services/store/src"]);
    assert!(
        refusal(&tree).contains("services/store/src is a repository"),
        "around tracked files"
    );
    let tree = Tree::bare();
    tree.git(&["init", "--quiet"]);
    tree.git(&["init", "--quiet", "services/store"]);
    assert!(
        refusal(&tree).contains("services/store is a repository"),
        "a whole package"
    );
}

#[test]
fn names_that_are_not_utf8() {
    let write = |tree: &Tree| {
        let name = OsStr::from_bytes(b"latin\xe9.rs");
        fs::write(tree.path("services/store/src").as_std_path().join(name), "").unwrap();
    };
    check(
        write,
        &[
            "services/store/src/latin\u{fffd}.rs",
            "not UTF-8",
            "rename it",
        ],
    );
    let target = |tree: &Tree| {
        let target = OsStr::from_bytes(b"latin\xe9.rs");
        symlink(target, tree.path("services/store/src/link")).unwrap();
    };
    check(target, &["services/store/src/link", "not UTF-8"]);
}

#[test]
fn several_are_told_together() {
    let tree = Tree::committed();
    make_pipe(&tree, PIPE);
    link(&tree, "/etc/passwd");
    make_pipe(&tree, "services/gate/pipe");
    let text = refusal(&tree);
    for part in [
        "3 sources cannot be hashed",
        PIPE,
        "/etc/passwd",
        "services/gate/pipe",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn a_file_that_nobody_may_read() {
    // Root reads everything, so there the same file stays readable and no refusal can be seen.
    let may_read_all = rustix::process::geteuid().is_root();
    let tree = Tree::committed();
    let path = tree.path("services/store/src/main.rs");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = try_snapshot(&tree, &Keep::Nothing);
    assert_eq!(outcome.is_ok(), may_read_all);
    if let Err(error) = outcome {
        let hint = Failure::find(&error).unwrap().hint_text().unwrap();
        assert_eq!(hint, "chmod u+r services/store/src/main.rs");
    }
}

#[test]
fn a_git_that_fails_is_never_taken_for_no_git() {
    let tree = Tree::committed();
    tree.write(".git/HEAD", "nonsense\n");
    assert!(refusal(&tree).contains("git cannot list the sources"));
    let tree = Tree::committed();
    tree.write(".git/index", "nonsense\n");
    assert!(refusal(&tree).contains("git cannot list the sources"));
}

#[test]
fn a_package_that_git_ignores() {
    let tree = Tree::committed();
    tree.write(".gitignore", "/target/\n/services/gate/\n");
    tree.git(&["rm", "-r", "--quiet", "--cached", "services/gate"]);
    assert!(refusal(&tree).contains("services/gate/Cargo.toml belongs to the build"));
}

#[test]
fn manifests_and_locks_that_do_not_fit() {
    for (path, from, to, expected) in [
        (
            "Cargo.toml",
            "resolver = \"3\"",
            "resolver = \"1\"",
            "resolver = \"2\"",
        ),
        ("Cargo.toml", "resolver = \"3\"", "", "resolver = \"2\""),
        ("Cargo.lock", "version = 4", "version = 5", "not supported"),
        (
            "Cargo.lock",
            "version = 4",
            "version = ",
            "cannot be understood",
        ),
        (
            "Cargo.lock",
            "[\"itoa\"]",
            "[]",
            "`itoa` is not in its place",
        ),
        (
            "Cargo.lock",
            "name = \"store\"",
            "name = \"stor\"",
            "`store` is not in its place",
        ),
    ] {
        let tree = Tree::committed();
        tree.edit(path, from, to);
        let text = refusal(&tree);
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
    }
    let tree = Tree::committed();
    fs::remove_file(tree.path("Cargo.lock")).unwrap();
    assert!(refusal(&tree).contains("cargo generate-lockfile"));
    let tree = Tree::committed();
    tree.write(".cargo/config", "[build]\nrustflags = []\n");
    assert!(refusal(&tree).contains(".cargo/config.toml"));
}

#[test]
fn a_file_that_changes_while_it_is_read() {
    const LENGTH: u64 = 8 << 20;
    let tree = Tree::committed();
    let path = tree.path("services/store/src/growing.bin");
    let file = fs::File::create(&path).unwrap();
    file.set_len(LENGTH).unwrap();
    let done = AtomicBool::new(false);
    let refused = std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut file = fs::File::options().append(true).open(&path).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
            }
        });
        // The writer has started once the file is longer; it never stops before it is told to.
        let deadline = Instant::now() + Duration::from_secs(60);
        while fs::metadata(&path).unwrap().len() == LENGTH && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let refused = (0..100).find_map(|_| try_snapshot(&tree, &Keep::Nothing).err());
        done.store(true, Ordering::Relaxed);
        refused
    });
    let error = refused.unwrap();
    let text = format!("{error:#}");
    assert!(
        text.contains("growing.bin changed while it was read"),
        "{text}"
    );
}
