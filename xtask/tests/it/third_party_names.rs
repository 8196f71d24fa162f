//! What `deploy/images.toml` may say.

use xtask::exit::{Exit, Failure};
use xtask::third_party;

use crate::source_tree::Tree;

/// The error for a workspace whose one third-party image is this.
fn refusal(table: &str, image: &str) -> String {
    let tree = Tree::bare();
    tree.write(
        "deploy/images.toml",
        &format!("[{table}]\nimage = \"{image}\"\n"),
    );
    let error = third_party::names(&tree.workspace()).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().exit(), Exit::Manifest);
    format!("{error:#}")
}

#[test]
fn a_pinned_image_is_named_in_full() {
    for (image, said) in [
        ("docker.io/library/redis", "names no version"),
        ("docker.io/library/redis:latest", "names no version"),
        ("redis:7", "names no registry"),
    ] {
        let error = refusal("redis", image);
        assert!(error.contains(said), "{image}: {error}");
    }
}

#[test]
fn a_service_of_ours_is_no_third_party() {
    for (table, image) in [
        ("store", "docker.io/library/redis:7"),
        ("cache", "localhost:5000/store:v1"),
        ("cache", "registry.example.com/team/store@sha256:00"),
    ] {
        let error = refusal(table, image);
        assert!(
            error.contains("store is a service of this workspace"),
            "{error}"
        );
    }
}
