//! Looks at the machine for a recipe: which compiler rustup chooses for the workspace, which
//! linker, which C library. The answer is kept in the state folder with inode, size, mtime and
//! ctime of every file that was read or run, and of every place where one could appear.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use cargo_platform::Cfg;
use serde::{Deserialize, Serialize};

use super::config::Config;
use super::given::Given;
use super::recipe::{Profile, SCHEMA_VERSION, Tools};
use crate::digest::Digest;
use crate::engine::Platform;
use crate::exit::{Exit, Failure};
use crate::host;
use crate::image;
use crate::process::{self, Invocation};
use crate::source::workspace::Workspace;

const DEADLINE: Duration = Duration::from_secs(60);
/// rustup may have to install what a toolchain file asks for.
const DEADLINE_TOOLCHAIN: Duration = Duration::from_secs(600);
const HINT_C: &str = "on Debian: apt-get install -y gcc libc6-dev";
/// What ends up in a static binary; `libc.a` must be there, the rest counts when it is.
const LINKED_IN: [&str; 16] = [
    "libc.a",
    "libm.a",
    "libpthread.a",
    "librt.a",
    "libdl.a",
    "libutil.a",
    "libgcc.a",
    "libgcc_eh.a",
    "crt1.o",
    "rcrt1.o",
    "crti.o",
    "crtn.o",
    "crtbeginT.o",
    "crtbeginS.o",
    "crtend.o",
    "crtendS.o",
];

/// What was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) fields: BTreeMap<String, String>,
    pub(super) tools: Tools,
}

/// What was seen, and what it was seen from.
#[derive(Serialize, Deserialize)]
struct Record {
    key: Key,
    stamps: Vec<Stamp>,
    /// Programs that configuration names, and where PATH led.
    programs: BTreeMap<String, Option<Utf8PathBuf>>,
    seen: Seen,
}

/// What decides where to look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    versions: (u32, u32),
    root: Utf8PathBuf,
    triple: String,
    profile: Profile,
    cargo_home: Utf8PathBuf,
    rustc_on_path: Option<Utf8PathBuf>,
    cc_on_path: Option<Utf8PathBuf>,
    /// cc may leave it to PATH which linker it calls.
    ld_on_path: Option<Utf8PathBuf>,
    /// `RUSTUP_TOOLCHAIN`, `RUSTUP_HOME`.
    rustup: [Option<String>; 2],
}

/// A file as it was when it was read or run; `None`: it was not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    path: Utf8PathBuf,
    state: Option<(u64, u64, u64, i64, i64, i64, i64)>,
}

impl Stamp {
    pub(super) fn of(path: Utf8PathBuf) -> Self {
        let state = std::fs::metadata(&path).ok().map(|metadata| {
            (
                metadata.dev(),
                metadata.ino(),
                metadata.size(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            )
        });
        Self { path, state }
    }

    fn holds(&self) -> bool {
        Self::of(self.path.clone()) == *self
    }

    #[cfg(test)]
    pub(super) fn path(&self) -> &Utf8Path {
        &self.path
    }
}

/// Looks, or remembers what was seen.
pub(super) fn look(workspace: &Workspace, platform: &Platform, profile: Profile) -> Result<Seen> {
    let key = key(workspace, platform, profile)?;
    let folder = workspace.state_directory().join("recipes");
    let kept = folder.join(format!("{}-{}.json", key.triple, profile.as_str()));
    if let Some(record) = remembered(&kept, &key) {
        return Ok(record.seen);
    }
    let (seen, files, given) = look_anew(&key)?;
    let mut stamps = given.stamps;
    stamps.extend(files.into_iter().map(Stamp::of));
    stamps.sort_by(|left, right| left.path.cmp(&right.path));
    stamps.dedup();
    let record = Record {
        key,
        stamps,
        programs: given.programs,
        seen,
    };
    // Forgetting costs some milliseconds the next time; it is no reason to fail.
    let _ = remember(&folder, &kept, &record);
    Ok(record.seen)
}

fn remembered(kept: &Utf8Path, key: &Key) -> Option<Record> {
    let text = std::fs::read(kept).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let mut programs = record.programs.iter();
    let holds = record.key == *key
        && record.stamps.iter().all(Stamp::holds)
        && programs.all(|(name, place)| on_path(name) == *place);
    holds.then_some(record)
}

fn remember(folder: &Utf8Path, kept: &Utf8Path, record: &Record) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut file, record)?;
    file.persist(kept)?;
    Ok(())
}

fn key(workspace: &Workspace, platform: &Platform, profile: Profile) -> Result<Key> {
    let host = Platform::host()?;
    if *platform != host {
        let what = format!("cannot build for {platform} on {host}");
        return Err(Failure::new(Exit::Host, what).into());
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    Ok(Key {
        versions: (SCHEMA_VERSION, image::TEMPLATE_VERSION),
        root: workspace.root.clone(),
        triple: platform.rust_triple(),
        profile,
        cargo_home: cargo_home()?,
        rustc_on_path: on_path("rustc"),
        cc_on_path: on_path("cc"),
        ld_on_path: on_path("ld"),
        rustup: ["RUSTUP_TOOLCHAIN", "RUSTUP_HOME"].map(variable),
    })
}

fn cargo_home() -> Result<Utf8PathBuf> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = match variable("CARGO_HOME") {
        Some(home) => Utf8PathBuf::from(home),
        None => Utf8PathBuf::from(variable("HOME").context("neither CARGO_HOME nor HOME is set")?)
            .join(".cargo"),
    };
    let home = camino::absolute_utf8(&home)?;
    // A folder that is not there yet has no links.
    Ok(home.canonicalize_utf8().unwrap_or(home))
}

pub(super) fn on_path(program: &str) -> Option<Utf8PathBuf> {
    host::path()
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Utf8Path::new(folder).join(program))
        .find(|candidate| candidate.is_file())
}

/// A bare name means a program on PATH; only with its place can it be told that it changed.
fn located(program: &str) -> Utf8PathBuf {
    let bare = !program.contains('/');
    let found = bare.then(|| on_path(program)).flatten();
    found.unwrap_or_else(|| program.into())
}

fn look_anew(key: &Key) -> Result<(Seen, Vec<Utf8PathBuf>, Given)> {
    let config = Config::read(&key.root, &key.cargo_home)?;
    config.check_overrides(&key.triple)?;
    let (rust, c) = thread::scope(|scope| {
        let rust = scope.spawn(|| look_at_rust(key, &config));
        let c = look_at_c(key);
        let rust = rust
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (rust, c)
    });
    let ((rust, mut files), (c, files_c)) = (rust?, c?);
    files.extend(files_c);
    files.extend(Config::candidates(&key.root, &key.cargo_home));

    let mut fields: BTreeMap<String, String> = c;
    let given = look_at_given(key, &config, &rust, &mut fields)?;

    let toolchain_file = toolchain_file_digest(&key.root)?;
    let text = |text: &str| text.to_owned();
    fields.extend([
        (text("schema"), key.versions.0.to_string()),
        (text("image-template"), key.versions.1.to_string()),
        (text("target"), key.triple.clone()),
        (text("profile"), text(key.profile.as_str())),
        (text("rustflags"), serde_json::to_string(&rust.rustflags)?),
        (text("rustc"), rust.verbose_version.trim().to_owned()),
        (text("cargo"), rust.cargo_version.trim().to_owned()),
        (text("cargo-config"), config.text()?),
        (text("rust-toolchain"), toolchain_file),
    ]);
    let first_line = rust.verbose_version.lines().next().unwrap_or_default();
    let tools = Tools {
        cargo: rust.cargo,
        rustc: rust.rustc,
        sysroot: rust.sysroot,
        cargo_home: key.cargo_home.clone(),
        triple: key.triple.clone(),
        rustc_version: first_line.to_owned(),
        rustflags: rust.rustflags,
        config: config.handed_on()?,
        config_variables: config.variables(),
        given: given.files.clone(),
    };
    Ok((Seen { fields, tools }, files, given))
}

struct Rust {
    cargo: Utf8PathBuf,
    rustc: Utf8PathBuf,
    sysroot: Utf8PathBuf,
    verbose_version: String,
    cargo_version: String,
    rustflags: Vec<String>,
    linker: Option<(String, String)>,
}

/// rustup's `rustc` is asked once where the real one is; from there on that one is called.
fn look_at_rust(key: &Key, config: &Config) -> Result<(Rust, Vec<Utf8PathBuf>)> {
    let found = key.rustc_on_path.clone().ok_or_else(|| {
        Failure::new(Exit::Host, "there is no rustc on PATH")
            .hint("install Rust: https://rustup.rs")
    })?;
    let ask = Invocation::new(found.as_str())
        .args(["--print", "sysroot"])
        .current_dir(key.root.clone());
    let sysroot = process::capture(&ask, DEADLINE_TOOLCHAIN)
        .context("cannot tell which Rust toolchain the workspace uses")?;
    let sysroot = Utf8PathBuf::from(sysroot.stdout.trim());
    let (rustc, cargo) = (sysroot.join("bin/rustc"), sysroot.join("bin/cargo"));
    let in_root = |program: &Utf8Path| {
        Invocation::new(program.as_str()).current_dir(Utf8Path::new("/").to_owned())
    };
    let verbose_version = process::capture(&in_root(&rustc).arg("-vV"), DEADLINE)?.stdout;
    let cargo_version = process::capture(&in_root(&cargo).arg("-V"), DEADLINE)?.stdout;
    let mut cfgs = Vec::new();
    if config.has_conditions() {
        let ask = in_root(&rustc).args(["--print", "cfg", "--target", &key.triple]);
        for line in process::capture(&ask, DEADLINE)?.stdout.lines() {
            cfgs.push(Cfg::from_str(line)?);
        }
    }
    let std = sysroot.join("lib/rustlib").join(&key.triple).join("lib");
    ensure_std(&std, &key.triple)?;
    let mut files = vec![
        found,
        rustc.clone(),
        cargo.clone(),
        std,
        sysroot.join("lib"),
    ];
    files.extend(toolchain_choices(key));
    let rust = Rust {
        cargo,
        rustc,
        sysroot,
        verbose_version,
        cargo_version,
        rustflags: config.rustflags(&key.triple, &cfgs)?,
        linker: config.linker(&key.triple, &cfgs)?,
    };
    Ok((rust, files))
}

fn ensure_std(std: &Utf8Path, triple: &str) -> Result<()> {
    if std.is_dir() {
        return Ok(());
    }
    let what = format!("the Rust toolchain has no standard library for {triple}");
    let failure = Failure::new(Exit::Host, what);
    Err(failure.hint(format!("rustup target add {triple}")).into())
}

/// Files that make rustup choose another toolchain when they appear or change.
fn toolchain_choices(key: &Key) -> Vec<Utf8PathBuf> {
    let names = ["rust-toolchain", "rust-toolchain.toml"];
    let mut files: Vec<_> = key
        .root
        .ancestors()
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .collect();
    let home = key.rustup[1].clone().map(Utf8PathBuf::from);
    let home =
        home.or_else(|| Some(Utf8PathBuf::from(std::env::var("HOME").ok()?).join(".rustup")));
    files.extend(home.map(|home| home.join("settings.toml")));
    files
}

fn toolchain_file_digest(root: &Utf8Path) -> Result<String> {
    for name in ["rust-toolchain", "rust-toolchain.toml"] {
        let path = root.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
            return Ok(Digest::of(&bytes).to_string());
        }
    }
    Ok("none".to_owned())
}

/// Asks a tool of C as a build would: GCC_EXEC_PREFIX or COMPILER_PATH would make it tell of other
/// files than those that are linked.
fn ask(program: &Utf8Path, argument: String) -> Result<String> {
    let variables: BTreeMap<String, String> = [
        ("PATH".to_owned(), host::path()),
        ("LC_ALL".to_owned(), "C".to_owned()),
    ]
    .into();
    let invocation = Invocation::new(program.as_str())
        .arg(argument)
        .environment_exactly(variables)
        .current_dir(Utf8Path::new("/").to_owned());
    Ok(process::capture(&invocation, DEADLINE)?.stdout)
}

fn version(program: &Utf8Path) -> Result<String> {
    let text = ask(program, "--version".to_owned())?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn c_compiler(key: &Key) -> Result<&Utf8Path> {
    key.cc_on_path.as_deref().ok_or_else(|| {
        let what = "there is no C compiler (`cc`) on PATH, which rustc links with";
        Failure::new(Exit::Host, what).hint(HINT_C).into()
    })
}

/// Where the C compiler finds a linker.
fn find_linker(cc: &Utf8Path, name: &str) -> Result<Utf8PathBuf> {
    Ok(located(ask(cc, format!("-print-prog-name={name}"))?.trim()))
}

fn look_at_c(key: &Key) -> Result<(BTreeMap<String, String>, Vec<Utf8PathBuf>)> {
    let cc = c_compiler(key)?;
    let mut files = vec![cc.to_owned()];
    let mut fields: BTreeMap<String, String> = [("cc".to_owned(), version(cc)?)].into();
    let ld = find_linker(cc, "ld")?;
    fields.insert("ld".to_owned(), version(&ld)?);
    files.push(ld);
    for name in LINKED_IN {
        let path = ask(cc, format!("-print-file-name={name}"))?;
        let path = Utf8Path::new(path.trim());
        // cc gives the bare name back when it knows no such file.
        if path.is_absolute() {
            hash_linked_in(name, path, &mut fields, &mut files)?;
        }
    }
    if !fields.contains_key("linked-in libc.a") {
        let what = "the C library has no static version (libc.a)";
        return Err(Failure::new(Exit::Host, what).hint(HINT_C).into());
    }
    Ok((fields, files))
}

/// What configuration names beyond the tree.
fn look_at_given(
    key: &Key,
    config: &Config,
    rust: &Rust,
    fields: &mut BTreeMap<String, String>,
) -> Result<Given> {
    let mut given = Given::default();
    if let Some((written, place)) = &rust.linker {
        given.program(written, place)?;
        fields.insert("linker".to_owned(), version(&located(place))?);
    }
    let cc = c_compiler(key)?;
    given.flags(
        &rust.rustflags,
        |name| fields.contains_key(&format!("linked-in lib{name}.a")),
        |name| find_linker(cc, name),
    )?;
    for (file, name, value) in config.environment() {
        given.variable(file, name, value)?;
    }
    fields.extend(given.fields.clone());
    Ok(given)
}

/// Hashes a library, and those that it names when it is a linker script (`libm.a` is one).
fn hash_linked_in(
    name: &str,
    path: &Utf8Path,
    fields: &mut BTreeMap<String, String>,
    files: &mut Vec<Utf8PathBuf>,
) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    fields.insert(format!("linked-in {name}"), Digest::of(&bytes).to_string());
    files.push(path.to_owned());
    if !bytes.starts_with(b"/* GNU ld script") {
        return Ok(());
    }
    let script = String::from_utf8_lossy(&bytes).into_owned();
    for named in script
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let named = Utf8Path::new(named);
        if let Some(name) = named.file_name().filter(|_| named.is_file()) {
            hash_linked_in(name, named, fields, files)?;
        }
    }
    Ok(())
}
