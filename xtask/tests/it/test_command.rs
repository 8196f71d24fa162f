//! `test` in a small workspace that needs no database: what counts as green.

use std::process::{Command, Output};

use crate::source_tree::Tree;
use crate::terminal_lines::tree;

fn test(tree: &Tree, filters: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["test", "--"])
        .args(filters)
        .current_dir(tree.path(""))
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap()
}

#[test]
fn a_filter_that_no_test_matches_is_not_green() {
    let tree = tree();
    tree.write("gate/src/main.rs", "fn main() {}\n#[test]\nfn opens() {}\n");
    for (filters, code, told) in [
        (&[][..], 0, ""),
        (&["open"], 0, ""),
        (&["--list"], 0, ""),
        (
            &["nosuch", "other"],
            2,
            "no test ran: `-- nosuch other` fits none",
        ),
    ] {
        let output = test(&tree, filters);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{filters:?}: {said}");
        assert!(said.contains(told), "{filters:?}: {said}");
    }
}
