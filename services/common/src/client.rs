//! The client of DataStorage. Every call has a deadline; 502, 503, 504 and connection errors are
//! tried again with jitter, nothing else is. That is safe because every write carries an ID
//! (event_id, signal_id, write_id): a retry whose first try had committed gets the first answer.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use reqwest::header::{IF_MATCH, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::api::{
    AuditBatch, AuditEvent, AuditEvents, AuditQuery, ChainVerdict, Execution, ExecutionQuery,
    Executions, History, HistoryQuery, NewAuditEvent, NewExecution, NewRemediationRequest,
    NewWorkflow, PatchExecution, PatchRemediationRequest, PatchWorkflow, RemediationRequest,
    RemediationRequests, RequestQuery, WatchQuery, Workflow, WorkflowQuery, Workflows,
};
use crate::config::{DataStorageArgs, Secret};
use crate::transitions::{ExecutionPhase, RequestPhase};
use crate::watch::Watch;

/// Deadlines and retries of the client.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Of one try.
    pub try_timeout: Duration,
    /// Of a call with all its tries.
    pub call_timeout: Duration,
    /// How many further tries.
    pub retries_max: usize,
}

impl Default for Patience {
    /// Shorter than the time that a request of our own may take, so that its caller gets an answer.
    fn default() -> Self {
        Self {
            try_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_secs(6),
            retries_max: 5,
        }
    }
}

/// `http://host:port`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        if url.scheme() != "http" {
            return Err("only http is spoken here".to_owned());
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("a URL without a path is needed".to_owned());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}

/// Why a call gave no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// DataStorage answered, and it was an error.
    #[error("DataStorage answered {status}: {detail}")]
    Problem {
        /// Status code.
        status: u16,
        /// `detail` of the problem, or the beginning of the body.
        detail: String,
        /// The other fields of the problem.
        extensions: Map<String, Value>,
        /// When to come again.
        retry_after: Option<Duration>,
    },
    /// No answer: refused, reset, or the deadline passed. What was asked for may have been done.
    #[error("DataStorage is unreachable: {0}")]
    Unreachable(String),
    /// An answer that is not what this client knows.
    #[error("DataStorage gave an answer that is not understood: {0}")]
    NotUnderstood(String),
}

impl ClientError {
    /// The status code, if there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem { status, .. } => Some(*status),
            Self::Unreachable(_) | Self::NotUnderstood(_) => None,
        }
    }

    /// The same call may work later: no answer, 408, 429, or any 5xx.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Problem { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Unreachable(_) => true,
            Self::NotUnderstood(_) => false,
        }
    }

    /// 412 or 409: somebody else was faster, or the transition is not legal (any more).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self.status(), Some(409 | 412))
    }
}

/// The answer to a creation.
#[derive(Clone, Debug, PartialEq)]
pub struct Created<T> {
    /// 201 if it was made now, 200 if it was there.
    pub is_new: bool,
    /// What is there.
    pub value: T,
}

/// A connection pool to one DataStorage, cheap to clone.
#[derive(Clone, Debug)]
pub struct DataStorage {
    http: reqwest::Client,
    base: Url,
    token: Secret,
    patience: Patience,
}

/// One call, so that it can be sent again.
struct Call {
    method: Method,
    url: Url,
    if_match: Option<i64>,
    body: Option<Vec<u8>>,
}

impl DataStorage {
    /// A client as configured.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(args: &DataStorageArgs) -> anyhow::Result<Self> {
        Self::with_patience(
            &args.datastorage_url,
            &args.datastorage_token,
            Patience::default(),
        )
    }

    /// A client with deadlines of one's own.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn with_patience(
        base: &BaseUrl,
        token: &Secret,
        patience: Patience,
    ) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .timeout(patience.try_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            http,
            base: base.0.clone(),
            token: token.clone(),
            patience,
        })
    }

    /// Is DataStorage there, with its database? One try.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn ping(&self) -> Result<(), ClientError> {
        let query = RequestQuery {
            limit: Some(1),
            ..RequestQuery::default()
        };
        let call = self.get(&["remediation-requests"], &query)?;
        self.send(&call).await.map(drop)
    }

    /// Stores one audit event.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn record(&self, event: &NewAuditEvent) -> Result<AuditEvent, ClientError> {
        self.value(&self.post(&["audit", "events"], event)?).await
    }

    /// Stores 1 to 500 audit events, or none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn record_batch(&self, batch: &AuditBatch) -> Result<AuditEvents, ClientError> {
        let call = self.post(&["audit", "events", "batch"], batch)?;
        self.value(&call).await
    }

    /// Lists audit events.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn audit_events(&self, query: &AuditQuery) -> Result<AuditEvents, ClientError> {
        self.value(&self.get(&["audit", "events"], query)?).await
    }

    /// Has the chain of this correlation ID verified.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn chain(&self, correlation_id: &str) -> Result<ChainVerdict, ClientError> {
        let call = self.get(&["audit", "chains", correlation_id], &())?;
        self.value(&call).await
    }

    /// Creates a request, or counts the signal on the open one with the same fingerprint.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_request(
        &self,
        new: &NewRemediationRequest,
    ) -> Result<Created<RemediationRequest>, ClientError> {
        self.created(&self.post(&["remediation-requests"], new)?)
            .await
    }

    /// One request.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn request(&self, id: Uuid) -> Result<RemediationRequest, ClientError> {
        let call = self.get(&["remediation-requests", &id.to_string()], &())?;
        self.value(&call).await
    }

    /// Lists requests.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn requests(&self, query: &RequestQuery) -> Result<RemediationRequests, ClientError> {
        self.value(&self.get(&["remediation-requests"], query)?)
            .await
    }

    /// Changes a request that still has this resource version.
    ///
    /// # Errors
    /// See [`ClientError`]; 412 stale, 409 not legal, 403 not yours.
    pub async fn patch_request(
        &self,
        id: Uuid,
        resource_version: i64,
        patch: &PatchRemediationRequest,
    ) -> Result<RemediationRequest, ClientError> {
        let path = ["remediation-requests", &id.to_string()];
        let call = self.body(Method::PATCH, &path, patch)?;
        self.value(&call.if_match(resource_version)).await
    }

    /// Adds a workflow to the catalog.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn create_workflow(
        &self,
        new: &NewWorkflow,
    ) -> Result<Created<Workflow>, ClientError> {
        self.created(&self.post(&["workflows"], new)?).await
    }

    /// Lists the catalog.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn workflows(&self, query: &WorkflowQuery) -> Result<Workflows, ClientError> {
        self.value(&self.get(&["workflows"], query)?).await
    }

    /// One workflow.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn workflow(&self, name: &str, version: &str) -> Result<Workflow, ClientError> {
        self.value(&self.get(&["workflows", name, version], &())?)
            .await
    }

    /// Disables a workflow, or enables it again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn patch_workflow(
        &self,
        name: &str,
        version: &str,
        patch: &PatchWorkflow,
    ) -> Result<Workflow, ClientError> {
        let call = self.body(Method::PATCH, &["workflows", name, version], patch)?;
        self.value(&call).await
    }

    /// Creates the execution of a request that still has this resource version, and moves the
    /// request to Executing.
    ///
    /// # Errors
    /// See [`ClientError`]; 409 with the field `holder` when the target is busy.
    pub async fn create_execution(
        &self,
        request_resource_version: i64,
        new: &NewExecution,
    ) -> Result<Created<Execution>, ClientError> {
        let call = self.post(&["workflow-executions"], new)?;
        self.created(&call.if_match(request_resource_version)).await
    }

    /// One execution.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn execution(&self, id: Uuid) -> Result<Execution, ClientError> {
        let call = self.get(&["workflow-executions", &id.to_string()], &())?;
        self.value(&call).await
    }

    /// Lists executions.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn executions(&self, query: &ExecutionQuery) -> Result<Executions, ClientError> {
        self.value(&self.get(&["workflow-executions"], query)?)
            .await
    }

    /// Transitions of requests into one of these phases, or of all where there is none, after a
    /// cursor. One try: who watches begins anew anyway.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch_requests(
        &self,
        phases: &[RequestPhase],
        after: Option<&str>,
    ) -> Result<Watch<RequestPhase, RemediationRequest>, ClientError> {
        let query = WatchQuery {
            phase: phases.to_vec(),
            after: after.map(str::to_owned),
        };
        self.watch("remediation-requests", &query).await
    }

    /// The same for executions.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn watch_executions(
        &self,
        phases: &[ExecutionPhase],
        after: Option<&str>,
    ) -> Result<Watch<ExecutionPhase, Execution>, ClientError> {
        let query = WatchQuery {
            phase: phases.to_vec(),
            after: after.map(str::to_owned),
        };
        self.watch("workflow-executions", &query).await
    }

    async fn watch<Q: Serialize, P: DeserializeOwned, T: DeserializeOwned>(
        &self,
        resource: &str,
        query: &Q,
    ) -> Result<Watch<P, T>, ClientError> {
        /// A watch lasts; whether it lives its bookmarks tell.
        const WATCH_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
        let call = self.get(&[resource, "watch"], query)?;
        let request = self.request_builder(&call).timeout(WATCH_TIMEOUT);
        let answer = tokio::time::timeout(self.patience.try_timeout, request.send()).await;
        let response = match answer {
            Err(_) => return Err(ClientError::Unreachable(TIMED_OUT.to_owned())),
            Ok(response) => response.map_err(|error| unreachable(&error))?,
        };
        if !response.status().is_success() {
            return Err(problem(response).await);
        }
        Ok(Watch::new(response))
    }

    /// What was done to a target, given as `namespace/kind/name`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn history(&self, query: &HistoryQuery) -> Result<History, ClientError> {
        self.value(&self.get(&["remediation-history"], query)?)
            .await
    }

    /// Changes an execution that still has this resource version.
    ///
    /// # Errors
    /// See [`ClientError`]; 412 stale, 409 not legal, 403 not yours.
    pub async fn patch_execution(
        &self,
        id: Uuid,
        resource_version: i64,
        patch: &PatchExecution,
    ) -> Result<Execution, ClientError> {
        let path = ["workflow-executions", &id.to_string()];
        let call = self.body(Method::PATCH, &path, patch)?;
        self.value(&call.if_match(resource_version)).await
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["api", "v1"]).extend(path);
        }
        url
    }

    fn get<Q: Serialize>(&self, path: &[&str], query: &Q) -> Result<Call, ClientError> {
        let built = self.http.get(self.url(path)).query(query).build();
        let built = built.map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
        Ok(Call {
            method: Method::GET,
            url: built.url().clone(),
            if_match: None,
            body: None,
        })
    }

    fn post<B: Serialize>(&self, path: &[&str], body: &B) -> Result<Call, ClientError> {
        self.body(Method::POST, path, body)
    }

    fn body<B: Serialize>(
        &self,
        method: Method,
        path: &[&str],
        body: &B,
    ) -> Result<Call, ClientError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
        Ok(Call {
            method,
            url: self.url(path),
            if_match: None,
            body: Some(body),
        })
    }

    async fn value<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ClientError> {
        Ok(self.created(call).await?.value)
    }

    async fn created<T: DeserializeOwned>(&self, call: &Call) -> Result<Created<T>, ClientError> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .with_max_times(self.patience.retries_max)
            .with_jitter();
        let last = std::sync::Mutex::new(None);
        let tries = (|| self.send(call))
            .retry(backoff)
            .when(may_be_tried_again)
            .notify(|error, _| {
                metrics::counter!("datastorage_retries_total").increment(1);
                tracing::debug!(%error, "trying DataStorage again");
                if let Ok(mut last) = last.lock() {
                    *last = Some(error.clone());
                }
            });
        let (status, body) = match tokio::time::timeout(self.patience.call_timeout, tries).await {
            Ok(result) => result?,
            Err(_) => {
                let last = last.into_inner().ok().flatten();
                let deadline = || ClientError::Unreachable("the deadline passed".to_owned());
                return Err(last.unwrap_or_else(deadline));
            }
        };
        let value = serde_json::from_slice(&body)
            .map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
        Ok(Created {
            is_new: status == StatusCode::CREATED,
            value,
        })
    }

    async fn send(&self, call: &Call) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let response = self.request_builder(call).send().await;
        let response = response.map_err(|error| unreachable(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(problem(response).await);
        }
        let body = response
            .bytes()
            .await
            .map_err(|error| unreachable(&error))?;
        Ok((status, body.to_vec()))
    }

    fn request_builder(&self, call: &Call) -> RequestBuilder {
        let mut builder = self
            .http
            .request(call.method.clone(), call.url.clone())
            .bearer_auth(self.token.expose());
        if let Some(version) = call.if_match {
            builder = builder.header(IF_MATCH, version);
        }
        if let Some(body) = &call.body {
            builder = builder
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        builder
    }
}

impl Call {
    fn if_match(mut self, resource_version: i64) -> Self {
        self.if_match = Some(resource_version);
        self
    }
}

/// A timeout is not tried again: the time is gone.
fn may_be_tried_again(error: &ClientError) -> bool {
    match error {
        ClientError::Problem { status, .. } => matches!(status, 502..=504),
        ClientError::Unreachable(why) => why != TIMED_OUT,
        ClientError::NotUnderstood(_) => false,
    }
}

const TIMED_OUT: &str = "no answer in time";

fn unreachable(error: &reqwest::Error) -> ClientError {
    if error.is_timeout() && !error.is_connect() {
        return ClientError::Unreachable(TIMED_OUT.to_owned());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    ClientError::Unreachable(text)
}

#[derive(Deserialize)]
struct ProblemBody {
    #[serde(default)]
    detail: String,
    #[serde(flatten)]
    extensions: Map<String, Value>,
}

async fn problem(response: Response) -> ClientError {
    const EXCERPT_CHARS: usize = 200;
    let status = response.status().as_u16();
    let seconds = response.headers().get(RETRY_AFTER);
    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = response.bytes().await.unwrap_or_default();
    let parsed = serde_json::from_slice(&body).unwrap_or_else(|_| ProblemBody {
        detail: String::from_utf8_lossy(&body)
            .chars()
            .take(EXCERPT_CHARS)
            .collect(),
        extensions: Map::new(),
    });
    ClientError::Problem {
        status,
        detail: parsed.detail,
        extensions: parsed.extensions,
        retry_after: seconds.map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_http_url_is_a_base() {
        assert!("http://datastorage:8080".parse::<BaseUrl>().is_ok());
        for bad in [
            "https://a",
            "datastorage:8080",
            "http://a/x",
            "http://a?b",
            "",
        ] {
            assert!(bad.parse::<BaseUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn segments_are_encoded() {
        let base = "http://a".parse().expect("URL");
        let client = DataStorage::with_patience(&base, &Secret::new("t"), Patience::default());
        let url = client.expect("client").url(&["audit", "chains", "a/b ?"]);
        assert_eq!(url.as_str(), "http://a/api/v1/audit/chains/a%2Fb%20%3F");
    }
}
