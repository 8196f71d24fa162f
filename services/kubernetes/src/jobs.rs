//! Jobs of this namespace, one after the other by its name: made, followed to their end, removed. What
//! one runs is made from a PodTemplate, as JSON, so that no field of it is lost on the way. It decides
//! nothing: whose a Job is and what its end means is for whoever asks.

use std::{collections::BTreeMap, path::Path, pin::pin, time::Duration};

use clap::Args;
use futures_util::StreamExt as _;
use kube::{
    Client, Config,
    core::{
        ObjectMeta, Request, WatchEvent,
        params::{
            DeleteParams, GetParams, ListParams, PostParams, Preconditions, PropagationPolicy,
            WatchParams,
        },
    },
};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::{Mode, NotConfigured, TOKEN_FILE, Unanswered, with_cause};

const FLAG: &str = "--kubernetes-jobs";

/// One question; the server itself gives up a write a second before, so that none is made long after.
const TRY_TIMEOUT: Duration = Duration::from_secs(4);
const WRITE_TIMEOUT: &str = "timeout=3s";
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);
/// A watch goes no longer; a connection that has died unseen is found out by then.
const WATCH_SECONDS: u32 = 15;

/// Whether Jobs may be made.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct JobsArgs {
    /// Whether steps of workflows may run Jobs, in the namespace of this pod.
    #[arg(long, env = "KUBERNETES_JOBS", value_enum, default_value_t = Mode::Off)]
    pub kubernetes_jobs: Mode,
}

impl JobsArgs {
    /// No Jobs.
    #[must_use]
    pub fn off() -> Self {
        Self {
            kubernetes_jobs: Mode::Off,
        }
    }

    /// A client where Jobs may be made; called from within the runtime. It asks nothing yet.
    ///
    /// # Errors
    /// What is missing in this pod, naming the flag.
    pub fn client(&self) -> Result<Option<Jobs>, NotConfigured> {
        let mode = self.kubernetes_jobs;
        if !mode.asks(FLAG, Path::new(TOKEN_FILE).exists())? {
            tracing::info!(?mode, "no Jobs are made");
            return Ok(None);
        }
        let config = Config::incluster().map_err(|error| NotConfigured::new(FLAG, error))?;
        let jobs = Jobs::new(config)?;
        tracing::info!(namespace = jobs.namespace, "Jobs are made");
        Ok(Some(jobs))
    }
}

/// The Jobs of one namespace, cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    client: Client,
    namespace: String,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Jobs")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// A Job as the server tells it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Job {
    /// Name, labels, when it was told to go.
    pub metadata: ObjectMeta,
    #[serde(default)]
    status: JobStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct JobStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// How a Job has ended. All its pods have ended too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Its container ended with 0.
    Complete,
    /// It did not.
    Failed {
        /// `DeadlineExceeded`, `BackoffLimitExceeded`, ….
        reason: String,
        /// For people.
        message: String,
    },
}

/// What came of a wish to make a Job.
#[derive(Clone, Debug)]
pub enum Creation {
    /// It is there.
    Made(Box<Job>),
    /// One of this name was there before, and is as it was.
    Taken,
}

impl Job {
    /// The ID that no other Job ever has, of this name either.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// A label of it.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        let labels = self.metadata.labels.as_ref()?;
        labels.get(name).map(String::as_str)
    }

    /// An annotation of it.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = self.metadata.annotations.as_ref()?;
        annotations.get(name).map(String::as_str)
    }

    /// It was told to go, and will.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<JobEnd> {
        let mut conditions = self.status.conditions.iter();
        conditions.find_map(|condition| match condition.kind.as_str() {
            _ if condition.status != "True" => None,
            "Complete" => Some(JobEnd::Complete),
            "Failed" => Some(JobEnd::Failed {
                reason: condition.reason.clone(),
                message: condition.message.clone(),
            }),
            _ => None,
        })
    }
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
struct ContainerStatus {
    #[serde(default)]
    state: BTreeMap<String, Value>,
}

impl Jobs {
    /// Of the namespace that the configuration names; called from within the runtime.
    ///
    /// # Errors
    /// When the configuration holds no valid certificate or token.
    pub fn new(mut config: Config) -> Result<Self, NotConfigured> {
        config.connect_timeout = Some(TRY_TIMEOUT);
        // A watch is silent for as long as nothing happens; each question has its own deadline.
        config.read_timeout = None;
        config.write_timeout = Some(TRY_TIMEOUT);
        config.default_retry = false;
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| NotConfigured::new(FLAG, error))?;
        Ok(Self { client, namespace })
    }

    /// Where its Jobs are.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn of(&self, group: &str, plural: &str) -> Request {
        Request::new(format!("{group}/namespaces/{}/{plural}", self.namespace))
    }

    fn jobs(&self) -> Request {
        self.of("/apis/batch/v1", "jobs")
    }

    /// The PodTemplate of this name, whole; nothing where there is none.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn template(&self, name: &str) -> Result<Option<Value>, Unanswered> {
        let request = self.of("/api/v1", "podtemplates");
        self.found(&request, name).await
    }

    /// The Job of this name; nothing where there is none.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn get(&self, name: &str) -> Result<Option<Job>, Unanswered> {
        self.found(&self.jobs(), name).await
    }

    async fn found<T: serde::de::DeserializeOwned>(
        &self,
        request: &Request,
        name: &str,
    ) -> Result<Option<T>, Unanswered> {
        let get = request
            .get(name, &GetParams::default())
            .map_err(malformed)?;
        match in_time(self.client.request(get)).await? {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(judged(&error)),
        }
    }

    /// Makes a Job. Where the answer is lost, it may be there or not: the name tells.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn create(&self, job: &Value) -> Result<Creation, Unanswered> {
        let create = self
            .jobs()
            .create(&PostParams::default(), job.to_string().into());
        let mut create = create.map_err(malformed)?;
        let uri = create.uri().to_string();
        let uri = format!("{}&{WRITE_TIMEOUT}", uri.trim_end_matches('&'));
        *create.uri_mut() = uri.parse().map_err(malformed)?;
        match in_time(self.client.request(create)).await? {
            Ok(job) => Ok(Creation::Made(Box::new(job))),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Creation::Taken),
            Err(error) => Err(judged(&error)),
        }
    }

    /// Has the Job with this ID removed, and its pods before it; one that has gone, or has given its
    /// name to another, is none of it. Waits for nothing.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn remove(&self, job: &Job) -> Result<(), Unanswered> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let only = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(Preconditions {
                uid: Some(job.uid().to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let delete = self.jobs().delete(name, &only).map_err(malformed)?;
        match in_time(self.client.request::<Value>(delete)).await? {
            Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
            Err(error) => Err(judged(&error)),
            Ok(_) => Ok(()),
        }
    }

    /// Looks at the Job of this name whenever it changes, until `look` has seen enough; nothing when
    /// the time has come before. Where the server is away it is asked again.
    ///
    /// # Errors
    /// When the API refuses.
    pub async fn follow<T>(
        &self,
        name: &str,
        until: Instant,
        mut look: impl FnMut(Option<&Job>) -> Option<T>,
    ) -> Result<Option<T>, Unanswered> {
        let following = async {
            loop {
                match self.follow_once(name, &mut look).await {
                    Ok(Some(seen)) => return Ok(seen),
                    // A server ends its watches when it likes.
                    Ok(None) => {}
                    Err(Unanswered::Away(error)) => tracing::debug!(error, "asking again"),
                    Err(refused) => return Err(refused),
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        match tokio::time::timeout_at(until, following).await {
            Ok(seen) => seen.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The Job as it is, and every change from there on, as long as one watch goes.
    async fn follow_once<T>(
        &self,
        name: &str,
        look: &mut impl FnMut(Option<&Job>) -> Option<T>,
    ) -> Result<Option<T>, Unanswered> {
        let job = self.get(name).await?;
        if let Some(seen) = look(job.as_ref()) {
            return Ok(Some(seen));
        }
        let Some(job) = job else { return Ok(None) };
        let version = job.metadata.resource_version.as_deref().unwrap_or("0");
        let only = WatchParams::default()
            .fields(&format!("metadata.name={name}"))
            .timeout(WATCH_SECONDS);
        let watch = self.jobs().watch(&only, version).map_err(malformed)?;
        let opened = in_time(self.client.request_events::<Job>(watch)).await?;
        let mut events = pin!(opened.map_err(|error| judged(&error))?);
        let end = Instant::now() + Duration::from_secs(WATCH_SECONDS.into()) + TRY_TIMEOUT;
        while let Ok(Some(event)) = tokio::time::timeout_at(end, events.next()).await {
            let seen = match event.map_err(|error| judged(&error))? {
                WatchEvent::Added(job) | WatchEvent::Modified(job) => look(Some(&job)),
                WatchEvent::Deleted(_) => look(None),
                WatchEvent::Bookmark(_) => None,
                // Too old to go on from, most often.
                WatchEvent::Error(_) => return Ok(None),
            };
            if seen.is_some() {
                return Ok(seen);
            }
        }
        Ok(None)
    }

    /// What the container of a Job ended with, if one of its pods is there and tells.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn exit_code(&self, job: &Job) -> Result<Option<i32>, Unanswered> {
        let of_it = format!("batch.kubernetes.io/controller-uid={}", job.uid());
        let of_it = ListParams::default().labels(&of_it);
        let list = self.of("/api/v1", "pods").list(&of_it).map_err(malformed)?;
        let pods: Items<Pod> = match in_time(self.client.request(list)).await? {
            Ok(pods) => pods,
            Err(error) => return Err(judged(&error)),
        };
        let mut statuses = pods
            .items
            .iter()
            .flat_map(|pod| &pod.status.container_statuses);
        Ok(statuses.find_map(|status| {
            let code = status.state.get("terminated")?["exitCode"].as_i64()?;
            i32::try_from(code).ok()
        }))
    }
}

async fn in_time<T>(
    asked: impl Future<Output = kube::Result<T>>,
) -> Result<kube::Result<T>, Unanswered> {
    let answer = tokio::time::timeout(TRY_TIMEOUT, asked).await;
    answer.map_err(|_| Unanswered::Away("no answer in time".to_owned()))
}

fn judged(error: &kube::Error) -> Unanswered {
    match error {
        kube::Error::Api(status) => match status.code {
            408 | 429 | 500.. => Unanswered::Away(status.message.clone()),
            _ => Unanswered::Refused(status.message.clone()),
        },
        error => Unanswered::Away(with_cause(error)),
    }
}

fn malformed(error: impl std::fmt::Display) -> Unanswered {
    Unanswered::Refused(error.to_string())
}
