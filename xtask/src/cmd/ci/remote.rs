//! A target on a cluster that is reached by its API server alone: a kind cluster as if it were remote,
//! and Debian's registry, which wants a password, bound to this machine and to the gateway of that
//! cluster's own network. The run itself is the command that a user would give, as a child: what it
//! reads of its environment is what a user has.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::json;

use crate::bundle::Bundle;
use crate::cluster::kind::remote::Remote;
use crate::engine::{Choice, Engine};
use crate::exit::{Exit, Failure};
use crate::host;
use crate::process::follow::{Follow, Followed, Next};
use crate::process::interrupt::Shield;
use crate::process::{self, Echo, Invocation, OWN_PROGRAM};
use crate::report;
use crate::run::{self, Run};
use crate::source::workspace::Workspace;

/// What is deployed there.
const TARGET: &str = "gateway";
/// Debian's name for the server of a registry.
const REGISTRY: &str = "docker-registry";
/// As long as the whole step may take.
const DEADLINE: Duration = Duration::from_secs(3600);
/// A registry needs a moment to listen, on a busy host too.
const LISTENS_DEADLINE: Duration = Duration::from_secs(30);
/// The port that one got here may be another's there.
const ATTEMPTS: usize = 3;
/// Who may use the registry. It lives as long as this step, has nothing but images that were built from
/// open sources, and no other machine reaches it; that it asks at all is what counts.
const USER: &str = "e2e:$2y$05$phase0zero0phase0zer0u8QIoDfz64bNJHQaSdGel2nff5gm7bUi";
/// The same as in a file of credentials: `e2e:open-for-one-run`.
const AUTH: &str = "ZTJlOm9wZW4tZm9yLW9uZS1ydW4=";

/// Why there can be no registry here; nothing where there can.
pub(super) fn absence() -> Option<String> {
    let missing = [REGISTRY, "skopeo"]
        .into_iter()
        .find(|program| host::program(program).is_none())?;
    Some(format!("{missing} is not installed"))
}

/// Makes cluster and registry, deploys to them, and sees that nothing is left and nobody's kubeconfig
/// has changed.
///
/// # Errors
/// [`Exit::Red`] when the run is not green or has left something.
pub(super) fn run(workspace: &Workspace, engine: Choice, bundle: Option<&Utf8Path>) -> Result<()> {
    let target = workspace.target(TARGET)?;
    let run = Arc::new(Run::begin_named(workspace, &target.name, "remote")?);
    let engine = Engine::find(run.directory(), engine)?;
    let proved = prove(workspace, &run, &engine, bundle);
    let _shield = Shield::raise();
    let removed = run.clean_up(&engine);
    let removed = removed.and(run::remove_secrets(run.directory()));
    proved.and(removed)
}

fn prove(
    workspace: &Workspace,
    run: &Arc<Run>,
    engine: &Engine,
    folder: Option<&Utf8Path>,
) -> Result<()> {
    let bundle = Bundle::given(folder)?.map(Arc::new);
    let remote = Remote::make(run, engine, bundle.as_ref())?;
    let registry = Registry::start(run.directory(), &remote.gateway()?)?;
    let host = format!("127.0.0.1:{}", registry.port);
    remote.pull_through(
        &host,
        &format!("http://{}:{}", registry.gateway, registry.port),
    )?;
    let kubeconfig = remote.kubeconfig();
    let read = || fs::read(kubeconfig).with_context(|| format!("cannot read {kubeconfig}"));
    let (config_before, before) = (read()?, remote.namespaces()?);
    let command = command(&remote, engine, (&host, &registry.credentials), folder)?;
    let command = command.current_dir(&workspace.root);
    let code = process::stream(&command, None, Echo::Terminal, DEADLINE)?;
    if code != 0 {
        let what = format!("ended with {code}: {command}");
        return Err(Failure::new(Exit::Red, what).into());
    }
    ensure!(read()? == config_before, "the run has changed {kubeconfig}");
    let after = remote.namespaces()?;
    let left: Vec<&String> = after.iter().filter(|name| !before.contains(name)).collect();
    ensure!(left.is_empty(), "the run has left namespaces: {left:?}");
    Ok(())
}

/// What a user would type, and has in the environment.
fn command(
    remote: &Remote,
    engine: &Engine,
    (host, credentials): (&str, &Utf8Path),
    bundle: Option<&Utf8Path>,
) -> Result<Invocation> {
    let path = match remote.kubectl_folder() {
        Some(folder) => format!("{folder}:{}", host::path()),
        None => host::path(),
    };
    let command = Invocation::new(OWN_PROGRAM)
        .args(["e2e", TARGET, "--engine", engine.kind.program()])
        .arg(format!("--cluster=context:{}", remote.context()))
        .arg(format!("--registry={host}/e2e"))
        .env("KUBECONFIG", remote.kubeconfig().as_str())
        .env("REGISTRY_AUTH_FILE", credentials.as_str())
        .env("PATH", path);
    Ok(match bundle {
        Some(folder) => command.arg(format!("--bundle={folder}")),
        None => command,
    })
}

/// Two servers of one storage, on the same port of two addresses: a name that means the one here and
/// the other there.
#[derive(Debug)]
struct Registry {
    port: u16,
    gateway: String,
    credentials: Utf8PathBuf,
    _servers: [Follow; 2],
}

impl Registry {
    fn start(directory: &Utf8Path, gateway: &str) -> Result<Self> {
        let folder = directory.join(REGISTRY);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
        let write = |name: &str, text: String| -> Result<Utf8PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
            Ok(path)
        };
        write("users", format!("{USER}\n"))?;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let (here, port) = serve(&folder, "127.0.0.1", 0)?;
            match serve(&folder, gateway, port) {
                Ok((there, _)) => {
                    let host = format!("127.0.0.1:{port}");
                    let file = json!({"auths": {host: {"auth": AUTH}}});
                    return Ok(Self {
                        port,
                        gateway: gateway.to_owned(),
                        credentials: write("auth.json", file.to_string())?,
                        _servers: [here, there],
                    });
                }
                Err(error) if report::is_signal(&error) => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no registry was started")?)
    }
}

/// A server at this address, and the port that it has.
fn serve(folder: &Utf8Path, address: &str, port: u16) -> Result<(Follow, u16)> {
    let program = host::program(REGISTRY).context("docker-registry is not installed")?;
    let config = folder.join(format!("{address}.json"));
    let text = json!({
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": folder.join("data")}},
        "http": {"addr": format!("{address}:{port}"), "secret": "of both servers"},
        "auth": {"htpasswd": {"realm": "e2e", "path": folder.join("users")}},
    });
    fs::write(&config, text.to_string()).with_context(|| format!("cannot write {config}"))?;
    let serve = Invocation::new(program.as_str()).args(["serve", config.as_str()]);
    let log = folder.join(format!("{address}.log"));
    let server = Follow::start(&serve, Followed::Stderr, Some(&log), DEADLINE)?;
    loop {
        match server.next_within(LISTENS_DEADLINE)? {
            Next::Line(line) => {
                if let Some(port) = listens_at(&line, address) {
                    return Ok((server, port));
                }
            }
            Next::Nothing => break,
            Next::Ended => {
                server.finish()?;
                break;
            }
        }
    }
    let what = format!("{REGISTRY} does not listen at {address}:{port}");
    let hint = format!("{} has its words", report::near(&log));
    Err(Failure::new(Exit::Host, what).hint(hint).into())
}

/// `... msg="listening on 127.0.0.1:40123" ...`
fn listens_at(line: &str, address: &str) -> Option<u16> {
    let (_, rest) = line.split_once(&format!("listening on {address}:"))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit());
    rest[..digits.unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::listens_at;

    #[test]
    fn a_registry_tells_its_port() {
        let line = "time=\"x\" level=info msg=\"listening on 127.0.0.1:40123\" go.version=go1.19";
        assert_eq!(listens_at(line, "127.0.0.1"), Some(40_123));
        assert_eq!(listens_at(line, "10.89.0.1"), None);
        assert_eq!(
            listens_at("msg=\"using inmemory blob descriptor cache\"", "127.0.0.1"),
            None
        );
    }
}
