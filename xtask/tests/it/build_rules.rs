//! Phase 1, rule by rule: what a failed or killed build leaves, what two packages share and what
//! they do not, which paths reach a binary, and how cargo is called.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use camino::Utf8Path;
use rustix::fs::{CWD, FileType, FlockOperation, Mode, mknodat};
use xtask::engine::Platform;
use xtask::exit::{Exit, Failure};
use xtask::pipeline::build::{Options, Origin, build_images, plan};
use xtask::poll::{self, Look};
use xtask::source::workspace::Workspace;

use crate::build_phase::{built, freeze, image, manifest, said, tree, try_build, workspace};
use crate::source_tree::Tree;

const GATE: &str = "services/gate/src/main.rs";
const COMMON: &str = "services/common/src/lib.rs";
const AMPLE: Duration = Duration::from_secs(120);

#[track_caller]
fn check_fails(tree: &Tree, exit: Exit) {
    let error = try_build(tree, freeze(&workspace(tree), "gate"), false).unwrap_err();
    assert_eq!(
        Failure::find(&error).map(Failure::exit),
        Some(exit),
        "{error:?}"
    );
}

#[track_caller]
fn check_gate_says(tree: &Tree, expected: &str) {
    assert_eq!(said(tree, image(&built(tree, "gate"), "gate")), expected);
}

fn write_gate(tree: &Tree, prints: &str) {
    tree.write(GATE, &format!("fn main() {{ println!({prints}); }}\n"));
}

#[test]
fn a_build_that_fails_leaves_no_record_of_what_was_before() {
    let tree = tree();
    write_gate(&tree, "\"first {}\", common::WORD");
    check_gate_says(&tree, "first one\n");
    // `common` is compiled, and what is made of it is not.
    tree.edit(COMMON, "one", "two");
    write_gate(&tree, "nonsense");
    check_fails(&tree, Exit::Build);
    tree.edit(COMMON, "two", "one");
    write_gate(&tree, "\"third {}\", common::WORD");
    check_gate_says(&tree, "third one\n");
}

#[test]
fn a_build_that_does_not_begin_leaves_no_record_of_what_was_wanted() {
    let tree = tree();
    write_gate(&tree, "\"first {}\", common::WORD");
    check_gate_says(&tree, "first one\n");
    tree.edit(COMMON, "one", "two");
    let (manifest, lock) = (
        tree.path("services/gate/Cargo.toml"),
        tree.path("Cargo.lock"),
    );
    let before = [&manifest, &lock].map(|path| fs::read_to_string(path).unwrap());
    let nowhere = format!("file://{}", tree.path("nowhere"));
    fs::write(
        &manifest,
        format!("{}nowhere = {{ git = \"{nowhere}\" }}\n", before[0]),
    )
    .unwrap();
    tree.edit(
        "Cargo.lock",
        "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\"]",
        &format!(
            "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\", \"nowhere\"]\n\n\
             [[package]]\nname = \"nowhere\"\nversion = \"0.1.0\"\nsource = \"git+{nowhere}#{}\"",
            "0".repeat(40)
        ),
    );
    check_fails(&tree, Exit::Host);
    fs::write(&manifest, &before[0]).unwrap();
    fs::write(&lock, &before[1]).unwrap();
    write_gate(&tree, "\"third {}\", common::WORD");
    check_gate_says(&tree, "third two\n");
}

#[test]
fn what_one_package_turns_on_is_off_for_another() {
    let tree = tree();
    let common = format!("{}\n[features]\nextra = []\n", manifest("common", ""));
    tree.write("services/common/Cargo.toml", &common);
    tree.edit(
        COMMON,
        "\"one\"",
        "if cfg!(feature = \"extra\") { \"with\" } else { \"without\" }",
    );
    let path = "path = \"../common\"";
    tree.edit(
        "services/store/Cargo.toml",
        path,
        &format!("{path}, features = [\"extra\"]"),
    );
    write_gate(&tree, "\"{}\", common::WORD");
    let images = built(&tree, "gate");
    assert_eq!(said(&tree, image(&images, "gate")), "without\n");
    let store = said(&tree, image(&images, "store"));
    assert!(store.contains(" common=with "), "{store}");
}

/// Compiles an object that nobody freezes: `number` gives this.
fn compile_number(object: &Utf8Path, number: u8) {
    let source = object.with_extension("c");
    fs::write(
        &source,
        format!("int number(void) {{ return {number}; }}\n"),
    )
    .unwrap();
    let compiled = Command::new("cc")
        .args(["-c", "-o", object.as_str(), source.as_str()])
        .status();
    assert!(compiled.unwrap().success());
}

#[test]
fn an_object_that_configuration_names_is_linked_as_it_is_now() {
    let tree = tree();
    let folder = tempfile::tempdir().unwrap();
    let object = Utf8Path::from_path(folder.path()).unwrap().join("n.o");
    compile_number(&object, 1);
    let triple = Platform::host().unwrap().rust_triple();
    let config = format!("[target.{triple}]\nrustflags = ['-Clink-arg={object}']\n");
    tree.write(".cargo/config.toml", &config);
    let main = "unsafe extern \"C\" { safe fn number() -> i32; }\n\
                fn main() { println!(\"{}\", number()); }\n";
    tree.write(GATE, main);
    // The others do not call it, and are linked with it, too.
    check_gate_says(&tree, "1\n");
    compile_number(&object, 2);
    check_gate_says(&tree, "2\n");
    compile_number(&object, 1);
    check_gate_says(&tree, "1\n");
}

#[test]
fn what_configuration_names_must_not_change_during_a_build() {
    let tree = tree();
    let given = tree.path("target/given");
    tree.write("target/given", "one");
    tree.write(".cargo/config.toml", &format!("[env]\nGIVEN = '{given}'\n"));
    let script = "fn main() {\n\
                  let given = std::env::var(\"GIVEN\").unwrap();\n\
                  let text = std::fs::read_to_string(&given).unwrap();\n\
                  println!(\"cargo::rustc-env=TEXT={text}\");\n\
                  if text == \"one\" { std::fs::write(&given, \"two\").unwrap(); }\n}\n";
    tree.write("services/gate/build.rs", script);
    write_gate(&tree, "\"{}\", env!(\"TEXT\")");
    check_fails(&tree, Exit::Build);
    let record = tree.path("target/e2e/build-records/toolchain");
    assert!(!record.exists(), "what was compiled is of use to nobody");
    check_gate_says(&tree, "two\n");
}

/// Of a package that is no member cargo locks no dependency that no feature turns on.
#[test]
fn a_patch_may_have_dependencies_that_are_off() {
    let tree = tree();
    let root = fs::read_to_string(tree.path("Cargo.toml")).unwrap();
    let root = format!("{root}\n[patch.crates-io]\nitoa = {{ path = \"vendor/itoa\" }}\n");
    tree.write("Cargo.toml", &root);
    let patch = manifest(
        "itoa",
        "[dependencies]\nno-panic = { version = \"0.1\", optional = true }\n",
    );
    tree.write("vendor/itoa/Cargo.toml", &patch);
    tree.write(
        "vendor/itoa/src/lib.rs",
        "pub const WORD: &str = \"one\";\n",
    );
    let gate = fs::read_to_string(tree.path("services/gate/Cargo.toml")).unwrap();
    tree.write(
        "services/gate/Cargo.toml",
        &format!("{gate}itoa = \"0.1\"\n"),
    );
    tree.edit(
        "Cargo.lock",
        "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\"]",
        "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\", \"itoa\"]\n\n\
         [[package]]\nname = \"itoa\"\nversion = \"0.1.0\"",
    );
    write_gate(&tree, "\"{}\", itoa::WORD");
    check_gate_says(&tree, "one\n");
    tree.edit("vendor/itoa/src/lib.rs", "one", "two");
    check_gate_says(&tree, "two\n");
}

#[test]
fn folders_of_this_machine_have_the_same_name_in_every_binary() {
    let tree = tree();
    let script = "fn main() { let folder = std::env::var(\"OUT_DIR\").unwrap(); \
                  std::fs::write(folder + \"/made.rs\", \"pub const PLACE: &str = file!();\").unwrap(); }";
    tree.write("services/gate/build.rs", script);
    tree.write(
        "services/gate/src/part.rs",
        "pub const PLACE: &str = file!();\n",
    );
    let main = "mod part { include!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/src/part.rs\")); }\n\
                mod made { include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\")); }\n\
                fn main() { println!(\"{} {}\", part::PLACE, made::PLACE); }\n";
    tree.write(GATE, main);
    let said = said(&tree, image(&built(&tree, "gate"), "gate"));
    let (part, made) = said.trim().split_once(' ').unwrap();
    assert_eq!(part, "/source/gate/services/gate/src/part.rs");
    assert!(
        made.starts_with("/build/") && made.ends_with("/out/made.rs"),
        "{made}"
    );
}

/// Builds `gate` of the tree at this root; what a test does in a process of its own.
fn build_at(root: &str) {
    let root = Utf8Path::new(root);
    let mut workspace = Workspace::load(root).unwrap();
    workspace.state = root.join("target/e2e");
    let options = Options {
        no_cache: false,
        archives: &root.join("archives"),
        log: &root.join("log"),
    };
    build_images(&workspace, freeze(&workspace, "gate"), &options).unwrap();
}

/// This test again, in a process of its own.
fn again(test: &str, tree: &Tree) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture"])
        .arg(format!("build_rules::{test}"))
        .env(ROOT, tree.root());
    command
}

const ROOT: &str = "BUILD_RULES_ROOT";

#[test]
fn the_cargo_of_a_killed_run_keeps_the_lock() {
    if let Ok(root) = std::env::var(ROOT) {
        build_at(&root);
        return;
    }
    let tree = tree();
    // A build script that ends when nobody writes to this any more.
    let pipe = tree.path("pipe");
    mknodat(
        CWD,
        pipe.as_str(),
        FileType::Fifo,
        Mode::RUSR | Mode::WUSR,
        0,
    )
    .unwrap();
    let script = format!("fn main() {{ std::fs::read(\"{pipe}\").unwrap(); }}");
    tree.write("services/gate/build.rs", &script);
    let mut run = again("the_cargo_of_a_killed_run_keeps_the_lock", &tree)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let interval = Duration::from_millis(20);
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let writer = poll::until("build script", AMPLE, interval, || {
        let opened = File::options()
            .write(true)
            .custom_flags(nonblocking)
            .open(&pipe);
        Ok(opened.map_or_else(|error| Look::NotYet(error.to_string()), Look::Found))
    });
    let writer = writer.unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    let lock = File::open(tree.path("target/e2e/build.lock")).unwrap();
    let take = || rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
    assert!(take().is_err(), "the lock is free, and a cargo builds");
    drop(writer);
    let free = poll::until("free lock", AMPLE, interval, || {
        Ok(take().map_or_else(|error| Look::NotYet(error.to_string()), Look::Found))
    });
    free.unwrap();
}

#[test]
fn cargo_is_called_by_its_own_path_and_for_one_locked_package() {
    let tree = tree();
    let workspace = workspace(&tree);
    let images = freeze(&workspace, "gate");
    let rustc = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .unwrap();
    let sysroot = String::from_utf8(rustc.stdout).unwrap();
    let packages = ["gate", "store", "test-e2e"];
    let calls = plan(&workspace, &images).unwrap();
    assert_eq!(calls.len(), packages.len());
    for (step, package) in calls.iter().zip(packages) {
        assert_eq!((step.origin, &step.place), (Origin::Built, &None));
        let call = step.invocation.as_ref().unwrap();
        assert_eq!(call.program(), format!("{}/bin/cargo", sysroot.trim()));
        let manifest = tree.path(&format!("target/e2e/src/{package}/Cargo.toml"));
        let call = call.to_string();
        for part in [
            " --locked ".to_owned(),
            " --offline ".to_owned(),
            format!(" --manifest-path {manifest} "),
            format!(" --package={package} "),
        ] {
            assert!(call.contains(&part), "`{part}` is not in: {call}");
        }
        assert_eq!(call.matches("--package").count(), 1, "{call}");
    }
}

#[test]
fn what_is_missing_is_downloaded_once_and_its_place_is_in_no_binary() {
    const TEST: &str = "what_is_missing_is_downloaded_once_and_its_place_is_in_no_binary";
    if let Ok(root) = std::env::var(ROOT) {
        build_at(&root);
        return;
    }
    let (tree, other) = (tree(), Tree::bare());
    other.write("Cargo.toml", &manifest("other", ""));
    other.write("src/lib.rs", "pub const PLACE: &str = file!();\n");
    other.git(&["init", "--quiet", "--initial-branch=main"]);
    other.commit();
    let head = fs::read_to_string(other.path(".git/refs/heads/main")).unwrap();
    let url = format!("file://{}", other.root());
    let gate = fs::read_to_string(tree.path("services/gate/Cargo.toml")).unwrap();
    tree.write(
        "services/gate/Cargo.toml",
        &format!("{gate}other = {{ git = \"{url}\" }}\n"),
    );
    tree.edit(
        "Cargo.lock",
        "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\"]",
        &format!(
            "name = \"gate\"\nversion = \"0.1.0\"\ndependencies = [\"common\", \"other\"]\n\n\
             [[package]]\nname = \"other\"\nversion = \"0.1.0\"\nsource = \"git+{url}#{}\"",
            head.trim()
        ),
    );
    let home = tree.path("home-of-cargo");
    fs::create_dir(&home).unwrap();
    // What every binary of `gate` that was built so far says.
    let build = |prints: &str| -> Vec<String> {
        write_gate(&tree, prints);
        let output = again(TEST, &tree)
            .env("CARGO_HOME", &home)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let kept = tree.path("target/e2e/bin").read_dir_utf8().unwrap();
        let kept = kept.map(|entry| entry.unwrap().into_path());
        let binaries = kept.filter(|path| path.extension().is_none());
        let said = binaries.map(|path| Command::new(path).output().unwrap().stdout);
        let said = said.map(|said| String::from_utf8(said).unwrap());
        said.filter(|said| said.starts_with("gate ")).collect()
    };
    let said = build("\"gate first {}\", other::PLACE");
    assert_eq!(said.len(), 1);
    assert!(
        said[0].starts_with("gate first /cargo/git/checkouts/"),
        "{said:?}"
    );
    // Where it came from is gone, and nothing is asked of it.
    fs::remove_dir_all(other.path(".git")).unwrap();
    let said = build("\"gate second {}\", other::PLACE");
    assert_eq!(said.len(), 2, "{said:?}");
}
