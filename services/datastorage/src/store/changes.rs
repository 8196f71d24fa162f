//! What a watch tells: the transitions that were committed, each once a look, in an order that
//! nothing can be put into any more. A look sees only what transactions below the horizon of its
//! snapshot wrote: all of these have ended.

use common::api::{Change, Execution, RemediationRequest};
use common::problem::{Answer, Problem};
use common::transitions::{ExecutionPhase, RequestPhase};
use serde::de::DeserializeOwned;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::{Store, Stored, names_of};
use crate::domain::page::InChanges;

/// How many transitions one look tells at the most.
const LOOK_MAX: usize = 500;

/// What one look saw.
#[derive(Debug)]
pub(crate) struct Look<P, T> {
    /// Each with the cursor after it.
    pub(crate) changes: Vec<(InChanges, Change<P, T>)>,
    /// Where the next look begins: nothing before it is left to tell.
    pub(crate) cursor: InChanges,
}

/// A row: horizon, then what is absent where there is nothing to tell.
type Row<T> = (
    String,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<String>,
    Option<Json<T>>,
);

/// The changes of one kind of row, joined with it as it goes over the wire.
macro_rules! look {
    ($kind:literal, $table:literal) => {
        concat!(
            "WITH horizon AS MATERIALIZED (
                SELECT pg_snapshot_xmin(pg_current_snapshot()) AS xid)
             SELECT horizon.xid::text, c.xid::text, c.id, c.from_phase, c.to_phase,
                    to_jsonb(r) || jsonb_build_object('target', jsonb_build_object(
                        'cluster', r.target_cluster, 'namespace', r.target_namespace,
                        'kind', r.target_kind, 'name', r.target_name))
               FROM horizon
               LEFT JOIN LATERAL (
                    SELECT * FROM changes
                     WHERE kind = '",
            $kind,
            "'         AND (xid, id) > ($1::text::xid8, $2)
                       AND xid < horizon.xid
                       AND (cardinality($3::text[]) = 0 OR to_phase = ANY($3))
                     ORDER BY xid, id LIMIT $4) c ON true
               LEFT JOIN ",
            $table,
            " r ON r.id = c.resource_id ORDER BY c.xid, c.id"
        )
    };
}

impl Store {
    /// Transitions of requests after a cursor.
    pub(crate) async fn request_changes(
        &self,
        phases: &[RequestPhase],
        after: InChanges,
    ) -> Answer<Look<RequestPhase, RemediationRequest>> {
        const LOOK: &str = look!("request", "remediation_requests");
        self.transacted(|| self.try_to_look(LOOK, names_of(phases), after))
            .await
    }

    /// Transitions of executions after a cursor.
    pub(crate) async fn execution_changes(
        &self,
        phases: &[ExecutionPhase],
        after: InChanges,
    ) -> Answer<Look<ExecutionPhase, Execution>> {
        const LOOK: &str = look!("execution", "workflow_executions");
        self.transacted(|| self.try_to_look(LOOK, names_of(phases), after))
            .await
    }

    async fn try_to_look<P, T>(
        &self,
        statement: &'static str,
        phases: Stored<Vec<String>>,
        after: InChanges,
    ) -> Stored<Look<P, T>>
    where
        P: DeserializeOwned,
        T: DeserializeOwned + Send + Unpin + 'static,
    {
        let rows: Vec<Row<T>> = sqlx::query_as(statement)
            .bind(after.xid.to_string())
            .bind(after.id)
            .bind(phases?)
            .bind(i64::try_from(LOOK_MAX).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        let mut cursor = after;
        let mut changes = Vec::with_capacity(rows.len());
        let mut horizon = after;
        for (seen_to, xid, id, from, to, item) in rows {
            horizon = InChanges {
                xid: number(&seen_to)?,
                id: 0,
            };
            let (Some(xid), Some(id), Some(to), Some(Json(item))) = (xid, id, to, item) else {
                continue;
            };
            cursor = InChanges {
                xid: number(&xid)?,
                id,
            };
            let from = from.map(phase).transpose()?;
            let to = phase(to)?;
            changes.push((cursor, Change { from, to, item }));
        }
        if changes.len() < LOOK_MAX {
            // Every row below the horizon was looked at, those of other phases too.
            cursor = cursor.max(horizon);
        }
        Ok(Look { changes, cursor })
    }
}

/// The cursor of a snapshot: a watch after it tells all that the snapshot does not show.
pub(super) async fn here(snapshot: &mut PgConnection) -> Stored<String> {
    let horizon: String =
        sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
            .fetch_one(snapshot)
            .await?;
    let here = InChanges {
        xid: number(&horizon)?,
        id: 0,
    };
    Ok(here.to_string())
}

fn number(xid: &str) -> Stored<u64> {
    let number = xid.parse();
    number.map_err(|_| Problem::internal(&format!("{xid} is no transaction ID")).into())
}

fn phase<P: DeserializeOwned>(name: String) -> Stored<P> {
    let phase = serde_json::from_value(serde_json::Value::String(name));
    phase.map_err(|error| Problem::internal(&error).into())
}
