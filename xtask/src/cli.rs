//! The clap tree: every command, its flags, and the words of its help. It decides nothing.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::ArgValueCandidates;
use serde::Serialize;

use crate::cluster;
use crate::cmd::completions;
use crate::engine::Choice;
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::tag::Repository;

/// Tests every service end to end against the sources as they stand.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 green, 1 red, 2 usage, 3 host, 4 source, 5 build, 6 manifest, \
                  7 deploy, 8 attest, 9 timeout, 70 internal, 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build, deploy, prove and test a target, then remove everything again
    E2e(E2e),
    /// Print the image reference of DataStorage for a target; computes, builds nothing
    Tag(Tag),
    /// Build the images of a target: reference and image ID, one line each
    Build(Build),
    /// Print the targets as JSON, for a workflow with one job for each
    Matrix(Matrix),
    /// Show the reference of each target in each phase, and find every wrong tag pattern in the tree
    Audit(Audit),
    /// Tell what is on this machine, what is missing, and which engine would be chosen
    Doctor(Doctor),
    /// Install what is missing, or print the commands where that is not possible
    Setup(Setup),
    /// Show runs, containers and disk; of a kept run how to reach each service
    Status(Status),
    /// Print the log of a service of the newest run
    Logs(Logs),
    /// Remove what the tool made in this checkout and no living run uses
    Clean(Clean),
    /// Run the unit and integration tests, with a PostgreSQL server of their own
    Test(Test),
    /// Measure what the tool costs, each figure as a ratio to its floor
    Bench(Bench),
    /// Kill runs at random moments, and see that the next is green and nothing is left
    Crash(Crash),
    /// Run everything that must be green before a change is merged
    Ci(Ci),
    /// Print a script that completes `cargo xtask` in a shell, with the names of targets
    Completions(Completions),
}

/// What `e2e` takes.
#[derive(Clone, Debug, Args)]
#[command(override_usage = "cargo xtask e2e [OPTIONS] <TARGET...|--all> [-- <TEST FILTER>...]")]
pub struct E2e {
    /// Targets to test, each in a run of its own
    #[arg(value_name = "TARGET", required_unless_present = "all", add = ArgValueCandidates::new(completions::targets))]
    pub targets: Vec<String>,
    /// Test every target
    #[arg(long, conflicts_with = "targets")]
    pub all: bool,
    /// How many targets at a time: a number, or `auto` for as many as there are cores; fewer where memory is short
    #[arg(long, value_name = "COUNT|auto", default_value_t)]
    pub jobs: Jobs,
    /// When a target is red, end the others that run, and begin no more
    #[arg(long)]
    pub fail_fast: bool,
    /// Whether the containers stay when a run ends
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Keep::Never)]
    pub keep: Keep,
    /// How many nodes a cluster of kind has
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// On kind: keep one cluster for each target, and use it again; database and namespace are new for each run
    #[arg(long)]
    pub reuse: bool,
    /// Run again after every edit, until Ctrl-C; what an edit did not change stays deployed
    #[arg(long)]
    pub watch: bool,
    /// What it is deployed to: `local`, `kind`, or `context:<name>` of your kubeconfig; `local`, if the workspace names no other
    #[arg(long, env = "E2E_CLUSTER", add = ArgValueCandidates::new(completions::clusters))]
    pub cluster: Option<cluster::Choice>,
    /// Which container engine runs it
    #[arg(long, env = "E2E_ENGINE", value_enum, default_value_t)]
    pub engine: Choice,
    /// A folder with tools and images for machines without a network
    #[arg(long, env = "E2E_BUNDLE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bundle: Option<Utf8PathBuf>,
    /// Take the images that `build` left in this folder or pushed to this registry; fail if they are not of these sources
    #[arg(long, value_name = "DIR|HOST/PATH", value_hint = ValueHint::DirPath, conflicts_with = "no_cache")]
    pub prebuilt: Option<String>,
    /// Take them also if they were built by another recipe (an older compiler)
    #[arg(long, requires = "prebuilt")]
    pub accept_recipe: bool,
    /// Name images in this registry
    #[arg(long, value_name = "HOST/PATH")]
    pub registry: Option<Repository>,
    /// Print phases, references and commands; run nothing
    #[arg(long)]
    pub plan: bool,
    /// Build in an empty folder all the same, and compare with what is kept
    #[arg(long)]
    pub no_cache: bool,
    /// Stop before this phase until Enter or SIGUSR1
    #[arg(long, value_name = "PHASE", value_enum)]
    pub pause_before: Option<Phase>,
    /// End after this many seconds, clean up, and exit with code 9
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout: Option<u64>,
    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
    /// Copy receipt, reports and logs of each run to this folder, and a page of all targets
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub report: Option<Utf8PathBuf>,
    /// Cargo profile of the services
    #[arg(long, value_enum, default_value_t = Profile::E2e)]
    pub profile: Profile,
    /// End as SIGTERM would end it when the command that started it has gone
    #[arg(long, hide = true)]
    pub ends_with_parent: bool,
    /// Run only the tests whose name contains one of these
    #[arg(last = true, value_name = "TEST FILTER")]
    pub filters: Vec<String>,
    /// For `bench load`: its load in the place of the tests
    #[arg(skip)]
    pub load: Option<Load>,
}

impl E2e {
    /// What it is deployed to.
    #[must_use]
    pub fn cluster(&self) -> cluster::Choice {
        self.cluster.clone().unwrap_or_default()
    }

    /// Whether its cluster may stay for other runs.
    #[must_use]
    pub fn keeps_cluster(&self) -> bool {
        self.cluster() == cluster::Choice::Kind && (self.reuse || self.keep == Keep::Always)
    }
}

/// How many targets are tested at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Jobs {
    /// As many as there are cores.
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

impl Default for Jobs {
    fn default() -> Self {
        Self::Count(NonZeroUsize::MIN)
    }
}

impl fmt::Display for Jobs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => formatter.write_str("auto"),
            Self::Count(count) => count.fmt(formatter),
        }
    }
}

impl FromStr for Jobs {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(count)) => Ok(Self::Count(count)),
            (_, Err(_)) => Err("neither a whole number, 1 or more, nor `auto`"),
        }
    }
}

/// When the containers of a run stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Keep {
    /// Never
    Never,
    /// When a run was red that had got as far as containers
    OnFailure,
    /// Always, once there are containers
    Always,
}

/// A phase before which a run can stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// References are known, nothing is built
    Build,
    /// Images and tests are built
    Load,
    /// Images are in the cluster
    Deploy,
    /// Everything is ready
    Attest,
    /// What runs is proved to be what was built
    Test,
    /// The tests have ended
    Clean,
}

/// What `tag` takes.
#[derive(Clone, Debug, Args)]
pub struct Tag {
    /// The target
    #[arg(add = ArgValueCandidates::new(completions::targets))]
    pub target: String,
    /// Print every image of the run as JSON
    #[arg(long)]
    pub json: bool,
    /// Name images in this registry
    #[arg(long, value_name = "HOST/PATH")]
    pub registry: Option<Repository>,
    /// Cargo profile of the services
    #[arg(long, value_enum, default_value_t = Profile::E2e)]
    pub profile: Profile,
}

/// What `build` takes.
#[derive(Clone, Debug, Args)]
#[command(override_usage = "cargo xtask build [OPTIONS] <TARGET|--all>")]
pub struct Build {
    /// The target
    #[arg(required_unless_present = "all", add = ArgValueCandidates::new(completions::targets))]
    pub target: Option<String>,
    /// Build the images of every target
    #[arg(long, conflicts_with = "target")]
    pub all: bool,
    /// Write the archives and images.json to this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<Utf8PathBuf>,
    /// Name images in this registry
    #[arg(long, value_name = "HOST/PATH")]
    pub registry: Option<Repository>,
    /// Push them there: a line for each image, reference@digest
    #[arg(long, requires = "registry")]
    pub push: bool,
    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
    /// Build in an empty folder all the same, and compare with what is kept
    #[arg(long)]
    pub no_cache: bool,
    /// Cargo profile of the services
    #[arg(long, value_enum, default_value_t = Profile::E2e)]
    pub profile: Profile,
}

/// What `matrix` takes.
#[derive(Clone, Debug, Args)]
pub struct Matrix {}

/// What `audit` takes.
#[derive(Clone, Debug, Args)]
pub struct Audit {}

/// What `doctor` takes.
#[derive(Clone, Debug, Args)]
pub struct Doctor {
    /// What runs are to be deployed to: `local`, `kind`, or `context:<name>`; `local`, if the workspace names no other
    #[arg(long, env = "E2E_CLUSTER", add = ArgValueCandidates::new(completions::clusters))]
    pub cluster: Option<cluster::Choice>,
    /// Which container engine is asked for
    #[arg(long, env = "E2E_ENGINE", value_enum, default_value_t)]
    pub engine: Choice,
    /// A folder with tools and images for machines without a network
    #[arg(long, env = "E2E_BUNDLE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bundle: Option<Utf8PathBuf>,
}

/// What `setup` takes.
#[derive(Clone, Debug, Args)]
pub struct Setup {
    /// Install without asking
    #[arg(long)]
    pub yes: bool,
    /// A folder with tools and images for machines without a network
    #[arg(long, env = "E2E_BUNDLE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bundle: Option<Utf8PathBuf>,
}

/// What `status` takes.
#[derive(Clone, Debug, Args)]
pub struct Status {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `logs` takes.
#[derive(Clone, Debug, Args)]
pub struct Logs {
    /// The service
    #[arg(add = ArgValueCandidates::new(completions::services))]
    pub service: String,
    /// Go on until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
}

/// What `clean` takes.
#[derive(Clone, Debug, Args)]
pub struct Clean {
    /// Remove the images that were built here too; a later run loads them again
    #[arg(long)]
    pub images: bool,
}

/// What `test` takes.
#[derive(Clone, Debug, Args)]
pub struct Test {
    /// Install what is missing without asking
    #[arg(long)]
    pub yes: bool,
    /// A folder with tools and images for machines without a network
    #[arg(long, env = "E2E_BUNDLE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bundle: Option<Utf8PathBuf>,
    /// Handed to the test programs
    #[arg(last = true, value_name = "TEST FILTER")]
    pub filters: Vec<String>,
}

/// What `ci` takes.
#[derive(Clone, Debug, Args)]
pub struct Ci {
    /// Install what the steps need without asking
    #[arg(long)]
    pub yes: bool,
    /// A folder with tools and images for machines without a network
    #[arg(long, env = "E2E_BUNDLE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bundle: Option<Utf8PathBuf>,
    /// Run only the steps whose name contains one of these; nobody may merge by that
    #[arg(long, value_name = "WORD")]
    pub only: Vec<String>,
}

/// What `completions` takes.
#[derive(Clone, Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell whose command lines can be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash, 4 or later
    Bash,
    /// Z shell
    Zsh,
    /// fish, 3.1 or later
    Fish,
}

/// What `bench` takes.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Bench {
    /// In the place of what the tool costs
    #[command(subcommand)]
    pub instead: Option<BenchInstead>,
    /// What to measure; everything without a name
    #[arg(value_enum)]
    pub subjects: Vec<Subject>,
    /// How often; the median counts
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Which container engine
    #[arg(long, env = "E2E_ENGINE", value_enum, default_value_t)]
    pub engine: Choice,
    /// A folder with tools and images for machines without a network
    #[arg(long, env = "E2E_BUNDLE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub bundle: Option<Utf8PathBuf>,
    /// Print the figures as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `bench` measures in the place of what the tool costs.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchInstead {
    /// Put load on a service, see that all it accepted is there once, and let pgbench insert the same rows beside it
    Load(Load),
}

/// What `bench load` takes.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Load {
    /// The service
    #[arg(value_name = "LOADED", add = ArgValueCandidates::new(completions::loads))]
    #[serde(skip)]
    pub service: String,
    /// Requests in a second, at the fixed rate; where it is left out, as the load of the service has it
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1500))]
    pub rate: Option<u32>,
    /// How long it lasts: at the fixed rate, at saturation, and pgbench each time
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=30))]
    pub seconds: u32,
    /// How many send at saturation, and how many clients pgbench has
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub connections: u32,
    /// Which container engine
    #[arg(long, env = "E2E_ENGINE", value_enum, default_value_t)]
    #[serde(skip)]
    pub engine: Choice,
    /// A folder with tools and images for machines without a network
    #[arg(long, env = "E2E_BUNDLE", value_name = "DIR", value_hint = ValueHint::DirPath)]
    #[serde(skip)]
    pub bundle: Option<Utf8PathBuf>,
    /// Install what is missing without asking
    #[arg(long)]
    #[serde(skip)]
    pub yes: bool,
    /// Print the figures as JSON
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
}

/// What `crash` takes.
#[derive(Clone, Debug, Args)]
pub struct Crash {
    /// The target whose runs are killed
    #[arg(value_name = "TARGET", default_value = "gateway", add = ArgValueCandidates::new(completions::targets))]
    pub target: String,
    /// How often; every second time two runs at once
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Which container engine
    #[arg(long, env = "E2E_ENGINE", value_enum, default_value_t)]
    pub engine: Choice,
    /// What the runs in between test: only tests whose name contains one of these
    #[arg(last = true, value_name = "TEST FILTER")]
    pub filters: Vec<String>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Hashing a tree of 5,000 files and 100 MB
    PhaseZero,
    /// An image of 20 MB, assembled and loaded
    Package,
    /// A run of which everything is there
    Unchanged,
    /// A run after an edit of one line
    Edit,
    /// A run on a cluster of kind, from nothing
    Kind,
    /// A run in a kept cluster of kind, after an edit of one line
    Kept,
}
