//! Where cargo works: one lock, one build folder, and a record of which sources what cargo has
//! cached was made from. cargo's own freshness compares mtimes and is not trusted: what it has of a
//! local package is removed before a build unless the record holds the very digest that is wanted.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tempfile::TempDir;

use super::environment::{self, Folders};
use super::given;
use super::inspect::{self, Allowed, Told};
use super::pruned::Pruned;
use super::recipe::Recipe;
use crate::digest::Digest;
use crate::exit::{Exit, Failure};
use crate::host::room;
use crate::poll;
use crate::process::{self, Captured, Echo, Invocation};
use crate::report::{
    self,
    live::{self, Activity},
};
use crate::source::mirror::Mirror;
use crate::source::snapshot::PackageSnapshot;
use crate::source::workspace::PackageName;

/// A cold build on a slow machine.
const DEADLINE_BUILD: Duration = Duration::from_secs(3600);
const DEADLINE_DOWNLOAD: Duration = Duration::from_secs(1800);
const DEADLINE_SHORT: Duration = Duration::from_secs(300);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What is to be built.
#[derive(Clone, Copy, Debug)]
pub(super) enum Product<'a> {
    /// The binary with the name of its package.
    Binary(&'a PackageName),
    /// The test program of this name.
    Tests(&'a PackageName, &'a str),
}

impl Product<'_> {
    /// The package that it is built from.
    pub(super) const fn package(&self) -> &PackageName {
        match self {
            Self::Binary(package) | Self::Tests(package, _) => package,
        }
    }

    /// What it is kept as.
    pub(super) fn kept_name(&self) -> String {
        match self {
            Self::Binary(package) => package.to_string(),
            Self::Tests(package, program) => format!("{package}.{program}"),
        }
    }

    /// Name and kind of cargo's target.
    fn cargo_target(&self) -> (&str, &'static str) {
        match self {
            Self::Binary(package) => (package.as_str(), "bin"),
            Self::Tests(_, program) => (program, "test"),
        }
    }
}

/// The build lock, and what it guards. Let go when it is dropped and every cargo that inherited
/// it has ended.
#[derive(Debug)]
pub(super) struct Workshop<'a> {
    recipe: &'a Recipe,
    state: Utf8PathBuf,
    mirrors: Utf8PathBuf,
    folder: Folder,
    lock: Arc<OwnedFd>,
    log: &'a Utf8Path,
}

/// Where cargo builds.
#[derive(Debug)]
enum Folder {
    /// `<state>/build`, with the records of what is in it.
    Shared {
        path: Utf8PathBuf,
        records: Utf8PathBuf,
    },
    /// One that was empty, and goes away.
    Empty { path: Utf8PathBuf, _guard: TempDir },
}

impl Folder {
    fn path(&self) -> &Utf8Path {
        match self {
            Self::Shared { path, .. } | Self::Empty { path, .. } => path,
        }
    }
}

/// Where all records of the shared folder stand.
const RECORDS: &str = "build-records";
/// How the name of a folder begins that a build from nothing makes.
const EMPTY_FOLDER: &str = "empty-build-";

impl<'a> Workshop<'a> {
    /// Waits for the lock, and goes to the shared folder, or an empty one.
    pub(super) fn enter(
        state: &Utf8Path,
        recipe: &'a Recipe,
        log: &'a Utf8Path,
        empty: bool,
    ) -> Result<Self> {
        fs::create_dir_all(state).with_context(|| format!("cannot make {state}"))?;
        // Paths with links in them would not be recognised in what rustc notes.
        let state = state.canonicalize_utf8()?;
        environment::say_what_is_not_passed();
        let lock = Arc::new(take_lock(&state.join("build.lock"))?);
        remove_left_folders(&state)?;
        let folder = if empty {
            let guard = tempfile::Builder::new()
                .prefix(EMPTY_FOLDER)
                .tempdir_in(&state)?;
            let path = Utf8PathBuf::try_from(guard.path().to_owned())?;
            Folder::Empty {
                path,
                _guard: guard,
            }
        } else {
            shared_folder(&state, recipe)?
        };
        Ok(Self {
            recipe,
            mirrors: state.join("src"),
            state,
            folder,
            lock,
            log,
        })
    }

    /// Builds the frozen bytes of one package; gives the bytes of what was built.
    pub(super) fn build(&self, product: &Product<'_>, frozen: &PackageSnapshot) -> Result<Vec<u8>> {
        let built = self.build_frozen(product, frozen);
        // Of what configuration names beyond the tree nothing is frozen. When it changed, nobody
        // knows which of it cargo has compiled, in whatever crate: the folder is nobody's any more.
        if let Err(changed) = given::check_unchanged(&self.recipe.tools().given) {
            if let Folder::Shared { .. } = self.folder {
                remove_record(&toolchain_record(&self.state))?;
            }
            return Err(changed);
        }
        let bytes = built?;
        self.remember(frozen)?;
        Ok(bytes)
    }

    fn build_frozen(&self, product: &Product<'_>, frozen: &PackageSnapshot) -> Result<Vec<u8>> {
        let activity = live::begin("building", product.kept_name());
        let mirror = Mirror::sync(&self.state, frozen)?;
        let manifest = mirror.root().join("Cargo.toml");
        let variables = environment::of_build(
            self.recipe,
            &self.folders(),
            &frozen.source().to_string(),
            bar_columns(&activity),
        );
        let stale = self.forget_stale(frozen)?;
        let cargo = Cargo {
            workshop: self,
            manifest: &manifest,
            variables: &variables,
            drawn: Echo::Drawn(activity.teller()),
        };
        let (name, kind) = product.cargo_target();
        let built = cargo.build_locked(product, frozen, &mirror, &stale)?;
        let mut told = Told::read(&built.stdout)?;
        if told.is_fresh(name, kind) {
            // Nobody has hashed it since it was linked, and a crash or a full disk may have cut it
            // short. It happens where a binary that was kept is gone or damaged, and only there.
            let all: Vec<PackageName> = frozen.local().keys().cloned().collect();
            cargo.throw_away(&all)?;
            told = Told::read(&cargo.build(product)?.stdout)?;
        }
        let allowed = Allowed {
            mirror: mirror.root(),
            folders: &self.folders(),
            tools: self.recipe.tools(),
            package: frozen,
        };
        inspect::check_inputs(&told, &allowed)?;
        let executable = told.executable(name, kind)?;
        let bytes = fs::read(executable).with_context(|| format!("cannot read {executable}"))?;
        inspect::check_paths(&bytes, &allowed)?;
        Ok(bytes)
    }

    fn folders(&self) -> Folders<'_> {
        Folders {
            mirrors: &self.mirrors,
            build: self.folder.path(),
            state: &self.state,
        }
    }

    /// Where the record of a package stands: the digest that all that cargo has of it was made from.
    fn record(&self, package: &PackageName) -> Option<Utf8PathBuf> {
        match &self.folder {
            Folder::Shared { records, .. } => Some(records.join(package.as_str())),
            Folder::Empty { .. } => None,
        }
    }

    /// Packages of which cargo may have something else than what is wanted. Their records are
    /// dropped before anything is built.
    fn forget_stale(&self, frozen: &PackageSnapshot) -> Result<Vec<PackageName>> {
        let mut stale = Vec::new();
        for (package, wanted) in frozen.local() {
            let Some(record) = self.record(package) else {
                continue;
            };
            let recorded = fs::read_to_string(&record).ok();
            if recorded.as_deref().map(str::trim) == Some(&wanted.to_string()) {
                continue;
            }
            remove_record(&record)?;
            stale.push(package.clone());
        }
        Ok(stale)
    }

    /// The last step of a build.
    fn remember(&self, frozen: &PackageSnapshot) -> Result<()> {
        for (package, made_from) in frozen.local() {
            if let Some(record) = self.record(package) {
                fs::write(&record, format!("{made_from}\n"))
                    .with_context(|| format!("cannot write {record}"))?;
            }
        }
        Ok(())
    }
}

fn lacks_room(words: &str) -> bool {
    room::says_disk_full(words) || room::says_memory_full(words)
}

/// cargo counts the word before its bar, which is not shown.
fn bar_columns(activity: &Activity) -> Option<usize> {
    const HEAD_COLUMNS: usize = "    Building ".len();
    Some(activity.room()? + HEAD_COLUMNS)
}

/// What builds in an empty folder have left that were killed: nobody else builds now.
fn remove_left_folders(state: &Utf8Path) -> Result<()> {
    let entries = state
        .read_dir_utf8()
        .with_context(|| format!("cannot list {state}"))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {state}"))?;
        if entry.file_name().starts_with(EMPTY_FOLDER) {
            let folder = entry.path();
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {folder}"))?;
        }
    }
    Ok(())
}

/// A run whose turn comes builds its own frozen bytes, so it may wait as long as it takes.
fn take_lock(path: &Utf8Path) -> Result<OwnedFd> {
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {path}"))?;
    let begun = Instant::now();
    let mut said = false;
    let _activity = live::begin("waiting", "for another build in this checkout");
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file.into()),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot lock {path}")),
        }
        if !std::mem::replace(&mut said, true) {
            report::note("waiting for another build in this checkout");
        }
        if begun.elapsed() > DEADLINE_BUILD {
            let what = format!("another build has held {path} for {DEADLINE_BUILD:?}");
            return Err(Failure::new(Exit::Timeout, what).into());
        }
        poll::pause(LOCK_PAUSE)?;
    }
}

/// Where it stands what the folder was made with.
fn toolchain_record(state: &Utf8Path) -> Utf8PathBuf {
    state.join(RECORDS).join("toolchain")
}

/// Of what another toolchain compiled, or what was linked with another C library, cargo would keep
/// some. The folder says which one it is of.
fn shared_folder(state: &Utf8Path, recipe: &Recipe) -> Result<Folder> {
    let path = state.join("build");
    let all_records = state.join(RECORDS);
    let toolchain = toolchain_record(state);
    let wanted = recipe.toolchain_digest().to_string();
    let found = fs::read_to_string(&toolchain).ok();
    if found.as_deref().map(str::trim) != Some(&wanted) {
        if path.exists() {
            report::note("another toolchain, C library or configuration: building all anew");
        }
        // The records first: a folder without records is thrown away, package by package.
        for folder in [&all_records, &path] {
            remove_folder(folder)?;
        }
        fs::create_dir_all(&all_records).with_context(|| format!("cannot make {all_records}"))?;
        fs::write(&toolchain, format!("{wanted}\n"))
            .with_context(|| format!("cannot write {toolchain}"))?;
    }
    let records = all_records.join(recipe.profile().as_str());
    fs::create_dir_all(&records).with_context(|| format!("cannot make {records}"))?;
    Ok(Folder::Shared { path, records })
}

fn remove_record(record: &Utf8Path) -> Result<()> {
    match fs::remove_file(record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {record}"))
        }
        _ => Ok(()),
    }
}

fn remove_folder(folder: &Utf8Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {folder}"))
        }
        _ => Ok(()),
    }
}

/// How a product is built, but for the environment, which the lock is needed for.
pub(super) fn planned(state: &Utf8Path, recipe: &Recipe, product: &Product<'_>) -> Invocation {
    let mirror = state.join("src").join(product.package().as_str());
    on_manifest(recipe, &mirror.join("Cargo.toml"), "build")
        .args(build_arguments(recipe, product))
        .current_dir("/")
}

fn on_manifest(recipe: &Recipe, manifest: &Utf8Path, command: &str) -> Invocation {
    let tools = recipe.tools();
    Invocation::new(tools.cargo.as_str())
        .arg(command)
        .args(["--manifest-path", manifest.as_str()])
        .args(["--target", &tools.triple])
}

fn build_arguments(recipe: &Recipe, product: &Product<'_>) -> Vec<String> {
    let (name, kind) = product.cargo_target();
    vec![
        "--locked".to_owned(),
        "--offline".to_owned(),
        format!("--profile={}", recipe.profile().as_str()),
        format!("--package={}", product.package()),
        format!("--{kind}={name}"),
    ]
}

/// cargo for one mirror.
struct Cargo<'a> {
    workshop: &'a Workshop<'a>,
    manifest: &'a Utf8Path,
    variables: &'a BTreeMap<String, String>,
    /// What it says goes above the live lines, what it draws into its own.
    drawn: Echo,
}

impl Cargo<'_> {
    /// In `/`, so that cargo reads no configuration on the way to the working tree.
    fn invocation(&self, command: &str) -> Result<Invocation> {
        let tools = self.workshop.recipe.tools();
        let mut invocation = on_manifest(self.workshop.recipe, self.manifest, command)
            .environment_exactly(self.variables.clone())
            .current_dir("/")
            .inherit_fd(Arc::clone(&self.workshop.lock));
        if !tools.config.is_empty() {
            let path = self.frozen_config(&tools.config)?;
            invocation = invocation.args(["--config", path.as_str()]);
        }
        Ok(invocation)
    }

    fn frozen_config(&self, text: &str) -> Result<Utf8PathBuf> {
        let folder = self.workshop.state.join("config");
        let path = folder.join(format!("{}.toml", Digest::of(text.as_bytes())));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {path}"))?;
        Ok(path)
    }

    /// Builds with the lock that cargo has pruned before, else has it pruned now.
    fn build_locked(
        &self,
        product: &Product<'_>,
        frozen: &PackageSnapshot,
        mirror: &Mirror,
        stale: &[PackageName],
    ) -> Result<Captured> {
        let toolchain = self.workshop.recipe.toolchain_digest();
        let pruned = Pruned::of(&self.workshop.state, frozen, toolchain);
        if let Folder::Shared { .. } = self.workshop.folder
            && let Some(lock) = pruned.find()
        {
            mirror.put_lock(&lock)?;
            if mirror.check_lock(frozen).is_ok() && self.try_to_throw_away(stale)? {
                let built = self.try_build(product)?;
                // Of a build that has begun cargo tells the end, whatever it is.
                if built.code == 0 || built.stdout.contains(r#""reason":"build-finished""#) {
                    return self.judged(built, product);
                }
            }
            report::note(
                "the pruned lock of the last build, or a crate of it, is of no use: asking cargo anew",
            );
            let lock = frozen.generated().get(Utf8Path::new("Cargo.lock"));
            let lock = lock.context("a mirror without a lock")?;
            mirror.put_lock(std::str::from_utf8(lock)?)?;
        }
        self.complete()?;
        pruned.keep(&mirror.check_lock(frozen)?)?;
        self.throw_away(stale)?;
        self.build(product)
    }

    /// Whether cargo has done so.
    fn try_to_throw_away(&self, stale: &[PackageName]) -> Result<bool> {
        match self.cleaning(stale)? {
            Some(cleaning) => Ok(process::output(&cleaning, DEADLINE_SHORT)?.code == 0),
            None => Ok(true),
        }
    }

    fn throw_away(&self, stale: &[PackageName]) -> Result<()> {
        if let Some(cleaning) = self.cleaning(stale)? {
            process::capture(&cleaning, DEADLINE_SHORT)
                .context("cannot throw away what cargo has of changed packages")?;
        }
        Ok(())
    }

    /// What throws these away, where there is anything.
    fn cleaning(&self, stale: &[PackageName]) -> Result<Option<Invocation>> {
        if stale.is_empty() || !self.workshop.folder.path().exists() {
            return Ok(None);
        }
        let mut invocation = self
            .invocation("clean")?
            .args(["--locked", "--offline", "--quiet", "--profile"])
            .arg(self.workshop.recipe.profile().as_str());
        for package in stale {
            invocation = invocation.args(["--package", package.as_str()]);
        }
        Ok(Some(invocation))
    }

    /// Lets cargo take from the lock what it does not need, and from the network what is missing.
    /// Not yet `--locked`: what the lock says afterwards is checked against what was frozen.
    fn complete(&self) -> Result<()> {
        let offline = self.invocation("fetch")?.args(["--offline", "--quiet"]);
        if process::output(&offline, DEADLINE_SHORT)?.code == 0 {
            return Ok(());
        }
        let mut variables = self.variables.clone();
        variables.extend(environment::of_download());
        let online = self.invocation("fetch")?.environment_exactly(variables);
        let log = Some(self.workshop.log);
        let code = process::stream(&online, log, self.drawn, DEADLINE_DOWNLOAD)?;
        if code != 0 {
            let what = "the crates that Cargo.lock names could not be downloaded (cargo's message is above)";
            return Err(Failure::new(Exit::Host, what)
                .hint(
                    "check the network, or fill CARGO_HOME with `cargo fetch --locked` beforehand",
                )
                .into());
        }
        Ok(())
    }

    fn build(&self, product: &Product<'_>) -> Result<Captured> {
        self.judged(self.try_build(product)?, product)
    }

    fn try_build(&self, product: &Product<'_>) -> Result<Captured> {
        let invocation = self
            .invocation("build")?
            .args(build_arguments(self.workshop.recipe, product))
            .arg("--message-format=json-render-diagnostics");
        let log = Some(self.workshop.log);
        let built = process::stream_stderr(&invocation, log, self.drawn, DEADLINE_BUILD)?;
        Ok(built)
    }

    /// What was built; else what went wrong, told to whoever wrote it.
    fn judged(&self, built: Captured, product: &Product<'_>) -> Result<Captured> {
        if built.code == 0 {
            return Ok(built);
        }
        let planned = planned(&self.workshop.state, self.workshop.recipe, product);
        let what = format!(
            "{package} does not build (the compiler's message is above), so none of our images was deployed\n  \
             command: {planned}\n  log: {log}",
            package = product.package(),
            log = report::near(self.workshop.log),
        );
        let failure = Failure::new(Exit::Build, what);
        if let Some(words) = built.stderr.lines().find(|line| lacks_room(line)) {
            return Err(failure.caused_by(anyhow!("{}", words.trim())).into());
        }
        // The compiler names a path that is there: in the working tree, and not in the mirror.
        if built.stderr.contains("couldn't read") || built.stderr.contains("No such file") {
            return Err(failure.hint("a build sees its own package, the local packages that it depends on, and nothing else of the tree: move the file into one of them").into());
        }
        let hint = format!(
            "`cargo check --package {}` says the same, and sooner",
            product.package()
        );
        Err(failure.hint(hint).into())
    }
}
