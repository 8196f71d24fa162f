//! The way to PostgreSQL: what the owner prepares at start, the pool that requests use, and the
//! connection that probes have for themselves. The service's own role owns no table, and may only
//! insert and select on `audit_events`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::health::FIRST_PATIENCE;
use common::server::Context;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool, Row as _};

use crate::config::DatabaseArgs;

/// The name of the database in readiness and metrics.
pub(crate) const DEPENDENCY: &str = "database";

/// Key of the lock under which one process at a time makes database and role.
const PREPARE_LOCK: i64 = 0x7068_6173_655f_7a65;

/// What requests share.
const CONNECTIONS_MAX: u32 = 20;
/// What is kept even when nobody asks.
const CONNECTIONS_MIN: u32 = 6;
/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a request waits for one of them.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(6);

/// Makes database and role when they are missing, runs the migrations, grants what the role needs,
/// and gives the pool of that role. Waits for a server that is away, for as long as its caller does.
pub(crate) async fn open(args: &DatabaseArgs) -> anyhow::Result<PgPool> {
    const PAUSE: Duration = Duration::from_millis(50);
    let mut patience = FIRST_PATIENCE;
    loop {
        match try_to_open(args, patience).await {
            Ok(pool) => return Ok(pool),
            Err(error) if is_away(&error) => {
                tracing::warn!("waiting for the database: {error:#}");
                tokio::time::sleep(PAUSE).await;
                patience = CONNECT_TIMEOUT.min(patience * 2);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn try_to_open(args: &DatabaseArgs, patience: Duration) -> anyhow::Result<PgPool> {
    let owner = args.owner_database_url.with_password(&args.owner_password);
    let postgres = owner.clone().database("postgres");
    make_database_and_role(args, connect(&postgres, patience).await?).await?;
    prepare(args, connect(&owner, CONNECT_TIMEOUT).await?).await?;
    pool(args).await
}

async fn prepare(args: &DatabaseArgs, mut connection: PgConnection) -> anyhow::Result<()> {
    sqlx::migrate!()
        .run(&mut connection)
        .await
        .context("the migrations failed")?;
    grant(&mut connection, args.database_url.role()).await?;
    connection.close().await.context("cannot close")
}

async fn make_database_and_role(
    args: &DatabaseArgs,
    mut connection: PgConnection,
) -> anyhow::Result<()> {
    // Held until the connection is closed. CREATE DATABASE cannot be in a transaction.
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(PREPARE_LOCK)
        .execute(&mut connection)
        .await?;
    let statements: Vec<String> = sqlx::query_scalar(
        "SELECT format('CREATE DATABASE %I', $1::text)
          WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = $1::text)
         UNION ALL
         SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', $2::text, $3::text)
          WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $2::text)",
    )
    .bind(args.owner_database_url.database())
    .bind(args.database_url.role())
    .bind(args.database_password.expose())
    .fetch_all(&mut connection)
    .await?;
    for statement in statements {
        // Quoted by the server itself, in `format`.
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut connection)
            .await
            .context("cannot make database or role")?;
    }
    connection.close().await.context("cannot close")
}

/// Nothing is left of earlier grants, so what stands here is all there is.
async fn grant(connection: &mut PgConnection, role: &str) -> anyhow::Result<()> {
    const GRANTS: &[&str] = &[
        "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "GRANT USAGE ON SCHEMA public TO %I",
        "GRANT SELECT, INSERT ON audit_events, request_signals, writes, changes TO %I",
        "GRANT SELECT, INSERT, UPDATE ON audit_chains, remediation_requests, workflows, workflow_executions TO %I",
    ];
    let mut transaction = connection.begin().await?;
    // Two starting replicas would meet in the catalog: "tuple concurrently updated".
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(PREPARE_LOCK)
        .execute(&mut *transaction)
        .await?;
    for grant in GRANTS {
        let statement: String = sqlx::query_scalar("SELECT format($1::text, $2::text)")
            .bind(grant)
            .bind(role)
            .fetch_one(&mut *transaction)
            .await?;
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut *transaction)
            .await
            .context("cannot grant")?;
    }
    transaction.commit().await.context("cannot grant")
}

async fn connect(options: &PgConnectOptions, patience: Duration) -> anyhow::Result<PgConnection> {
    let connecting = PgConnection::connect_with(options);
    let connection = tokio::time::timeout(patience, connecting)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())));
    let (host, port) = (options.get_host(), options.get_port());
    connection.with_context(|| format!("cannot connect to {host}:{port}"))
}

fn is_away(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<sqlx::Error>())
        .any(crate::store::is_away)
}

/// The pool of the service's own role. A few connections are there before the first request: many
/// requests that all have to connect first would only hinder each other. It connects again by
/// itself whenever the server was away.
///
/// A request whose client hangs up, or whose time is over, ends wherever it stands, and while its
/// `BEGIN` is on the way nobody knows yet that there is a transaction to roll back. So each
/// connection is asked, in place of the usual ping, and what was left open is rolled back.
async fn pool(args: &DatabaseArgs) -> anyhow::Result<PgPool> {
    let options = PgPoolOptions::new()
        .min_connections(CONNECTIONS_MIN)
        .max_connections(CONNECTIONS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection, _| Box::pin(end_transaction(connection)));
    let pool = options.connect_lazy_with(bounded(args));
    let mut first = Vec::new();
    for _ in 0..CONNECTIONS_MIN {
        first.push(pool.acquire().await.context("cannot connect")?);
    }
    drop(first);
    Ok(pool)
}

/// A statement by itself begins when its transaction does; in one that is open it begins later, and
/// in one that has failed it is refused. As one message: each message of the extended protocol has a
/// time of its own.
async fn end_transaction(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    const ALONE: &str = "SELECT transaction_timestamp() = statement_timestamp()";
    match sqlx::raw_sql(ALONE).fetch_one(&mut *connection).await {
        Ok(row) if row.try_get(0)? => return Ok(true),
        Ok(_) => {}
        Err(error) if error.as_database_error().is_some() => {}
        Err(error) => return Err(error),
    }
    metrics::counter!("transactions_left_open_total").increment(1);
    sqlx::raw_sql("ROLLBACK").execute(connection).await?;
    Ok(true)
}

fn bounded(args: &DatabaseArgs) -> PgConnectOptions {
    args.database_url
        .with_password(&args.database_password)
        .application_name("datastorage")
        .options([
            // Times are told in UTC, whatever the server's own zone is.
            ("timezone", "UTC"),
            ("statement_timeout", "6s"),
            ("lock_timeout", "4s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ])
}

/// The one connection that hears what the database says; in the pool of requests it would be held
/// for ever.
pub(crate) fn listening_pool(args: &DatabaseArgs) -> PgPool {
    let options = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT);
    options.connect_lazy_with(bounded(args).application_name("datastorage-listen"))
}

/// Asks the database over a connection of its own, so that a busy pool is no sick database: each
/// second, and more often while it is away. That a connection broke says nothing of how the database
/// is now, so it is asked once more over a new one.
pub(crate) async fn probe(args: DatabaseArgs, context: Context) -> anyhow::Result<()> {
    const ANSWERED: Duration = Duration::from_secs(1);
    const AWAY: Duration = Duration::from_millis(200);
    let options = bounded(&args).application_name("datastorage-probe");
    let mut connection = None;
    loop {
        let mut asked_at = Instant::now();
        let asking = async {
            let known = connection.is_some();
            let answer = ask(&mut connection, &options).await;
            if answer.is_ok() || !known {
                return answer;
            }
            connection = None;
            asked_at = Instant::now();
            ask(&mut connection, &options).await
        };
        let pause = match context.shutdown.unless_requested(asking).await {
            None => return Ok(()),
            Some(Ok(())) => {
                context.health.answered(DEPENDENCY);
                ANSWERED
            }
            Some(Err(error)) => {
                tracing::debug!("the database does not answer: {error:#}");
                connection = None;
                context.health.unanswered(DEPENDENCY, asked_at);
                AWAY
            }
        };
        if !context.shutdown.sleep(pause).await {
            return Ok(());
        }
    }
}

async fn ask(
    connection: &mut Option<PgConnection>,
    options: &PgConnectOptions,
) -> anyhow::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(connect(options, CONNECT_TIMEOUT).await?),
    };
    let asking = sqlx::query("SELECT 1").execute(connection);
    tokio::time::timeout(TIMEOUT, asking).await??;
    Ok(())
}
