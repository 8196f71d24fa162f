//! The way in where a cluster is reached by its API server alone: `kubectl port-forward` to the pod of
//! a Deployment, one for each port that a test calls, on a port of 127.0.0.1 that kubectl picks. One is
//! started when it is first needed, and another in its place when the pod that it leads to has gone: so
//! nobody answers for a service that is stopped, and the one that came back is reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::child::Speaker;
use crate::http::faults;
use crate::kubernetes::Namespace;

/// How long kubectl may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
/// How its line begins that tells where.
const LISTENS: &str = "Forwarding from ";

/// A port of a Deployment's pod.
#[derive(Clone, Debug)]
pub struct Forward {
    namespace: Namespace,
    deployment: String,
    port: u16,
}

/// One that runs.
#[derive(Debug)]
struct Open {
    child: Speaker,
    address: SocketAddr,
    pod: String,
    /// How many faults there had been when its pod was seen last.
    faults: u64,
}

type Key = (PathBuf, String, u16);

static OPEN: Mutex<BTreeMap<Key, Open>> = Mutex::new(BTreeMap::new());

impl Forward {
    /// To this port inside.
    #[must_use]
    pub fn new(namespace: &Namespace, deployment: &str, port: u16) -> Self {
        Self {
            namespace: namespace.clone(),
            deployment: deployment.to_owned(),
            port,
        }
    }

    /// Where it is reached now.
    ///
    /// # Errors
    /// When the Deployment has no pod that runs, and what kubectl said if it does not listen.
    pub fn address(&self) -> Result<SocketAddr, String> {
        let faults = faults();
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (
            self.namespace.directory().to_owned(),
            self.deployment.clone(),
            self.port,
        );
        if let Some(known) = open.get_mut(&key)
            && known.child.runs()
        {
            if known.faults == faults {
                return Ok(known.address);
            }
            // Somebody was stopped or started: perhaps another one.
            if self.namespace.pod(&self.deployment)? == known.pod {
                known.faults = faults;
                return Ok(known.address);
            }
        }
        open.remove(&key);
        let pod = self.namespace.pod(&self.deployment)?;
        let (child, address) = self.open(&pod)?;
        open.insert(
            key,
            Open {
                child,
                address,
                pod,
                faults,
            },
        );
        Ok(address)
    }

    fn open(&self, pod: &str) -> Result<(Speaker, SocketAddr), String> {
        let child = owned_by_this_process(self.command(pod))?;
        let address = child.first(LISTENS_WITHIN, listens_at)?;
        Ok((child, address))
    }

    fn command(&self, pod: &str) -> Command {
        let port = format!(":{}", self.port);
        let pod = format!("pod/{pod}");
        let arguments = ["port-forward", "--address", "127.0.0.1", &pod, &port];
        self.namespace.lasting(&arguments)
    }
}

/// `Forwarding from 127.0.0.1:40123 -> 8080`
fn listens_at(line: &str) -> Option<SocketAddr> {
    let (address, _) = line.strip_prefix(LISTENS)?.split_once(" -> ")?;
    address.parse().ok()
}

type Order = (Command, Sender<Result<Speaker, String>>);

/// The kernel ends a child with the *thread* that started it, see PR_SET_PDEATHSIG in prctl(2), and the
/// thread of a test ends long before the others. So one thread that lives as long as the process starts
/// them all.
static STARTER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
    let (orders, taken): (Sender<Order>, Receiver<Order>) = channel();
    thread::spawn(move || {
        for (mut command, answer) in taken {
            // Nobody is left to hear it only if that test has ended.
            let _ = answer.send(Speaker::start(&mut command));
        }
    });
    Mutex::new(orders)
});

/// Starts a child that ends with this process, however that ends, where the host has the program that
/// arranges it; else with the group of processes that the run ends.
fn owned_by_this_process(command: Command) -> Result<Speaker, String> {
    const SETPRIV: [&str; 2] = ["/usr/bin/setpriv", "/bin/setpriv"];
    let setpriv = SETPRIV.into_iter().find(|path| Path::new(path).exists());
    let command = match setpriv {
        None => command,
        Some(setpriv) => ended_with_parent(setpriv, &command),
    };
    let (answer, started) = channel();
    let starter = STARTER.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = || "the thread that starts children has gone".to_owned();
    starter.send((command, answer)).map_err(|_| gone())?;
    drop(starter);
    started.recv().map_err(|_| gone())?
}

fn ended_with_parent(setpriv: &str, command: &Command) -> Command {
    let mut wrapped = Command::new(setpriv);
    wrapped
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Access;
    use crate::run::EngineCommand;

    #[test]
    fn kubectl_tells_where_it_listens() {
        let address = "127.0.0.1:40123".parse().ok();
        assert_eq!(
            listens_at("Forwarding from 127.0.0.1:40123 -> 8080"),
            address
        );
        assert_eq!(listens_at("Handling connection for 40123"), None);
        assert_eq!(listens_at("Forwarding from somewhere -> 8080"), None);
    }

    #[test]
    fn it_listens_on_this_machine_alone_for_as_long_as_it_is_needed() {
        let access = Access {
            kubectl: "kubectl".into(),
            kubeconfig: "k".into(),
            namespace: "n".to_owned(),
            node: None,
        };
        let engine = EngineCommand {
            program: "podman".into(),
            environment: BTreeMap::new(),
        };
        let namespace = Namespace::new(&access, &engine, Path::new("/run"));
        let command = Forward::new(&namespace, "a", 8080).command("a-1");
        let wrapped = ended_with_parent("/usr/bin/setpriv", &command);
        let words: Vec<_> = wrapped
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        assert_eq!(
            words.join(" "),
            "--pdeathsig KILL -- kubectl --kubeconfig k --namespace n --cache-dir /run/kubectl-cache port-forward --address 127.0.0.1 pod/a-1 :8080"
        );
        let removed: Vec<_> = wrapped.get_envs().collect();
        assert_eq!(removed, [("KUBECONFIG".as_ref(), None)]);
    }

    #[test]
    fn a_child_ends_with_the_thread_that_has_all_of_them() {
        let mut command = Command::new("echo");
        command.arg("Forwarding from 127.0.0.1:9 -> 8080");
        let child = owned_by_this_process(command).expect("a child");
        let address = child.first(LISTENS_WITHIN, listens_at);
        assert_eq!(address, Ok("127.0.0.1:9".parse().expect("an address")));
        let silent = owned_by_this_process(Command::new("false")).expect("a child");
        let error = silent
            .first(LISTENS_WITHIN, listens_at)
            .expect_err("it ended");
        assert!(error.contains("it ended"), "{error}");
    }
}
