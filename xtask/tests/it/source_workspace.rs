//! What the manifests of a workspace say, and what they may not say.

use std::collections::BTreeSet;
use std::fs;

use xtask::exit::{Exit, Failure};
use xtask::source::workspace::{SecretValue, Workspace};

use crate::source_tree::Tree;

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// Loading fails with a source failure whose text holds all of `expected`.
#[track_caller]
fn check_refused(tree: &Tree, expected: &[&str]) {
    let error = Workspace::load(tree.root()).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.exit(), Exit::Source);
    let text = format!("{error:#} {}", failure.hint_text().unwrap_or_default());
    for part in expected {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn targets_are_packages_with_tests_and_those_declared() {
    let tree = Tree::bare();
    let workspace = tree.workspace();
    let targets = workspace.targets.keys().map(|name| name.as_str());
    assert_eq!(names(targets), names(["pipeline", "store"]));
    let pipeline = workspace.target("pipeline").unwrap();
    let packages = pipeline.packages().iter().map(|name| name.as_str());
    assert_eq!(names(packages), names(["gate", "store"]));
    assert_eq!(*pipeline.third_party(), names(["postgres"]));
    assert_eq!(workspace.against.as_str(), "store");
    assert_eq!(workspace.tests.as_str(), "test-e2e");
}

#[test]
fn packages_tell_version_dependencies_and_metadata() {
    let workspace = Tree::bare().workspace();
    let gate = workspace.package("gate").unwrap();
    assert_eq!(gate.version, "0.1.0");
    assert_eq!(gate.directory, "services/gate");
    let dependencies = gate.dependencies.iter().map(|name| name.as_str());
    assert_eq!(names(dependencies), names(["common"]));
    let metadata = gate.e2e.as_ref().unwrap();
    assert_eq!(metadata.ready_deadline_seconds, Some(7));
    let token = &metadata.secrets["gate"]["store-token"];
    assert_eq!(*token, SecretValue::Token("store".to_owned()));
    assert!(workspace.package("common").unwrap().e2e.is_none());
}

#[test]
fn a_package_that_is_no_target_tells_what_it_lacks() {
    let tree = Tree::bare();
    let refusal = |name: &str| format!("{:#}", tree.workspace().target(name).unwrap_err());
    assert!(refusal("gate").contains("there is no test-e2e/tests/gate.rs"));
    assert!(refusal("common").contains("has no [package.metadata.e2e]"));
    tree.workspace().target("store").unwrap();
    let manifest = fs::read_to_string(tree.path("test-e2e/Cargo.toml")).unwrap();
    let by_hand = manifest.replacen("[package]\n", "[package]\nautotests = false\n", 1);
    assert_ne!(by_hand, manifest);
    tree.write("test-e2e/Cargo.toml", &by_hand);
    assert!(refusal("store").contains("has no [[test]] of the name `store`"));
    tree.write(
        "test-e2e/Cargo.toml",
        &format!("{by_hand}\n[[test]]\nname = \"store\"\n"),
    );
    tree.workspace().target("store").unwrap();
}

#[test]
fn an_unknown_target_suggests_the_nearest_and_lists_the_known() {
    let workspace = Tree::bare().workspace();
    let error = workspace.target("stroe").unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.exit(), Exit::Usage);
    let hint = failure.hint_text().unwrap();
    assert_eq!(hint, "did you mean `store`? known: pipeline, store");
    let error = workspace.target("xyz").unwrap_err();
    let hint = Failure::find(&error).unwrap().hint_text().unwrap();
    assert_eq!(hint, "known: pipeline, store");
}

#[test]
fn a_path_dependency_outside_the_root_is_refused() {
    let tree = Tree::bare();
    tree.edit(
        "services/gate/Cargo.toml",
        "ryu = \"1\"",
        "ryu = { path = \"../../../ryu\" }",
    );
    check_refused(
        &tree,
        &[
            "services/gate/Cargo.toml",
            "../../../ryu",
            "outside the workspace",
        ],
    );
}

#[test]
fn a_member_that_is_a_link_out_of_the_root_is_refused() {
    let tree = Tree::bare();
    let elsewhere = Tree::bare();
    let package = elsewhere.path("services/gate");
    std::fs::remove_dir_all(tree.path("services/gate")).unwrap();
    std::os::unix::fs::symlink(package, tree.path("services/gate")).unwrap();
    check_refused(&tree, &["services/gate/Cargo.toml", "through a link"]);
}

#[test]
fn impossible_metadata_is_refused_and_names_its_manifest() {
    let gate = "services/gate/Cargo.toml";
    for (path, from, to, expected) in [
        (
            gate,
            "[\"store\"]",
            "[\"stor\"]",
            vec![gate, "`stor`", "did you mean `store`"],
        ),
        (
            gate,
            "[\"store\"]",
            "[\"common\"]",
            vec![gate, "services/common/Cargo.toml"],
        ),
        (
            gate,
            "needs = ",
            "need = ",
            vec![gate, "unknown field `need`"],
        ),
        (
            gate,
            "token:store",
            "tokens:store",
            vec![gate, "tokens:store"],
        ),
        (
            "Cargo.toml",
            "\"store\"",
            "\"shop\"",
            vec!["Cargo.toml", "`shop`"],
        ),
        (
            "Cargo.toml",
            "targets.pipeline",
            "targets.store",
            vec!["target already"],
        ),
        (
            "Cargo.toml",
            "targets.pipeline",
            "targets.Pipe_Line",
            vec!["`Pipe_Line`", "lower-case"],
        ),
        (
            "Cargo.toml",
            "itoa = \"1\"",
            "",
            vec!["services/common/Cargo.toml", "`itoa`"],
        ),
        (gate, "[package]", "[package", vec![gate, "not valid TOML"]),
    ] {
        let tree = Tree::bare();
        tree.edit(path, from, to);
        check_refused(&tree, &expected);
    }
}

#[test]
fn this_workspace_loads() {
    let root = Workspace::find_root().unwrap();
    let workspace = Workspace::load(&root).unwrap();
    let pipeline = workspace.target("pipeline").unwrap();
    assert!(pipeline.packages().contains(&workspace.against));
    assert!(pipeline.packages().len() >= 6);
    assert!(workspace.state_directory().ends_with("e2e"));
    assert!(workspace.state_directory().is_absolute());
}
