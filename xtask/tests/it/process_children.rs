//! Children: what they say, how they fail, and that nothing of them outlives its deadline.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use camino::Utf8Path;
use xshell::{Shell, cmd};
use xtask::poll::{self, Look};
use xtask::process::{
    Background, Echo, Input, Invocation, ProcessError, capture, capture_with_input, output, pipe,
    stream, stream_stderr,
};

const AMPLE: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Invocation {
    Invocation::new("sh").arg("-c").arg(script)
}

/// Whether a process of this ID runs (a zombie does not).
fn runs(id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// KILL was sent; the kernel ends a grandchild in its own time.
#[track_caller]
fn check_ends(id: &str) {
    let interval = Duration::from_millis(20);
    poll::until("end of the process", AMPLE, interval, || {
        Ok(match runs(id) {
            false => Look::Found(()),
            true => Look::NotYet(format!("{id} still runs")),
        })
    })
    .unwrap();
}

#[track_caller]
fn check_line(invocation: &Invocation, expected: &str) {
    assert_eq!(invocation.to_string(), expected);
}

#[test]
fn shows_a_line_that_can_be_pasted() {
    check_line(
        &Invocation::new("podman").args(["run", "--label=a=b", "it's", "a b", ""]),
        r"podman run --label=a=b 'it'\''s' 'a b' ''",
    );
    check_line(
        &Invocation::new("cargo")
            .env("A", "1 2")
            .env_remove("HOME")
            .current_dir("/tmp"),
        "cd /tmp && env -u HOME A='1 2' cargo",
    );
    check_line(
        &Invocation::new("cargo").environment_exactly([("A".into(), "1".into())].into()),
        "env -i A=1 cargo",
    );
}

#[test]
fn the_shown_line_does_the_same() {
    let awkward = "it's $HOME; `id` \"x\" \\ *\n-";
    let invocation = Invocation::new("printf").arg("%s").arg(awkward);
    assert_eq!(capture(&invocation, AMPLE).unwrap().stdout, awkward);
    let pasted = capture(&shell(&invocation.to_string()), AMPLE).unwrap();
    assert_eq!(pasted.stdout, awkward);
}

#[test]
fn a_long_line_goes_on_the_way_a_shell_takes_it() {
    let arguments = (0..9).map(|n| format!("--option={n} it's"));
    let invocation = Invocation::new("printf")
        .arg("%s|")
        .args(arguments)
        .arg("x".repeat(60))
        .env("LC_ALL", "C")
        .current_dir("/");
    let wrapped = invocation.wrapped(50, 4);
    let lines: Vec<&str> = wrapped.lines().collect();
    let (last, before) = lines.split_last().unwrap();
    assert!(before.len() > 4, "{wrapped}");
    assert!(before.iter().all(|line| line.ends_with(" \\")), "{wrapped}");
    assert!(
        before.iter().all(|line| line.chars().count() <= 50),
        "{wrapped}"
    );
    assert_eq!(last.trim(), "x".repeat(60));
    let joined = wrapped.replace(" \\\n    ", " ");
    assert_eq!(joined, invocation.to_string());
    let told = capture(&invocation, AMPLE).unwrap().stdout;
    assert_eq!(capture(&shell(&wrapped), AMPLE).unwrap().stdout, told);
    assert_eq!(Invocation::new("a").arg("b").wrapped(50, 4), "a b");
}

#[test]
fn takes_over_what_xshell_wrote() {
    let sh = Shell::new().unwrap();
    sh.change_dir("/");
    let arguments = ["a b", "c"];
    let command = cmd!(sh, "printf %s-%s {arguments...}").env("LC_ALL", "C");
    check_line(&command.into(), "cd / && LC_ALL=C printf %s-%s 'a b' c");
}

#[test]
fn an_exact_environment_holds_nothing_else() {
    let invocation = Invocation::new("/usr/bin/env")
        .environment_exactly([("ONLY".into(), "this".into())].into());
    assert_eq!(capture(&invocation, AMPLE).unwrap().stdout, "ONLY=this\n");
}

#[test]
fn a_failure_names_command_code_and_last_words() {
    let error = capture(&shell("echo said; echo cried >&2; exit 3"), AMPLE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "command ended with 3: sh -c 'echo said; echo cried >&2; exit 3'\n  cried"
    );
    let all = output(&shell("kill -9 $$"), AMPLE).unwrap();
    assert_eq!(all.code, 137);
}

/// A file that may be executed.
fn program(path: &Utf8Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_program_is_looked_for_as_a_shell_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let path = format!("{folder}/broken:{folder}/good:/usr/bin:/bin");
    let ask = |name: &str, path: &str| {
        let invocation = Invocation::new(name).arg("it's").env("PATH", path);
        let input = Input::Bytes(b"given".to_vec());
        capture_with_input(&invocation, &input, AMPLE)
    };
    // One without an interpreter is for a shell.
    program(&folder.join("good/bare"), "cat && echo \" bare $1\"\n");
    assert_eq!(ask("bare", &path).unwrap().stdout, "given bare it's\n");
    // One whose interpreter is missing is passed over.
    program(&folder.join("broken/tool"), "#!/no/such/interpreter\n");
    let nothing_else = ask("tool", &path).unwrap_err();
    assert!(
        matches!(nothing_else, ProcessError::NotFound { .. }),
        "{nothing_else:?}"
    );
    program(&folder.join("good/tool"), "#!/bin/sh\necho good; cat\n");
    assert_eq!(ask("tool", &path).unwrap().stdout, "good\ngiven");
    // What stands in its way is told.
    let not_executable = folder.join("plain");
    std::fs::write(&not_executable, "#!/bin/sh\n").unwrap();
    let refused = ask(not_executable.as_str(), &path).unwrap_err().to_string();
    assert!(refused.contains("Permission denied"), "{refused}");
}

#[test]
fn a_missing_program_and_a_missing_folder_are_told_apart() {
    let missing = capture(&Invocation::new("no-such-program"), AMPLE).unwrap_err();
    assert!(
        matches!(missing, ProcessError::NotFound { ref program, .. } if program == "no-such-program")
    );
    let nowhere = capture(
        &Invocation::new("true").current_dir("/no/such/folder"),
        AMPLE,
    )
    .unwrap_err();
    assert!(matches!(nowhere, ProcessError::Io { .. }), "{nowhere:?}");
}

#[test]
fn large_streams_both_ways_do_not_block_each_other() {
    let input = vec![b'x'; 3_000_000];
    let script = "head -c 2000000 /dev/zero >&2; cat; head -c 2000000 /dev/zero >&2";
    let all = capture_with_input(&shell(script), &Input::Bytes(input.clone()), AMPLE).unwrap();
    assert_eq!(all.stdout.len(), input.len());
    assert_eq!(all.stderr.len(), 4_000_000);
}

#[test]
fn the_deadline_ends_child_and_grandchild_and_keeps_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let pids = Utf8Path::from_path(folder.path()).unwrap().join("pids");
    // Both ignore TERM, so KILL is what ends them.
    let script =
        format!("trap '' TERM; sleep 600 & echo $! $$ > {pids}; echo begun >&2; wait; wait");
    let started = Instant::now();
    let error = capture(&shell(&script), Duration::from_millis(500)).unwrap_err();
    assert!(
        matches!(&error, ProcessError::Deadline { stderr, .. } if stderr == "begun"),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.split_whitespace().count(), 2);
    for id in pids.split_whitespace() {
        check_ends(id);
    }
}

#[test]
fn a_grandchild_that_keeps_the_streams_open_is_ended() {
    let started = Instant::now();
    let all = capture(&shell("sleep 600 & echo $!"), AMPLE).unwrap();
    assert!(started.elapsed() < Duration::from_secs(20));
    check_ends(all.stdout.trim());
}

#[test]
fn a_stream_goes_to_its_log_and_gives_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let log = Utf8Path::from_path(folder.path()).unwrap().join("log");
    let code = stream(
        &shell("echo out; echo err >&2; exit 4"),
        Some(&log),
        Echo::Silent,
        AMPLE,
    );
    assert_eq!(code.unwrap(), 4);
    let mut lines: Vec<_> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);

    let all = stream_stderr(
        &shell("echo data; echo talk >&2"),
        Some(&log),
        Echo::Silent,
        AMPLE,
    )
    .unwrap();
    assert_eq!(all.stdout, "data\n");
    assert!(std::fs::read_to_string(&log).unwrap().ends_with("talk\n"));
}

#[test]
fn an_inherited_lock_lives_as_long_as_the_last_child_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let lock = |operation| {
        let file = File::create(&path).unwrap();
        rustix::fs::flock(&file, operation).map(|()| file)
    };
    let is_free = || lock(rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
    let stays = shell("sleep 600 > /dev/null 2>&1 & echo $!");
    let start = |invocation: &Invocation| capture(invocation, AMPLE).unwrap().stdout;
    let end = |id: &str| capture(&Invocation::new("kill").arg(id.trim()), AMPLE).unwrap();

    let held = lock(rustix::fs::FlockOperation::LockExclusive).unwrap();
    let fd = Arc::new(OwnedFd::from(held));
    let with = start(&stays.clone().inherit_fd(Arc::clone(&fd)));
    let without = start(&stays);
    drop(fd);
    assert!(!is_free(), "let go while a child that was given it runs");
    end(&with);
    check_ends(with.trim());
    let free = is_free();
    assert!(runs(without.trim()));
    end(&without);
    assert!(free, "held by a child that was not given it");
}

#[test]
fn a_pipe_gives_what_its_second_child_left() {
    let first = shell("head -c 3000000 /dev/zero; echo told >&2");
    let left = pipe(&first, &shell("wc -c; echo said >&2"), AMPLE).unwrap();
    assert_eq!(
        (left.stdout.trim(), left.stderr.trim()),
        ("3000000", "said")
    );
}

#[track_caller]
fn check_pipe(first: &str, second: &str, code: i32, words: &str) {
    let error = pipe(&shell(first), &shell(second), AMPLE).unwrap_err();
    let line = format!("{} | {}", shell(first), shell(second));
    match error {
        ProcessError::Failed {
            command,
            code: ended,
            stderr,
        } => assert_eq!((command, ended, stderr.as_str()), (line, code, words)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_pipe_fails_with_the_child_that_failed_first() {
    // The second one believed what it got.
    check_pipe("echo half; echo broken >&2; exit 4", "cat", 4, "broken");
    // The second one failed for want of the rest.
    check_pipe(
        "echo broken >&2; exit 4",
        "cat; echo short >&2; exit 5",
        4,
        "broken",
    );
    // The first one failed since nobody read on.
    check_pipe("exec yes", "echo refused >&2; exit 6", 6, "refused");
    check_pipe("exit 0", "echo refused >&2; exit 6", 6, "refused");
}

#[test]
fn both_children_of_a_pipe_end_with_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = Utf8Path::from_path(folder.path()).unwrap();
    let deadline = Duration::from_millis(700);
    let hangs = |name: &str| shell(&format!("echo $$ > {name}; sleep 1000")).current_dir(path);
    let error = pipe(&hangs("first"), &hangs("second"), deadline).unwrap_err();
    assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
    for name in ["first", "second"] {
        check_ends(std::fs::read_to_string(path.join(name)).unwrap().trim());
    }
    let missing = pipe(
        &hangs("first"),
        &Invocation::new("no-such-program"),
        deadline,
    );
    let missing = missing.unwrap_err();
    assert!(
        matches!(missing, ProcessError::NotFound { .. }),
        "{missing}"
    );
}

#[test]
fn a_child_beside_the_others_is_told_to_go_on_and_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let log = Utf8Path::from_path(folder.path()).unwrap().join("log");
    let start = |script: &str| {
        std::fs::write(&log, "").unwrap();
        let child = Background::start(&shell(script), &log).unwrap();
        let interval = Duration::from_millis(5);
        poll::until("its word", AMPLE, interval, || {
            let text = std::fs::read_to_string(&log)?;
            Ok(match text.contains("up") {
                true => Look::Found(()),
                false => Look::NotYet(text),
            })
        })
        .unwrap();
        child
    };
    let child = start("trap 'exit 3' USR1; echo up; while :; do sleep 0.02; done");
    child.signal(rustix::process::Signal::USR1).unwrap();
    assert_eq!(child.wait(AMPLE).unwrap(), 3);

    let deaf = start("echo up; sleep 60");
    let error = deaf.wait(Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, ProcessError::Deadline { .. }), "{error}");
}
