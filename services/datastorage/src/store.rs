//! What is kept, and the transactions that keep it right. Locks are taken in one order everywhere:
//! request, execution, chain heads sorted by their key. What the database refuses for a moment is
//! tried again; when the database is away, the caller is told to come back.

mod audit;
pub(crate) mod changes;
mod executions;
mod history;
mod requests;
mod workflows;
mod writes;

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use common::health::{DependencyState, Health};
use common::problem::{Answer, Problem};
use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use time::OffsetDateTime;

use crate::database::DEPENDENCY;

/// Everything that is kept.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pool: PgPool,
    health: Health,
}

/// What was there, or was made.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    /// Made now.
    Created(T),
    /// There already: a resend, or a duplicate.
    Found(T),
}

/// Why a transaction did not commit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A rule forbids it.
    #[error(transparent)]
    Refused(#[from] Problem),
    /// What was there a statement ago is gone; the next try sees what is there instead.
    #[error("outrun by another transaction")]
    Outrun,
    /// The database did.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

type Stored<T> = Result<T, StoreError>;

impl Store {
    pub(crate) fn new(pool: PgPool, health: Health) -> Self {
        Self { pool, health }
    }

    async fn begin(&self) -> Stored<Transaction<'static, Postgres>> {
        Ok(self.pool.begin().await?)
    }

    /// A transaction that sees one moment and changes nothing.
    async fn snapshot(&self) -> Stored<Transaction<'static, Postgres>> {
        let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        Ok(self.pool.begin_with(snapshot).await?)
    }

    /// Runs a transaction, again when it lost against another one, and tells what became of it.
    async fn transacted<T, F, Fut>(&self, transaction: F) -> Answer<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Stored<T>>,
    {
        const TRIES_MAX: usize = 6;
        /// Less than a request may take, so that its caller learns why.
        const TIMEOUT: Duration = Duration::from_secs(7);
        // Nobody is kept waiting for a database that is known to be away.
        if self.health.state(DEPENDENCY) == DependencyState::Unreachable {
            return Err(Problem::unavailable("the database is away"));
        }
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(5))
            .with_max_delay(Duration::from_millis(200))
            .with_max_times(TRIES_MAX)
            .with_jitter();
        let tries = transaction
            .retry(backoff)
            .when(lost_a_race)
            .notify(|error, _| {
                metrics::counter!("transactions_retried_total").increment(1);
                tracing::debug!(%error, "trying the transaction again");
            });
        // A server that stands still closes no connection and answers nothing.
        match tokio::time::timeout(TIMEOUT, tries).await {
            Ok(Ok(done)) => {
                // What the probe finds out later than a request is no news.
                self.health.answered(DEPENDENCY);
                Ok(done)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                tracing::warn!("the database does not answer");
                Err(Problem::unavailable("the database does not answer"))
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(problem) => problem,
            StoreError::Outrun => Self::unavailable("too many others want the same"),
            StoreError::Database(error) => of_database(&error),
        }
    }
}

fn of_database(error: &sqlx::Error) -> Problem {
    let code = sqlstate(error);
    match code.as_deref() {
        // What text and jsonb cannot hold, should it ever get this far.
        Some("22021" | "22P05") => Problem::bad_request("a character that cannot be stored"),
        Some("23505") => Problem::conflict("others are writing the same; try again"),
        // Serialisation, deadlock, lock and statement timeouts.
        Some("40001" | "40P01" | "55P03" | "57014" | "25P03" | "25P04") => {
            tracing::warn!(%error, "the database is busy");
            Problem::unavailable("the database is busy")
        }
        _ if is_away(error) => {
            tracing::warn!(%error, "the database is away");
            Problem::unavailable("the database is away")
        }
        _ => Problem::internal(error),
    }
}

/// Another transaction won; the same one may succeed when it begins anew. A unique violation is
/// one of these: what is there now is found by the next try.
fn lost_a_race(error: &StoreError) -> bool {
    match error {
        StoreError::Refused(_) => false,
        StoreError::Outrun => true,
        StoreError::Database(error) => {
            matches!(
                sqlstate(error).as_deref(),
                Some("40001" | "40P01" | "23505")
            )
        }
    }
}

/// Not there at all, starting, stopping or out of connections; it may be back in a moment.
pub(crate) fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(_) => sqlstate(error).is_some_and(|code| {
            code.starts_with("08") || code.starts_with("53") || code.starts_with("57P")
        }),
        _ => false,
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    error.code().map(|code| code.into_owned())
}

/// The database's clock, by which all deadlines are set and compared.
async fn now(connection: &mut PgConnection) -> Stored<OffsetDateTime> {
    let now = sqlx::query_scalar("SELECT clock_timestamp()");
    Ok(now.fetch_one(connection).await?)
}

/// The name of a phase, a severity or the like, as it goes over the wire.
fn name_of<T: Serialize>(value: &T) -> Stored<String> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => Ok(name),
        other => Err(Problem::internal(&format!("{other:?} is no name")).into()),
    }
}

fn names_of<T: Serialize>(values: &[T]) -> Stored<Vec<String>> {
    values.iter().map(name_of).collect()
}

/// A value as the object that a JSON event holds.
fn data<const N: usize>(
    members: [(&str, serde_json::Value); N],
) -> serde_json::Map<String, serde_json::Value> {
    let own = |(name, value): (&str, serde_json::Value)| (name.to_owned(), value);
    members
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(own)
        .collect()
}
