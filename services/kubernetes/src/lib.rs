//! What the Kubernetes API knows of namespaces and workloads: labels, and who owns whom. It asks for
//! the metadata of one object after the other by its name; it lists nothing, watches nothing, changes
//! nothing. What makes and follows Jobs is [`jobs`]. A package of its own, so that only the services
//! that ask the API are compiled with TLS.

pub mod jobs;

use std::{collections::BTreeMap, path::Path, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use clap::{Args, ValueEnum};
use common::inventory::Owner;
use kube::{
    Client, Config,
    core::{PartialObjectMeta, Request, params::GetParams},
};

/// How many owners above each other are followed; Kubernetes has two or three.
const OWNERS_MAX: usize = 16;
/// Where the kubelet puts the token of a pod that may ask.
const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// What turns questions on and off.
const FLAG: &str = "--kubernetes-enrichment";
/// The longest name of an object.
const NAME_LENGTH_MAX: usize = 253;

/// Of which kinds objects are asked for: group and version, and the plural.
const KINDS: [(&str, &str, &str); 7] = [
    ("Pod", "/api/v1", "pods"),
    ("ReplicaSet", "/apis/apps/v1", "replicasets"),
    ("Deployment", "/apis/apps/v1", "deployments"),
    ("StatefulSet", "/apis/apps/v1", "statefulsets"),
    ("DaemonSet", "/apis/apps/v1", "daemonsets"),
    ("Job", "/apis/batch/v1", "jobs"),
    ("CronJob", "/apis/batch/v1", "cronjobs"),
];

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether the Kubernetes API is asked.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct KubernetesArgs {
    /// Whether the Kubernetes API is asked about what the inventory does not know.
    #[arg(
        long,
        env = "KUBERNETES_ENRICHMENT",
        value_enum,
        default_value_t = Mode::Off
    )]
    pub kubernetes_enrichment: Mode,
    /// Name of the cluster that is asked; of the targets of another one it knows nothing.
    #[arg(long, env = "CLUSTER_NAME", default_value = "local")]
    pub cluster_name: String,
}

/// See [`KubernetesArgs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Nobody is asked.
    Off,
    /// By the token of this pod; without one the process ends.
    InCluster,
    /// By the token of this pod; without one nobody is asked.
    Detect,
}

impl KubernetesArgs {
    /// Nobody is asked.
    #[must_use]
    pub fn off() -> Self {
        Self {
            kubernetes_enrichment: Mode::Off,
            cluster_name: "local".to_owned(),
        }
    }

    /// A client where the API is to be asked; called from within the runtime. It asks nothing yet.
    ///
    /// # Errors
    /// What is missing in this pod, naming the flag.
    pub fn client(&self) -> Result<Option<Kubernetes>, NotConfigured> {
        let mode = self.kubernetes_enrichment;
        if !mode.asks(FLAG, Path::new(TOKEN_FILE).exists())? {
            tracing::info!(?mode, "the Kubernetes API is not asked");
            return Ok(None);
        }
        let config = Config::incluster().map_err(|error| NotConfigured::new(FLAG, error))?;
        let client = Kubernetes::new(config, &self.cluster_name, Patience::default())?;
        tracing::info!(cluster = client.cluster(), "the Kubernetes API is asked");
        Ok(Some(client))
    }
}

impl Mode {
    fn asks(self, flag: &'static str, has_token: bool) -> Result<bool, NotConfigured> {
        match self {
            Self::Off => Ok(false),
            Self::Detect => Ok(has_token),
            Self::InCluster if has_token => Ok(true),
            Self::InCluster => {
                let missing = format!("there is no {TOKEN_FILE}");
                Err(NotConfigured::new(flag, missing))
            }
        }
    }
}

/// The Kubernetes API cannot be asked from here.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{flag}: {why}; mount a ServiceAccount's token, or say `off`")]
pub struct NotConfigured {
    flag: &'static str,
    why: String,
}

impl NotConfigured {
    fn new(flag: &'static str, why: impl std::fmt::Display) -> Self {
        Self {
            flag,
            why: why.to_string(),
        }
    }
}

/// Deadlines and retries.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Of one try.
    pub try_timeout: Duration,
    /// Of a lookup with all its questions and tries.
    pub lookup_timeout: Duration,
    /// How many further tries for each question.
    pub retries_max: usize,
}

impl Default for Patience {
    /// A part of the lease under which somebody waits.
    fn default() -> Self {
        Self {
            try_timeout: Duration::from_secs(1),
            lookup_timeout: Duration::from_secs(3),
            retries_max: 2,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unanswered {
    /// The API refuses to tell: a right is missing there.
    #[error("the Kubernetes API refuses: {0}")]
    Refused(String),
    /// No answer, or one that may be another later.
    #[error("the Kubernetes API is away: {0}")]
    Away(String),
}

/// A workload that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its own.
    pub labels: Labels,
    /// Nearest first.
    pub owners: Vec<Owner>,
}

/// The API of one cluster, cheap to clone.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    cluster: String,
    patience: Patience,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Kubernetes")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// What is read of an object.
struct Metadata {
    labels: Labels,
    owner: Option<Owner>,
}

impl Kubernetes {
    /// A client of the cluster of this name; called from within the runtime.
    ///
    /// # Errors
    /// When the configuration holds no valid certificate or token.
    pub fn new(
        mut config: Config,
        cluster: &str,
        patience: Patience,
    ) -> Result<Self, NotConfigured> {
        config.connect_timeout = Some(patience.try_timeout);
        config.read_timeout = Some(patience.try_timeout);
        config.write_timeout = Some(patience.try_timeout);
        // Tried again below, where connections are that were refused as well.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| NotConfigured::new(FLAG, error))?;
        Ok(Self {
            client,
            cluster: cluster.to_owned(),
            patience,
        })
    }

    /// The cluster that it knows; of another one it must not be asked.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The labels of a namespace; nothing where there is none of this name.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn namespace(&self, name: &str) -> Result<Option<Labels>, Unanswered> {
        if !is_label(name) {
            return Ok(None);
        }
        let asked = self.metadata("/api/v1/namespaces".to_owned(), name);
        Ok(self.in_time(asked).await?.map(|metadata| metadata.labels))
    }

    /// A workload, and who owns it up to the top; nothing where there is none. Half a row of owners
    /// would name the wrong one, so it is the whole row or an error.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn workload(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<Workload>, Unanswered> {
        if !is_label(namespace) {
            return Ok(None);
        }
        self.in_time(self.with_owners(namespace, kind, name)).await
    }

    async fn with_owners(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<Workload>, Unanswered> {
        let Some(first) = self.object(namespace, kind, name).await? else {
            return Ok(None);
        };
        let (mut owners, mut next) = (Vec::new(), first.owner);
        while let Some(owner) = next {
            if owners.len() == OWNERS_MAX || owners.contains(&owner) {
                break;
            }
            // One of a kind that is not asked for is the top, as far as anybody here can tell; one
            // that has gone owns what it has left.
            let above = self.object(namespace, &owner.kind, &owner.name).await?;
            next = above.and_then(|metadata| metadata.owner);
            owners.push(owner);
        }
        let labels = first.labels;
        Ok(Some(Workload { labels, owners }))
    }

    async fn object(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
    ) -> Result<Option<Metadata>, Unanswered> {
        let known = KINDS.iter().find(|(known, ..)| *known == kind);
        let Some((_, group, plural)) = known.filter(|_| is_name(name)) else {
            return Ok(None);
        };
        self.metadata(format!("{group}/namespaces/{namespace}/{plural}"), name)
            .await
    }

    /// One question, and again where an answer may come later.
    async fn metadata(&self, path: String, name: &str) -> Result<Option<Metadata>, Unanswered> {
        let backoff = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_millis(500))
            .with_max_times(self.patience.retries_max);
        (|| self.ask(path.clone(), name))
            .retry(backoff)
            .when(|error| matches!(error, Unanswered::Away(_)))
            .notify(|error, _| tracing::debug!(%error, "asking again"))
            .await
    }

    async fn ask(&self, path: String, name: &str) -> Result<Option<Metadata>, Unanswered> {
        let request = Request::new(path)
            .get_metadata(name, &GetParams::default())
            .map_err(|error| Unanswered::Refused(error.to_string()))?;
        let asked = self.client.request::<PartialObjectMeta>(request);
        let answer = tokio::time::timeout(self.patience.try_timeout, asked).await;
        match answer.map_err(|_| Unanswered::Away("no answer in time".to_owned()))? {
            Ok(object) => Ok(Some(Metadata::of(object))),
            Err(kube::Error::Api(status)) => match status.code {
                404 => Ok(None),
                408 | 429 | 500.. => Err(Unanswered::Away(status.message)),
                _ => Err(Unanswered::Refused(status.message)),
            },
            Err(error) => Err(Unanswered::Away(with_cause(&error))),
        }
    }

    async fn in_time<T>(
        &self,
        lookup: impl Future<Output = Result<Option<T>, Unanswered>>,
    ) -> Result<Option<T>, Unanswered> {
        let found = tokio::time::timeout(self.patience.lookup_timeout, lookup).await;
        let found = found.unwrap_or_else(|_| Err(Unanswered::Away("no answer in time".to_owned())));
        let outcome = match &found {
            Ok(Some(_)) => "found",
            Ok(None) => "unknown",
            Err(Unanswered::Refused(_)) => "refused",
            Err(Unanswered::Away(_)) => "away",
        };
        metrics::counter!("kubernetes_lookups_total", "outcome" => outcome).increment(1);
        found
    }
}

impl Metadata {
    fn of(object: PartialObjectMeta) -> Self {
        let metadata = object.metadata;
        let owners = metadata.owner_references.into_iter().flatten();
        // Others may be named besides; one of them manages it.
        let mut managers = owners.filter(|owner| owner.controller == Some(true));
        Self {
            labels: metadata.labels.unwrap_or_default(),
            owner: managers.next().map(|owner| Owner {
                kind: owner.kind,
                name: owner.name,
            }),
        }
    }
}

/// An error and what lies at its bottom: `client error (Connect)` alone helps nobody.
fn with_cause(error: &kube::Error) -> String {
    let first: &dyn std::error::Error = error;
    let bottom = std::iter::successors(first.source(), |cause| cause.source()).last();
    bottom.map_or_else(|| error.to_string(), |bottom| format!("{error}: {bottom}"))
}

/// A name that Kubernetes gives to an object. A signal's may be anything, and goes into a path.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= NAME_LENGTH_MAX
        && name.split('.').all(|part| {
            let inner = part.bytes().all(|byte| allowed(byte) || byte == b'-');
            inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
        })
}

/// A name that Kubernetes gives to a namespace.
fn is_label(name: &str) -> bool {
    name.len() <= 63 && !name.contains('.') && is_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_comes_into_no_path() {
        for name in ["web", "web-5d8f7c-x2k", "a.b-c.d", "0"] {
            assert!(is_name(name), "{name}");
        }
        let long = "a".repeat(NAME_LENGTH_MAX + 1);
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "../secrets/x",
            "web?watch=true",
            "web#",
            "Web",
            "-a",
            "a-",
            "a..b",
            "a%2fb",
            "ä",
            &long,
        ] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_label("shop-1"));
        assert!(!is_label("shop.1"));
    }

    #[test]
    fn without_a_token_nobody_is_asked_or_the_flag_is_named() {
        for (mode, has_token, asks) in [
            (Mode::Off, true, false),
            (Mode::Detect, true, true),
            (Mode::Detect, false, false),
            (Mode::InCluster, true, true),
        ] {
            let told = mode
                .asks(FLAG, has_token)
                .expect("a configuration that is good");
            assert_eq!(told, asks, "{mode:?} {has_token}");
        }
        let error = Mode::InCluster.asks(FLAG, false).expect_err("no token");
        assert!(error.to_string().starts_with("--kubernetes-enrichment: "));
    }
}
