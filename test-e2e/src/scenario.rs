//! The guard that every test opens first: it finds the run, takes the lock and writes start, end
//! and verdict to `tests.jsonl`, from which the report is made.

use std::any::Any;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::panic;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Instant;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cluster::Cluster;
use crate::compiled::Compiled;
use crate::http::Api;
use crate::run::Run;

/// Whether other tests may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Beside others that share.
    Shared,
    /// Alone: it counts metrics, sends signals to processes or makes faults.
    Exclusive,
}

/// An open test. Its end, by whatever way, is written when it is dropped.
#[derive(Debug)]
pub struct Scenario {
    run: Run,
    test: String,
    began: Instant,
    skipped: Option<String>,
    // Held until the end.
    _lock: File,
}

/// Opens the [`Scenario`] of the test function in which it stands.
#[macro_export]
macro_rules! scenario {
    ($access:ident) => {
        $crate::scenario!($access, ::core::env!("CARGO_CRATE_NAME"))
    };
    // Of a test program that is not named for the one target that it tests.
    ($access:ident, $target:expr) => {{
        fn here() {}
        $crate::Scenario::open(
            $target,
            ::core::any::type_name_of_val(&here),
            $crate::Access::$access,
            &$crate::compiled!(),
        )
    }};
}

/// Opens the [`Scenario`] of a test that not every cluster has what it needs for. Where that is so
/// there is none, the test is written down as skipped, with the reason, and must return.
#[doc(hidden)]
#[macro_export]
macro_rules! scenario_unless {
    ($lacks:ident, $access:ident) => {{
        fn here() {}
        $crate::Scenario::open_unless(
            $crate::cluster::Cluster::$lacks,
            ::core::env!("CARGO_CRATE_NAME"),
            ::core::any::type_name_of_val(&here),
            $crate::Access::$access,
            &$crate::compiled!(),
        )
    }};
}

/// Opens the [`Scenario`] of a test that needs the node: it kills or freezes a process, for which the
/// API server has no word. Where the node is out of reach there is none, the test is written down as
/// skipped, with the reason, and must return:
/// `let Some(scenario) = scenario_with_node!(Exclusive) else { return };`
#[macro_export]
macro_rules! scenario_with_node {
    ($access:ident) => {
        $crate::scenario_unless!(lacks_node, $access)
    };
}

/// The same for a test that wants several replicas, and kills some of them.
#[macro_export]
macro_rules! scenario_with_replicas {
    ($access:ident) => {
        $crate::scenario_unless!(lacks_replicas, $access)
    };
}

/// The same for a test that troubles a link between two services.
#[macro_export]
macro_rules! scenario_with_links {
    ($access:ident) => {
        $crate::scenario_unless!(lacks_links, $access)
    };
}

/// The same for a test that needs the API of Kubernetes.
#[macro_export]
macro_rules! scenario_with_kubernetes {
    ($access:ident) => {
        $crate::scenario_unless!(lacks_kubernetes, $access)
    };
}

/// The same for a test that needs that API, and the node besides.
#[macro_export]
macro_rules! scenario_with_kubernetes_node {
    ($access:ident) => {
        $crate::scenario_unless!(lacks_kubernetes_node, $access)
    };
}

/// The same for a test that shows what is refused without that API.
#[macro_export]
macro_rules! scenario_without_kubernetes {
    ($access:ident) => {
        $crate::scenario_unless!(has_kubernetes, $access)
    };
}

/// Tests whose run was killed would go on against containers that are being removed. The kernel
/// ends this process with the one that started it, see PR_SET_PDEATHSIG in prctl(2); it holds for
/// the thread that asks, so every test does. By hand, nobody's end matters.
fn end_with_the_run() {
    if std::env::var_os("E2E_RUN").is_some() {
        let kill = Some(rustix::process::Signal::KILL);
        // A kernel without it lets them end by themselves, red.
        let _ = rustix::process::set_parent_process_death_signal(kill);
    }
}

impl Scenario {
    /// Finds the run of `target`, waits for the lock and notes the start. `place` is the path of
    /// an item in the test function, `gateway::duplicates_are_counted::here`, and `files` are what
    /// the test was compiled from.
    ///
    /// # Panics
    /// When there is no run to test against, or nobody has proved what would be tested.
    #[must_use]
    #[track_caller]
    pub fn open(target: &str, place: &str, access: Access, files: &[Compiled]) -> Self {
        note_panics();
        end_with_the_run();
        let run = match Run::find(target, files) {
            Ok(run) => run,
            Err(error) => panic!("{error}"),
        };
        let lock = lock(&run.run_directory, access);
        let test = test_name(place);
        append(
            &run.run_directory.join("tests.jsonl"),
            &json!({"event": "start", "test": test, "at": now()}),
        );
        Self {
            run,
            test,
            began: Instant::now(),
            skipped: None,
            _lock: lock,
        }
    }

    /// The same for a test that needs what not every cluster has; nothing where the cluster `lacks` it,
    /// for the reason that it gives, and then the test is written down as skipped.
    ///
    /// # Panics
    /// As [`Self::open`].
    #[must_use]
    #[track_caller]
    pub fn open_unless(
        lacks: fn(&Cluster) -> Option<String>,
        target: &str,
        place: &str,
        access: Access,
        files: &[Compiled],
    ) -> Option<Self> {
        let mut scenario = Self::open(target, place, access, files);
        scenario.skipped = lacks(&scenario.run.cluster());
        match scenario.skipped {
            None => Some(scenario),
            Some(_) => None,
        }
    }

    /// What is tested.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The API of a service, as one of those who have a token there.
    #[must_use]
    #[track_caller]
    pub fn api(&self, service: &str, subject: &str) -> Api {
        Api::new(&self.run, service, "http").with_token(&self.run.token(subject, service))
    }

    /// The API of a service with nobody's token.
    #[must_use]
    #[track_caller]
    pub fn anonymous(&self, service: &str) -> Api {
        Api::new(&self.run, service, "http")
    }

    /// All lines that a service has written.
    ///
    /// # Panics
    /// When the cluster does not know its containers.
    #[must_use]
    #[track_caller]
    pub fn logs(&self, service: &str) -> String {
        let containers = self.run.service(service).containers.iter();
        let cluster = self.run.cluster();
        let text = containers.map(|name| cluster.logs(name));
        match text.collect::<Result<Vec<_>, _>>() {
            Ok(logs) => logs.join("\n"),
            Err(error) => panic!("{error}"),
        }
    }

    /// The lines that a service has written about something: JSON objects in which `field` is
    /// `value`.
    ///
    /// # Panics
    /// When the cluster does not know its containers.
    #[must_use]
    #[track_caller]
    pub fn log_lines(&self, service: &str, field: &str, value: &str) -> Vec<Value> {
        let logs = self.logs(service);
        let lines = logs.lines().filter(|line| line.contains(value));
        let objects = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        objects.filter(|object| object[field] == value).collect()
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        let note = thread::panicking().then(|| note_of(thread::current().id()));
        let verdict = match (&note, &self.skipped) {
            (Some(_), _) => "failed",
            (None, Some(_)) => "skipped",
            (None, None) => "passed",
        };
        let mut end = json!({
            "event": "end",
            "test": self.test,
            "verdict": verdict,
            "duration_ms": u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
        if let (Some(note), Some(object)) = (note, end.as_object_mut()) {
            object.insert("message".to_owned(), Value::from(note.message));
            object.insert("location".to_owned(), Value::from(note.location));
        }
        if let (Some(why), Some(object), "skipped") = (&self.skipped, end.as_object_mut(), verdict)
        {
            object.insert("message".to_owned(), Value::from(why.as_str()));
        }
        append(&self.run.run_directory.join("tests.jsonl"), &end);
    }
}

/// Now, as the journals write it.
#[must_use]
pub fn now() -> String {
    OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_else(|error| error.to_string())
}

/// Appends one line. A single write to a file opened for appending stays in one piece, so tests
/// and processes may do so at once.
///
/// # Panics
/// When it cannot be written: a verdict that is lost must not look like a test that never was.
pub(crate) fn append(path: &Path, line: &Value) {
    let text = format!("{line}\n");
    let written = File::options()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        // A panic while panicking would end the process without the other tests.
        if thread::panicking() {
            eprintln!("{}: {error}", path.display());
        } else {
            panic!("{}: {error}", path.display());
        }
    }
}

#[track_caller]
fn lock(directory: &Path, access: Access) -> File {
    let path = directory.join("tests.lock");
    let locked = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|file| {
            match access {
                Access::Shared => file.lock_shared(),
                Access::Exclusive => file.lock(),
            }?;
            Ok(file)
        });
    match locked {
        Ok(file) => file,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn test_name(place: &str) -> String {
    let inner = place.strip_suffix("::here").unwrap_or(place);
    let (_, name) = inner.split_once("::").unwrap_or(("", inner));
    name.to_owned()
}

/// What a panic said, and where.
#[derive(Clone, Debug, Default)]
struct Note {
    message: String,
    location: String,
}

static NOTES: Mutex<Option<HashMap<ThreadId, Note>>> = Mutex::new(None);

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let note = Note {
                message: message_of(info.payload()),
                location: info.location().map(ToString::to_string).unwrap_or_default(),
            };
            keep(thread::current().id(), note);
            previous(info);
        }));
    });
}

fn message_of(payload: &dyn Any) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

fn keep(thread: ThreadId, note: Note) {
    let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    notes.get_or_insert_default().insert(thread, note);
}

fn note_of(thread: ThreadId) -> Note {
    let notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
    let found = notes.as_ref().and_then(|notes| notes.get(&thread).cloned());
    found.unwrap_or_default()
}

/// A helper thread panicked, and this one is about to panic in its place.
pub(crate) fn adopt_note(from: ThreadId) {
    keep(thread::current().id(), note_of(from));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_named_by_its_function() {
        fn here() {}
        assert_eq!(test_name("gateway::duplicates::here"), "duplicates");
        assert_eq!(
            test_name(std::any::type_name_of_val(&here)),
            "scenario::tests::a_test_is_named_by_its_function"
        );
    }

    #[test]
    fn a_panic_keeps_message_and_place() {
        note_panics();
        let child = thread::spawn(|| panic!("number {}", 7));
        let id = child.thread().id();
        child.join().expect_err("it panics");
        adopt_note(id);
        let note = note_of(thread::current().id());
        assert_eq!(note.message, "number 7");
        assert!(note.location.contains("scenario.rs:"), "{}", note.location);
    }

    #[test]
    fn lines_of_many_writers_stay_whole() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("tests.jsonl");
        let long = "x".repeat(3000);
        crate::crowd::together(8, |writer| {
            for index in 0..50 {
                append(
                    &path,
                    &json!({"writer": writer, "index": index, "text": long}),
                );
            }
        });
        let text = std::fs::read_to_string(&path).expect("a file");
        let lines = text.lines().map(serde_json::from_str::<Value>);
        assert_eq!(lines.filter(Result::is_ok).count(), 400);
    }
}
