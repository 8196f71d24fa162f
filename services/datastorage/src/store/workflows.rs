//! The catalog of workflows. What is stored never changes; it can only be disabled.

use common::api::{NewWorkflow, PatchWorkflow, Workflow, WorkflowQuery, Workflows};
use common::auth::Caller;
use common::canonical;
use common::problem::{Answer, Problem};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::{Outcome, Store, Stored, audit, data, now};
use crate::domain::audit::{Draft, OwnEvent};
use crate::domain::workflow;

impl Store {
    /// Adds a workflow; the same once more is found.
    pub(crate) async fn create_workflow(
        &self,
        new: &NewWorkflow,
        caller: &Caller,
    ) -> Answer<Outcome<Workflow>> {
        workflow::parse(new)?;
        let digest = canonical::sha256(new).map_err(|error| Problem::internal(&error))?;
        self.transacted(|| self.try_to_create_workflow(new, &digest, caller))
            .await
    }

    async fn try_to_create_workflow(
        &self,
        new: &NewWorkflow,
        digest: &str,
        caller: &Caller,
    ) -> Stored<Outcome<Workflow>> {
        let mut transaction = self.begin().await?;
        let created: Option<Json<Workflow>> = sqlx::query_scalar(
            "INSERT INTO workflows AS w (name, version, digest, workflow) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name, version) DO NOTHING RETURNING to_jsonb(w)",
        )
        .bind(&new.name)
        .bind(&new.version)
        .bind(digest)
        .bind(Json(new))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(Json(created)) = created else {
            let stored = find(&mut transaction, &new.name, &new.version).await?;
            if stored.digest == digest {
                return Ok(Outcome::Found(stored));
            }
            let (name, version) = (&new.name, &new.version);
            return Err(Problem::conflict(format!(
                "{name} {version} is another workflow, and what is stored never changes"
            ))
            .with("digest", stored.digest)
            .into());
        };
        let event = event(OwnEvent::WorkflowCreated, &created, created.created_at);
        audit::append(&mut transaction, vec![event], &caller.subject).await?;
        transaction.commit().await?;
        Ok(Outcome::Created(created))
    }

    /// The catalog, by name and version.
    pub(crate) async fn workflows(&self, query: &WorkflowQuery) -> Answer<Workflows> {
        let all = query.include_disabled;
        self.transacted(|| async move {
            let rows: Vec<Json<Workflow>> = sqlx::query_scalar(
                "SELECT to_jsonb(w) FROM workflows w WHERE $1 OR NOT disabled
                  ORDER BY name, version",
            )
            .bind(all)
            .fetch_all(&self.pool)
            .await?;
            let items = rows.into_iter().map(|Json(workflow)| workflow).collect();
            Ok(Workflows { items })
        })
        .await
    }

    /// One workflow.
    pub(crate) async fn workflow(&self, name: &str, version: &str) -> Answer<Workflow> {
        self.transacted(|| async move {
            let mut connection = self.pool.acquire().await?;
            find(&mut connection, name, version).await
        })
        .await
    }

    /// Disables a workflow or enables it again; what is so already is no change.
    pub(crate) async fn patch_workflow(
        &self,
        name: &str,
        version: &str,
        patch: &PatchWorkflow,
        caller: &Caller,
    ) -> Answer<Workflow> {
        self.transacted(|| self.try_to_patch_workflow(name, version, patch, caller))
            .await
    }

    async fn try_to_patch_workflow(
        &self,
        name: &str,
        version: &str,
        patch: &PatchWorkflow,
        caller: &Caller,
    ) -> Stored<Workflow> {
        let mut transaction = self.begin().await?;
        let changed: Option<Json<Workflow>> = sqlx::query_scalar(
            "UPDATE workflows AS w SET disabled = $3
              WHERE name = $1 AND version = $2 AND disabled <> $3 RETURNING to_jsonb(w)",
        )
        .bind(name)
        .bind(version)
        .bind(patch.disabled)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(Json(changed)) = changed else {
            return find(&mut transaction, name, version).await;
        };
        let kind = if changed.disabled {
            OwnEvent::WorkflowDisabled
        } else {
            OwnEvent::WorkflowEnabled
        };
        let now = now(&mut transaction).await?;
        let event = event(kind, &changed, now);
        audit::append(&mut transaction, vec![event], &caller.subject).await?;
        transaction.commit().await?;
        Ok(changed)
    }
}

/// One workflow, as it stands.
pub(super) async fn find(
    connection: &mut PgConnection,
    name: &str,
    version: &str,
) -> Stored<Workflow> {
    let row: Option<Json<Workflow>> =
        sqlx::query_scalar("SELECT to_jsonb(w) FROM workflows w WHERE name = $1 AND version = $2")
            .bind(name)
            .bind(version)
            .fetch_optional(connection)
            .await?;
    row.map(|Json(workflow)| workflow)
        .ok_or_else(|| Problem::not_found("there is no such workflow").into())
}

/// Each name has a chain of its own.
fn event(kind: OwnEvent, workflow: &Workflow, at: time::OffsetDateTime) -> Draft {
    let name = &workflow.workflow.name;
    let members = data([
        ("name", json!(name)),
        ("version", json!(workflow.workflow.version)),
        ("digest", json!(workflow.digest)),
    ]);
    Draft::own(kind, &format!("workflow:{name}"), at, members).about(name.clone(), None)
}
