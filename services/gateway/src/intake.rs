//! What becomes of a signal: a new request, one more occurrence of an open one, the end of one
//! that nobody has acted upon. A signal has its answer only when DataStorage has committed all of
//! it; a try that broke off is finished by the next one, and nothing is made twice.

use std::collections::BTreeMap;

use common::{
    api::{
        AuditQuery, NewRemediationRequest, PatchRemediationRequest, RemediationRequest,
        RequestQuery, Target,
    },
    client::{ClientError, DataStorage},
    inventory::LiveInventory,
    telemetry,
    transitions::{Legality, RequestPhase},
};
use serde::Serialize;
use serde_json::Value;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    audit::{self, DEDUPLICATED, RECEIVED, RESOLVED, Recorded},
    domain::{self, AlertStatus, Observed, Refusal, Scope, Surroundings},
};

/// The name under which the transition table knows this service.
const SUBJECT: &str = "gateway";
/// A page of a list.
const PAGE_SIZE: u32 = 500;
/// How often a skip is tried against others who change the request.
const SKIP_TRIES_MAX: usize = 5;

/// What gateway works with.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Where requests are kept.
    pub datastorage: DataStorage,
    /// Cluster of signals that do not tell theirs.
    pub cluster: String,
    /// Namespaces whose signals are taken.
    pub scope: Scope,
    /// Who owns whom.
    pub inventory: LiveInventory,
}

/// The formats of signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An alert of a webhook.
    Alertmanager,
    /// An event of Kubernetes.
    KubernetesEvent,
}

impl Source {
    /// As requests, events and metrics name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alertmanager => "alertmanager",
            Self::KubernetesEvent => "kubernetes-event",
        }
    }
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A request was made.
    Created,
    /// It joined the open request.
    Duplicate,
    /// It is over before anybody acted: the request was skipped.
    Skipped,
    /// It is over, which was written down; the request goes on.
    Recorded,
    /// It is over, and no request knows it.
    NothingOpen,
    /// Not in the namespaces of this gateway.
    OutOfScope,
    /// It cannot be understood, or has no target.
    Rejected,
}

impl Outcome {
    /// The status code of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Created => 201,
            Self::Duplicate => 202,
            Self::Skipped | Self::Recorded | Self::NothingOpen | Self::OutOfScope => 200,
            Self::Rejected => 400,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Duplicate => "duplicate",
            Self::Skipped => "skipped",
            Self::Recorded => "recorded",
            Self::NothingOpen => "nothing_open",
            Self::OutOfScope => "out_of_scope",
            Self::Rejected => "rejected",
        }
    }
}

/// The final answer to one signal.
#[derive(Clone, Debug, Serialize)]
pub struct SignalResult {
    /// What a request with this signal alone is answered with.
    pub status: u16,
    /// What became of it.
    pub outcome: Outcome,
    /// The request, which is the correlation ID too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// How many distinct signals the request has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occurrence_count: Option<i64>,
    /// Where the request stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<RequestPhase>,
    /// Of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What is to be healed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// The labels were taken as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner_unknown: Option<bool>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// There is no final answer yet; the same signal must come again.
#[derive(Debug, thiserror::Error)]
pub enum Later {
    /// DataStorage did not do it.
    #[error(transparent)]
    DataStorage(#[from] ClientError),
    /// Others changed the request each time it was looked at.
    #[error("the request {0} does not hold still")]
    Restless(Uuid),
}

impl Intake {
    /// Takes one signal to its final answer.
    ///
    /// # Errors
    /// [`Later`]: it must be sent again.
    pub async fn take(
        &self,
        source: Source,
        message: &Value,
        sender: &str,
    ) -> Result<SignalResult, Later> {
        let inventory = self.inventory.current();
        let surroundings = Surroundings {
            cluster: &self.cluster,
            scope: &self.scope,
            inventory: &inventory,
        };
        let observed = match source {
            Source::Alertmanager => domain::observe_alert(message, surroundings),
            Source::KubernetesEvent => domain::observe_event(message, surroundings),
        };
        let result = match observed {
            Err(refusal) => {
                let text = message.to_string();
                let labels = message.get("labels");
                self.reject(source, text.as_bytes(), labels, &refusal, sender)
                    .await
            }
            Ok(observed) => match observed.status {
                AlertStatus::Firing => self.open(&observed, message, sender).await,
                AlertStatus::Resolved => self.resolve(&observed, sender).await,
            },
        }?;
        count(source, result.outcome);
        Ok(result)
    }

    /// Takes a message of which not even the outer form is right to its final answer.
    ///
    /// # Errors
    /// [`Later`]: it must be sent again.
    pub async fn take_malformed(
        &self,
        source: Source,
        message: &[u8],
        detail: String,
        sender: &str,
    ) -> Result<SignalResult, Later> {
        let refusal = Refusal::Malformed(detail);
        let result = self.reject(source, message, None, &refusal, sender).await?;
        count(source, result.outcome);
        Ok(result)
    }

    async fn reject(
        &self,
        source: Source,
        message: &[u8],
        labels: Option<&Value>,
        refusal: &Refusal,
        sender: &str,
    ) -> Result<SignalResult, Later> {
        let event = audit::rejection_event(source.as_str(), message, labels, refusal, sender);
        let span = telemetry::work_span(&event.correlation_id);
        audit::record(&self.datastorage, &event)
            .instrument(span.clone())
            .await?;
        let outcome = match refusal {
            Refusal::OutOfScope(_) => Outcome::OutOfScope,
            Refusal::Malformed(_) | Refusal::NoTarget(_) => Outcome::Rejected,
        };
        span.in_scope(|| tracing::info!(outcome = outcome.as_str(), %refusal, "signal"));
        Ok(SignalResult {
            status: outcome.status(),
            outcome,
            request_id: None,
            occurrence_count: None,
            phase: None,
            fingerprint: None,
            target: None,
            owner_unknown: None,
            detail: Some(refusal.to_string()),
        })
    }

    async fn open(
        &self,
        observed: &Observed,
        message: &Value,
        sender: &str,
    ) -> Result<SignalResult, Later> {
        let request = match self.create(observed, observed.signal_id).await {
            Ok(request) => request,
            // DataStorage judges some things more strictly, and its judgement is final.
            Err(ClientError::Problem {
                status: 400 | 413 | 422,
                detail,
                ..
            }) => {
                let (text, refusal) = (message.to_string(), Refusal::Malformed(detail));
                let labels = message.get("labels");
                return self
                    .reject(
                        Source::of(observed),
                        text.as_bytes(),
                        labels,
                        &refusal,
                        sender,
                    )
                    .await;
            }
            Err(error) => return Err(error.into()),
        };
        let (recorded, outcome) = self.receive(observed, &request, sender).await?;
        if recorded == Recorded::Now || !request.phase.is_terminal() {
            return Ok(found(outcome, observed, &request));
        }
        self.reopen(observed, request.id, sender).await
    }

    /// The request of this signal has ended and the signal goes on: that is a new need. Its ID
    /// follows from the request that ended last, so this too happens once.
    async fn reopen(
        &self,
        observed: &Observed,
        ended: Uuid,
        sender: &str,
    ) -> Result<SignalResult, Later> {
        let requests = self.requests_of(&observed.fingerprint).await?;
        let last = requests.iter().rfind(|request| request.phase.is_terminal());
        let last = last.map_or(ended, |request| request.id);
        let signal_id = Uuid::new_v5(&observed.signal_id, last.as_bytes());
        let request = self.create(observed, signal_id).await?;
        let (recorded, outcome) = self.receive(observed, &request, sender).await?;
        if recorded == Recorded::Before && request.phase.is_terminal() {
            return Err(Later::Restless(request.id));
        }
        Ok(found(outcome, observed, &request))
    }

    async fn create(
        &self,
        observed: &Observed,
        signal_id: Uuid,
    ) -> Result<RemediationRequest, ClientError> {
        let new = NewRemediationRequest {
            signal_id,
            fingerprint: observed.fingerprint.clone(),
            target: observed.target.clone(),
            severity: observed.severity,
            signal: observed.signal.clone(),
        };
        Ok(self.datastorage.create_request(&new).await?.value)
    }

    /// Writes down that the signal came. The one that made the request is `received`, whichever
    /// try gets so far; whoever stores that event has the first answer.
    async fn receive(
        &self,
        observed: &Observed,
        request: &RemediationRequest,
        sender: &str,
    ) -> Result<(Recorded, Outcome), ClientError> {
        let first = domain::signal_id_of(&request.signal) == observed.signal_id;
        let event_type = if first { RECEIVED } else { DEDUPLICATED };
        let span = telemetry::work_span(&request.id);
        let event = audit::signal_event(event_type, observed, request, sender);
        let recorded = audit::record(&self.datastorage, &event)
            .instrument(span.clone())
            .await?;
        let outcome = match recorded {
            Recorded::Now if first => Outcome::Created,
            _ => Outcome::Duplicate,
        };
        span.in_scope(|| {
            tracing::info!(outcome = outcome.as_str(), signal_id = %observed.signal_id, "signal");
        });
        Ok((recorded, outcome))
    }

    async fn resolve(&self, observed: &Observed, sender: &str) -> Result<SignalResult, Later> {
        let requests = self.requests_of(&observed.fingerprint).await?;
        let open = requests
            .iter()
            .rfind(|request| !request.phase.is_terminal());
        let Some(request) = open.or(requests.last()) else {
            return Ok(unknown(observed));
        };
        if domain::alert_id_of(&request.signal) == observed.alert_id {
            // The try that made the request may have broken off before it wrote this down.
            let first = Observed {
                signal_id: domain::signal_id_of(&request.signal),
                ..observed.clone()
            };
            let event = audit::signal_event(RECEIVED, &first, request, sender);
            audit::record(&self.datastorage, &event).await?;
        }
        if !self.firing(request).await?.contains_key(&observed.alert_id) {
            return Ok(unknown(observed));
        }
        let event = audit::signal_event(RESOLVED, observed, request, sender);
        audit::record(&self.datastorage, &event).await?;
        let firing = self.firing(request).await?;
        let (outcome, request) = if firing.values().any(|firing| *firing) {
            (Outcome::Recorded, request.clone())
        } else {
            self.skip(request.clone(), observed).await?
        };
        telemetry::work_span(&request.id).in_scope(|| {
            tracing::info!(outcome = outcome.as_str(), signal_id = %observed.signal_id, "signal");
        });
        Ok(found(outcome, observed, &request))
    }

    /// Every alert that joined the request, and whether it fires still.
    async fn firing(
        &self,
        request: &RemediationRequest,
    ) -> Result<BTreeMap<Uuid, bool>, ClientError> {
        let mut firing = BTreeMap::new();
        let mut cursor = None;
        loop {
            let query = AuditQuery {
                correlation_id: Some(request.id.to_string()),
                event_category: Some(audit::CATEGORY.to_owned()),
                limit: Some(PAGE_SIZE),
                cursor,
                ..AuditQuery::default()
            };
            let page = self.datastorage.audit_events(&query).await?;
            for stored in page.events {
                let alert_id = stored.event.event_data.get("alert_id");
                let alert_id = alert_id.and_then(|id| id.as_str()?.parse().ok());
                if let Some(alert_id) = alert_id {
                    firing.insert(alert_id, stored.event.event_type != RESOLVED);
                }
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(firing);
            }
        }
    }

    /// Skips the request, unless somebody acts already.
    async fn skip(
        &self,
        mut request: RemediationRequest,
        observed: &Observed,
    ) -> Result<(Outcome, RemediationRequest), Later> {
        for _ in 0..SKIP_TRIES_MAX {
            let legality = request.phase.may_become(RequestPhase::Skipped, SUBJECT);
            if legality != Legality::Legal {
                let outcome = match request.phase {
                    RequestPhase::Skipped => Outcome::Skipped,
                    _ => Outcome::Recorded,
                };
                return Ok((outcome, request));
            }
            let write = format!(
                "resolved/{}/{}",
                observed.signal_id, request.resource_version
            );
            let patch = PatchRemediationRequest {
                write_id: Uuid::new_v5(&request.id, write.as_bytes()),
                phase: Some(RequestPhase::Skipped),
                reason: Some("resolved before anything was done".to_owned()),
                ..PatchRemediationRequest::default()
            };
            let patched = self
                .datastorage
                .patch_request(request.id, request.resource_version, &patch)
                .await;
            match patched {
                Ok(request) => return Ok((Outcome::Skipped, request)),
                Err(error) if error.is_conflict() => {
                    request = self.datastorage.request(request.id).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Later::Restless(request.id))
    }

    /// Oldest first.
    async fn requests_of(&self, fingerprint: &str) -> Result<Vec<RemediationRequest>, ClientError> {
        let mut requests = Vec::new();
        let mut cursor = None;
        loop {
            let query = RequestQuery {
                fingerprint: Some(fingerprint.to_owned()),
                limit: Some(PAGE_SIZE),
                cursor,
                ..RequestQuery::default()
            };
            let page = self.datastorage.requests(&query).await?;
            requests.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(requests);
            }
        }
    }
}

impl Source {
    fn of(observed: &Observed) -> Self {
        if observed.signal.source == Self::KubernetesEvent.as_str() {
            Self::KubernetesEvent
        } else {
            Self::Alertmanager
        }
    }
}

fn found(outcome: Outcome, observed: &Observed, request: &RemediationRequest) -> SignalResult {
    SignalResult {
        status: outcome.status(),
        outcome,
        request_id: Some(request.id),
        occurrence_count: Some(request.occurrence_count),
        phase: Some(request.phase),
        fingerprint: Some(observed.fingerprint.clone()),
        target: Some(observed.target.clone()),
        owner_unknown: Some(observed.signal.owner_unknown),
        detail: None,
    }
}

fn unknown(observed: &Observed) -> SignalResult {
    SignalResult {
        status: Outcome::NothingOpen.status(),
        outcome: Outcome::NothingOpen,
        request_id: None,
        occurrence_count: None,
        phase: None,
        fingerprint: Some(observed.fingerprint.clone()),
        target: Some(observed.target.clone()),
        owner_unknown: Some(observed.signal.owner_unknown),
        detail: None,
    }
}

fn count(source: Source, outcome: Outcome) {
    metrics::counter!("gateway_signals_total", "source" => source.as_str(), "outcome" => outcome.as_str())
        .increment(1);
}
