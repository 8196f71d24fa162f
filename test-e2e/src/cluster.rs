//! Where a run is deployed, and the questions that every place answers in its own way. What runs
//! one replica of a service is a container here, whatever the cluster calls it. Ports and states
//! are asked at each use: an engine may publish another port after a restart.

use std::net::SocketAddr;

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
}

/// A port of a container, at the container of the engine that publishes it.
#[derive(Clone, Debug)]
pub struct Published {
    engine: EngineCommand,
    container: String,
    port: u16,
}

impl Published {
    /// Where it is published now.
    ///
    /// # Errors
    /// When it is not, or the container is down.
    pub fn address(&self) -> Result<SocketAddr, String> {
        self.engine.address(&self.container, self.port)
    }
}

/// Where a run is deployed.
#[derive(Clone, Debug)]
pub enum Cluster {
    /// Containers of the engine.
    Local(EngineCommand),
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
            Self::Local(engine) => Ok(Published {
                engine: engine.clone(),
                container: container.to_owned(),
                port: service.ports.get(port).copied().unwrap_or(usual),
            }),
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
        }
    }

    /// The images that these containers run, in their order, each as `sha256:...`.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn image_ids(&self, containers: &[&str]) -> Result<Vec<String>, String> {
        match self {
            Self::Local(engine) => engine.image_ids(containers),
        }
    }

    /// How often the cluster itself has started a container again, without being told to.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn restarts(&self, container: &str) -> Result<u64, String> {
        match self {
            Self::Local(engine) => engine.restarts(container),
        }
    }

    /// The process of a container that runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn started(&self, container: &str) -> Result<Started, String> {
        match self {
            Self::Local(engine) => engine.started_at(container).map(|at| Started { at }),
        }
    }

    /// With what code the process of a container ended last.
    ///
    /// # Errors
    /// When there is no such container, or none has ended.
    pub fn exit_code(&self, container: &str) -> Result<i32, String> {
        match self {
            Self::Local(engine) => engine.exit_code(container),
        }
    }

    /// Everything a container wrote so far, both streams, that of its ended processes included.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn logs(&self, container: &str) -> Result<String, String> {
        match self {
            Self::Local(engine) => engine.logs(container),
        }
    }

    /// Does it, and waits until the container is as it should then be.
    ///
    /// # Errors
    /// What the cluster said, and what was last seen, when that does not come in time.
    pub fn act(&self, container: &str, action: Action) -> Result<(), String> {
        let acted = match self {
            Self::Local(engine) => engine.act(container, action),
        };
        acted.map_err(|error| format!("{container} cannot be told to {}: {error}", action.name()))
    }
}
