//! Two jobs: one builds and leaves images in a folder or a registry, the other takes them, and takes
//! nothing that is not what its own checkout comes to. The registry is a real one, of this test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::Utf8PathBuf;
use serde_json::{Value, json};
use xtask::digest::Digest;
use xtask::engine::Platform;
use xtask::exit::{Exit, Failure};
use xtask::host;
use xtask::image::{Contents, ReadArchive, assemble};
use xtask::pipeline::Images;
use xtask::pipeline::build::prebuilt::{OtherRecipe, Prebuilt};
use xtask::pipeline::build::recipe::Profile;
use xtask::pipeline::build::{Built, Options, Origin, build_images};
use xtask::pipeline::tag::{Inputs, Repository, tag};
use xtask::poll::{self, Look};
use xtask::process::{self, Captured, Invocation};

use crate::build_phase::{image, tree, workspace};
use crate::source_tree::Tree;

/// For a build of two small packages, or a few files over the loopback.
const AMPLE: Duration = Duration::from_secs(180);
const STORE: &str = "services/store/src/main.rs";

/// The job that builds, with this on its command line.
fn job_one(tree: &Tree, arguments: &[&str]) -> Captured {
    let invocation = Invocation::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["build", "gate"])
        .args(arguments.iter().copied())
        .env("CARGO_TARGET_DIR", tree.path("target").as_str())
        .current_dir(tree.root());
    process::output(&invocation, AMPLE).unwrap()
}

#[track_caller]
fn build(tree: &Tree, arguments: &[&str]) -> Vec<String> {
    let told = job_one(tree, arguments);
    assert_eq!(told.code, 0, "{}", told.stderr);
    told.stdout.lines().map(str::to_owned).collect()
}

/// The job that takes, up to the images that are loaded.
fn job_two(tree: &Tree, place: &str, other_recipe: OtherRecipe) -> anyhow::Result<Images<Built>> {
    let workspace = workspace(tree);
    let prebuilt = Prebuilt::named(place, other_recipe)?;
    let repository = prebuilt.repository().cloned();
    let tagged = tag(&Inputs {
        workspace: &workspace,
        target: workspace.target("gate")?,
        repository: repository.unwrap_or_else(Repository::localhost),
        platform: Platform::host()?,
        profile: Profile::E2e,
        prebuilt: Some(&prebuilt),
        keep_in: Some(&workspace.state),
    })?;
    let log = tree.path("log-of-job-two");
    let options = Options {
        no_cache: false,
        archives: &tree.path("archives-of-job-two"),
        log: &log,
    };
    let images = build_images(&workspace, tagged, &options)?;
    assert!(!log.exists(), "something was compiled");
    Ok(images)
}

#[track_caller]
fn check_taken(tree: &Tree, place: &str) -> Images<Built> {
    let images = job_two(tree, place, OtherRecipe::Refuse).unwrap();
    for (_, image) in images.iter() {
        assert_eq!(image.origin(), Origin::Fetched);
        assert!(image.fetched().unwrap().differences().is_empty());
    }
    images
}

#[track_caller]
fn check_refused(tree: &Tree, place: &str, words: &[&str]) {
    let error = job_two(tree, place, OtherRecipe::Refuse).unwrap_err();
    assert_eq!(
        Failure::find(&error).map(Failure::exit),
        Some(Exit::Build),
        "{error:#}"
    );
    let hint = Failure::find(&error).and_then(Failure::hint_text);
    let text = format!("{error:#}\n{}", hint.unwrap_or("no hint"));
    assert!(hint.is_some(), "{text}");
    for part in words {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(
        !tree.path("log-of-job-two").exists(),
        "it was built instead"
    );
}

/// The digest of the sources of `store` as they stand.
fn source(tree: &Tree) -> String {
    let tagged = crate::build_phase::freeze(&workspace(tree), "gate");
    let found = tagged.iter().find(|(name, _)| name.as_str() == "store");
    found.unwrap().1.source().to_string()
}

/// The archive of `store` in a folder, with what its labels say, and its list.
struct Folder {
    path: Utf8PathBuf,
    list: Value,
}

impl Folder {
    fn read(path: Utf8PathBuf) -> Self {
        let text = fs::read(path.join("images.json")).unwrap();
        Self {
            list: serde_json::from_slice(&text).unwrap(),
            path,
        }
    }

    fn entry(&mut self) -> &mut Value {
        let entries = self.list.as_array_mut().unwrap().iter_mut();
        entries
            .filter(|entry| entry["package"] == "store")
            .last()
            .unwrap()
    }

    fn archive(&mut self) -> Utf8PathBuf {
        let name = self.entry()["archive"].as_str().unwrap().to_owned();
        self.path.join(name)
    }

    fn write(&self) {
        let text = serde_json::to_vec(&self.list).unwrap();
        fs::write(self.path.join("images.json"), text).unwrap();
    }

    /// Puts these bytes in the place of the archive; the list knows of it.
    fn replace(&mut self, bytes: &[u8]) {
        fs::write(self.archive(), bytes).unwrap();
        self.entry()["archive_sha256"] = json!(Digest::of(bytes));
        self.write();
    }

    /// The same binary under another name, or with other labels, and a list that agrees.
    fn forge(&mut self, change: impl FnOnce(&mut String, &mut BTreeMap<String, String>)) {
        let bytes = fs::read(self.archive()).unwrap();
        let archive = ReadArchive::new(bytes).unwrap();
        let (observed, names) = archive.observe().unwrap();
        let mut name = names.first().unwrap().clone();
        let labels = [
            "package",
            "target",
            "source-digest",
            "recipe-digest",
            "recipe",
        ];
        let mut labels: BTreeMap<String, String> = labels
            .iter()
            .map(|label| format!("phase-zero.{label}"))
            .map(|label| (label.clone(), observed.label(&label).unwrap().to_owned()))
            .collect();
        let layer = archive.blob(observed.layer_digest()).unwrap();
        let read_as = name.clone();
        let (_, binary) = observed.with_layer(&read_as, layer).unwrap();
        change(&mut name, &mut labels);
        let forged = assemble(&Contents {
            reference: &name,
            binary_name: "/store",
            binary,
            platform: observed.platform(),
            labels: labels.clone(),
        })
        .unwrap();
        let mut bytes = Vec::new();
        forged.write_archive(&mut bytes).unwrap();
        let entry = self.entry();
        entry["reference"] = json!(name);
        entry["source_digest"] = json!(labels["phase-zero.source-digest"]);
        entry["recipe_digest"] = json!(labels["phase-zero.recipe-digest"]);
        entry["image_id"] = json!(forged.image_id.oci());
        entry["manifest_digest"] = json!(forged.manifest_digest.oci());
        self.replace(&bytes);
    }
}

/// What `build --output` left, anew each time.
fn folder(tree: &Tree) -> (Folder, String) {
    let path = tree.path("handed-on");
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    build(tree, &["--output", path.as_str()]);
    (Folder::read(path.clone()), path.into_string())
}

#[test]
fn what_a_folder_holds_is_taken_if_it_is_of_these_sources() {
    let tree = tree();
    let (mut given, place) = folder(&tree);
    let images = check_taken(&tree, &place);
    for entry in given.list.as_array().unwrap() {
        let image = image(&images, entry["package"].as_str().unwrap());
        for (field, is) in [
            ("reference", image.reference().to_string()),
            ("source_digest", image.source().to_string()),
            ("recipe_digest", image.recipe().to_string()),
            ("binary_digest", image.binary().to_string()),
            ("image_id", image.image_id().oci()),
            ("manifest_digest", image.manifest().oci()),
        ] {
            assert_eq!(entry[field], is, "{field}");
        }
        // What is loaded is the very archive that was built.
        let built = fs::read(given.path.join(entry["archive"].as_str().unwrap())).unwrap();
        assert_eq!(fs::read(image.archive()).unwrap(), built);
    }

    let was = source(&tree);
    tree.edit(STORE, "main=1", "main=2");
    let is = source(&tree);
    let here_and_there = [
        "store was built from other sources",
        &format!("here:  {is}"),
        &format!("there: {was}"),
    ];
    check_refused(&tree, &place, &here_and_there);
    tree.edit(STORE, "main=2", "main=1");
    check_taken(&tree, &place);

    // Under the name of other sources it is still what it is.
    given.forge(|_, labels| {
        labels.insert("phase-zero.source-digest".to_owned(), is.clone());
    });
    check_refused(&tree, &place, &["other sources", &is, &was]);
}

/// Words of an error, and what leads to it.
type Change<'a> = (&'a [&'a str], &'a dyn Fn(&mut Folder));

/// Each of these, done to a folder that is whole, is refused with these words.
#[track_caller]
fn check_changes(tree: &Tree, changes: &[Change<'_>]) {
    for (words, change) in changes {
        let (mut given, place) = folder(tree);
        change(&mut given);
        check_refused(tree, &place, words);
    }
    let (_, place) = folder(tree);
    check_taken(tree, &place);
}

#[test]
fn a_folder_is_believed_in_nothing_that_its_archives_do_not_say() {
    let tree = tree();
    check_changes(
        &tree,
        &[
            (&["images.json cannot be read"], &|folder| {
                fs::remove_file(folder.path.join("images.json")).unwrap();
            }),
            (&["images.json is not what"], &|folder| {
                folder.entry()["image_id"] = json!(7);
                folder.write();
            }),
            (&["0 images of store for gate, not one"], &|folder| {
                folder.entry()["target"] = json!("store");
                folder.write();
            }),
            (&["2 images of store for gate, not one"], &|folder| {
                let twice = folder.entry().clone();
                folder.list.as_array_mut().unwrap().push(twice);
                folder.write();
            }),
            (&["is no archive beside it"], &|folder| {
                folder.entry()["archive"] = json!("../store.oci.tar");
                folder.write();
            }),
            (&["cannot read", ".oci.tar"], &|folder| {
                fs::remove_file(folder.archive()).unwrap();
            }),
            (&["is not the file that was written"], &|folder| {
                let good = fs::read(folder.archive()).unwrap();
                fs::write(folder.archive(), &good[1..]).unwrap();
            }),
            (&["is no archive of one image"], &|folder| {
                let good = fs::read(folder.archive()).unwrap();
                folder.replace(&good[..good.len() / 2]);
            }),
        ],
    );
    for field in [
        "reference",
        "source_digest",
        "recipe_digest",
        "image_id",
        "manifest_digest",
        "platform",
    ] {
        let words = format!("disagree about {field}");
        let change = |folder: &mut Folder| {
            folder.entry()[field] = match field {
                "source_digest" | "recipe_digest" => json!("0".repeat(64)),
                _ => json!("another"),
            };
            folder.write();
        };
        check_changes(&tree, &[(&[&words], &change)]);
    }
}

#[test]
fn name_and_labels_of_an_image_must_agree() {
    let tree = tree();
    let label = |label: &'static str, value: &'static str| {
        move |folder: &mut Folder| {
            folder.forge(|_, labels| {
                labels.insert(format!("phase-zero.{label}"), value.to_owned());
            });
        }
    };
    let other = "another name than its labels make";
    check_changes(
        &tree,
        &[
            (&[other, "store:gate-0000"], &|folder| {
                folder.forge(|name, _| *name = format!("localhost/store:gate-{}", "0".repeat(16)));
            }),
            (&[other, "registry.example.org"], &|folder| {
                folder.forge(|name, _| *name = name.replace("localhost", "registry.example.org"));
            }),
            (
                &["is labelled package gate, not store"],
                &label("package", "gate"),
            ),
            (
                &["disagree about target", "pipeline"],
                &label("target", "pipeline"),
            ),
            (&["its recipe has the digest"], &label("recipe", "{}")),
            (
                &["phase-zero.recipe cannot be read"],
                &label("recipe", "none"),
            ),
        ],
    );
}

#[test]
fn another_recipe_is_told_or_accepted() {
    let tree = tree();
    let path = tree.path("handed-on");
    let arguments = ["--output", path.as_str(), "--profile", "release"];
    build(&tree, &arguments);
    check_other_recipe(&tree, path.as_str());
}

#[track_caller]
fn check_other_recipe(tree: &Tree, place: &str) {
    let here = crate::build_phase::freeze(&workspace(tree), "gate");
    let here = here.frozen().recipe().digest();
    let difference = "profile: e2e here, release there";
    let words = ["was built by another recipe", &here.to_string(), difference];
    check_refused(tree, place, &words);
    let images = job_two(tree, place, OtherRecipe::Accept).unwrap();
    for (_, image) in images.iter() {
        assert_ne!(image.recipe(), here);
        assert_eq!(image.fetched().unwrap().differences(), [difference]);
    }
}

/// A registry of one test.
struct Registry {
    child: Child,
    host: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    /// Open to all; nothing where it is not installed.
    fn start() -> Option<Self> {
        Self::start_for(None)
    }

    /// On a port that the kernel chose, for all or for whom this file of users names.
    fn start_for(users: Option<&str>) -> Option<Self> {
        let programs = ["docker-registry", "skopeo"].map(host::program);
        let [Some(program), Some(_)] = programs else {
            eprintln!("skipped: docker-registry and skopeo are not both installed");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let (config, log) = (folder.path().join("config.yml"), folder.path().join("log"));
        let mut text = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": folder.path().join("data")}},
            "http": {"addr": "127.0.0.1:0"},
        });
        if let Some(users) = users {
            let path = folder.path().join("users");
            fs::write(&path, users).unwrap();
            text["auth"] = json!({"htpasswd": {"realm": "test", "path": path}});
        }
        fs::write(&config, text.to_string()).unwrap();
        let output = File::create(&log).unwrap();
        let child = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        let mut registry = Self {
            child,
            host: String::new(),
            _folder: folder,
        };
        let tick = Duration::from_millis(20);
        let port = poll::until("registry", AMPLE, tick, || {
            let text = fs::read_to_string(&log)?;
            let told = text.split("listening on 127.0.0.1:").nth(1);
            let digits = told.and_then(|rest| rest.split(|one: char| !one.is_ascii_digit()).next());
            Ok(match digits {
                Some(port) => Look::Found(port.to_owned()),
                None => Look::NotYet(text),
            })
        });
        registry.host = format!("127.0.0.1:{}", port.unwrap());
        Some(registry)
    }

    fn place(&self, path: &str) -> String {
        format!("{}/{path}", self.host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody at work with skopeo by hand.
#[track_caller]
fn copy_by_hand(from: &str, to: &str) {
    let invocation = Invocation::new("skopeo")
        .args(["copy", "--preserve-digests", "--quiet"])
        .args([
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            from,
            to,
        ]);
    let told = process::output(&invocation, AMPLE).unwrap();
    assert_eq!(told.code, 0, "{}", told.stderr);
}

#[test]
fn what_a_registry_has_is_taken_if_it_is_of_these_sources() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (tree, place) = (tree(), registry.place("team/images"));
    check_refused(&tree, &place, &["has no image of", "for gate", "--push"]);

    let lines = build(&tree, &["--registry", &place, "--push"]);
    let images = check_taken(&tree, &place);
    let told = images.iter().map(|(_, image)| {
        let (reference, manifest) = (image.reference(), image.manifest().oci());
        format!("{reference}@{manifest}")
    });
    assert_eq!(lines, told.collect::<Vec<_>>());
    assert!(
        lines[1].starts_with(&format!("{place}/store:gate-")),
        "{lines:?}"
    );
    let again = job_one(&tree, &["--registry", &place, "--push"]);
    assert!(again.stderr.contains("2 images to"), "{}", again.stderr);
    assert!(again.stderr.contains("2 there already"), "{}", again.stderr);

    // What was fetched is kept by its digest, and looked at again.
    let store = image(&images, "store");
    let kept = tree.path("target/e2e/prebuilt");
    let kept = kept.join(format!("{}.oci.tar", store.manifest()));
    let whole = fs::read(&kept).unwrap();
    fs::write(&kept, &whole[..whole.len() / 3]).unwrap();
    let once_more = check_taken(&tree, &place);
    assert_eq!(image(&once_more, "store").image_id(), store.image_id());
    assert_eq!(fs::read(&kept).unwrap().len(), whole.len());

    let was = source(&tree);
    tree.edit(STORE, "main=1", "main=2");
    let is = source(&tree);
    let here = format!("here:  {is}");
    check_refused(&tree, &place, &["other sources", &here, &was]);
}

#[test]
fn a_name_in_a_registry_proves_nothing() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (tree, place) = (tree(), registry.place("team/images"));
    build(&tree, &["--registry", &place, "--push"]);
    let images = check_taken(&tree, &place);
    let old = image(&images, "store").reference().to_string();
    let was = source(&tree);

    // The name of the edited sources, given to the old image by hand.
    tree.edit(STORE, "main=1", "main=2");
    let is = source(&tree);
    let new = crate::build_phase::freeze(&workspace(&tree), "gate");
    let new = new.iter().find(|(name, _)| name.as_str() == "store");
    let new = format!("{place}/store:{}", new.unwrap().1.reference().tag());
    copy_by_hand(&format!("docker://{old}"), &format!("docker://{new}"));
    check_refused(&tree, &place, &["other sources", &was, &is]);
    let pushed = job_one(&tree, &["--registry", &place, "--push"]);
    assert_eq!(pushed.code, 5, "{}", pushed.stderr);
    let words = format!("another image under the name {new}");
    assert!(pushed.stderr.contains(&words), "{}", pushed.stderr);
    tree.edit(STORE, "main=2", "main=1");

    // The right name, and a label that is wrong.
    let path = tree.path("handed-on");
    build(&tree, &["--registry", &place, "--output", path.as_str()]);
    let mut given = Folder::read(path);
    given.forge(|_, labels| {
        labels.insert("phase-zero.target".to_owned(), "pipeline".to_owned());
    });
    let archive = given.archive();
    let name = archive.file_name().unwrap();
    let plain = tree.path("forged.oci.tar");
    fs::copy(&archive, &plain).unwrap();
    assert!(!name.contains(':'), "{name}");
    copy_by_hand(&format!("oci-archive:{plain}"), &format!("docker://{old}"));
    check_refused(&tree, &place, &["is labelled target pipeline, not gate"]);
}

#[test]
fn another_recipe_is_found_in_a_registry() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (tree, place) = (tree(), registry.place("team/images"));
    // What is there of other sources is in nobody's way.
    tree.edit(STORE, "main=1", "main=3");
    let release = ["--registry", &place, "--push", "--profile", "release"];
    build(&tree, &release);
    tree.edit(STORE, "main=3", "main=1");
    build(&tree, &release);
    check_other_recipe(&tree, &place);
}

#[test]
fn credentials_come_from_the_files_of_skopeo() {
    // bcrypt of `open sesame`.
    let users = "somebody:$2b$04$dwut8xoyBOJiqdB3WBFkUu0TeuzroVXPokcXy7Uoz6JE4JRHvi9PW\n";
    let Some(registry) = Registry::start_for(Some(users)) else {
        return;
    };
    let (tree, place) = (tree(), registry.place("team/images"));
    let file = tree.path("auth.json");
    let push = |credentials: &Value| {
        fs::write(&file, credentials.to_string()).unwrap();
        let invocation = Invocation::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["build", "gate", "--registry", &place, "--push"])
            .env("CARGO_TARGET_DIR", tree.path("target").as_str())
            .env("REGISTRY_AUTH_FILE", file.as_str())
            .current_dir(tree.root());
        process::output(&invocation, AMPLE).unwrap()
    };
    let refused = push(&json!({"auths": {}}));
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    let host = &registry.host;
    let hint = format!("hint: `skopeo login {host}` writes the file");
    assert!(refused.stderr.contains(&hint), "{}", refused.stderr);

    // base64 of `somebody:open sesame`.
    let known = json!({"auth": "c29tZWJvZHk6b3BlbiBzZXNhbWU="});
    let pushed = push(&json!({"auths": {host: known}}));
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let told = format!("{}{}", pushed.stdout, pushed.stderr);
    assert!(told.contains(&format!("{place}/store:gate-")), "{told}");
    assert!(
        !told.contains("sesame") && !told.contains("c29tZWJ"),
        "{told}"
    );
}
