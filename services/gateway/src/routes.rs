//! The HTTP side of gateway: from a body to an answer. Alertmanager sends again after a 5xx and
//! after nothing else, so an answer that is not final is always a 503, and a 4xx is always final.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use common::{
    auth::{Caller, Writer},
    extract::Json,
    problem::{Answer, Problem},
    telemetry,
};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use serde_json::{Value, json};

use crate::{
    domain::Webhook,
    intake::{Intake, Later, Outcome, SignalResult, Source},
};

/// Shorter than the time after which the listener answers 408, which nobody would send again.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(7);

/// The version of Alertmanager's webhook that is understood.
const WEBHOOK_VERSION: &str = "4";

/// What lets messages in.
#[derive(Clone, Debug)]
pub struct Gate {
    intake: Intake,
    /// By the subject of the token.
    limiter: Arc<DefaultKeyedRateLimiter<Arc<str>>>,
}

impl Gate {
    /// Lets each source in so often.
    #[must_use]
    pub fn new(intake: Intake, messages_per_second: NonZeroU32) -> Self {
        let quota = Quota::per_second(messages_per_second);
        Self {
            intake,
            limiter: Arc::new(RateLimiter::keyed(quota)),
        }
    }

    /// 503 and not 429, which Alertmanager would not send again.
    fn admit(&self, caller: &Caller) -> Answer<&Intake> {
        let Err(refused) = self.limiter.check_key(&caller.subject) else {
            return Ok(&self.intake);
        };
        metrics::counter!("gateway_messages_held_back_total").increment(1);
        let wait = refused.wait_time_from(self.limiter.clock().now());
        let subject = &caller.subject;
        let problem = Problem::unavailable(format!("`{subject}` sends too much at once"));
        Err(problem.retry_after(wait.max(Duration::from_secs(1))))
    }
}

/// The API.
pub fn routes(gate: Gate) -> Router {
    Router::new()
        .route("/api/v1/signals/alertmanager", post(alertmanager))
        .route("/api/v1/signals/kubernetes-event", post(kubernetes_event))
        .with_state(gate)
}

async fn alertmanager(
    Writer(caller): Writer,
    State(gate): State<Gate>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Response> {
    let intake = gate.admit(&caller)?;
    let body = complete(body)?;
    let source = Source::Alertmanager;
    in_time(async {
        let webhook = match parse_webhook(&body) {
            Ok(webhook) => webhook,
            Err(detail) => return malformed(intake, source, &body, detail, &caller.subject).await,
        };
        if webhook.truncated_alerts > 0 {
            let truncated = webhook.truncated_alerts;
            tracing::warn!(truncated, "Alertmanager left alerts out (max_alerts)");
        }
        let mut results = Vec::with_capacity(webhook.alerts.len());
        for alert in &webhook.alerts {
            results.push(
                intake
                    .take(source, alert, &caller.subject)
                    .await
                    .map_err(later)?,
            );
        }
        match <[SignalResult; 1]>::try_from(results) {
            Ok([result]) => Ok(one(result)),
            Err(results) => {
                let body = Json(json!({ "results": results }));
                Ok((StatusCode::MULTI_STATUS, body).into_response())
            }
        }
    })
    .await
}

async fn kubernetes_event(
    Writer(caller): Writer,
    State(gate): State<Gate>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Response> {
    let intake = gate.admit(&caller)?;
    let body = complete(body)?;
    let source = Source::KubernetesEvent;
    in_time(async {
        match serde_json::from_slice::<Value>(&body) {
            Ok(event) => {
                let result = intake.take(source, &event, &caller.subject).await;
                Ok(one(result.map_err(later)?))
            }
            Err(error) => {
                let detail = format!("not JSON: {error}");
                malformed(intake, source, &body, detail, &caller.subject).await
            }
        }
    })
    .await
}

fn complete(body: Result<Bytes, BytesRejection>) -> Answer<Bytes> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("the body is too large"),
        _ => Problem::bad_request(rejection.body_text()),
    })
}

async fn in_time(answer: impl Future<Output = Answer<Response>>) -> Answer<Response> {
    let late = || Problem::unavailable("not all of it was done in time; send it again");
    tokio::time::timeout(ANSWER_TIME_MAX, answer)
        .await
        .unwrap_or_else(|_| Err(late()))
}

fn parse_webhook(body: &[u8]) -> Result<Webhook, String> {
    let webhook: Webhook =
        serde_json::from_slice(body).map_err(|error| format!("not a webhook: {error}"))?;
    if webhook.version != WEBHOOK_VERSION {
        let version = &webhook.version;
        return Err(format!(
            "version: {version:?} is not understood, only {WEBHOOK_VERSION:?}"
        ));
    }
    if webhook.alerts.is_empty() {
        return Err("alerts: there are none".to_owned());
    }
    Ok(webhook)
}

async fn malformed(
    intake: &Intake,
    source: Source,
    body: &[u8],
    detail: String,
    sender: &str,
) -> Answer<Response> {
    let result = intake.take_malformed(source, body, detail, sender).await;
    Ok(one(result.map_err(later)?))
}

/// The answer to a signal that came alone.
fn one(result: SignalResult) -> Response {
    if let Some(request_id) = result.request_id {
        telemetry::correlate(&request_id);
    }
    if result.outcome == Outcome::Rejected {
        return Problem::bad_request(result.detail.unwrap_or_default()).into_response();
    }
    let status = StatusCode::from_u16(result.status).unwrap_or(StatusCode::OK);
    (status, Json(result)).into_response()
}

fn later(reason: Later) -> Problem {
    tracing::warn!(%reason, "a signal must come again");
    metrics::counter!("gateway_signals_deferred_total").increment(1);
    Problem::unavailable("DataStorage cannot take it now; send it again")
}
