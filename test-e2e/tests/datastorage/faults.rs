//! What happens to DataStorage, and what must not happen to what it has accepted. These run alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::api::RequestQuery;
use test_e2e::crowd::{together, under_load};
use test_e2e::metrics::Metrics;
use test_e2e::requests;
use test_e2e::{
    Look, audit, eventually, fault, http, scenario, scenario_with_links, scenario_with_node, unique,
};
use uuid::Uuid;

fn chain() -> String {
    format!("e2e-{}", unique())
}

#[test]
fn without_its_database_it_refuses_and_then_serves_again() {
    let scenario = scenario!(Exclusive);
    let api = scenario.api("datastorage", "e2e-writer");
    let (before, chain) = (chain(), chain());
    audit::store(&api, &audit::batch(&before, 20).events);

    let met = AtomicBool::new(false);
    let post = |_, _| {
        let event = audit::event(&chain);
        let status = api.post(audit::EVENTS, &event).status;
        if status == 503 {
            met.store(true, Ordering::Relaxed);
        }
        (event.event_id, status)
    };
    let ((), sent) = under_load(4, post, || {
        let down = fault::stop(scenario.run(), "postgres");
        let refused = eventually("a refusal", Duration::from_secs(10), || {
            let answer = api.post(audit::EVENTS, &audit::event(&unique()));
            if answer.status == 503 {
                Look::Seen(answer)
            } else {
                Look::NotYet(answer.to_string())
            }
        });
        let seconds: u32 = refused.header("retry-after").parse().expect("Retry-After");
        assert!((1..=60).contains(&seconds), "{refused}");
        // A database that is away must not take the service out of rotation.
        http::Api::new(scenario.run(), "datastorage", "probes")
            .get("/readyz")
            .expect(200);
        eventually(
            "a write that meets the stop",
            Duration::from_secs(20),
            || {
                if met.load(Ordering::Relaxed) {
                    Look::Seen(())
                } else {
                    Look::NotYet("no write was refused".to_owned())
                }
            },
        );
        down.end();
        eventually("service again", Duration::from_secs(15), || {
            let answer = api.post(audit::EVENTS, &audit::event(&unique()));
            if answer.status == 201 {
                Look::Seen(())
            } else {
                Look::NotYet(answer.to_string())
            }
        });
    });
    audit::expect_intact(&api, &before, 20);
    expect_exactly(&api, &chain, &sent);
}

/// What was answered with 201 is in the chain, and the chain is intact. A 503 says that the write
/// may or may not have happened; every other answer is wrong.
#[track_caller]
fn expect_exactly(api: &http::Api, chain: &str, sent: &[(Uuid, u16)]) {
    let verdict = audit::verdict(api, chain);
    assert!(verdict.intact, "{verdict:?}");
    let stored = audit::chain_events(api, chain);
    let stored: Vec<Uuid> = stored.iter().map(|event| event.event.event_id).collect();
    for (id, status) in sent {
        assert!(
            [201, 503].contains(status),
            "{id} was answered with {status}"
        );
        let found = stored.iter().filter(|other| *other == id).count();
        assert!(found <= 1, "{id} is there {found} times");
        assert!(
            *status != 201 || found == 1,
            "{id} was accepted and is lost"
        );
    }
    assert!(
        sent.iter().any(|(_, status)| *status == 201),
        "nothing was accepted"
    );
}

/// What was sent to a chain, each event with its answer, while `act` went on, which began when some
/// were stored.
#[track_caller]
fn sent_during(api: &http::Api, chain: &str, act: impl FnOnce() + Send) -> Vec<(Uuid, u16)> {
    let post = |_, _| {
        let event = audit::event(chain);
        let status = api.post(audit::EVENTS, &event).status;
        (event.event_id, status)
    };
    let ((), sent) = under_load(8, post, || {
        accepted(api, chain, 40);
        act();
    });
    sent
}

#[test]
fn a_killed_database_loses_nothing_that_was_accepted() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let sent = sent_during(&api, &chain, || {
        fault::kill(scenario.run(), "postgres").end();
        eventually("service again", Duration::from_secs(15), || {
            let answer = api.post(audit::EVENTS, &audit::event(&unique()));
            if answer.status == 201 {
                Look::Seen(())
            } else {
                Look::NotYet(answer.to_string())
            }
        });
    });
    expect_exactly(&api, &chain, &sent);
}

#[test]
fn a_cut_link_to_the_database_is_refused_in_time_and_loses_nothing_that_was_accepted() {
    let Some(scenario) = scenario_with_links!(Exclusive) else {
        return;
    };
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let sent = sent_during(&api, &chain, || {
        let cut = fault::cut(scenario.run(), "datastorage", "postgres");
        // Its connections are open still, and nothing ever comes.
        api.post(audit::EVENTS, &audit::event(&unique()))
            .expect(503);
        cut.end();
        api.post(audit::EVENTS, &audit::event(&unique()))
            .expect(201);
    });
    expect_exactly(&api, &chain, &sent);
}

#[track_caller]
fn accepted(api: &http::Api, chain: &str, count: usize) {
    eventually(
        "accepted events",
        Duration::from_secs(20),
        || match audit::chain_events(api, chain).len() {
            found if found >= count => Look::Seen(()),
            found => Look::NotYet(format!("{found} events")),
        },
    );
}

#[test]
fn sigterm_under_load_drops_nothing_accepted() {
    let scenario = scenario!(Exclusive);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let post = |_, _| {
        let event = audit::event(&chain);
        let answer = api.try_post(audit::EVENTS, &event);
        (event.event_id, answer.map(|answer| answer.status).ok())
    };
    let (code, sent) = under_load(8, post, || {
        let watcher = scenario.api("datastorage", "e2e-reader");
        accepted(&watcher, &chain, 40);
        let down = fault::stop(scenario.run(), "datastorage");
        let code = fault::exit_codes(scenario.run(), "datastorage");
        down.end();
        code
    });
    assert_eq!(code, [0], "it drains and ends by itself");
    let answered: Vec<(Uuid, u16)> = sent
        .iter()
        .filter_map(|(id, status)| Some((*id, (*status)?)))
        .collect();
    expect_exactly(&api, &chain, &answered);
    assert!(answered.len() < sent.len(), "nobody noticed the stop");
}

#[test]
fn metrics_move_by_the_exact_count() {
    let scenario = scenario!(Exclusive);
    let api = scenario.api("datastorage", "e2e-writer");
    let nobody = scenario.anonymous("datastorage");
    let chain = chain();
    let before = Metrics::scrape(scenario.run(), "datastorage");
    together(10, |_| audit::post(&api, &audit::event(&chain)));
    for _ in 0..3 {
        nobody
            .post(audit::EVENTS, &audit::event(&chain))
            .expect(401);
    }
    let mut bad = audit::event(&chain);
    bad.event_type.clear();
    api.post(audit::EVENTS, &bad).expect(400);
    before.expect_moved(
        scenario.run(),
        "datastorage",
        "http_requests_total",
        &[
            (
                &[
                    ("method", "POST"),
                    ("route", audit::EVENTS),
                    ("status", "201"),
                ],
                10,
            ),
            (
                &[
                    ("method", "POST"),
                    ("route", audit::EVENTS),
                    ("status", "401"),
                ],
                3,
            ),
            (
                &[
                    ("method", "POST"),
                    ("route", audit::EVENTS),
                    ("status", "400"),
                ],
                1,
            ),
            (
                &[
                    ("method", "POST"),
                    ("route", audit::EVENTS),
                    ("status", "500"),
                ],
                0,
            ),
        ],
    );
}

#[test]
fn log_lines_carry_the_correlation_id() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    audit::post(&api, &audit::event(&chain));
    eventually(
        "a line with the correlation ID",
        Duration::from_secs(10),
        || {
            let lines = scenario.log_lines("datastorage", "correlation_id", &chain);
            if lines.iter().any(|line| line["status"] == 201) {
                Look::Seen(())
            } else {
                Look::NotYet(format!("{lines:?}"))
            }
        },
    );
}

/// A client that hangs up ends its request wherever it stands, while a transaction begins too. What
/// it leaves must not meet those who write meanwhile.
#[test]
fn clients_that_hang_up_leave_no_transaction_behind() {
    const CLIENTS: usize = 8;
    const TURNS: u64 = 60;
    let scenario = scenario!(Exclusive);
    let reader = scenario.api("datastorage", "e2e-reader");
    let gateway = scenario.api("datastorage", "gateway");
    let before = Metrics::scrape(scenario.run(), "datastorage");
    let hung_up: Vec<usize> = together(CLIENTS, |_| {
        let client = reader.datastorage().expect("an address");
        let turn = |turn: u64| {
            // From before it has begun until after it has ended.
            let patience = Duration::from_micros(100 * (turn % 50));
            let query = RequestQuery::default();
            let asking = async { tokio::time::timeout(patience, client.requests(&query)).await };
            let hung_up = http::block_on(asking).is_err();
            requests::create(&gateway, &requests::new_request(&requests::target()));
            usize::from(hung_up)
        };
        (0..TURNS).map(turn).sum()
    });
    let hung_up: usize = hung_up.into_iter().sum();
    let left = |metrics: &Metrics| metrics.sum("transactions_left_open_total", &[]);
    let left = left(&Metrics::scrape(scenario.run(), "datastorage")) - left(&before);
    println!("{hung_up} hung up, {left} of them while a transaction began");
    assert!(left > 0.0 && left <= hung_up as f64, "{left} of {hung_up}");
}
