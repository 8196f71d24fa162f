//! Workflowexecution, end to end: what it does is seen in the journal of the test bed, not only in
//! our own records. The tests make requests and executions as the other services would.

use std::time::Duration;

use common::api::{Action, Execution, HttpCall, NewWorkflow, PatchWorkflow, Target, WorkflowStep};
use common::transitions::ExecutionPhase;
use serde_json::json;
use test_e2e::crowd::{together, under_load};
use test_e2e::kubernetes::Namespace;
use test_e2e::metrics::Metrics;
use test_e2e::poll::never;
use test_e2e::testbed::{self, Journal};
use test_e2e::workflows::{self, WORKFLOWS, call, job_step, step};
use test_e2e::{
    Look, Scenario, audit, eventually, fault, http, requests, scenario, scenario_with_kubernetes,
    scenario_with_kubernetes_node, scenario_with_node, scenario_without_kubernetes,
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
    // Time for a call to come in, also while pods of Jobs start beside it.
    let hang = HttpCall {
        timeout_ms: 1_200,
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

/// A workflow whose steps run Jobs.
fn jobs(steps: Vec<WorkflowStep>) -> NewWorkflow {
    workflows::workflow("NeverChosen", steps)
}

/// Restarts the target by a Job.
fn restarts_by_job() -> NewWorkflow {
    jobs(vec![job_step("restart", &["restart", "--name={name}"], 30)])
}

/// Begins to act by a Job, which then hangs longer than it may.
fn hangs_in_a_job(deadline_seconds: u32) -> WorkflowStep {
    let args = ["hang", "--name={name}", "--seconds=60"];
    job_step("hang", &args, deadline_seconds)
}

#[track_caller]
fn check_job_is_gone(namespace: &Namespace, target: &Target) {
    let name = target.job_name();
    assert_eq!(namespace.job(&name), Ok(None));
    assert_eq!(namespace.pods_of_job(&name), Ok(Vec::new()));
}

#[test]
fn a_job_does_a_step_once_and_gives_its_name_back() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let target = requests::target();
    testbed::make_sick(&bed, &target.name);
    let mut restart = restarts_by_job();
    restart
        .steps
        .push(job_step("again", &["restart", "--name={name}"], 30));
    restart.probe = Some(call("GET", "/healthz?name={name}"));
    let execution = begin_for(&scenario, &restart, &target);
    let done = completed(&scenario, execution.id);
    let journal = Journal::of(&bed, &target.name);
    assert!(journal.healthy, "{journal:#?}");
    // The second one finds the name free, and has a key of its own.
    let restarts = journal.calls("restart");
    let keys: Vec<_> = restarts
        .iter()
        .map(|call| call.idempotency_key.clone())
        .collect();
    let key = |step: &str| Some(format!("{}/{step}", execution.id));
    assert_eq!(keys, [key("restart"), key("again")]);
    let steps = done.steps.iter().take(2);
    let steps: Vec<_> = steps
        .map(|step| (step.tries, step.exit_code, step.succeeded))
        .collect();
    assert_eq!(steps, [(1, Some(0), true); 2]);
    check_job_is_gone(scenario.run().cluster().namespace(), &target);
    let api = scenario.api("datastorage", "e2e-reader");
    let chain = execution.request_id.to_string();
    audit::expect_in_order(
        &api,
        &chain,
        &["execution.step.completed", "execution.completed"],
    );
    assert!(audit::verdict(&api, &chain).intact);
}

#[test]
fn a_job_that_fails_tells_its_exit_code() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let failing = jobs(vec![
        job_step("fail", &["fail", "--name={name}", "--times=9"], 30),
        job_step("after", &["break", "--name={name}"], 30),
    ]);
    let execution = begin_for(&scenario, &failing, &target);
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("step_failed", Some("fail"), None, true));
    let failure = done.failure.as_ref().expect("why it failed");
    assert_eq!(failure.exit_code, Some(3), "{done:#?}");
    assert!(failure.message.contains("exit code 3"), "{done:#?}");
    let journal = Journal::of(&bed, &target.name);
    assert_eq!(
        journal.entries.len(),
        1,
        "made once, never again: {journal:#?}"
    );
    check_job_is_gone(scenario.run().cluster().namespace(), &target);
}

#[test]
fn a_job_that_hangs_hits_its_deadline_and_its_pod_has_gone() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let hanging = jobs(vec![
        hangs_in_a_job(4),
        job_step("after", &["break", "--name={name}"], 30),
    ]);
    let execution = begin_for(&scenario, &hanging, &target);
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("step_timed_out", Some("hang"), None, true));
    let failure = done.failure.as_ref().expect("why it failed");
    assert!(failure.message.contains("DeadlineExceeded"), "{done:#?}");
    let journal = Journal::of(&bed, &target.name);
    let counts = ["hang", "break"].map(|action| journal.calls(action).len());
    assert_eq!(counts, [1, 0], "{journal:#?}");
    check_job_is_gone(scenario.run().cluster().namespace(), &target);
}

#[test]
fn a_name_that_is_taken_locks_the_target_and_nothing_is_touched() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let cluster = scenario.run().cluster();
    let namespace = cluster.namespace();
    let target = requests::target();
    let name = target.job_name();
    let id = namespace.occupy(&name).expect("a Job of nobody");
    let busy = begin_for(&scenario, &restarts_by_job(), &target);
    let done = ended(&scenario, busy.id);
    check_failed(&done, ("target_busy", Some("restart"), None, false));
    let is = namespace.job(&name).expect("an answer").expect("the Job");
    assert_eq!(is["metadata"]["uid"], json!(id), "{is:#}");
    assert!(is["metadata"]["deletionTimestamp"].is_null(), "{is:#}");
    assert!(Journal::of(&bed, &target.name).entries.is_empty());
    namespace.remove_job(&name).expect("removed");
    let free = begin_for(&scenario, &restarts_by_job(), &target);
    completed(&scenario, free.id);
    assert_eq!(Journal::of(&bed, &target.name).calls("restart").len(), 1);
}

#[test]
fn a_job_outlives_its_holder_and_is_never_run_twice() {
    let Some(scenario) = scenario_with_kubernetes_node!(Exclusive) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let cluster = scenario.run().cluster();
    let namespace = cluster.namespace();
    let target = requests::target();
    let execution = begin_for(&scenario, &jobs(vec![hangs_in_a_job(6)]), &target);
    await_hanging(&bed, &target.name);
    fault::kill(scenario.run(), "workflowexecution").end();
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("deadline_exceeded", None, None, true));
    let once = || {
        let journal = Journal::of(&bed, &target.name);
        (journal.entries.len() != 1).then(|| format!("{journal:#?}"))
    };
    never("another call", Duration::from_secs(2), once);
    // The Job has ended by itself and is there to be looked at; the next execution takes its place.
    let name = target.job_name();
    let left = namespace
        .job(&name)
        .expect("an answer")
        .expect("the Job that was left");
    let label = &left["metadata"]["labels"]["phase-zero.dev/execution"];
    assert_eq!(*label, json!(execution.id.to_string()));
    let next = begin_for(&scenario, &restarts_by_job(), &target);
    completed(&scenario, next.id);
    let journal = Journal::of(&bed, &target.name);
    let actions: Vec<&str> = journal
        .entries
        .iter()
        .map(|entry| entry.action.as_str())
        .collect();
    assert_eq!(actions, ["hang", "restart"], "{journal:#?}");
    check_job_is_gone(namespace, &target);
}

#[test]
fn a_job_goes_with_a_holder_that_is_told_to_end() {
    let Some(scenario) = scenario_with_kubernetes_node!(Exclusive) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let cluster = scenario.run().cluster();
    let target = requests::target();
    let execution = begin_for(&scenario, &jobs(vec![hangs_in_a_job(50)]), &target);
    await_hanging(&bed, &target.name);
    let down = fault::stop(scenario.run(), "workflowexecution");
    // It was the holder that said so, and not somebody else after the deadline.
    let done = ended(&scenario, execution.id);
    check_failed(&done, ("interrupted", Some("hang"), None, true));
    check_job_is_gone(cluster.namespace(), &target);
    down.end();
    let next = begin_for(&scenario, &restarts_by_job(), &target);
    completed(&scenario, next.id);
    let journal = Journal::of(&bed, &target.name);
    let counts = ["hang", "restart"].map(|action| journal.calls(action).len());
    assert_eq!(counts, [1, 1], "{journal:#?}");
}

#[test]
fn two_at_once_on_two_targets_have_two_jobs() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let restart = restarts_by_job();
    workflows::publish(&scenario, &restart);
    let all = together(4, |_| {
        let target = requests::target();
        (target.name.clone(), begin_for(&scenario, &restart, &target))
    });
    for (name, execution) in &all {
        completed(&scenario, execution.id);
        let journal = Journal::of(&bed, name);
        let key = format!("{}/restart", execution.id);
        assert_eq!(journal.calls("restart").len(), 1, "{journal:#?}");
        assert_eq!(journal.entries[0].idempotency_key, Some(key));
    }
}

#[test]
fn arguments_of_a_job_are_data_never_options_and_never_expanded() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let mut declared = jobs(vec![job_step(
        "restart",
        &["restart", "--name={victim}"],
        30,
    )]);
    declared.parameters = vec!["victim".to_owned()];
    let target = requests::target();
    let begin = |workflow: &NewWorkflow, victim: &str| {
        let request = workflows::chosen(&scenario, workflow, &target);
        workflows::begin_with(&scenario, &request, &[("victim", victim)])
    };
    let victim = format!("{} $(IDEMPOTENCY_KEY) --name=other;$$", target.name);
    completed(&scenario, begin(&declared, &victim).id);
    let encoded: String = victim.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(Journal::of(&bed, &encoded).calls("restart").len(), 1);
    let bare = jobs(vec![job_step("restart", &["restart", "{victim}"], 30)]);
    let bare = NewWorkflow {
        parameters: vec!["victim".to_owned()],
        ..bare
    };
    let done = ended(&scenario, begin(&bare, "--testbed=http://elsewhere").id);
    check_failed(&done, ("unsafe_parameter", Some("restart"), None, false));
    assert!(Journal::of(&bed, &target.name).entries.is_empty());
}

#[test]
fn a_job_with_an_undeclared_parameter_or_an_image_is_refused() {
    let scenario = scenario!(Shared);
    let admin = scenario.api("datastorage", "e2e-admin");
    let undeclared = jobs(vec![job_step("restart", &["restart", "{surprise}"], 30)]);
    admin
        .post(WORKFLOWS, &undeclared)
        .expect_problem(400, &["steps[0].job.args[1]", "surprise"]);
    let mut with_image = serde_json::to_value(restarts_by_job()).expect("JSON");
    with_image["steps"][0]["job"]["image"] = json!("localhost/other:1");
    admin
        .post(WORKFLOWS, &with_image)
        .expect_problem(400, &["image"]);
}

#[test]
fn a_template_that_is_not_there_runs_nothing() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let mut restart = restarts_by_job();
    if let Action::Job(job) = &mut restart.steps[0].action {
        job.template = "nobody-made-it".to_owned();
    }
    let target = requests::target();
    let done = ended(&scenario, begin_for(&scenario, &restart, &target).id);
    check_failed(&done, ("no_such_template", Some("restart"), None, false));
    check_job_is_gone(scenario.run().cluster().namespace(), &target);
}

#[test]
fn it_may_run_jobs_and_do_nothing_else() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let cluster = scenario.run().cluster();
    let namespace = cluster.namespace();
    let rights = |of: &str| namespace.rights("workflowexecution", of).expect("rights");
    let own: Vec<String> = rights(namespace.name()).into_iter().collect();
    let expected = [
        "create jobs.batch",
        "delete jobs.batch",
        "get jobs.batch",
        "get podtemplates",
        "list pods",
        "watch jobs.batch",
    ];
    assert_eq!(own, expected);
    let others = rights("kube-system");
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn without_kubernetes_a_job_is_refused_before_anything_is_done() {
    let Some(scenario) = scenario_without_kubernetes!(Shared) else {
        return;
    };
    let bed = testbed_api(&scenario);
    let target = requests::target();
    let mut both = restarts_by_job();
    both.steps
        .insert(0, step("first", call("POST", "/restart?name={name}")));
    both.steps[1].name = "job".to_owned();
    let done = ended(&scenario, begin_for(&scenario, &both, &target).id);
    check_failed(&done, ("jobs_unavailable", Some("job"), None, false));
    assert!(done.steps.is_empty(), "{done:#?}");
    assert!(Journal::of(&bed, &target.name).entries.is_empty());
}
