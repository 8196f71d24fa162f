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
        "impl fmt::Display for ImageRef {\nfn fmt() { write!(f, \"{}/{}:{}\", host, package, tag) }\n}\n",
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
fn a_repository_and_its_tag_are_found() {
    for (block, found) in [
        (
            "  repository: localhost/datastorage\n  tag: e2e\n",
            Some((3, Pattern::FixedTag)),
        ),
        (
            "  tag: ${TAG}\n  repository: us/datastorage\n",
            Some((2, Pattern::MadeAtDeployTime)),
        ),
        (
            "  repository: us/datastorage\n  tag: \"\"\n",
            Some((2, Pattern::FixedTag)),
        ),
        ("  repository: postgres\n  tag: \"15\"\n", None),
        ("repository: datastorage\ntag: e2e\n", None),
    ] {
        let text = format!("image:\n{block}");
        check(
            "deploy/values.yaml",
            &text,
            Vec::from_iter(found).as_slice(),
        );
    }
    let pair = "image:\n  repository: us/datastorage\n  tag: e2e\n";
    let shared = [
        ("deploy/gateway.yaml", "image: datastorage:e2e\n"),
        ("deploy/values.yaml", pair),
    ];
    assert_eq!(
        findings(&shared),
        [
            "deploy/gateway.yaml:1 shared image",
            "deploy/values.yaml:3 shared image"
        ]
    );
    let flow = "a:\n  image: {repository: us/datastorage, tag: e2e}\n";
    check("deploy/values.yaml", flow, &[(2, Pattern::FixedTag)]);
}

#[test]
fn json_manifests_are_read() {
    let fixed = [(2, Pattern::FixedTag)];
    for image in [
        "localhost/datastorage:e2e",
        "localhost/datastorage",
        "x:latest",
    ] {
        let text = format!("{{\n\"image\": \"{image}\"}}\n");
        check("deploy/datastorage.json", &text, &fixed);
    }
    let pair = "{\"image\": {\"repository\": \"datastorage\",\n\"tag\": \"e2e\"}}\n";
    check("deploy/values.json", pair, &fixed);
    for image in ["datastorage", "postgres:15"] {
        let text = format!("{{\"image\": \"{image}\", \"tag\": \"e2e\"}}\n");
        check("deploy/datastorage.json", &text, &[]);
    }
}

/// Puts each piece into a function of a Rust source, as its second line.
#[track_caller]
fn check_rust(pieces: &[&str], expected: &[Pattern]) {
    for piece in pieces {
        let text = format!("fn f() {{\n{piece};\n}}\n");
        let expected: Vec<(usize, Pattern)> = expected.iter().map(|&found| (2, found)).collect();
        check("xtask/src/pipeline/load.rs", &text, &expected);
    }
}

#[test]
fn a_re_tag_is_found_however_it_is_written() {
    let pieces = [
        r#"run(engine.invocation().args(vec!["tag", old, new]))"#,
        r#"podman.args(["--root", "/x", "tag", old, new])"#,
        r#"podman.args(["--root", root, "image", "tag", old, new])"#,
        r#"Command::new("podman").arg("--debug").arg("tag").arg(old).arg(new)"#,
        r#"let mut podman = Command::new("podman"); podman.arg("tag"); podman.arg(old)"#,
        r#"let verb = "tag"; podman.arg(verb).args([old, new])"#,
        r#"let words = vec!["tag".to_owned(), old, new]; podman.args(&words)"#,
        r#"let mut words = Vec::new(); words.push("tag"); words.push(old); podman.args(words)"#,
        r#"const VERB: &str = "tag"; podman.args([VERB, old, new])"#,
        r#"podman.args(if again { ["tag", old, new] } else { ["rm", old, new] })"#,
        r#"run(["docker", "image", "tag", old, new])"#,
        r#"exec(&["tag", old, new])"#,
        r#"cmd!(sh, "podman tag {old} {new}").run()"#,
        r#"cmd!(sh, "podman --root {root} tag {old} {new}").run()"#,
        r#"cmd!(sh, "podman").args(["tag", old, new]).run()"#,
        r#"cmd("podman", ["exec", node, "ctr", "-n", "k8s.io", "images", "tag", old, new])"#,
        r#"podman.args(["exec", node, "ctr", "-n=k8s.io", "i", "tag", old, new])"#,
        r#"Command::new("/usr/bin/nerdctl").args(["tag", old, new])"#,
        r#"Command::new("buildah").args(["tag", old, new])"#,
        r#"Command::new("skopeo").args(["copy", old, "docker://ghcr.io/us/datastorage"])"#,
        r#"Command::new("skopeo").arg("copy").arg(old).arg(datastorage_image)"#,
    ];
    check_rust(&pieces, &[Pattern::ReTag]);
}

#[test]
fn what_is_no_re_tag_is_not_found() {
    let pieces = [
        r#"receipt.phase("tag", || tag(&inputs))"#,
        r#"let head = ["target", "tag", "tests"]; print(head)"#,
        r#"let words = ["xtask", "tag", target]; Command::new(cargo).args(words)"#,
        r#"Command::new("git").args(["tag", "--list", "v1"])"#,
        r#"let mut git = Command::new("git"); git.args(["tag", "--list", "v1"])"#,
        r#"clap::Command::new("tag").arg(Arg::new("target"))"#,
        r#"podman.args(["run", "--label", "tag", image])"#,
        r#"let mut podman = Command::new("podman"); podman.arg("run"); podman.args(["tag", old])"#,
        r#"podman.args(["image", "rm", "--force", image])"#,
        r#"span.record("tag", old)"#,
        r#"Command::new("skopeo").args(["copy", old, "oci-archive:out/datastorage.tar"])"#,
        r#"Command::new("skopeo").args(["copy", old, "docker://ghcr.io/us/postgres"])"#,
        r#"if let Some(tag) = map.get("tag") { podman.arg("images") }"#,
    ];
    check_rust(&pieces, &[]);
}

#[test]
fn an_image_fetched_or_set_is_found_in_rust() {
    let fetched = [
        r#"engine.invocation().args(["pull", "--quiet", "ghcr.io/us/datastorage"])"#,
        r#"Command::new("crictl").args(["pull", datastorage_image])"#,
        r#"cmd!(sh, "ctr -n k8s.io images pull {registry}/datastorage")"#,
        r#"cmd!(sh, "docker --context x pull {registry}/datastorage")"#,
    ];
    check_rust(&fetched, &[Pattern::SharedImage]);
    let set = [
        r#"Command::new("kubectl").args(["set", "image", "deployment/a", image])"#,
        r#"kubectl.args(["-n", namespace, "set", "image", workload, image])"#,
        r#"cmd!(sh, "kubectl -n {namespace} set image deployment/a a={image}")"#,
    ];
    check_rust(&set, &[Pattern::MadeAtDeployTime]);
    let neither = [
        r#"engine.invocation().args(["pull", "--quiet", image])"#,
        r#"Command::new("git").args(["pull", "origin", "datastorage"])"#,
        r#"kubectl.args(["set", "env", workload, image])"#,
        r#"settings.set("image", name)"#,
    ];
    check_rust(&neither, &[]);
}

#[test]
fn a_reference_put_together_is_found_however_it_is_written() {
    let pieces = [
        r#"let image = "localhost/datastorage:".to_owned() + &tag"#,
        r#"let mut image = String::from("localhost/datastorage:"); image.push_str(tag)"#,
        r#"let image = "datastorage:".to_string() + tag"#,
        r#"let image = repository + ":" + tag"#,
        r#"let image = format!("{repo}:{tag}")"#,
        r#"let image = format!("{}:{}", repository, tag)"#,
        r#"let image = format!("{host}/{}:{}", self.image_name(), image.tag())"#,
        r#"let image = format!("{image}:{version}")"#,
        r#"let image = concat!("localhost/", "datastorage", ":", env!("TAG"))"#,
        r#"let image = [repo, tag].join(":")"#,
        r#"let image = vec![repo.as_str(), &tag].join(":")"#,
        r#"let image = ["localhost/datastorage", &made].join(":")"#,
    ];
    check_rust(&pieces, &[Pattern::MadeAtDeployTime]);
    let fixed = [
        r#"let image = concat!("localhost/", "datastorage", ":", "e2e")"#,
        r#"let image = ["datastorage", "e2e"].join(":")"#,
    ];
    check_rust(&fixed, &[Pattern::FixedTag]);
}

#[test]
fn other_texts_with_a_colon_are_no_references() {
    let pieces = [
        r#"let address = format!("{host}:{port}")"#,
        r#"let place = format!("{}:{}", path, line)"#,
        r#"let user = [user, group].join(":")"#,
        r#"let address = "http://localhost/datastorage:".to_owned() + port"#,
        r#"let format = "{{.Repository}}:{{.Tag}}""#,
        r#"eprintln!("datastorage: {error}")"#,
        r#"let address = format!("datastorage:{}", port)"#,
        r#"let key = format!("{name}:{id}")"#,
        r#"let next = index + 1 + tag.len()"#,
        r#"let tag = format!("{target}-{}", digest.short())"#,
    ];
    check_rust(&pieces, &[]);
}

#[test]
fn phase_0_writes_its_reference_once() {
    let reference = "write!(f, \"{}/{}:{}\", host, package, tag)";
    let right = format!("impl fmt::Display for ImageRef {{\nfn fmt() {{ {reference} }}\n}}\n");
    let found = Pattern::MadeAtDeployTime;
    for (text, line) in [
        (format!("{right}fn other() {{ {reference} }}\n"), 4),
        (
            right.replace("}\n}", &format!("}}\nfn other() {{ {reference} }}\n}}")),
            3,
        ),
        (format!("{right}fn random_tag() {{}}\n"), 4),
        (right.replace("ImageRef", "Tagged"), 2),
    ] {
        check("xtask/src/pipeline/tag.rs", &text, &[(line, found)]);
    }
    check("xtask/src/pipeline/load.rs", &right, &[(2, found)]);
    let fixed = format!("{right}const OLD: &str = \"localhost/datastorage:old\";\n");
    check(
        "xtask/src/pipeline/tag.rs",
        &fixed,
        &[(4, Pattern::FixedTag)],
    );
}

#[test]
fn commands_of_workflows_are_found_with_their_options() {
    for (command, found) in [
        (
            "crictl pull ghcr.io/us/datastorage",
            Some(Pattern::SharedImage),
        ),
        (
            "ctr -n k8s.io images pull ghcr.io/us/datastorage",
            Some(Pattern::SharedImage),
        ),
        (
            "nerdctl pull ghcr.io/us/datastorage",
            Some(Pattern::SharedImage),
        ),
        ("crictl pull ghcr.io/datastorage/postgres", None),
        (
            "kubectl -n x set image deployment/a a=$IMAGE",
            Some(Pattern::MadeAtDeployTime),
        ),
        ("kubectl set env deployment/a A=b", None),
        (
            "docker --context x \\\n  image tag $OLD $NEW",
            Some(Pattern::ReTag),
        ),
        (
            "skopeo copy docker://$OLD docker://ghcr.io/us/datastorage",
            Some(Pattern::ReTag),
        ),
        ("skopeo copy docker://ghcr.io/us/datastorage dir:out", None),
        ("git tag v1", None),
    ] {
        let text = format!("a:\n- run: {command}\n");
        let expected: Vec<(usize, Pattern)> = found.map(|found| (2, found)).into_iter().collect();
        check(".github/workflows/e2e.yml", &text, &expected);
    }
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

/// Puts each line into a file, as its second.
#[track_caller]
fn check_lines(path: &str, lines: &[&str], expected: &[Pattern]) {
    for line in lines {
        let expected: Vec<(usize, Pattern)> = expected.iter().map(|&found| (2, found)).collect();
        check(path, &format!("a:\n{line}\n"), &expected);
    }
}

#[test]
fn a_tag_of_digits_is_no_port_where_an_image_is_named() {
    let fixed = [Pattern::FixedTag];
    let manifest = [
        "  image: localhost/datastorage:20260101",
        "- image: ghcr.io/us/datastorage:1",
        "  image: datastorage:15",
        "  image: \"datastorage:15\"",
        "  args: [\"--image\", \"datastorage:15\"]",
        "  - {name: DATASTORAGE_IMAGE, image: datastorage:15}",
        "  value: datastorage:20260101",
    ];
    check_lines("deploy/datastorage.yaml", &manifest, &fixed);
    check_lines("deploy/a.json", &["\"image\": \"datastorage:15\""], &fixed);
    let workflow = [
        "- run: docker build -t localhost/datastorage:20260101 .",
        "- run: make IMAGE=datastorage:15",
    ];
    check_lines(".github/workflows/e2e.yml", &workflow, &fixed);
    check_lines("Dockerfile", &["FROM datastorage:15"], &fixed);
    let rust = [
        r#"const B: &str = "localhost/datastorage:20260101""#,
        r#"let image = "datastorage:15""#,
        r#"Container { image: "datastorage:15".to_owned() }"#,
        r#"pod.with_image("datastorage:15")"#,
    ];
    check_rust(&rust, &fixed);
}

#[test]
fn a_port_is_no_tag() {
    let manifest = [
        "  value: \"http://datastorage:8080\"",
        "  value: datastorage:8080",
        "  - {name: UPSTREAM, value: \"datastorage:8080\"}",
        "  value: datastorage:${DATASTORAGE_PORT}",
    ];
    check_lines("deploy/datastorage.yaml", &manifest, &[]);
    let rust = [
        r#"connect("datastorage:8080")"#,
        r#"let url = "http://datastorage:8080/a""#,
        r#"let address = ("datastorage:8080", "image")"#,
        r#"fail("± datastorage:8080")"#,
    ];
    check_rust(&rust, &[]);
}

#[test]
fn a_name_with_a_colon_is_a_reference_where_its_tag_says_so() {
    let fixed = [
        r#"f("datastorage:latest")"#,
        r#"f("datastorage:e2e-test")"#,
        r#"f("datastorage:v1.2")"#,
        r#"f("datastorage:gateway")"#,
        r#"f("datastorage:3f9a1c0b7d52e8f4")"#,
    ];
    check_rust(&fixed, &[Pattern::FixedTag]);
    let made = [
        r#"f(format!("datastorage:gateway-{random}"))"#,
        r#"f(format!("datastorage:{tag}"))"#,
        r#"f(format!("datastorage:{}", git.sha()))"#,
        r#"let image = format!("datastorage:{made}")"#,
        r#"f(format!("{registry}/datastorage:{made}"))"#,
    ];
    check_rust(&made, &[Pattern::MadeAtDeployTime]);
    let neither = [
        r#"let scopes = ["gateway:write", "gateway:read-all"]"#,
        r#"info_span!("datastorage:insert")"#,
        r#"let key = format!("signalprocessing:{fingerprint}")"#,
        r#"log!("datastorage:{x} rows")"#,
        r#"let mount = format!("/data/datastorage:{mode}")"#,
        r#"let mount = format!("{root}/datastorage:{mode}")"#,
        r#"let mount = "./data/datastorage:ro""#,
        r#"let next = format!("{image_url}:{version}")"#,
    ];
    check_rust(&neither, &[]);
    let made = ["- run: ./up.sh datastorage:${{ github.sha }}"];
    check_lines(
        ".github/workflows/e2e.yml",
        &made,
        &[Pattern::MadeAtDeployTime],
    );
    let neither = [
        "- run: echo \"gateway:ok\"",
        "  key: datastorage:${{ hashFiles('Cargo.lock') }}",
        "- run: scp x host:/srv/datastorage:ro",
    ];
    check_lines(".github/workflows/e2e.yml", &neither, &[]);
}

#[test]
fn a_tag_is_found_where_the_name_is_bound_to_a_variable() {
    let fixed = [
        r#"let image = "localhost/datastorage"; format!("{image}:e2e")"#,
        r#"let image = "localhost/datastorage"; format!("{image}:latest")"#,
        r#"let r = "localhost/datastorage"; format!("{}:{}", r, "1")"#,
        r#"let r = String::from("localhost/datastorage"); format!("{r}:1")"#,
        r#"const R: &str = "localhost/datastorage"; format!("{R}:1")"#,
        r#"let (r, tag) = a; const TAG: &str = "1"; format!("localhost/datastorage:{TAG}")"#,
        r#"let mut r = String::from("localhost/datastorage"); r.push(':'); r.push_str("1")"#,
        r#"format!("{image}:latest")"#,
        r#"format!("{}:{}", image, "e2e")"#,
        r#"format!("{}/{}:{}", "localhost", "datastorage", "1")"#,
    ];
    check_rust(&fixed, &[Pattern::FixedTag]);
    let made = [
        r#"let r = "localhost/datastorage"; format!("{r}:{}", std::env::var("TAG").unwrap())"#,
        r#"format!("{}/{}:{}", "localhost", "datastorage", t)"#,
        r#"let mut r = String::from("localhost/datastorage"); r.push(':'); r.push_str(t)"#,
        r#"let mut r = "localhost/datastorage".to_owned(); r += ":"; r += &t"#,
        r#"let r = "localhost/datastorage"; f(r.to_owned() + ":" + &t)"#,
        r#"let r = "localhost/datastorage"; [r, t].join(":")"#,
    ];
    check_rust(&made, &[Pattern::MadeAtDeployTime]);
}

#[test]
fn a_variable_that_is_bound_to_something_else_is_no_name() {
    let pieces = [
        r#"let r = "localhost/datastorage"; let r = f(r); format!("{r}:{t}")"#,
        r#"let r = "localhost/datastorage"; f(r); format!("{}:{t}", self.r)"#,
        r#"let r = "http://datastorage"; format!("{r}:{port}")"#,
        r#"let host = "datastorage"; format!("{host}:{port}")"#,
        r#"let mut text = String::from("datastorage"); text.push(':'); text.push_str(t)"#,
        r#"let mut all = vec!["localhost/datastorage"]; all.push(other)"#,
        r#"format!("{image}:{line}")"#,
        r#"format!("{image_path}:latest")"#,
    ];
    check_rust(&pieces, &[]);
}

#[test]
fn a_tag_left_out_is_latest() {
    let fixed = [Pattern::FixedTag];
    let workflow = [
        "- run: podman run localhost/datastorage",
        "- run: podman run --rm -d --name x -p 80:80 localhost/datastorage serve",
        "- run: docker build -t ghcr.io/us/datastorage .",
        "- run: docker buildx build . --tag $REGISTRY/us/datastorage",
        "- run: podman build --tag=localhost/datastorage .",
        "- run: kind load docker-image localhost/datastorage",
        "- run: docker run -d datastorage:15",
    ];
    check_lines(".github/workflows/e2e.yml", &workflow, &fixed);
    let rust = [
        r#"run(&["run", "localhost/datastorage"])"#,
        r#"Command::new("podman").args(["build", "-t", "localhost/datastorage", "."])"#,
        r#"cmd!(sh, "podman run --rm localhost/datastorage")"#,
        r#"podman.args(["run", "--rm"]).arg("ghcr.io/us/datastorage")"#,
        r#"Command::new("podman").args(["run", "datastorage:15"])"#,
    ];
    check_rust(&rust, &fixed);
    let workflow = [
        "- run: docker build services/datastorage",
        "- run: docker build ./services/datastorage",
        "- run: podman images localhost/datastorage",
        "- run: podman rmi localhost/datastorage",
        "- run: docker run -e UPSTREAM=datastorage:8080 busybox",
        "- run: docker run --add-host datastorage:10 busybox wget datastorage:8080",
        "- run: docker run --name datastorage postgres:15",
    ];
    check_lines(".github/workflows/e2e.yml", &workflow, &[]);
    let rust = [
        r#"run(&["run", "datastorage"])"#,
        r#"run(&["run", "--upstream", "datastorage:8080"])"#,
        r#"podman.args(["image", "inspect", "localhost/datastorage"])"#,
    ];
    check_rust(&rust, &[]);
}

#[test]
fn a_re_tag_is_found_behind_a_function_or_a_variable() {
    let found = [Pattern::ReTag];
    let rust = [
        "client.tag_image(a, b, options)",
        "image_tag(a, b)",
        r#"run([engine, "tag", old, new])"#,
    ];
    check_rust(&rust, &found);
    let workflow = [
        "- run: DOCKER=docker; $DOCKER tag x y",
        "- run: \"${CONTAINER_ENGINE:-podman}\" tag x y",
        "- run: $(DOCKER) tag x y",
    ];
    check_lines(".github/workflows/e2e.yml", &workflow, &found);
    check_rust(&["image_tag(a)", "image.image_tag()", "tag(a, b)"], &[]);
    let workflow = ["- run: $GIT tag x y", "- run: echo $DOCKER tag"];
    check_lines(".github/workflows/e2e.yml", &workflow, &[]);
}

#[test]
fn an_image_that_a_template_names_is_made_at_deploy_time() {
    let made = [Pattern::MadeAtDeployTime];
    let manifest = [
        "  image: \"{{ .Values.image }}:{{ .Values.tag }}\"",
        "  image: {{ .Values.image }}",
        "  image: \"localhost/{{ .Values.image }}:e2e\"",
        "  image: ${IMAGE}",
        "  image: \"{{ .Values.registry }}/datastorage:{{ .Values.tag }}\"",
    ];
    check_lines("deploy/datastorage.yaml", &manifest, &made);
    let json = ["\"image\": \"{{ .Values.image }}:{{ .Values.tag }}\""];
    check_lines("deploy/datastorage.json", &json, &made);
    let manifest = [
        "  image: postgres:{{ .Values.postgres }}",
        "  image: \"{{ .Values.registry }}/postgres:15\"",
        "  value: \"{{ .Values.image }}\"",
    ];
    check_lines("deploy/datastorage.yaml", &manifest, &[]);
}
