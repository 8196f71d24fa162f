//! docker. Its client is often there with no server behind it, so the server is asked, never
//! `--version`; and a server counts when a container was seen to run on it. The outcome is kept
//! until the host or the server changes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::bench::{Bench, does_not_work, last_error};
use super::{Engine, EngineKind, Limits, NO_DOCKER, Platform, dockerd};
use crate::exit::{Exit, Failure};
use crate::host::{self, Stamp};
use crate::process::{self, Invocation};

/// A server that is there answers at once.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// What tells the client where its server is.
const VARIABLES: [&str; 3] = ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"];

/// What must be the same for an outcome to hold.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    schema: u32,
    boot: String,
    user: u32,
    environment: BTreeMap<String, String>,
    program: Stamp,
    server: Server,
}

/// What the server says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    version: String,
    os: String,
    arch: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versions {
    server: Option<Server>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    limits: Limits,
    storage: Option<Utf8PathBuf>,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    key: Key,
    outcome: Outcome,
}

/// Finds docker and sees it run a container.
pub(super) fn probe() -> Result<Engine> {
    let Some(program) = host::program("docker") else {
        return Err(Failure::new(Exit::Host, "is not installed")
            .hint(NO_DOCKER)
            .into());
    };
    let client = client(&program);
    let server = server(&client)?;
    let platform = platform(&server)?;
    let key = Key {
        schema: 2,
        boot: host::boot_id(),
        user: rustix::process::getuid().as_raw(),
        environment: VARIABLES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .chain(own_host())
            .collect(),
        program: host::stamp(program.clone()),
        server: server.clone(),
    };
    let cache = host::cache_directory()?.join("engine-docker.json");
    let outcome = match cached(&cache, &key) {
        Some(outcome) => outcome,
        None => {
            // One probes; the others find what it found.
            let _lock = host::lock("engine")?;
            match cached(&cache, &key) {
                Some(outcome) => outcome,
                None => find_out(&client, &platform, &cache, key)?,
            }
        }
    };
    Ok(Engine {
        kind: EngineKind::Docker,
        program,
        environment: own_host().into_iter().collect(),
        version: server.version,
        platform,
        limits: outcome.limits,
        storage: outcome.storage,
        notes: outcome.notes,
    })
}

fn cached(cache: &Utf8Path, key: &Key) -> Option<Outcome> {
    let cached: Cached = host::read_cached(cache)?;
    (cached.key == *key).then_some(cached.outcome)
}

/// Whether a server answers.
pub(super) fn has_server() -> bool {
    host::program("docker").is_some_and(|program| server(&client(&program)).is_ok())
}

/// The client, with our own server's address if there is one.
fn client(program: &Utf8Path) -> Invocation {
    own_host().into_iter().fold(
        Invocation::new(program.as_str()),
        |client, (name, value)| client.env(name, value),
    )
}

/// The variable that leads to the server of this command, if it has one of its own.
pub(crate) fn own_host() -> Option<(String, String)> {
    Some(("DOCKER_HOST".to_owned(), dockerd::own_server()?))
}

fn server(client: &Invocation) -> Result<Server> {
    let ask = client.clone().args(["version", "--format", "{{json .}}"]);
    let output = process::output(&ask, ANSWER_DEADLINE)
        .map_err(|error| does_not_work("does not answer").caused_by(error))?;
    let versions: Option<Versions> = serde_json::from_str(&output.stdout).ok();
    versions
        .and_then(|versions| versions.server)
        .ok_or_else(|| no_server(client.program(), &last_error(&output)))
}

fn no_server(program: &str, words: &str) -> anyhow::Error {
    let message = format!("{program} is a client without a server: {words}");
    Failure::new(Exit::Host, message).hint(NO_DOCKER).into()
}

fn platform(server: &Server) -> Result<Platform> {
    let (os, architecture) = (server.os.clone(), server.arch.clone());
    if os != "linux" || !["amd64", "arm64"].contains(&architecture.as_str()) {
        return Err(
            does_not_work(&format!("runs {os}/{architecture}, which is not supported"))
                .hint("use a server on Linux, x86_64 or aarch64")
                .into(),
        );
    }
    Ok(Platform { os, architecture })
}

/// Runs containers; the caller holds the lock.
fn find_out(
    docker: &Invocation,
    platform: &Platform,
    cache: &Utf8Path,
    key: Key,
) -> Result<Outcome> {
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = Utf8PathBuf::try_from(temporary.path().to_owned())?;
    let bench = Bench::prepare(docker.clone(), platform, &folder)?;
    let output = bench.run(docker, &["--network=none"])?;
    if output.code != 0 {
        let words = last_error(&output);
        return Err(does_not_work(&format!("no container starts: {words}"))
            .hint("make `docker run` work for this user")
            .into());
    }
    bench.check_network(docker)?.map_err(|words| {
        does_not_work(&format!("a private network does not come up: {words}"))
            .hint("make `docker network create` work for this user")
    })?;
    let mut notes = Vec::new();
    let limits = bench.find_limits(docker, &mut notes)?;
    let outcome = Outcome {
        limits,
        storage: super::storage(docker, "{{.DockerRootDir}}"),
        notes,
    };
    bench.check_wanted()?;
    let cached = Cached { key, outcome };
    host::write_cached(cache, &cached)?;
    Ok(cached.outcome)
}
