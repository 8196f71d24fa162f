//! Offline bundles: what is taken from them, what is refused, and that nothing counts but checksums
//! and image IDs. The engine is one that lists what it is told to; the archives are real.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use xtask::bundle::Bundle;
use xtask::digest::Digest;
use xtask::engine::Platform;
use xtask::exit::{Exit, Failure};
use xtask::image::{Contents, assemble};

use crate::image_assembly::{LOADED, executable};
use crate::source_tree::Tree;

const REFERENCE: &str = "docker.io/library/postgres:15-bookworm";
/// An image that nobody made.
const OTHER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A checkout, a bundle, and programs that say what they are told to.
struct Desk {
    tree: Tree,
    image_id: String,
}

impl Desk {
    /// With an image in a plain archive, and a podman that does not have it.
    fn new() -> Self {
        let tree = Tree::bare();
        let platform = Platform::host().unwrap();
        let machine = match platform.architecture.as_str() {
            "amd64" => 62,
            _ => 183,
        };
        let binary = executable(machine, 2, LOADED);
        let image = assemble(&Contents {
            reference: REFERENCE,
            binary_name: "/postgres",
            binary: &binary,
            platform: &platform,
            labels: BTreeMap::new(),
        })
        .unwrap();
        let mut archive = Vec::new();
        image.write_archive(&mut archive).unwrap();
        tree.write("bundle/bundle.toml", "");
        fs::write(tree.path("bundle/postgres.tar"), &archive).unwrap();
        let desk = Self {
            image_id: image.image_id.oci(),
            tree,
        };
        desk.describe(&desk.image_table("postgres.tar", &archive));
        for name in ["cc", "cargo", "mmdebstrap", "zstd"] {
            desk.program(name, &json!([{}]));
        }
        desk.podman(None, Some(&desk.image_id));
        desk
    }

    fn describe(&self, text: &str) {
        self.tree.write("bundle/bundle.toml", text);
    }

    fn image_table(&self, file: &str, archive: &[u8]) -> String {
        let (image_id, sha256) = (&self.image_id, Digest::of(archive));
        format!(
            "[image.postgres]\nfile = \"{file}\"\nreference = \"{REFERENCE}\"\n\
             image_id = \"{image_id}\"\nsha256 = \"{sha256}\"\n"
        )
    }

    fn program(&self, name: &str, answers: &Value) {
        let program = self.tree.path("programs").join(name);
        self.tree
            .write(&format!("programs/{name}.json"), &answers.to_string());
        if !program.exists() {
            symlink(env!("CARGO_BIN_EXE_fake-program"), &program).unwrap();
        }
    }

    /// Lists this under the reference; once the archive was loaded, that.
    fn podman(&self, before: Option<&str>, after: Option<&str>) {
        let listing = |id: Option<&str>| match id {
            Some(id) => json!([{"Id": id, "RepoTags": [REFERENCE], "Config": {}}]).to_string(),
            None => "[]".to_owned(),
        };
        // A probe of the engine loads an archive as well.
        let loaded = match self.tree.path("bundle/postgres.tar.zst").exists() {
            true => "load --quiet\n",
            false => "bundle/postgres.tar\n",
        };
        let asked = ["image", "inspect", REFERENCE];
        self.program(
            "podman",
            &json!([
                {"arguments": asked, "file": ["CALLS", loaded], "stdout": listing(after)},
                {"arguments": asked, "stdout": listing(before)},
                {"arguments": ["load"], "reads": true, "stdout": "Loaded image: localhost/x:1\n"},
                {"arguments": ["manifest", "inspect"], "stderr": "no network\n", "code": 125},
                {"arguments": ["--version"], "stdout": "podman version 4.3.1\n"},
                {},
            ]),
        );
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments)
            .current_dir(self.tree.root())
            .env("PATH", self.tree.path("programs"))
            .env("CALLS", self.tree.path("programs/podman.calls"))
            .env("CARGO", self.tree.path("programs/cargo"))
            .env("CARGO_TARGET_DIR", self.tree.path("target"))
            .env("XDG_CACHE_HOME", self.tree.path("cache"))
            .env("E2E_BUNDLE", self.tree.path("bundle"))
            .env_remove("CONTAINERS_CONF")
            .env_remove("E2E_CLUSTER")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn check(&self, arguments: &[&str], code: i32, words: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        check_output(&output, code, words)
    }

    fn setup(&self, code: i32, words: &[&str]) -> String {
        self.check(&["setup", "--yes"], code, words)
    }

    /// The calls of podman that begin so, but for those of its probe.
    fn calls(&self, beginning: &str) -> Vec<String> {
        let calls = fs::read_to_string(self.tree.path("programs/podman.calls"));
        let calls = calls.unwrap_or_default();
        let about = |call: &&str| {
            let ours = call.contains("bundle/") || call.contains(REFERENCE);
            call.starts_with(beginning) && (ours || *call == "load --quiet")
        };
        calls.lines().filter(about).map(str::to_owned).collect()
    }
}

#[track_caller]
fn check_output(output: &Output, code: i32, words: &[&str]) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
    text
}

#[test]
fn an_image_is_loaded_once() {
    let desk = Desk::new();
    desk.setup(
        0,
        &["loaded docker.io/library/postgres:15-bookworm from bundle/postgres.tar"],
    );
    let archive = desk.tree.path("bundle/postgres.tar");
    let load = format!("load --quiet --input {archive}");
    assert_eq!(desk.calls("load"), [load]);
    let left = desk.tree.path("cache/phase-zero/bundle-loading-postgres");
    assert!(!left.exists());

    // Its archive is not asked for any more.
    fs::remove_file(archive).unwrap();
    desk.setup(0, &["is there, in podman"]);
    assert_eq!(desk.calls("load").len(), 1);
}

#[test]
fn who_waits_for_a_load_finds_what_was_loaded() {
    let desk = Desk::new();
    // Another command is about to load it.
    let cache = desk.tree.path("cache/phase-zero");
    fs::create_dir_all(&cache).unwrap();
    let lock = File::create(cache.join("bundle-image-postgres.lock")).unwrap();
    lock.lock().unwrap();
    let mut child = desk.command(&["setup", "--yes"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits = |line: &String| line.contains("another command holds");
    assert!(lines.any(|line| waits(&line.unwrap())), "it did not wait");
    desk.podman(Some(&desk.image_id), None);
    drop(lock);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{rest:?}");
    assert!(desk.calls("load").is_empty(), "{rest:?}");
}

#[test]
fn what_would_be_taken_is_told_and_not_taken() {
    let desk = Desk::new();
    let would = "postgres:15-bookworm: would be loaded into podman from";
    desk.check(&["doctor"], 0, &[would]);
    desk.check(&["setup"], 3, &[would, "not everything was taken"]);
    assert!(desk.calls("load").is_empty());
}

#[test]
fn what_a_cluster_of_kind_would_be_made_with_is_told() {
    let desk = Desk::new();
    let doctor = ["doctor", "--cluster", "kind"];
    let without = ["missing  kind: makes", "nodes: not here", "it lacks kind"];
    desk.check(&doctor, 3, &without);
    desk.program("kind", &json!([{}]));
    let place = format!("ok  kind: {}", desk.tree.path("programs/kind"));
    desk.check(&doctor, 0, &[&place, "nodes: not here"]);
    // Who deploys to something else needs none.
    let told = desk.check(&["doctor", "--cluster", "local"], 0, &[]);
    assert!(!told.contains("kind: "), "{told}");
}

#[test]
fn a_file_that_is_not_the_promised_one_is_not_used() {
    let desk = Desk::new();
    let archive = desk.tree.path("bundle/postgres.tar");
    let mut bytes = fs::read(&archive).unwrap();
    let right = Digest::of(&bytes).to_string();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&archive, &bytes).unwrap();
    let wrong = Digest::of(&bytes).to_string();
    let words = ["postgres.tar has the checksum", &wrong, &right];
    desk.setup(3, &words);
    desk.check(&["doctor"], 3, &words);
    fs::remove_file(&archive).unwrap();
    let missing = ["postgres.tar is not there, and bundle.toml names it"];
    desk.setup(3, &missing);
    desk.check(&["doctor"], 3, &missing);
    assert!(desk.calls("load").is_empty());
}

#[test]
fn an_archive_with_another_image_is_refused() {
    let desk = Desk::new();
    desk.podman(None, Some(OTHER));
    let holds = format!("postgres.tar holds {OTHER} under {REFERENCE}");
    desk.setup(3, &[&holds, &desk.image_id]);
    // The name meant nothing before, and does not mean the wrong image now.
    assert_eq!(desk.calls("image rm "), [format!("image rm {REFERENCE}")]);

    let desk = Desk::new();
    desk.podman(None, None);
    let lists = format!(
        "podman lists no {REFERENCE} ({} is promised)",
        desk.image_id
    );
    desk.setup(3, &[&lists, "it says: Loaded image: localhost/x:1"]);
}

#[test]
fn a_name_that_is_another_image_stays_that() {
    let desk = Desk::new();
    desk.podman(Some(OTHER), Some(OTHER));
    let taken = format!("{REFERENCE} is {OTHER} in podman");
    desk.setup(3, &[&taken, &desk.image_id, "podman image rm"]);
    desk.check(&["doctor"], 3, &[&taken, &desk.image_id]);
    for changing in ["load", "tag", "image rm ", "rmi"] {
        assert!(desk.calls(changing).is_empty(), "{changing}");
    }
}

#[test]
fn what_zstd_packed_is_unpacked_into_the_engine() {
    let desk = Desk::new();
    fs::write(desk.tree.path("bundle/postgres.tar.zst"), "packed").unwrap();
    let table = desk.image_table("postgres.tar.zst", b"packed");
    desk.describe(&format!("{table}zstd_window_log = 30\n"));
    desk.podman(None, Some(&desk.image_id));
    desk.program("zstd", &json!([{"stdout": "unpacked"}]));
    desk.setup(0, &["loaded"]);
    let given = fs::read_to_string(desk.tree.path("programs/podman.stdin"));
    assert_eq!(given.unwrap(), "unpacked");
    let zstd = fs::read_to_string(desk.tree.path("programs/zstd.calls")).unwrap();
    assert!(
        zstd.contains("--decompress --stdout --quiet --long=30 -- /"),
        "{zstd}"
    );

    let desk = Desk::new();
    fs::write(desk.tree.path("bundle/postgres.tar.zst"), "packed").unwrap();
    desk.describe(&desk.image_table("postgres.tar.zst", b"packed"));
    let torn = json!([{"stdout": "half", "stderr": "zstd: premature end\n", "code": 1}]);
    desk.program("zstd", &torn);
    desk.setup(
        70,
        &["podman does not load", "postgres.tar.zst", "premature end"],
    );
    fs::remove_file(desk.tree.path("programs/zstd")).unwrap();
    desk.check(
        &["doctor"],
        0,
        &["missing  zstd: unpacks the images of the bundle"],
    );
}

#[test]
fn a_tool_is_executed_from_a_copy_that_was_checked() {
    let desk = Desk::new();
    let bytes = b"#!tool";
    let describe = |sha256: Digest| {
        desk.describe(&format!(
            "[tool.kind]\nfile = \"kind\"\nversion = \"1\"\nsha256 = \"{sha256}\"\n"
        ));
    };
    fs::write(desk.tree.path("bundle/kind"), bytes).unwrap();
    describe(Digest::of(b"another"));
    desk.setup(3, &["bundle/kind has the checksum"]);
    let copies = desk.tree.path("cache/phase-zero/bundle");
    let copy = |digest: Digest| copies.join(digest.to_string()).join("kind");
    assert!(!copy(Digest::of(b"another")).exists());

    describe(Digest::of(bytes));
    desk.setup(0, &["took tool kind 1 from bundle/kind"]);
    let copy = copy(Digest::of(bytes));
    let check_copy = || {
        assert_eq!(fs::read(&copy).unwrap(), bytes);
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o755);
    };
    check_copy();
    let again = desk.setup(0, &["tool kind 1: is there"]);
    assert!(!again.contains("took"), "{again}");
    // A copy that was damaged is no tool, whatever its length.
    fs::write(&copy, b"#!fool").unwrap();
    desk.setup(0, &["took tool kind 1"]);
    check_copy();
}

#[test]
fn an_image_of_the_manifests_comes_from_the_bundle_by_its_id() {
    let desk = Desk::new();
    desk.tree.edit(
        "services/store/Cargo.toml",
        "\n[package.metadata",
        "\n[features]\npostgres = []\n\n[package.metadata",
    );
    let pin = format!("[postgres]\nimage = \"{REFERENCE}\"\n");
    desk.tree.write("deploy/images.toml", &pin);
    desk.podman(Some(OTHER), Some(OTHER));
    let output = desk.command(&["test"]).output().unwrap();
    let told = format!("{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(
        told.contains(&format!("{REFERENCE} is {OTHER} in podman")),
        "{told}"
    );
    assert!(told.contains(&desk.image_id), "{told}");

    // Without a bundle a name is believed, and told when it means something else than before.
    let alone = |words: &[&str]| {
        let output = desk.command(&["test", "--bundle", ""]).output().unwrap();
        let code = output.status.code().unwrap();
        assert_ne!(code, 0);
        check_output(&output, code, words)
    };
    let first = alone(&[]);
    assert!(!first.contains("another image"), "{first}");
    desk.podman(Some(&desk.image_id), Some(&desk.image_id));
    let change = format!("than last time: {OTHER} -> {}", desk.image_id);
    alone(&["is another image in podman", &change]);
    let third = alone(&[]);
    assert!(!third.contains("another image"), "{third}");

    // Unless its ID is pinned.
    desk.tree.write(
        "deploy/images.toml",
        &format!("{pin}image-id = \"{OTHER}\"\n"),
    );
    let wants = format!("deploy/images.toml wants {OTHER} ([postgres] image-id)");
    alone(&[
        &format!("{REFERENCE} is {} in podman", desk.image_id),
        &wants,
    ]);
    desk.podman(None, None);
    let output = desk.command(&["test"]).output().unwrap();
    check_output(&output, 3, &["in the bundle", &wants]);
    assert!(desk.calls("load").is_empty());
}

/// What is wanted of a service, at the least.
pub(crate) fn manifest(name: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 8080, targetPort: http}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      securityContext: {{runAsNonRoot: true, runAsUser: 65532}}
      containers:
        - name: {name}
          image: {name}
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe:
            httpGet: {{path: /readyz, port: http}}
          resources: {{limits: {{cpu: "2", memory: 64Mi}}}}
"#
    )
}

#[test]
fn the_receipt_tells_what_was_taken() {
    let desk = Desk::new();
    let pin = format!("[postgres]\nimage = \"{REFERENCE}\"\n");
    desk.tree.write("deploy/images.toml", &pin);
    for name in ["store", "postgres"] {
        let path = format!("deploy/{name}.yaml");
        desk.tree.write(&path, &manifest(name));
    }
    // There is no compiler, which ends the run; the cluster was made beside.
    let told = desk.check(&["e2e", "store"], 3, &["loaded docker.io", "no rustc"]);
    let runs = desk.tree.path("target/e2e/runs");
    let run = runs.read_dir_utf8().unwrap().next().unwrap().unwrap();
    let receipt = fs::read_to_string(run.path().join("receipt.json")).expect(&told);
    let receipt: Value = serde_json::from_str(&receipt).unwrap();
    let archive = desk.tree.path("bundle/postgres.tar");
    let sha256 = Digest::of(&fs::read(&archive).unwrap());
    let expected = json!({
        "folder": desk.tree.path("bundle"),
        "tools": {},
        "images": {"postgres": {
            "name": "postgres",
            "reference": REFERENCE,
            "image_id": desk.image_id,
            "archive": archive,
            "sha256": sha256,
            "provided": "loaded",
        }},
    });
    assert_eq!(receipt["bundle"], expected);
}

/// The error of a bundle that says this.
fn refusal(desk: &Desk, text: &str) -> String {
    desk.describe(text);
    let error = Bundle::open(&desk.tree.path("bundle")).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.exit(), Exit::Host, "{error:#}");
    assert!(failure.hint_text().is_some(), "{error:#}");
    format!("{error:#}")
}

#[test]
fn a_description_is_read_by_a_closed_list() {
    let desk = Desk::new();
    let table = fs::read_to_string(desk.tree.path("bundle/bundle.toml")).unwrap();
    fs::write(desk.tree.path("outside.tar"), "").unwrap();
    symlink("../outside.tar", desk.tree.path("bundle/link.tar")).unwrap();
    let file = "\"postgres.tar\"";
    let reference = format!("\"{REFERENCE}\"");
    for (from, to, said) in [
        ("file =", "path =", "unknown field `path`"),
        (
            file,
            "\"../outside.tar\"",
            "[image.postgres] file: `../outside.tar` leaves the folder",
        ),
        (file, "\"/outside.tar\"", "`/outside.tar` leaves the folder"),
        (file, "\"\"", "`` leaves the folder"),
        (file, "\"link.tar\"", "`link.tar` leads out of the folder"),
        (file, "\"postgres.rar\"", "not an archive of a known kind"),
        (&reference, "\"postgres:15\"", "does not name registry"),
        (
            &reference,
            "\"docker.io/library/postgres\"",
            "does not name registry",
        ),
        (
            &reference,
            "\"docker.io/library/postgres:\"",
            "does not name registry",
        ),
        (&desk.image_id, "sha256:12", "image_id: `sha256:12` is not"),
        (&desk.image_id, &OTHER[7..], "image_id: `0000"),
        ("sha256 = \"", "sha256 = \"A", "sha256: `A"),
        (
            "[image.postgres]",
            "[image.\"a/b\"]",
            "name: `a/b` cannot be one",
        ),
        (
            "\nsha256",
            "\nzstd_window_log = 30\nsha256",
            "is not packed with zstd",
        ),
        (
            "\nsha256",
            "\nplatform = \"linux/vax\"\nsha256",
            "platform: `linux/vax` is not known",
        ),
    ] {
        assert_eq!(table.matches(from).count(), 1, "{from}");
        let error = refusal(&desk, &table.replace(from, to));
        assert!(error.contains("bundle.toml: "), "{error}");
        assert!(error.contains(said), "no `{said}` in: {error}");
    }
    let twice = format!("{table}{}", table.replace("[image.postgres]", "[image.a]"));
    let error = refusal(&desk, &twice);
    assert!(error.contains("[image.a] has `"), "{error}");
    desk.describe(&table);
    assert_eq!(
        Bundle::open(&desk.tree.path("bundle"))
            .unwrap()
            .reference("postgres"),
        Some(REFERENCE)
    );
}

#[test]
fn a_folder_that_is_no_bundle_is_named() {
    let desk = Desk::new();
    for (folder, said) in [
        ("nowhere", "nowhere: there is no such folder"),
        ("README.md", "README.md: is not a folder"),
        ("services", "services has no bundle.toml"),
    ] {
        desk.check(
            &["doctor", "--bundle", folder],
            2,
            &[said, "`--bundle DIR`"],
        );
    }
    desk.check(
        &["e2e", "store", "--bundle", "nowhere"],
        2,
        &["no such folder"],
    );
}
