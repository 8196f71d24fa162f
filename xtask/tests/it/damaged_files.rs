//! What commands make of files of a run that were cut short: nothing hides the rest, nothing panics.

use std::fs;
use std::process::{Command, Output};

use camino::Utf8Path;
use xtask::run::{self, Run};

use crate::source_tree::Tree;

/// On a host without an engine.
fn xtask(tree: &Tree, arguments: &[&str]) -> Output {
    let empty = tree.path("no-programs");
    fs::create_dir_all(&empty).unwrap();
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .current_dir(tree.path(""))
        .env("CARGO_TARGET_DIR", tree.path("target"))
        .env("XDG_CACHE_HOME", tree.path("cache"))
        .env("PATH", empty)
        .env("CARGO", env!("CARGO"))
        .output()
        .unwrap()
}

#[track_caller]
fn check(output: &Output, words: &[&str]) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).unwrap();
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn one_damaged_run_hides_no_other() {
    let tree = Tree::bare();
    let mut workspace = tree.workspace();
    workspace.state = tree.path("target/e2e");
    let target = workspace.targets.keys().next().unwrap().clone();
    let begin = || Run::begin(&workspace, &target).unwrap();
    let (whole, damaged) = (begin(), begin());
    let cut = |directory: &Utf8Path| {
        for name in ["run.json", "receipt.json", "junit.xml", "tests.jsonl"] {
            fs::write(directory.join(name), "{\"id\": ").unwrap();
        }
        fs::write(directory.join("journal.jsonl"), "{\"at\":").unwrap();
    };
    cut(damaged.directory());
    let status = xtask(&tree, &["status"]);
    let path = damaged.directory().join("run.json");
    check(
        &status,
        &[whole.id(), damaged.id(), &format!("cannot read {path}")],
    );
    assert!(status.status.success());
    let json = xtask(&tree, &["status", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(told["runs"].as_array().unwrap().len(), 2);
    // A log of the one that is whole is found behind the damaged one.
    fs::create_dir_all(whole.directory().join("logs")).unwrap();
    let log = whole
        .directory()
        .join(format!("logs/{}-gate-0.log", whole.id()));
    fs::write(log, "a line of the whole one\n").unwrap();
    let ids = [whole.id().to_owned(), damaged.id().to_owned()];
    drop((whole, damaged));
    check(
        &xtask(&tree, &["logs", "gate"]),
        &["a line of the whole one"],
    );
    check(
        &xtask(&tree, &["clean"]),
        &["removed the folders of 2 runs"],
    );
    for id in ids {
        assert!(!run::runs_directory(&workspace).join(id).exists());
    }
}
