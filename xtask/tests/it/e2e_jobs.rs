//! Several targets at a time, without an engine: of three targets two are red at once, for want of
//! their manifests, and the third waits for a podman that never answers.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use xtask::poll::{self, Look};

use crate::bundle::manifest;
use crate::source_tree::Tree;

const DEADLINE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A checkout, and a podman beside it.
struct Desk {
    tree: Tree,
}

impl Desk {
    fn new() -> Self {
        let tree = Tree::bare();
        for (name, answers) in [
            ("podman", json!([{"hangs": true}])),
            ("cc", json!([{}])),
            ("cargo", json!([{}])),
        ] {
            tree.write(&format!("programs/{name}.json"), &answers.to_string());
            let program = tree.path("programs").join(name);
            symlink(env!("CARGO_BIN_EXE_fake-program"), program).unwrap();
        }
        let pin = "[postgres]\nimage = \"docker.io/library/postgres:15-bookworm\"\n";
        tree.write("deploy/images.toml", pin);
        for name in ["store", "postgres"] {
            tree.write(&format!("deploy/{name}.yaml"), &manifest(name));
        }
        tree.write("test-e2e/tests/gate.rs", "#[test] fn opens() {}\n");
        Self { tree }
    }

    /// `store` hangs, `gate` and `pipeline` are red.
    fn begin(&self, options: &[&str]) -> Child {
        let file = |name: &str| File::create(self.tree.path(name)).unwrap();
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["e2e", "store", "gate", "pipeline", "--engine", "podman"])
            .args(options)
            .current_dir(self.tree.root())
            .env("PATH", self.tree.path("programs"))
            .env("CARGO", self.tree.path("programs/cargo"))
            .env("CARGO_TARGET_DIR", self.tree.path("target"))
            .env("XDG_CACHE_HOME", self.tree.path("cache"))
            .env_remove("CONTAINERS_CONF")
            .env_remove("E2E_CLUSTER")
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.tree.path(path)).unwrap_or_default()
    }

    /// Waits until something stands in a file.
    #[track_caller]
    fn until(&self, path: &str, words: &str) {
        let seen = poll::until(words, DEADLINE, LOOK_INTERVAL, || {
            let text = self.read(path);
            match text.contains(words) {
                true => Ok(Look::Found(())),
                false => Ok(Look::NotYet(text)),
            }
        });
        seen.unwrap();
    }

    /// The row of a target in the table.
    fn row(&self, target: &str) -> String {
        let table = self.read("stdout");
        let mut rows = table.lines();
        let row = rows.find(|row| row.starts_with(&format!("{target} ")));
        row.unwrap_or_else(|| panic!("no row of {target} in: {table}"))
            .to_owned()
    }

    /// The receipt of the one run of a target, if it has begun one.
    fn receipt(&self, target: &str) -> Option<Value> {
        let runs = self.tree.path("target/e2e/runs").read_dir_utf8().ok()?;
        let prefix = format!("{target}-");
        let mut runs = runs.map(Result::unwrap);
        let run = runs.find(|run| run.file_name().starts_with(&prefix))?;
        let text = fs::read_to_string(run.path().join("receipt.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    #[track_caller]
    fn until_verdict(&self, target: &str, verdict: &str) {
        let seen = poll::until(verdict, DEADLINE, LOOK_INTERVAL, || {
            let receipt = self.receipt(target);
            let found = receipt.map(|receipt| receipt["verdict"].clone());
            match found.as_ref().and_then(Value::as_str) == Some(verdict) {
                true => Ok(Look::Found(())),
                false => Ok(Look::NotYet(format!("{found:?}"))),
            }
        });
        seen.unwrap();
    }

    /// No process of this checkout lives, and nothing of it lies in the way of the next command.
    #[track_caller]
    fn nothing_is_left(&self) {
        let program = self.tree.path("programs/podman");
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
        let living: Vec<_> = lines.filter(|it| it.contains(program.as_str())).collect();
        assert_eq!(living, Vec::<String>::new());
        let state = self.tree.path("target/e2e").read_dir_utf8().unwrap();
        let names = state.map(|entry| entry.unwrap().file_name().to_owned());
        let left: Vec<_> = names.filter(|it| it.starts_with("jobs-")).collect();
        assert_eq!(left, Vec::<String>::new());
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn one_that_is_red_stops_no_other_and_ctrl_c_ends_all() {
    let desk = Desk::new();
    let report = desk.tree.path("report");
    let mut command = desk.begin(&["--jobs", "2", "--report", report.as_str()]);
    // Two places: the third begins when the second has ended, and the first hangs.
    desk.until("stderr", "red pipeline; it said:");
    desk.until_verdict("store", "running");
    send(&command, Signal::INT);
    assert_eq!(command.wait().unwrap().code(), Some(130));
    let told = desk.read("stderr");
    for words in [
        "store begins",
        "red gate; it said:",
        "Ctrl-C: ending each run and cleaning up",
        "ended store: ended by Ctrl-C",
        "error: ended by Ctrl-C",
    ] {
        assert!(told.contains(words), "`{words}` is not in: {told}");
    }
    // What each says of itself stands in one piece, though they went side by side.
    let why = "error: cannot read deploy/gate.yaml\n  because: No such file";
    assert_eq!(told.matches(why).count(), 2, "{told}");
    assert!(desk.row("store").contains("red (ended by Ctrl-C)"));
    assert!(desk.row("gate").contains("gate.yaml"));
    assert_eq!(desk.receipt("store").unwrap()["verdict"], "interrupted");
    for folder in ["target/e2e", "report"] {
        let junit = desk.read(&format!("{folder}/junit.xml"));
        assert_eq!(junit.matches("<testsuite ").count(), 3, "{junit}");
        assert!(
            junit.contains("tests=\"3\" skipped=\"0\" failures=\"0\" errors=\"3\""),
            "{junit}"
        );
        assert!(
            desk.read(&format!("{folder}/report.html"))
                .contains("pipeline")
        );
    }
    assert!(desk.read("report/gate/output.log").contains("gate.yaml"));
    desk.nothing_is_left();
}

#[test]
fn failing_fast_ends_those_that_run_and_begins_no_more() {
    let desk = Desk::new();
    let mut command = desk.begin(&["--jobs", "2", "--fail-fast"]);
    // The code of the one that is red, not of those that were ended for its sake.
    assert_eq!(command.wait().unwrap().code(), Some(6));
    let given_up = "another target is red (--fail-fast)";
    assert!(desk.row("store").contains(&format!("ended: {given_up}")));
    assert!(
        desk.row("pipeline")
            .contains(&format!("not run: {given_up}"))
    );
    assert!(desk.receipt("pipeline").is_none());
    assert_eq!(desk.receipt("store").unwrap()["verdict"], "interrupted");
    desk.nothing_is_left();

    // One after the other it is the same.
    let desk = Desk::new();
    desk.tree.write("programs/podman.json", "[]");
    let mut command = desk.begin(&["--fail-fast"]);
    assert_eq!(command.wait().unwrap().code(), Some(3));
    for target in ["gate", "pipeline"] {
        assert!(desk.row(target).contains(&format!("not run: {given_up}")));
        assert!(desk.receipt(target).is_none());
    }
    let junit = desk.read("target/e2e/junit.xml");
    assert_eq!(junit.matches("<testsuite ").count(), 3, "{junit}");
}

#[test]
fn the_end_of_the_time_ends_each() {
    let desk = Desk::new();
    let mut command = desk.begin(&["--jobs", "3", "--timeout", "3"]);
    assert_eq!(command.wait().unwrap().code(), Some(9));
    let over = "red (the run's time of 3 seconds was over (--timeout))";
    assert!(desk.row("store").contains(over), "{}", desk.row("store"));
    assert_eq!(desk.receipt("store").unwrap()["verdict"], "interrupted");
    desk.nothing_is_left();
}

#[test]
fn a_command_that_is_killed_takes_its_runs_along() {
    let desk = Desk::new();
    let mut command = desk.begin(&["--jobs", "2"]);
    desk.until_verdict("store", "running");
    desk.until("stderr", "red pipeline; it said:");
    send(&command, Signal::KILL);
    command.wait().unwrap();
    desk.until_verdict("store", "interrupted");
}
