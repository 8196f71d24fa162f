//! What a process leaves in the run's folder when its pod goes: what it wrote, and its exit code.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::child::Recorder;
use crate::kubernetes::pods::Pod;

/// The file of all [`Exit`]s, the oldest first.
pub const EXITS: &str = "exits.jsonl";

/// How long the rest of a log may take once its process has ended.
const REST_WITHIN: Duration = Duration::from_secs(15);

/// A process that was ended.
#[derive(Debug, Deserialize)]
pub struct Exit {
    /// The Deployment.
    pub container: String,
    /// The pod.
    pub pod: String,
    /// Unknown when nobody told.
    pub exit_code: Option<i32>,
    /// The pod did not go with it, and counts the next process as a restart.
    pub pod_stays: bool,
}

impl Exit {
    /// Whether this pod has stayed when its process was ended.
    #[must_use]
    pub fn stays(&self, pod: &Pod) -> bool {
        self.pod_stays && self.pod == pod.name()
    }
}

/// Reads [`EXITS`].
///
/// # Errors
/// When a line is none.
pub fn read_exits(text: &str) -> Result<Vec<Exit>, String> {
    let lines = text.lines().map(|line| {
        serde_json::from_str(line).map_err(|error| format!("{EXITS}: {line}: {error}"))
    });
    lines.collect()
}

/// The name of the log of one process: `id` is its container's in the runtime.
#[must_use]
pub fn log_name(container: &str, id: &str) -> String {
    let short: String = id.chars().take(12).collect();
    format!("{container}.{short}.log")
}

/// The logs of the ended processes of a container, the oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn saved_logs(folder: &Path, container: &str) -> Result<Vec<PathBuf>, String> {
    let error = |error| format!("{}: {error}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(other) => return Err(error(other)),
    };
    let mut found: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(error)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name
            .strip_suffix(".log")
            .and_then(|name| name.strip_prefix(container)?.strip_prefix('.'));
        if id.is_some_and(|id| !id.contains('.')) {
            let written = entry.metadata().and_then(|data| data.modified());
            found.push((written.map_err(error)?, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The log of a process that is about to end. It counts as saved when it is whole.
#[derive(Debug)]
pub struct Log {
    recorder: Recorder,
    part: PathBuf,
    path: PathBuf,
}

impl Log {
    /// What `recorder` writes to `part` will stand in `path`.
    #[must_use]
    pub const fn new(recorder: Recorder, part: PathBuf, path: PathBuf) -> Self {
        Self {
            recorder,
            part,
            path,
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When that does not come.
    pub fn end(self) -> Result<(), String> {
        self.recorder.end(REST_WITHIN)?;
        let renamed = fs::rename(&self.part, &self.path);
        renamed.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    /// Its process goes on after all, and will tell its log itself.
    ///
    /// # Errors
    /// When what was written cannot be removed.
    pub fn discard(self) -> Result<(), String> {
        let removed = fs::remove_file(&self.part);
        removed.map_err(|error| format!("{}: {error}", self.part.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use serde_json::json;

    use super::*;
    use crate::kubernetes::pods::tests::{listing, pod, running};

    #[test]
    fn the_logs_of_a_container_are_its_own_and_in_order() {
        let folder = tempfile::tempdir().expect("a directory");
        let write = |name: &str, age: u64| {
            let file = File::create(folder.path().join(name)).expect("a file");
            let time = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(time).expect("a time");
        };
        write(&log_name("a", "ffffffffffffffff"), 300);
        write(&log_name("a", "1111111111111111"), 200);
        write(&log_name("a-b", "2222222222222222"), 100);
        write(&log_name("a.b", "3333333333333333"), 100);
        write("a.444444444444.part", 100);
        write("a.log", 100);
        let names = |container: &str| -> Vec<String> {
            let saved = saved_logs(folder.path(), container).expect("logs");
            let names = saved.iter().filter_map(|path| path.file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names("a"), ["a.ffffffffffff.log", "a.111111111111.log"]);
        assert_eq!(names("a.b"), ["a.b.333333333333.log"]);
        let absent = folder.path().join("absent");
        assert_eq!(saved_logs(&absent, "a"), Ok(Vec::new()));
    }

    #[test]
    fn a_log_is_saved_when_it_is_whole() {
        let folder = tempfile::tempdir().expect("a directory");
        let log = |program: &str| {
            let part = folder.path().join("a.1.part");
            let file = File::create(&part).expect("a file");
            let recorder = Recorder::start(Command::new(program).arg("said"), file);
            let path = folder.path().join(log_name("a", "1"));
            Log::new(recorder.expect("a child"), part, path)
        };
        let saved = || saved_logs(folder.path(), "a").expect("logs").len();
        log("false").end().expect_err("it failed");
        assert_eq!(saved(), 0);
        log("echo").discard().expect("removed");
        assert_eq!(fs::read_dir(folder.path()).expect("a directory").count(), 0);
        log("echo").end().expect("ended");
        assert_eq!(saved(), 1);
    }

    #[test]
    fn an_exit_belongs_to_a_pod_that_stays() {
        let line = |pod: &str, stays: bool| json!({"container": "a", "pod": pod, "exit_code": 137, "pod_stays": stays});
        let lines = [line("a-1", true), line("a-1", false), line("a-2", true)];
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let exits = read_exits(&text).expect("exits");
        let deployment = crate::kubernetes::pods::tests::deployment("a", &json!([]));
        let pod = pod("a", "1", "2026-01-01T00:00:00Z", &running("a", "abc"));
        let listing = listing(&[deployment, pod]);
        let pod = listing
            .current(listing.deployment("a").expect("a"))
            .expect("a pod");
        let stays: Vec<bool> = exits.iter().map(|exit| exit.stays(pod)).collect();
        assert_eq!(stays, [true, false, false]);
        let error = read_exits("{}\n").expect_err("not an exit");
        assert!(error.starts_with("exits.jsonl: {}: "), "{error}");
    }
}
