//! Watches: whoever goes on from a cursor hears of every transition, whatever happened meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use common::api::RemediationRequests;
use common::client::ClientError;
use common::transitions::RequestPhase;
use test_e2e::crowd::together;
use test_e2e::http::{Api, block_on};
use test_e2e::requests::{self, REQUESTS};
use test_e2e::{Look, NoAnswer, Scenario, eventually, fault, scenario, scenario_with_node};
use uuid::Uuid;

const WITHIN: Duration = Duration::from_secs(60);
/// How long one connection is listened to.
const TURN: Duration = Duration::from_secs(2);
const WRITERS: usize = 16;
const EACH: usize = 10;

type Seen = BTreeMap<Uuid, BTreeSet<RequestPhase>>;

/// What a watch tells from `cursor` on until it is `enough`, over a new connection after each ten
/// transitions and whenever one is lost. Gives how many connections there were.
fn watch(api: &Api, mut cursor: String, enough: impl Fn(&Seen) -> bool) -> (Seen, usize) {
    let (mut seen, mut connections) = (Seen::new(), 0);
    eventually("every transition", WITHIN, || {
        // All may have been told before anybody knows that it was all.
        let once = watch_once(api, &mut cursor, &mut seen, &enough);
        let ended = block_on(async { tokio::time::timeout(TURN, once).await });
        connections += 1;
        if enough(&seen) {
            Look::Seen(())
        } else {
            Look::NotYet(format!("{} requests, {ended:?}", seen.len()))
        }
    });
    (seen, connections)
}

async fn watch_once(
    api: &Api,
    cursor: &mut String,
    seen: &mut Seen,
    enough: impl Fn(&Seen) -> bool,
) -> Result<(), ClientError> {
    let away = |error: NoAnswer| ClientError::Unreachable(error.to_string());
    let client = api.datastorage().map_err(away)?;
    let mut watch = client.watch_requests(&[], Some(cursor)).await?;
    for _ in 0..10 {
        if enough(seen) {
            break;
        }
        let Some(change) = watch.next().await? else {
            break;
        };
        seen.entry(change.item.id).or_default().insert(change.to);
        // What was told is not asked for again, also when the connection is lost now.
        watch.cursor().expect("a cursor").clone_into(cursor);
    }
    Ok(())
}

fn here(api: &Api) -> String {
    let list: RemediationRequests = api.get(&format!("{REQUESTS}?limit=1")).expect(200).json();
    list.watch_cursor
}

/// Makes requests and moves each once; gives their IDs.
fn write(scenario: &Scenario) -> Vec<Uuid> {
    let gateway = scenario.api("datastorage", "gateway");
    let processing = scenario.api("datastorage", "signalprocessing");
    let made = (0..EACH).map(|_| {
        let request = requests::create(&gateway, &requests::new_request(&requests::target()));
        requests::step(&processing, &request, RequestPhase::Processing).id
    });
    made.collect()
}

#[test]
fn a_watch_with_sixteen_writers_and_reconnects_misses_nothing() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let cursor = here(&api);
    let made = Mutex::new(BTreeSet::new());
    let (seen, connections) = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            watch(&api, cursor, |seen| {
                let made = made.lock().expect("no panic");
                made.len() == WRITERS * EACH
                    && made
                        .iter()
                        .all(|id| seen.get(id).is_some_and(|phases| phases.len() == 2))
            })
        });
        let written: Vec<_> = together(WRITERS, |_| write(&scenario));
        made.lock()
            .expect("no panic")
            .extend(written.into_iter().flatten());
        watching.join().expect("it saw all of them")
    });
    let expected = BTreeSet::from([RequestPhase::Pending, RequestPhase::Processing]);
    for id in made.into_inner().expect("no panic") {
        assert_eq!(seen[&id], expected);
    }
    assert!(connections > WRITERS, "{connections} connections");
}

#[test]
fn a_watch_goes_on_after_datastorage_and_its_database_were_away() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let api = scenario.api("datastorage", "e2e-reader");
    let cursor = here(&api);
    let mut made = write(&scenario);
    fault::kill(scenario.run(), "datastorage").end();
    made.extend(write(&scenario));
    fault::stop(scenario.run(), "postgres").end();
    made.extend(write(&scenario));
    let (seen, _) = watch(&api, cursor, |seen| {
        made.iter()
            .all(|id| seen.get(id).is_some_and(|phases| phases.len() == 2))
    });
    assert!(seen.len() >= made.len());
}
