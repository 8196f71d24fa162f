//! The HTTP side of signalprocessing: which policy is in force. Nothing can be changed here; work
//! comes through DataStorage, policies by their file.

use axum::{Router, extract::State, routing::get};
use common::{auth::Reader, extract::Json};
use serde::{Deserialize, Serialize};

use crate::live_policy::LivePolicy;

/// Answer of `GET /api/v1/policy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInForce {
    /// SHA-256 of the policy, 64 hex digits.
    pub policy_hash: String,
}

/// The API.
pub fn routes(policy: LivePolicy) -> Router {
    Router::new()
        .route("/api/v1/policy", get(policy_in_force))
        .with_state(policy)
}

async fn policy_in_force(_: Reader, State(policy): State<LivePolicy>) -> Json<PolicyInForce> {
    Json(PolicyInForce {
        policy_hash: policy.current().hash().to_owned(),
    })
}
