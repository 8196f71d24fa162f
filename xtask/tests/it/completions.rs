//! What a shell gets that completes `cargo xtask`: names from the manifests of where it stands, and
//! nothing where there is nothing to say.

use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use camino::Utf8Path;

use crate::source_tree::Tree;

const TOOL: &str = env!("CARGO_BIN_EXE_xtask");

/// What the tool answers to a script for these words, of which the last is being typed.
fn asked(folder: &Utf8Path, words: &[&str]) -> Output {
    Command::new(TOOL)
        .args(["--", "xtask"])
        .args(words)
        .current_dir(folder)
        .env("XTASK_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap()
}

#[track_caller]
fn check(folder: &Utf8Path, words: &[&str], expected: &[&str]) {
    let output = asked(folder, words);
    let answer = String::from_utf8(output.stdout).unwrap();
    let candidates: Vec<&str> = answer.lines().collect();
    assert_eq!(candidates, expected, "{words:?}");
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn targets_and_services_are_known_by_name() {
    let here = Utf8Path::new(env!("CARGO_MANIFEST_DIR"));
    for command in ["e2e", "tag", "build"] {
        check(here, &[command, "ga"], &["gateway"]);
        check(here, &[command, "pi"], &["pipeline"]);
    }
    check(
        here,
        &["e2e", "--no-cache", "gateway", "wor"],
        &["workflowexecution"],
    );
    check(here, &["logs", "post"], &["postgres"]);
    check(here, &["logs", "test"], &["testbed"]);
    check(here, &["e2e", "--keep", "on"], &["on-failure"]);
    check(here, &["compl"], &["completions"]);
}

#[test]
fn names_are_those_of_the_workspace_that_the_shell_stands_in() {
    let tree = Tree::bare();
    check(&tree.path("services/gate"), &["e2e", "s"], &["store"]);
    tree.write("services/store/Cargo.toml", "no TOML");
    check(&tree.path(""), &["e2e", "s"], &[]);
    let nowhere = tempfile::tempdir().unwrap();
    check(
        Utf8Path::from_path(nowhere.path()).unwrap(),
        &["e2e", "s"],
        &[],
    );
}

/// What bash would offer for a line of these words, where `complete -F _other cargo` came first.
#[track_caller]
fn check_bash(folder: &Utf8Path, words: &str, expected: &str) {
    let target = tempfile::tempdir().unwrap();
    std::fs::create_dir(target.path().join("debug")).unwrap();
    symlink(TOOL, target.path().join("debug/xtask")).unwrap();
    let printed = Command::new(TOOL)
        .args(["completions", "bash"])
        .output()
        .unwrap();
    let script = format!(
        "_other() {{ COMPREPLY=(other); }}
        complete -F _other cargo
        {}
        words=({words}); COMP_WORDS=(\"${{words[@]}}\"); COMP_CWORD=$((${{#words[@]}} - 1))
        _phase_zero_cargo cargo \"${{words[-1]}}\" \"${{words[-2]}}\"
        printf '%s ' \"${{COMPREPLY[@]}}\"",
        String::from_utf8(printed.stdout).unwrap()
    );
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", &script])
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target.path())
        .output()
        .unwrap();
    let offered = String::from_utf8_lossy(&output.stdout);
    assert_eq!(offered.trim_end(), expected, "{words}: {output:?}");
}

#[test]
fn the_script_completes_xtask_and_hands_on_everything_else() {
    let here = Utf8Path::new(env!("CARGO_MANIFEST_DIR"));
    check_bash(here, "cargo xtask e2e ga", "gateway");
    check_bash(
        here,
        "cargo +nightly xtask e2e gateway sig",
        "signalprocessing",
    );
    check_bash(here, "cargo build ''", "other");
    check_bash(here, "cargo xt", "other xtask");
    // Another project's `cargo xtask` is not ours to answer for, and its program is not run.
    let nowhere = tempfile::tempdir().unwrap();
    let elsewhere = Utf8Path::from_path(nowhere.path()).unwrap();
    check_bash(elsewhere, "cargo xtask e2e ga", "");
    check_bash(elsewhere, "cargo xt", "other");
}
