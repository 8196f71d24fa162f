//! What nodes pull with: the entry for a registry in the files where skopeo and docker keep such
//! things, or what their helpers give. It goes into a Secret of the run and nowhere else: no command
//! line has it, and no log.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::host;
use crate::pipeline::tag::Repository;
use crate::process::{self, Input, Invocation, ProcessError};

/// A helper may ask a keyring, and that a person.
const HELPER_DEADLINE: Duration = Duration::from_secs(60);
/// What docker calls its own registry in its file.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What opens a registry. It shows nothing of itself.
#[derive(Clone)]
pub(crate) struct Credentials {
    key: String,
    entry: Value,
    origin: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Credentials({}, {})", self.key, self.origin)
    }
}

impl Credentials {
    /// Of a repository, if there are any.
    ///
    /// # Errors
    /// [`Exit::Host`] when a file or the answer of a helper cannot be read.
    pub(crate) fn of(repository: &Repository) -> Result<Option<Self>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let user = rustix::process::getuid().as_raw();
        for file in files(&variable, user) {
            if let Some(found) = in_file(&file, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// `<what a registry is called> from <file>`; nothing that opens anything.
    pub(crate) fn told(&self) -> String {
        format!("the entry {} of {}", self.key, self.origin)
    }

    /// The content of a Secret of type `kubernetes.io/dockerconfigjson`, with this one entry.
    pub(crate) fn docker_config(&self) -> String {
        json!({"auths": {self.key.as_str(): self.entry}}).to_string()
    }
}

/// A file of credentials, docker's or that of skopeo and its kin; other keys are none of ours.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Value>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

/// Where skopeo looks, in its order; the first file that knows the registry decides. One that is named
/// in the environment stands alone, as it does for skopeo.
fn files(variable: &dyn Fn(&str) -> Option<String>, user: u32) -> Vec<Utf8PathBuf> {
    if let Some(named) = variable("REGISTRY_AUTH_FILE") {
        return vec![named.into()];
    }
    let home = variable("HOME").map(Utf8PathBuf::from);
    let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let runtime = variable("XDG_RUNTIME_DIR").map_or_else(
        || Utf8PathBuf::from(format!("/run/containers/{user}/auth.json")),
        |folder| Utf8Path::new(&folder).join("containers/auth.json"),
    );
    let config = variable("XDG_CONFIG_HOME")
        .map(Utf8PathBuf::from)
        .or_else(|| in_home(".config"));
    let docker = variable("DOCKER_CONFIG")
        .map(Utf8PathBuf::from)
        .or_else(|| in_home(".docker"));
    [
        Some(runtime),
        config.map(|folder| folder.join("containers/auth.json")),
        docker.map(|folder| folder.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn in_file(path: &Utf8Path, repository: &Repository) -> Result<Option<Credentials>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
    };
    let file: File = serde_json::from_slice(&text).map_err(|error| {
        // Where, and not what: the text of the error may hold a value.
        let (line, column) = (error.line(), error.column());
        Failure::new(
            Exit::Host,
            format!("{path} is no file of credentials: line {line}, column {column}"),
        )
        .hint("`skopeo login` and `docker login` write it")
    })?;
    let names = names(repository);
    let key = names[0].as_str();
    // A helper for the host comes before what is written down, as it does for skopeo.
    let host = repository.host();
    if let Some(helper) = file.cred_helpers.get(host) {
        return ask(helper, host, path);
    }
    for name in &names {
        let mut entries = file.auths.iter();
        let found = entries.find(|(key, entry)| bare(key) == bare(name) && opens(entry));
        if let Some((_, entry)) = found {
            return Ok(Some(Credentials {
                key: called(name).to_owned(),
                entry: entry.clone(),
                origin: path.to_string(),
            }));
        }
    }
    match &file.creds_store {
        Some(store) => ask(
            store,
            called(names.last().map_or(key, String::as_str)),
            path,
        ),
        None => Ok(None),
    }
}

/// What a repository may be called in a file, the most specific first: `host/a/b`, `host/a`, `host`.
fn names(repository: &Repository) -> Vec<String> {
    let mut names = vec![repository.to_string()];
    while let Some((shorter, _)) = names.last().and_then(|name| name.rsplit_once('/')) {
        names.push(shorter.to_owned());
    }
    names
}

/// A key without what docker writes around it.
fn bare(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    match key {
        "index.docker.io" => "docker.io",
        key => key,
    }
}

/// What Kubernetes wants it to be called.
fn called(name: &str) -> &str {
    match name {
        "docker.io" => DOCKER_HUB,
        name => name,
    }
}

/// Docker leaves an empty entry where a helper has what opens the registry.
fn opens(entry: &Value) -> bool {
    ["auth", "username", "identitytoken"]
        .iter()
        .any(|field| entry[field].as_str().is_some_and(|value| !value.is_empty()))
}

/// What a helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<helper>`; nothing where it says that it knows no such registry.
fn ask(helper: &str, server: &str, file: &Utf8Path) -> Result<Option<Credentials>> {
    let program = format!("docker-credential-{helper}");
    let failed = |what: String| {
        Failure::new(Exit::Host, what).hint(format!("{file} names that helper for {server}"))
    };
    let path =
        host::program(&program).ok_or_else(|| failed(format!("{program} is not installed")))?;
    let get = Invocation::new(path.as_str()).arg("get");
    let input = Input::Bytes(server.as_bytes().to_vec());
    let answer = match process::capture_with_input(&get, &input, HELPER_DEADLINE) {
        Ok(told) => told.stdout,
        Err(ProcessError::Failed { stderr, .. }) if stderr.contains("not found") => {
            return Ok(None);
        }
        Err(error @ ProcessError::Interrupted { .. }) => return Err(error.into()),
        // What it printed may be what nobody else should read.
        Err(error) => {
            let code = match &error {
                ProcessError::Failed { code, .. } => format!("ended with {code}"),
                _ => "gave no answer".to_owned(),
            };
            return Err(failed(format!("{program} {code}")).into());
        }
    };
    let answer: Answer = serde_json::from_str(&answer)
        .map_err(|_| failed(format!("{program} answers in an unknown way")))?;
    let entry = match answer.username.as_str() {
        // By its own convention: what follows is a token.
        "<token>" => json!({"identitytoken": answer.secret}),
        _ => json!({"username": answer.username, "password": answer.secret}),
    };
    Ok(Some(Credentials {
        key: server.to_owned(),
        entry,
        origin: format!("{file}, by {program}"),
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use camino::{Utf8Path, Utf8PathBuf};
    use serde_json::{Value, json};

    use super::{Credentials, files, in_file};

    fn found(file: &Value, repository: &str) -> Option<(String, Value)> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path())
            .unwrap()
            .join("auth.json");
        fs::write(&path, file.to_string()).unwrap();
        let found = in_file(&path, &repository.parse().unwrap()).unwrap();
        found.map(|found: Credentials| (found.key, found.entry))
    }

    #[test]
    fn the_most_specific_entry_opens_a_repository() {
        let auth = |text: &str| json!({"auth": text});
        let file = json!({"auths": {
            "r.example.org": auth("host"),
            "r.example.org/team": auth("team"),
            "r.example.org/team/other": auth("other"),
            "https://s.example.org/v2/": auth("written by docker"),
            "https://index.docker.io/v1/": auth("hub"),
            "empty.example.org": {},
        }});
        let check = |repository: &str, key: &str, text: &str| {
            assert_eq!(found(&file, repository), Some((key.to_owned(), auth(text))));
        };
        check("r.example.org/team/e2e", "r.example.org/team", "team");
        check("r.example.org/teams", "r.example.org", "host");
        check("s.example.org/a", "s.example.org", "written by docker");
        check("docker.io/a", "https://index.docker.io/v1/", "hub");
        assert_eq!(found(&file, "empty.example.org/a"), None);
        assert_eq!(found(&file, "r.example.org:5000/team"), None);
    }

    #[test]
    fn a_secret_has_the_one_entry_and_a_log_has_none() {
        let credentials = Credentials {
            key: "r.example.org".to_owned(),
            entry: json!({"auth": "c2VjcmV0"}),
            origin: "auth.json".to_owned(),
        };
        let config: Value = serde_json::from_str(&credentials.docker_config()).unwrap();
        assert_eq!(
            config,
            json!({"auths": {"r.example.org": {"auth": "c2VjcmV0"}}})
        );
        for told in [format!("{credentials:?}"), credentials.told()] {
            assert!(!told.contains("c2VjcmV0"), "{told}");
        }
    }

    #[test]
    fn files_are_looked_at_in_the_order_of_skopeo() {
        let at = |set: &[(&str, &str)]| {
            let variable = |name: &str| {
                let mut set = set.iter();
                set.find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            let files = files(&variable, 7);
            files
                .into_iter()
                .map(Utf8PathBuf::into_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            at(&[("HOME", "/h")]),
            [
                "/run/containers/7/auth.json",
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json",
            ]
        );
        assert_eq!(
            at(&[
                ("HOME", "/h"),
                ("XDG_RUNTIME_DIR", "/r"),
                ("DOCKER_CONFIG", "/d")
            ]),
            [
                "/r/containers/auth.json",
                "/h/.config/containers/auth.json",
                "/d/config.json",
            ]
        );
        assert_eq!(at(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/f")]), ["/f"]);
    }

    #[test]
    fn a_damaged_file_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path())
            .unwrap()
            .join("auth.json");
        fs::write(&path, r#"{"auths": "c2VjcmV0"}"#).unwrap();
        let error = in_file(&path, &"r.example.org/a".parse().unwrap()).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("auth.json") && !text.contains("c2VjcmV0"),
            "{text}"
        );
    }
}
