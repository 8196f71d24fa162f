//! What a mirror holds, and what it takes from the store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use camino::{Utf8Path, Utf8PathBuf};
use xtask::cache;
use xtask::source::explain::{Record, difference};
use xtask::source::mirror::Mirror;
use xtask::source::snapshot::{EntryKind, Keep, PackageSnapshot, Snapshot, read_object};

use crate::source_digest::snapshot;
use crate::source_tree::Tree;

const MAIN: &str = "services/store/src/main.rs";

/// A tree and the state that its snapshots are kept in.
struct Case {
    tree: Tree,
    _directory: tempfile::TempDir,
    state: Utf8PathBuf,
}

impl Case {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = Utf8Path::from_path(directory.path()).unwrap().to_owned();
        let tree = Tree::committed();
        Self {
            tree,
            _directory: directory,
            state,
        }
    }

    fn freeze(&self) -> Snapshot {
        snapshot(&self.tree, &Keep::Objects(self.state.clone()))
    }

    #[track_caller]
    fn sync(&self) -> Mirror {
        Mirror::sync(&self.state, store(&self.freeze())).unwrap()
    }
}

fn store(snapshot: &Snapshot) -> &PackageSnapshot {
    snapshot
        .packages()
        .find(|package| package.name().as_str() == "store")
        .unwrap()
}

/// Every file below `root`: mode, inode and text.
fn files(root: &Utf8Path) -> BTreeMap<String, (u32, u64, String)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in folder.read_dir_utf8().unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.path().symlink_metadata().unwrap();
            if metadata.is_dir() {
                pending.push(entry.path().to_owned());
                continue;
            }
            assert!(metadata.is_file(), "{}", entry.path());
            let text = fs::read_to_string(entry.path()).unwrap();
            let path = entry.path().strip_prefix(root).unwrap().to_string();
            found.insert(
                path,
                (metadata.permissions().mode() & 0o777, metadata.ino(), text),
            );
        }
    }
    found
}

#[test]
fn it_holds_the_closure_and_nothing_else() {
    let case = Case::new();
    case.tree.write("services/store/run.sh", "true\n");
    let executable = fs::Permissions::from_mode(0o700);
    fs::set_permissions(case.tree.path("services/store/run.sh"), executable).unwrap();
    symlink("../run.sh", case.tree.path("services/store/src/link.sh")).unwrap();
    symlink("../migrations", case.tree.path("services/store/src/sql")).unwrap();
    case.tree.write(
        ".cargo/config.toml",
        "[alias]\na = \"b\"\n[env]\nONE = \"1\"\n",
    );
    let mirror = case.sync();
    let files = files(mirror.root());
    let modes: Vec<(&str, u32)> = files
        .iter()
        .map(|(path, file)| (path.as_str(), file.0))
        .collect();
    assert_eq!(
        modes,
        [
            (".cargo/config.toml", 0o444),
            ("Cargo.lock", 0o644),
            ("Cargo.toml", 0o444),
            ("services/common/Cargo.toml", 0o444),
            ("services/common/src/lib.rs", 0o444),
            ("services/store/Cargo.toml", 0o444),
            ("services/store/migrations/1.sql", 0o444),
            ("services/store/run.sh", 0o555),
            ("services/store/src/link.sh", 0o555),
            (MAIN, 0o444),
            ("services/store/src/sql/1.sql", 0o444),
        ]
    );
    assert_eq!(files["services/store/src/link.sh"].2, "true\n");
    assert_eq!(
        files["services/store/src/sql/1.sql"].2,
        "CREATE TABLE one();\n"
    );
    assert_eq!(files[".cargo/config.toml"].2, "[env]\nONE = \"1\"\n");
    assert!(
        !files["Cargo.lock"].2.contains("ryu"),
        "{}",
        files["Cargo.lock"].2
    );
    let manifest = &files["Cargo.toml"].2;
    assert!(
        manifest.contains("services/common") && !manifest.contains("gate"),
        "{manifest}"
    );
}

#[test]
fn it_is_repaired_and_what_is_whole_is_left_alone() {
    let case = Case::new();
    let root = case.sync().root().to_owned();
    let before = files(&root);
    case.sync();
    assert_eq!(files(&root), before, "nothing is written twice");
    // What a build script, a hand or a cargo may do to it.
    fs::remove_file(root.join(MAIN)).unwrap();
    fs::write(root.join(MAIN), "fn main() {}\n").unwrap();
    fs::remove_file(root.join("services/common/src/lib.rs")).unwrap();
    symlink("/etc/passwd", root.join("services/common/src/lib.rs")).unwrap();
    fs::remove_file(root.join("services/store/migrations/1.sql")).unwrap();
    fs::create_dir(root.join("services/store/migrations/1.sql")).unwrap();
    fs::write(root.join("services/store/src/extra.rs"), "").unwrap();
    fs::create_dir_all(root.join("services/more/src")).unwrap();
    symlink("/etc", root.join("services/link")).unwrap();
    fs::write(root.join("Cargo.lock"), "").unwrap();
    fs::set_permissions(root.join("Cargo.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    case.sync();
    let shape = |files: BTreeMap<String, (u32, u64, String)>| {
        let shape = files
            .into_iter()
            .map(|(path, (mode, _, text))| (path, (mode, text)));
        shape.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(shape(files(&root)), shape(before));
    assert!(
        Utf8Path::new("/etc/passwd").exists(),
        "links are removed, not followed"
    );
}

#[test]
fn a_forged_time_hides_nothing() {
    let case = Case::new();
    let root = case.sync().root().to_owned();
    let path = root.join(MAIN);
    let (whole, metadata) = (fs::read(&path).unwrap(), path.metadata().unwrap());
    // The same file, the same length, the same time: the kernel's own time of change tells.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, vec![b' '; whole.len()]).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(
        path.metadata().unwrap().modified().unwrap(),
        metadata.modified().unwrap()
    );
    case.sync();
    assert!(fs::read(&path).unwrap() == whole);
}

#[test]
fn a_damaged_index_is_none() {
    let case = Case::new();
    let root = case.sync().root().to_owned();
    let index = case.state.join("src-index/store.json");
    let whole = fs::read_to_string(&index).unwrap();
    let main = fs::read(root.join(MAIN)).unwrap();
    for damaged in ["", "garbage", &whole[..whole.len() / 2], "{\"boot\":\"x\"}"] {
        fs::write(&index, damaged).unwrap();
        fs::remove_file(root.join(MAIN)).unwrap();
        fs::write(root.join(MAIN), "fn main() {}\n").unwrap();
        case.sync();
        assert!(fs::read(root.join(MAIN)).unwrap() == main, "{damaged}");
        let again: serde_json::Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
        assert!(again["files"][MAIN].is_object(), "{again}");
    }
}

#[test]
fn it_follows_the_snapshot_and_never_the_tree() {
    let case = Case::new();
    let frozen = case.freeze();
    case.tree.edit(MAIN, "one()", "two()");
    fs::remove_file(case.tree.path("services/store/migrations/1.sql")).unwrap();
    let mirror = Mirror::sync(&case.state, store(&frozen)).unwrap();
    let before = files(mirror.root());
    assert!(before[MAIN].2.contains("one()"));
    assert!(before.contains_key("services/store/migrations/1.sql"));
    case.sync();
    let after = files(mirror.root());
    assert!(after[MAIN].2.contains("two()"));
    assert!(!mirror.root().join("services/store/migrations").exists());
    assert_eq!(
        after["services/common/src/lib.rs"],
        before["services/common/src/lib.rs"]
    );
}

#[test]
fn the_index_ends_with_the_boot() {
    let case = Case::new();
    let root = case.sync().root().to_owned();
    let before = files(&root);
    let index = case.state.join("src-index/store.json");
    let text = fs::read_to_string(&index).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(text.contains(boot.trim()));
    fs::write(&index, text.replace(boot.trim(), "another boot")).unwrap();
    case.sync();
    let after = files(&root);
    assert!(
        before.iter().all(|(path, file)| after[path].1 != file.1),
        "all are written anew"
    );
}

#[test]
fn a_damaged_object_is_found_out() {
    let case = Case::new();
    case.sync();
    case.tree.edit(MAIN, "one()", "two()");
    let frozen = case.freeze();
    let entry = store(&frozen)
        .entries()
        .iter()
        .find(|entry| entry.path == MAIN)
        .unwrap();
    let EntryKind::File { digest, .. } = entry.kind else {
        panic!("{entry:?}");
    };
    let text = fs::read(case.tree.path(MAIN)).unwrap();
    assert_eq!(read_object(&case.state, digest).unwrap(), text);
    let name = digest.to_string();
    let object = case.state.join("objects").join(&name[..2]).join(&name[2..]);
    assert_eq!(
        object.metadata().unwrap().permissions().mode() & 0o777,
        0o444
    );
    fs::remove_file(&object).unwrap();
    fs::write(&object, vec![0; text.len()]).unwrap();
    let error = Mirror::sync(&case.state, store(&frozen)).unwrap_err();
    assert!(format!("{error:#}").contains("is damaged"), "{error:#}");
    assert!(
        !case.state.join("src-index/store.json").exists(),
        "a tree half made has no index"
    );
    fs::write(&object, "").unwrap();
    case.freeze();
    assert_eq!(
        read_object(&case.state, digest).unwrap(),
        text,
        "one cut short is written again"
    );
}

/// The lengths of the objects that a collection by age removes.
fn collected(state: &Utf8Path) -> Vec<u64> {
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    let removed = cache::collect(&state.join("objects"), day).unwrap();
    removed.into_iter().map(|file| file.bytes).collect()
}

#[test]
fn objects_are_written_once_and_collected_by_age() {
    let case = Case::new();
    case.freeze();
    let before = files(&case.state.join("objects"));
    case.freeze();
    assert_eq!(files(&case.state.join("objects")), before);
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    assert!(collected(&case.state).is_empty());
    let old = std::time::SystemTime::now() - 30 * day;
    let (path, (_, _, text)) = before.first_key_value().unwrap();
    let object = case.state.join("objects").join(path);
    fs::File::open(&object).unwrap().set_modified(old).unwrap();
    assert_eq!(collected(&case.state), [text.len() as u64]);
    assert_eq!(files(&case.state.join("objects")).len(), before.len() - 1);
    case.freeze();
    assert_eq!(files(&case.state.join("objects")).len(), before.len());
}

#[test]
fn an_object_in_use_grows_young_again() {
    let case = Case::new();
    case.freeze();
    let day = std::time::Duration::from_secs(24 * 60 * 60);
    for path in files(&case.state.join("objects")).keys() {
        let object = fs::File::open(case.state.join("objects").join(path)).unwrap();
        object
            .set_modified(std::time::SystemTime::now() - 30 * day)
            .unwrap();
    }
    case.freeze();
    assert!(collected(&case.state).is_empty());
}

#[test]
fn differences_are_told_from_the_records_of_earlier_runs() {
    let case = Case::new();
    let before = case.freeze();
    let record = Record::find(&case.state, store(&before).source())
        .unwrap()
        .unwrap();
    assert_eq!(record, Record::of(store(&before)));
    case.tree.edit(MAIN, "one()", "two()");
    case.tree.write("services/store/migrations/2.sql", "");
    fs::remove_file(case.tree.path("services/store/migrations/1.sql")).unwrap();
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(case.tree.path("services/common/src/lib.rs"), executable).unwrap();
    case.tree.edit("Cargo.toml", "debug = 0", "debug = 1");
    case.tree.edit("Cargo.lock", "1.0.15", "1.0.16");
    let after = Record::of(store(&case.freeze()));
    let told: Vec<String> = difference(&record, &after)
        .iter()
        .map(ToString::to_string)
        .collect();
    let registry = "(registry+https://github.com/rust-lang/crates.io-index)";
    assert_eq!(
        told,
        [
            // `common` reaches it, so the entry of `common` differs as well.
            "changed Cargo.lock (common 0.1.0)".to_owned(),
            format!("removed Cargo.lock (itoa 1.0.15 {registry})"),
            format!("added Cargo.lock (itoa 1.0.16 {registry})"),
            "changed Cargo.toml".to_owned(),
            "changed services/common/src/lib.rs (executable bit)".to_owned(),
            "removed services/store/migrations/1.sql".to_owned(),
            "added services/store/migrations/2.sql".to_owned(),
            format!("changed {MAIN}"),
        ]
    );
    assert!(difference(&record, &record).is_empty());
}

#[test]
fn a_lock_with_what_was_not_frozen_is_refused() {
    let case = Case::new();
    let frozen = case.freeze();
    let mirror = Mirror::sync(&case.state, store(&frozen)).unwrap();
    mirror.check_lock(store(&frozen)).unwrap();
    let lock = mirror.root().join("Cargo.lock");
    let text = fs::read_to_string(&lock).unwrap();
    for (from, to, named) in [
        ("1.0.15", "1.0.16", "common"),
        ("4a5f13b8", "4a5f13b9", "itoa"),
        ("\"common 0.1.0\",", "\"common 0.1.0\", \"itoa\",", "store"),
        (
            "version = 4\n",
            "version = 4\n[[package]]\nname = \"new\"\nversion = \"0.1.0\"\n",
            "new",
        ),
    ] {
        assert!(text.contains(from), "`{from}` is not in {text}");
        fs::write(&lock, text.replace(from, to)).unwrap();
        let error = mirror.check_lock(store(&frozen)).unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains(&format!("wants `{named} ")), "{said}");
    }
}
