//! Recipes: told by this machine, remembered, and another one as soon as something differs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;
use tempfile::TempDir;
use xtask::engine::Platform;
use xtask::exit::{Exit, Failure};
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
        self.try_probe(profile).unwrap()
    }

    fn try_probe(&self, profile: Profile) -> anyhow::Result<Recipe> {
        let mut workspace = Workspace::load(self.root()).unwrap();
        workspace.state = self.root().join("target/e2e");
        Recipe::probe(&workspace, &Platform::host().unwrap(), profile)
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

/// A program that another process wrote: none of ours has it open.
fn write_script(path: &Utf8Path, text: &str) {
    let written = path.with_extension("text");
    fs::write(&written, text).unwrap();
    let copied = Command::new("install")
        .args(["-m755", written.as_str(), path.as_str()])
        .status();
    assert!(copied.unwrap().success());
}

#[test]
fn what_configuration_names_beyond_the_tree_is_in_it() {
    let tree = Tree::new();
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let at = |name: &str| folder.join(name);
    let linker = |number: u8| write_script(&at("ld.sh"), &format!("#!/bin/sh\n# {number}\n"));
    linker(1);
    for name in ["n.o", "of-build.o", "of-env"] {
        fs::write(at(name), "one").unwrap();
    }
    let triple = Platform::host().unwrap().rust_triple();
    let config = format!(
        "[target.{triple}]\nlinker = '{folder}/ld.sh'\n\
         rustflags = ['-Clink-arg={folder}/n.o', '-Clink-arg={folder}/later.o']\n\
         [env]\nA = {{ value = '{folder}/of-env', force = true }}\n"
    );
    tree.write(".cargo/config.toml", &config);
    let mut before = tree.probe(Profile::E2e);
    let mut check = |changed: &str| {
        let now = tree.probe(Profile::E2e);
        let told = now.differences(before.fields());
        assert_eq!(told.len(), 1, "{told:?}");
        let expected = format!("given {}: ", at(changed));
        assert!(told[0].starts_with(&expected), "{told:?}");
        assert_ne!(now.digest(), before.digest());
        before = now;
    };
    linker(2);
    check("ld.sh");
    patch(&at("n.o"), "two");
    check("n.o");
    patch(&at("of-env"), "two");
    check("of-env");
    fs::write(at("later.o"), "one").unwrap();
    check("later.o");
    let config = format!("[build]\nrustflags = '-C link-arg={folder}/of-build.o'\n");
    tree.write(".cargo/config.toml", &config);
    let before = tree.probe(Profile::E2e);
    patch(&at("of-build.o"), "two");
    assert_ne!(tree.probe(Profile::E2e).digest(), before.digest());
}

#[test]
fn configuration_that_leads_to_what_nobody_hashed_is_refused() {
    let tree = Tree::new();
    let triple = Platform::host().unwrap().rust_triple();
    for (config, told) in [
        (
            "[source.crates-io]\nreplace-with = 'vendored'\n[source.vendored]\ndirectory = '/vendor'\n".to_owned(),
            "`source.vendored.directory` is refused",
        ),
        (
            format!("[target.{triple}]\nrustflags = ['-Lnative=/usr']\n"),
            "`-Lnative=/usr` of cargo's configuration leads to /usr,",
        ),
        (
            "[target.'cfg(unix)']\nrustflags = ['-Clink-arg=@/etc/passwd']\n".to_owned(),
            "takes arguments from a file",
        ),
        (
            "[build]\nrustflags = '-l z'\n".to_owned(),
            "names a library that is looked for",
        ),
        (
            format!("[target.{triple}.z]\nrustc-link-search = ['/usr']\n"),
            ".z` names libraries that nobody hashed",
        ),
        (
            "[env]\nCFLAGS = '-I/usr'\n".to_owned(),
            "`env.CFLAGS` of ",
        ),
    ] {
        tree.write(".cargo/config.toml", &config);
        let error = tree.try_probe(Profile::E2e).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.exit(), Exit::Source, "{config}");
        assert!(error.to_string().contains(told), "{config}: {error}");
    }
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

#[test]
fn a_linker_that_path_finds_elsewhere_is_another_recipe() {
    let tree = Tree::new();
    let folder = tempfile::tempdir().unwrap();
    let tools = Utf8Path::from_path(folder.path()).unwrap();
    write_cc(tools, "12.2");
    write_ld(tools, "2.40");
    for name in ["libc.a", "libm.a"] {
        fs::write(tools.join(name), "one").unwrap();
    }
    let triple = Platform::host().unwrap().rust_triple();
    let config = format!("[target.{triple}]\nlinker = 'own-linker'\n");
    tree.write(".cargo/config.toml", &config);
    write_script(&tools.join("own-linker"), "#!/bin/sh\n# 1\n");
    let before = fields(&tree, tools);
    let earlier = tools.join("earlier");
    fs::create_dir(&earlier).unwrap();
    let first = Utf8PathBuf::from(format!("{earlier}:{tools}"));
    // Neither the compiler nor its linker is another one by that, and no file changed.
    assert_eq!(fields(&tree, &first), before);
    write_script(&earlier.join("own-linker"), "#!/bin/sh\n# 2\n");
    let now = fields(&tree, &first);
    assert_ne!(now["given own-linker"], before["given own-linker"]);
    assert_eq!(now.len(), before.len());
}
