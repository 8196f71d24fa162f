//! Where a run is deployed, and the questions that every place answers in its own way. What runs
//! one replica of a service is a container here, whatever the cluster calls it. Ports and states
//! are asked at each use: an engine may publish another port after a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::forward::Forward;
use crate::http;
use crate::kubernetes::Namespace;
use crate::link::{self, Link, Trouble};
use crate::run::{EngineCommand, Service};

/// What a container says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its process is there and runs.
    Running,
    /// Its process is there and frozen.
    Paused,
    /// Its process has ended or is about to.
    Stopped,
}

/// What can be done to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGTERM, time to drain, and it stays down.
    Stop {
        /// How long it may drain, where its manifest does not say.
        drain_seconds: u32,
    },
    /// SIGKILL, and it stays down.
    Kill,
    /// It is frozen.
    Pause,
    /// What was stopped or killed comes back.
    Start,
    /// What was frozen goes on.
    Unpause,
}

impl Action {
    /// As it stands in `faults.jsonl`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop { .. } => "stop",
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Start => "start",
            Self::Unpause => "unpause",
        }
    }

    /// What comes of the container.
    #[must_use]
    pub const fn effect(self) -> State {
        match self {
            Self::Stop { .. } | Self::Kill => State::Stopped,
            Self::Pause => State::Paused,
            Self::Start | Self::Unpause => State::Running,
        }
    }
}

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// When, in the cluster's own words.
    pub at: String,
    /// Its pod, on Kubernetes.
    pub pod: Option<String>,
    /// How many processes its container has had before, each ended by the cluster or by a fault.
    pub restart_count: u64,
}

/// A port of a container, as it is reached from here.
#[derive(Clone, Debug)]
pub enum Published {
    /// At the container of the engine that publishes it.
    Engine(ByEngine),
    /// Through the API server.
    Forward(Forward),
}

/// A port that a container of the engine publishes.
#[derive(Clone, Debug)]
pub struct ByEngine {
    engine: EngineCommand,
    container: String,
    port: u16,
    lasts: Lasts,
}

/// For how long a port is published at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    UntilRestart,
    /// What publishes it, the node, is never restarted.
    Always,
}

/// An address, and how many faults there had been when it was asked.
#[derive(Clone, Copy, Debug)]
struct Asked {
    address: SocketAddr,
    faults: u64,
}

/// What the engine has told, by container and port: each question costs its own start.
static ASKED: Mutex<BTreeMap<(String, u16), Asked>> = Mutex::new(BTreeMap::new());

impl Published {
    /// Where it is published now.
    ///
    /// # Errors
    /// When it is not, or the container is down.
    pub fn address(&self) -> Result<SocketAddr, String> {
        match self {
            Self::Engine(by_engine) => by_engine.address(),
            Self::Forward(forward) => forward.address(),
        }
    }

    /// Nobody answers there: the next question is put to whoever publishes it.
    pub fn forget(&self) {
        match self {
            Self::Engine(by_engine) => by_engine.forget(),
            // It is asked each time.
            Self::Forward(_) => {}
        }
    }
}

impl ByEngine {
    fn address(&self) -> Result<SocketAddr, String> {
        let faults = http::faults();
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |asked: &&Asked| self.lasts == Lasts::Always || asked.faults == faults;
        if let Some(asked) = asked.get(&self.key()).filter(holds) {
            return Ok(asked.address);
        }
        let address = self.engine.address(&self.container, self.port)?;
        asked.insert(self.key(), Asked { address, faults });
        Ok(address)
    }

    fn forget(&self) {
        let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        asked.remove(&self.key());
    }

    fn key(&self) -> (String, u16) {
        (self.container.clone(), self.port)
    }
}

/// Where a run is deployed.
#[derive(Clone, Debug)]
pub enum Cluster {
    /// Containers of the engine.
    Local(EngineCommand),
    /// Deployments of one replica each.
    Kubernetes(Namespace),
}

impl Cluster {
    /// A named port of one of a service's containers; `usual` is its number where the service does
    /// not name it.
    ///
    /// # Errors
    /// When the cluster does not publish it.
    pub fn published(
        &self,
        service: &Service,
        container: &str,
        port: &str,
        usual: u16,
    ) -> Result<Published, String> {
        match self {
            Self::Local(engine) => Ok(Published::Engine(ByEngine {
                engine: engine.clone(),
                container: container.to_owned(),
                port: service.ports.get(port).copied().unwrap_or(usual),
                lasts: Lasts::UntilRestart,
            })),
            Self::Kubernetes(namespace) => {
                let Some((engine, node)) = namespace.node() else {
                    let number = service.ports.get(port).copied().unwrap_or(usual);
                    let forward = Forward::new(namespace, container, number);
                    return Ok(Published::Forward(forward));
                };
                let number = service.node_ports.get(port);
                let missing = || format!("{container} has no node port for {port}");
                Ok(Published::Engine(ByEngine {
                    engine: engine.clone(),
                    container: node.to_owned(),
                    port: *number.ok_or_else(missing)?,
                    lasts: Lasts::Always,
                }))
            }
        }
    }

    /// What has come of these containers, in their order.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn states(&self, containers: &[&str]) -> Result<Vec<State>, String> {
        if containers.is_empty() {
            return Ok(Vec::new());
        }
        match self {
            Self::Local(engine) => engine.states(containers),
            Self::Kubernetes(namespace) => namespace.states(containers),
        }
    }

    /// Why nobody can do here what the node alone can, if that is so: kill, and freeze.
    #[must_use]
    pub fn lacks_node(&self) -> Option<String> {
        match self {
            Self::Kubernetes(namespace) if namespace.node().is_none() => Some(
                "it kills or freezes a process, for which Kubernetes has no word: that takes the node, and `--cluster kind` has one"
                    .to_owned(),
            ),
            Self::Local(_) | Self::Kubernetes(_) => None,
        }
    }

    /// Why a service cannot have several replicas here and lose one, if that is so.
    #[must_use]
    pub fn lacks_replicas(&self) -> Option<String> {
        match self {
            Self::Local(_) => Some(
                "it wants several replicas of a service, which is for Kubernetes: `--cluster kind`"
                    .to_owned(),
            ),
            Self::Kubernetes(_) => self.lacks_node(),
        }
    }

    /// Why a link between two services cannot be troubled here, if that is so.
    #[must_use]
    pub fn lacks_links(&self) -> Option<String> {
        match self {
            Self::Local(_) => link::lacks_root(),
            Self::Kubernetes(_) => Some(
                "it troubles a link between two services, which the local cluster can".to_owned(),
            ),
        }
    }

    /// Troubles the connections of one container to these ports of another.
    ///
    /// # Errors
    /// When the cluster cannot.
    pub fn trouble(
        &self,
        from: &str,
        to: &str,
        ports: &[u16],
        trouble: Trouble,
    ) -> Result<Link, String> {
        let troubled = match self {
            Self::Local(engine) => Link::trouble(engine, from, to, ports, trouble),
            Self::Kubernetes(_) => Err("it is done on the local cluster".to_owned()),
        };
        troubled
            .map_err(|error| format!("the link from {from} to {to} cannot be troubled: {error}"))
    }

    /// Ends one of the replicas of a container at once, as a crash would, and lets Kubernetes make
    /// another; waits for neither. Which it is, is `nth` of those that run now, counted round and
    /// round.
    ///
    /// # Errors
    /// When the cluster cannot, or none runs.
    pub fn crash_one(&self, container: &str, nth: usize) -> Result<(), String> {
        let crashed = match self {
            Self::Local(_) => Err("it has one".to_owned()),
            Self::Kubernetes(namespace) => namespace.of(container).crash_one(container, nth),
        };
        crashed.map_err(|error| format!("{container} cannot lose one of its replicas: {error}"))
    }

    /// Why nobody can ask the API of Kubernetes here, if that is so.
    #[must_use]
    pub fn lacks_kubernetes(&self) -> Option<String> {
        match self {
            Self::Local(_) => Some(
                "it needs the API of Kubernetes, which the local cluster has not: run with `--cluster kind`"
                    .to_owned(),
            ),
            Self::Kubernetes(_) => None,
        }
    }

    /// The same for what the node alone can do besides.
    #[must_use]
    pub fn lacks_kubernetes_node(&self) -> Option<String> {
        self.lacks_kubernetes().or_else(|| self.lacks_node())
    }

    /// Why nobody can see here how it is without the API of Kubernetes, if that is so.
    #[must_use]
    pub fn has_kubernetes(&self) -> Option<String> {
        match self {
            Self::Local(_) => None,
            Self::Kubernetes(_) => Some(
                "it shows what is refused where the API of Kubernetes is not: run on the local cluster"
                    .to_owned(),
            ),
        }
    }

    /// The namespace of the run, which [`Self::lacks_kubernetes`] tells to be there.
    ///
    /// # Panics
    /// On a cluster that has none.
    #[must_use]
    #[track_caller]
    pub fn namespace(&self) -> &Namespace {
        match self {
            Self::Local(_) => {
                panic!("no namespace: such a test begins with `scenario_with_kubernetes!`")
            }
            Self::Kubernetes(namespace) => namespace,
        }
    }

    /// The images that these containers run, in their order, each as `sha256:...`.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn image_ids(&self, containers: &[&str]) -> Result<Vec<String>, String> {
        match self {
            Self::Local(engine) => engine.image_ids(containers),
            Self::Kubernetes(namespace) => namespace.image_ids(containers),
        }
    }

    /// How often the cluster itself has started a container again, without being told to.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn restarts(&self, container: &str) -> Result<u64, String> {
        match self {
            Self::Local(engine) => engine.restarts(container),
            Self::Kubernetes(namespace) => namespace.of(container).restarts(container),
        }
    }

    /// The process of a container that runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn started(&self, container: &str) -> Result<Started, String> {
        match self {
            Self::Local(engine) => Ok(Started {
                at: engine.started_at(container)?,
                pod: None,
                restart_count: engine.restarts(container)?,
            }),
            Self::Kubernetes(namespace) => namespace.of(container).started(container),
        }
    }

    /// With what code the process of a container ended last.
    ///
    /// # Errors
    /// When there is no such container, or none has ended.
    pub fn exit_code(&self, container: &str) -> Result<i32, String> {
        match self {
            Self::Local(engine) => engine.exit_code(container),
            Self::Kubernetes(namespace) => namespace.of(container).exit_code(container),
        }
    }

    /// Everything a container wrote so far, both streams, that of its ended processes included.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn logs(&self, container: &str) -> Result<String, String> {
        match self {
            Self::Local(engine) => engine.logs(container),
            Self::Kubernetes(namespace) => namespace.of(container).logs(container),
        }
    }

    /// Does it, and waits until the container is as it should then be.
    ///
    /// # Errors
    /// What the cluster said, and what was last seen, when that does not come in time.
    pub fn act(&self, container: &str, action: Action) -> Result<(), String> {
        let acted = match self {
            Self::Local(engine) => engine.act(container, action),
            Self::Kubernetes(namespace) => namespace.of(container).act(container, action),
        };
        acted.map_err(|error| format!("{container} cannot be told to {}: {error}", action.name()))
    }

    /// So many replicas in the place of one, all of them ready.
    ///
    /// # Errors
    /// When the cluster cannot, and when they are not ready in time.
    pub fn scale(&self, container: &str, replicas: u32) -> Result<(), String> {
        let scaled = match self {
            Self::Local(_) => Err(
                "the engine has nothing that spreads calls over replicas: run with `--cluster kind`"
                    .to_owned(),
            ),
            Self::Kubernetes(namespace) => namespace.of(container).scale(container, replicas),
        };
        scaled.map_err(|error| format!("{container} cannot have {replicas} replicas: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::Access;

    fn engine(program: &str) -> EngineCommand {
        EngineCommand {
            program: program.into(),
            environment: BTreeMap::new(),
        }
    }

    fn service() -> Service {
        let text =
            r#"{"containers": ["a"], "ports": {"http": 8080}, "node_ports": {"http": 30001}}"#;
        serde_json::from_str(text).expect("a service")
    }

    #[test]
    fn a_port_is_published_by_its_container_or_by_the_node() {
        let local = Cluster::Local(engine("podman"));
        let told = |published: Published| match published {
            Published::Engine(by) => (by.container, by.port, by.lasts),
            Published::Forward(forward) => panic!("{forward:?}"),
        };
        let published =
            |cluster: &Cluster, port: &str| cluster.published(&service(), "a", port, 9).map(told);
        let by = |name: &str, port, lasts| Ok((name.to_owned(), port, lasts));
        assert_eq!(
            published(&local, "http"),
            by("a", 8080, Lasts::UntilRestart)
        );
        assert_eq!(published(&local, "other"), by("a", 9, Lasts::UntilRestart));
        let access = Access {
            kubectl: "kubectl".into(),
            kubeconfig: "k".into(),
            namespace: "n".to_owned(),
            node: Some("node".to_owned()),
        };
        let namespace = Namespace::new(&access, &engine("podman"), "r".as_ref());
        let kubernetes = Cluster::Kubernetes(namespace);
        assert_eq!(
            published(&kubernetes, "http"),
            by("node", 30001, Lasts::Always)
        );
        let missing = Err("a has no node port for other".to_owned());
        assert_eq!(published(&kubernetes, "other"), missing);
    }

    #[test]
    fn replicas_want_kubernetes() {
        let error = Cluster::Local(engine("podman"))
            .scale("a", 2)
            .expect_err("refused");
        assert!(error.contains("a cannot have 2 replicas"), "{error}");
        assert!(error.contains("--cluster kind"), "{error}");
    }
}
