//! `receipt.json`: what went into a run and what was seen at each place. It is written after every
//! step, whole and under its own name at once, so that a failed run has one too. It judges nothing.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::bundle;
use crate::cluster::Cluster;
use crate::digest::Digest;
use crate::engine::{Engine, Platform};
use crate::host;
use crate::manifest::Manifests;
use crate::pipeline::Images;
use crate::pipeline::attest::Evidence;
use crate::pipeline::build::prebuilt::Offer;
use crate::pipeline::build::{Built, Origin, TestProgram};
use crate::pipeline::load::{Loaded, There};
use crate::pipeline::tag::Tagged;
use crate::pipeline::test::TestReport;
use crate::process::interrupt;
use crate::run::Run;
use crate::source::snapshot::Scope;
use crate::third_party::ThirdPartyImage;

/// Raised when a field changes its meaning.
const SCHEMA: u32 = 1;

/// How a run stands, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It has not ended; or its process died.
    Running,
    /// Every phase held and every test passed.
    Green,
    /// A phase or a test failed.
    Red,
    /// A signal ended it.
    Interrupted,
    /// Its time was over.
    TimedOut,
}

/// The receipt of a run.
#[derive(Debug, Serialize)]
pub struct Receipt {
    schema: u32,
    /// The run.
    pub run: String,
    /// Its target.
    pub target: String,
    /// How it stands.
    pub verdict: Verdict,
    /// How the command ended for this run.
    pub exit_code: Option<i32>,
    begun_at: Timestamp,
    ended_at: Option<Timestamp>,
    /// What it was deployed to.
    pub cluster: Option<String>,
    /// The engine, and what was found out about it.
    pub engine: Option<EngineFacts>,
    /// Versions of the tools, by name.
    pub tools: BTreeMap<String, String>,
    inputs: Inputs,
    images: BTreeMap<String, ImageFacts>,
    /// Images that are not built here, and where they came from.
    pub third_party: Vec<ThirdPartyImage>,
    /// What was taken from an offline bundle, where one was named.
    pub bundle: Option<bundle::Taken>,
    test_program: Option<ProgramFacts>,
    /// What was seen of each container before the tests.
    pub evidence: Vec<Evidence>,
    /// What was seen of each container after the tests.
    pub evidence_after_tests: Vec<Evidence>,
    phases: Vec<PhaseFacts>,
    /// Which tests were asked for; all, where nothing stands here.
    pub test_filters: Vec<String>,
    /// What the tests said.
    pub tests: Option<TestReport>,
    /// Sources that were edited while the run went on: they belong to the next one.
    pub edited_during_run: Vec<Utf8PathBuf>,
    /// Why it is not green.
    pub failure: Option<FailureFacts>,
    #[serde(skip)]
    begun: Instant,
    #[serde(skip)]
    path: Utf8PathBuf,
}

/// The engine, as it was found.
#[derive(Debug, Serialize)]
pub struct EngineFacts {
    kind: crate::engine::EngineKind,
    program: Utf8PathBuf,
    version: String,
    environment: BTreeMap<String, String>,
    notes: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct Inputs {
    platform: Option<Platform>,
    packages: Vec<PackageFacts>,
    recipe_digest: Option<Digest>,
    recipe: BTreeMap<String, String>,
    /// What was deployed, by file.
    manifests: BTreeMap<String, Digest>,
}

#[derive(Debug, Serialize)]
struct PackageFacts {
    package: String,
    scope: Scope,
    source_digest: Digest,
    file_count: usize,
}

#[derive(Debug, Serialize)]
struct ImageFacts {
    reference: String,
    tag: String,
    source_digest: Digest,
    recipe_digest: Digest,
    built: Option<BuiltFacts>,
    loaded: Option<LoadedFacts>,
}

#[derive(Debug, Serialize)]
struct BuiltFacts {
    origin: Origin,
    /// Where it was taken from, if another job built it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fetched_from: Option<String>,
    /// In what its recipe differs from this machine's, where that was accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accepted_recipe: Vec<String>,
    binary_digest: Digest,
    image_id: String,
    manifest_digest: String,
    archive: Utf8PathBuf,
}

#[derive(Debug, Serialize)]
struct LoadedFacts {
    /// As the cluster's own listing tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    image_id: Option<String>,
    /// As the registry tells it that the cluster pulls from.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_digest: Option<String>,
    already_there: bool,
}

#[derive(Debug, Serialize)]
struct ProgramFacts {
    origin: Origin,
    source_digest: Digest,
    binary_digest: Digest,
}

#[derive(Debug, Serialize)]
struct PhaseFacts {
    phase: &'static str,
    seconds: f64,
    /// Since the run began; some phases go side by side. Below zero where a watch went through it
    /// before it began a cycle.
    ended_after_seconds: f64,
    succeeded: bool,
}

/// From when to when something went on.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    begun: Instant,
    ended: Instant,
}

impl Span {
    /// It began then and ends now.
    #[must_use]
    pub fn since(begun: Instant) -> Self {
        Self {
            begun,
            ended: Instant::now(),
        }
    }

    /// How long it took.
    #[must_use]
    pub fn took(self) -> Duration {
        self.ended.saturating_duration_since(self.begun)
    }
}

/// Why a run is not green.
#[derive(Debug, Serialize)]
pub struct FailureFacts {
    /// The phase that failed.
    pub phase: &'static str,
    /// The error with its causes.
    pub message: String,
}

impl Receipt {
    /// Of a run that begins now.
    #[must_use]
    pub fn begin(run: &Run) -> Self {
        Self {
            schema: SCHEMA,
            run: run.id().to_owned(),
            target: run.target().to_string(),
            verdict: Verdict::Running,
            exit_code: None,
            begun_at: Timestamp::now(),
            ended_at: None,
            cluster: None,
            engine: None,
            tools: BTreeMap::from([("xtask".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
            inputs: Inputs::default(),
            images: BTreeMap::new(),
            third_party: Vec::new(),
            bundle: None,
            test_program: None,
            evidence: Vec::new(),
            evidence_after_tests: Vec::new(),
            phases: Vec::new(),
            test_filters: Vec::new(),
            tests: None,
            edited_during_run: Vec::new(),
            failure: None,
            begun: Instant::now(),
            path: run.directory().join("receipt.json"),
        }
    }

    /// Runs a phase and notes how long it took and whether it succeeded.
    ///
    /// # Errors
    /// What the phase gives, or that the receipt cannot be written.
    pub fn phase<T>(&mut self, phase: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        interrupt::doing(phase);
        let begun = Instant::now();
        let result = step();
        self.phase_taken(phase, result, Span::since(begun))
    }

    /// Notes a phase that was gone through before, maybe before the run began.
    ///
    /// # Errors
    /// What the phase gave, or that the receipt cannot be written.
    pub fn phase_taken<T>(
        &mut self,
        phase: &'static str,
        result: Result<T>,
        span: Span,
    ) -> Result<T> {
        let noted = self.phase_took(phase, span, result.is_ok());
        // What failed first is told, and not that a full disk takes no word of it.
        let value = self.judged(phase, result)?;
        noted.map(|()| value)
    }

    /// Notes the failure of a phase, if it is one; the first stands.
    ///
    /// # Errors
    /// What the phase gave, or that the receipt cannot be written.
    pub fn judged<T>(&mut self, phase: &'static str, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.failure.get_or_insert_with(|| FailureFacts {
                phase,
                message: super::error_text(error),
            });
        }
        let saved = self.save();
        let value = result?;
        saved.map(|()| value)
    }

    /// Notes when a phase went on that ran beside others.
    ///
    /// # Errors
    /// When the receipt cannot be written.
    pub fn phase_took(&mut self, phase: &'static str, span: Span, succeeded: bool) -> Result<()> {
        // What a watch read before its cycle began ended before it.
        let before = self.begun.saturating_duration_since(span.ended);
        let after = span.ended.saturating_duration_since(self.begun);
        self.phases.push(PhaseFacts {
            phase,
            seconds: span.took().as_secs_f64(),
            ended_after_seconds: after.as_secs_f64() - before.as_secs_f64(),
            succeeded,
        });
        self.save()
    }

    /// The phase that failed, if one did.
    #[must_use]
    pub fn failed_phase(&self) -> Option<&'static str> {
        self.failure.as_ref().map(|failure| failure.phase)
    }

    /// The run failed with this; the phase that failed first stands.
    pub fn fail(&mut self, message: &str) {
        let phase = if self.tests.is_some() { "test" } else { "run" };
        self.failure.get_or_insert_with(|| FailureFacts {
            phase,
            message: message.to_owned(),
        });
    }

    /// The engine of the run.
    pub fn engine(&mut self, engine: &Engine) {
        self.tools.insert(
            format!("{:?}", engine.kind).to_lowercase(),
            engine.version.clone(),
        );
        self.engine = Some(EngineFacts {
            kind: engine.kind,
            program: engine.program.clone(),
            version: engine.version.clone(),
            environment: engine.environment.clone(),
            notes: engine.notes.clone(),
        });
    }

    /// What it is deployed to.
    pub fn cluster(&mut self, cluster: &Cluster) {
        self.cluster = Some(cluster.name().to_owned());
        self.third_party = cluster.third_party().to_vec();
    }

    /// The manifests that were read.
    pub fn manifests(&mut self, manifests: &Manifests) {
        self.inputs.manifests = manifests.digests().clone();
    }

    /// The other programs that took part, as each tells its version.
    pub fn other_tools(&mut self) {
        const TOOLS: [&str; 8] = [
            "git",
            "runc",
            "crun",
            "conmon",
            "netavark",
            "aardvark-dns",
            "mmdebstrap",
            "skopeo",
        ];
        let versions = thread::scope(|scope| {
            let asking = TOOLS.map(|name| (name, scope.spawn(move || host::version(name))));
            asking.map(|(name, version)| (name, version.join().ok().flatten()))
        });
        let known = versions
            .into_iter()
            .filter_map(|(name, version)| Some((name.to_owned(), version?)));
        self.tools.extend(known);
    }

    /// What phase 0 froze, and the references that follow from it.
    pub fn tagged(&mut self, images: &Images<Tagged>) {
        let frozen = images.frozen();
        for tool in ["rustc", "cargo", "cc", "ld"] {
            let told = frozen.recipe().fields().get(tool);
            if let Some(version) = told.and_then(|text| text.lines().next()) {
                self.tools.insert(tool.to_owned(), version.to_owned());
            }
        }
        self.inputs = Inputs {
            platform: Some(frozen.platform().clone()),
            packages: frozen
                .snapshot()
                .packages()
                .map(|package| PackageFacts {
                    package: package.name().to_string(),
                    scope: package.scope(),
                    source_digest: package.source(),
                    file_count: package.entries().len() + package.generated().len(),
                })
                .collect(),
            recipe_digest: Some(frozen.recipe().digest()),
            recipe: frozen.recipe().fields().clone(),
            manifests: std::mem::take(&mut self.inputs.manifests),
        };
        self.images = images
            .iter()
            .map(|(package, image)| {
                let facts = ImageFacts {
                    reference: image.reference().to_string(),
                    tag: image.reference().tag().to_owned(),
                    source_digest: image.source(),
                    recipe_digest: image.recipe(),
                    built: None,
                    loaded: None,
                };
                (package.to_string(), facts)
            })
            .collect();
    }

    /// What phase 1 built.
    pub fn built(&mut self, images: &Images<Built>, tests: &TestProgram) {
        for (package, image) in images.iter() {
            if let Some(facts) = self.images.get_mut(package.as_str()) {
                facts.built = Some(BuiltFacts {
                    origin: image.origin(),
                    fetched_from: image.fetched().map(Offer::place),
                    accepted_recipe: image
                        .fetched()
                        .map(|offer| offer.differences().to_vec())
                        .unwrap_or_default(),
                    binary_digest: image.binary(),
                    image_id: image.image_id().oci(),
                    manifest_digest: image.manifest().oci(),
                    archive: image.archive().to_owned(),
                });
            }
        }
        self.test_program = Some(ProgramFacts {
            origin: tests.origin(),
            source_digest: tests.source(),
            binary_digest: tests.binary(),
        });
    }

    /// What phase 3 saw in the cluster's own listing, or in its registry.
    pub fn loaded(&mut self, images: &Images<Loaded>) {
        for (package, image) in images.iter() {
            if let Some(facts) = self.images.get_mut(package.as_str()) {
                let (image_id, manifest_digest) = match image.there() {
                    There::Listed(image_id) => (Some(image_id.clone()), None),
                    There::Pushed(manifest) => (None, Some(manifest.oci())),
                };
                facts.loaded = Some(LoadedFacts {
                    image_id,
                    manifest_digest,
                    already_there: image.already_there(),
                });
            }
        }
    }

    /// The run has ended.
    ///
    /// # Errors
    /// When the receipt cannot be written.
    pub fn end(&mut self, verdict: Verdict, exit_code: i32) -> Result<()> {
        self.verdict = verdict;
        self.exit_code = Some(exit_code);
        self.ended_at = Some(Timestamp::now());
        self.save()
    }

    /// Writes it as it stands.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<()> {
        write_json(&self.path, self)
    }
}

/// Writes JSON under its name at once: nobody ever reads half of it.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(path: &Utf8Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    text.push('\n');
    let beside = path.with_extension("json.part");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .with_context(|| format!("cannot write {path}"))
}
