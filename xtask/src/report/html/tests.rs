//! The pages as a whole: hostile input, nothing from outside, bounded, well-formed, and a difference
//! that cannot be overlooked.

use std::fs;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};

use super::overview::{Ended, render};
use super::{FILE, Summary, write};
use crate::secrets::Blackout;

/// What somebody might write into a name, a message or a log to get out of its place.
const HOSTILE: &str = "\"'><script>alert(1)</script><img src=http://x.test/y onerror=alert(1)>\
    </pre></title></style><!-- javascript:alert(1) ]]> \u{1b}[31m\u{202e}\0";

struct Folder {
    _kept: tempfile::TempDir,
    runs: Utf8PathBuf,
}

impl Folder {
    fn new() -> Self {
        let kept = tempfile::tempdir().unwrap();
        let runs = Utf8Path::from_path(kept.path()).unwrap().to_owned();
        Self { _kept: kept, runs }
    }

    /// A run's folder with this receipt.
    fn run(&self, receipt: &Value) -> Utf8PathBuf {
        let directory = self.runs.join(receipt["run"].as_str().unwrap());
        fs::create_dir_all(directory.join("logs")).unwrap();
        fs::write(directory.join("receipt.json"), receipt.to_string()).unwrap();
        directory
    }

    fn page(&self, receipt: &Value) -> (String, Summary) {
        self.page_of(&self.run(receipt))
    }

    fn page_of(&self, directory: &Utf8Path) -> (String, Summary) {
        let blackout = Blackout::of_run(directory);
        let summary = write(directory, &self.runs, &["gateway"], &blackout).unwrap();
        let page = fs::read_to_string(directory.join(FILE)).unwrap();
        assert_well_formed(&page);
        assert_self_contained(&page);
        (page, summary)
    }
}

fn digest(letter: char) -> String {
    letter.to_string().repeat(64)
}

fn image_id(letter: char) -> String {
    format!("sha256:{}", digest(letter))
}

fn test(name: &str, passed: bool, message: Option<&str>) -> Value {
    let verdict = if passed { "passed" } else { "failed" };
    json!({"name": name, "verdict": verdict, "duration_milliseconds": 1200, "message": message,
        "location": message.map(|_| "test-e2e/tests/gateway.rs:12:5")})
}

fn evidence(source: &str, image_id: &str) -> Value {
    json!({"service": "gateway", "container": "gateway-1-gateway-0", "reference": "localhost/thing:one",
        "image_id": image_id, "version": {"source_digest": source}, "started_at": "", "restart_count": 0})
}

/// A run whose container runs what was built.
fn receipt(run: &str, tests: &[Value]) -> Value {
    let failed = tests.iter().any(|test| test["verdict"] == "failed");
    json!({
        "schema": 1, "run": run, "target": "gateway", "verdict": if failed { "red" } else { "green" },
        "exit_code": i32::from(failed), "begun_at": "2026-11-25T17:49:20Z", "ended_at": "2026-11-25T17:50:20Z",
        "cluster": "local (not Kubernetes)",
        "images": {"gateway": {"reference": "localhost/thing:one", "tag": "one",
            "source_digest": digest('a'), "recipe_digest": digest('c'),
            "built": {"origin": "built", "image_id": image_id('b')},
            "loaded": {"image_id": image_id('b'), "already_there": false}}},
        "evidence": [evidence(&digest('a'), &image_id('b'))],
        "evidence_after_tests": [evidence(&digest('a'), &image_id('b'))],
        "phases": [
            {"phase": "tag", "seconds": 1.0, "ended_after_seconds": 1.0, "succeeded": true},
            {"phase": "test", "seconds": 58.0, "ended_after_seconds": 60.0, "succeeded": true}],
        "tests": {"results": tests, "program_succeeded": !failed},
        "failure": failed.then(|| json!({"phase": "test", "message": "error: gateway: 1 failed\nhint: look\n"})),
    })
}

/// Every start tag has its end tag, in the right order, and what looks like a tag is one of ours.
/// Values of attributes hold no `<` and no `>`: the builder escapes them.
#[track_caller]
fn assert_well_formed(page: &str) {
    const VOID: [&str; 1] = ["meta"];
    let body = page.strip_prefix("<!DOCTYPE html>\n").unwrap();
    let (head, rest) = body.split_once("<style>").unwrap();
    let (_, rest) = rest.split_once("</style>").unwrap();
    let text = format!("{head}<style></style>{rest}");
    let mut open: Vec<&str> = Vec::new();
    for part in text.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.split(' ').next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(!text.contains('\0') && !text.contains('\u{1b}') && !text.contains('\u{202e}'));
}

/// No element that fetches or runs, no attribute that leads out, no address in the style sheet.
#[track_caller]
fn assert_self_contained(page: &str) {
    for tag in [
        "script", "img", "link", "iframe", "object", "form", "base", "use",
    ] {
        assert!(!page.contains(&format!("<{tag}")), "{tag}");
    }
    for part in page.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or((part, ""));
        // Between quotation marks stands text, whatever it says.
        let names: Vec<&str> = tag.split('"').step_by(2).collect();
        for name in &names {
            assert!(!name.contains(" on") && !name.contains(" src"), "{tag}");
        }
        if names.iter().any(|name| name.contains("href")) {
            assert!(tag.starts_with("a href=\"#"), "{tag}");
        }
    }
    let style = page
        .split_once("<style>")
        .unwrap()
        .1
        .split_once("</style>")
        .unwrap()
        .0;
    for word in ["url(", "@import", "http", "expression"] {
        assert!(!style.contains(word), "{word}");
    }
}

#[test]
fn hostile_input_stays_text() {
    let folder = Folder::new();
    let hostile = HOSTILE;
    let mut receipt = receipt(
        "gateway-1",
        &[
            test(hostile, false, Some(hostile)),
            test(hostile, true, None),
        ],
    );
    receipt["cluster"] = hostile.into();
    receipt["failure"] = json!({"phase": hostile, "message": format!("error: {hostile}\n{hostile}\nhint: {hostile}")});
    receipt["tools"] = json!({hostile: hostile});
    receipt["engine"] = json!({"kind": hostile, "version": hostile, "notes": [hostile]});
    receipt["edited_during_run"] = json!([hostile]);
    receipt["third_party"] =
        json!([{"name": hostile, "reference": hostile, "image_id": hostile, "origin": hostile}]);
    receipt["images"][hostile] = receipt["images"]["gateway"].clone();
    receipt["images"][hostile]["reference"] = hostile.into();
    receipt["evidence"][0]["version"] = json!({"source_digest": hostile});
    receipt["phases"][0]["phase"] = hostile.into();
    receipt["inputs"] = json!({"recipe": {hostile: hostile}, "manifests": {hostile: hostile},
        "packages": [{"package": hostile, "source_digest": hostile}]});
    let directory = folder.run(&receipt);
    let line = json!({"level": hostile, "message": hostile, "timestamp": format!("2026-11-25T{hostile}"), hostile: hostile});
    let log = format!("{hostile}\n{line}\n");
    fs::write(directory.join("logs/<b>&amp;.log"), log).unwrap();
    let (page, summary) = folder.page_of(&directory);
    assert!(!page.contains("<b>") && !page.contains("<script"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.contains("&lt;b&gt;&amp;amp;.log"));
    let ended = Ended {
        target: hostile,
        took: Duration::from_secs(3),
        error: Some(hostile.to_owned()),
        summary: Some(&summary),
    };
    let alone = Ended {
        summary: None,
        ..ended.clone()
    };
    let page = render(&[ended, alone]);
    assert_well_formed(&page);
    assert_self_contained(&page);
}

#[test]
fn no_secret_of_the_run_gets_in() {
    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    let folder = Folder::new();
    let directory = folder.run(&receipt("gateway-1", &[test("a", false, Some(SECRET))]));
    let tokens = directory.join(crate::run::SECRETS).join("tokens");
    fs::create_dir_all(&tokens).unwrap();
    fs::write(tokens.join("a@b"), SECRET).unwrap();
    // Where the end of a log that is shown begins, a secret would be cut in two.
    let line = format!("token {SECRET}\n");
    fs::write(directory.join("logs/a.log"), line.repeat(10_000)).unwrap();
    let (page, summary) = folder.page_of(&directory);
    for part in [SECRET, &SECRET[..12], &SECRET[20..]] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("&lt;secret of the run&gt;"));
    let ended = Ended {
        target: "gateway",
        took: Duration::ZERO,
        error: Some("red".to_owned()),
        summary: Some(&summary),
    };
    assert!(!render(&[ended]).contains(SECRET));
}

#[test]
fn what_runs_and_was_not_built_is_named() {
    let folder = Folder::new();
    let (page, _) = folder.page(&receipt("gateway-1", &[test("a", true, None)]));
    assert!(page.contains("✓ equal") && !page.contains("✗ differs"));
    assert!(page.contains("1 container as built"));
    let mut other = receipt("gateway-2", &[test("a", true, None)]);
    other["evidence_after_tests"][0]["image_id"] = image_id('e').into();
    let (page, _) = folder.page(&other);
    assert!(page.contains("✗ differs") && page.contains("1 of 1 not what was built"));
    let wrong = page.split("value bad").nth(1).unwrap();
    assert!(wrong.contains(&image_id('e')), "{wrong}");
    let mut other = receipt("gateway-3", &[test("a", true, None)]);
    other["evidence"][0]["version"]["source_digest"] = digest('f').into();
    assert!(folder.page(&other).0.contains("✗ differs"));
    let mut unseen = receipt("gateway-4", &[]);
    unseen["evidence"] = json!([]);
    unseen["evidence_after_tests"] = json!([]);
    let (page, _) = folder.page(&unseen);
    assert!(page.contains("… not seen") && !page.contains("✓ equal"));
}

#[test]
fn what_was_pulled_is_known_by_its_manifest() {
    let folder = Folder::new();
    let mut pulled = receipt("gateway-1", &[test("a", true, None)]);
    pulled["images"]["gateway"]["built"]["manifest_digest"] = image_id('d').into();
    pulled["images"]["gateway"]["loaded"] =
        json!({"manifest_digest": image_id('d'), "already_there": true});
    let name = "localhost/thing:one";
    for when in ["evidence", "evidence_after_tests"] {
        pulled[when][0]["reference"] = format!("{name}@{}", image_id('d')).into();
        pulled[when][0]["image_id"] = format!("registry.test/thing@{}", image_id('d')).into();
    }
    let (page, _) = folder.page(&pulled);
    assert!(page.contains("✓ equal") && !page.contains("✗ differs"));
    // Some nodes tell the image ID there too.
    pulled["evidence"][0]["image_id"] = image_id('b').into();
    assert!(!folder.page(&pulled).0.contains("✗ differs"));
    pulled["evidence"][0]["image_id"] = format!("registry.test/thing@{}", image_id('e')).into();
    assert!(folder.page(&pulled).0.contains("✗ differs"));
}

#[test]
fn a_test_that_was_skipped_neither_passed_nor_failed() {
    let folder = Folder::new();
    let mut skipped = test("far_away", true, Some("no faults here"));
    skipped["verdict"] = "skipped".into();
    let (page, _) = folder.page(&receipt("gateway-1", &[test("a", true, None), skipped]));
    for words in [
        "1 passed, 1 skipped",
        "1 test skipped",
        "far_away",
        "no faults here",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("class=\"failed\""));
}

/// A receipt of a run that began at this minute.
fn at(name: &str, minute: u32, cluster: &str, verdict: &str) -> Value {
    let mut receipt = receipt(name, &[test("a", true, None)]);
    receipt["begun_at"] = format!("2026-11-25T17:{minute}:00Z").into();
    receipt["cluster"] = cluster.into();
    receipt["verdict"] = verdict.into();
    receipt
}

/// The run that a page is compared with.
fn named(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("Compared with <code>")?;
    Some(rest.split('<').next().unwrap().to_owned())
}

#[test]
fn it_is_compared_with_the_last_run_of_the_target_on_the_same_cluster() {
    let folder = Folder::new();
    let now = at("gateway-20261125-173000-aaaa", 30, "kind", "green");
    assert_eq!(named(&folder.page(&now).0), None);
    for (name, minute, cluster, verdict, wanted) in [
        (
            "gateway-20261125-171000-aaaa",
            10,
            "local",
            "green",
            "gateway-20261125-171000-aaaa",
        ),
        (
            "gateway-20261125-171100-aaaa",
            11,
            "kind",
            "red",
            "gateway-20261125-171100-aaaa",
        ),
        // Another cluster, one that was interrupted, one that began later.
        (
            "gateway-20261125-171200-aaaa",
            12,
            "local",
            "green",
            "gateway-20261125-171100-aaaa",
        ),
        (
            "gateway-20261125-171300-aaaa",
            13,
            "kind",
            "interrupted",
            "gateway-20261125-171100-aaaa",
        ),
        (
            "gateway-20261125-174000-aaaa",
            40,
            "kind",
            "green",
            "gateway-20261125-171100-aaaa",
        ),
    ] {
        folder.run(&at(name, minute, cluster, verdict));
        assert_eq!(
            named(&folder.page(&now).0).as_deref(),
            Some(wanted),
            "{name}"
        );
    }
    // Damaged ones are no hindrance.
    let damaged = folder.runs.join("gateway-20261125-172000-aaaa");
    fs::create_dir_all(&damaged).unwrap();
    fs::write(damaged.join("receipt.json"), "{\"run\":").unwrap();
    assert!(named(&folder.page(&now).0).is_some());
}

#[test]
fn it_is_compared_with_the_same_tests_and_of_a_watch_with_the_cycle_before() {
    let folder = Folder::new();
    let now = at("gateway-20261125-173000-aaaa", 30, "kind", "green");
    folder.run(&at("gateway-20261125-171100-aaaa", 11, "kind", "red"));
    // Though one of other tests is newer.
    let mut filtered = at("gateway-20261125-172500-aaaa", 25, "kind", "green");
    filtered["test_filters"] = json!(["a"]);
    folder.run(&filtered);
    let wanted = "gateway-20261125-171100-aaaa";
    assert_eq!(named(&folder.page(&now).0).as_deref(), Some(wanted));
    // Of a watch, the cycle before.
    let cycles = folder.run(&now).join("cycles");
    for (cycle, minute) in [(9, 27), (10, 28)] {
        let cycle = cycles.join(cycle.to_string());
        fs::create_dir_all(&cycle).unwrap();
        let earlier = at(now["run"].as_str().unwrap(), minute, "kind", "green");
        fs::write(cycle.join("receipt.json"), earlier.to_string()).unwrap();
    }
    let (page, _) = folder.page(&now);
    assert!(page.contains("green, 2026-11-25 17:28:00 UTC, kind"));
}

#[test]
fn a_test_that_changed_its_verdict_stands_out() {
    let folder = Folder::new();
    let mut last = receipt(
        "gateway-1",
        &[test("a", true, None), test("gone", true, None)],
    );
    last["begun_at"] = "2026-11-25T17:00:00Z".into();
    folder.run(&last);
    let now = receipt(
        "gateway-2",
        &[test("a", false, Some("left: 1")), test("b", true, None)],
    );
    let (page, summary) = folder.page(&now);
    for words in [
        "passed last time",
        "✗ failing, passed before: 1",
        "+ added: 1",
        "− gone, or not asked for: 1",
        "left: 1",
    ] {
        assert!(page.contains(words), "{words}");
    }
    let ended = Ended {
        target: "gateway",
        took: Duration::from_secs(60),
        error: Some("red".to_owned()),
        summary: Some(&summary),
    };
    let page = render(&[ended]);
    for words in [
        "✗ 1 of 1 not green",
        "1 newly failing",
        "left: 1",
        "passed last time",
    ] {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn whatever_a_run_said_the_page_is_bounded() {
    const PAGE_BYTES_MAX: usize = 12_000_000;
    let folder = Folder::new();
    let long = "<&\"".repeat(30_000);
    let tests: Vec<Value> = (0..2500)
        .map(|index| {
            test(
                &format!("{index} {}", &long[..900]),
                index % 2 == 0,
                Some(&long[..20_000]),
            )
        })
        .collect();
    let mut receipt = receipt("gateway-1", &tests);
    receipt["failure"]["message"] = format!("error: {long}\n{long}\nhint: {long}").into();
    let directory = folder.run(&receipt);
    for index in 0..250 {
        let text = format!("{long}\n").repeat(2) + &"<\n".repeat(3_000);
        fs::write(directory.join(format!("logs/{index:03}.log")), text).unwrap();
    }
    fs::write(directory.join("tests.log"), &long).unwrap();
    let (page, _) = folder.page_of(&directory);
    assert!(page.len() < PAGE_BYTES_MAX, "{}", page.len());
    assert!(page.contains("that failed, in junit.xml"));
}

#[test]
fn of_a_long_log_the_end_is_shown() {
    let folder = Folder::new();
    let directory = folder.run(&receipt("gateway-1", &[test("a", true, None)]));
    let lines: String = (0..20_000).map(|index| format!("line {index}\n")).collect();
    fs::write(directory.join("logs/gateway-1-gateway-0.log"), lines).unwrap();
    let warning = json!({"timestamp": "2026-11-25T17:50:16.123456Z", "level": "WARN", "message": "slow", "rows": 3});
    fs::write(directory.join("logs/b.log"), format!("{warning}\n")).unwrap();
    let (page, _) = folder.page_of(&directory);
    assert!(page.contains("line 19999\n") && !page.contains("line 9\n"));
    assert!(page.contains("kB before them: logs/gateway-1-gateway-0.log"));
    assert!(page.contains(
        "<span class=\"time\">17:50:16.123</span> <span class=\"warning\">WARN slow rows=3</span>"
    ));
    assert!(page.contains("1 warning<"));
}

#[test]
fn a_run_that_failed_before_it_had_anything_has_a_page() {
    let folder = Folder::new();
    let receipt = json!({"run": "gateway-1", "target": "gateway", "verdict": "red", "exit_code": 6,
        "begun_at": "2026-11-25T17:49:20Z", "ended_at": "2026-11-25T17:49:21Z", "cluster": null,
        "tests": null, "failure": {"phase": "manifests", "message": "error: no\nhint: yes\n"}});
    let (page, _) = folder.page(&receipt);
    for words in [
        "Phase “manifests”, exit code 6",
        "No phase was gone through",
        "No test ran",
        "Hint: ",
    ] {
        assert!(page.contains(words), "{words}");
    }
}
