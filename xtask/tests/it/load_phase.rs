//! Phase 3 with an engine that lists what it is told to: a name means the image that was built, and
//! nothing else.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use xtask::cluster::Cluster;
use xtask::engine::{Engine, EngineKind, Limits, Platform};
use xtask::exit::{Exit, Failure};
use xtask::pipeline::Images;
use xtask::pipeline::build::Built;
use xtask::pipeline::load::{Loaded, There, load};
use xtask::run::Run;

use crate::build_phase::{freeze, tree, try_build, workspace};
use crate::source_tree::Tree;

/// An engine whose images these are.
fn engine(tree: &Tree, images: &Value) -> Engine {
    let program = tree.path("engine/podman");
    let answers = json!([
        {"arguments": ["image", "inspect"], "stdout": images.to_string()},
        {},
    ]);
    tree.write("engine/podman.json", &answers.to_string());
    if !program.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fake-program"), &program).unwrap();
    }
    Engine {
        storage: None,
        kind: EngineKind::Podman,
        program,
        environment: BTreeMap::new(),
        version: "0".to_owned(),
        platform: Platform::host().unwrap(),
        limits: Limits::default(),
        notes: Vec::new(),
    }
}

fn listed(image: &Built, id: &str) -> Value {
    json!({
        "Id": id,
        "RepoTags": [image.reference().to_string()],
        "Config": {"Labels": {"phase-zero.source-digest": "another"}},
    })
}

/// Loads the images of `gate` where the engine lists what `listing` makes of them.
fn load_where(tree: &Tree, listing: impl Fn(&Built) -> Value) -> anyhow::Result<Images<Loaded>> {
    let workspace = workspace(tree);
    let images = try_build(tree, freeze(&workspace, "gate"), false)?;
    let listing: Vec<Value> = images.iter().map(|(_, image)| listing(image)).collect();
    let listing = listing.into_iter().filter(|image| !image.is_null());
    let engine = engine(tree, &listing.collect());
    let target = workspace.target("gate")?;
    let run = Run::begin(&workspace, &target.name)?;
    let cluster = Cluster::start_local(&workspace, target, &run, &engine, None)?;
    let loaded = load(images, &cluster);
    run.nothing_made()?;
    loaded
}

#[test]
fn a_name_means_the_image_that_was_built() {
    let tree = tree();
    let right = |image: &Built| listed(image, &image.image_id().to_string());
    for (_, image) in load_where(&tree, right).unwrap().iter() {
        assert!(image.already_there());
        let listed = There::Listed(image.built().image_id().oci());
        assert_eq!(*image.there(), listed);
        assert_eq!(image.deployed_as(), image.built().reference().to_string());
    }
    let calls = fs::read_to_string(tree.path("engine/podman.calls")).unwrap();
    assert!(!calls.contains("docker-archive:"), "{calls}");

    let other = "0".repeat(64);
    let error = load_where(&tree, |image| match image.reference().package().as_str() {
        "store" => listed(image, &other),
        _ => right(image),
    });
    let error = error.unwrap_err();
    assert_eq!(Failure::find(&error).map(Failure::exit), Some(Exit::Attest));
    let text = format!("{error:#}");
    for part in [
        "another image under the name localhost/store:gate-",
        &other,
        "phase-zero.source-digest=another",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }

    let error = load_where(&tree, |_| Value::Null).unwrap_err();
    assert!(
        format!("{error:#}").contains("does not list localhost/"),
        "{error:#}"
    );
    let calls = fs::read_to_string(tree.path("engine/podman.calls")).unwrap();
    assert!(calls.contains("docker-archive:"), "{calls}");
}
