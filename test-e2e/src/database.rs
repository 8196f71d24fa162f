//! PostgreSQL behind DataStorage's back, as the owner of the tables: what the service would never
//! do, so that its checks can be seen to find it.

use serde_json::Value;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::http::block_on;
use crate::run::Run;

/// Who speaks to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// The superuser, who owns every table.
    Owner,
    /// The role that DataStorage itself uses.
    Service,
}

/// An open connection.
#[derive(Debug)]
pub struct Database(PgConnection);

impl Database {
    /// Connects.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    #[track_caller]
    pub fn connect(run: &Run, login: Login) -> Self {
        match Self::try_connect(run, login) {
            Ok(database) => database,
            Err(error) => panic!("{error}"),
        }
    }

    /// Connects, and may fail.
    ///
    /// # Errors
    /// What the engine or the server said.
    #[track_caller]
    pub fn try_connect(run: &Run, login: Login) -> Result<Self, String> {
        let service = run.service("postgres");
        let container = service
            .containers
            .first()
            .ok_or("postgres has no container")?;
        let cluster = run.cluster();
        let published = cluster.published(service, container, "postgres", 5432)?;
        let address = published.address()?;
        let (user, password) = match login {
            Login::Owner => ("datastorage_owner", "datastorage-owner"),
            Login::Service => ("datastorage", "datastorage"),
        };
        let options = PgConnectOptions::new_without_pgpass()
            .host(&address.ip().to_string())
            .port(address.port())
            .username(user)
            .password(&run.password(password))
            .database("datastorage")
            .ssl_mode(PgSslMode::Disable);
        let connection = block_on(PgConnection::connect_with(&options));
        let connection = connection.map_err(|error| format!("postgres as {user}: {error}"))?;
        Ok(Self(connection))
    }

    /// Runs statements; they must succeed.
    ///
    /// # Panics
    /// When one fails.
    #[track_caller]
    pub fn run(&mut self, statements: &str) -> u64 {
        match self.try_run(statements) {
            Ok(rows) => rows,
            Err(error) => panic!("{statements}: {error}"),
        }
    }

    /// Runs statements and tells how many rows were affected.
    ///
    /// # Errors
    /// What the server said.
    pub fn try_run(&mut self, statements: &str) -> Result<u64, String> {
        let done = block_on(self.0.execute(AssertSqlSafe(statements.to_owned())));
        done.map(|done| done.rows_affected())
            .map_err(|error| error.to_string())
    }

    /// Runs statements as one transaction in which no trigger fires: the tables as somebody with
    /// full rights could leave them.
    ///
    /// # Panics
    /// When one fails.
    #[track_caller]
    pub fn run_without_triggers(&mut self, statements: &str) {
        self.run(&format!(
            "BEGIN; SET LOCAL session_replication_role = replica; {statements}; COMMIT"
        ));
    }

    /// One row of a table, as an object of its columns.
    ///
    /// # Panics
    /// When there is none for which `condition` holds.
    #[must_use]
    #[track_caller]
    pub fn row(&mut self, table: &str, condition: &str) -> Value {
        let query = format!("SELECT to_jsonb(t) FROM {table} t WHERE {condition} LIMIT 1");
        let query = sqlx::query_scalar::<_, Value>(AssertSqlSafe(query));
        match block_on(query.fetch_one(&mut self.0)) {
            Ok(row) => row,
            Err(error) => panic!("{table} where {condition}: {error}"),
        }
    }

    /// All rows of a table for which `condition` holds, in this order, each with the number of the
    /// transaction that wrote it as `transaction`.
    ///
    /// # Panics
    /// When the query fails.
    #[must_use]
    #[track_caller]
    pub fn rows(&mut self, table: &str, condition: &str, order: &str) -> Vec<Value> {
        let query = format!(
            "SELECT to_jsonb(t) || jsonb_build_object('transaction', t.xmin::text) FROM {table} t \
             WHERE {condition} ORDER BY {order}"
        );
        let query = sqlx::query_scalar::<_, Value>(AssertSqlSafe(query));
        match block_on(query.fetch_all(&mut self.0)) {
            Ok(rows) => rows,
            Err(error) => panic!("{table} where {condition}: {error}"),
        }
    }

    /// One number.
    ///
    /// # Panics
    /// When the query fails or gives none.
    #[must_use]
    #[track_caller]
    pub fn number(&mut self, query: &str) -> i64 {
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(query.to_owned()));
        match block_on(query.fetch_one(&mut self.0)) {
            Ok(number) => number,
            Err(error) => panic!("{error}"),
        }
    }
}
