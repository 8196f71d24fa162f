//! The API: how an execution stands. It is DataStorage's answer; nothing is changed from here.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use common::api::Execution;
use common::auth::Reader;
use common::client::{ClientError, DataStorage};
use common::extract::{Json, Path};
use common::problem::{Answer, Problem};
use uuid::Uuid;

/// The routes of the API.
pub(crate) fn routes(storage: DataStorage) -> Router {
    Router::new()
        .route("/api/v1/workflow-executions/{id}", get(execution))
        .with_state(storage)
}

async fn execution(
    _: Reader,
    State(storage): State<DataStorage>,
    Path(id): Path<Uuid>,
) -> Answer<Json<Execution>> {
    let execution = storage.execution(id).await.map_err(|error| match error {
        ClientError::Problem {
            status: 404,
            detail,
            ..
        } => Problem::not_found(detail),
        error if error.is_temporary() => {
            tracing::warn!(%error, "DataStorage is away");
            Problem::unavailable("DataStorage does not answer")
        }
        error => Problem::internal(&error),
    })?;
    common::telemetry::correlate(&execution.request_id);
    Ok(Json(execution))
}
