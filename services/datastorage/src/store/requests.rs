//! Remediation requests. Each change of state commits with its audit event; a counted signal is no
//! change of state.

use common::api::{
    NewRemediationRequest, PatchRemediationRequest, RemediationRequest, RemediationRequests,
    RequestQuery,
};
use common::auth::Caller;
use common::problem::{Answer, Problem};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::writes::Write;
use super::{Outcome, Store, StoreError, Stored, audit, changes, data, name_of, names_of, now};
use crate::domain::audit::{Draft, OwnEvent};
use crate::domain::page::{self, ByTime};
use crate::domain::request;

/// A row as it goes over the wire.
macro_rules! wire {
    () => {
        "to_jsonb(r) || jsonb_build_object('target', jsonb_build_object(
            'cluster', r.target_cluster, 'namespace', r.target_namespace,
            'kind', r.target_kind, 'name', r.target_name))"
    };
}

impl Store {
    /// Creates a request, or counts the signal on the open one with the same fingerprint.
    pub(crate) async fn create_request(
        &self,
        new: &NewRemediationRequest,
        caller: &Caller,
    ) -> Answer<Outcome<RemediationRequest>> {
        request::parse(new)?;
        self.transacted(|| self.try_to_create_request(new, caller))
            .await
    }

    async fn try_to_create_request(
        &self,
        new: &NewRemediationRequest,
        caller: &Caller,
    ) -> Stored<Outcome<RemediationRequest>> {
        let mut transaction = self.begin().await?;
        if let Some(met) = met_before(&mut transaction, new).await? {
            return Ok(Outcome::Found(met));
        }
        let Some(created) = insert(&mut transaction, new).await? else {
            let counted = count(&mut transaction, new).await?;
            transaction.commit().await?;
            return Ok(Outcome::Found(counted));
        };
        // A signal that another request has met in this very moment is a unique violation, and the
        // next try finds that request.
        remember_signal(&mut transaction, new.signal_id, created.id).await?;
        let event = Draft::own(
            OwnEvent::RequestCreated,
            &created.id.to_string(),
            created.created_at,
            data([
                ("to", json!(created.phase)),
                ("fingerprint", json!(created.fingerprint)),
                ("target", json!(created.target)),
                ("severity", json!(created.severity)),
                ("signal_id", json!(new.signal_id)),
                ("signal_name", json!(new.signal.name)),
            ]),
        );
        let event = about(event, &created);
        audit::append(&mut transaction, vec![event], &caller.subject).await?;
        transaction.commit().await?;
        Ok(Outcome::Created(created))
    }

    /// One request.
    pub(crate) async fn request(&self, id: Uuid) -> Answer<RemediationRequest> {
        self.transacted(|| async move {
            let row: Option<Json<RemediationRequest>> = sqlx::query_scalar(concat!(
                "SELECT ",
                wire!(),
                " FROM remediation_requests r WHERE id = $1"
            ))
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
            row.map(|Json(request)| request).ok_or_else(missing)
        })
        .await
    }

    /// A page of requests, oldest first.
    pub(crate) async fn requests(&self, query: &RequestQuery) -> Answer<RemediationRequests> {
        let limit = page::limit(query.limit)?;
        let after = query.cursor.as_deref().map(ByTime::parse).transpose()?;
        let target = query.target.as_deref().map(request::parse_target_filter);
        let target = target.transpose()?;
        self.transacted(|| self.try_to_list_requests(query, target, after, limit))
            .await
    }

    async fn try_to_list_requests(
        &self,
        query: &RequestQuery,
        target: Option<[&str; 3]>,
        after: Option<ByTime>,
        limit: i64,
    ) -> Stored<RemediationRequests> {
        let mut snapshot = self.snapshot().await?;
        let watch_cursor = changes::here(&mut snapshot).await?;
        let as_of = now(&mut snapshot).await?;
        let rows: Vec<Json<RemediationRequest>> = sqlx::query_scalar(concat!(
            "SELECT ",
            wire!(),
            " FROM remediation_requests r
               WHERE (cardinality($1::text[]) = 0 OR phase = ANY($1))
                 AND ($2::text IS NULL OR fingerprint = $2)
                 AND ($3::text IS NULL
                      OR (target_namespace, target_kind, target_name) = ($3, $4::text, $5::text))
                 AND ($6::timestamptz IS NULL
                      OR least(lease_deadline, blocked_until, phase_deadline, deadline) < $6)
                 AND (NOT $10::boolean
                      OR least(lease_deadline, blocked_until, phase_deadline, deadline)
                         <= $11)
                 AND ($7::timestamptz IS NULL OR (created_at, id) > ($7, $8::uuid))
               ORDER BY created_at, id LIMIT $9 + 1"
        ))
        .bind(names_of(&query.phase)?)
        .bind(&query.fingerprint)
        .bind(target.map(|[namespace, _, _]| namespace))
        .bind(target.map(|[_, kind, _]| kind))
        .bind(target.map(|[_, _, name]| name))
        .bind(query.due_before)
        .bind(after.map(|after| after.at))
        .bind(after.map(|after| after.id))
        .bind(limit)
        .bind(query.due)
        .bind(as_of)
        .fetch_all(&mut *snapshot)
        .await?;
        let mut items: Vec<RemediationRequest> = rows.into_iter().map(|Json(row)| row).collect();
        let next_cursor = next_page(&mut items, limit, |last| (last.created_at, last.id));
        Ok(RemediationRequests {
            items,
            as_of,
            watch_cursor,
            next_cursor,
        })
    }

    /// Changes a request that still has this resource version.
    pub(crate) async fn patch_request(
        &self,
        id: Uuid,
        resource_version: i64,
        patch: &PatchRemediationRequest,
        caller: &Caller,
    ) -> Answer<RemediationRequest> {
        request::parse_patch(patch)?;
        self.transacted(|| self.try_to_patch_request(id, resource_version, patch, caller))
            .await
    }

    async fn try_to_patch_request(
        &self,
        id: Uuid,
        resource_version: i64,
        patch: &PatchRemediationRequest,
        caller: &Caller,
    ) -> Stored<RemediationRequest> {
        let mut transaction = self.begin().await?;
        let before = lock(&mut transaction, id).await?;
        let write = Write::new(patch.write_id, id, &caller.subject, patch)?;
        if let Some(answer) = write.first_answer(&mut transaction).await? {
            return Ok(answer);
        }
        check_version(before.resource_version, resource_version)?;
        let now = now(&mut transaction).await?;
        let after = request::patched(&before, patch, caller, now)?;
        update(&mut transaction, &after).await?;
        write.done(&mut transaction, &after).await?;
        if after.resource_version != before.resource_version {
            let event = change_event(&before, &after);
            audit::append(&mut transaction, vec![event], &caller.subject).await?;
        }
        transaction.commit().await?;
        Ok(after)
    }
}

/// The event of a change from `before` to `after`.
pub(super) fn change_event(before: &RemediationRequest, after: &RemediationRequest) -> Draft {
    let kind = if before.phase == after.phase {
        OwnEvent::RequestUpdated
    } else {
        OwnEvent::RequestTransitioned
    };
    let event = Draft::own(
        kind,
        &after.id.to_string(),
        after.updated_at,
        data([
            ("from", json!(before.phase)),
            ("to", json!(after.phase)),
            ("resource_version", json!(after.resource_version)),
            ("reason", json!(after.reason)),
            ("lease_holder", json!(after.lease_holder)),
            (
                "priority",
                json!(after.classification.as_ref().map(|c| &c.priority)),
            ),
            ("workflow", json!(after.workflow)),
            ("execution_id", json!(after.execution_id)),
            ("approval", json!(after.approval)),
        ]),
    );
    about(event, after)
}

fn about(event: Draft, request: &RemediationRequest) -> Draft {
    event.about(
        request.id.to_string(),
        Some(request.target.namespace.clone()),
    )
}

/// The request, locked until the transaction ends.
pub(super) async fn lock(connection: &mut PgConnection, id: Uuid) -> Stored<RemediationRequest> {
    let row: Option<Json<RemediationRequest>> = sqlx::query_scalar(concat!(
        "SELECT ",
        wire!(),
        " FROM remediation_requests r WHERE id = $1 FOR UPDATE"
    ))
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.map(|Json(request)| request).ok_or_else(missing)
}

/// 412 unless the caller knows the present version.
pub(super) fn check_version(present: i64, known: i64) -> Stored<()> {
    if present == known {
        return Ok(());
    }
    let problem = Problem::precondition_failed(format!(
        "the resource_version is {present}, `If-Match` says {known}"
    ));
    Err(problem.with("resource_version", present).into())
}

/// Writes what a change can touch.
pub(super) async fn update(
    connection: &mut PgConnection,
    request: &RemediationRequest,
) -> Stored<()> {
    sqlx::query(
        "UPDATE remediation_requests
            SET resource_version = $2, phase = $3, reason = $4, lease_holder = $5,
                lease_deadline = $6, classification = $7, workflow = $8, execution_id = $9,
                attempt = $10, blocked_until = $11, phase_deadline = $12, updated_at = $13,
                deadline = $14, approval = $15
          WHERE id = $1",
    )
    .bind(request.id)
    .bind(request.resource_version)
    .bind(name_of(&request.phase)?)
    .bind(&request.reason)
    .bind(&request.lease_holder)
    .bind(request.lease_deadline)
    .bind(request.classification.as_ref().map(Json))
    .bind(request.workflow.as_ref().map(Json))
    .bind(request.execution_id)
    .bind(request.attempt)
    .bind(request.blocked_until)
    .bind(request.phase_deadline)
    .bind(request.updated_at)
    .bind(request.deadline)
    .bind(request.approval.as_ref().map(Json))
    .execute(connection)
    .await?;
    Ok(())
}

/// Cuts the one item that a page has too many, and names the last that it keeps.
pub(super) fn next_page<T>(
    items: &mut Vec<T>,
    limit: i64,
    key: impl Fn(&T) -> (time::OffsetDateTime, Uuid),
) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if items.len() <= limit {
        return None;
    }
    items.truncate(limit);
    let (at, id) = key(items.last()?);
    Some(ByTime { at, id }.to_string())
}

/// The request that met this signal before, open or not.
async fn met_before(
    connection: &mut PgConnection,
    new: &NewRemediationRequest,
) -> Stored<Option<RemediationRequest>> {
    let row: Option<Json<RemediationRequest>> = sqlx::query_scalar(concat!(
        "SELECT ",
        wire!(),
        " FROM remediation_requests r JOIN request_signals s ON s.request_id = r.id
           WHERE s.signal_id = $1"
    ))
    .bind(new.signal_id)
    .fetch_optional(connection)
    .await?;
    match row {
        Some(Json(request)) if request.fingerprint != new.fingerprint => {
            Err(Problem::conflict("signal_id: was counted for another fingerprint").into())
        }
        row => Ok(row.map(|Json(request)| request)),
    }
}

/// `None` when there is an open request with this fingerprint.
async fn insert(
    connection: &mut PgConnection,
    new: &NewRemediationRequest,
) -> Stored<Option<RemediationRequest>> {
    let row: Option<Json<RemediationRequest>> = sqlx::query_scalar(concat!(
        "INSERT INTO remediation_requests AS r
            (id, fingerprint, target_cluster, target_namespace, target_kind, target_name,
             severity, signal)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (fingerprint)
            WHERE phase NOT IN ('Completed', 'Failed', 'TimedOut', 'Skipped', 'Cancelled')
            DO NOTHING
         RETURNING ",
        wire!()
    ))
    .bind(Uuid::now_v7())
    .bind(&new.fingerprint)
    .bind(&new.target.cluster)
    .bind(&new.target.namespace)
    .bind(&new.target.kind)
    .bind(&new.target.name)
    .bind(name_of(&new.severity)?)
    .bind(Json(&new.signal))
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|Json(request)| request))
}

/// Counts a signal on the open request with its fingerprint.
async fn count(
    connection: &mut PgConnection,
    new: &NewRemediationRequest,
) -> Stored<RemediationRequest> {
    let open: Option<Uuid> = sqlx::query_scalar(
        "SELECT id FROM remediation_requests
          WHERE fingerprint = $1
            AND phase NOT IN ('Completed', 'Failed', 'TimedOut', 'Skipped', 'Cancelled')
            FOR UPDATE",
    )
    .bind(&new.fingerprint)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(open) = open else {
        // It ended between the two statements; the next try creates a new one.
        return Err(StoreError::Outrun);
    };
    remember_signal(connection, new.signal_id, open).await?;
    let row: Json<RemediationRequest> = sqlx::query_scalar(concat!(
        "UPDATE remediation_requests AS r
            SET occurrence_count = occurrence_count + 1,
                severity = CASE
                    WHEN array_position(ARRAY['unknown', 'info', 'warning', 'critical'], $2)
                       > array_position(ARRAY['unknown', 'info', 'warning', 'critical'], severity)
                    THEN $2 ELSE severity END
          WHERE id = $1 RETURNING ",
        wire!()
    ))
    .bind(open)
    .bind(name_of(&new.severity)?)
    .fetch_one(connection)
    .await?;
    Ok(row.0)
}

async fn remember_signal(
    connection: &mut PgConnection,
    signal_id: Uuid,
    request_id: Uuid,
) -> Stored<()> {
    sqlx::query("INSERT INTO request_signals (signal_id, request_id) VALUES ($1, $2)")
        .bind(signal_id)
        .bind(request_id)
        .execute(connection)
        .await?;
    Ok(())
}

fn missing() -> StoreError {
    Problem::not_found("there is no such remediation request").into()
}
