//! Each wrong tag pattern, put into a tree, is found at its line; the right one is not.

use std::fs;

use camino::Utf8Path;
use xtask::cmd::audit::{Names, Pattern, scan};

/// Puts the files into an empty tree; gives `path:line pattern` of every finding.
fn findings(files: &[(&str, &str)]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(folder.path()).unwrap();
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let packages = ["datastorage", "gateway", "signalprocessing"];
    let names = Names {
        packages: packages.map(str::to_owned).into(),
        targets: packages.map(str::to_owned).into(),
    };
    scan(root, &names)
        .unwrap()
        .into_iter()
        .map(|finding| format!("{}:{} {}", finding.path, finding.line, finding.pattern))
        .collect()
}

#[track_caller]
fn check(path: &str, text: &str, expected: &[(usize, Pattern)]) {
    let expected: Vec<String> = expected
        .iter()
        .map(|(line, pattern)| format!("{path}:{line} {pattern}"))
        .collect();
    assert_eq!(findings(&[(path, text)]), expected, "{text}");
}

#[test]
fn the_right_pattern_is_not_found() {
    check(
        "deploy/gateway.yaml",
        "containers:\n  - image: gateway\n",
        &[],
    );
    check("deploy/postgres.yaml", "image: postgres:15-bookworm\n", &[]);
    check(
        "deploy/gateway.yaml",
        "env:\n  - {name: DATASTORAGE_URL, value: \"http://datastorage:8080\"}\n",
        &[],
    );
    check(
        ".github/workflows/ci.yml",
        "- run: cargo xtask ci --yes\n",
        &[],
    );
    check(
        "services/gateway/src/main.rs",
        "//! localhost/datastorage:e2e\nfn main() { call(\"http://datastorage:8080\") }\n",
        &[],
    );
    check(
        "xtask/src/pipeline/tag.rs",
        "fn show() { write!(f, \"localhost/{}:{}\", package, tag) }\n",
        &[],
    );
}

#[test]
fn a_fixed_tag_is_found() {
    let fixed = [(2, Pattern::FixedTag)];
    for image in [
        "datastorage:e2e-test-datastorage",
        "localhost/datastorage:v1.2",
        "ghcr.io/somebody/datastorage:latest",
        "\"datastorage:e2e\"",
        "localhost/datastorage",
        "somethingelse:latest",
    ] {
        let text = format!("spec:\n  image: {image}\n");
        check("deploy/datastorage.yaml", &text, &fixed);
    }
    check(
        ".github/workflows/e2e.yml",
        "steps:\n- run: docker build -t localhost/datastorage:e2e-test .\n",
        &fixed,
    );
    check(
        "test-e2e/src/lib.rs",
        "\nfn image() -> &'static str { \"localhost/datastorage:e2e-test\" }\n",
        &fixed,
    );
    check(
        "deploy/kustomization.yaml",
        "images:\n  newTag: e2e\n",
        &fixed,
    );
}

#[test]
fn a_shared_image_is_found() {
    let manifest = "kind: Deployment\nimage: localhost/datastorage:e2e-test\n";
    assert_eq!(
        findings(&[
            ("deploy/gateway.yaml", manifest),
            ("deploy/signalprocessing.yaml", manifest)
        ]),
        [
            "deploy/gateway.yaml:2 shared image",
            "deploy/signalprocessing.yaml:2 shared image"
        ]
    );
    check(
        "deploy/gateway.yaml",
        "image: localhost/datastorage:signalprocessing-a1b2c3d4e5f60718\n",
        &[(1, Pattern::SharedImage)],
    );
    check(
        ".github/workflows/e2e.yml",
        "a:\n- run: docker pull ghcr.io/us/datastorage\n",
        &[(2, Pattern::SharedImage)],
    );
}

#[test]
fn a_re_tag_is_found() {
    let found = [(2, Pattern::ReTag)];
    check(
        ".github/workflows/e2e.yml",
        "a:\n- run: docker tag $OLD $NEW\n",
        &found,
    );
    check(
        "xtask/src/pipeline/load.rs",
        "fn load() {\n    run(engine.invocation().args([\"tag\", old, new]));\n}\n",
        &found,
    );
    check(
        "xtask/src/pipeline/load.rs",
        "fn load() {\n    cmd!(sh, \"ctr -n k8s.io images tag {old} {new}\").run();\n}\n",
        &found,
    );
    check(
        "test-e2e/src/lib.rs",
        "\nfn retag_image(old: &str) {}\n",
        &found,
    );
}

#[test]
fn a_tag_made_at_deploy_time_is_found() {
    let found = [(2, Pattern::MadeAtDeployTime)];
    check(
        "deploy/gateway.yaml",
        "spec:\n  image: localhost/datastorage:${TAG}\n",
        &found,
    );
    check(
        ".github/workflows/e2e.yml",
        "a:\n- run: kubectl set image deployment/datastorage datastorage=$IMAGE\n",
        &found,
    );
    check(
        "xtask/src/pipeline/deploy.rs",
        "fn deploy() {\n    let image = format!(\"localhost/datastorage:gateway-{random}\");\n}\n",
        &found,
    );
    check(
        "xtask/src/pipeline/deploy.rs",
        "fn deploy() {\n    apply(generate_image_name(\"datastorage\", target));\n}\n",
        &found,
    );
}

#[test]
fn lines_in_a_long_literal_are_counted() {
    check(
        "xtask/src/pipeline/deploy.rs",
        "const MANIFEST: &str = \"\nkind: Deployment\nimage: localhost/datastorage:old\n\";\n",
        &[(3, Pattern::FixedTag)],
    );
}

#[test]
fn build_folders_are_not_read() {
    let cached = [
        (
            "out/CACHEDIR.TAG",
            "Signature: 8a477f597d28d172789f06886806bc55\n",
        ),
        ("out/x.yaml", "image: datastorage:old\n"),
        ("target/e2e/x.yaml", "image: datastorage:old\n"),
    ];
    assert_eq!(findings(&cached), Vec::<String>::new());
}

#[test]
fn a_folder_that_is_only_called_like_one_is_read() {
    for path in ["deploy/target/x.yaml", "services/target/src/x.yaml"] {
        let text = "image: datastorage:old\n";
        check(path, text, &[(1, Pattern::FixedTag)]);
    }
}

#[test]
fn only_the_item_under_the_attribute_is_left_to_tests() {
    let old = "\"localhost/datastorage:old\"";
    for item in [
        "fn f() { g(OLD) }",
        "mod tests { fn f() { g(OLD) } }",
        "mod tests;",
        "use a::{b, c};",
        "const A: [&str; 1] = [OLD];",
    ] {
        let text = format!("#[cfg(test)] {item}\nfn h() {{ g(OLD) }}\n").replace("OLD", old);
        check("test-e2e/src/lib.rs", &text, &[(2, Pattern::FixedTag)]);
    }
    let arm = "fn f() { match a {\n#[cfg(test)] A => g(OLD),\nB => g(OLD) } }\n";
    let arm = arm.replace("OLD", old);
    check("test-e2e/src/lib.rs", &arm, &[(3, Pattern::FixedTag)]);
}
