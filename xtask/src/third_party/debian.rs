//! An image from Debian packages: mmdebstrap makes the root file system, we put it under a config
//! of ours. It is made again when apt knows other versions, and looked up otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Recipe, ThirdPartyImage, User};
use crate::digest::Digest;
use crate::engine::{Archive, Engine, ImageFacts};
use crate::exit::{Exit, Failure};
use crate::host::room::{self, Need};
use crate::host::{self, Stamp};
use crate::process::{self, Echo, Invocation};
use crate::report;
use crate::report::live::Activity;

/// tar counts in these.
const TAR_BLOCK_BYTES: u64 = 512;
/// Bumped when what is made of the same packages changes.
const SCHEMA: u32 = 1;
/// Downloading and unpacking on a slow line.
const MAKE_DEADLINE: Duration = Duration::from_secs(1200);
/// apt reads its lists: a second or two.
const PLAN_DEADLINE: Duration = Duration::from_secs(60);
/// How long an image is used where the host's apt cannot tell the versions of that suite.
const UNTOLD_HOLDS: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the archive of another checkout's list of packages is kept.
const RECORD_HOLDS: Duration = Duration::from_secs(30 * 24 * 3600);
const LABEL_VERSIONS: &str = "phase-zero.package-versions";
/// What nobody reads in a container.
const LEFT_OUT: [&str; 4] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
];

/// An image that was made here.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// apt's lists when the plan was made.
    lists: Vec<Stamp>,
    /// Of the versions that apt would have installed; nothing where it could not tell.
    plan: Option<Digest>,
    /// Of the versions that were installed.
    versions: Digest,
    /// `postgresql-15 15.18-0+deb12u1`, for people.
    main: String,
    suite: String,
    reference: String,
    image_id: String,
    archive: Utf8PathBuf,
    made_at: SystemTime,
}

impl Record {
    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    /// Whether the engine's image of that name is the one that was made.
    pub(super) fn is(&self, facts: &ImageFacts) -> bool {
        facts.id == self.image_id
    }

    pub(super) fn image(&self, name: &str, how: &str) -> ThirdPartyImage {
        ThirdPartyImage {
            name: name.to_owned(),
            reference: self.reference.clone(),
            image_id: self.image_id.clone(),
            origin: format!("debian {}, {}, {how}", self.suite, self.main),
        }
    }
}

impl Archive for Record {
    fn path(&self) -> &Utf8Path {
        &self.archive
    }
}

/// What the cache knows of this recipe, current or not.
pub(super) fn recorded(engine: &Engine, name: &str, recipe: &Recipe) -> Option<Record> {
    host::read_cached(&record_path(engine, name, recipe).ok()?)
}

/// Whether apt would still install the same versions. Cheap as long as its lists are the same.
pub(super) fn is_current(engine: &Engine, name: &str, recipe: &Recipe, record: &Record) -> bool {
    let lists = lists();
    let age = age(record);
    if record.lists == lists {
        return record.plan.is_some() || age < UNTOLD_HOLDS;
    }
    let plan = plan(recipe);
    if plan != record.plan || (plan.is_none() && age >= UNTOLD_HOLDS) {
        return false;
    }
    let renewed = Record {
        lists,
        ..record.clone()
    };
    // Only the shortcut of the next run is at stake.
    drop(record_path(engine, name, recipe).and_then(|path| host::write_cached(&path, &renewed)));
    true
}

/// A clock that was set back makes nothing old.
fn age(record: &Record) -> Duration {
    record.made_at.elapsed().unwrap_or_default()
}

/// Makes the image and loads it, unless another run has done so meanwhile.
pub(super) fn provide(
    engine: &Engine,
    name: &str,
    recipe: &Recipe,
    activity: &Activity,
) -> Result<ThirdPartyImage> {
    let _lock = host::lock(&format!("third-party-{name}"))?;
    let known =
        recorded(engine, name, recipe).filter(|record| is_current(engine, name, recipe, record));
    if let Some(record) = known.filter(|record| record.archive.is_file()) {
        match bring(engine, &record) {
            Ok(()) => return Ok(record.image(name, "from the cache")),
            Err(error) if !may_be_damaged(&error) => return Err(error),
            Err(error) => report::note(&format!(
                "{} gives no image, so it is made anew: {error:#}",
                record.archive
            )),
        }
    }
    let record = make(engine, name, recipe, activity)?;
    bring(engine, &record)?;
    Ok(record.image(name, "made now"))
}

/// Sees to it that the engine has the image of this record: that, and no other under its name.
fn bring(engine: &Engine, record: &Record) -> Result<()> {
    let has = || -> Result<bool> {
        let found = engine.images([record.reference.as_str()])?;
        let facts = found.get(&record.reference);
        Ok(facts.is_some_and(|facts| record.is(facts)))
    };
    if has()? {
        return Ok(());
    }
    engine.load(record)?;
    if !has()? {
        bail!(
            "{} was loaded from {}, and {} does not list it as {}",
            record.reference,
            record.archive,
            engine.kind.program(),
            record.image_id
        );
    }
    Ok(())
}

/// A signal, and a lack of room, are no fault of the archive, and the next one would fare alike.
fn may_be_damaged(error: &anyhow::Error) -> bool {
    let lacks_room =
        report::exit_of(error) == Exit::Host || room::says_disk_full(&format!("{error:#}"));
    !report::is_signal(error) && !lacks_room
}

fn folder() -> Result<Utf8PathBuf> {
    let folder = host::cache_directory()?.join("third-party");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
    Ok(folder)
}

fn record_path(engine: &Engine, name: &str, recipe: &Recipe) -> Result<Utf8PathBuf> {
    let made_of = serde_json::to_vec(&(SCHEMA, recipe, &engine.platform, LEFT_OUT))?;
    Ok(folder()?.join(format!("{name}-{}.json", Digest::of(&made_of).short())))
}

/// apt's lists, and where they come from.
fn lists() -> Vec<Stamp> {
    let names = |folder: &str| -> Vec<Utf8PathBuf> {
        let entries = Utf8Path::new(folder)
            .read_dir_utf8()
            .into_iter()
            .flatten()
            .flatten();
        let mut paths: Vec<Utf8PathBuf> = entries
            .map(|entry| entry.into_path())
            .filter(|path| path.as_str().contains("_Packages") || folder.starts_with("/etc"))
            .collect();
        paths.sort();
        paths
    };
    names("/var/lib/apt/lists")
        .into_iter()
        .chain(names("/etc/apt/sources.list.d"))
        .chain([Utf8PathBuf::from("/etc/apt/sources.list")])
        .map(host::stamp)
        .collect()
}

/// The versions that the host's apt would install into an empty root; nothing where it knows
/// another suite or nothing at all. Asks no network.
fn plan(recipe: &Recipe) -> Option<Digest> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let codename = format!("VERSION_CODENAME={}", recipe.suite);
    if !release.lines().any(|line| line.trim() == codename) {
        return None;
    }
    let ask = Invocation::new(host::program("apt-get")?.as_str())
        .args([
            "-o",
            "Dir::State::status=/dev/null",
            "-o",
            "Debug::NoLocking=1",
        ])
        .args([
            "--print-uris",
            "-qq",
            "-y",
            "--no-install-recommends",
            "install",
        ])
        .args(["?essential", "apt"])
        .args(recipe.packages.iter().map(String::as_str));
    let output = process::capture(&ask, PLAN_DEADLINE).ok()?;
    let mut names: Vec<&str> = output
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|name| name.ends_with(".deb"))
        .collect();
    names.sort_unstable();
    (!names.is_empty()).then(|| Digest::of(names.join("\n").as_bytes()))
}

fn make(engine: &Engine, name: &str, recipe: &Recipe, activity: &Activity) -> Result<Record> {
    let folder = folder()?;
    demand_room(engine, &folder)?;
    let lists = lists();
    let plan = plan(recipe);
    let temporary = tempfile::tempdir_in(&folder).context("cannot make a temporary folder")?;
    let work = Utf8PathBuf::try_from(temporary.path().to_owned())?;
    let rootfs = work.join("rootfs.tar");
    let installed_root = work.join("installed.tar");
    mmdebstrap(recipe, &installed_root, activity)?;
    activity.say("packing it");
    without(&installed_root, &recipe.leave_out, &rootfs)?;
    let contents = read_rootfs(&rootfs)?;
    let versions = installed(&contents)?;
    let joined = Digest::of(versions.join("\n").as_bytes());
    let reference = format!("localhost/third-party/{name}:debian-{}", joined.short());
    let archive = work.join("image.tar");
    let image_id = Assembly {
        engine,
        recipe,
        contents: &contents,
        versions: joined,
        reference: &reference,
    }
    .write(&rootfs, &archive)?;
    let kept = folder.join(format!("{name}-{}.tar", image_id.short()));
    fs::rename(&archive, &kept).with_context(|| format!("cannot move {archive} to {kept}"))?;
    let main = versions
        .iter()
        .find(|line| {
            recipe
                .packages
                .iter()
                .any(|package| line.starts_with(&format!("{package} ")))
        })
        .cloned()
        .unwrap_or_default();
    let record = Record {
        lists,
        plan,
        versions: joined,
        main,
        suite: recipe.suite.clone(),
        reference,
        image_id: image_id.oci(),
        archive: kept,
        made_at: SystemTime::now(),
    };
    host::write_cached(&record_path(engine, name, recipe)?, &record)?;
    collect(&folder, name)?;
    Ok(record)
}

/// The image of PostgreSQL was 374 MB in 9,300 files in the engine, and a tar file as large, of
/// which there are three while it is made; mmdebstrap installs into a temporary folder.
fn demand_room(engine: &Engine, folder: &Utf8Path) -> Result<()> {
    const IMAGE_BYTES: u64 = 374_000_000;
    const IMAGE_FILES: u64 = 9_300;
    let need = |what, path: &Utf8Path, bytes, files, fix| Need {
        what,
        path: path.to_owned(),
        bytes,
        files,
        fix,
    };
    let temporary = Utf8PathBuf::try_from(std::env::temp_dir())?;
    let mut needs = vec![
        need(
            "archives of the image",
            folder,
            3 * IMAGE_BYTES,
            10,
            "free room there, or name a folder for caches on a larger disk: XDG_CACHE_HOME=<folder>",
        ),
        need(
            "what is installed for it",
            &temporary,
            IMAGE_BYTES,
            IMAGE_FILES,
            "free room there, or name a temporary folder on a larger disk: TMPDIR=<folder>",
        ),
    ];
    needs.extend(engine.storage.iter().map(|storage| {
        need(
            "a third-party image",
            storage,
            IMAGE_BYTES,
            IMAGE_FILES,
            "free room there: the engine's `system df` shows what it keeps",
        )
    }));
    room::demand(&room::judge_disks(&needs, room::space))
}

/// Removes what no record of this image names any more, and records that are old: each archive is
/// as big as the image. The caller holds the lock.
fn collect(folder: &Utf8Path, name: &str) -> Result<()> {
    let prefix = format!("{name}-");
    let mut kept = BTreeSet::new();
    let mut archives = Vec::new();
    for entry in folder.read_dir_utf8()? {
        let path = entry?.into_path();
        if !path
            .file_name()
            .is_some_and(|file| file.starts_with(&prefix))
        {
            continue;
        }
        match path.extension() {
            Some("tar") => archives.push(path),
            Some("json") => match host::read_cached::<Record>(&path) {
                Some(record) if age(&record) < RECORD_HOLDS => {
                    kept.insert(record.archive);
                }
                _ => fs::remove_file(&path)?,
            },
            _ => {}
        }
    }
    for archive in archives.iter().filter(|archive| !kept.contains(*archive)) {
        fs::remove_file(archive).with_context(|| format!("cannot remove {archive}"))?;
    }
    Ok(())
}

fn mmdebstrap(recipe: &Recipe, rootfs: &Utf8Path, activity: &Activity) -> Result<()> {
    let Some(program) = host::program("mmdebstrap") else {
        return Err(Failure::new(Exit::Host, "mmdebstrap is not installed")
            .hint("`cargo xtask setup --yes` installs it")
            .into());
    };
    report::note(&format!(
        "making an image from Debian {} with {}; this takes a minute and is done once",
        recipe.suite,
        recipe.packages.join(", ")
    ));
    let make = Invocation::new(program.as_str())
        // The same packages give the same bytes.
        .env("SOURCE_DATE_EPOCH", "1")
        .args(["--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", recipe.packages.join(",")))
        .args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")))
        .args([recipe.suite.as_str(), rootfs.as_str()]);
    let log = rootfs.with_extension("log");
    let code = process::stream(
        &make,
        Some(&log),
        Echo::Told(activity.teller()),
        MAKE_DEADLINE,
    )?;
    if code == 0 {
        return Ok(());
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n  ");
    Err(Failure::new(
        Exit::Host,
        format!("command ended with {code}: {make}\n  {tail}"),
    )
    .hint("it needs a Debian mirror: see that `apt-get update` works here")
    .into())
}

/// Copies an archive, byte for byte, but for the entries at and below these paths.
fn without(from: &Utf8Path, paths: &[String], to: &Utf8Path) -> Result<()> {
    let mut bytes = File::open(from).with_context(|| format!("cannot read {from}"))?;
    let mut out = File::create(to).with_context(|| format!("cannot write {to}"))?;
    let entries = bytes.try_clone().context("cannot open it twice")?;
    let mut kept = Vec::new();
    let mut begin = 0;
    for entry in tar::Archive::new(entries).entries_with_seek()? {
        let entry = entry.with_context(|| format!("cannot read {from}"))?;
        // An entry takes its extended headers along: they stand between it and its predecessor.
        let end = entry.raw_file_position() + entry.size().next_multiple_of(TAR_BLOCK_BYTES);
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = format!("/{}", path.trim_start_matches("./"));
        let is_left_out = paths.iter().any(|left_out| {
            path.strip_prefix(left_out.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if !is_left_out {
            kept.push(begin..end);
        }
        begin = end;
    }
    for range in kept {
        bytes.seek(SeekFrom::Start(range.start))?;
        let length = range.end - range.start;
        let copied = std::io::copy(&mut Read::by_ref(&mut bytes).take(length), &mut out)?;
        if copied != length {
            bail!("{from} ends within an entry");
        }
    }
    // Two empty blocks end an archive.
    out.write_all(&[0; 2 * TAR_BLOCK_BYTES as usize])?;
    Ok(())
}

/// What must be known of a root file system.
struct RootContents {
    passwd: String,
    group: String,
    dpkg_status: String,
}

fn read_rootfs(rootfs: &Utf8Path) -> Result<RootContents> {
    let wanted = ["etc/passwd", "etc/group", "var/lib/dpkg/status"];
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    let file = File::open(rootfs).with_context(|| format!("cannot read {rootfs}"))?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let mut entry = entry.with_context(|| format!("cannot read {rootfs}"))?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./");
        if let Some(name) = wanted.iter().find(|name| **name == path) {
            let mut text = String::new();
            entry.read_to_string(&mut text)?;
            found.insert(name, text);
        }
    }
    let mut take = |name: &str| {
        found
            .remove(name)
            .with_context(|| format!("{rootfs} holds no {name}"))
    };
    Ok(RootContents {
        passwd: take(wanted[0])?,
        group: take(wanted[1])?,
        dpkg_status: take(wanted[2])?,
    })
}

/// `name version` of every installed package, sorted.
fn installed(contents: &RootContents) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for paragraph in contents.dpkg_status.split("\n\n") {
        let field = |name: &str| {
            let prefix = format!("{name}: ");
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix(&prefix))
        };
        if let (Some(name), Some(version), Some("install ok installed")) =
            (field("Package"), field("Version"), field("Status"))
        {
            versions.push(format!("{name} {version}"));
        }
    }
    versions.sort();
    if versions.is_empty() {
        bail!("the root file system holds no installed package");
    }
    Ok(versions)
}

/// An image of two layers: the root file system as it was made, and the user on top.
struct Assembly<'a> {
    engine: &'a Engine,
    recipe: &'a Recipe,
    contents: &'a RootContents,
    versions: Digest,
    reference: &'a str,
}

impl Assembly<'_> {
    /// Writes an archive that podman, docker and containerd read; gives the image ID.
    fn write(&self, rootfs: &Utf8Path, archive: &Utf8Path) -> Result<Digest> {
        let mut base = File::open(rootfs).with_context(|| format!("cannot read {rootfs}"))?;
        let (base_digest, base_bytes) = Digest::of_reader(&base)?;
        base.rewind()?;
        let user = self.user_layer()?;
        let user_digest = Digest::of(&user);
        let config = serde_json::to_vec(&self.config(&[base_digest, user_digest]))?;
        let config_digest = Digest::of(&config);
        let layer = |digest: Digest, size: u64| json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest.oci(), "size": size});
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest.oci(), "size": config.len()},
            "layers": [layer(base_digest, base_bytes), layer(user_digest, user.len() as u64)],
        }))?;
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(&manifest).oci(),
                "size": manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": self.reference},
            }],
        });
        let docker = json!([{
            "Config": blob(config_digest),
            "RepoTags": [self.reference],
            "Layers": [blob(base_digest), blob(user_digest)],
        }]);
        let mut out = tar::Builder::new(
            File::create(archive).with_context(|| format!("cannot write {archive}"))?,
        );
        append(&mut out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        append(&mut out, "index.json", &serde_json::to_vec(&index)?)?;
        append(&mut out, "manifest.json", &serde_json::to_vec(&docker)?)?;
        append(&mut out, &blob(config_digest), &config)?;
        append(&mut out, &blob(Digest::of(&manifest)), &manifest)?;
        append(&mut out, &blob(user_digest), &user)?;
        let mut header = header(base_bytes);
        out.append_data(&mut header, blob(base_digest), base)?;
        out.into_inner()?.sync_all()?;
        Ok(config_digest)
    }

    fn config(&self, layers: &[Digest]) -> Value {
        let layers: Vec<String> = layers.iter().map(Digest::oci).collect();
        json!({
            "architecture": self.engine.platform.architecture,
            "os": self.engine.platform.os,
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "User": format!("{}:{}", self.recipe.user.uid, self.recipe.user.gid),
                "WorkingDir": "/",
                "Labels": {LABEL_VERSIONS: self.versions.to_string()},
            },
            "rootfs": {"type": "layers", "diff_ids": layers},
        })
    }

    /// `/etc/passwd` and `/etc/group` with the user under the number that the manifest names.
    fn user_layer(&self) -> Result<Vec<u8>> {
        let User { name, uid, gid } = &self.recipe.user;
        let passwd = with_line(
            &self.contents.passwd,
            name,
            &format!("{name}:x:{uid}:{gid}::/var/lib/{name}:/usr/sbin/nologin"),
        );
        let group = with_line(&self.contents.group, name, &format!("{name}:x:{gid}:"));
        let mut layer = tar::Builder::new(Vec::new());
        append(&mut layer, "etc/group", group.as_bytes())?;
        append(&mut layer, "etc/passwd", passwd.as_bytes())?;
        Ok(layer.into_inner()?)
    }
}

/// The file with this line in place of the one of the same name.
fn with_line(text: &str, name: &str, line: &str) -> String {
    let prefix = format!("{name}:");
    let others = text.lines().filter(|line| !line.starts_with(&prefix));
    let lines: Vec<&str> = others.chain([line]).collect();
    lines.join("\n") + "\n"
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

fn header(size_bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(out: &mut tar::Builder<impl std::io::Write>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(bytes.len() as u64);
    out.append_data(&mut header, path, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Read as _;

    use camino::Utf8Path;

    use super::{append, may_be_damaged, with_line, without};
    use crate::exit::{Exit, Failure};

    /// An image is made anew for a damaged archive alone: it takes minutes.
    #[test]
    fn a_signal_and_a_full_disk_are_no_damage() {
        let failed = |exit, words: &str| Failure::new(exit, words.to_owned()).into();
        for (exit, words, damaged) in [
            (Exit::Internal, "untarring file: unexpected EOF", true),
            (
                Exit::Internal,
                "writing blob: no space left on device",
                false,
            ),
            (Exit::Host, "there is not enough room here", false),
            (Exit::Interrupted, "interrupted", false),
        ] {
            assert_eq!(may_be_damaged(&failed(exit, words)), damaged, "{words}");
        }
    }

    /// Names and contents of an archive.
    fn listed(path: &Utf8Path) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), text)
        });
        entries.collect()
    }

    #[test]
    fn what_is_left_out_takes_nothing_along() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (from, to) = (folder.join("from.tar"), folder.join("to.tar"));
        // A long name has a header of its own before the entry.
        let long = format!("./keep/{}", "x".repeat(150));
        let gone = format!("./gone/{}", "y".repeat(150));
        let mut out = tar::Builder::new(File::create(&from).unwrap());
        for (path, text) in [
            ("./a", "1"),
            (&gone, "2"),
            (&long, "3"),
            ("./gone", ""),
            ("./goner", "4"),
        ] {
            append(&mut out, path, text.as_bytes()).unwrap();
        }
        out.into_inner().unwrap();
        without(&from, &["/gone".to_owned()], &to).unwrap();
        let mut expected = listed(&from);
        expected.retain(|(path, _)| path != "gone" && !path.contains("gone/"));
        assert_eq!(listed(&to), expected);
        assert_eq!(expected.len(), 3);
        without(&from, &[], &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), fs::read(&from).unwrap());
    }

    #[test]
    fn a_user_gets_one_line() {
        let text = "root:x:0:0::/root:/bin/x\npostgres:x:100:102::/x:/bin/x\n";
        let line = "postgres:x:999:999::/x:/bin/false";
        let expected = "root:x:0:0::/root:/bin/x\npostgres:x:999:999::/x:/bin/false\n";
        assert_eq!(with_line(text, "postgres", line), expected);
        assert_eq!(with_line(expected, "postgres", line), expected);
    }
}
