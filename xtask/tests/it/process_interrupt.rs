//! Signals: the tool in a process of its own (this test program again), told to end.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use xtask::exit::{Exit, Failure};
use xtask::process::{Invocation, capture, interrupt};

/// Which part this test program plays when it was started by a test.
const ROLE: &str = "PROCESS_INTERRUPT_ROLE";
const AMPLE: Duration = Duration::from_secs(600);

/// Starts this very test in a process of its own, and waits until its child runs.
fn play(test: &str) -> (Child, BufReader<ChildStdout>) {
    // Whoever started these tests may have them ignore that their terminal goes, as `nohup` does.
    let mut child = Command::new("env")
        .arg("--default-signal=HUP")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("process_interrupt::{test}"),
            "--nocapture",
        ])
        .env(ROLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("begun") {
        line.clear();
        assert_ne!(
            stdout.read_line(&mut line).unwrap(),
            0,
            "ended before it began"
        );
    }
    (child, stdout)
}

fn plays() -> bool {
    std::env::var_os(ROLE).is_some()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for the end and gives the rest of what was said.
fn said(mut child: Child, mut stdout: BufReader<ChildStdout>) -> String {
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    text
}

/// A child that says so when it runs, and only ends by itself after `seconds`.
fn child(seconds: u32) -> Invocation {
    let script = format!("echo begun > /proc/$PPID/fd/1; sleep {seconds}");
    Invocation::new("sh").arg("-c").arg(script)
}

#[test]
fn a_signal_ends_the_running_child_and_forbids_the_next() {
    if plays() {
        interrupt::install().unwrap();
        let first = capture(&child(600), AMPLE).unwrap_err();
        let second = capture(&Invocation::new("true"), AMPLE).unwrap_err();
        let check = interrupt::check().unwrap_err();
        let exit = Failure::find(&check).map(Failure::exit);
        println!("{first}\n{second}\n{:?} {exit:?}", first.exit());
        return;
    }
    let (child, stdout) = play("a_signal_ends_the_running_child_and_forbids_the_next");
    let started = Instant::now();
    send(&child, Signal::INT);
    let text = said(child, stdout);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(
        text.matches("interrupted by signal 2: ").count(),
        2,
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "{:?} Some({:?})",
            Exit::Interrupted,
            Exit::Interrupted
        )),
        "{text}"
    );
}

#[test]
fn a_lost_terminal_ends_it_as_well() {
    if plays() {
        interrupt::install().unwrap();
        let error = capture(&child(600), AMPLE).unwrap_err();
        println!("{:?}", error.exit());
        return;
    }
    let (child, stdout) = play("a_lost_terminal_ends_it_as_well");
    send(&child, Signal::HUP);
    let text = said(child, stdout);
    assert!(text.contains(&format!("{:?}", Exit::HungUp)), "{text}");
}

#[test]
fn a_shield_lets_clean_up_end_and_a_second_signal_hurries_it() {
    if plays() {
        interrupt::install().unwrap();
        let shield = interrupt::Shield::raise();
        let short = capture(&child(1), AMPLE).map(|captured| captured.code);
        println!("first: {short:?}");
        let long = capture(&child(600), AMPLE).unwrap_err();
        println!("second: {long}");
        assert_eq!(interrupt::pending(), None);
        drop(shield);
        println!("pending: {:?}", interrupt::pending());
        return;
    }
    let (child, mut stdout) = play("a_shield_lets_clean_up_end_and_a_second_signal_hurries_it");
    send(&child, Signal::TERM);
    let mut line = String::new();
    while !line.contains("begun") {
        assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "{line}");
    }
    assert!(line.contains("first: Ok(0)"), "{line}");
    let started = Instant::now();
    send(&child, Signal::INT);
    let text = said(child, stdout);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(
        text.contains("second: command did not end within"),
        "{text}"
    );
    assert!(!text.contains("within 600s"), "what it was left: {text}");
    assert!(text.contains("pending: Some(15)"), "{text}");
}
