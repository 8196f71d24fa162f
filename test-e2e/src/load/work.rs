//! The load of a service that takes no work itself: it finds its work in DataStorage. A piece is made
//! ready before, as the other services would, and one last write hands it over; it is done when a
//! watch of DataStorage tells that the service has brought it to its end. What it took counts from when
//! it was due, or handed over at saturation, to that. A piece has one deadline for all of it.
//!
//! The service stands still while pgbench runs, since it would take pgbench's rows for work; and what
//! a part has left is removed after it, so that each part begins alike.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::api::{Execution, ExecutionQuery, RemediationRequest, RequestQuery};
use common::client::{ClientError, DataStorage};
use common::transitions::{ExecutionPhase, RequestPhase};
use common::watch::Watch;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::pgbench::Pgbench;
use super::{Fate, Offered, Pace, Part, Wanted, offer_some, rows, tell};
use crate::database::{Database, Login};
use crate::http::{Api, block_on, spawn};
use crate::poll::{Look, eventually};
use crate::scenario::Scenario;
use crate::{audit, fault, requests, unique, workflows};

/// How long a piece may take, from when it was due.
const ENDED_WITHIN: Duration = Duration::from_secs(30);
/// How long after the last one all may take that were handed over.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How many pieces a part has at the most: the test bed keeps so many calls for one name.
const PIECES_MAX: u32 = 10_000;
/// For how many in a second pieces are made ready at saturation. Where a service does more, the part
/// ends when there are no more.
const READY_PER_SECOND: u32 = 300;
/// How many are made ready at once.
const MAKERS: usize = 16;

/// What a service does, and how it is given it.
pub trait Work: Send + Sync + 'static {
    /// The service.
    const SERVICE: &'static str;
    /// How many pieces in a second, where nobody asks for another rate.
    const RATE: u32;
    /// All events of a piece that came to its end, in their order.
    const EVENTS: &'static [&'static str];
    /// How many of them are there before it is handed over.
    const EVENTS_BEFORE: usize;
    /// The end.
    const END: End;
    /// What is ready to be handed over.
    type Ready: Send + Sync + 'static;

    /// Makes a piece ready, for a target of this name.
    fn prepare(&self, name: &str) -> impl Future<Output = Result<Self::Ready, ClientError>> + Send;

    /// Hands it over by one write.
    fn hand_over(
        &self,
        ready: &Self::Ready,
    ) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// Waits for what the service does with pieces that are not handed over yet.
    fn settle_before(&self, _database: &mut Database) {}

    /// Looks at all that were brought to their end, beyond what is looked at of every piece.
    fn check(&self, done: &[Done]);
}

/// By what one sees that a piece has ended.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// The request is in this phase, and nothing is executed.
    Request(RequestPhase),
    /// The request is in Executing, and its execution waits.
    Begun,
    /// The same, and its execution is completed.
    Completed,
}

impl End {
    fn request(self) -> RequestPhase {
        match self {
            Self::Request(phase) => phase,
            Self::Begun | Self::Completed => RequestPhase::Executing,
        }
    }

    fn execution(self) -> Option<ExecutionPhase> {
        match self {
            Self::Request(_) => None,
            Self::Begun => Some(ExecutionPhase::Pending),
            Self::Completed => Some(ExecutionPhase::Completed),
        }
    }
}

/// A piece that came to its end, as it is stored.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its request.
    pub request: RemediationRequest,
    /// Its execution, where it has one.
    pub execution: Option<Execution>,
}

/// A piece that was sent.
#[derive(Clone, Debug)]
struct Piece {
    name: String,
    handed_over: HandedOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandedOver {
    Yes,
    No,
    /// No answer came.
    Perhaps,
}

/// Puts both parts of a load on the service, beside pgbench, and tells the figures. `begin` makes what
/// a part needs whose targets have names that begin with this.
///
/// # Panics
/// When something is lost, done twice, or not as it should be.
#[track_caller]
pub fn run<W: Work>(scenario: &Scenario, begin: impl Fn(&str) -> W) {
    let run = scenario.run();
    let wanted = Wanted::of(run, W::RATE);
    let mut database = Database::connect(run, Login::Owner);
    let pgbench = Pgbench::of(run);
    let mut parts = Vec::new();
    for pace in Pace::ALL {
        let ours = format!("load-{}", unique());
        let theirs = format!("pgbench-{}", unique());
        let since = OffsetDateTime::now_utc() - time::Duration::MINUTE;
        let work = Arc::new(begin(&ours));
        let ready = make_ready(&work, &ours, count(&wanted, pace));
        work.settle_before(&mut database);
        let offered = offer_all(scenario, &work, &ready, &wanted, pace);
        let stored = Stored::settled::<W>(scenario, &ours, since, &offered);
        let done = stored.check::<W>(&ready, &offered);
        work.check(&done);
        let first = done.first().unwrap_or_else(|| {
            panic!("none was brought to its end: {:?}", offered.figures());
        });
        let first = first.request.id;
        let script = rows::script(&mut database, &first.to_string(), W::EVENTS_BEFORE, &theirs);
        let still = fault::stop(run, W::SERVICE);
        parts.push(Part {
            pace,
            service: offered.figures(),
            pgbench: pgbench.run(&script, &wanted, pace),
        });
        rows::remove(&mut database, &theirs);
        rows::remove(&mut database, &ours);
        still.end();
    }
    tell(run, &wanted, &parts);
}

/// How many pieces a part may need.
fn count(wanted: &Wanted, pace: Pace) -> u32 {
    let count = match pace {
        Pace::FixedRate => wanted.count(),
        Pace::Saturation => wanted.seconds.saturating_mul(READY_PER_SECOND),
    };
    count.min(PIECES_MAX)
}

/// Pieces by the names of their targets.
type Ready<W> = Arc<Vec<(String, <W as Work>::Ready)>>;

#[track_caller]
fn make_ready<W: Work>(work: &Arc<W>, prefix: &str, count: u32) -> Ready<W> {
    let names: Vec<String> = (0..count)
        .map(|index| format!("{prefix}-{index}"))
        .collect();
    let made = block_on(async {
        let mut makers = JoinSet::new();
        for share in names.chunks(names.len().div_ceil(MAKERS).max(1)) {
            let (work, share) = (Arc::clone(work), share.to_vec());
            makers.spawn(async move {
                let mut made = Vec::new();
                for name in share {
                    let ready = work.prepare(&name).await?;
                    made.push((name, ready));
                }
                Ok::<_, ClientError>(made)
            });
        }
        makers.join_all().await
    });
    let made: Result<Vec<_>, ClientError> = made.into_iter().collect();
    match made {
        Ok(made) => Arc::new(made.into_iter().flatten().collect()),
        Err(error) => panic!("a piece of work cannot be made ready: {error}"),
    }
}

/// Hands them over at this pace, and waits until all that were taken have ended, late ones too.
#[track_caller]
fn offer_all<W: Work>(
    scenario: &Scenario,
    work: &Arc<W>,
    ready: &Ready<W>,
    wanted: &Wanted,
    pace: Pace,
) -> Offered<Piece> {
    let ends = Ends::watched(&scenario.api("datastorage", "e2e-reader"), W::END);
    let count = u32::try_from(ready.len()).unwrap_or(u32::MAX);
    let (shared, work, all) = (ends.clone(), Arc::clone(work), Arc::clone(ready));
    let offered = offer_some(wanted, pace, count, move |index, due| {
        let (ends, work, all) = (shared.clone(), Arc::clone(&work), Arc::clone(&all));
        async move {
            let (name, ready) = &all[usize::try_from(index).unwrap_or(usize::MAX)];
            let (handed_over, fate) = bring(&*work, name, ready, due, &ends).await;
            let name = name.clone();
            (Piece { name, handed_over }, fate)
        }
    });
    let taken = offered.sent.iter().map(|sent| &sent.what);
    let taken = taken.filter(|piece| piece.handed_over == HandedOver::Yes);
    let taken: Vec<&str> = taken.map(|piece| piece.name.as_str()).collect();
    eventually(
        "the end of all that was taken",
        SETTLED_WITHIN,
        || match ends.missing(&taken) {
            Ok(missing) if missing.is_empty() => Look::Seen(()),
            Ok(missing) => Look::NotYet(format!("{} have no end: {missing:?}", missing.len())),
            Err(lost) => panic!("the watch of all ends is over: {lost}"),
        },
    );
    offered
}

/// Hands a piece over and waits for its end.
async fn bring<W: Work>(
    work: &W,
    name: &str,
    ready: &W::Ready,
    due: Instant,
    ends: &Ends,
) -> (HandedOver, Fate) {
    let deadline = due + ENDED_WITHIN;
    if Instant::now() >= deadline {
        // It has waited for its turn all the time.
        return (HandedOver::No, Fate::Unanswered);
    }
    let end = ends.of(name);
    let deadline = tokio::time::Instant::from_std(deadline);
    // Never cut short: the client has a deadline of its own, and what was cut might be taken all the same.
    match work.hand_over(ready).await {
        Ok(()) => {}
        Err(ClientError::Problem { status, .. }) if status < 500 => {
            return (HandedOver::No, Fate::Refused);
        }
        Err(ClientError::Problem { .. }) => return (HandedOver::Perhaps, Fate::Refused),
        Err(_) => return (HandedOver::Perhaps, Fate::Unanswered),
    }
    match tokio::time::timeout_at(deadline, end).await {
        Ok(Ok(())) => (HandedOver::Yes, Fate::Accepted),
        Ok(Err(_)) | Err(_) => (HandedOver::Yes, Fate::Unanswered),
    }
}

/// What has come to its end, by the names of targets, as one watch tells it. The watch ends with this.
#[derive(Clone, Debug)]
struct Ends {
    seen: Arc<Mutex<Seen>>,
    /// Dropped with the last clone.
    _until: Arc<oneshot::Sender<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    ended: HashSet<String>,
    waiting: HashMap<String, oneshot::Sender<()>>,
    /// Why nothing more will be told.
    lost: Option<String>,
}

impl Ends {
    /// All ends from now on.
    #[track_caller]
    fn watched(datastorage: &Api, end: End) -> Self {
        let storage = datastorage.datastorage();
        let storage = storage.unwrap_or_else(|error| panic!("{error}"));
        let opened = block_on(async {
            match end {
                End::Request(_) | End::Begun => {
                    let watch = requests_watch(&storage, end.request()).await?;
                    Ok::<_, ClientError>(Self::follow(watch, |one| one.target.name))
                }
                End::Completed => {
                    let watch = executions_watch(&storage, ExecutionPhase::Completed).await?;
                    Ok(Self::follow(watch, |one| one.target.name))
                }
            }
        });
        opened.unwrap_or_else(|error| panic!("no watch can be opened: {error}"))
    }

    fn follow<P, T>(mut watch: Watch<P, T>, name: fn(T) -> String) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        T: DeserializeOwned + Send + 'static,
    {
        let seen = Arc::<Mutex<Seen>>::default();
        let (until, mut over) = oneshot::channel();
        let told = Arc::clone(&seen);
        spawn(async move {
            loop {
                let next = tokio::select! {
                    _ = &mut over => return,
                    next = watch.next() => next,
                };
                let lost = match next {
                    Ok(Some(change)) => {
                        lock(&told).ended(name(change.item));
                        continue;
                    }
                    Ok(None) => "DataStorage has ended it".to_owned(),
                    Err(error) => error.to_string(),
                };
                let mut seen = lock(&told);
                seen.lost = Some(lost);
                // Whoever waits is told by that.
                seen.waiting.clear();
                return;
            }
        });
        Self {
            seen,
            _until: Arc::new(until),
        }
    }

    /// Told when this one has ended; given up when nobody will know.
    fn of(&self, name: &str) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut seen = lock(&self.seen);
        if seen.lost.is_none() {
            seen.waiting.insert(name.to_owned(), sender);
        }
        receiver
    }

    /// Those of these that have not ended yet.
    fn missing<'a>(&self, names: &[&'a str]) -> Result<Vec<&'a str>, String> {
        let seen = lock(&self.seen);
        let missing = names.iter().filter(|name| !seen.ended.contains(**name));
        let missing: Vec<&str> = missing.copied().collect();
        match &seen.lost {
            Some(lost) if !missing.is_empty() => Err(lost.clone()),
            _ => Ok(missing),
        }
    }
}

impl Seen {
    fn ended(&mut self, name: String) {
        if let Some(waiting) = self.waiting.remove(&name) {
            // Whoever has waited too long has gone.
            let _ = waiting.send(());
        }
        self.ended.insert(name);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn requests_watch(
    storage: &DataStorage,
    phase: RequestPhase,
) -> Result<Watch<RequestPhase, RemediationRequest>, ClientError> {
    let one = RequestQuery {
        limit: Some(1),
        ..RequestQuery::default()
    };
    let from = storage.requests(&one).await?.watch_cursor;
    storage.watch_requests(&[phase], Some(&from)).await
}

async fn executions_watch(
    storage: &DataStorage,
    phase: ExecutionPhase,
) -> Result<Watch<ExecutionPhase, Execution>, ClientError> {
    let one = ExecutionQuery {
        limit: Some(1),
        ..ExecutionQuery::default()
    };
    let from = storage.executions(&one).await?.watch_cursor;
    storage.watch_executions(&[phase], Some(&from)).await
}

/// All that is stored of a part.
struct Stored {
    requests: HashMap<String, Vec<RemediationRequest>>,
    executions: HashMap<uuid::Uuid, Vec<Execution>>,
    /// Their types, by chain and in its order.
    events: HashMap<String, Vec<(i64, String)>>,
    /// Chains that do not verify, or are not as long as what is listed of them.
    broken: Vec<String>,
}

impl Stored {
    /// As soon as each that may have been handed over rests: at its end, or as it was made ready.
    #[track_caller]
    fn settled<W: Work>(
        scenario: &Scenario,
        prefix: &str,
        since: OffsetDateTime,
        offered: &Offered<Piece>,
    ) -> Self {
        let sent = offered.sent.iter().map(|sent| &sent.what);
        let perhaps = sent.filter(|piece| piece.handed_over == HandedOver::Perhaps);
        let perhaps: Vec<&str> = perhaps.map(|piece| piece.name.as_str()).collect();
        eventually("the rest of all", SETTLED_WITHIN, || {
            let stored = Self::read(scenario, prefix, since);
            let moving = stored.moving::<W>(&perhaps);
            match moving.is_empty() {
                true => Look::Seen(stored),
                false => Look::NotYet(format!("{} are on their way: {moving:?}", moving.len())),
            }
        })
    }

    /// Those of these that are neither at their end nor as they were made ready.
    fn moving<'a, W: Work>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let rests = |request: &RemediationRequest| {
            let events = self.events.get(&request.id.to_string());
            let events: Vec<&str> = events
                .into_iter()
                .flatten()
                .map(|(_, kind)| kind.as_str())
                .collect();
            let is_ended = events == W::EVENTS && request.phase == W::END.request();
            let executions = self
                .executions
                .get(&request.id)
                .map_or(&[][..], Vec::as_slice);
            let ends = executions.iter().map(|one| one.phase);
            let has_ended = ends.eq(W::END.execution());
            let is_untouched = events == W::EVENTS[..W::EVENTS_BEFORE] && executions.is_empty();
            is_ended && has_ended || is_untouched
        };
        let moving = names.iter().filter(|name| {
            let mut found = self.requests.get(**name).into_iter().flatten();
            !found.all(rests)
        });
        moving.copied().collect()
    }

    #[track_caller]
    fn read(scenario: &Scenario, prefix: &str, since: OffsetDateTime) -> Self {
        let api = scenario.api("datastorage", "e2e-reader");
        let mut requests = HashMap::<String, Vec<_>>::new();
        for request in requests::list(&api, "limit=500") {
            if request.target.name.starts_with(prefix) {
                let of_target = requests.entry(request.target.name.clone()).or_default();
                of_target.push(request);
            }
        }
        let mut executions = HashMap::<_, Vec<_>>::new();
        for execution in workflows::list(&api) {
            if execution.target.name.starts_with(prefix) {
                let of_request = executions.entry(execution.request_id).or_default();
                of_request.push(execution);
            }
        }
        let since = since.format(&Rfc3339).expect("a time");
        let mut events = HashMap::<String, Vec<_>>::new();
        for event in audit::list(&api, &format!("since={since}&limit=1000")) {
            let chain = events.entry(event.event.correlation_id).or_default();
            chain.push((event.chain_seq, event.event.event_type));
        }
        events.values_mut().for_each(|chain| chain.sort_unstable());
        let ids = requests.values().flatten();
        let ids: Vec<String> = ids.map(|request| request.id.to_string()).collect();
        let verdicts = audit::verdicts(&api, &ids).into_iter();
        let broken = verdicts.filter(|verdict| {
            let listed = events.get(&verdict.correlation_id).map_or(0, Vec::len);
            !verdict.intact || usize::try_from(verdict.event_count) != Ok(listed)
        });
        Self {
            broken: broken.map(|verdict| format!("{verdict:?}")).collect(),
            requests,
            executions,
            events,
        }
    }

    /// Each that was handed over is there once, with every event once and in order, in the phase in
    /// which it should be, and with its execution; each that was not is as it was made ready; and
    /// nothing else is there. Gives those that were handed over.
    #[track_caller]
    fn check<W: Work>(
        mut self,
        ready: &[(String, W::Ready)],
        offered: &Offered<Piece>,
    ) -> Vec<Done> {
        assert!(self.broken.is_empty(), "{:?}", self.broken);
        let sent = offered.sent.iter();
        let sent = sent.map(|sent| (sent.what.name.as_str(), sent.what.handed_over));
        let sent: HashMap<&str, HandedOver> = sent.collect();
        assert_eq!(sent.len(), offered.sent.len(), "one was sent twice");
        let mut done = Vec::new();
        for (name, _) in ready {
            let handed_over = sent.get(name.as_str()).copied().unwrap_or(HandedOver::No);
            let mut found = self.requests.remove(name).unwrap_or_default();
            let request = found.pop();
            assert!(found.is_empty(), "{name}: {} requests", found.len() + 1);
            let Some(request) = request else {
                let may_be_absent = handed_over != HandedOver::Yes && W::EVENTS_BEFORE == 0;
                assert!(may_be_absent, "{name} was taken and is not there");
                continue;
            };
            let found = self.take(request);
            match handed_over {
                HandedOver::Yes => done.push(found.expect_ended::<W>()),
                HandedOver::No => found.expect_untouched::<W>(),
                HandedOver::Perhaps if found.events.len() > W::EVENTS_BEFORE => {
                    done.push(found.expect_ended::<W>());
                }
                HandedOver::Perhaps => found.expect_untouched::<W>(),
            }
        }
        assert!(self.requests.is_empty(), "unsent: {:?}", self.requests);
        assert!(self.executions.is_empty(), "unsent: {:?}", self.executions);
        self.expect_no_event_elsewhere::<W>();
        done
    }

    fn take(&mut self, request: RemediationRequest) -> Found {
        let events = self.events.remove(&request.id.to_string());
        let events = events.unwrap_or_default().into_iter();
        Found {
            executions: self.executions.remove(&request.id).unwrap_or_default(),
            events: events.map(|(_, kind)| kind).collect(),
            request,
        }
    }

    /// The chains of all pieces were taken out.
    #[track_caller]
    fn expect_no_event_elsewhere<W: Work>(&self) {
        for (chain, events) in &self.events {
            for (_, kind) in events {
                let foreign = !W::EVENTS.contains(&kind.as_str());
                assert!(foreign, "{kind} in {chain}, which is no piece of this load");
            }
        }
    }
}

/// What is stored of one piece.
#[derive(Debug)]
struct Found {
    request: RemediationRequest,
    executions: Vec<Execution>,
    events: Vec<String>,
}

impl Found {
    #[track_caller]
    fn expect_ended<W: Work>(mut self) -> Done {
        let Self { request, .. } = &self;
        assert_eq!(self.events, W::EVENTS, "events of {}", request.id);
        assert_eq!(request.phase, W::END.request(), "{request:#?}");
        let phases: Vec<ExecutionPhase> = self.executions.iter().map(|one| one.phase).collect();
        let expected: Vec<ExecutionPhase> = W::END.execution().into_iter().collect();
        assert_eq!(phases, expected, "{self:#?}");
        Done {
            request: self.request,
            execution: self.executions.pop(),
        }
    }

    #[track_caller]
    fn expect_untouched<W: Work>(&self) {
        let expected = &W::EVENTS[..W::EVENTS_BEFORE];
        let id = self.request.id;
        assert_eq!(self.events, expected, "events of {id}, not handed over");
        assert!(self.executions.is_empty(), "{self:#?}");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Work of which the created request is there before.
    struct Moved;

    impl Work for Moved {
        const SERVICE: &'static str = "mover";
        const RATE: u32 = 1;
        const EVENTS: &'static [&'static str] = &["created", "moved"];
        const EVENTS_BEFORE: usize = 1;
        const END: End = End::Request(RequestPhase::Analyzing);
        type Ready = ();

        async fn prepare(&self, _name: &str) -> Result<(), ClientError> {
            Ok(())
        }

        async fn hand_over(&self, _ready: &()) -> Result<(), ClientError> {
            Ok(())
        }

        fn check(&self, _done: &[Done]) {}
    }

    fn request(name: &str, id: u128, phase: &str) -> RemediationRequest {
        let request = json!({
            "id": uuid::Uuid::from_u128(id), "resource_version": 2, "phase": phase,
            "fingerprint": "f",
            "target": {"cluster": "c", "namespace": "n", "kind": "Deployment", "name": name},
            "severity": "critical",
            "signal": {"source": "s", "name": "n", "labels": {}, "annotations": {}},
            "occurrence_count": 1, "reason": null, "lease_holder": null, "lease_deadline": null,
            "classification": null, "workflow": null, "execution_id": null, "attempt": 0,
            "blocked_until": null, "phase_deadline": null,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        });
        serde_json::from_value(request).expect("a request")
    }

    /// One that was handed over and one that was not, as they should be.
    fn stored() -> Stored {
        let (done, ready) = (request("a", 1, "Analyzing"), request("b", 2, "Pending"));
        let events = |request: &RemediationRequest, kinds: &[&str]| {
            let kinds = kinds.iter().map(|kind| (*kind).to_owned());
            (request.id.to_string(), (1..).zip(kinds).collect())
        };
        Stored {
            events: HashMap::from([
                events(&done, &["created", "moved"]),
                events(&ready, &["created"]),
            ]),
            requests: HashMap::from([("a".to_owned(), vec![done]), ("b".to_owned(), vec![ready])]),
            executions: HashMap::new(),
            broken: Vec::new(),
        }
    }

    fn checked(stored: Stored) -> usize {
        checked_as(stored, HandedOver::Yes)
    }

    fn checked_as(stored: Stored, handed_over: HandedOver) -> usize {
        let ready = ["a", "b"].map(|name| (name.to_owned(), ()));
        let sent = super::super::Sent {
            what: Piece {
                name: "a".to_owned(),
                handed_over,
            },
            fate: Fate::Accepted,
            took: Duration::ZERO,
        };
        let offered = Offered {
            sent: vec![sent],
            lasted: Duration::ZERO,
        };
        stored.check::<Moved>(&ready, &offered).len()
    }

    #[test]
    fn what_was_handed_over_is_given() {
        assert_eq!(checked(stored()), 1);
    }

    #[test]
    fn what_is_lost_or_done_twice_or_nobodys_is_found() {
        type Spoil = fn(&mut Stored);
        let spoils: [(&str, Spoil); 7] = [
            ("the chain is broken", |all| all.broken.push("b".to_owned())),
            ("the request is not there", |all| {
                drop(all.requests.remove("a"));
            }),
            ("there are two", |all| {
                let twice = request("a", 3, "Analyzing");
                all.requests.entry("a".to_owned()).or_default().push(twice);
            }),
            ("it is in another phase", |all| {
                let other = vec![request("a", 1, "Processing")];
                all.requests.insert("a".to_owned(), other);
            }),
            ("nobody has sent it", |all| {
                let other = vec![request("c", 3, "Pending")];
                all.requests.insert("c".to_owned(), other);
            }),
            ("what was not handed over was moved", |all| {
                let id = all.requests["b"][0].id.to_string();
                let events = all.events.entry(id).or_default();
                events.push((2, "moved".to_owned()));
            }),
            ("an event is of nobody", |all| {
                let events = vec![(1, "moved".to_owned())];
                all.events.insert("another".to_owned(), events);
            }),
        ];
        for (what, spoil) in spoils {
            let mut spoilt = stored();
            spoil(&mut spoilt);
            let found = std::panic::catch_unwind(|| checked(spoilt));
            assert!(found.is_err(), "not found: {what}");
        }
        for count in [1, 3] {
            let mut spoilt = stored();
            let id = spoilt.requests["a"][0].id.to_string();
            let moved = spoilt.events.entry(id).or_default();
            moved.resize(count, (2, "moved".to_owned()));
            let found = std::panic::catch_unwind(|| checked(spoilt));
            assert!(found.is_err(), "not found: {count} events");
        }
    }

    #[test]
    fn what_may_have_been_handed_over_is_awaited_and_then_judged() {
        let kinds = |all: &mut Stored, kinds: &[&str]| {
            let id = all.requests["a"][0].id.to_string();
            let kinds = kinds.iter().map(|kind| (*kind).to_owned());
            all.events.insert(id, (1..).zip(kinds).collect());
        };
        let mut taken = stored();
        assert!(taken.moving::<Moved>(&["a", "b"]).is_empty());
        kinds(&mut taken, &["created", "moved", "moved"]);
        assert_eq!(taken.moving::<Moved>(&["a", "b"]), ["a"]);
        let twice = std::panic::catch_unwind(|| checked_as(taken, HandedOver::Perhaps));
        assert!(twice.is_err(), "done twice");
        assert_eq!(checked_as(stored(), HandedOver::Perhaps), 1);
        let mut untaken = stored();
        kinds(&mut untaken, &["created"]);
        assert!(untaken.moving::<Moved>(&["a"]).is_empty());
        assert_eq!(checked_as(untaken, HandedOver::Perhaps), 0);
    }

    #[test]
    fn whoever_waits_is_told_of_its_own_end() {
        let ends = Ends {
            seen: Arc::default(),
            _until: Arc::new(oneshot::channel().0),
        };
        let (first, second) = (ends.of("a"), ends.of("b"));
        // A watch may repeat.
        for name in ["a", "a", "c"] {
            lock(&ends.seen).ended(name.to_owned());
        }
        assert_eq!(block_on(first), Ok(()));
        assert_eq!(ends.missing(&["a", "b"]), Ok(vec!["b"]));
        let mut seen = lock(&ends.seen);
        seen.lost = Some("cut".to_owned());
        seen.waiting.clear();
        drop(seen);
        assert!(block_on(second).is_err(), "nobody will know");
        assert!(block_on(ends.of("d")).is_err(), "nobody will know");
        assert_eq!(ends.missing(&["a"]), Ok(Vec::new()));
        assert_eq!(ends.missing(&["b"]), Err("cut".to_owned()));
    }
}
