//! Remediation requests: made and moved through DataStorage's API by the tokens of the services
//! whose moves they are, where such a service is not itself what is tested.

use std::collections::BTreeMap;
use std::time::Duration;

use common::api::{
    NewRemediationRequest, PatchRemediationRequest, RemediationRequest, RemediationRequests,
    Severity, Signal, Target,
};
use common::transitions::RequestPhase;
use uuid::Uuid;

use crate::http::{Answer, Api};
use crate::poll::{Look, eventually};
use crate::unique;

/// Where requests are posted and listed.
pub const REQUESTS: &str = "/api/v1/remediation-requests";

/// A target in the namespace `shop` that no other test has.
#[must_use]
pub fn target() -> Target {
    Target {
        cluster: "local".to_owned(),
        namespace: "shop".to_owned(),
        kind: "Deployment".to_owned(),
        name: format!("web-{}", unique()),
    }
}

/// 64 hex digits that no other test has. What a target's real fingerprint is, gateway decides.
#[must_use]
pub fn fingerprint() -> String {
    let half = || Uuid::new_v4().simple().to_string();
    format!("{}{}", half(), half())
}

/// A request for this target, as gateway would make it.
#[must_use]
pub fn new_request(target: &Target) -> NewRemediationRequest {
    NewRemediationRequest {
        signal_id: Uuid::new_v4(),
        fingerprint: fingerprint(),
        target: target.clone(),
        severity: Severity::Critical,
        signal: Signal {
            source: "alertmanager".to_owned(),
            name: "HighErrorRate".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            starts_at: None,
            owner_unknown: false,
        },
    }
}

/// Posts a request and expects it to be new.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn create(gateway: &Api, new: &NewRemediationRequest) -> RemediationRequest {
    gateway.post(REQUESTS, new).expect(201).json()
}

/// A request as it is stored now.
///
/// # Panics
/// When it cannot be read.
#[must_use]
#[track_caller]
pub fn read(api: &Api, id: Uuid) -> RemediationRequest {
    api.get(&format!("{REQUESTS}/{id}")).expect(200).json()
}

/// A patch that moves to `phase` and changes nothing else.
#[must_use]
pub fn to_phase(phase: RequestPhase) -> PatchRemediationRequest {
    PatchRemediationRequest {
        write_id: Uuid::new_v4(),
        phase: Some(phase),
        reason: Some("a test moved it".to_owned()),
        ..PatchRemediationRequest::default()
    }
}

/// Patches a request as it was read.
#[track_caller]
pub fn patch(api: &Api, request: &RemediationRequest, patch: &PatchRemediationRequest) -> Answer {
    let path = format!("{REQUESTS}/{}", request.id);
    api.patch(&path, request.resource_version, patch)
}

/// Moves a request to `phase`.
///
/// # Panics
/// When the move is refused.
#[track_caller]
pub fn step(api: &Api, request: &RemediationRequest, phase: RequestPhase) -> RemediationRequest {
    patch(api, request, &to_phase(phase)).expect(200).json()
}

/// All requests that a query gives, page after page.
///
/// # Panics
/// When a page is refused, or there is no end of pages.
#[must_use]
#[track_caller]
pub fn list(api: &Api, query: &str) -> Vec<RemediationRequest> {
    api.pages(
        &format!("{REQUESTS}?{query}"),
        |page: RemediationRequests| (page.items, page.next_cursor),
    )
}

/// Waits until `good` says so of a request.
///
/// # Panics
/// When `within` has passed, with the request as it was last seen.
#[track_caller]
pub fn await_request(
    api: &Api,
    id: Uuid,
    within: Duration,
    what: &str,
    good: impl Fn(&RemediationRequest) -> bool,
) -> RemediationRequest {
    eventually(&format!("request {id} {what}"), within, || {
        let answer = match api.try_get(&format!("{REQUESTS}/{id}")) {
            Ok(answer) if answer.status == 200 => answer,
            Ok(answer) => return Look::NotYet(answer.to_string()),
            Err(error) => return Look::NotYet(error.to_string()),
        };
        let request: RemediationRequest = answer.json();
        if good(&request) {
            Look::Seen(request)
        } else {
            let RemediationRequest { phase, reason, .. } = &request;
            Look::NotYet(format!("{phase:?}, {reason:?}, {answer}"))
        }
    })
}

/// Waits until a request is in `phase`.
///
/// # Panics
/// When `within` has passed, or the request has ended in another phase.
#[track_caller]
pub fn await_phase(
    api: &Api,
    id: Uuid,
    within: Duration,
    phase: RequestPhase,
) -> RemediationRequest {
    let ended = |request: &RemediationRequest| request.phase.is_terminal();
    let what = format!("in {phase:?}");
    let there = |request: &RemediationRequest| request.phase == phase || ended(request);
    let request = await_request(api, id, within, &what, there);
    assert_eq!(request.phase, phase, "{request:#?}");
    request
}
