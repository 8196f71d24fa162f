//! Writes that were done: a resend gets the first answer, and a write_id belongs to one write.

use common::canonical;
use common::problem::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::Stored;

/// One write, as it is told from any other.
pub(super) struct Write<'a> {
    id: Uuid,
    resource_id: Uuid,
    actor: &'a str,
    body_digest: String,
}

impl<'a> Write<'a> {
    /// What is written does not depend on `If-Match`: a resend carries the same.
    pub(super) fn new<B: Serialize>(
        id: Uuid,
        resource_id: Uuid,
        actor: &'a str,
        body: &B,
    ) -> Stored<Self> {
        if id.is_nil() {
            return Err(Problem::bad_request("write_id: is nil").into());
        }
        let body_digest =
            canonical::sha256(body).map_err(|error| Problem::bad_request(error.to_string()))?;
        Ok(Self {
            id,
            resource_id,
            actor,
            body_digest,
        })
    }

    /// The first answer, if this write was done before. Asked under the resource's lock.
    pub(super) async fn first_answer<T>(&self, connection: &mut PgConnection) -> Stored<Option<T>>
    where
        T: DeserializeOwned,
    {
        let done: Option<(Uuid, String, String, Json<serde_json::Value>)> = sqlx::query_as(
            "SELECT resource_id, actor, body_digest, answer FROM writes WHERE write_id = $1",
        )
        .bind(self.id)
        .fetch_optional(connection)
        .await?;
        let Some((resource_id, actor, body_digest, Json(answer))) = done else {
            return Ok(None);
        };
        if (resource_id, &*actor, &body_digest) != (self.resource_id, self.actor, &self.body_digest)
        {
            return Err(Problem::conflict("write_id: was used for another write").into());
        }
        let answer = serde_json::from_value(answer);
        Ok(Some(answer.map_err(|error| Problem::internal(&error))?))
    }

    /// Remembers the answer.
    pub(super) async fn done<T: Serialize + Sync>(
        &self,
        connection: &mut PgConnection,
        answer: &T,
    ) -> Stored<()> {
        sqlx::query(
            "INSERT INTO writes (write_id, resource_id, actor, body_digest, answer)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(self.id)
        .bind(self.resource_id)
        .bind(self.actor)
        .bind(&self.body_digest)
        .bind(Json(answer))
        .execute(connection)
        .await?;
        Ok(())
    }
}
