//! Recipes: told by this machine, remembered, and another one as soon as something differs.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;
use xtask::engine::Platform;
use xtask::pipeline::build::recipe::{Profile, Recipe};
use xtask::source::workspace::Workspace;

/// A workspace of one package.
struct Tree {
    folder: TempDir,
}

impl Tree {
    fn new() -> Self {
        let tree = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        tree.write(
            "Cargo.toml",
            "[workspace]\nresolver = '3'\nmembers = ['a', 'test-e2e']\n[workspace.metadata.e2e]\nagainst = 'a'\n",
        );
        for (name, e2e) in [("a", "[package.metadata.e2e]\n"), ("test-e2e", "")] {
            let manifest = format!("[package]\nname = '{name}'\nversion = '0.1.0'\n{e2e}");
            tree.write(&format!("{name}/Cargo.toml"), &manifest);
            tree.write(&format!("{name}/src/lib.rs"), "");
        }
        tree
    }

    fn root(&self) -> &Utf8Path {
        Utf8Path::from_path(self.folder.path()).unwrap()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn probe(&self, profile: Profile) -> Recipe {
        let mut workspace = Workspace::load(self.root()).unwrap();
        workspace.state = self.root().join("target/e2e");
        Recipe::probe(&workspace, &Platform::host().unwrap(), profile).unwrap()
    }

    fn remembered(&self) -> Vec<Utf8PathBuf> {
        let folder = self.root().join("target/e2e/recipes");
        let entries = folder.read_dir_utf8().unwrap();
        entries.map(|entry| entry.unwrap().into_path()).collect()
    }
}

#[test]
fn the_same_in_another_folder_and_without_a_path_of_it() {
    let (here, there) = (Tree::new(), Tree::new());
    let (one, other) = (here.probe(Profile::E2e), there.probe(Profile::E2e));
    assert_eq!(one.fields(), other.fields());
    assert_eq!(one.digest(), other.digest());
    for (name, value) in one.fields() {
        assert!(!value.contains(here.root().as_str()), "{name}: {value}");
    }
    for name in [
        "rustc",
        "cargo",
        "cc",
        "ld",
        "linked-in libc.a",
        "linked-in libgcc.a",
    ] {
        assert!(!one.fields()[name].is_empty(), "{name}");
    }
}

#[test]
fn what_was_seen_is_remembered_until_a_file_changes() {
    let tree = Tree::new();
    let seen = tree.probe(Profile::E2e);
    let [kept] = &tree.remembered()[..] else {
        panic!("{:?}", tree.remembered());
    };
    // What is remembered is used: it says something that was never seen.
    let text = fs::read_to_string(kept).unwrap();
    let forged = text.replace("\"image-template\":\"1\"", "\"image-template\":\"forged\"");
    assert_ne!(forged, text);
    fs::write(kept, forged).unwrap();
    assert_ne!(tree.probe(Profile::E2e).digest(), seen.digest());
    // Until a file appears that was looked for.
    tree.write("rust-toolchain.toml.unrelated", "");
    assert_ne!(tree.probe(Profile::E2e).digest(), seen.digest());
    tree.write(".cargo/config.toml", "[alias]\nx = 'run'\n");
    assert_eq!(tree.probe(Profile::E2e).digest(), seen.digest());
    // A damaged one is no obstacle.
    fs::write(kept, "{").unwrap();
    assert_eq!(tree.probe(Profile::E2e).digest(), seen.digest());
}

#[test]
fn profile_and_configuration_are_in_it() {
    let tree = Tree::new();
    let plain = tree.probe(Profile::E2e);
    let release = tree.probe(Profile::Release);
    assert_eq!(
        release.differences(plain.fields()),
        ["profile: release here, e2e there"]
    );
    tree.write(
        ".cargo/config.toml",
        "[build]\nrustflags = ['-Copt-level=1']\n",
    );
    let flags = tree.probe(Profile::E2e);
    assert_eq!(flags.fields()["rustflags"], r#"["-Copt-level=1"]"#);
    assert_ne!(flags.digest(), plain.digest());
    tree.write(".cargo/config.toml", "[env]\nA = '1'\n");
    assert_ne!(tree.probe(Profile::E2e).digest(), plain.digest());
    tree.write(".cargo/config.toml", "");
    assert_eq!(tree.probe(Profile::E2e).digest(), plain.digest());
}
