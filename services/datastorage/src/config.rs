//! The flags of datastorage.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use common::config::{Secret, TokensArgs};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// All of them.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Who may call.
    #[command(flatten)]
    pub tokens: TokensArgs,
    /// Where things are kept.
    #[command(flatten)]
    pub database: DatabaseArgs,
}

/// The database, with two credentials: the owner prepares it, the service's own role works in it.
#[derive(Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// Database and role of the service, without a password.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "postgres://datastorage@postgres:5432/datastorage"
    )]
    pub database_url: DatabaseUrl,
    /// File with the password of the service's role.
    #[arg(long = "database-password-file", env = "DATABASE_PASSWORD_FILE", value_name = "FILE", value_parser = Secret::from_file)]
    pub database_password: Secret,
    /// The same database with the role that owns its tables, without a password.
    #[arg(
        long,
        env = "OWNER_DATABASE_URL",
        default_value = "postgres://datastorage_owner@postgres:5432/datastorage"
    )]
    pub owner_database_url: DatabaseUrl,
    /// File with the password of the owner.
    #[arg(long = "owner-password-file", env = "OWNER_PASSWORD_FILE", value_name = "FILE", value_parser = Secret::from_file)]
    pub owner_password: Secret,
}

/// `postgres://role@host:port/database`.
#[derive(Clone)]
pub struct DatabaseUrl {
    options: PgConnectOptions,
    database: String,
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let options = PgConnectOptions::from_str(text).map_err(|error| error.to_string())?;
        let (_, rest) = text.split_once("://").ok_or("not a URL")?;
        let user = rest.split_once('@').map(|(user, _)| user);
        let Some(user) = user.filter(|user| !user.is_empty()) else {
            return Err("the URL must name a role: postgres://role@host/database".to_owned());
        };
        if user.contains(':') {
            return Err("no password in a URL: name a file of its own".to_owned());
        }
        let database = options.get_database().filter(|name| !name.is_empty());
        let Some(database) = database.map(str::to_owned) else {
            return Err("the URL must name a database".to_owned());
        };
        Ok(Self {
            // Between these two no TLS is spoken.
            options: options.ssl_mode(PgSslMode::Disable),
            database,
        })
    }
}

impl DatabaseUrl {
    /// The name of the database.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The name of the role.
    #[must_use]
    pub fn role(&self) -> &str {
        self.options.get_username()
    }

    /// How to connect.
    #[must_use]
    pub fn with_password(&self, password: &Secret) -> PgConnectOptions {
        self.options.clone().password(password.expose())
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.options.get_host(), self.options.get_port());
        write!(formatter, "{}@{host}:{port}/{}", self.role(), self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_refused() {
        assert!("postgres://a@h/d".parse::<DatabaseUrl>().is_ok());
        for bad in [
            "postgres://a:b@h/d",
            "postgres://h/d",
            "postgres://a@h",
            "h",
        ] {
            assert!(bad.parse::<DatabaseUrl>().is_err(), "{bad}");
        }
    }
}
