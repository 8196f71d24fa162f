//! DataStorage as it is, in this process, on a database of its own. It needs a PostgreSQL server:
//! the URL of its superuser in `TEST_POSTGRES_URL`.

use common::{
    auth::Tokens,
    client::DataStorage,
    config::{DataStorageArgs, ListenArgs, Secret, TokensArgs},
    health::{Health, Identity},
    server::{App, Context, Running, start},
    shutdown::Shutdown,
};
use datastorage::config::{Config, DatabaseArgs};
use reqwest::Url;
use serde_json::json;
use uuid::Uuid;

/// The role under which these tests' DataStorages work, and its password.
const ROLE: &str = "datastorage_in_process";

/// Everyone who may call, each with `token_of` as token.
const SUBJECTS: [(&str, &str); 5] = [
    ("gateway", "write"),
    ("signalprocessing", "write"),
    ("remediationorchestrator", "write"),
    ("alertmanager", "write"),
    ("reader", "read"),
];

/// The token of a subject, at every service.
pub(crate) fn token_of(subject: &str) -> String {
    format!("the-token-of-{subject}")
}

/// The accepted tokens, at every service.
pub(crate) fn tokens() -> TokensArgs {
    let token = |(subject, role): &(&str, &str)| json!({"subject": subject, "role": role, "token": token_of(subject)});
    let tokens: Vec<_> = SUBJECTS.iter().map(token).collect();
    let tokens = Tokens::from_json(&json!({ "tokens": tokens }).to_string());
    TokensArgs {
        tokens: tokens.expect("tokens"),
    }
}

/// A running DataStorage.
pub(crate) struct Storage {
    running: Running,
}

impl Storage {
    /// Starts it with an empty database.
    pub(crate) async fn start() -> Self {
        let config = Config {
            tokens: tokens(),
            database: database(),
        };
        let running = run("datastorage", datastorage::DEPENDENCIES, async |context| {
            datastorage::build(config, context).await
        });
        Self {
            running: running.await,
        }
    }

    /// How this subject reaches it.
    pub(crate) fn args(&self, subject: &str) -> DataStorageArgs {
        let url = format!("http://{}", self.running.addresses.api);
        DataStorageArgs {
            datastorage_url: url.parse().expect("a URL"),
            datastorage_token: Secret::new(&token_of(subject)),
        }
    }

    /// A client with the token of this subject.
    pub(crate) fn client(&self, subject: &str) -> DataStorage {
        DataStorage::new(&self.args(subject)).expect("a client")
    }
}

/// Starts any service in this process, on free ports.
pub(crate) async fn run<F>(package: &'static str, awaited: &[&'static str], build: F) -> Running
where
    F: AsyncFnOnce(Context) -> anyhow::Result<App>,
{
    let context = Context {
        shutdown: Shutdown::new(),
        health: Health::awaiting(awaited),
    };
    let identity = Identity::new(package, "0.0.0", None, None);
    let started = start(&ListenArgs::loopback(), identity, context, build).await;
    started.expect("started")
}

fn database() -> DatabaseArgs {
    let server = std::env::var("TEST_POSTGRES_URL")
        .expect("TEST_POSTGRES_URL: the superuser's URL of a PostgreSQL server");
    let server = Url::parse(&server).expect("TEST_POSTGRES_URL is a URL");
    let (host, port) = (server.host_str(), server.port().unwrap_or(5432));
    let host = host.expect("TEST_POSTGRES_URL names a host");
    let name = format!("in_process_{}", Uuid::new_v4().simple());
    let url = |role: &str| {
        format!("postgres://{role}@{host}:{port}/{name}")
            .parse()
            .expect("a database URL")
    };
    DatabaseArgs {
        database_url: url(ROLE),
        database_password: Secret::new(ROLE),
        owner_database_url: url(server.username()),
        owner_password: Secret::new(server.password().unwrap_or("none is needed")),
    }
}
