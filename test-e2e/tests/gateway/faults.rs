//! What happens to gateway and behind it, and what must not happen to signals. These run alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use test_e2e::crowd::{together, under_load};
use test_e2e::metrics::Metrics;
use test_e2e::{
    Look, NoAnswer, audit, eventually, fault, http, scenario, scenario_with_links,
    scenario_with_node, signals, unique,
};
use time::OffsetDateTime;

fn deployment() -> String {
    format!("web-{}", unique())
}

/// What became of one alert: the Deployment that it is about, and every answer in turn.
type Sent = (String, Vec<u16>);

/// Sends an alert again until its answer is final, as Alertmanager does. Sets `met` when one is not.
fn send_until_final(gateway: &http::Api, met: &AtomicBool) -> Sent {
    let deployment = deployment();
    let alert = signals::deployment_alert(&deployment, "critical");
    let mut statuses = Vec::new();
    eventually("a final answer", Duration::from_secs(60), || {
        let answer = gateway.try_post(
            signals::ALERTMANAGER,
            &signals::webhook(std::slice::from_ref(&alert)),
        );
        statuses.push(answer.as_ref().map_or(0, |answer| answer.status));
        let last = match answer {
            Ok(answer) if answer.status < 500 => return Look::Seen(()),
            Ok(answer) => answer.to_string(),
            Err(NoAnswer { .. }) => "no answer".to_owned(),
        };
        met.store(true, Ordering::Relaxed);
        Look::NotYet(last)
    });
    (deployment, statuses)
}

/// Every alert made one request with one signal, whose chain is intact and says so once.
#[track_caller]
fn expect_one_request_each(datastorage: &http::Api, sent: &[Sent]) {
    for (deployment, statuses) in sent {
        let last = statuses.last().copied().unwrap_or_default();
        assert!([201, 202].contains(&last), "{deployment}: {statuses:?}");
        let found = signals::requests_of(datastorage, "shop", deployment);
        assert_eq!(found.len(), 1, "{deployment}: {statuses:?}: {found:#?}");
        assert_eq!(found[0].occurrence_count, 1, "{deployment}: {statuses:?}");
        let chain = found[0].id.to_string();
        assert!(audit::verdict(datastorage, &chain).intact);
        let types = audit::types(datastorage, &chain);
        let received = types
            .iter()
            .filter(|found| *found == "gateway.signal.received");
        assert_eq!(received.count(), 1, "{deployment}: {types:?}");
    }
}

#[test]
fn datastorage_stopped_in_mid_traffic_loses_nothing_and_makes_nothing_twice() {
    let scenario = scenario!(Exclusive);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let met = AtomicBool::new(false);
    let ((), sent) = under_load(
        6,
        |_, _| send_until_final(&gateway, &met),
        || {
            await_requests(&datastorage, 10);
            let down = fault::stop(scenario.run(), "datastorage");
            let refused = eventually("a refusal", Duration::from_secs(20), || {
                let alert = signals::deployment_alert(&deployment(), "critical");
                let answer = signals::send(&gateway, &alert);
                if answer.status == 503 {
                    Look::Seen(answer)
                } else {
                    Look::NotYet(answer.to_string())
                }
            });
            assert!(
                refused.header("retry-after").parse::<u32>().is_ok(),
                "{refused}"
            );
            http::Api::new(scenario.run(), "gateway", "probes")
                .get("/readyz")
                .expect(200);
            eventually(
                "an alert that meets the stop",
                Duration::from_secs(20),
                || {
                    if met.load(Ordering::Relaxed) {
                        Look::Seen(())
                    } else {
                        Look::NotYet("every answer was final".to_owned())
                    }
                },
            );
            down.end();
        },
    );
    assert!(sent.len() > 10, "{sent:?}");
    expect_one_request_each(&datastorage, &sent);
}

#[test]
fn a_slow_link_to_datastorage_loses_nothing_and_makes_nothing_twice() {
    const BY: Duration = Duration::from_millis(150);
    let Some(scenario) = scenario_with_links!(Exclusive) else {
        return;
    };
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let (never, begun) = (AtomicBool::new(false), Instant::now());
    let slow = fault::slow(scenario.run(), "gateway", "datastorage", BY);
    let sent = together(6, |_| send_until_final(&gateway, &never));
    // There and back at the least, or the link was not slow.
    assert!(begun.elapsed() >= BY * 2, "{:?}", begun.elapsed());
    slow.end();
    // Its network namespace goes on to track connections, which makes it slow to find DataStorage
    // again after a restart of that; a new process has a new one.
    fault::stop(scenario.run(), "gateway").end();
    expect_one_request_each(&datastorage, &sent);
    assert!(!never.into_inner(), "late is not away: {sent:?}");
}

#[test]
fn a_cut_link_to_datastorage_is_refused_in_time_and_a_resend_counts_once() {
    let Some(scenario) = scenario_with_links!(Exclusive) else {
        return;
    };
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let met = AtomicBool::new(false);
    let ((), sent) = under_load(
        4,
        |_, _| send_until_final(&gateway, &met),
        || {
            await_requests(&datastorage, 10);
            let cut = fault::cut(scenario.run(), "gateway", "datastorage");
            // The packets that say no are lost as well: only a deadline of its own ends the wait.
            let alert = signals::deployment_alert(&deployment(), "critical");
            let refused = signals::send(&gateway, &alert).expect(503);
            assert!(
                refused.header("retry-after").parse::<u32>().is_ok(),
                "{refused}"
            );
            cut.end();
        },
    );
    assert!(met.into_inner(), "no alert met the cut: {sent:?}");
    expect_one_request_each(&datastorage, &sent);
}

#[test]
fn a_webhook_of_which_one_alert_must_come_again_comes_again_as_a_whole() {
    let scenario = scenario!(Exclusive);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let known = signals::deployment_alert(&deployment, "critical");
    let nowhere = signals::alert(
        &[("alertname", deployment.as_str())],
        OffsetDateTime::now_utc(),
    );
    let webhook = signals::webhook(&[nowhere, known]);
    let down = fault::stop(scenario.run(), "datastorage");
    let refused = gateway.post(signals::ALERTMANAGER, &webhook).expect(503);
    assert!(refused.header("retry-after").parse::<u32>().is_ok());
    down.end();
    let answer = gateway
        .post(signals::ALERTMANAGER, &webhook)
        .expect(207)
        .value();
    let statuses = [
        &answer["results"][0]["status"],
        &answer["results"][1]["status"],
    ];
    assert_eq!(statuses, [400, 201], "{answer:#}");
    assert_eq!(
        signals::requests_of(&datastorage, "shop", &deployment).len(),
        1
    );
}

#[test]
fn datastorage_killed_in_mid_traffic_loses_nothing_and_makes_nothing_twice() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let met = AtomicBool::new(false);
    let ((), sent) = under_load(
        6,
        |_, _| send_until_final(&gateway, &met),
        || {
            await_requests(&datastorage, 10);
            fault::kill(scenario.run(), "datastorage").end();
            await_requests(&datastorage, 10);
        },
    );
    expect_one_request_each(&datastorage, &sent);
}

/// Waits until so many more signals were taken.
#[track_caller]
fn await_requests(datastorage: &http::Api, count: usize) {
    let since = test_e2e::scenario::now();
    let query = format!("event_type=gateway.signal.received&since={since}&limit=1000");
    eventually("traffic", Duration::from_secs(30), || {
        match audit::list(datastorage, &query).len() {
            found if found >= count => Look::Seen(()),
            found => Look::NotYet(format!("{found} signals")),
        }
    });
}

#[test]
fn sigterm_under_load_drops_nothing_accepted() {
    let scenario = scenario!(Exclusive);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let met = AtomicBool::new(false);
    let (code, sent) = under_load(
        6,
        |_, _| send_until_final(&gateway, &met),
        || {
            await_requests(&datastorage, 10);
            let down = fault::stop(scenario.run(), "gateway");
            let code = fault::exit_codes(scenario.run(), "gateway");
            down.end();
            await_requests(&datastorage, 10);
            code
        },
    );
    assert_eq!(code, [0], "it drains and ends by itself");
    expect_one_request_each(&datastorage, &sent);
}

#[test]
fn metrics_move_by_the_exact_count() {
    let scenario = scenario!(Exclusive);
    let gateway = scenario.api("gateway", "alertmanager");
    let before = Metrics::scrape(scenario.run(), "gateway");
    let alerts: Vec<_> = (0..5)
        .map(|_| signals::deployment_alert(&deployment(), "critical"))
        .collect();
    for alert in &alerts {
        signals::send(&gateway, alert).expect(201);
    }
    for alert in &alerts[..3] {
        signals::send(&gateway, alert).expect(202);
    }
    let nowhere = signals::alert(
        &[("alertname", "Watchdog")],
        time::OffsetDateTime::now_utc(),
    );
    signals::send(&gateway, &nowhere).expect(400);
    before.expect_moved(
        scenario.run(),
        "gateway",
        "gateway_signals_total",
        &[
            (&[("source", "alertmanager"), ("outcome", "created")], 5),
            (&[("source", "alertmanager"), ("outcome", "duplicate")], 3),
            (&[("source", "alertmanager"), ("outcome", "rejected")], 1),
            (
                &[("source", "alertmanager"), ("outcome", "out_of_scope")],
                0,
            ),
        ],
    );
}

#[test]
fn log_lines_carry_the_correlation_id() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let alert = signals::deployment_alert(&deployment(), "critical");
    let answer = signals::send(&gateway, &alert).expect(201).value();
    let id = answer["request_id"].as_str().expect("an ID").to_owned();
    // DataStorage's lines carry the same ID: one remediation can be followed through all services.
    for service in ["gateway", "datastorage"] {
        eventually(
            "a line with the correlation ID",
            Duration::from_secs(10),
            || {
                let lines = scenario.log_lines(service, "correlation_id", &id);
                if lines.is_empty() {
                    Look::NotYet(format!("no line of {service}"))
                } else {
                    Look::Seen(())
                }
            },
        );
    }
}
