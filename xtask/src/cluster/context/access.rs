//! The way to a cluster: a kubectl that fits it, and a kubeconfig of the run's own with one context,
//! copied out of the user's once. From then on the user's is not looked at any more.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use crate::bundle::Bundle;
use crate::cluster::kubernetes::Kubectl;
use crate::exit::{Exit, Failure};
use crate::host;
use crate::process::{self, Invocation};
use crate::run::{self, Run};

/// What a bundle and PATH call the program.
const TOOL: &str = "kubectl";
/// A file is read, or an API server is asked on a slow line.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// How far kubectl may be from the server, in minor versions: its own rule.
const MINORS_MAX: u32 = 1;

/// Copies the context, and sees that its API server answers and this kubectl fits it.
pub(super) fn open(run: &Run, context: &str, bundle: Option<&Bundle>) -> Result<Kubectl> {
    let program = program(bundle)?;
    let kubeconfig = kubeconfig(run.directory());
    copy(&program, context, &kubeconfig)?;
    let kubectl = Kubectl {
        program,
        kubeconfig,
        namespace: run.id().to_owned(),
    };
    let version = kubectl
        .invocation()
        .args(["version", "--output=json", "--request-timeout=20s"]);
    let told = process::output(&version, ANSWER_DEADLINE)?;
    let versions: Versions = serde_json::from_str(&told.stdout).map_err(|error| {
        let what = format!(
            "{version} answers in an unknown way: {}",
            told.stderr.trim()
        );
        Failure::new(Exit::Host, what).caused_by(error)
    })?;
    if let Some(objection) = versions.objection(context, &told.stderr) {
        return Err(objection.into());
    }
    Ok(kubectl)
}

/// Among the secrets of a run, by its folder: whoever has it is the user there.
pub(super) fn kubeconfig(directory: &Utf8Path) -> Utf8PathBuf {
    directory.join(run::SECRETS).join("kubeconfig")
}

/// From the bundle, else from PATH.
pub(super) fn program(bundle: Option<&Bundle>) -> Result<Utf8PathBuf> {
    let bundled = bundle.map(|bundle| bundle.tool(TOOL)).transpose()?;
    if let Some(tool) = bundled.flatten() {
        return Ok(tool.program().to_owned());
    }
    host::program(TOOL).ok_or_else(|| {
        Failure::new(Exit::Host, "kubectl is not installed")
            .hint("https://kubernetes.io/docs/tasks/tools/ says how to get it; or name a folder that holds it with `--bundle`")
            .into()
    })
}

/// What reads the user's kubeconfig: one context, with everything that other files hold put in.
pub(super) fn view(program: &Utf8Path, context: &str) -> Invocation {
    Invocation::new(program.as_str()).args([
        "config".to_owned(),
        "view".to_owned(),
        "--raw".to_owned(),
        "--flatten".to_owned(),
        "--minify".to_owned(),
        format!("--context={context}"),
        "--output=json".to_owned(),
    ])
}

fn copy(program: &Utf8Path, context: &str, to: &Utf8Path) -> Result<()> {
    let list = Invocation::new(program.as_str()).args(["config", "get-contexts", "--output=name"]);
    let listed = process::capture(&list, ANSWER_DEADLINE)?.stdout;
    let known: Vec<&str> = listed.lines().collect();
    if !known.contains(&context) {
        let hint = match known.is_empty() {
            true => "it has none: KUBECONFIG names another file".to_owned(),
            false => format!("there are: {}", known.join(", ")),
        };
        let what = format!("your kubeconfig has no context `{context}`");
        return Err(Failure::new(Exit::Usage, what).hint(hint).into());
    }
    let text = process::capture(&view(program, context), ANSWER_DEADLINE)?.stdout;
    let mut config: serde_json::Value = serde_json::from_str(&text)
        .map_err(|_| Failure::new(Exit::Host, "kubectl gives no kubeconfig that can be read"))?;
    config["current-context"] = context.into();
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)?;
        file.write_all(config.to_string().as_bytes())
    };
    write().with_context(|| format!("cannot write {to}"))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client_version: Version,
    server_version: Option<Version>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    major: String,
    minor: String,
    git_version: String,
}

impl Version {
    /// Managed clusters write `36+`.
    fn numbers(&self) -> Option<(u32, u32)> {
        let minor = self.minor.trim_end_matches(|c: char| !c.is_ascii_digit());
        Some((self.major.parse().ok()?, minor.parse().ok()?))
    }
}

impl Versions {
    /// Why this kubectl is not used with that server, if it is not.
    fn objection(&self, context: &str, said: &str) -> Option<Failure> {
        let client = &self.client_version;
        let Some(server) = &self.server_version else {
            let why = said.lines().rfind(|line| !line.trim().is_empty());
            let what = format!(
                "the API server of context:{context} does not answer: {}",
                why.unwrap_or("kubectl does not say why")
            );
            let hint = format!("try `kubectl --context={context} version`");
            return Some(Failure::new(Exit::Host, what).hint(hint));
        };
        let fits = match (client.numbers(), server.numbers()) {
            (Some((ours, minor)), Some((theirs, of_server))) => {
                ours == theirs && minor.abs_diff(of_server) <= MINORS_MAX
            }
            _ => false,
        };
        if fits {
            return None;
        }
        let what = format!(
            "kubectl is {}, and the API server of context:{context} is {}: that is more than {MINORS_MAX} minor version apart",
            client.git_version, server.git_version
        );
        let hint = format!(
            "put a kubectl {}.{} on PATH first, or into a bundle: https://kubernetes.io/docs/tasks/tools/",
            server.major,
            server.minor.trim_end_matches('+')
        );
        Some(Failure::new(Exit::Host, what).hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Versions;

    fn objection(client: (&str, &str), server: Option<(&str, &str)>) -> Option<String> {
        let version = |(major, minor): (&str, &str)| json!({"major": major, "minor": minor, "gitVersion": format!("v{major}.{minor}.1")});
        let versions = json!({
            "clientVersion": version(client),
            "serverVersion": server.map(version),
        });
        let versions: Versions = serde_json::from_value(versions).unwrap();
        let failure = versions.objection("c", "one\ndial tcp: refused\n")?;
        Some(format!(
            "{failure}\n{}",
            failure.hint_text().unwrap_or_default()
        ))
    }

    #[test]
    fn kubectl_may_be_one_minor_version_away() {
        for minor in ["35", "36", "37", "36+"] {
            assert_eq!(objection(("1", minor), Some(("1", "36+"))), None, "{minor}");
        }
        for client in [
            ("1", "34"),
            ("1", "38"),
            ("1", "20"),
            ("2", "36"),
            ("1", "x"),
        ] {
            let told = objection(client, Some(("1", "36+"))).unwrap();
            for word in [
                &format!("v{}.{}.1", client.0, client.1),
                "v1.36+.1",
                "kubectl 1.36 on PATH",
            ] {
                assert!(told.contains(word), "`{word}` is not in: {told}");
            }
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_told_with_the_last_words() {
        let told = objection(("1", "36"), None).unwrap();
        assert!(
            told.contains("context:c does not answer: dial tcp: refused"),
            "{told}"
        );
    }
}
