//! Rules of this repository that no compiler checks. Each finding names file and line.

use std::fs;
use std::process::Command;

use camino::{Utf8Path, Utf8PathBuf};

/// A cold compile of the tool is what a newcomer waits for.
const PACKAGES_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> Utf8PathBuf {
    let manifest = Utf8Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap().to_owned()
}

/// Every file of the repository that people write, relative to the root.
fn files(extensions: &[&str]) -> Vec<Utf8PathBuf> {
    let root = root();
    let mut folders = vec![Utf8PathBuf::new()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in root.join(&folder).read_dir_utf8().unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let path = folder.join(name);
            let kind = entry.file_type().unwrap();
            let skipped = name == "target" || name == ".git" || path == "xtask/tests/it/tidy.rs";
            if skipped || root.join(&path).join("CACHEDIR.TAG").exists() {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|end| extensions.contains(&end))
            {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(files.len() > 5, "the tree was not found: {files:?}");
    files
}

/// Collects what breaks a rule, so that one run tells everything.
fn check(extensions: &[&str], rule: impl Fn(&Utf8Path, &str) -> Vec<(usize, String)>) {
    let mut broken = String::new();
    for path in files(extensions) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        for (line, message) in rule(&path, &text) {
            broken.push_str(&format!("\n{path}:{line}: {message}"));
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// Lines that hold `needle`, but in a comment.
fn lines_with(text: &str, needle: &str) -> Vec<(usize, String)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .filter(|(_, line)| line.contains(needle))
        .map(|(index, line)| (index + 1, line.trim().to_owned()))
        .collect()
}

#[test]
fn every_rust_file_opens_with_what_it_is_for() {
    check(&["rs"], |_, text| {
        if text.starts_with("//! ") {
            return Vec::new();
        }
        vec![(1, "the first line is not `//! ...`".to_owned())]
    });
}

#[test]
fn functions_are_short() {
    check(&["rs"], |_, text| long_functions(text));
}

/// rustfmt closes a function at the indentation of its `fn`.
fn long_functions(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        let before_fn = code.split("fn ").next().unwrap_or_default();
        let is_function = code.contains("fn ")
            && before_fn.split_whitespace().all(|word| {
                ["pub", "const", "async", "unsafe"].contains(&word) || word.starts_with("pub(")
            });
        if !is_function || code.ends_with(';') || code.ends_with('}') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indentation));
        let length = lines[index..].iter().position(|line| *line == close);
        if let Some(length) = length.filter(|length| length + 1 >= FUNCTION_LINES_MAX) {
            long.push((index + 1, format!("{} lines", length + 1)));
        }
    }
    long
}

#[test]
fn the_length_of_a_function_is_seen() {
    let body = "    let x = 1;\n".repeat(FUNCTION_LINES_MAX);
    let text = format!("//! x\npub fn long() {{\n{body}}}\n");
    assert_eq!(long_functions(&text).len(), 1);
    assert!(long_functions("fn short() {\n    1;\n}\n").is_empty());
}

#[test]
fn no_shell_is_started() {
    check(&["rs", "yaml", "yml"], |path, text| {
        // The children of these tests misbehave in ways that only a shell says in one line; and
        // what completes the command line of a shell is tried in one.
        if path.as_str().starts_with("xtask/tests/it/process_")
            || path == "xtask/tests/it/completions.rs"
        {
            return Vec::new();
        }
        [
            "new(\"sh\")",
            "new(\"bash\")",
            "\"sh -c",
            " sh -c",
            "\"sh\", \"-c\"",
        ]
        .iter()
        .flat_map(|shell| lines_with(text, shell))
        .collect()
    });
}

#[test]
fn one_module_starts_children() {
    check(&["rs"], |path, text| {
        // The services start none; the tests of the tool and of a deployment start theirs.
        if !path.starts_with("xtask/src") || path == "xtask/src/process.rs" {
            return Vec::new();
        }
        [
            "process::Command",
            "std::process::{",
            "Command::new(",
            "duct::cmd",
        ]
        .iter()
        .flat_map(|needle| lines_with(text, needle))
        .collect()
    });
}

#[test]
fn a_phase_alone_makes_its_values() {
    check(&["rs"], |path, text| {
        if path.parent() != Some("xtask/src/pipeline".into()) {
            return Vec::new();
        }
        let shared = lines_with(text, "pub(");
        let field = |line: &str| !line.contains(" fn ");
        shared.into_iter().filter(|(_, line)| field(line)).collect()
    });
}

/// Which lines of which files hold this, in the tool's own sources.
fn places(needle: &str) -> Vec<String> {
    let mut places = Vec::new();
    for path in files(&["rs"]) {
        if path.starts_with("xtask/src") {
            let text = fs::read_to_string(root().join(&path)).unwrap();
            let found = lines_with(&text, needle);
            places.extend(found.iter().map(|_| path.to_string()));
        }
    }
    places
}

#[test]
fn few_places_can_make_an_image_or_name_one() {
    let (build, debian) = (
        "xtask/src/pipeline/build.rs",
        "xtask/src/third_party/debian.rs",
    );
    // Their images carry a name of their own, and go at once.
    let bench = "xtask/src/cmd/bench/package.rs";
    let crash = "xtask/src/cmd/crash/others.rs";
    assert_eq!(places("Archive for "), [bench, crash, build, debian]);
    let probe = "xtask/src/engine/probe_image.rs";
    assert_eq!(
        places("image::assemble(&Contents"),
        [bench, crash, probe, build]
    );
    let tag = "xtask/src/pipeline/tag.rs";
    assert_eq!(places("ImageRef::new("), [tag]);
    // Names that images have in a registry, for looking at; they are no references of a run.
    assert_eq!(places("(ImageRef {"), [tag]);
    let prebuilt = "xtask/src/pipeline/build/prebuilt.rs";
    assert_eq!(places("Ok(Built {"), [prebuilt, build]);
    assert_eq!(places("Ok(Offer {"), [prebuilt]);
    // The one push of ours, to the name that the image has.
    let (push, registry) = ("xtask/src/pipeline/push.rs", "xtask/src/registry.rs");
    let plan = "xtask/src/cmd/e2e/plan.rs";
    assert_eq!(places(".pushing("), [plan, registry]);
    assert_eq!(
        places("pushing(image.archive(), &image.reference()"),
        [registry]
    );
    assert_eq!(places(".push_third_party("), [push]);
    assert_eq!(places("--dest-"), [registry]);
    let references = "xtask/src/manifest/references.rs";
    assert_eq!(places("= Seen {"), [references; 2]);
}

#[test]
fn no_test_is_switched_off() {
    check(&["rs"], |_, text| lines_with(text, "#[ignore"));
}

#[test]
fn nobody_sleeps_but_the_polls() {
    let polls = [
        "xtask/src/poll.rs",
        "test-e2e/src/poll.rs",
        // Waits for children.
        "xtask/src/process.rs",
        // Keeps a pace; waits for nothing.
        "test-e2e/src/crowd.rs",
    ];
    check(&["rs"], |path, text| {
        if polls.contains(&path.as_str()) {
            return Vec::new();
        }
        ["thread::sleep", "{sleep", " sleep}"]
            .iter()
            .flat_map(|needle| lines_with(text, needle))
            .collect()
    });
}

#[test]
fn no_path_of_one_machine() {
    check(&["rs", "toml", "yaml", "yml", "md"], |_, text| {
        ["/home/", "/Users/", "/root/", "/work/"]
            .iter()
            .flat_map(|prefix| lines_with(text, prefix))
            .collect()
    });
}

#[test]
fn nothing_trails() {
    check(&["rs", "toml", "yaml", "yml", "md"], |_, text| {
        let mut trailing: Vec<(usize, String)> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.ends_with([' ', '\t']))
            .map(|(index, _)| (index + 1, "trailing white space".to_owned()))
            .collect();
        if !text.ends_with('\n') || text.ends_with("\n\n") {
            trailing.push((text.lines().count(), "must end with one newline".to_owned()));
        }
        trailing
    });
}

#[test]
fn the_tool_stays_small() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "xtask", "--edges", "normal,build"])
        .args(["--prefix", "none", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let packages: std::collections::BTreeSet<&str> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    assert!(
        packages.len() <= PACKAGES_MAX,
        "xtask needs {} packages, at most {PACKAGES_MAX} are wanted",
        packages.len()
    );
}

#[test]
fn the_readme_lists_every_command() {
    use clap::CommandFactory as _;
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let command = xtask::cli::Cli::command();
    let missing: Vec<&str> = command
        .get_subcommands()
        .map(clap::Command::get_name)
        .filter(|name| !readme.contains(&format!("\n| `{name}")))
        .collect();
    assert!(missing.is_empty(), "README.md does not name: {missing:?}");
}

/// A library would be compiled anew with each digest, and one that is shared would tell another's.
#[test]
fn the_digest_is_compiled_into_programs_alone() {
    check(&["rs"], |path, text| {
        let found = lines_with(text, "E2E_SOURCE_DIGEST");
        let is_service = path.starts_with("services") && path.ends_with("src/main.rs");
        match (is_service, found.len()) {
            (true, 1) => Vec::new(),
            (true, times) => vec![(1, format!("names E2E_SOURCE_DIGEST {times} times"))],
            (false, _) if path.starts_with("xtask") => Vec::new(),
            (false, _) => found,
        }
    });
}

#[test]
fn the_profiles_are_as_they_were_measured() {
    let text = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = text.parse().unwrap();
    let profile = |name: &str| manifest["profile"][name].clone();
    let lean = toml::toml! {
        inherits = "dev"
        debug = 0
        strip = "symbols"
        incremental = false
    };
    assert_eq!(profile("e2e"), lean.into());
    for package in ["hashing", "sha2", "digest", "block-buffer", "cpufeatures"] {
        let level = profile("dev")["package"][package]["opt-level"].clone();
        assert_eq!(level.as_integer(), Some(3), "{package}");
    }
    let checks = &profile("dev")["package"]["sha2"]["debug-assertions"];
    assert_eq!(checks.as_bool(), Some(false));
}

/// Names of tests in a page are written `module::test`: of the tool from outside, or of a file.
fn test_named(name: &str) -> bool {
    let Some((module, test)) = name.rsplit_once("::") else {
        return false;
    };
    let file = module.replace("::", "/");
    let places = [
        format!("xtask/tests/it/{file}.rs"),
        format!("xtask/src/{file}.rs"),
        format!("xtask/{}.rs", file.replacen("hashing/", "hashing/src/", 1)),
    ];
    let texts = places
        .iter()
        .filter_map(|path| fs::read_to_string(root().join(path)).ok());
    let mut lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.any(|line| line.trim_start().starts_with(&format!("fn {test}(")))
}

#[test]
fn every_rule_of_freshness_names_its_tests() {
    let page = fs::read_to_string(root().join("docs/freshness.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<&str> = rows.filter(|line| !line.starts_with("| Rule ")).collect();
    assert!(rows.len() > 40, "{} rules", rows.len());
    let mut broken = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let named = cells[2].split('`').skip(1).step_by(2);
        let named: Vec<&str> = named.collect();
        if named.is_empty() {
            broken.push(format!("no test: {row}"));
        }
        let missing = named.into_iter().filter(|name| !test_named(name));
        broken.extend(missing.map(|name| format!("no test `{name}`: {row}")));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_test_that_is_named_and_not_there_is_seen() {
    assert!(test_named(
        "tidy::a_test_that_is_named_and_not_there_is_seen"
    ));
    assert!(test_named("hashing::file::each_kind_is_told"));
    assert!(test_named(
        "source::digests::no_two_inputs_are_encoded_alike"
    ));
    assert!(!test_named("tidy::a_test_that_is_named"));
    assert!(!test_named("nowhere::functions_are_short"));
}
