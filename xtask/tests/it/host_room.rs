//! Room on disks and in memory: what is judged of needs and findings, and what is told of a full disk.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use camino::Utf8Path;
use xtask::exit::{Exit, Failure};
use xtask::host::room::{
    self, Memory, Need, Ports, Space, demand, explain_with, judge_disks, judge_memory, judge_ports,
    says_disk_full,
};
use xtask::report;

const MB: u64 = 1_000_000;

fn need(what: &'static str, path: &str, megabytes: u64, files: u64) -> Need {
    Need {
        what,
        path: path.into(),
        bytes: megabytes * MB,
        files,
        fix: what,
    }
}

/// Two disks: `/` with 500 MB free of 1 GB, and `/small` with 12 MB free of 60 MB and ten files.
fn look(path: &Utf8Path) -> io::Result<Space> {
    if path.starts_with("/elsewhere") {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let small = path.starts_with("/small");
    Ok(Space {
        device: u64::from(small),
        mount: if small { "/small" } else { "/" }.into(),
        free_bytes: if small { 12 } else { 500 } * MB,
        total_bytes: if small { 60 } else { 1_000 } * MB,
        free_files: small.then_some(10),
    })
}

#[track_caller]
fn check(needs: &[Need], expected: Result<(), (&str, &str)>) {
    let outcome = demand(&judge_disks(needs, look));
    let told = outcome.map_err(|error| {
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.exit(), Exit::Host);
        (error.to_string(), failure.hint_text().unwrap().to_owned())
    });
    let told = told.map_err(|(message, hint)| {
        let message = message.strip_prefix("there is not enough room here: ");
        (message.unwrap().to_owned(), hint)
    });
    let expected = expected.map_err(|(message, hint)| (message.to_owned(), hint.to_owned()));
    assert_eq!(told, expected);
}

#[test]
fn what_fits_is_not_told() {
    check(&[], Ok(()));
    check(&[need("a", "/x", 500, 1 << 40)], Ok(()));
    check(
        &[need("a", "/small/x", 12, 10), need("b", "/x", 500, 1)],
        Ok(()),
    );
}

#[test]
fn what_does_not_fit_is_told_with_sizes_and_one_fix() {
    check(
        &[need("a first build", "/small/build", 900, 5)],
        Err((
            "/small: 12 MB are free of 60 MB, 900 MB are needed (a first build 900 MB in /small/build)",
            "a first build",
        )),
    );
}

#[test]
fn needs_on_one_disk_are_summed_up() {
    check(
        &[
            need("a", "/x", 200, 1),
            need("b", "/y", 301, 1),
            need("c", "/small", 1, 1),
        ],
        Err((
            "/: 500 MB are free of 1.0 GB, 501 MB are needed (a 200 MB in /x, b 301 MB in /y)",
            "b",
        )),
    );
}

#[test]
fn a_disk_takes_only_so_many_files() {
    check(
        &[need("a", "/small/a", 1, 11)],
        Err((
            "/small: 12 MB are free of 60 MB, 1 MB are needed; it takes 10 more files, and 11 are to be made (a 1 MB in /small/a)",
            "a",
        )),
    );
}

#[test]
fn what_cannot_be_seen_is_not_judged() {
    check(&[need("a", "/elsewhere/a", 1 << 30, 1)], Ok(()));
}

#[test]
fn memory_is_judged_like_a_disk() {
    let found = Memory {
        free_bytes: 300 * MB,
        total_bytes: 2_000 * MB,
    };
    assert!(demand(&[judge_memory(&[("containers ask for", 300 * MB)], found)]).is_ok());
    let needs = [
        ("containers ask for", 200 * MB),
        ("compilers take", 101 * MB),
    ];
    let error = demand(&[judge_memory(&needs, found)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is not enough room here: memory: 300 MB are free of 2.0 GB, 301 MB are needed (containers ask for 200 MB, compilers take 101 MB)"
    );
}

#[test]
fn ports_are_judged_like_a_disk() {
    let found = Ports { had: 6, total: 9 };
    let enough = judge_ports(6, found);
    assert_eq!(
        enough.line,
        "ports of 127.0.0.1: containers publish 6, and so many are free"
    );
    assert!(demand(&[enough]).is_ok());
    let error = demand(&[judge_ports(7, found)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is not enough room here: ports of 127.0.0.1: containers publish 7, and only 6 of the kernel's 9 are free"
    );
}

#[test]
fn a_full_disk_is_named_with_its_sizes_whatever_said_so() {
    for words in [
        "error: failed to write `/small/x`: No space left on device (os error 28)",
        "ld: final link failed: No space left on device",
        "Error: writing blob: write /small/y: no space left on device",
        "FATAL:  could not write lock file: Disk quota exceeded",
    ] {
        let error = Err::<(), _>(Failure::new(Exit::Build, words).hint("another hint"))
            .context("what was done")
            .unwrap_err();
        let places = ["/x", "/small/x", "/elsewhere"].map(Utf8Path::new);
        let told = explain_with(error, places, look, || None);
        assert_eq!(report::exit_of(&told), Exit::Host);
        let text = report::error_text(&told);
        let again = explain_with(told, places, look, || None);
        assert_eq!(report::error_text(&again), text, "once is enough");
        let expected = "error: a disk is full: /small has 12 MB free of 60 MB, and takes 10 more files\n  because: what was done: ";
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains(words) && text.contains("hint: free room on /small"),
            "{text}"
        );
    }
}

#[test]
fn memory_that_ran_out_is_told_as_well() {
    let error = anyhow!("fork: Cannot allocate memory");
    let found = || {
        Some(Memory {
            free_bytes: 3 * MB,
            total_bytes: 900 * MB,
        })
    };
    let told = explain_with(error, [], look, found);
    assert_eq!(
        told.to_string(),
        "the memory was not enough: 3 MB can be had of 900 MB now"
    );
}

#[test]
fn other_errors_stay_as_they_are() {
    assert!(!says_disk_full("error 128: no such device"));
    let error = anyhow::Error::from(Failure::new(Exit::Deploy, "a container ended"));
    let told = explain_with(error, [Utf8Path::new("/small")], look, || None);
    assert_eq!(report::exit_of(&told), Exit::Deploy);
    assert_eq!(told.to_string(), "a container ended");
}

#[test]
fn a_place_that_is_not_there_yet_lies_where_it_will_lie() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let begun = Instant::now();
    let there = room::space(folder).unwrap();
    let later = room::space(&folder.join("a/b/c")).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!((there.device, &there.mount), (later.device, &later.mount));
    assert!(
        folder
            .canonicalize_utf8()
            .unwrap()
            .starts_with(&there.mount)
    );
    assert!(0 < there.total_bytes && there.free_bytes <= there.total_bytes);
    let ports = room::ports(3).unwrap();
    assert!(ports.had <= 3 && ports.had <= ports.total);
    let memory = room::memory().unwrap();
    assert!(0 < memory.total_bytes && memory.free_bytes <= memory.total_bytes);
}
