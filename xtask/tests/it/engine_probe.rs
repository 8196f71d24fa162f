//! Engines as hosts have them: what `doctor` makes of podman's own words, with a podman that says
//! what other machines have been seen to say.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use xtask::poll::{self, Look};
use xtask::process::{Captured, Invocation, output};

const DEADLINE: Duration = Duration::from_secs(60);

/// A host with these programs, and what they say.
struct Host {
    folder: Utf8PathBuf,
    _temporary: tempfile::TempDir,
}

impl Host {
    fn with(programs: &[(&str, Value)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Utf8PathBuf::try_from(temporary.path().to_owned()).unwrap();
        for (name, answers) in programs {
            let program = folder.join(name);
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_fake-program"), &program).unwrap();
            fs::write(program.with_extension("json"), answers.to_string()).unwrap();
        }
        Self {
            folder,
            _temporary: temporary,
        }
    }

    fn doctor(&self) -> Captured {
        self.xtask(&["doctor"])
    }

    fn xtask(&self, arguments: &[&str]) -> Captured {
        self.xtask_with(arguments, self.folder.as_str())
    }

    fn xtask_with(&self, arguments: &[&str], path: &str) -> Captured {
        let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let xtask = Invocation::new(env!("CARGO_BIN_EXE_xtask"))
            .args(arguments.iter().copied())
            .env("PATH", path)
            .env("XDG_CACHE_HOME", self.folder.join("cache").as_str())
            .env("CARGO", env!("CARGO"))
            .env_remove("CONTAINERS_CONF")
            .current_dir(root);
        output(&xtask, DEADLINE).unwrap()
    }

    fn calls(&self, program: &str) -> Vec<String> {
        fs::read_to_string(self.folder.join(program).with_extension("calls"))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// Answers of a podman on which everything works, after these.
fn podman(first: Value) -> Value {
    let mut answers = first.as_array().unwrap().clone();
    answers.extend([
        json!({"arguments": ["--version"], "stdout": "podman version 4.3.1\n"}),
        json!({}),
    ]);
    answers.into()
}

#[track_caller]
fn check(host: &Host, code: i32, words: &[&str]) {
    let told = host.doctor();
    let text = format!("{}{}", told.stdout, told.stderr);
    assert_eq!(told.code, code, "{text}");
    for word in words {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn a_podman_that_works_is_left_as_it_is() {
    let host = Host::with(&[
        ("podman", podman(json!([]))),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    check(
        &host,
        0,
        &[
            "podman 4.3.1",
            "with the host's own settings",
            "chosen  podman",
        ],
    );
}

#[test]
fn an_unchanged_host_is_probed_once() {
    let host = Host::with(&[
        ("podman", podman(json!([]))),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    // doctor itself lists containers each time; only a probe runs one.
    let probes = || {
        let calls = host.calls("podman");
        calls.iter().filter(|call| !call.starts_with("ps ")).count()
    };
    check(&host, 0, &["chosen  podman"]);
    let before = probes();
    assert!(before > 3, "{before}");
    check(&host, 0, &["chosen  podman"]);
    assert_eq!(probes(), before);
}

#[test]
fn a_damaged_outcome_is_found_out_anew() {
    let host = Host::with(&[
        ("podman", podman(json!([]))),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    check(&host, 0, &["chosen  podman"]);
    let kept = host.folder.join("cache/phase-zero/engine-podman.json");
    let whole = fs::read_to_string(&kept).unwrap();
    for damaged in ["", "garbage", &whole[..whole.len() / 2], "{\"key\": null}"] {
        fs::write(&kept, damaged).unwrap();
        let before = host.calls("podman").len();
        check(&host, 0, &["chosen  podman"]);
        assert!(host.calls("podman").len() > before + 3, "{damaged}");
        assert_eq!(fs::read_to_string(&kept).unwrap(), whole);
    }
}

#[test]
fn another_runtime_is_tried_where_the_first_cannot() {
    let words = "Error: OCI runtime error: crun: cgroups in hybrid mode not supported\n";
    let refused = |text: &str| json!({"arguments": ["--network=none"], "file": ["CONTAINERS_CONF", text], "stderr": words, "code": 126});
    let host = Host::with(&[
        (
            "podman",
            podman(json!([refused(""), refused("runtime = \"crun\"")])),
        ),
        ("crun", json!([])),
        ("runc", json!([])),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    check(
        &host,
        0,
        &[
            "with settings of ours",
            "crun: Error: OCI runtime error: crun: cgroups in hybrid mode",
        ],
    );
}

#[test]
fn limits_are_lowered_where_they_cannot_be_set() {
    let words = "Error: runc create failed: error setting rlimit type 7: operation not permitted\n";
    let host = Host::with(&[
        (
            "podman",
            podman(
                json!([{"arguments": ["--network=none"], "file": ["CONTAINERS_CONF", ""], "stderr": words, "code": 126}]),
            ),
        ),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    check(
        &host,
        0,
        &["with settings of ours", "error setting rlimit type 7"],
    );
    let uses = host.calls("podman");
    assert!(
        uses.iter()
            .filter(|call| call.contains("--network=none"))
            .count()
            >= 2,
        "{uses:?}"
    );
}

#[test]
fn a_limit_that_is_refused_is_not_set_later() {
    let host = Host::with(&[
        (
            "podman",
            podman(
                json!([{"arguments": ["--memory=64m"], "stderr": "Error: no memory controller\n", "code": 126}]),
            ),
        ),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    check(
        &host,
        0,
        &[
            "limits that cannot be set here: memory",
            "no memory controller",
        ],
    );
}

#[test]
fn an_engine_that_does_not_work_tells_its_own_words() {
    let broken = json!([{"arguments": ["--network=none"], "stderr": "Error: no space left on device\n", "code": 125}]);
    let host = Host::with(&[("podman", podman(broken)), ("runc", json!([]))]);
    check(
        &host,
        3,
        &[
            "no container starts",
            "no space left on device",
            "lacks",
            "a container engine that works",
        ],
    );
    let network = json!([{"arguments": ["--publish=127.0.0.1::8080"], "stderr": "Error: netavark: aardvark-dns not found\n", "code": 126}]);
    let host = Host::with(&[("podman", podman(network))]);
    check(
        &host,
        3,
        &[
            "a private network does not come up",
            "aardvark-dns not found",
            "cargo xtask setup --yes",
        ],
    );
    let old = json!([{"arguments": ["--version"], "stdout": "podman version 3.0.1\n"}]);
    check(
        &Host::with(&[("podman", podman(old))]),
        3,
        &["is too old", "needed is 4.3"],
    );
}

#[test]
fn a_client_without_a_server_is_no_engine() {
    let words = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.\n";
    let host = Host::with(&[("docker", json!([{"stderr": words, "code": 1}]))]);
    check(
        &host,
        3,
        &[
            "a client without a server",
            "Cannot connect",
            "podman is not installed",
            "cargo xtask setup --yes",
        ],
    );
}

/// A server of this version and platform, and what its containers do.
fn docker(os: &str, run: serde_json::Value) -> serde_json::Value {
    let server = json!({"Server": {"Version": "20.10.24", "Os": os, "Arch": "amd64"}});
    json!([
        {"arguments": ["version"], "stdout": server.to_string()},
        {"arguments": ["load"]},
        {"arguments": ["image", "rm"]},
        {"arguments": ["network", "create"]},
        {"arguments": ["network", "rm"]},
        run,
    ])
}

#[test]
fn docker_counts_when_a_container_was_seen_to_run() {
    let works = docker("linux", json!({"arguments": ["run"]}));
    check(
        &Host::with(&[("docker", works)]),
        3,
        &[
            "ok  docker 20.10.24 on linux/amd64: runs containers",
            "chosen  docker",
        ],
    );
    let fails =
        json!({"arguments": ["run"], "stderr": "docker: unable to apply caps\n", "code": 126});
    check(
        &Host::with(&[("docker", docker("linux", fails))]),
        3,
        &["no container starts: docker: unable to apply caps"],
    );
    let windows = docker("windows", json!({"arguments": ["run"]}));
    check(
        &Host::with(&[("docker", windows)]),
        3,
        &["runs windows/amd64, which is not supported"],
    );
}

#[test]
fn another_engine_that_works_is_the_first_fix() {
    let no_docker = json!([{"stderr": "Cannot connect to the Docker daemon\n", "code": 1}]);
    let host = Host::with(&[
        ("podman", podman(json!([]))),
        ("docker", no_docker),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    let fix = "`--engine podman` takes podman; for docker: start docker";
    let doctor = host.xtask(&["doctor", "--engine", "docker"]);
    let e2e = host.xtask(&["e2e", "gateway", "--plan", "--engine", "docker"]);
    assert_eq!(e2e.code, 3, "{}", e2e.stderr);
    let message = "error: docker is asked for and does not work here; podman does\n  docker: ";
    assert!(e2e.stderr.starts_with(message), "{}", e2e.stderr);
    assert!(
        e2e.stderr.contains(&format!("hint: {fix}")),
        "{}",
        e2e.stderr
    );
    // As root, where dockerd is there, doctor finds that a server could be started.
    let told = format!("{}{}", doctor.stdout, doctor.stderr);
    let own_server = told.contains("with a server of its own");
    assert!(
        own_server || told.contains(&format!("fix: {fix}")),
        "{told}"
    );
}

#[test]
fn a_plan_can_be_read_and_is_the_same_each_time() {
    let host = Host::with(&[("podman", podman(json!([])))]);
    // The recipe asks compiler and linker.
    let path = format!("{}:{}", host.folder, std::env::var("PATH").unwrap());
    let plan = || {
        let arguments = ["e2e", "gateway", "--plan", "--engine", "podman"];
        let told = host.xtask_with(&arguments, &path);
        assert_eq!(told.code, 0, "{}", told.stderr);
        told.stdout
    };
    let text = plan();
    assert_eq!(text, plan());
    assert!(text.contains("'--label=phase-zero.plan=<plan>'"), "{text}");
    let of_commands = text
        .lines()
        .filter(|line| line.starts_with("    $ ") || line.starts_with("        "));
    for line in of_commands.clone() {
        let words = line.trim_end_matches(" \\").trim();
        let one_word = !words.contains(' ');
        assert!(line.chars().count() <= 100 || one_word, "{line}");
    }
    let run = |line: &&str| line.contains("podman run --detach");
    assert!(
        of_commands.filter(run).all(|line| line.ends_with(" \\")),
        "{text}"
    );
}

/// Ctrl-C while a podman hangs in its trial; gives what it was asked after that.
#[track_caller]
fn ended_in_a_trial(hangs_in: &[&str], last: &str) -> Vec<String> {
    let host = Host::with(&[
        (
            "podman",
            podman(json!([{"arguments": hangs_in, "hangs": true}])),
        ),
        ("cc", json!([])),
        ("git", json!([])),
    ]);
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("doctor")
        .env("PATH", host.folder.as_str())
        .env("XDG_CACHE_HOME", host.folder.join("cache").as_str())
        .env_remove("CONTAINERS_CONF")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let asked = || host.calls("podman").iter().any(|call| call.contains(last));
    poll::until("trial", DEADLINE, Duration::from_millis(5), || {
        assert!(doctor.try_wait().unwrap().is_none(), "it ended before");
        Ok(match asked() {
            true => Look::Found(()),
            false => Look::NotYet("not asked".to_owned()),
        })
    })
    .unwrap();
    let before = host.calls("podman").len();
    let begun = Instant::now();
    kill_process(Pid::from_child(&doctor), Signal::INT).unwrap();
    let code = doctor.wait().unwrap().code();
    let took = begun.elapsed();
    assert_eq!(code, Some(130));
    // A third of what one step may take.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert!(
        !host
            .folder
            .join("cache/phase-zero/engine-podman.json")
            .exists()
    );
    host.calls("podman").split_off(before)
}

#[test]
fn a_trial_that_hangs_is_ended_by_a_signal_and_removed() {
    let image = "image rm --force";
    let begin_as_told = |calls: &[String], words: &[&str]| {
        assert_eq!(calls.len(), words.len(), "{calls:?}");
        let pairs = calls.iter().zip(words);
        assert!(
            pairs.clone().all(|(call, word)| call.starts_with(word)),
            "{calls:?}"
        );
    };
    let calls = ended_in_a_trial(&["run", "--network=none"], "run ");
    begin_as_told(&calls, &["rm --force phase-zero-probe-", image]);
    let calls = ended_in_a_trial(&["network", "create"], "network create");
    begin_as_told(&calls, &["network rm phase-zero-probe-", image]);
    let calls = ended_in_a_trial(&["--publish=127.0.0.1::8080"], " --publish=");
    begin_as_told(&calls, &["rm --force", "network rm", image]);
    let calls = ended_in_a_trial(&["info"], "info ");
    begin_as_told(&calls, &[image]);
}

#[test]
fn an_engine_that_answers_nothing_is_not_asked_on() {
    let calls = ended_in_a_trial(&[], "--version");
    assert_eq!(calls, [""; 0]);
}

#[test]
fn the_end_of_the_time_of_a_run_is_told_as_that() {
    let host = Host::with(&[("podman", json!([{"hangs": true}]))]);
    let path = format!("{}:{}", host.folder, std::env::var("PATH").unwrap());
    let e2e = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["e2e", "gateway", "--engine", "podman", "--timeout", "1"])
        .env("PATH", path)
        .env("XDG_CACHE_HOME", host.folder.join("cache").as_str())
        .env("CARGO_TARGET_DIR", host.folder.join("target").as_str())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&e2e.stderr);
    assert_eq!(e2e.status.code(), Some(9), "{told}");
    assert!(
        told.contains("ending the run's time of 1 s is over"),
        "{told}"
    );
    assert!(
        told.contains("error: the run's time of 1 seconds was over (--timeout)\n"),
        "{told}"
    );
    assert!(!told.contains("SIGTERM"), "{told}");
}
