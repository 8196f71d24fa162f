//! What a run says of itself in `run.json`: containers, ports inside them, where tokens and
//! passwords lie. Written by the tool after deploying; only read here.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::child::output_heard;
use crate::cluster::Cluster;
use crate::compiled::{self, Compiled};
use crate::kubernetes::{Access, Namespace};

/// Names the run that the tool has just proved, for the tests that it starts.
const PROVED: &str = "E2E_PROVED";

/// How long the tool may take to tell the tags: it may have to be compiled first.
const TAG_WITHIN: Duration = Duration::from_secs(900);

/// `run.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    /// Names the run.
    pub id: String,
    /// What is tested, `gateway`.
    pub target: String,
    /// Whether the deployment stays when its tests have ended.
    pub kept: bool,
    /// Where the journals are written.
    pub run_directory: PathBuf,
    /// The cargo profile of the services.
    #[serde(default = "usual_profile")]
    pub profile: String,
    /// Of what services and third parties declared of each other.
    #[serde(default)]
    pub declared_digest: String,
    /// The manifests that were deployed, relative to the workspace root, with the SHA-256 of their
    /// bytes, in hex.
    #[serde(default)]
    pub manifests: BTreeMap<String, String>,
    /// How containers are reached.
    pub engine: EngineCommand,
    /// How Kubernetes is, where the run is deployed there.
    #[serde(default)]
    pub kubernetes: Option<Access>,
    /// By name, third-party ones among them.
    pub services: BTreeMap<String, Service>,
    /// Files named `<subject>@<service>`.
    pub tokens_directory: PathBuf,
    /// Files named for what they open, `datastorage-owner`.
    pub passwords_directory: PathBuf,
}

/// The container engine's program and the environment that it wants.
#[derive(Clone, Debug, Deserialize)]
pub struct EngineCommand {
    /// `podman`, `docker`.
    pub program: PathBuf,
    /// On top of the test's own environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// One deployed service.
#[derive(Clone, Debug, Deserialize)]
pub struct Service {
    /// One for each replica; on Kubernetes the Deployment.
    pub containers: Vec<String>,
    /// On Kubernetes: where they are, if not in the namespace of the run.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Names and numbers inside the container.
    pub ports: BTreeMap<String, u16>,
    /// The same names and the numbers on the node, on Kubernetes.
    #[serde(default)]
    pub node_ports: BTreeMap<String, u16>,
    /// What `/version` must answer; absent for third-party images.
    pub source_digest: Option<String>,
    /// The image reference, made from sources and recipe; absent for third-party images.
    #[serde(default)]
    pub reference: Option<String>,
    /// The image that its containers run, as `sha256:...`.
    #[serde(default)]
    pub image_id: String,
    /// In the registry that the image is pulled from, as `sha256:...`: a node may tell this in place of
    /// the other.
    #[serde(default)]
    pub manifest_digest: Option<String>,
    /// Directories that hold the files of each ConfigMap; none on Kubernetes.
    #[serde(default)]
    pub config_maps: BTreeMap<String, PathBuf>,
}

impl Service {
    /// Whether a container that runs this image, `sha256:...`, runs what was proved.
    fn is_run_as(&self, told: &str) -> bool {
        told == self.image_id || self.manifest_digest.as_deref() == Some(told)
    }
}

impl Run {
    /// The run named by `E2E_RUN`, else the newest kept one of `target` in this checkout.
    ///
    /// # Errors
    /// When there is none, or it cannot be read, or it is another target's; where it is not the tool
    /// that has just proved it, when the working tree's sources are no longer those that it runs, or
    /// this program is not compiled from them.
    pub fn find(target: &str, files: &[Compiled]) -> Result<Self, String> {
        let run = match env::var_os("E2E_RUN") {
            Some(path) => Self::read(Path::new(&path))?,
            None => newest_kept(&run_folders(), target)?,
        };
        if run.target != target {
            let Self {
                id, target: other, ..
            } = run;
            return Err(format!("run {id} is one of {other}, not of {target}"));
        }
        // The tool has just proved it, and this program; by hand, both may have grown old.
        let is_proved = env::var(PROVED).is_ok_and(|id| id == run.id);
        if !is_proved {
            compiled::check(files)?;
            run.check_present(&present_images(target, &run.profile)?)?;
            run.check_manifests(&workspace_root())?;
            run.check_containers()?;
        }
        Ok(run)
    }

    fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A kept run answers for what it was built from, and for nothing else: sources, and recipe.
    fn check_present(&self, present: &BTreeMap<String, Present>) -> Result<(), String> {
        for (name, service) in &self.services {
            let Some(is) = present.get(name) else {
                continue;
            };
            if let Some(runs) = service
                .source_digest
                .as_ref()
                .filter(|runs| **runs != is.source_digest)
            {
                let what = format!(
                    "its source digest is {}, what runs was built from {runs}",
                    is.source_digest
                );
                return Err(self.refusal(&format!("{name} was edited"), &what));
            }
            if let Some(runs) = service
                .reference
                .as_ref()
                .filter(|runs| name_and_tag(runs) != name_and_tag(&is.reference))
            {
                let what = format!(
                    "the sources are the same and give {}, what runs is {runs}",
                    is.reference
                );
                return Err(self.refusal(&format!("{name} would be built in another way"), &what));
            }
            if self.declared_digest != is.declared_digest {
                let what = format!(
                    "its digest is {}, what runs was deployed from {}",
                    is.declared_digest, self.declared_digest
                );
                let changed =
                    "what services declare of each other, or deploy/images.toml, was edited";
                return Err(self.refusal(changed, &what));
            }
        }
        Ok(())
    }

    /// And for the very images that were proved. Asked once in a process, with one question.
    fn check_containers(&self) -> Result<(), String> {
        static ASKED: OnceLock<Result<(), String>> = OnceLock::new();
        ASKED.get_or_init(|| self.ask_containers()).clone()
    }

    fn ask_containers(&self) -> Result<(), String> {
        let services = self.services.iter();
        let deployed: Vec<(&str, &str, &Service)> = services
            .flat_map(|(name, service)| {
                let containers = service.containers.iter();
                containers.map(move |container| (name.as_str(), container.as_str(), service))
            })
            .collect();
        let containers: Vec<&str> = deployed
            .iter()
            .map(|(_, container, _)| *container)
            .collect();
        let run = self.cluster().image_ids(&containers)?;
        for ((name, container, proved), runs) in deployed.into_iter().zip(run) {
            if !proved.is_run_as(&runs) {
                let proved = proved.manifest_digest.as_ref().unwrap_or(&proved.image_id);
                let what = format!("{container} runs {runs}, and {proved} was proved");
                return Err(self.refusal(&format!("{name} was replaced"), &what));
            }
        }
        Ok(())
    }

    /// And for the manifests that were deployed.
    fn check_manifests(&self, root: &Path) -> Result<(), String> {
        for (path, deployed) in &self.manifests {
            let is = match fs::read(root.join(path)) {
                Ok(bytes) => hex(&Sha256::digest(bytes)),
                Err(error) => error.to_string(),
            };
            if is != *deployed {
                let what = format!("its digest is {is}, what runs was deployed from {deployed}");
                return Err(self.refusal(&format!("{path} was edited"), &what));
            }
        }
        Ok(())
    }

    fn refusal(&self, changed: &str, what: &str) -> String {
        let Self { id, target, .. } = self;
        format!(
            "{changed} since run {id} was deployed: {what}. \
             `cargo xtask e2e {target} --keep always` deploys what is there now"
        )
    }

    /// Where it is deployed.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        match &self.kubernetes {
            None => Cluster::Local(self.engine.clone()),
            Some(access) => {
                let namespace = Namespace::new(access, &self.engine, &self.run_directory);
                let services = self.services.values();
                let elsewhere = services.filter_map(|service| {
                    let namespace = service.namespace.clone()?;
                    let containers = service.containers.iter();
                    Some(containers.map(move |container| (container.clone(), namespace.clone())))
                });
                Cluster::Kubernetes(namespace.with_elsewhere(elsewhere.flatten()))
            }
        }
    }

    /// One of the deployed services.
    ///
    /// # Panics
    /// When the run has no such service.
    #[must_use]
    #[track_caller]
    pub fn service(&self, name: &str) -> &Service {
        let known = || self.services.keys().cloned().collect::<Vec<_>>().join(", ");
        match self.services.get(name) {
            Some(service) => service,
            None => panic!("run {} has no {name}; it has {}", self.id, known()),
        }
    }

    /// The token of `subject` at `service`.
    ///
    /// # Panics
    /// When none was made.
    #[must_use]
    #[track_caller]
    pub fn token(&self, subject: &str, service: &str) -> String {
        let path = self.tokens_directory.join(format!("{subject}@{service}"));
        assert!(
            path.exists(),
            "{subject} has no token for {service}: its role there belongs into \
             [package.metadata.e2e.subjects.{subject}], for a person in test-e2e/Cargo.toml, for \
             a service in its own: {service} = \"read\""
        );
        secret(&path)
    }

    /// A password by the name of what it opens.
    ///
    /// # Panics
    /// When none was made.
    #[must_use]
    #[track_caller]
    pub fn password(&self, name: &str) -> String {
        secret(&self.passwords_directory.join(name))
    }
}

#[track_caller]
fn secret(path: &Path) -> String {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().to_owned(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// `e2e/runs` in the build folder that is set, if one is; else in `target` of this checkout and of
/// every folder above, nearest first. Where the tool looks is where it writes.
fn run_folders() -> Vec<PathBuf> {
    if let Some(set) = env::var_os("CARGO_TARGET_DIR").filter(|set| !set.is_empty()) {
        // A relative one is meant from where cargo was called, which is seldom this package.
        let set = PathBuf::from(set);
        return [workspace_root().join(&set), set]
            .into_iter()
            .map(|folder| folder.join("e2e/runs"))
            .filter(|folder| folder.is_dir())
            .collect();
    }
    let start = env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .or_else(|| env::current_dir().ok())
        .unwrap_or_default();
    start
        .ancestors()
        .map(|folder| folder.join("target/e2e/runs"))
        .filter(|folder| folder.is_dir())
        .collect()
}

fn usual_profile() -> String {
    "e2e".to_owned()
}

/// The folder above this package.
fn workspace_root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package.unwrap_or_default().join("..")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An image of a target as the working tree stands.
#[derive(Clone, Debug, Deserialize)]
struct Present {
    package: String,
    source_digest: String,
    reference: String,
    declared_digest: String,
}

/// Every image of a target as the working tree stands, by package. Asked once in a process.
fn present_images(target: &str, profile: &str) -> Result<BTreeMap<String, Present>, String> {
    static ASKED: OnceLock<Result<BTreeMap<String, Present>, String>> = OnceLock::new();
    ASKED.get_or_init(|| ask_images(target, profile)).clone()
}

fn ask_images(target: &str, profile: &str) -> Result<BTreeMap<String, Present>, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["xtask", "tag", target, "--json", "--profile", profile];
    let mut command = Command::new(&cargo);
    command.args(arguments);
    if env::var_os("CARGO_MANIFEST_DIR").is_some() {
        // From where a relative CARGO_TARGET_DIR is meant, too.
        command.current_dir(workspace_root());
    }
    let line = format!("{} {}", cargo.display(), arguments.join(" "));
    // Not by a macro: what those print is shown when a test has failed, and this when it waits.
    let told = line.clone();
    let output = output_heard(&mut command, TAG_WITHIN, move |words| {
        if words.contains("Blocking waiting for file lock") {
            let _ = writeln!(stderr(), "{told}: waits for another cargo: {words}");
        }
    })?;
    let images: Vec<Present> =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{line}: {error}"))?;
    Ok(images
        .into_iter()
        .map(|image| (image.package.clone(), image))
        .collect())
}

/// Of a reference, without the place where it is named: that is no matter of the tree.
fn name_and_tag(reference: &str) -> &str {
    reference.rsplit('/').next().unwrap_or(reference)
}

fn newest_kept(folders: &[PathBuf], target: &str) -> Result<Run, String> {
    let files = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("run.json")));
    // `clean` takes the mark away and leaves what the run has told.
    let marked = files.filter(|path| path.with_file_name("kept").exists());
    let kept = marked.filter_map(|path| {
        let modified = fs::metadata(&path).and_then(|data| data.modified()).ok()?;
        let run = Run::read(&path).ok()?;
        (run.kept && run.target == target).then_some((modified, run))
    });
    let newest: Option<(SystemTime, Run)> = kept.max_by_key(|(modified, _)| *modified);
    newest.map(|(_, run)| run).ok_or_else(|| {
        format!(
            "no run of {target}: make one with \
             `cargo xtask e2e {target} --keep always`"
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(folder: &Path, id: &str, target: &str, kept: bool, age: Duration) {
        let directory = folder.join(id);
        fs::create_dir_all(&directory).expect("a directory");
        let text = serde_json::json!({
            "id": id, "target": target, "cluster": "local", "kept": kept,
            "run_directory": directory, "tests_source_digest": "00",
            "engine": {"program": "podman", "environment": {}},
            "services": {}, "tokens_directory": "/t", "passwords_directory": "/p",
        });
        let path = directory.join("run.json");
        fs::write(&path, text.to_string()).expect("written");
        if kept {
            fs::write(directory.join("kept"), "").expect("written");
        }
        let file = fs::File::options().append(true).open(&path).expect("open");
        file.set_modified(SystemTime::now() - age).expect("a time");
    }

    #[test]
    fn the_newest_kept_run_of_the_target_is_taken() {
        let folder = tempfile::tempdir().expect("a directory");
        let seconds = Duration::from_secs;
        write(folder.path(), "old", "gateway", true, seconds(300));
        write(folder.path(), "new", "gateway", true, seconds(200));
        write(folder.path(), "gone", "gateway", false, seconds(100));
        write(folder.path(), "other", "pipeline", true, seconds(50));
        let folders = [folder.path().to_path_buf()];
        assert_eq!(newest_kept(&folders, "gateway").expect("a run").id, "new");
        let none = newest_kept(&folders, "datastorage").expect_err("no run");
        assert!(none.contains("cargo xtask e2e datastorage"), "{none}");
        fs::remove_file(folder.path().join("new/kept")).expect("cleaned");
        assert_eq!(newest_kept(&folders, "gateway").expect("a run").id, "old");
    }

    #[track_caller]
    fn check_refused(result: Result<(), String>, parts: &[&str]) {
        let refused = result.expect_err("stale");
        for part in parts
            .iter()
            .chain(&["cargo xtask e2e gateway --keep always"])
        {
            assert!(refused.contains(part), "`{part}` is not in: {refused}");
        }
    }

    #[test]
    fn a_kept_run_of_anything_else_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        write(folder.path(), "kept", "gateway", true, Duration::ZERO);
        let mut run = Run::read(&folder.path().join("kept/run.json")).expect("a run");
        let service = |digest: Option<&str>| Service {
            containers: Vec::new(),
            namespace: None,
            ports: BTreeMap::new(),
            node_ports: BTreeMap::new(),
            source_digest: digest.map(str::to_owned),
            reference: digest.map(|_| "datastorage:gateway-11".to_owned()),
            image_id: "sha256:11".to_owned(),
            manifest_digest: None,
            config_maps: BTreeMap::new(),
        };
        run.services = BTreeMap::from([
            ("datastorage".to_owned(), service(Some("aa"))),
            ("postgres".to_owned(), service(None)),
        ]);
        run.declared_digest = "cc".to_owned();
        let present = |source_digest: &str, reference: &str| {
            let present = Present {
                package: "datastorage".to_owned(),
                source_digest: source_digest.to_owned(),
                reference: reference.to_owned(),
                declared_digest: "cc".to_owned(),
            };
            run.check_present(&BTreeMap::from([("datastorage".to_owned(), present)]))
        };
        assert_eq!(present("aa", "datastorage:gateway-11"), Ok(()));
        let in_registry = "registry.example.org:5000/team/datastorage:gateway-11";
        assert_eq!(present("aa", in_registry), Ok(()));
        let edited = present("bb", "datastorage:gateway-22");
        check_refused(edited, &["aa", "bb", "datastorage was edited"]);
        let other_recipe = present("aa", "datastorage:gateway-22");
        let parts = ["gateway-11", "gateway-22", "in another way"];
        check_refused(other_recipe, &parts);

        let mut declared = run.clone();
        declared.declared_digest = "dd".to_owned();
        let is = Present {
            package: "datastorage".to_owned(),
            source_digest: "aa".to_owned(),
            reference: "datastorage:gateway-11".to_owned(),
            declared_digest: "cc".to_owned(),
        };
        let present = BTreeMap::from([("datastorage".to_owned(), is)]);
        let edited = declared.check_present(&present);
        check_refused(edited, &["declare of each other", "cc", "dd"]);

        let manifest = folder.path().join("gateway.yaml");
        fs::write(&manifest, "abc").expect("written");
        let digest = hex(&Sha256::digest("abc"));
        assert!(digest.starts_with("ba7816bf"), "{digest}");
        run.manifests = BTreeMap::from([("gateway.yaml".to_owned(), digest.clone())]);
        assert_eq!(run.check_manifests(folder.path()), Ok(()));
        fs::write(&manifest, "abd").expect("written");
        let edited = run.check_manifests(folder.path());
        check_refused(edited, &["gateway.yaml was edited", &digest]);
        fs::remove_file(&manifest).expect("removed");
        let gone = run.check_manifests(folder.path());
        check_refused(gone, &["No such file", &digest]);
    }
}
