//! The catalog of workflows: unique, immutable, disabled rather than removed.

use common::api::{AuditQuery, PatchWorkflow, WorkflowQuery};

use crate::helpers::{Service, assert_refused, new_workflow};

#[tokio::test]
async fn a_workflow_is_stored_once_and_never_changes() {
    let service = Service::start().await;
    let client = service.client("admin");
    let new = new_workflow("restart");
    let created = client.create_workflow(&new).await.expect("created");
    assert!(created.is_new);
    assert_eq!(created.value.workflow, new);
    assert_eq!(
        created.value.digest,
        common::canonical::sha256(&new).expect("digest")
    );
    let again = client.create_workflow(&new).await.expect("found");
    assert_eq!((again.is_new, &again.value), (false, &created.value));
    let mut other = new.clone();
    other.steps[0].http_mut().expect("a call").timeout_ms = 1;
    assert_refused(client.create_workflow(&other).await, 409, "never changes");
    assert_eq!(
        client.workflow("restart", "1.0.0").await.expect("get"),
        created.value
    );
    assert_refused(
        client.workflow("restart", "2").await,
        404,
        "no such workflow",
    );
    let mut bad = new_workflow("bad");
    bad.parameters.clear();
    assert_refused(
        client.create_workflow(&bad).await,
        400,
        "`why` is not declared",
    );
    service.stop().await;
}

#[tokio::test]
async fn a_disabled_workflow_is_listed_only_on_demand() {
    let service = Service::start().await;
    let client = service.client("admin");
    for name in ["b", "a"] {
        client
            .create_workflow(&new_workflow(name))
            .await
            .expect("created");
    }
    let disable = PatchWorkflow { disabled: true };
    for _ in 0..2 {
        assert!(
            client
                .patch_workflow("a", "1.0.0", &disable)
                .await
                .expect("disabled")
                .disabled
        );
    }
    let names = async |include_disabled| {
        let listed = client
            .workflows(&WorkflowQuery { include_disabled })
            .await
            .expect("list");
        listed
            .items
            .into_iter()
            .map(|item| item.workflow.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(false).await, ["b"]);
    assert_eq!(names(true).await, ["a", "b"]);
    client
        .patch_workflow("a", "1.0.0", &PatchWorkflow { disabled: false })
        .await
        .expect("enabled");
    let query = AuditQuery {
        correlation_id: Some("workflow:a".to_owned()),
        ..Default::default()
    };
    let events = client.audit_events(&query).await.expect("events").events;
    let types: Vec<_> = events.iter().map(|e| e.event.event_type.as_str()).collect();
    assert_eq!(
        types,
        [
            "datastorage.workflow.created",
            "datastorage.workflow.disabled",
            "datastorage.workflow.enabled"
        ]
    );
    assert_refused(
        client.patch_workflow("c", "1.0.0", &disable).await,
        404,
        "no such workflow",
    );
    service.stop().await;
}
