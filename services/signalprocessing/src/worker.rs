//! The work: claim a request, find out, have it classified, hand it on. Every step is a
//! compare-and-swap with an ID of its own, so two replicas never give two results, and a holder
//! stops before its lease does.

use std::{sync::Arc, time::Duration};

use common::{
    api::{Classification, PatchRemediationRequest, RemediationRequest, RequestQuery, Target},
    client::{ClientError, DataStorage},
    inventory::{Inventory, LiveInventory},
    shutdown::Shutdown,
    telemetry,
    transitions::RequestPhase,
    watch::follow_requests,
};
use kubernetes::{Kubernetes, Unanswered};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    audit,
    domain::{Enrichment, Question},
    live_policy::{Change, LivePolicy},
    policy::{Decision, Policy},
};

/// How often DataStorage is asked for expired leases.
const DUE_INTERVAL: Duration = Duration::from_millis(500);
/// How seldom, when it does not answer.
const DUE_INTERVAL_MAX: Duration = Duration::from_secs(4);
/// How often the policy file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a request is ours.
const LEASE_SECONDS: u32 = 10;
/// What a claim allows ends this much before the lease, whose clock is another's.
const LEASE_MARGIN: Duration = Duration::from_secs(2);
/// How many requests are worked on at once.
const CONCURRENCY: usize = 8;
/// How many expired leases are looked at in one round.
const ROUND_SIZE: u32 = 100;
/// Between two tries of what DataStorage did not take.
const TRY_INTERVAL: Duration = Duration::from_millis(250);

/// One replica of signalprocessing.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Where requests are kept.
    pub datastorage: DataStorage,
    /// The holder of leases.
    pub replica: String,
    /// What is known.
    pub inventory: LiveInventory,
    /// Who is asked about the rest.
    pub kubernetes: Option<Kubernetes>,
    /// What decides.
    pub policy: LivePolicy,
    /// When to end.
    pub shutdown: Shutdown,
}

impl Worker {
    /// Works until shutdown, and ends what it has begun.
    pub async fn run(self) {
        let worker = Arc::new(self);
        let (found, mut requests) = mpsc::channel(CONCURRENCY);
        let mut hearing = JoinSet::new();
        hearing.spawn(follow_requests(
            worker.datastorage.clone(),
            vec![RequestPhase::Pending],
            worker.shutdown.clone(),
            found.clone(),
        ));
        let abandoned = Arc::clone(&worker);
        hearing.spawn(async move { abandoned.follow_abandoned(found).await });
        let mut tasks = JoinSet::new();
        while let Some(request) = worker
            .shutdown
            .unless_requested(requests.recv())
            .await
            .flatten()
        {
            if tasks.len() == CONCURRENCY {
                tasks.join_next().await;
            }
            let span = telemetry::work_span(&request.id);
            let worker = Arc::clone(&worker);
            tasks.spawn(async move { worker.take(request).await }.instrument(span));
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
        drop(requests);
        while hearing.join_next().await.is_some() {}
    }

    /// No transition tells that a lease has expired: it is asked for.
    async fn follow_abandoned(&self, found: mpsc::Sender<RemediationRequest>) {
        let abandoned = RequestQuery {
            phase: vec![RequestPhase::Processing],
            due: true,
            limit: Some(ROUND_SIZE),
            ..RequestQuery::default()
        };
        let mut pause = DUE_INTERVAL;
        while self.shutdown.sleep(pause).await {
            let due = match self.datastorage.requests(&abandoned).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::debug!(%error, "nobody knows which leases have expired");
                    pause = DUE_INTERVAL_MAX.min(pause * 2);
                    continue;
                }
            };
            pause = DUE_INTERVAL;
            let as_of = due.as_of;
            let expired = |request: &RemediationRequest| {
                let lease = request.lease_deadline;
                lease.is_some_and(|deadline| deadline <= as_of)
            };
            for request in due.items.into_iter().filter(expired) {
                let sent = self.shutdown.unless_requested(found.send(request));
                if !matches!(sent.await, Some(Ok(()))) {
                    return;
                }
            }
        }
    }

    /// One request, as long as the lease allows.
    async fn take(&self, request: RemediationRequest) {
        let until = Instant::now() + Duration::from_secs(LEASE_SECONDS.into()) - LEASE_MARGIN;
        let outcome = match tokio::time::timeout_at(until, self.process(&request)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) if error.is_conflict() => {
                tracing::debug!(%error, "another one has it");
                "lost"
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "given up; the lease will be retaken");
                "given_up"
            }
            Err(_) => {
                tracing::warn!("the lease is over; it will be retaken");
                "given_up"
            }
        };
        metrics::counter!("signalprocessing_requests_total", "outcome" => outcome).increment(1);
    }

    async fn process(&self, request: &RemediationRequest) -> Result<&'static str, ClientError> {
        let claimed = self.insist(|| self.claim(request)).await?;
        match self.classify(&claimed).await {
            // Nobody could store this classification, so nobody shall try for ever.
            Err(ClientError::Problem {
                status: 400 | 413 | 422,
                detail,
                ..
            }) => {
                let patch = failed(&format!("DataStorage refuses the classification: {detail}"));
                self.conclude(&claimed, patch).await?;
                Ok("failed")
            }
            result => result,
        }
    }

    async fn classify(&self, claimed: &RemediationRequest) -> Result<&'static str, ClientError> {
        // One policy and one inventory from start to end.
        let (policy, inventory) = (self.policy.current(), self.inventory.current());
        let enrichment = self.enrich(&claimed.target, &inventory).await;
        let decision = decide(policy.clone(), claimed.clone(), enrichment.clone()).await;
        let events = audit::classification_events(
            claimed,
            &enrichment,
            decision.as_ref().map_err(String::as_str),
            policy.hash(),
            &self.replica,
        );
        self.insist(|| self.datastorage.record_batch(&events))
            .await?;
        let (outcome, patch) = match decision {
            Ok(decision) => {
                let outcome = if enrichment.degraded {
                    "degraded"
                } else {
                    "classified"
                };
                (outcome, analyzing(&decision, &enrichment, &policy))
            }
            Err(error) => {
                let reason = format!("the policy gave no decision: {error}");
                ("failed", failed(&reason))
            }
        };
        self.conclude(claimed, patch).await?;
        Ok(outcome)
    }

    /// What is known about a target. Who does not answer makes it degraded, and no more than that.
    async fn enrich(&self, target: &Target, inventory: &Inventory) -> Enrichment {
        let enrichment = Enrichment::of(target, inventory);
        let kubernetes = self.kubernetes.as_ref();
        let Some(kubernetes) = kubernetes.filter(|one| one.cluster() == target.cluster) else {
            return enrichment;
        };
        let (knows_namespace, knows_workload) = (
            enrichment.namespace.is_some(),
            enrichment.workload.is_some(),
        );
        let namespace = async {
            match knows_namespace {
                true => None,
                false => told(kubernetes.namespace(&target.namespace).await),
            }
        };
        let workload = async {
            let Target {
                namespace,
                kind,
                name,
                ..
            } = target;
            match knows_workload {
                true => None,
                false => told(kubernetes.workload(namespace, kind, name).await),
            }
        };
        let (namespace, workload) = tokio::join!(namespace, workload);
        enrichment.completed(namespace, workload)
    }

    /// Ends the work on a claimed request.
    async fn conclude(
        &self,
        claimed: &RemediationRequest,
        patch: PatchRemediationRequest,
    ) -> Result<(), ClientError> {
        let write = format!("{:?}/{}", patch.phase, claimed.resource_version);
        let patch = PatchRemediationRequest {
            write_id: Uuid::new_v5(&claimed.id, write.as_bytes()),
            ..patch
        };
        let patched = self
            .insist(|| {
                self.datastorage
                    .patch_request(claimed.id, claimed.resource_version, &patch)
            })
            .await?;
        tracing::info!(phase = ?patched.phase, reason = patched.reason, "processed");
        Ok(())
    }

    async fn claim(&self, request: &RemediationRequest) -> Result<RemediationRequest, ClientError> {
        let write = format!("claim/{}/{}", self.replica, request.resource_version);
        let patch = PatchRemediationRequest {
            write_id: Uuid::new_v5(&request.id, write.as_bytes()),
            phase: Some(RequestPhase::Processing),
            lease_seconds: Some(LEASE_SECONDS),
            lease_holder: Some(self.replica.clone()),
            ..PatchRemediationRequest::default()
        };
        self.datastorage
            .patch_request(request.id, request.resource_version, &patch)
            .await
    }

    /// Follows the policy file until shutdown, and has each change written down.
    pub async fn follow_policy(self) {
        while self.shutdown.sleep(LOOK_INTERVAL).await {
            let policy = self.policy.clone();
            let Ok(Some(change)) = tokio::task::spawn_blocking(move || policy.look()).await else {
                continue;
            };
            let outcome = match &change {
                Change::Reloaded { hash, .. } => {
                    tracing::info!(policy_hash = hash, "policy reloaded");
                    "reloaded"
                }
                Change::Rejected { error, .. } => {
                    tracing::warn!(error, "policy rejected; the old one stays in force");
                    "rejected"
                }
            };
            metrics::counter!("signalprocessing_policy_changes_total", "outcome" => outcome)
                .increment(1);
            let event = audit::policy_event(&change, &self.replica);
            let span = telemetry::work_span(&event.correlation_id);
            let recorded = self.insist(|| self.datastorage.record(&event));
            if let Err(error) = recorded.instrument(span).await {
                tracing::error!(%error, "the change of the policy is not in the audit trail");
            }
        }
    }

    /// Tries again as long as it may work later, and until shutdown.
    async fn insist<T, F>(&self, call: impl Fn() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        loop {
            match call().await {
                Err(error) if error.is_temporary() => {
                    tracing::warn!(%error, "trying again");
                    if !self.shutdown.sleep(TRY_INTERVAL).await {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }
}

/// What the Kubernetes API told, if it did.
fn told<T>(answer: Result<Option<T>, Unanswered>) -> Option<T> {
    answer.unwrap_or_else(|error| {
        tracing::warn!(%error, "the target counts as unknown");
        None
    })
}

/// A policy computes, up to a second: not on the threads that answer.
async fn decide(
    policy: Arc<Policy>,
    request: RemediationRequest,
    enrichment: Enrichment,
) -> Result<Decision, String> {
    let decided = tokio::task::spawn_blocking(move || {
        policy
            .decide(&Question::about(&request, &enrichment))
            .map_err(|error| format!("{error:#}"))
    });
    decided
        .await
        .unwrap_or_else(|_| Err("the policy panicked".to_owned()))
}

fn analyzing(
    decision: &Decision,
    enrichment: &Enrichment,
    policy: &Policy,
) -> PatchRemediationRequest {
    PatchRemediationRequest {
        phase: Some(RequestPhase::Analyzing),
        reason: Some(decision.reason.clone()),
        classification: Some(Classification {
            environment: decision.environment.clone(),
            severity: decision.severity,
            priority: decision.priority.as_str().to_owned(),
            signal_mode: decision.signal_mode.as_str().to_owned(),
            reason: decision.reason.clone(),
            degraded: enrichment.degraded,
            policy_hash: policy.hash().to_owned(),
            enrichment: enrichment.to_map(),
        }),
        ..PatchRemediationRequest::default()
    }
}

fn failed(reason: &str) -> PatchRemediationRequest {
    PatchRemediationRequest {
        phase: Some(RequestPhase::Failed),
        reason: Some(audit::excerpt(reason)),
        ..PatchRemediationRequest::default()
    }
}
