//! What a person reads: the help of each command, and the answer to a wrong command line.

use std::process::{Command, Output};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap()
}

#[track_caller]
fn check(arguments: &[&str], code: i32, stdout: &str, stderr: &str) {
    let output = xtask(arguments);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        stderr,
        "{arguments:?}"
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        stdout,
        "{arguments:?}"
    );
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
}

#[test]
fn help_lists_the_commands() {
    check(
        &["--help"],
        0,
        "\
Tests every service end to end against the sources as they stand

Usage: cargo xtask <COMMAND>

Commands:
  e2e          Build, deploy, prove and test a target, then remove everything again
  tag          Print the image reference of DataStorage for a target; computes, builds nothing
  build        Build the images of a target: reference and image ID, one line each
  matrix       Print the targets as JSON, for a workflow with one job for each
  audit        Show the reference of each target in each phase, and find every wrong tag pattern in the tree
  doctor       Tell what is on this machine, what is missing, and which engine would be chosen
  setup        Install what is missing, or print the commands where that is not possible
  status       Show runs, containers and disk; of a kept run how to reach each service
  logs         Print the log of a service of the newest run
  clean        Remove what the tool made in this checkout and no living run uses
  test         Run the unit and integration tests, with a PostgreSQL server of their own
  bench        Measure what the tool costs, each figure as a ratio to its floor
  crash        Kill runs at random moments, and see that the next is green and nothing is left
  ci           Run everything that must be green before a change is merged
  completions  Print a script that completes `cargo xtask` in a shell, with the names of targets

Options:
  -h, --help  Print help

Exit codes: 0 green, 1 red, 2 usage, 3 host, 4 source, 5 build, 6 manifest, 7 deploy, 8 attest, 9 timeout, 70 internal, 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
",
        "",
    );
}

#[test]
fn help_of_e2e_names_every_flag() {
    let help = String::from_utf8(xtask(&["e2e", "-h"]).stdout).unwrap();
    assert_eq!(
        help,
        "\
Build, deploy, prove and test a target, then remove everything again

Usage: cargo xtask e2e [OPTIONS] <TARGET...|--all> [-- <TEST FILTER>...]

Arguments:
  [TARGET]...       Targets to test, each in a run of its own
  [TEST FILTER]...  Run only the tests whose name contains one of these

Options:
      --all                       Test every target
      --jobs <COUNT|auto>         How many targets at a time: a number, or `auto` for as many as there are cores; fewer where memory is short [default: 1]
      --fail-fast                 When a target is red, end the others that run, and begin no more
      --keep <WHEN>               Whether the containers stay when a run ends [default: never] [possible values: never, on-failure, always]
      --nodes <COUNT>             How many nodes a cluster of kind has [default: 1]
      --reuse                     On kind: keep one cluster for each target, and use it again; database and namespace are new for each run
      --watch                     Run again after every edit, until Ctrl-C; what an edit did not change stays deployed
      --cluster <CLUSTER>         What it is deployed to: `local`, `kind`, or `context:<name>` of your kubeconfig; `local`, if the workspace names no other [env: E2E_CLUSTER=]
      --engine <ENGINE>           Which container engine runs it [env: E2E_ENGINE=] [default: auto] [possible values: auto, podman, docker]
      --bundle <DIR>              A folder with tools and images for machines without a network [env: E2E_BUNDLE=]
      --prebuilt <DIR|HOST/PATH>  Take the images that `build` left in this folder or pushed to this registry; fail if they are not of these sources
      --accept-recipe             Take them also if they were built by another recipe (an older compiler)
      --registry <HOST/PATH>      Name images in this registry
      --plan                      Print phases, references and commands; run nothing
      --no-cache                  Build in an empty folder all the same, and compare with what is kept
      --pause-before <PHASE>      Stop before this phase until Enter or SIGUSR1 [possible values: build, load, deploy, attest, test, clean]
      --timeout <SECONDS>         End after this many seconds, clean up, and exit with code 9
      --yes                       Install what is missing without asking
      --report <DIR>              Copy receipt, reports and logs of each run to this folder, and a page of all targets
      --profile <PROFILE>         Cargo profile of the services [default: e2e] [possible values: e2e, release]
  -h, --help                      Print help (see more with '--help')
"
    );
}

#[test]
fn a_matrix_is_one_line_with_a_job_for_each_target() {
    let output = xtask(&["matrix"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    let matrix: serde_json::Value = serde_json::from_str(&text).unwrap();
    let jobs = matrix["include"].as_array().unwrap();
    let names: Vec<&str> = jobs
        .iter()
        .map(|job| job["target"].as_str().unwrap())
        .collect();
    assert_eq!(names.join(", "), KNOWN);
    let gateway = serde_json::json!({"target": "gateway", "needs": ["datastorage"]});
    assert!(jobs.contains(&gateway), "{text}");

    let outputs = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outputs.path(), "before=1\n").unwrap();
    let told = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("matrix")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_OUTPUT", outputs.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(told.stdout).unwrap(), text);
    let written = std::fs::read_to_string(outputs.path()).unwrap();
    assert_eq!(written, format!("before=1\nmatrix={text}"));
}

#[test]
fn what_does_not_go_together_is_told() {
    for (arguments, words) in [
        (
            &["build", "--all", "--push"][..],
            "the following required arguments were not provided:\n  --registry <HOST/PATH>",
        ),
        (
            &["build", "--all", "--registry", "https://ghcr.io/us"],
            "no place in a registry: leave `https://` out: `ghcr.io/us`",
        ),
        (
            &["e2e", "gateway", "--accept-recipe"],
            "required arguments were not provided:\n  --prebuilt",
        ),
        (
            &["e2e", "gateway", "--prebuilt", "x", "--no-cache"],
            "'--prebuilt <DIR|HOST/PATH>' cannot be used with '--no-cache'",
        ),
        (
            &["e2e", "gateway", "--prebuilt", "nowhere"],
            "--prebuilt nowhere: there is no such folder",
        ),
        (
            &[
                "e2e",
                "gateway",
                "--prebuilt",
                "ghcr.io/us",
                "--registry",
                "ghcr.io/them",
            ],
            "--registry ghcr.io/them is not where --prebuilt ghcr.io/us has images",
        ),
    ] {
        let output = xtask(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(words), "`{words}` is not in: {text}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    }
}

#[test]
fn every_command_explains_itself() {
    use clap::CommandFactory as _;
    let command = xtask::cli::Cli::command();
    for subcommand in command.get_subcommands() {
        let output = xtask(&[subcommand.get_name(), "--help"]);
        let help = String::from_utf8(output.stdout).unwrap();
        let about = subcommand.get_about().unwrap().to_string();
        let usage = format!("Usage: cargo xtask {}", subcommand.get_name());
        assert!(help.starts_with(&about) && help.contains(&usage), "{help}");
        for argument in subcommand.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{}: {argument}",
                subcommand.get_name()
            );
        }
    }
}

const KNOWN: &str =
    "datastorage, gateway, pipeline, remediationorchestrator, signalprocessing, workflowexecution";

/// Third parties have logs as well.
const KNOWN_SERVICES: &str = "datastorage, gateway, postgres, remediationorchestrator, signalprocessing, testbed, workflowexecution";

#[test]
fn an_unknown_target_gets_the_nearest_one() {
    for command in ["e2e", "tag", "build"] {
        check(
            &[command, "gatway"],
            2,
            "",
            &format!(
                "error: unknown target `gatway`\nhint: did you mean `gateway`? known: {KNOWN}\n"
            ),
        );
    }
}

#[test]
fn one_unknown_target_stops_all() {
    check(
        &["e2e", "gateway", "qqq"],
        2,
        "",
        &format!("error: unknown target `qqq`\nhint: known: {KNOWN}\n"),
    );
}

/// Before an engine is looked for: there is none on this PATH.
#[test]
fn a_test_that_is_not_there_is_refused_at_once() {
    let e2e = |filters: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["e2e", "gateway", "--engine", "podman", "--plan", "--"])
            .args(filters)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", "/nowhere")
            .output()
            .unwrap()
    };
    let output = e2e(&["nosuchtest", "norsuch"]);
    let told = String::from_utf8_lossy(&output.stderr);
    let begins =
        "error: no test has `nosuchtest` or `norsuch` in its name\nhint: there are:\n  faults::";
    assert!(told.starts_with(begins), "{told}");
    assert_eq!(output.status.code(), Some(2));
    for filters in [&["nosuchtest", "faults::"][..], &["--exact", "nosuchtest"]] {
        assert_ne!(e2e(filters).status.code(), Some(2), "{filters:?}");
    }
}

#[test]
fn no_target_and_unknown_flags_are_usage_errors() {
    for arguments in [
        &["e2e"][..],
        &["e2e", "--all", "gateway"],
        &["e2e", "gateway", "--keep", "sometimes"],
        &["e2e", "gateway", "--pause-before", "lunch"],
        &["e2e", "gateway", "--timeout", "0"],
        &["tag"],
        &["bench", "load", "gateway", "--rate", "0"],
        &["bench", "load", "gateway", "--seconds", "31"],
        &["bench", "load", "gateway", "--connections", "65"],
        &["bench", "edit", "load", "gateway"],
        &["fly"],
    ] {
        let output = xtask(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

/// The last line of what is told, and that no more than this was said.
#[track_caller]
fn check_hint(arguments: &[&str], variables: &[(&str, &str)], hint: Option<&str>) {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("E2E_ENGINE")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut hints = told.lines().filter_map(|line| line.strip_prefix("hint: "));
    assert_eq!(hints.next_back(), hint, "{arguments:?}: {told}");
    assert!(told.starts_with("error: "), "{told}");
}

#[test]
fn a_wrong_command_line_is_told_with_its_fix() {
    let targets = format!("targets: {KNOWN}");
    for command in ["e2e", "tag", "build"] {
        check_hint(&[command], &[], Some(&targets));
    }
    let services = format!("services: {KNOWN_SERVICES}");
    check_hint(&["logs"], &[], Some(&services));
    let seconds = "give a whole number of seconds, 1 or more: `--timeout 600`";
    for wrong in ["abc", "0", "1.5"] {
        check_hint(&["e2e", "gateway", "--timeout", wrong], &[], Some(seconds));
    }
    let jobs = "give how many at a time, or leave that to the tool: `--jobs 2`, `--jobs auto`";
    for wrong in ["0", "two", "-1"] {
        check_hint(
            &["e2e", "--all", &format!("--jobs={wrong}")],
            &[],
            Some(jobs),
        );
    }
    let rounds = "give a whole number, 1 or more: `--rounds 5`";
    check_hint(&["bench", "--rounds", "0"], &[], Some(rounds));
    let loads = "services with a load: datastorage, gateway, remediationorchestrator, signalprocessing, workflowexecution";
    check_hint(&["bench", "load"], &[], Some(loads));
    for without in ["testbed", "pipeline", "nothing"] {
        check_hint(&["bench", "load", without], &[], Some(loads));
    }
    let shells = "there is a script for bash, zsh and fish: `cargo xtask completions bash`; in any other shell `cargo xtask --help` lists the commands";
    check_hint(&["completions", "tcsh"], &[], Some(shells));
    check_hint(&["completions"], &[], Some(shells));
    let report = "leave one of them out; a plan is printed: `--plan > plan.txt`";
    check_hint(
        &["e2e", "gateway", "--plan", "--report", "r"],
        &[],
        Some(report),
    );
}

#[test]
fn a_wrong_value_of_a_variable_is_told_with_its_name() {
    let held = "`lxc` is what the variable E2E_ENGINE holds: unset it, or set it to auto, podman or docker";
    let variable = ("E2E_ENGINE", "lxc");
    for command in [&["e2e", "gateway"][..], &["doctor"], &["bench"], &["crash"]] {
        check_hint(command, &[variable], Some(held));
    }
    let arguments = ["e2e", "gateway", "--engine", "lxc"];
    check_hint(&arguments, &[], None);
    check_hint(&arguments, &[variable], None);
}

#[test]
fn watching_goes_with_little_else() {
    for (arguments, what, why) in [
        (
            &["datastorage"][..],
            "several targets",
            "it stays at one until Ctrl-C",
        ),
        (&["--plan"], "--plan", "a plan runs nothing"),
        (
            &["--pause-before", "test"],
            "--pause-before",
            "nobody would press Enter in every cycle",
        ),
        (
            &["--report", "/nowhere"],
            "--report",
            "each cycle would write over the last one's",
        ),
        (&["--timeout", "5"], "--timeout", "it ends with Ctrl-C"),
        (
            &["--keep", "always"],
            "--keep",
            "Ctrl-C, which ends it, removes everything",
        ),
    ] {
        let all = [&["e2e", "gateway", "--watch"][..], arguments].concat();
        let told = format!("error: --watch does not go with {what}: {why}\n");
        check(&all, 2, "", &told);
    }
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["e2e", "gateway", "--watch"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CI", "true")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("the variable CI: nobody edits there"),
        "{told}"
    );
}

#[test]
fn several_at_a_time_go_with_nothing_that_looks_at_one() {
    for (jobs, option, why) in [
        ("2", &["--watch"][..], "it stays at one target"),
        ("2", &["--plan"], "a plan runs nothing"),
        (
            "auto",
            &["--pause-before", "test"],
            "Enter would be for all of them at once",
        ),
    ] {
        let all = [&["e2e", "gateway", "datastorage", "--jobs", jobs], option].concat();
        let told = format!(
            "error: --jobs {jobs} does not go with {}: {why}\nhint: leave --jobs out\n",
            option[0]
        );
        check(&all, 2, "", &told);
    }
}

#[test]
fn a_tag_is_one_line_of_data() {
    let output = xtask(&["tag", "gateway"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let line = String::from_utf8(output.stdout).unwrap();
    let tag = line.strip_prefix("localhost/datastorage:gateway-").unwrap();
    let digest = tag.strip_suffix('\n').unwrap();
    assert_eq!(digest.len(), 16);
    assert!(
        digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{line}"
    );
}

#[test]
fn json_tells_every_image_of_the_run() {
    let output = xtask(&["tag", "gateway", "--json"]);
    let images: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let packages: Vec<&str> = images
        .iter()
        .map(|image| image["package"].as_str().unwrap())
        .collect();
    assert_eq!(packages, ["datastorage", "gateway"]);
    for image in &images {
        for field in ["reference", "source_digest", "recipe_digest", "platform"] {
            assert!(image[field].is_string(), "{field}: {image}");
        }
    }
}

#[test]
fn this_tree_has_no_wrong_pattern() {
    let output = xtask(&["audit"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.ends_with("no wrong pattern in manifests, workflows and Rust sources\n"),
        "{text}"
    );
    let tags = text.lines().filter(|line| line.ends_with("right")).count();
    assert_eq!(tags, KNOWN.split(", ").count(), "{text}");
}
