//! Workflowexecution, end to end: what it does is seen in the journal of the test bed, not only in
//! our own records. The tests make requests and executions as the other services would.

use std::time::Duration;

use common::api::{Execution, HttpCall, NewWorkflow, PatchWorkflow, Target};
use common::transitions::ExecutionPhase;
use serde_json::json;
use test_e2e::crowd::{together, under_load};
use test_e2e::metrics::Metrics;
use test_e2e::poll::never;
use test_e2e::testbed::{self, Journal};
use test_e2e::workflows::{self, WORKFLOWS, call, step};
use test_e2e::{
    Look, Scenario, audit, eventually, fault, http, requests, scenario, scenario_with_node,
};
use uuid::Uuid;

/// Longer than the deadline of any execution here and the watchdog's grace on top.
const WITHIN: Duration = Duration::from_secs(60);

/// Begins an execution of this workflow for a target of its own.
#[track_caller]
fn begin(scenario: &Scenario, workflow: &NewWorkflow) -> Execution {
    begin_for(scenario, workflow, &requests::target())
}

#[track_caller]
fn begin_for(scenario: &Scenario, workflow: &NewWorkflow, target: &Target) -> Execution {
    workflows::begin(scenario, &workflows::chosen(scenario, workflow, target))
}

/// A workflow with these steps.
fn workflow(steps: Vec<(&str, HttpCall)>) -> NewWorkflow {
    let steps = steps.into_iter().map(|(name, http)| step(name, http));
    workflows::workflow("NeverChosen", steps.collect())
}

#[track_caller]
fn ended(scenario: &Scenario, id: Uuid) -> Execution {
    let api = scenario.api("datastorage", "e2e-reader");
    eventually(&format!("the end of execution {id}"), WITHIN, || {
        let execution = workflows::read(&api, id);
        if execution.phase.is_terminal() {
            Look::Seen(execution)
        } else {
            Look::NotYet(format!("{execution:?}"))
        }
    })
}

#[track_caller]
fn completed(scenario: &Scenario, id: Uuid) -> Execution {
    let execution = ended(scenario, id);
    assert_eq!(execution.phase, ExecutionPhase::Completed, "{execution:#?}");
    execution
}

/// The reason of a failure, its step and status, and whether the target may have been touched.
#[track_caller]
fn check_failed(execution: &Execution, expected: (&str, Option<&str>, Option<u16>, bool)) {
    assert_eq!(execution.phase, ExecutionPhase::Failed, "{execution:#?}");
    let failure = execution.failure.as_ref().expect("why it failed");
    let found = (
        failure.reason.as_str(),
        failure.step.as_deref(),
        failure.status_code,
        failure.was_execution_failure,
    );
    assert_eq!(found, expected, "{execution:#?}");
    assert!(!failure.message.is_empty());
}

fn testbed_api(scenario: &Scenario) -> http::Api {
    scenario.anonymous("testbed")
}

#[test]
fn a_sick_workload_is_healed_and_the_journal_says_how() {
    let scenario = scenario!(Shared);
    let (bed, api) = (
        testbed_api(&scenario),
        scenario.api("datastorage", "e2e-reader"),
    );
    let target = requests::target();
    testbed::make_sick(&bed, &target.name);
    let execution = begin_for(&scenario, &workflows::restart("NeverChosen"), &target);
    let done = completed(&scenario, execution.id);
    let journal = Journal::of(&bed, &target.name);
    assert!(journal.healthy, "{journal:#?}");
    let restarts = journal.calls("restart");
    assert_eq!(restarts.len(), 1, "{journal:#?}");
    let key = format!("{}/restart", execution.id);
    assert_eq!(restarts[0].idempotency_key.as_ref(), Some(&key));
    assert!(restarts[0].effect);
    let steps: Vec<_> = done
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.status_code, step.succeeded))
        .collect();
    assert_eq!(
        steps,
        [("restart", Some(200), true), ("probe", Some(200), true)]
    );
    assert!(done.holder.is_some() && done.deadline.is_some());
    let chain = execution.request_id.to_string();
    audit::expect_in_order(
        &api,
        &chain,
        &["execution.step.completed", "execution.completed"],
    );
    audit::expect_in_order(&api, &chain, workflows::EXECUTION_EVENTS);
    assert!(audit::verdict(&api, &chain).intact);
}

#[test]
fn steps_are_made_in_order_and_a_failing_one_ends_it_with_the_details() {
    let scenario = scenario!(Shared);
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let steps = workflow(vec![
        ("first", call("POST", "/restart?name={name}")),
        ("second", call("POST", "/fail?name={name}&times=99")),
        ("third", call("POST", "/break?name={name}")),
    ]);
    let execution = begin_for(&scenario, &steps, &target);
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("step_failed", Some("second"), Some(503), true));
    let names: Vec<_> = done
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.succeeded))
        .collect();
    assert_eq!(names, [("first", true), ("second", false)]);
    let journal = Journal::of(&bed, &target.name);
    let actions: Vec<&str> = journal
        .entries
        .iter()
        .map(|entry| entry.action.as_str())
        .collect();
    assert_eq!(
        actions,
        ["restart", "fail"],
        "nothing after the failure, and no second try"
    );
    let api = scenario.api("datastorage", "e2e-reader");
    audit::expect_in_order(
        &api,
        &execution.request_id.to_string(),
        &["execution.failed"],
    );
}

#[test]
fn a_hanging_step_hits_its_deadline_and_is_not_tried_again() {
    let scenario = scenario!(Shared);
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let hang = HttpCall {
        timeout_ms: 700,
        retries_max: 3,
        retry_on_status: vec![503],
        ..call("POST", "/hang?name={name}&seconds=30")
    };
    let execution = begin_for(&scenario, &workflow(vec![("hang", hang)]), &target);
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("step_timed_out", Some("hang"), None, true));
    assert_eq!(done.steps[0].tries, 1, "{done:#?}");
    assert!(
        (700..5_000).contains(&done.steps[0].duration_ms),
        "{done:#?}"
    );
    assert_eq!(Journal::of(&bed, &target.name).calls("hang").len(), 1);
}

#[test]
fn a_step_declared_idempotent_is_tried_again_after_a_timeout() {
    let scenario = scenario!(Shared);
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let hang = HttpCall {
        timeout_ms: 400,
        retries_max: 2,
        idempotent: true,
        ..call("POST", "/hang?name={name}&seconds=30")
    };
    let execution = begin_for(&scenario, &workflow(vec![("hang", hang)]), &target);
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("step_timed_out", Some("hang"), None, true));
    assert_eq!(done.steps[0].tries, 3, "{done:#?}");
    let journal = Journal::of(&bed, &target.name);
    let effects = journal.entries.iter().filter(|entry| entry.effect).count();
    assert_eq!(
        (journal.entries.len(), effects),
        (3, 1),
        "one key, one effect: {journal:#?}"
    );
}

#[test]
fn a_step_is_retried_on_the_statuses_it_lists() {
    let scenario = scenario!(Shared);
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let flaky = HttpCall {
        retries_max: 3,
        retry_on_status: vec![503],
        ..call("POST", "/fail?name={name}&times=2")
    };
    let execution = begin_for(&scenario, &workflow(vec![("flaky", flaky)]), &target);
    let done = completed(&scenario, execution.id);
    assert_eq!(
        (done.steps[0].tries, done.steps[0].status_code),
        (3, Some(200))
    );
    let journal = Journal::of(&bed, &target.name);
    let statuses: Vec<_> = journal.entries.iter().map(|entry| entry.status).collect();
    assert_eq!(statuses, [Some(503), Some(503), Some(200)]);
    let key = Some(format!("{}/flaky", execution.id));
    assert!(
        journal
            .entries
            .iter()
            .all(|entry| entry.idempotency_key == key),
        "{journal:#?}"
    );
    assert_eq!(journal.actions, 1);
}

#[test]
fn a_step_is_retried_on_a_refused_connection_which_touches_nothing() {
    let scenario = scenario!(Shared);
    // Its own address: what a Service does with a port that it has not is up to the cluster.
    let nobody = HttpCall {
        url: "http://127.0.0.1:9/".to_owned(),
        retries_max: 2,
        ..call("POST", "")
    };
    let execution = begin(&scenario, &workflow(vec![("nobody", nobody)]));
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("step_failed", Some("nobody"), None, false));
    assert_eq!(done.steps[0].tries, 3, "{done:#?}");
}

#[test]
fn a_parameter_that_is_not_declared_is_refused_and_nothing_is_done() {
    let scenario = scenario!(Shared);
    let admin = scenario.api("datastorage", "e2e-admin");
    let surprising = call("POST", "/restart?name={name}&surprise={surprise}");
    let undeclared = workflow(vec![("restart", surprising.clone())]);
    admin
        .post(WORKFLOWS, &undeclared)
        .expect_problem(400, &["surprise"]);

    // Declared and not given: there is no execution, and the target is free.
    let mut declared = workflow(vec![("restart", surprising)]);
    declared.parameters = vec!["surprise".to_owned()];
    let request = workflows::chosen(&scenario, &declared, &requests::target());
    workflows::try_begin_with(&scenario, &request, &[]).expect_problem(400, &["surprise"]);
    let unknown = [("surprise", "1"), ("another", "2")];
    workflows::try_begin_with(&scenario, &request, &unknown).expect_problem(400, &["another"]);
    let read = requests::read(&scenario.api("datastorage", "e2e-reader"), request.id);
    assert_eq!(read, request);
}

#[test]
fn parameters_are_put_in_as_data_never_as_syntax() {
    let scenario = scenario!(Shared);
    let bed = testbed_api(&scenario);
    let mut declared = workflow(vec![("restart", call("POST", "/restart?name={victim}"))]);
    declared.parameters = vec!["victim".to_owned()];
    let target = requests::target();
    let request = workflows::chosen(&scenario, &declared, &target);
    let victim = format!("{}&name=other#/../x y", target.name);
    let execution = workflows::begin_with(&scenario, &request, &[("victim", &victim)]);
    completed(&scenario, execution.id);
    let encoded: String = victim.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(Journal::of(&bed, &encoded).calls("restart").len(), 1);
    assert!(Journal::of(&bed, &target.name).entries.is_empty());
}

#[test]
fn the_workflow_is_the_one_from_when_the_execution_was_made() {
    let scenario = scenario!(Exclusive);
    let bed = testbed_api(&scenario);
    let admin = scenario.api("datastorage", "e2e-admin");
    let target = requests::target();
    let first = workflow(vec![("restart", call("POST", "/restart?name={name}"))]);
    let down = fault::stop(scenario.run(), "workflowexecution");
    let execution = begin_for(&scenario, &first, &target);
    let second = NewWorkflow {
        version: "2.0.0".to_owned(),
        steps: vec![step("break", call("POST", "/break?name={name}"))],
        ..first.clone()
    };
    workflows::publish(&scenario, &second);
    let path = format!("{WORKFLOWS}/{}/{}", first.name, first.version);
    admin
        .patch_unconditionally(&path, &PatchWorkflow { disabled: true })
        .expect(200);
    down.end();
    let done = completed(&scenario, execution.id);
    assert_eq!(
        (&done.workflow, &done.workflow_digest),
        (&first, &execution.workflow_digest)
    );
    let journal = Journal::of(&bed, &target.name);
    assert_eq!(
        (journal.calls("restart").len(), journal.calls("break").len()),
        (1, 0)
    );
}

#[test]
fn the_probe_decides() {
    let scenario = scenario!(Shared);
    let bed = testbed_api(&scenario);
    let target = requests::target();
    testbed::make_sick(&bed, &target.name);
    let mut useless = workflow(vec![("fail", call("POST", "/fail?name={name}&times=0"))]);
    useless.probe = Some(HttpCall {
        timeout_ms: 1_500,
        ..call("GET", "/healthz?name={name}")
    });
    let execution = begin_for(&scenario, &useless, &target);
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("probe_failed", Some("probe"), Some(503), true));
    assert!(!Journal::of(&bed, &target.name).healthy);
}

#[test]
fn many_run_side_by_side_and_each_once() {
    let scenario = scenario!(Shared);
    let bed = testbed_api(&scenario);
    let restart = workflows::restart("NeverChosen");
    workflows::publish(&scenario, &restart);
    let all = together(20, |_| {
        let target = requests::target();
        (target.name.clone(), begin_for(&scenario, &restart, &target))
    });
    for (name, execution) in &all {
        completed(&scenario, execution.id);
        assert_eq!(Journal::of(&bed, name).calls("restart").len(), 1);
    }
}

/// Acts once and then hangs.
fn acts_and_hangs() -> NewWorkflow {
    let hang = HttpCall {
        timeout_ms: 3_000,
        ..call("POST", "/hang?name={name}&seconds=60")
    };
    workflow(vec![
        ("restart", call("POST", "/restart?name={name}")),
        ("hang", hang),
        ("after", call("POST", "/break?name={name}")),
    ])
}

#[track_caller]
fn await_hanging(bed: &http::Api, name: &str) {
    eventually("the hanging step", WITHIN, || {
        let journal = Journal::of(bed, name);
        if journal.calls("hang").is_empty() {
            Look::NotYet(format!("{journal:?}"))
        } else {
            Look::Seen(())
        }
    });
}

#[test]
fn killed_in_the_middle_it_is_never_run_twice() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let execution = begin_for(&scenario, &acts_and_hangs(), &target);
    await_hanging(&bed, &target.name);
    fault::kill(scenario.run(), "workflowexecution").end();
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("deadline_exceeded", None, None, true));
    assert!(
        done.updated_at >= done.deadline.expect("a deadline"),
        "{done:#?}"
    );
    let once = || {
        let journal = Journal::of(&bed, &target.name);
        let counts = ["restart", "hang", "break"].map(|action| journal.calls(action).len());
        (counts != [1, 1, 0]).then(|| format!("{journal:#?}"))
    };
    never("another call", Duration::from_secs(2), once);
    let api = scenario.api("datastorage", "e2e-reader");
    assert!(audit::verdict(&api, &execution.request_id.to_string()).intact);
}

#[test]
fn paused_past_its_deadline_and_resumed_it_sends_nothing() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let api = scenario.api("datastorage", "e2e-reader");
    let target = requests::target();
    let execution = begin_for(&scenario, &acts_and_hangs(), &target);
    await_hanging(&bed, &target.name);
    let frozen = fault::pause(scenario.run(), "workflowexecution");
    let deadline = workflows::read(&api, execution.id)
        .deadline
        .expect("a deadline");
    eventually("the deadline", WITHIN, || {
        let left = deadline - time::OffsetDateTime::now_utc();
        if left.is_negative() {
            Look::Seen(())
        } else {
            Look::NotYet(format!("{left} left"))
        }
    });
    frozen.end();
    let done = ended(&scenario, execution.id);
    assert_eq!(done.phase, ExecutionPhase::Failed, "{done:#?}");
    assert!(
        done.failure
            .as_ref()
            .is_some_and(|failure| failure.was_execution_failure)
    );
    never("a call after the deadline", Duration::from_secs(2), || {
        let journal = Journal::of(&bed, &target.name);
        let counts = ["restart", "hang", "break"].map(|action| journal.calls(action).len());
        (counts != [1, 1, 0]).then(|| format!("{journal:#?}"))
    });
}

#[test]
fn datastorage_stopped_in_the_middle_nothing_is_done_twice() {
    let scenario = scenario!(Exclusive);
    let bed = testbed_api(&scenario);
    let slow = HttpCall {
        timeout_ms: 8_000,
        ..call("POST", "/hang?name={name}&seconds=2")
    };
    let steps = workflow(vec![
        ("hang", slow),
        ("restart", call("POST", "/restart?name={name}")),
    ]);
    let target = requests::target();
    let execution = begin_for(&scenario, &steps, &target);
    await_hanging(&bed, &target.name);
    fault::stop(scenario.run(), "datastorage").end();
    let done = completed(&scenario, execution.id);
    assert!(done.steps.iter().all(|step| step.tries == 1), "{done:#?}");
    let journal = Journal::of(&bed, &target.name);
    assert_eq!(
        (journal.calls("hang").len(), journal.calls("restart").len()),
        (1, 1)
    );
}

#[test]
fn sigterm_under_load_leaves_no_execution_without_an_end() {
    let scenario = scenario!(Exclusive);
    let bed = testbed_api(&scenario);
    let restart = workflows::restart("NeverChosen");
    workflows::publish(&scenario, &restart);
    let one = || {
        let target = requests::target();
        (target.name.clone(), begin_for(&scenario, &restart, &target))
    };
    let (code, all) = under_load(
        3,
        |_, _| one(),
        || {
            let (_, first) = one();
            completed(&scenario, first.id);
            let down = fault::stop(scenario.run(), "workflowexecution");
            let code = fault::exit_codes(scenario.run(), "workflowexecution");
            down.end();
            code
        },
    );
    assert_eq!(code, [0], "it drains and ends by itself");
    assert!(!all.is_empty());
    for (name, execution) in &all {
        completed(&scenario, execution.id);
        assert_eq!(Journal::of(&bed, name).calls("restart").len(), 1);
    }
}

#[test]
fn metrics_move_by_the_exact_count() {
    let scenario = scenario!(Exclusive);
    let before = Metrics::scrape(scenario.run(), "workflowexecution");
    let failing = workflow(vec![
        ("restart", call("POST", "/restart?name={name}")),
        ("fail", call("POST", "/fail?name={name}&times=99")),
    ]);
    for _ in 0..3 {
        completed(
            &scenario,
            begin(&scenario, &workflows::restart("NeverChosen")).id,
        );
    }
    ended(&scenario, begin(&scenario, &failing).id);
    // Probes count as steps.
    before.expect_moved(
        scenario.run(),
        "workflowexecution",
        "steps_total",
        &[
            (&[("outcome", "success")], 7),
            (&[("outcome", "failure")], 1),
        ],
    );
}

#[test]
fn log_lines_carry_the_correlation_id() {
    let scenario = scenario!(Shared);
    let execution = begin(&scenario, &workflows::restart("NeverChosen"));
    completed(&scenario, execution.id);
    let id = execution.request_id.to_string();
    eventually(
        "a line with the correlation ID",
        Duration::from_secs(10),
        || {
            let lines = scenario.log_lines("workflowexecution", "correlation_id", &id);
            let told = lines.iter().any(|line| line["step"] == json!("restart"));
            if told {
                Look::Seen(())
            } else {
                Look::NotYet(format!("{lines:?}"))
            }
        },
    );
}
