//! The secrets of a run, made for this very workspace: who gets which token, and who may read it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use xtask::secrets::Secrets;
use xtask::source::workspace::Workspace;

struct Made {
    secrets: Secrets,
    _folder: tempfile::TempDir,
}

fn make(target: &str) -> Made {
    let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let workspace = Workspace::load(root).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let run = Utf8PathBuf::try_from(folder.path().to_owned()).unwrap();
    let secrets = Secrets::make(&workspace, workspace.target(target).unwrap(), &run).unwrap();
    Made {
        secrets,
        _folder: folder,
    }
}

impl Made {
    fn read(&self, path: &str) -> String {
        let path = self.secrets.directory.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn mode(&self, path: &str) -> u32 {
        let metadata = fs::metadata(self.secrets.directory.join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    }
}

#[test]
fn a_caller_holds_the_token_that_its_callee_accepts() {
    let made = make("gateway");
    let token = made.read("mounts/gateway/datastorage-token");
    assert_eq!(token, made.read("tokens/gateway@datastorage"));
    assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let accepted: Value =
        serde_json::from_str(&made.read("mounts/datastorage/tokens.json")).unwrap();
    let tokens = accepted["tokens"].as_array().unwrap();
    let entry = tokens
        .iter()
        .find(|entry| entry["subject"] == "gateway")
        .unwrap();
    assert_eq!(
        (&entry["token"], &entry["role"]),
        (&token.into(), &"write".into())
    );
    // A test of gateway may act as a service that is not among its needs.
    assert_eq!(made.read("tokens/workflowexecution@datastorage").len(), 64);
    let password = made.read("passwords/datastorage-owner");
    assert_eq!(password, made.read("mounts/postgres/owner-password"));
    assert_eq!(password, made.read("mounts/datastorage/owner-password"));
    assert_ne!(password, made.read("mounts/datastorage/database-password"));
}

#[test]
fn no_two_runs_and_no_two_callers_share_a_token() {
    let (one, other) = (make("pipeline"), make("pipeline"));
    let mut seen = BTreeSet::new();
    let mut count = 0;
    for made in [&one, &other] {
        for folder in ["tokens", "passwords"] {
            for entry in made.secrets.directory.join(folder).read_dir_utf8().unwrap() {
                seen.insert(fs::read_to_string(entry.unwrap().path()).unwrap());
                count += 1;
            }
        }
    }
    assert!(count > 20, "{count}");
    assert_eq!(seen.len(), count);
}

#[test]
fn only_the_owner_gets_in_and_what_is_mounted_can_be_read() {
    let made = make("gateway");
    assert_eq!(made.mode(""), 0o700);
    assert_eq!(made.mode("tokens"), 0o700);
    assert_eq!(made.mode("tokens/gateway@datastorage"), 0o600);
    assert_eq!(made.mode("passwords/datastorage-owner"), 0o600);
    assert_eq!(made.mode("mounts/gateway"), 0o755);
    assert_eq!(made.mode("mounts/gateway/tokens.json"), 0o444);
}
