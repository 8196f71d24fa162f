//! The load of DataStorage: audit events, one in a request, spread over some chains.

use std::collections::HashMap;

use serde_json::Value;
use test_e2e::database::{Database, Login};
use test_e2e::http::Api;
use test_e2e::load::pgbench::{Pgbench, insert, literal};
use test_e2e::load::{self, Fate, Offered, Pace, Part, Wanted};
use test_e2e::{audit, scenario, unique};
use uuid::Uuid;

/// Over how many chains events are spread, at random.
const CHAINS: u128 = 64;

/// An event that was sent: its chain and its ID.
type Event = (String, Uuid);

/// How many in a second, where nobody asks for another rate.
const RATE: u32 = 200;

#[test]
fn every_event_that_was_accepted_is_stored_once() {
    let scenario = scenario!(Exclusive, "datastorage");
    let run = scenario.run();
    let wanted = Wanted::of(run, RATE);
    let api = scenario.api("datastorage", "e2e-writer");
    let mut database = Database::connect(run, Login::Owner);
    let (pgbench, theirs) = (Pgbench::of(run), format!("pgbench-{}", unique()));
    let mut parts = Vec::new();
    for pace in Pace::ALL {
        let ours = format!("load-{}", unique());
        let offered = send(&api, &ours, &wanted, pace);
        expect_stored_once(&api, &offered);
        let condition = format!("correlation_id LIKE '{ours}-%'");
        let script = script(&database.row("audit_events", &condition), &theirs);
        parts.push(Part {
            pace,
            service: offered.figures(),
            pgbench: pgbench.run(&script, &wanted, pace),
        });
    }
    // They are no chains: nobody has hashed anything.
    database.run_without_triggers(&format!(
        "DELETE FROM audit_events WHERE correlation_id LIKE '{theirs}-%'; \
         DELETE FROM audit_chains WHERE correlation_id LIKE '{theirs}-%'"
    ));
    load::tell(run, &wanted, &parts);
}

fn send(api: &Api, prefix: &str, wanted: &Wanted, pace: Pace) -> Offered<Event> {
    let (poster, prefix) = (api.poster(audit::EVENTS), prefix.to_owned());
    load::offer(wanted, pace, move |_| {
        let chain = format!("{prefix}-{}", Uuid::new_v4().as_u128() % CHAINS);
        let poster = poster.clone();
        async move {
            let event = audit::event(&chain);
            let status = poster.post(&event).await;
            ((chain, event.event_id), Fate::of(status, &[201]))
        }
    })
}

/// What was accepted is stored once, everything else once or not at all, and nothing that was not
/// sent; every chain is intact.
#[track_caller]
fn expect_stored_once(api: &Api, offered: &Offered<Event>) {
    let mut sent = HashMap::<&str, HashMap<Uuid, Fate>>::new();
    for one in &offered.sent {
        let (chain, id) = &one.what;
        sent.entry(chain).or_default().insert(*id, one.fate);
    }
    for (chain, mut expected) in sent {
        let count = audit::verdict(api, chain).event_count;
        let count = usize::try_from(count).expect("a count");
        for stored in audit::expect_intact(api, chain, count) {
            let id = stored.event.event_id;
            // Taken out: a second one of the same ID is not found any more.
            assert!(
                expected.remove(&id).is_some(),
                "{chain}: {id} twice, or unsent"
            );
        }
        let lost: Vec<_> = expected
            .iter()
            .filter(|(_, fate)| **fate == Fate::Accepted)
            .collect();
        assert!(lost.is_empty(), "{chain}: accepted and not there: {lost:?}");
    }
}

/// What is written for one event: the head of its chain, locked and moved, and the event.
fn script(stored: &Value, prefix: &str) -> String {
    let chain = format!("{} || :chain", literal(&format!("{prefix}-")));
    let hash = literal(stored["hash"].as_str().expect("a hash"));
    let event = insert(
        "audit_events",
        stored,
        &[
            ("event_id", "gen_random_uuid()"),
            ("event_timestamp", "now()"),
            ("correlation_id", &chain),
            ("chain_seq", ":seq"),
        ],
    );
    format!(
        "\\set chain random(1, {CHAINS})\n\
         BEGIN;\n\
         INSERT INTO audit_chains AS head (correlation_id, last_seq, last_hash) \
         VALUES ({chain}, 1, {hash}) \
         ON CONFLICT (correlation_id) DO UPDATE SET last_seq = head.last_seq + 1 \
         RETURNING last_seq AS seq \\gset\n\
         {event};\n\
         COMMIT;\n"
    )
}
