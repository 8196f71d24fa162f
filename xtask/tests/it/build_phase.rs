//! Phase 1 with a real compiler: what runs is what was frozen, whatever cargo believes; what was
//! not frozen reaches no binary; and the same sources are the same image.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use camino::Utf8PathBuf;
use xtask::engine::Platform;
use xtask::exit::{Exit, Failure};
use xtask::pipeline::Images;
use xtask::pipeline::build::recipe::Profile;
use xtask::pipeline::build::{Built, Options, Origin, TestProgram, build, build_images};
use xtask::pipeline::tag::{Inputs, Repository, Tagged, tag};
use xtask::poll::{self, Look};
use xtask::source::workspace::Workspace;

use crate::source_tree::Tree;

const AMPLE: Duration = Duration::from_secs(120);

const ROOT: &str = r#"
[workspace]
resolver = "3"
members = ["services/*", "test-e2e"]

[workspace.metadata.e2e]
against = "store"

[workspace.metadata.e2e.targets.pipeline]
needs = ["store"]

[profile.e2e]
inherits = "dev"
debug = 0
strip = "symbols"
incremental = false
"#;

const LOCK: &str = r#"
version = 4

[[package]]
name = "common"
version = "0.1.0"

[[package]]
name = "folder"
version = "0.1.0"

[[package]]
name = "gate"
version = "0.1.0"
dependencies = ["common"]

[[package]]
name = "store"
version = "0.1.0"
dependencies = ["common", "folder"]

[[package]]
name = "test-e2e"
version = "0.1.0"
dependencies = ["common"]
"#;

/// A macro that reads a folder and tells the compiler about the files that it found, as the ones
/// that embed migrations do: a file that is added later is known to nobody.
const FOLDER: &str = r#"
extern crate proc_macro;
#[proc_macro]
pub fn names(folder: proc_macro::TokenStream) -> proc_macro::TokenStream {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let folder = folder.to_string();
    let path = format!("{root}/{}", folder.trim_matches('"'));
    let entries = std::fs::read_dir(&path).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let known: String = names.iter().map(|name| format!("include_str!(\"{path}/{name}\");")).collect();
    format!("{{ {known} \"{}\" }}", names.join(",")).parse().unwrap()
}
"#;

/// A function that is compiled where it is used tells its place, as every panic does.
const COMMON: &str = r#"
pub const WORD: &str = "one";
pub fn place<T>(_: T) -> &'static str {
    std::panic::Location::caller().file()
}
"#;

const STORE: &str = r#"
const SOURCE_DIGEST: Option<&str> = option_env!("E2E_SOURCE_DIGEST");
fn main() {
    println!("digest={} main=1 common={} migrations={} generated={} link={} place={}",
        SOURCE_DIGEST.unwrap_or("unknown"), common::WORD, folder::names!("migrations"), env!("GENERATED"),
        include_str!("link.txt"), common::place(1));
}
"#;

/// Reads a file without telling cargo.
const BUILD: &str = r#"
fn main() {
    let there = std::path::Path::new("extra.txt").exists();
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=GENERATED=extra-{there}");
}
"#;

pub(crate) fn manifest(name: &str, rest: &str) -> String {
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{rest}")
}

pub(crate) fn tree() -> Tree {
    let tree = Tree::bare();
    let common = "common = { path = \"../common\" }\n";
    for (path, text) in [
        ("Cargo.toml", ROOT.to_owned()),
        ("Cargo.lock", LOCK.to_owned()),
        ("services/common/Cargo.toml", manifest("common", "")),
        ("services/common/src/lib.rs", COMMON.to_owned()),
        (
            "services/folder/Cargo.toml",
            manifest("folder", "[lib]\nproc-macro = true\n"),
        ),
        ("services/folder/src/lib.rs", FOLDER.to_owned()),
        (
            "services/store/Cargo.toml",
            manifest(
                "store",
                &format!(
                    "[package.metadata.e2e]\n[dependencies]\n{common}folder = {{ path = \"../folder\" }}\n"
                ),
            ),
        ),
        ("services/store/build.rs", BUILD.to_owned()),
        ("services/store/extra.txt", String::new()),
        ("services/store/words/new.txt", "new".to_owned()),
        ("services/store/words/old.txt", "old".to_owned()),
        ("services/store/src/main.rs", STORE.to_owned()),
        (
            "services/gate/Cargo.toml",
            manifest(
                "gate",
                &format!("[package.metadata.e2e]\nneeds = [\"store\"]\n[dependencies]\n{common}"),
            ),
        ),
        (
            "services/gate/src/main.rs",
            "fn main() { println!(\"gate {} {}\", common::WORD, common::place(2_u8)); }\n"
                .to_owned(),
        ),
        (
            "test-e2e/Cargo.toml",
            manifest(
                "test-e2e",
                "[dependencies]\ncommon = { path = \"../services/common\" }\n",
            ),
        ),
        (
            "test-e2e/tests/gate.rs",
            "#[test] fn gates() { assert_eq!(common::WORD, \"one\"); }\n".to_owned(),
        ),
    ] {
        tree.write(path, &text);
    }
    symlink("../words/new.txt", tree.path("services/store/src/link.txt")).unwrap();
    tree
}

/// With the state in the tree, wherever this test program was built.
pub(crate) fn workspace(tree: &Tree) -> Workspace {
    let mut workspace = tree.workspace();
    workspace.state = tree.path("target/e2e");
    workspace
}

pub(crate) fn freeze(workspace: &Workspace, target: &str) -> Images<Tagged> {
    tag(&Inputs {
        workspace,
        target: workspace.target(target).unwrap(),
        repository: Repository::localhost(),
        platform: Platform::host().unwrap(),
        profile: Profile::E2e,
        prebuilt: None,
        keep_in: Some(&workspace.state),
    })
    .unwrap()
}

pub(crate) fn try_build(
    tree: &Tree,
    images: Images<Tagged>,
    no_cache: bool,
) -> anyhow::Result<Images<Built>> {
    let options = Options {
        no_cache,
        archives: &tree.path("archives"),
        log: &tree.path("log"),
    };
    build_images(&workspace(tree), images, &options)
}

pub(crate) fn built(tree: &Tree, target: &str) -> Images<Built> {
    try_build(tree, freeze(&workspace(tree), target), false).unwrap()
}

pub(crate) fn image<'a>(images: &'a Images<Built>, package: &str) -> &'a Built {
    let found = images.iter().find(|(name, _)| name.as_str() == package);
    found.unwrap().1
}

/// What the binary in an image says.
pub(crate) fn said(tree: &Tree, image: &Built) -> String {
    let archive = fs::read(image.archive()).unwrap();
    let mut archive = tar::Archive::new(&archive[..]);
    let layer = archive
        .entries()
        .unwrap()
        .map(Result::unwrap)
        .max_by_key(|entry| entry.size());
    let layer = layer.unwrap().raw_file_position();
    let bytes = fs::read(image.archive()).unwrap();
    let folder = tree.path("unpacked");
    tar::Archive::new(&bytes[usize::try_from(layer).unwrap()..])
        .unpack(&folder)
        .unwrap();
    let program = folder.join(image.reference().package().as_str());
    let output = run(Command::new(program).env_clear());
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program that was written just now. A child of another test has it open for writing, as
/// every file of this process, until it has begun a program of its own.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = poll::until(
        "program",
        AMPLE,
        Duration::from_millis(5),
        || match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                Ok(Look::NotYet(error.to_string()))
            }
            output => Ok(Look::Found(output?)),
        },
    );
    output.unwrap()
}

/// What the config of an image says of it.
fn labels(image: &Built) -> serde_json::Value {
    let archive = File::open(image.archive()).unwrap();
    let mut archive = tar::Archive::new(archive);
    let config = format!("blobs/sha256/{}", image.image_id());
    let mut entries = archive.entries().unwrap().map(Result::unwrap);
    let entry = entries.find(|entry| entry.path_bytes() == config.as_bytes());
    let config: serde_json::Value = serde_json::from_reader(entry.unwrap()).unwrap();
    config["config"]["Labels"].clone()
}

/// Years before everything that cargo has made.
fn make_old(tree: &Tree, path: &str) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800);
    let file = File::options().append(true).open(tree.path(path)).unwrap();
    file.set_modified(long_ago).unwrap();
}

#[track_caller]
fn check_runs(tree: &Tree, expected: &str) -> Origin {
    let images = built(tree, "store");
    let store = image(&images, "store");
    let said = said(tree, store);
    assert!(said.contains(expected), "{said}, not {expected}");
    assert!(said.contains(&store.source().to_string()), "{said}");
    for (label, value) in [
        ("phase-zero.source-digest", store.source().to_string()),
        ("phase-zero.recipe-digest", store.recipe().to_string()),
        ("phase-zero.package", "store".to_owned()),
        ("phase-zero.target", "store".to_owned()),
    ] {
        assert_eq!(labels(store)[label], value);
    }
    store.origin()
}

#[test]
fn the_frozen_bytes_run_whatever_their_time_says() {
    let tree = tree();
    tree.write("test-e2e/tests/store.rs", "#[test] fn stores() {}\n");
    let (store, common) = ("services/store/src/main.rs", "services/common/src/lib.rs");
    let all = "main=1 common=one migrations=1.sql generated=extra-true";
    assert_eq!(check_runs(&tree, all), Origin::Built);
    assert_eq!(check_runs(&tree, all), Origin::Kept);

    tree.edit(store, "main=1", "main=2");
    make_old(&tree, store);
    assert_eq!(check_runs(&tree, "main=2"), Origin::Built);
    tree.edit(common, "one", "two");
    make_old(&tree, common);
    check_runs(&tree, "common=two");
    tree.write("services/store/migrations/2.sql", "");
    make_old(&tree, "services/store/migrations/2.sql");
    check_runs(&tree, "migrations=1.sql,2.sql");
    fs::remove_file(tree.path("services/store/extra.txt")).unwrap();
    check_runs(&tree, "generated=extra-false");
    tree.edit("services/store/build.rs", "extra-{there}", "now-{there}");
    make_old(&tree, "services/store/build.rs");
    check_runs(&tree, "generated=now-false");
    tree.edit("services/folder/src/lib.rs", "join(\",\")", "join(\"+\")");
    make_old(&tree, "services/folder/src/lib.rs");
    check_runs(&tree, "migrations=1.sql+2.sql");

    let link = "services/store/src/link.txt";
    make_old(&tree, "services/store/words/old.txt");
    fs::remove_file(tree.path(link)).unwrap();
    symlink("../words/old.txt", tree.path(link)).unwrap();
    check_runs(&tree, "link=old");

    // All the way back: nothing is compiled, and the first binary runs.
    let back = self::tree();
    for path in ["services/store", "services/common", "services/folder"] {
        fs::remove_dir_all(tree.path(path)).unwrap();
        let copied = Command::new("cp")
            .arg("-rp")
            .arg(back.path(path))
            .arg(tree.path(path))
            .status();
        assert!(copied.unwrap().success());
    }
    assert_eq!(check_runs(&tree, all), Origin::Kept);
}

#[test]
fn what_packages_share_is_that_of_the_one_that_is_built() {
    let tree = tree();
    let workspace = workspace(&tree);
    let first = freeze(&workspace, "gate");
    tree.edit("services/common/src/lib.rs", "one", "two");
    let second = freeze(&workspace, "gate");
    // The newer one first: cargo then has a newer `common` than the older one needs.
    let second = try_build(&tree, second, false).unwrap();
    let first = try_build(&tree, first, false).unwrap();
    assert_eq!(
        said(&tree, image(&second, "gate")),
        "gate two services/common/src/lib.rs\n"
    );
    assert_eq!(
        said(&tree, image(&first, "gate")),
        "gate one services/common/src/lib.rs\n"
    );
    assert!(said(&tree, image(&first, "store")).contains("common=one"));
    assert_ne!(
        image(&first, "gate").image_id(),
        image(&second, "gate").image_id()
    );
}

#[test]
fn builds_side_by_side_get_their_own_bytes() {
    let tree = tree();
    let workspace = workspace(&tree);
    let frozen: Vec<_> = ["one", "two", "three"]
        .map(|word| {
            let text = COMMON.replace("one", word);
            tree.write("services/common/src/lib.rs", &text);
            (word, freeze(&workspace, "gate"))
        })
        .into();
    std::thread::scope(|scope| {
        for (word, images) in frozen {
            let (tree, workspace) = (&tree, &workspace);
            scope.spawn(move || {
                let archives = tree.path(&format!("archives-{word}"));
                let options = Options {
                    no_cache: false,
                    archives: &archives,
                    log: &tree.path("log"),
                };
                let images = build_images(workspace, images, &options).unwrap();
                let binary =
                    tree.path(&format!("target/e2e/bin/gate-{}", kept_by(&images, "gate")));
                let output = run(&mut Command::new(binary));
                assert_eq!(
                    String::from_utf8(output.stdout).unwrap(),
                    format!("gate {word} services/common/src/lib.rs\n")
                );
            });
        }
    });
}

fn kept_by(images: &Images<Built>, package: &str) -> xtask::digest::Digest {
    let image = image(images, package);
    xtask::pipeline::tag::tag_digest(image.source(), image.recipe())
}

#[test]
fn the_same_sources_are_the_same_image_in_any_folder_and_build_folder() {
    let (here, there) = (tree(), tree());
    let one = built(&here, "gate");
    // Two packages are made of it, each in a mirror of its own.
    let log = fs::read_to_string(here.path("log")).unwrap();
    assert_eq!(log.matches("Compiling common v0.1.0").count(), 1, "{log}");
    // Another order: what is shared was compiled for another package first.
    let pipeline = built(&there, "pipeline");
    let other = built(&there, "gate");
    for package in ["store", "gate"] {
        assert_eq!(
            image(&one, package).image_id(),
            image(&other, package).image_id()
        );
        let archive = |image: &Built| fs::read(image.archive()).unwrap();
        assert!(archive(image(&one, package)) == archive(image(&other, package)));
    }
    // The same binary for another target is another image under another name.
    let (store, store_of_gate) = (image(&pipeline, "store"), image(&other, "store"));
    assert_eq!(store_of_gate.origin(), Origin::Kept);
    assert_eq!(store.binary(), store_of_gate.binary());
    assert_ne!(store.image_id(), store_of_gate.image_id());
    assert_ne!(store.reference().tag(), store_of_gate.reference().tag());
    // From an empty folder: compared with what is kept, and the same.
    let again = try_build(&here, freeze(&workspace(&here), "gate"), true).unwrap();
    assert_eq!(image(&again, "store").origin(), Origin::Built);
    assert_eq!(
        image(&again, "store").image_id(),
        image(&one, "store").image_id()
    );
    for entry in here.path("target/e2e").read_dir_utf8().unwrap() {
        let name = entry.unwrap().file_name().to_owned();
        let known = ["build-records", "build.lock"].contains(&name.as_str());
        assert!(known || !name.contains("build-"), "{name} is left");
    }
}

#[test]
fn a_damaged_binary_is_built_anew() {
    let tree = tree();
    let images = built(&tree, "gate");
    let kept = tree.path(&format!("target/e2e/bin/gate-{}", kept_by(&images, "gate")));
    let whole = fs::read(&kept).unwrap();
    fs::remove_file(&kept).unwrap();
    fs::write(&kept, &whole[..whole.len() - 1]).unwrap();
    let again = built(&tree, "gate");
    assert_eq!(image(&again, "gate").origin(), Origin::Built);
    assert_eq!(image(&again, "store").origin(), Origin::Kept);
    assert!(fs::read(&kept).unwrap() == whole);
    // Its own digest is written last: a binary without it may be half of one.
    fs::remove_file(format!("{kept}.sha256")).unwrap();
    let again = built(&tree, "gate");
    assert_eq!(image(&again, "gate").origin(), Origin::Built);
    // A hit needs nothing that cargo works with, and makes none of it.
    let cargo_has = ["build", "build-records", "src", "build.lock"];
    let there = |name: &str| tree.path("target/e2e").join(name).exists();
    assert!(cargo_has.iter().all(|name| there(name)));
    fs::remove_file(tree.path("target/e2e/build.lock")).unwrap();
    for folder in &cargo_has[..3] {
        fs::remove_dir_all(tree.path("target/e2e").join(folder)).unwrap();
    }
    let again = built(&tree, "gate");
    assert_eq!(image(&again, "gate").origin(), Origin::Kept);
    assert!(!cargo_has.iter().any(|name| there(name)));
}

#[test]
fn what_cargo_has_left_is_not_believed_where_a_kept_binary_is_gone() {
    let tree = tree();
    let images = built(&tree, "gate");
    let made_by = kept_by(&images, "gate");
    let kept = tree.path(&format!("target/e2e/bin/gate-{made_by}"));
    let whole = fs::read(&kept).unwrap();
    // As after a crash: neither the kept one nor cargo's own was written to its end.
    fs::remove_file(&kept).unwrap();
    let mut damaged = 0;
    let mut folders = vec![tree.path("target/e2e/build")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir_utf8().unwrap() {
            let path = entry.unwrap().into_path();
            if path.is_dir() {
                folders.push(path);
            } else if fs::read(&path).unwrap() == whole {
                let time = fs::metadata(&path).unwrap().modified().unwrap();
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_len(whole.len() as u64 / 2).unwrap();
                file.set_modified(time).unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0, "cargo has one of its own");
    let again = built(&tree, "gate");
    assert_eq!(image(&again, "gate").origin(), Origin::Built);
    assert!(fs::read(&kept).unwrap() == whole);
}

/// What happened to the lock between two builds, and whether cargo prunes it anew for the second.
#[track_caller]
fn check_pruned_lock(change: impl Fn(&str) -> String, is_anew: bool) {
    let tree = tree();
    let store = "services/store/src/main.rs";
    check_runs(&tree, "main=1");
    let kept = tree.path("target/e2e/pruned-locks/store.lock");
    let pruned = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, change(&pruned)).unwrap();
    let file = fs::metadata(&kept).unwrap().ino();
    tree.edit(store, "main=1", "main=2");
    assert_eq!(check_runs(&tree, "main=2"), Origin::Built);
    assert_eq!(fs::metadata(&kept).unwrap().ino() != file, is_anew);
    assert_eq!(fs::read_to_string(&kept).unwrap(), pruned);
}

#[test]
fn a_lock_that_was_pruned_is_taken_again() {
    check_pruned_lock(str::to_owned, false);
}

#[test]
fn a_pruned_lock_that_is_not_what_it_was_is_pruned_anew() {
    // A version that was not frozen; one that cargo would have to write into it; no lock.
    check_pruned_lock(|lock| lock.replace("\"0.1.0\"", "\"0.2.0\""), true);
    let without = |lock: &str| {
        let folder = "[[package]]\nname = \"folder\"\nversion = \"0.1.0\"\n\n";
        assert!(lock.contains(folder), "{lock}");
        lock.replace(folder, "").replace(" \"folder\",\n", "")
    };
    check_pruned_lock(without, true);
    check_pruned_lock(|lock| lock[..lock.len() / 2].to_owned(), true);
    check_pruned_lock(|_| String::new(), true);
}

#[test]
fn a_pruned_lock_is_that_of_its_manifests() {
    let tree = tree();
    check_runs(&tree, "main=1");
    let kept = tree.path("target/e2e/pruned-locks/store.lock");
    let before = fs::read_to_string(&kept).unwrap();
    let manifest = "services/store/Cargo.toml";
    tree.edit(
        manifest,
        "[package.metadata.e2e]",
        "description = \"a\"\n[package.metadata.e2e]",
    );
    check_runs(&tree, "main=1");
    assert_ne!(fs::read_to_string(&kept).unwrap(), before);
}

#[test]
fn another_toolchain_leaves_nothing_of_the_build_folder() {
    let tree = tree();
    built(&tree, "gate");
    let marker = tree.path("target/e2e/build/marker");
    fs::write(&marker, "").unwrap();
    tree.edit("services/gate/src/main.rs", "gate", "gate2");
    built(&tree, "gate");
    assert!(marker.exists());
    fs::write(tree.path("target/e2e/build-records/toolchain"), "another\n").unwrap();
    tree.edit("services/gate/src/main.rs", "gate2", "gate3");
    built(&tree, "gate");
    assert!(!marker.exists());
}

#[test]
fn the_tests_are_built_from_the_same_snapshot() {
    let tree = tree();
    let workspace = workspace(&tree);
    let images = freeze(&workspace, "gate");
    tree.write(
        "test-e2e/tests/gate.rs",
        "#[test] fn edited() { panic!() }\n",
    );
    let options = Options {
        no_cache: false,
        archives: &tree.path("archives"),
        log: &tree.path("log"),
    };
    let build_all = |images| -> TestProgram { build(&workspace, images, &options).unwrap().1 };
    let first = build_all(images);
    let output = run(Command::new(first.path()).arg("--list"));
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("gates: test")
    );
    assert!(run(&mut Command::new(first.path())).status.success());
    let second = build_all(freeze(&workspace, "gate"));
    assert!(!run(&mut Command::new(second.path())).status.success());
    assert_ne!(first.source(), second.source());
    assert_eq!(build_all(freeze(&workspace, "gate")).origin(), Origin::Kept);
}

/// Builds `gate` with this main; it fails with the code for builds, and says what is expected.
#[track_caller]
pub(crate) fn check_refused(tree: &Tree, main: &str, no_cache: bool, expected: &str) {
    tree.write("services/gate/src/main.rs", main);
    let images = freeze(&workspace(tree), "gate");
    let error = try_build(tree, images, no_cache).map(drop).unwrap_err();
    assert_eq!(
        Failure::find(&error).map(Failure::exit),
        Some(Exit::Build),
        "{error:?}"
    );
    let log = fs::read_to_string(tree.path("log")).unwrap();
    let said = format!("{error:?}\n{log}");
    assert!(said.contains(expected), "{said}");
}

#[test]
fn what_was_not_frozen_reaches_no_binary() {
    let tree = tree();
    check_refused(
        &tree,
        "fn main() { nonsense }",
        false,
        "cannot find value `nonsense`",
    );
    check_refused(
        &tree,
        "fn main() { println!(\"{}\", include_str!(\"../../../README.md\")); }",
        false,
        "couldn't read",
    );
    let outside: Utf8PathBuf = tree.path("outside.txt");
    fs::write(&outside, "").unwrap();
    let main = format!("fn main() {{ println!(\"{{}}\", include_str!(\"{outside}\")); }}");
    check_refused(
        &tree,
        &main,
        false,
        &format!("`gate` was compiled from {outside}"),
    );
    for variable in [
        "SECRET_OF_THE_SHELL",
        "CARGO_BUILD_JOBS",
        "CARGO_TERM_COLOR",
        // Set for whoever watches cargo on a terminal.
        "CARGO_TERM_PROGRESS_WIDTH",
    ] {
        let main = format!("fn main() {{ println!(\"{{:?}}\", option_env!(\"{variable}\")); }}");
        let expected = format!("`gate` reads the variable {variable}");
        check_refused(&tree, &main, false, &expected);
    }
    let main = "fn main() { println!(\"{}\", env!(\"CARGO_MANIFEST_DIR\")); }";
    let mirror = tree.path("target/e2e/src/gate/services/gate");
    check_refused(
        &tree,
        main,
        false,
        &format!("holds a path of this machine: {mirror}"),
    );
    // And none of it stays: what is right is built.
    tree.write(
        "services/gate/src/main.rs",
        "fn main() { println!(\"right\"); }",
    );
    assert_eq!(said(&tree, image(&built(&tree, "gate"), "gate")), "right\n");
}

#[test]
fn what_a_build_script_declares_lies_in_the_closure() {
    let tree = tree();
    let outside: Utf8PathBuf = tree.path("outside.txt");
    fs::write(&outside, "").unwrap();
    let script = |says: &str| {
        let text = format!("fn main() {{ println!(\"{says}\"); }}");
        tree.write("services/gate/build.rs", &text);
    };
    let main = "fn main() { println!(\"right\"); }";
    for (says, expected) in [
        (
            format!("cargo:rerun-if-changed={outside}"),
            format!("the build script of `gate` reads {outside}"),
        ),
        (
            "cargo::rerun-if-changed=../../../../../../README.md".to_owned(),
            format!("reads {}", tree.path("README.md")),
        ),
        (
            "cargo:rerun-if-env-changed=PATH".to_owned(),
            "reads the variable PATH".to_owned(),
        ),
        (
            "cargo:rerun-if-env-changed=CARGO_TERM_PROGRESS_WIDTH".to_owned(),
            "reads the variable CARGO_TERM_PROGRESS_WIDTH".to_owned(),
        ),
        (
            format!("cargo:rustc-link-search=native={}", tree.root()),
            format!("links what lies in {}", tree.root()),
        ),
    ] {
        script(&says);
        check_refused(&tree, main, false, &expected);
    }
    let writes = "fn main() { std::fs::write(\"src/made.rs\", \"\").unwrap(); }";
    tree.write("services/gate/build.rs", writes);
    let made = tree.path("target/e2e/src/gate/services/gate/src/made.rs");
    check_refused(
        &tree,
        "mod made;\nfn main() {}",
        false,
        "`gate` was compiled from services/gate/src/made.rs",
    );
    assert!(made.exists());
    tree.write("services/gate/src/main.rs", main);
    script("cargo:rerun-if-changed=src/main.rs");
    assert_eq!(said(&tree, image(&built(&tree, "gate"), "gate")), "right\n");
}

#[test]
fn what_is_not_reproducible_is_told() {
    let tree = tree();
    let clock = "fn main() { let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap(); \
                 println!(\"cargo::rustc-env=NOW={}\", now.as_nanos()); }";
    tree.write("services/gate/build.rs", clock);
    let main = "fn main() { println!(\"{}\", env!(\"NOW\")); }";
    tree.write("services/gate/src/main.rs", main);
    built(&tree, "gate");
    check_refused(&tree, main, true, "gate is not reproducible");
}

#[test]
fn the_shell_reaches_no_build() {
    const INSIDE: &str = "BUILD_PHASE_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let tree = tree();
        let images = built(&tree, "gate");
        println!("id={}", image(&images, "gate").image_id());
        return;
    }
    let run = |variables: &[(&str, &str)]| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "build_phase::the_shell_reaches_no_build",
                "--nocapture",
            ])
            .env(INSIDE, "1")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let id = stdout
            .lines()
            .find(|line| line.contains("id="))
            .map(str::to_owned);
        (id, String::from_utf8(output.stderr).unwrap())
    };
    let (plain, _) = run(&[]);
    let (with, said) = run(&[
        ("RUSTFLAGS", "-Copt-level=3 --cfg nonsense"),
        ("CARGO_PROFILE_E2E_OPT_LEVEL", "3"),
        ("RUSTC_WRAPPER", "/no/such/wrapper"),
        ("CARGO_BUILD_TARGET", "no-such-target"),
    ]);
    assert!(plain.is_some());
    assert_eq!(plain, with, "{said}");
    for name in [
        "RUSTFLAGS",
        "CARGO_PROFILE_E2E_OPT_LEVEL",
        "RUSTC_WRAPPER",
        "CARGO_BUILD_TARGET",
    ] {
        assert!(said.contains(name), "{name} is not told: {said}");
    }
    assert_eq!(said.matches("not passed to the build").count(), 1, "{said}");
}

#[test]
fn configuration_on_the_way_to_the_tree_reaches_no_build() {
    let tree = tree();
    let plain = image(&built(&tree, "gate"), "gate").image_id();
    // Above the mirror, below the workspace: cargo would read it if it ran in the mirror.
    let nonsense = format!(
        "[build]\nrustflags = ['--cfg', 'nonsense']\nrustc = '/no/such/rustc'\n\
         [target.{}]\nlinker = '/no/such/linker'\n",
        Platform::host().unwrap().rust_triple()
    );
    tree.write("target/.cargo/config.toml", &nonsense);
    fs::remove_dir_all(tree.path("target/e2e/bin")).unwrap();
    let again = built(&tree, "gate");
    assert_eq!(image(&again, "gate").origin(), Origin::Built);
    assert_eq!(image(&again, "gate").image_id(), plain);
    // The workspace's own does.
    tree.write(
        ".cargo/config.toml",
        "[env]\nWORD = 'frozen'\n[build]\nrustflags = ['--cfg', 'own']\n",
    );
    let main = "fn main() { println!(\"{} {}\", env!(\"WORD\"), cfg!(own)); }";
    tree.write("services/gate/src/main.rs", main);
    assert_eq!(
        said(&tree, image(&built(&tree, "gate"), "gate")),
        "frozen true\n"
    );
}

#[test]
fn git_in_a_build_script_finds_no_repository() {
    let tree = tree();
    tree.git(&["init", "--quiet"]);
    tree.commit();
    let script = "fn main() { let git = std::process::Command::new(\"git\").args([\"rev-parse\", \"HEAD\"]).output().unwrap(); \
                  println!(\"cargo::rustc-env=FOUND={}\", git.status.success()); }";
    tree.write("services/gate/build.rs", script);
    tree.write(
        "services/gate/src/main.rs",
        "fn main() { println!(\"{}\", env!(\"FOUND\")); }",
    );
    assert_eq!(said(&tree, image(&built(&tree, "gate"), "gate")), "false\n");
}
