//! The way to the database: made at start, lost and found again, with no more rights than needed.

use std::sync::Arc;
use std::time::Duration;

use common::health::DependencyState;
use reqwest::{Method, StatusCode};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::helpers::{Database, Service, answer, event, start};

/// A way to the database that can be cut: connections are reset, and new ones end at once.
struct Wire {
    port: u16,
    open: Arc<watch::Sender<bool>>,
}

impl Wire {
    async fn to(address: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let port = listener.local_addr().expect("address").port();
        let open = Arc::new(watch::Sender::new(true));
        let state = open.clone();
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let (address, mut state) = (address.clone(), state.subscribe());
                tokio::spawn(async move {
                    if !*state.borrow() {
                        return;
                    }
                    let mut outside = TcpStream::connect(address).await.expect("PostgreSQL");
                    tokio::select! {
                        _ = copy_bidirectional(&mut inside, &mut outside) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { port, open }
    }

    fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

async fn wait_for(service: &Service, expected: DependencyState) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let readiness = service.health().readiness();
        if readiness.dependencies["database"] == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < patience, "{readiness:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_lost_database_is_503_and_is_found_again_without_a_restart() {
    let database = Database::new();
    let wire = Wire::to(database.address()).await;
    let service = Service::start_in(database.behind(wire.port)).await;
    wait_for(&service, DependencyState::Reachable).await;
    let stored = service
        .client("gateway")
        .record(&event("lost"))
        .await
        .expect("stored");

    wire.set_open(false);
    let get = || service.call("reader", Method::GET, "/api/v1/workflows");
    let response = get().send().await.expect("answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    wait_for(&service, DependencyState::Unreachable).await;
    let (status, readiness) = service.probe("/readyz").await;
    assert_eq!(
        status,
        StatusCode::OK,
        "a blip takes nobody out of rotation"
    );
    assert_eq!(readiness["dependencies"]["database"], "unreachable");
    assert_eq!(service.probe("/healthz").await.0, StatusCode::OK);

    wire.set_open(true);
    wait_for(&service, DependencyState::Reachable).await;
    assert_eq!(answer(get()).await.0, StatusCode::OK);
    let again = service
        .client("gateway")
        .record(&event("lost"))
        .await
        .expect("stored");
    assert_eq!(again.previous_hash, stored.hash);
    service.stop().await;
}

#[tokio::test]
async fn writes_during_a_blip_are_stored_once_each() {
    let database = Database::new();
    let wire = Wire::to(database.address()).await;
    let service = Service::start_in(database.behind(wire.port)).await;
    let mut writers = JoinSet::new();
    for _ in 0..8 {
        let client = service.client("gateway");
        writers.spawn(async move {
            for _ in 0..25 {
                let sent = event("blip");
                // The caller comes again, as a 503 asks it to; the event's ID stays.
                while let Err(error) = client.record(&sent).await {
                    assert!(error.is_temporary(), "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        wire.set_open(false);
        tokio::time::sleep(Duration::from_millis(60)).await;
        wire.set_open(true);
    }
    writers.join_all().await;
    let verdict = service.client("reader").chain("blip").await.expect("chain");
    assert_eq!(
        (verdict.intact, verdict.event_count),
        (true, 200),
        "{verdict:?}"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_start_without_a_database_waits_for_it() {
    let database = Database::new();
    let wire = Wire::to(database.address()).await;
    wire.set_open(false);
    let behind = database.behind(wire.port);
    let mut starting = Box::pin(Service::start_in(behind));
    let waited = tokio::time::timeout(Duration::from_millis(600), &mut starting).await;
    assert!(waited.is_err(), "started without a database");
    wire.set_open(true);
    let service = starting.await;
    service
        .client("gateway")
        .record(&event("late"))
        .await
        .expect("stored");
    service.stop().await;
}

#[tokio::test]
async fn replicas_start_at_once_and_again() {
    let database = Database::new();
    let start = || Box::pin(Service::start_in(database.clone()));
    let (a, b, c, d) = tokio::join!(start(), start(), start(), start());
    let mut services = vec![a, b, c, d];
    let last = services.pop().expect("a service");
    for service in services {
        service
            .client("gateway")
            .record(&event("replicas"))
            .await
            .expect("stored");
        service.leave().await;
    }
    let again = Service::start_in(last.leave().await).await;
    let verdict = again
        .client("reader")
        .chain("replicas")
        .await
        .expect("chain");
    assert_eq!((verdict.intact, verdict.event_count), (true, 3));
    again.stop().await;
}

#[tokio::test]
async fn a_wrong_password_ends_the_start() {
    let database = Database::new();
    let wrong = database.with_owner_password("wrong");
    let error = start(&wrong).await.expect_err("refused");
    assert!(format!("{error:#}").contains("password"), "{error:#}");
}

#[tokio::test]
async fn the_role_of_the_service_owns_nothing_and_may_do_little() {
    let service = Service::start().await;
    let mut superuser = service.database.superuser().await;
    let owned: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relowner = 'datastorage_test'::regrole",
    )
    .fetch_one(&mut superuser)
    .await
    .expect("count");
    assert_eq!(owned, 0);
    let granted: Vec<(String, String)> = sqlx::query_as(
        "SELECT table_name::text, string_agg(privilege_type::text, ',' ORDER BY privilege_type::text)
           FROM information_schema.role_table_grants WHERE grantee = 'datastorage_test'
          GROUP BY table_name ORDER BY table_name",
    )
    .fetch_all(&mut superuser)
    .await
    .expect("grants");
    let granted: Vec<(&str, &str)> = granted
        .iter()
        .map(|(t, p)| (t.as_str(), p.as_str()))
        .collect();
    assert_eq!(
        granted,
        [
            ("audit_chains", "INSERT,SELECT,UPDATE"),
            ("audit_events", "INSERT,SELECT"),
            ("changes", "INSERT,SELECT"),
            ("remediation_requests", "INSERT,SELECT,UPDATE"),
            ("request_signals", "INSERT,SELECT"),
            ("workflow_executions", "INSERT,SELECT,UPDATE"),
            ("workflows", "INSERT,SELECT,UPDATE"),
            ("writes", "INSERT,SELECT"),
        ]
    );
    let mut role = service.database.service_role().await;
    for statement in [
        "CREATE TABLE t ()",
        "DELETE FROM writes",
        "ALTER TABLE audit_events DISABLE TRIGGER ALL",
    ] {
        sqlx::query(statement)
            .execute(&mut role)
            .await
            .expect_err(statement);
    }
    service.stop().await;
}

#[tokio::test]
async fn the_open_phases_of_the_indexes_are_those_of_the_tables() {
    use common::transitions::{ExecutionPhase, RequestPhase};
    let service = Service::start().await;
    let mut superuser = service.database.superuser().await;
    let mut index = async |name: &'static str| -> String {
        let definition = sqlx::query_scalar("SELECT pg_get_indexdef($1::regclass)").bind(name);
        definition.fetch_one(&mut superuser).await.expect("index")
    };
    let requests = index("remediation_requests_open").await;
    for phase in RequestPhase::ALL {
        assert_eq!(
            requests.contains(&format!("'{phase}'")),
            phase.is_terminal(),
            "{phase}: {requests}"
        );
    }
    let executions = index("workflow_executions_open").await;
    for phase in ExecutionPhase::ALL {
        assert_eq!(
            executions.contains(&format!("'{phase}'")),
            phase.is_terminal(),
            "{phase}: {executions}"
        );
    }
    service.stop().await;
}
