//! Recipes: told by this machine, remembered, and another one as soon as something differs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
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
        "cargo",
        "cargo-config",
        "cc",
        "image-template",
        "ld",
        "linked-in crt1.o",
        "linked-in crti.o",
        "linked-in libc.a",
        "linked-in libgcc.a",
        "linked-in libgcc_eh.a",
        "linked-in libm.a",
        "linked-in libpthread.a",
        "profile",
        "rust-toolchain",
        "rustc",
        "rustflags",
        "schema",
        "target",
    ] {
        let nothing_here = name == "cargo-config";
        assert!(nothing_here || !one.fields()[name].is_empty(), "{name}");
    }
    assert_eq!(
        one.fields()["target"],
        Platform::host().unwrap().rust_triple()
    );
    assert!(one.fields()["rustc"].contains("\ncommit-hash: "));
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
    let template = format!("\"image-template\":\"{}\"", xtask::image::TEMPLATE_VERSION);
    let forged = text.replace(&template, "\"image-template\":\"forged\"");
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

const ROOT: &str = "BUILD_RECIPE_ROOT";

/// The recipe of a tree, told by a process that finds the compilers of `tools` first.
#[track_caller]
fn fields(tree: &Tree, tools: &Utf8Path) -> BTreeMap<String, String> {
    let path = std::env::var("PATH").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("build_recipe::another_linker_or_c_library_is_another_recipe")
        .env(ROOT, tree.root())
        .env("PATH", format!("{tools}:{path}"))
        .env("COMPILER_PATH", "/of/the/shell")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find_map(|line| line.split("fields=").nth(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(line.unwrap_or_else(|| panic!("{said}{errors}"))).unwrap()
}

/// A C compiler, as far as a recipe asks for one. As others, it leaves it to PATH which linker it
/// calls, and goes by variables.
fn write_cc(tools: &Utf8Path, version: &str) {
    let at = |name: &str| format!("{}\n", tools.join(name));
    let answers = json!([
        {"arguments": ["--version"], "stdout": format!("cc {version}\nmore\n")},
        {"arguments": ["-print-prog-name=ld"], "stdout": "ld\n"},
        {"arguments": ["-print-file-name=libc.a"], "variable": "COMPILER_PATH", "stdout": "/etc/passwd"},
        {"arguments": ["-print-file-name=libc.a"], "stdout": at("libc.a")},
        {"arguments": ["-print-file-name=libm.a"], "stdout": at("libm.a")},
        {"stdout": "what-is-not-there\n"},
    ]);
    write_program(tools, "cc", &answers);
}

fn write_ld(tools: &Utf8Path, version: &str) {
    let answers = json!([{"stdout": format!("ld {version}\n")}]);
    write_program(tools, "ld", &answers);
}

/// Another file each time, and written by another process: none of ours has it open.
fn write_program(folder: &Utf8Path, name: &str, answers: &serde_json::Value) {
    let program = folder.join(name);
    fs::write(program.with_extension("json"), answers.to_string()).unwrap();
    let copied = Command::new("cp")
        .args(["--remove-destination", env!("CARGO_BIN_EXE_fake-program")])
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
}

/// The same length, and in the end the same time: what the change time alone tells.
fn patch(path: &Utf8Path, text: &str) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn another_linker_or_c_library_is_another_recipe() {
    if let Ok(root) = std::env::var(ROOT) {
        let mut workspace = Workspace::load(Utf8Path::new(&root)).unwrap();
        workspace.state = workspace.root.join("target/e2e");
        let platform = Platform::host().unwrap();
        let recipe = Recipe::probe(&workspace, &platform, Profile::E2e).unwrap();
        println!("fields={}", serde_json::to_string(recipe.fields()).unwrap());
        return;
    }
    let tree = Tree::new();
    let folder = tempfile::tempdir().unwrap();
    let tools = Utf8Path::from_path(folder.path()).unwrap();
    write_cc(tools, "12.2");
    write_ld(tools, "2.40");
    let script = format!("/* GNU ld script */ GROUP ( {} )\n", tools.join("libm-2.a"));
    for (name, text) in [("libc.a", "one"), ("libm.a", &script), ("libm-2.a", "one")] {
        fs::write(tools.join(name), text).unwrap();
    }
    let mut before = fields(&tree, tools);
    assert_eq!(before["cc"], "cc 12.2");
    assert_eq!(before["ld"], "ld 2.40");
    let mut check = |changed: &str| {
        let now = fields(&tree, tools);
        let names: Vec<&String> = now
            .keys()
            .filter(|name| now.get(*name) != before.get(*name))
            .collect();
        assert_eq!(names, [changed]);
        before = now;
    };
    for (library, field) in [
        ("libc.a", "linked-in libc.a"),
        ("libm-2.a", "linked-in libm-2.a"),
    ] {
        patch(&tools.join(library), "two");
        check(field);
    }
    tree.write("rust-toolchain.toml", "[toolchain]\nprofile = 'minimal'\n");
    check("rust-toolchain");
    write_cc(tools, "13.1");
    check("cc");
    write_ld(tools, "2.41");
    check("ld");
    let earlier = tools.join("earlier");
    fs::create_dir(&earlier).unwrap();
    write_ld(&earlier, "2.42");
    let first = Utf8PathBuf::from(format!("{earlier}:{tools}"));
    assert_eq!(fields(&tree, &first)["ld"], "ld 2.42");
}
