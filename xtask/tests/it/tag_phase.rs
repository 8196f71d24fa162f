//! Phase 0 as a whole: a tag says target, sources and recipe, and there is none without them.

use xtask::digest::Digest;
use xtask::engine::Platform;
use xtask::exit::{Exit, Failure};
use xtask::pipeline::Images;
use xtask::pipeline::build::recipe::Profile;
use xtask::pipeline::tag::{Inputs, Repository, Tagged, tag, tag_digest};

use crate::source_tree::Tree;

/// Keeps its bytes in `target/e2e` if they are kept at all.
fn try_tag(
    tree: &Tree,
    target: &str,
    profile: Profile,
    keep: bool,
) -> anyhow::Result<Images<Tagged>> {
    try_tag_as(tree, target, profile, keep, Repository::localhost())
}

fn try_tag_as(
    tree: &Tree,
    target: &str,
    profile: Profile,
    keep: bool,
    repository: Repository,
) -> anyhow::Result<Images<Tagged>> {
    let mut workspace = tree.workspace();
    workspace.state = tree.path("target/e2e");
    tag(&Inputs {
        workspace: &workspace,
        target: workspace.target(target)?,
        repository,
        platform: Platform::host()?,
        profile,
        prebuilt: None,
        keep_in: keep.then_some(&workspace.state),
    })
}

/// The image of `store` as it is called in a registry.
fn store_in(tree: &Tree, registry: &str) -> Tagged {
    let repository = registry.parse().unwrap();
    let images = try_tag_as(tree, "store", Profile::E2e, false, repository).unwrap();
    images.iter().next().unwrap().1.clone()
}

/// The image of `store`.
#[track_caller]
fn store(tree: &Tree, target: &str, profile: Profile) -> Tagged {
    let images = try_tag(tree, target, profile, false).unwrap();
    let found = images.iter().find(|(name, _)| name.as_str() == "store");
    found.unwrap().1.clone()
}

#[test]
fn a_tag_is_made_of_target_source_and_recipe() {
    let tree = Tree::committed();
    let first = store(&tree, "store", Profile::E2e);
    let (source, recipe) = (first.source(), first.recipe());
    let digest = Digest::of(&[*source.bytes(), *recipe.bytes()].concat());
    assert_eq!(tag_digest(first.source(), first.recipe()), digest);
    let name = format!("localhost/store:store-{}", &digest.to_string()[..16]);
    assert_eq!(first.reference().to_string(), name);

    let in_registry = store_in(&tree, "127.0.0.1:5000/team");
    assert_eq!(
        in_registry.reference().to_string(),
        name.replace("localhost/", "127.0.0.1:5000/team/")
    );

    let other_target = store(&tree, "pipeline", Profile::E2e);
    assert_eq!(other_target.source(), first.source());
    let name = name.replace(":store-", ":pipeline-");
    assert_eq!(other_target.reference().to_string(), name);

    let other_recipe = store(&tree, "store", Profile::Release);
    assert_eq!(other_recipe.source(), first.source());
    assert_ne!(other_recipe.reference(), first.reference());

    tree.edit("services/store/src/main.rs", "one()", "two()");
    let other_source = store(&tree, "store", Profile::E2e);
    assert_eq!(other_source.recipe(), first.recipe());
    assert_ne!(other_source.reference(), first.reference());
}

#[test]
fn what_cannot_be_hashed_has_no_tag() {
    for package in ["services/store", "services/gate", "test-e2e"] {
        let tree = Tree::committed();
        std::os::unix::fs::symlink("/etc/passwd", tree.path(package).join("src/link")).unwrap();
        let error = try_tag(&tree, "pipeline", Profile::E2e, false).unwrap_err();
        assert_eq!(Failure::find(&error).map(Failure::exit), Some(Exit::Source));
        assert!(format!("{error:#}").contains(package), "{error:#}");
    }
}

#[test]
fn a_tag_alone_keeps_no_bytes() {
    let tree = Tree::committed();
    let kept = || {
        let entries = tree.path("target/e2e").read_dir_utf8().unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_owned())
            .collect();
        names.sort();
        names
    };
    try_tag(&tree, "store", Profile::E2e, false).unwrap();
    assert_eq!(kept(), ["recipes"]);
    try_tag(&tree, "store", Profile::E2e, true).unwrap();
    assert_eq!(kept(), ["objects", "recipes", "records"]);
}

#[test]
fn images_and_tests_of_a_run_are_frozen_together() {
    let images = try_tag(&Tree::committed(), "pipeline", Profile::E2e, false).unwrap();
    let snapshot = images.frozen().snapshot();
    let packages = snapshot.packages();
    let names: Vec<&str> = packages.map(|package| package.name().as_str()).collect();
    assert_eq!(names, ["gate", "store", "test-e2e"]);
    for (name, image) in images.iter() {
        assert_eq!(image.source(), snapshot.package(name).source());
        assert_eq!(image.reference().package(), name);
    }
}
