//! One run: the phases in their order, what can go side by side side by side, each noted in the
//! receipt. It ends in `finish`, whatever happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, anyhow};

use super::naming::Naming;
use super::pause::Pause;
use super::watch::standing::{Cycle, Standing};
use super::{Outcome, load};
use crate::bundle::Bundle;
use crate::cli::{self, Phase};
use crate::cluster::kind::{self, kept::Kept};
use crate::cluster::{Choice, Cluster, context};
use crate::cmd::room;
use crate::engine::{Engine, Platform};
use crate::exit::{Exit, Failure};
use crate::manifest::Manifests;
use crate::pipeline::attest::{Attested, attest};
use crate::pipeline::build::{Built, Options, Origin, TestProgram, build_beside};
use crate::pipeline::deploy::deploy;
use crate::pipeline::load::load as load_images;
use crate::pipeline::tag::{Inputs, Tagged, tag};
use crate::pipeline::test::{TestReport, check_filters, test, told_so_far};
use crate::pipeline::{Frozen, Images};
use crate::process::interrupt;
use crate::report::html::Summary;
use crate::report::receipt::{Receipt, Span};
use crate::report::{self, failure, junit, live};
use crate::run::{self, Resources, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::threads::joined;

/// How long everything of a run may take to become ready.
const DEPLOY_DEADLINE: Duration = Duration::from_secs(120);
/// How long the tests of a run may take.
const TEST_DEADLINE: Duration = Duration::from_secs(900);

/// A run under way.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) target: &'a Target,
    pub(super) options: &'a cli::E2e,
    pause: &'a Pause,
    bundle: Option<Arc<Bundle>>,
    pub(super) run: Arc<Run>,
    /// The cluster that may stay when the run ends.
    pub(super) kept: Option<Arc<Kept>>,
    /// It was there when the run began.
    pub(super) kept_was_there: bool,
    pub(super) receipt: Receipt,
    pub(super) engine: Option<Engine>,
    pub(super) cluster: Option<Cluster>,
    pub(super) frozen: Option<Arc<Frozen>>,
    manifests: Option<Manifests>,
    pub(super) secrets: Option<Secrets>,
    references: Vec<String>,
    tag: Option<String>,
    pub(super) progress: Progress,
    pub(super) cycle: Option<Cycle>,
    /// Its end has left the deployment as it is.
    pub(super) leaves_standing: bool,
    /// Its end could not remove all that it should have.
    pub(super) left_something: bool,
    taken: Taken,
    pub(super) begun: Instant,
    /// What its report told, when it has ended.
    pub(super) summary: Option<Summary>,
}

/// How far a run has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing is built yet.
    Begun,
    /// Images and tests are built.
    Built,
    /// What stands is proved to be what was built.
    Attested,
}

/// Manifests and sources, read before a run begins that they are for; each with when that was.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) manifests: Option<(Result<Manifests>, Span)>,
    pub(super) images: Option<(Result<Images<Tagged>>, Span)>,
}

/// Runs one target from its first phase to its clean-up.
pub(super) fn run(
    workspace: &Workspace,
    target: &Target,
    options: &cli::E2e,
    pause: &Pause,
) -> Outcome {
    let begun = Instant::now();
    let mut outcome = Outcome::of(target);
    match Session::begin(workspace, target, options, pause) {
        Ok(mut session) => {
            let result = session.phases();
            outcome.error = session.finish(result).err();
            outcome.junit = Some(session.run.directory().join(junit::FILE));
            outcome.directory = Some(session.run.directory().to_owned());
            outcome.tag = session.tag.unwrap_or(outcome.tag);
            outcome.summary = session.summary;
            if let Some(tests) = &session.receipt.tests {
                outcome.tests = tests.verdict();
                outcome.failed = failure::failed_tests(tests, report::columns());
            }
        }
        Err(error) => outcome.error = Some(room::explain(workspace, None, error)),
    }
    outcome.took = begun.elapsed();
    outcome
}

impl<'a> Session<'a> {
    fn begin(
        workspace: &'a Workspace,
        target: &'a Target,
        options: &'a cli::E2e,
        pause: &'a Pause,
    ) -> Result<Self> {
        let run = Arc::new(Run::begin(workspace, &target.name)?);
        Self::of(run, workspace, target, options, pause)
    }

    /// With a run that is there.
    fn of(
        run: Arc<Run>,
        workspace: &'a Workspace,
        target: &'a Target,
        options: &'a cli::E2e,
        pause: &'a Pause,
    ) -> Result<Self> {
        let bundle = Bundle::given(options.bundle.as_deref())?.map(Arc::new);
        let mut receipt = Receipt::begin(&run);
        receipt.bundle = bundle.as_ref().map(|bundle| bundle.taken());
        receipt.test_filters.clone_from(&options.filters);
        receipt.save()?;
        if let Some(load) = &options.load {
            load::wish(&run, load)?;
        }
        let kept = match options.keeps_cluster() {
            true => claim(workspace, target)?,
            false => None,
        };
        Ok(Self {
            workspace,
            target,
            options,
            pause,
            bundle,
            run,
            kept_was_there: kept.as_ref().is_some_and(|kept| kept.stays()),
            kept,
            receipt,
            engine: None,
            cluster: None,
            frozen: None,
            manifests: None,
            secrets: None,
            references: Vec::new(),
            tag: None,
            progress: Progress::Begun,
            cycle: None,
            leaves_standing: false,
            left_something: false,
            taken: Taken::default(),
            begun: Instant::now(),
            summary: None,
        })
    }

    /// A run that is a cycle of a watch. It began when the edit was noticed, and takes the
    /// deployment over that stands, or lets it stand until its own is proved. `cycle` is taken if it
    /// can begin.
    pub(super) fn of_cycle(
        workspace: &'a Workspace,
        target: &'a Target,
        options: &'a cli::E2e,
        pause: &'a Pause,
        cycle: &mut Option<Cycle>,
        taken: Taken,
    ) -> Result<Self> {
        let mut session = match cycle.as_ref().and_then(Cycle::run) {
            Some(run) => Self::of(run, workspace, target, options, pause)?,
            None => Self::begin(workspace, target, options, pause)?,
        };
        session.taken = taken;
        session.cycle = cycle.take();
        session.take_over();
        Ok(session)
    }

    /// Every phase, and the end; gives the deployment that stands then, if one does.
    pub(super) fn go_through(mut self) -> (Option<Standing>, Result<()>) {
        let result = self.phases();
        let ended = self.finish(result);
        (self.into_standing(), ended)
    }

    /// When it began.
    pub(super) const fn begun(&self) -> Instant {
        self.begun
    }

    fn phases(&mut self) -> Result<()> {
        let (built, program) = match &self.cluster {
            None => self.tag_build_and_cluster()?,
            Some(_) => self.tag_and_build()?,
        };
        self.progress = Progress::Built;
        self.stop_before(Phase::Load)?;
        let mut cluster = self.cluster.take().context("the cluster is not there")?;
        let result = self.deploy_and_test(built, &program, &mut cluster);
        self.cluster = Some(cluster);
        result
    }

    /// Phases 0 and 1, where the cluster stands already.
    fn tag_and_build(&mut self) -> Result<(Images<Built>, TestProgram)> {
        let manifests = self.read_manifests()?;
        let images = self.tag()?;
        self.manifests = Some(manifests);
        self.build(images)
    }

    /// Phases 0 and 1 here, phase 2 beside them.
    fn tag_build_and_cluster(&mut self) -> Result<(Images<Built>, TestProgram)> {
        let (workspace, target) = (self.workspace, self.target);
        let manifests = self.read_manifests()?;
        let kept = self.kept.clone();
        let known = kept.as_ref().map(|kept| kept.passwords()).transpose()?;
        let known = known.unwrap_or_default();
        let secrets = Secrets::make_with(workspace, target, self.run.directory(), &known)?;
        let (run, bundle) = (Arc::clone(&self.run), self.bundle.clone());
        let beside = Beside {
            workspace,
            target,
            run: &run,
            secrets: &secrets,
            manifests: &manifests,
            options: self.options,
            bundle: bundle.as_ref(),
            kept: kept.as_ref(),
        };
        let result = thread::scope(|scope| {
            let (found, finding) = mpsc::channel();
            let begun = Instant::now();
            let starting = scope.spawn(move || {
                let started = start_cluster(&beside, found);
                (started, Span::since(begun))
            });
            let tagged = self.tag();
            // Nothing is compiled for a host that cannot run it: the thread ends without an engine.
            let built = match finding.recv() {
                Ok(engine) => {
                    self.receipt.engine(&engine);
                    // What was begun on it is removed from it, however phase 0 ends.
                    self.engine = Some(engine);
                    Some(tagged.and_then(|images| self.build(images)))
                }
                Err(mpsc::RecvError) => None,
            };
            interrupt::doing("cluster");
            let (started, span) = starting.join().unwrap_or_else(|_| {
                let panicked = anyhow!("the thread that starts the cluster panicked");
                (Err(panicked), Span::since(begun))
            });
            self.receipt.bundle = bundle.as_ref().map(|bundle| bundle.taken());
            let noted = self.receipt.phase_took("cluster", span, started.is_ok());
            let made = started.and_then(|cluster| {
                noted?;
                self.receipt.cluster(&cluster);
                self.cluster = Some(cluster);
                Ok(())
            });
            // Who waits for a compiler's message does not want to read of the network first.
            let built = built.transpose()?;
            self.receipt.judged("cluster", made)?;
            built.context("there is a cluster and no build")
        });
        self.manifests = Some(manifests);
        self.secrets = Some(secrets);
        result
    }

    /// Read before a compiler is started, as the sources are, so that what is refused is refused at
    /// once, and what is edited later belongs to the next run.
    fn read_manifests(&mut self) -> Result<Manifests> {
        let (workspace, target) = (self.workspace, self.target);
        let taken = self.taken.manifests.take();
        let (read, span) = taken.unwrap_or_else(|| read_manifests(workspace, target));
        let manifests = self.receipt.phase_taken("manifests", read, span)?;
        self.receipt.manifests(&manifests);
        Ok(manifests)
    }

    fn tag(&mut self) -> Result<Images<Tagged>> {
        let (workspace, target, options) = (self.workspace, self.target, self.options);
        let taken = self.taken.images.take();
        let (images, span) = taken.unwrap_or_else(|| freeze(workspace, target, options));
        let images = self.receipt.phase_taken("tag", images, span)?;
        self.receipt.tagged(&images);
        self.frozen = Some(Arc::clone(images.frozen()));
        self.references = images
            .iter()
            .map(|(_, image)| image.reference().to_string())
            .collect();
        let against = images
            .get(&workspace.against)
            .with_context(|| format!("no image of {}", workspace.against))?
            .reference();
        report::line("tagged", &against.to_string(), span.took());
        self.tag = Some(against.tag().to_owned());
        Ok(images)
    }

    fn build(&mut self, images: Images<Tagged>) -> Result<(Images<Built>, TestProgram)> {
        self.stop_before(Phase::Build)?;
        let archives = crate::cmd::build::archives_directory(self.workspace)?;
        let log = self.run.directory().join("build.log");
        let tests = match &self.options.load {
            Some(_) => load::PROGRAM,
            None => self.target.name.as_str(),
        };
        let options = Options {
            no_cache: self.options.no_cache,
            archives: &archives,
            log: &log,
        };
        let begun = Instant::now();
        let (built, program) = self.receipt.phase("build", || {
            build_beside(self.workspace, images, tests, &options)
        })?;
        self.receipt.built(&built, &program);
        report::line("built", &origins(&built, &program), begun.elapsed());
        check_filters(&self.run, &program, &self.options.filters)?;
        Ok((built, program))
    }

    /// Phases 3 to 6.
    fn deploy_and_test(
        &mut self,
        built: Images<Built>,
        program: &TestProgram,
        cluster: &mut Cluster,
    ) -> Result<()> {
        let begun = Instant::now();
        let loaded = self.receipt.phase("load", || load_images(built, cluster))?;
        self.receipt.loaded(&loaded);
        let already_count = loaded
            .iter()
            .filter(|(_, image)| image.already_there())
            .count();
        let object = format!(
            "{} images, {already_count} there already",
            loaded.iter().count()
        );
        report::line("loaded", &object, begun.elapsed());

        if cluster.comes_up() {
            let begun = Instant::now();
            self.receipt.phase("cluster up", || cluster.settle())?;
            report::line("came up", cluster.name(), begun.elapsed());
        }

        self.stop_before(Phase::Deploy)?;
        let begun = Instant::now();
        let (workspace, run) = (self.workspace, Arc::clone(&self.run));
        let secrets = self.secrets.clone().context("no secrets were made")?;
        let manifests = self.manifests.take().context("no manifests were read")?;
        let deployment = self.receipt.phase("deploy", || {
            deploy(
                workspace,
                &run,
                &secrets,
                &manifests,
                loaded,
                cluster,
                DEPLOY_DEADLINE,
            )
        })?;
        let replaced = cluster.replaced();
        let object = replaced.as_deref().unwrap_or(cluster.name());
        report::line("deployed", object, begun.elapsed());

        self.stop_before(Phase::Attest)?;
        let begun = Instant::now();
        let mut seen = Vec::new();
        let attested = self
            .receipt
            .phase("attest", || attest(deployment, cluster, &mut seen));
        self.receipt.evidence = seen;
        let attested = attested?;
        let object = format!(
            "{} containers run what was built",
            attested.evidence().len()
        );
        report::line("attested", &object, begun.elapsed());
        self.progress = Progress::Attested;
        self.retire();

        self.stop_before(Phase::Test)?;
        self.test(&attested, program, cluster)
    }

    /// Phase 6, and the second look of phase 5 after it.
    fn test(
        &mut self,
        attested: &Attested,
        program: &TestProgram,
        cluster: &Cluster,
    ) -> Result<()> {
        let begun = Instant::now();
        let (run, filters) = (Arc::clone(&self.run), &self.options.filters);
        let since = self.cycle.as_ref().map_or("run", Cycle::since);
        crate::report::say!("{:>12} {}", "testing", since_start(self.begun, since));
        let witness = attested.watch(cluster)?;
        let report = self.receipt.phase("test", || {
            test(&run, attested, program, filters, TEST_DEADLINE)
        });
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                self.receipt.tests = told_so_far(&run);
                return Err(error);
            }
        };
        report::line("tested", &report.verdict(), begun.elapsed());
        tell_skipped(&report);
        self.receipt.tests = Some(report.clone());
        let mut seen = Vec::new();
        let again = self.receipt.phase("attest again", || {
            attested.look_again(&run, cluster, witness, &mut seen)
        });
        self.receipt.evidence_after_tests = seen;
        self.receipt.save()?;
        if again.is_err() {
            self.progress = Progress::Built;
        }
        if report.green() {
            return again;
        }
        let red = self.red(&report);
        // What the second look found may be why the tests failed, and it is the graver of the two.
        Err(match again {
            Ok(()) => red.into(),
            Err(error) if report::is_signal(&error) => error,
            Err(error) => Failure::new(
                report::exit_of(&error),
                format!(
                    "{error:#}\n  and {}: {}",
                    self.target.name,
                    report.verdict()
                ),
            )
            .into(),
        })
    }

    /// What the tests failed with, and how to run the first of those that did.
    fn red(&self, report: &TestReport) -> Failure {
        let red = Failure::new(
            Exit::Red,
            format!("{}: {}", self.target.name, report.verdict()),
        );
        match report.failed().next() {
            // What it says stands above; there is nothing to run alone.
            Some(_) if self.options.load.is_some() => red,
            Some(first) => red.hint(format!(
                "`cargo xtask e2e {}{} -- {}` runs it alone{}",
                self.target.name,
                self.cluster_flag(),
                first.name,
                match self.options.watch {
                    true => "",
                    false => "; `--keep on-failure` leaves the deployment there",
                }
            )),
            None => red,
        }
    }

    /// What of the command line leads to the same cluster again.
    fn cluster_flag(&self) -> String {
        match self.options.cluster() {
            Choice::Local => String::new(),
            Choice::Kind => {
                let mut flags = format!(" --cluster {}", Choice::Kind);
                if self.options.reuse {
                    flags.push_str(" --reuse");
                }
                if self.options.nodes > 1 {
                    flags.push_str(&format!(" --nodes {}", self.options.nodes));
                }
                flags
            }
            context @ Choice::Context(_) => match &self.options.registry {
                Some(registry) => format!(" --cluster {context} --registry {registry}"),
                None => format!(" --cluster {context}"),
            },
        }
    }

    pub(super) fn stop_before(&self, phase: Phase) -> Result<()> {
        self.pause.before(phase, || {
            let mut places = vec![format!("run {}", self.run.directory())];
            places.extend(self.references.iter().map(|name| format!("image {name}")));
            if let Some(engine) = &self.engine {
                let environment: Vec<String> = engine
                    .environment
                    .iter()
                    .map(|(name, value)| format!("{name}={value} "))
                    .collect();
                let engine_line = format!("{}{}", environment.concat(), engine.program);
                places.push(format!("engine {engine_line}"));
                let label = format!("{}={}", run::LABEL_RUN, self.run.id());
                let found = Resources::find(engine, &label)?;
                places.extend(
                    found
                        .containers
                        .iter()
                        .map(|name| format!("container {name}")),
                );
            }
            Ok(places)
        })
    }
}

/// The cluster that stays for this target; nothing where another run uses it.
fn claim(workspace: &Workspace, target: &Target) -> Result<Option<Arc<Kept>>> {
    let kept = Kept::claim(workspace, target)?;
    if kept.is_none() {
        let name = &target.name;
        report::note(&format!(
            "another run uses the kept cluster of {name}: this one makes its own, which goes with it"
        ));
    }
    Ok(kept)
}

/// What nobody has proved is never left out in silence.
fn tell_skipped(tests: &TestReport) {
    let mut by_reason = BTreeMap::<&str, Vec<&str>>::new();
    for one in tests.skipped() {
        let reason = one.message.as_deref().unwrap_or("it does not say why");
        by_reason.entry(reason).or_default().push(&one.name);
    }
    for (reason, names) in by_reason {
        report::note(&format!("not proven: {}: {reason}", names.join(", ")));
    }
}

fn since_start(begun: Instant, what: &str) -> String {
    format!(
        "begins {:.1} s after the {what}",
        begun.elapsed().as_secs_f64()
    )
}

/// What of phase 0 is in `deploy/`, and when it was read.
pub(super) fn read_manifests(workspace: &Workspace, target: &Target) -> (Result<Manifests>, Span) {
    let begun = Instant::now();
    let manifests = Manifests::read(workspace, target.manifests());
    (manifests, Span::since(begun))
}

/// Phase 0, and when it was gone through.
pub(super) fn freeze(
    workspace: &Workspace,
    target: &Target,
    options: &cli::E2e,
) -> (Result<Images<Tagged>>, Span) {
    let begun = Instant::now();
    let state = workspace.state_directory();
    let freeze = || {
        let naming = Naming::of(options)?;
        tag(&Inputs {
            workspace,
            target,
            repository: naming.repository,
            platform: Platform::host()?,
            profile: options.profile,
            prebuilt: naming.prebuilt.as_ref(),
            keep_in: Some(&state),
        })
    };
    (freeze(), Span::since(begun))
}

fn origins(built: &Images<Built>, program: &TestProgram) -> String {
    let count = |wanted| {
        let images = built.iter().map(|(_, image)| image.origin());
        let all = images.chain([program.origin()]);
        all.filter(|&origin| origin == wanted).count()
    };
    let (total, compiled) = (built.iter().count(), count(Origin::Built));
    match count(Origin::Fetched) {
        0 => format!("{total} images and the tests, {compiled} compiled"),
        // All of a run are taken, or none is.
        _ => format!("the tests, {compiled} compiled; {total} images were taken"),
    }
}

/// What phase 2 works with; it goes beside phases 0 and 1 and knows nothing of them.
#[derive(Clone, Copy)]
struct Beside<'a> {
    workspace: &'a Workspace,
    target: &'a Target,
    run: &'a Arc<Run>,
    secrets: &'a Secrets,
    manifests: &'a Manifests,
    options: &'a cli::E2e,
    bundle: Option<&'a Arc<Bundle>>,
    kept: Option<&'a Arc<Kept>>,
}

impl Beside<'_> {
    /// A cluster that stays is there.
    fn has_cluster(&self) -> bool {
        self.kept.is_some_and(|kept| kept.stays())
    }
}

fn demand_room(beside: &Beside<'_>, engine: &Engine) -> Result<()> {
    let Beside {
        workspace,
        manifests,
        options,
        ..
    } = *beside;
    let builds_first = options.no_cache || room::builds_first(workspace, options.profile);
    let deployed = room::Deployed {
        manifests,
        cluster: &options.cluster(),
        // One that is there has its room.
        nodes_count: match beside.has_cluster() {
            true => 0,
            false => options.nodes,
        },
    };
    room::demand(workspace, builds_first, Some(engine), Some(deployed))
}

/// Phase 2: the engine, told to `found` as soon as it is known and there is room for a run; then,
/// side by side, what dead runs left is removed, the network is made and third-party images are
/// provided; then their start is begun.
fn start_cluster(beside: &Beside<'_>, found: Sender<Engine>) -> Result<Cluster> {
    let Beside {
        workspace,
        target,
        run,
        secrets,
        manifests,
        options,
        bundle,
        kept,
    } = *beside;
    let begun = Instant::now();
    let activity = live::begin("making", "cluster");
    activity.say("looking for an engine");
    let engine = Engine::find(run.directory(), options.engine)?;
    demand_room(beside, &engine)?;
    activity.say("");
    // The receiver lives until this thread is joined.
    let _ = found.send(engine.clone());
    drop(found);
    let cluster = thread::scope(|scope| {
        // What dead runs left is in nobody's way: names and ports are another's.
        let sweeping = scope.spawn(|| {
            // A cluster that is there is not waited for: the compiler wants the processors, see
            // `Session::sweep_late`.
            if beside.has_cluster() {
                return Ok(Vec::new());
            }
            let _activity = live::begin("removing", "what dead runs left");
            run::sweep(workspace, &engine)
        });
        let made = match options.cluster() {
            Choice::Local => {
                let bundle = bundle.map(Arc::as_ref);
                Cluster::start_local(workspace, target, run, &engine, bundle)
            }
            Choice::Kind => Cluster::start_kind(&kind::Wanted {
                workspace,
                target,
                run,
                engine: &engine,
                manifests,
                bundle,
                kept,
                nodes_count: options.nodes,
            }),
            Choice::Context(name) => Naming::of(options).and_then(|naming| {
                let (context, repository) = (name.as_str(), &naming.repository);
                let place = context::Place {
                    context,
                    repository,
                };
                Cluster::start_context(workspace, target, run, &engine, place, bundle)
            }),
        };
        // Not beside the first containers: the name server of podman's networks ends with the last
        // container, and one that was told of a new container while it ended serves nobody.
        for id in joined(sweeping)? {
            report::note(&format!("removed what {id} had left"));
        }
        let mut cluster = made?;
        cluster.start_third_party(run, secrets, manifests)?;
        Ok::<_, Error>(cluster)
    })?;
    drop(activity);
    report::line("made", &cluster.begun(), begun.elapsed());
    Ok(cluster)
}
