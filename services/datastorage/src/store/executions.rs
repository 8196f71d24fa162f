//! Workflow executions. To create one is to move its request to Executing: one transaction, both
//! events. One open execution for each target, by a partial unique index.

use std::collections::BTreeMap;

use common::api::{
    Execution, ExecutionQuery, Executions, NewExecution, PatchExecution, RemediationRequest,
    Workflow,
};
use common::auth::Caller;
use common::problem::{Answer, Problem};
use common::transitions::{MAY_START_EXECUTION, RequestPhase, STARTS_EXECUTIONS};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::Duration;
use uuid::Uuid;

use super::requests::{self, check_version, next_page};
use super::writes::Write;
use super::{
    Outcome, Store, StoreError, Stored, audit, changes, data, name_of, names_of, now, workflows,
};
use crate::domain::audit::{Draft, OwnEvent};
use crate::domain::page::{self, ByTime};
use crate::domain::{execution, request, workflow};

/// A row as it goes over the wire.
macro_rules! wire {
    () => {
        "to_jsonb(e) || jsonb_build_object('target', jsonb_build_object(
            'cluster', e.target_cluster, 'namespace', e.target_namespace,
            'kind', e.target_kind, 'name', e.target_name))"
    };
}

impl Store {
    /// Creates the execution of a request that still has this resource version.
    pub(crate) async fn create_execution(
        &self,
        request_version: i64,
        new: &NewExecution,
        caller: &Caller,
    ) -> Answer<Outcome<Execution>> {
        if *caller.subject != *STARTS_EXECUTIONS {
            return Err(Problem::forbidden(format!(
                "to start an execution is for `{STARTS_EXECUTIONS}` alone, not for `{}`",
                caller.subject
            )));
        }
        request::check_wait("phase_deadline_seconds", new.phase_deadline_seconds)?;
        self.transacted(|| self.try_to_create_execution(request_version, new, caller))
            .await
    }

    async fn try_to_create_execution(
        &self,
        request_version: i64,
        new: &NewExecution,
        caller: &Caller,
    ) -> Stored<Outcome<Execution>> {
        let mut transaction = self.begin().await?;
        let before = requests::lock(&mut transaction, new.request_id).await?;
        if let Some(first) = first_answer(&mut transaction, request_version, new).await? {
            return Ok(Outcome::Found(first));
        }
        check_version(before.resource_version, request_version)?;
        let workflow = chosen_workflow(&mut transaction, &before).await?;
        let parameters = workflow::parameters(&workflow.workflow, &before.target, &new.parameters)?;
        let execution = insert(&mut transaction, &before, &workflow, &parameters).await?;
        let after = executing(&before, &execution, new.phase_deadline_seconds);
        requests::update(&mut transaction, &after).await?;
        let created = Draft::own(
            OwnEvent::ExecutionCreated,
            &after.id.to_string(),
            execution.created_at,
            data([
                ("execution_id", json!(execution.id)),
                ("attempt", json!(execution.attempt)),
                ("to", json!(execution.phase)),
                ("workflow", json!(before.workflow)),
                ("workflow_digest", json!(execution.workflow_digest)),
                ("parameters", json!(execution.parameters)),
            ]),
        );
        let events = vec![
            about(created, &execution),
            requests::change_event(&before, &after),
        ];
        audit::append(&mut transaction, events, &caller.subject).await?;
        transaction.commit().await?;
        Ok(Outcome::Created(execution))
    }

    /// One execution.
    pub(crate) async fn execution(&self, id: Uuid) -> Answer<Execution> {
        self.transacted(|| async move {
            let row: Option<Json<Execution>> = sqlx::query_scalar(concat!(
                "SELECT ",
                wire!(),
                " FROM workflow_executions e WHERE id = $1"
            ))
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
            row.map(|Json(execution)| execution).ok_or_else(missing)
        })
        .await
    }

    /// A page of executions, oldest first.
    pub(crate) async fn executions(&self, query: &ExecutionQuery) -> Answer<Executions> {
        let limit = page::limit(query.limit)?;
        let after = query.cursor.as_deref().map(ByTime::parse).transpose()?;
        self.transacted(|| async move {
            let mut snapshot = self.snapshot().await?;
            let watch_cursor = changes::here(&mut snapshot).await?;
            let rows: Vec<Json<Execution>> = sqlx::query_scalar(concat!(
                "SELECT ",
                wire!(),
                " FROM workflow_executions e
                   WHERE (cardinality($1::text[]) = 0 OR phase = ANY($1))
                     AND ($2::uuid IS NULL OR request_id = $2)
                     AND ($3::timestamptz IS NULL OR (created_at, id) > ($3, $4::uuid))
                   ORDER BY created_at, id LIMIT $5 + 1"
            ))
            .bind(names_of(&query.phase)?)
            .bind(query.request_id)
            .bind(after.map(|after| after.at))
            .bind(after.map(|after| after.id))
            .bind(limit)
            .fetch_all(&mut *snapshot)
            .await?;
            let mut items: Vec<Execution> = rows.into_iter().map(|Json(row)| row).collect();
            let next_cursor = next_page(&mut items, limit, |last| (last.created_at, last.id));
            Ok(Executions {
                items,
                watch_cursor,
                next_cursor,
            })
        })
        .await
    }

    /// Changes an execution that still has this resource version.
    pub(crate) async fn patch_execution(
        &self,
        id: Uuid,
        resource_version: i64,
        patch: &PatchExecution,
        caller: &Caller,
    ) -> Answer<Execution> {
        execution::parse_patch(patch)?;
        self.transacted(|| self.try_to_patch_execution(id, resource_version, patch, caller))
            .await
    }

    async fn try_to_patch_execution(
        &self,
        id: Uuid,
        resource_version: i64,
        patch: &PatchExecution,
        caller: &Caller,
    ) -> Stored<Execution> {
        let mut transaction = self.begin().await?;
        let before = lock(&mut transaction, id).await?;
        let write = Write::new(patch.write_id, id, &caller.subject, patch)?;
        if let Some(answer) = write.first_answer(&mut transaction).await? {
            return Ok(answer);
        }
        check_version(before.resource_version, resource_version)?;
        let now = now(&mut transaction).await?;
        let after = execution::patched(&before, patch, caller, now)?;
        update(&mut transaction, &after).await?;
        write.done(&mut transaction, &after).await?;
        let event = change_event(&before, &after);
        audit::append(&mut transaction, vec![event], &caller.subject).await?;
        transaction.commit().await?;
        Ok(after)
    }
}

/// The execution that the same wish made before, if it did.
async fn first_answer(
    connection: &mut PgConnection,
    request_version: i64,
    new: &NewExecution,
) -> Stored<Option<Execution>> {
    let row: Option<Json<Execution>> = sqlx::query_scalar(concat!(
        "SELECT ",
        wire!(),
        " FROM workflow_executions e WHERE request_id = $1 AND request_version = $2"
    ))
    .bind(new.request_id)
    .bind(request_version)
    .fetch_optional(connection)
    .await?;
    let Some(Json(execution)) = row else {
        return Ok(None);
    };
    // The workflow's snapshot tells which parameters are not the target's.
    let given = workflow::parameters(&execution.workflow, &execution.target, &new.parameters);
    if given.is_ok_and(|given| given == execution.parameters) {
        return Ok(Some(execution));
    }
    Err(Problem::conflict("the execution was created with other parameters").into())
}

async fn chosen_workflow(
    connection: &mut PgConnection,
    request: &RemediationRequest,
) -> Stored<Workflow> {
    if !MAY_START_EXECUTION.contains(&request.phase) {
        let phase = request.phase;
        return Err(Problem::conflict(format!("no execution starts from {phase}")).into());
    }
    let Some(choice) = &request.workflow else {
        return Err(Problem::conflict("no workflow has been chosen").into());
    };
    let workflow = workflows::find(connection, &choice.name, &choice.version).await;
    let workflow = workflow.map_err(|error| match error {
        StoreError::Refused(_) => {
            Problem::conflict("the chosen workflow is not in the catalog").into()
        }
        error => error,
    })?;
    if workflow.disabled {
        return Err(Problem::conflict("the chosen workflow is disabled").into());
    }
    Ok(workflow)
}

/// The request as it is while its execution runs.
fn executing(
    before: &RemediationRequest,
    execution: &Execution,
    phase_deadline_seconds: Option<u32>,
) -> RemediationRequest {
    let within = |seconds: u32| execution.created_at + Duration::seconds(seconds.into());
    RemediationRequest {
        phase: RequestPhase::Executing,
        resource_version: before.resource_version + 1,
        execution_id: Some(execution.id),
        attempt: execution.attempt,
        lease_holder: None,
        lease_deadline: None,
        blocked_until: None,
        phase_deadline: phase_deadline_seconds.map(within),
        updated_at: execution.created_at,
        ..before.clone()
    }
}

async fn insert(
    connection: &mut PgConnection,
    request: &RemediationRequest,
    workflow: &Workflow,
    parameters: &BTreeMap<String, String>,
) -> Stored<Execution> {
    let attempt = request.attempt + 1;
    let row: Option<Json<Execution>> = sqlx::query_scalar(concat!(
        "INSERT INTO workflow_executions AS e
            (id, request_id, attempt, request_version, target_cluster, target_namespace,
             target_kind, target_name, workflow, workflow_digest, parameters)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (target_cluster, target_namespace, target_kind, target_name)
            WHERE phase NOT IN ('Completed', 'Failed', 'Cancelled') DO NOTHING
         RETURNING ",
        wire!()
    ))
    .bind(execution::id(request.id, attempt))
    .bind(request.id)
    .bind(attempt)
    .bind(request.resource_version)
    .bind(&request.target.cluster)
    .bind(&request.target.namespace)
    .bind(&request.target.kind)
    .bind(&request.target.name)
    .bind(Json(&workflow.workflow))
    .bind(&workflow.digest)
    .bind(Json(parameters))
    .fetch_optional(&mut *connection)
    .await?;
    match row {
        Some(Json(execution)) => Ok(execution),
        None => Err(busy(connection, request).await?.into()),
    }
}

/// Names the execution that has the target.
async fn busy(connection: &mut PgConnection, request: &RemediationRequest) -> Stored<Problem> {
    let holder: Option<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT id, request_id FROM workflow_executions
          WHERE (target_cluster, target_namespace, target_kind, target_name) = ($1, $2, $3, $4)
            AND phase NOT IN ('Completed', 'Failed', 'Cancelled')",
    )
    .bind(&request.target.cluster)
    .bind(&request.target.namespace)
    .bind(&request.target.kind)
    .bind(&request.target.name)
    .fetch_optional(connection)
    .await?;
    let Some((id, request_id)) = holder else {
        // It ended between the two statements; the next try has the target.
        return Err(StoreError::Outrun);
    };
    Ok(
        Problem::conflict(format!("the target is busy with the execution {id}"))
            .with("holder", id.to_string())
            .with("holder_request_id", request_id.to_string()),
    )
}

async fn lock(connection: &mut PgConnection, id: Uuid) -> Stored<Execution> {
    let row: Option<Json<Execution>> = sqlx::query_scalar(concat!(
        "SELECT ",
        wire!(),
        " FROM workflow_executions e WHERE id = $1 FOR UPDATE"
    ))
    .bind(id)
    .fetch_optional(connection)
    .await?;
    row.map(|Json(execution)| execution).ok_or_else(missing)
}

async fn update(connection: &mut PgConnection, execution: &Execution) -> Stored<()> {
    sqlx::query(
        "UPDATE workflow_executions
            SET resource_version = $2, phase = $3, holder = $4, deadline = $5, steps = $6,
                failure = $7, updated_at = $8
          WHERE id = $1",
    )
    .bind(execution.id)
    .bind(execution.resource_version)
    .bind(name_of(&execution.phase)?)
    .bind(&execution.holder)
    .bind(execution.deadline)
    .bind(Json(&execution.steps))
    .bind(execution.failure.as_ref().map(Json))
    .bind(execution.updated_at)
    .execute(connection)
    .await?;
    Ok(())
}

fn change_event(before: &Execution, after: &Execution) -> Draft {
    let kind = if before.phase == after.phase {
        OwnEvent::ExecutionUpdated
    } else {
        OwnEvent::ExecutionTransitioned
    };
    let event = Draft::own(
        kind,
        &after.request_id.to_string(),
        after.updated_at,
        data([
            ("execution_id", json!(after.id)),
            ("from", json!(before.phase)),
            ("to", json!(after.phase)),
            ("resource_version", json!(after.resource_version)),
            ("holder", json!(after.holder)),
            ("steps_done", json!(after.steps.len())),
            ("failure", json!(after.failure)),
        ]),
    );
    about(event, after)
}

fn about(event: Draft, execution: &Execution) -> Draft {
    event.about(
        execution.id.to_string(),
        Some(execution.target.namespace.clone()),
    )
}

fn missing() -> StoreError {
    Problem::not_found("there is no such workflow execution").into()
}
