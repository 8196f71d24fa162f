//! What was done to a target, and what is being done: from it follow cool-down and backoff.

use common::api::{History, HistoryQuery, Remediation};
use common::problem::Answer;
use sqlx::types::Json;

use super::{Store, Stored, now};
use crate::domain::{page, request};

impl Store {
    /// The remediations of a target, the latest first.
    pub(crate) async fn history(&self, query: &HistoryQuery) -> Answer<History> {
        let limit = page::limit(query.limit)?;
        let target = request::parse_target_filter(&query.target)?;
        self.transacted(|| self.try_to_tell_history(target, query.cluster.as_deref(), limit))
            .await
    }

    async fn try_to_tell_history(
        &self,
        [namespace, kind, name]: [&str; 3],
        cluster: Option<&str>,
        limit: i64,
    ) -> Stored<History> {
        let mut snapshot = self.snapshot().await?;
        let rows: Vec<Json<Remediation>> = sqlx::query_scalar(
            "SELECT jsonb_build_object(
                    'request_id', e.request_id, 'execution_id', e.id, 'attempt', e.attempt,
                    'phase', e.phase, 'workflow', e.workflow->'name',
                    'workflow_version', e.workflow->'version', 'signal', r.signal->'name',
                    'failure', e.failure, 'created_at', e.created_at,
                    'ended_at', CASE WHEN e.phase IN ('Completed', 'Failed', 'Cancelled')
                                     THEN e.updated_at END)
               FROM workflow_executions e JOIN remediation_requests r ON r.id = e.request_id
              WHERE ($1::text IS NULL OR e.target_cluster = $1)
                AND (e.target_namespace, e.target_kind, e.target_name) = ($2, $3, $4)
              ORDER BY e.created_at DESC, e.id DESC LIMIT $5",
        )
        .bind(cluster)
        .bind(namespace)
        .bind(kind)
        .bind(name)
        .bind(limit)
        .fetch_all(&mut *snapshot)
        .await?;
        Ok(History {
            as_of: now(&mut snapshot).await?,
            items: rows.into_iter().map(|Json(row)| row).collect(),
        })
    }
}
