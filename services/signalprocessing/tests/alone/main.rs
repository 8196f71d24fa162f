//! The process of signalprocessing with bad configuration: it ends at once and names the flag.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const POLICY: &str = include_str!("../../policy/default.rego");
const TOKENS: &str =
    r#"{"tokens":[{"subject":"reader","role":"read","token":"a-token-that-may-read"}]}"#;

fn start(directory: &Path, policy: &str, inventory: &str) -> Output {
    let file = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).expect("written");
        path
    };
    Command::new(env!("CARGO_BIN_EXE_signalprocessing"))
        .env_clear()
        .env("TOKENS_FILE", file("tokens.json", TOKENS))
        .env(
            "DATASTORAGE_TOKEN_FILE",
            file("datastorage-token", "a-token"),
        )
        .env("POLICY_FILE", file("policy.rego", policy))
        .env("INVENTORY_FILE", file("inventory.json", inventory))
        .env("HOSTNAME", "signalprocessing-0")
        // Bad as well, and judged last: a configuration that is good would wait for ever.
        .env("LISTEN_ADDRESS", "192.0.2.1:1")
        .env("PROBE_ADDRESS", "127.0.0.1:0")
        .env("METRICS_ADDRESS", "127.0.0.1:0")
        .output()
        .expect("started")
}

#[track_caller]
fn check(policy: &str, inventory: &str, code: i32, told: &[&str]) {
    let directory = tempfile::tempdir().expect("a directory");
    let output = start(directory.path(), policy, inventory);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in told {
        assert!(text.contains(part), "{text}: lacks {part}");
    }
}

#[test]
fn bad_configuration_ends_the_process_and_names_the_flag() {
    let broken = POLICY.replace("default priority := \"P2\"", "default priority := \"P7\"");
    check(&broken, "{}", 2, &["--policy-file", "P7"]);
    check("package other\n", "{}", 2, &["--policy-file", "package"]);
    check(POLICY, r#"{"pods": []}"#, 2, &["--inventory-file", "pods"]);
    check(POLICY, "{}", 1, &["--listen-address"]);
}

#[test]
fn the_manifest_carries_the_default_policy() {
    const MANIFEST: &str = include_str!("../../../../deploy/signalprocessing.yaml");
    let indented = |line: &str| match line {
        "" => "\n".to_owned(),
        line => format!("    {line}\n"),
    };
    let expected: String = POLICY.lines().map(indented).collect();
    assert!(
        MANIFEST.contains(&format!("  policy.rego: |\n{expected}---\n")),
        "deploy/signalprocessing.yaml must hold policy/default.rego as it is"
    );
}
