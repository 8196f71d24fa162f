//! Load: requests at a fixed rate and at saturation, what came of them, and how long they took. At a
//! fixed rate a request counts from the moment at which it was due, so that one that had to wait for
//! others is not taken for a fast one. Bounded in count and time, and it judges nothing: what was
//! stored is looked at by the test.

pub mod pgbench;
pub mod rows;
pub mod work;

use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::crowd::at_pace;
use crate::http::spawn;
use crate::run::Run;

/// How many are sent in a second where nobody has asked for a load.
const LITTLE_RATE: u32 = 50;
/// What a part of a load sends at the most.
const COUNT_MAX: u32 = 50_000;
/// How many requests are under way at a fixed rate at the most. Those that wait for their turn count
/// from when they were due.
const UNDER_WAY_MAX: usize = 64;
/// How long answers may come after the last request was due.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// What whoever made the run asks for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// The service's own, where there is none.
    rate: Option<u32>,
    seconds: u32,
    connections: u32,
}

/// How much load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Wanted {
    /// Requests in a second, at the fixed rate.
    pub rate: u32,
    /// How long each part lasts.
    pub seconds: u32,
    /// How many send at saturation, each the next when the last was answered.
    pub connections: u32,
}

impl Wanted {
    /// What whoever made the run has written into its folder, where no rate stands at this one; little,
    /// where nobody has.
    ///
    /// # Panics
    /// When what stands there cannot be read, or is nothing.
    #[must_use]
    #[track_caller]
    pub fn of(run: &Run, usual_rate: u32) -> Self {
        let path = run.run_directory.join("load-wanted.json");
        let asked = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).expect("what is wanted"),
            Err(error) if error.kind() == ErrorKind::NotFound => Asked {
                rate: Some(LITTLE_RATE.min(usual_rate)),
                seconds: 3,
                connections: 8,
            },
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let wanted = Self {
            rate: asked.rate.unwrap_or(usual_rate),
            seconds: asked.seconds,
            connections: asked.connections,
        };
        let Self {
            rate,
            seconds,
            connections,
        } = wanted;
        assert!(rate > 0 && seconds > 0 && connections > 0, "{wanted:?}");
        wanted
    }

    /// How many are sent at the fixed rate.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.rate.saturating_mul(self.seconds).min(COUNT_MAX)
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }
}

/// In what way requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// So many in a second, whatever becomes of them.
    FixedRate,
    /// As many as are answered.
    Saturation,
}

impl Pace {
    /// Both, in their order.
    pub const ALL: [Self; 2] = [Self::FixedRate, Self::Saturation];
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was done, says the answer.
    Accepted,
    /// The answer says something else.
    Refused,
    /// No answer came.
    Unanswered,
}

impl Fate {
    /// By the status code, of which these are good.
    #[must_use]
    pub fn of(status: Option<u16>, good: &[u16]) -> Self {
        match status {
            Some(status) if good.contains(&status) => Self::Accepted,
            Some(_) => Self::Refused,
            None => Self::Unanswered,
        }
    }
}

/// A request that was sent.
#[derive(Clone, Debug)]
pub struct Sent<T> {
    /// What it was about.
    pub what: T,
    /// What became of it.
    pub fate: Fate,
    /// From when it was due, or sent at saturation, to its answer.
    pub took: Duration,
}

/// All requests of one part of a load.
#[derive(Clone, Debug)]
pub struct Offered<T> {
    /// Each of them, in the order of their answers.
    pub sent: Vec<Sent<T>>,
    /// From the first request to the last answer.
    pub lasted: Duration,
}

/// Sends what `request` makes for 0, 1, 2, ... at this pace, and waits for all answers.
///
/// # Panics
/// When some come too late.
#[track_caller]
pub fn offer<T, F>(
    wanted: &Wanted,
    pace: Pace,
    request: impl Fn(u32) -> F + Send + Sync + 'static,
) -> Offered<T>
where
    T: Send + 'static,
    F: Future<Output = (T, Fate)> + Send + 'static,
{
    offer_some(wanted, pace, COUNT_MAX, move |index, _| request(index))
}

/// The same for no more than `count`; `request` is told besides when it was due.
///
/// # Panics
/// When some come too late.
#[track_caller]
pub fn offer_some<T, F>(
    wanted: &Wanted,
    pace: Pace,
    count: u32,
    request: impl Fn(u32, Instant) -> F + Send + Sync + 'static,
) -> Offered<T>
where
    T: Send + 'static,
    F: Future<Output = (T, Fate)> + Send + 'static,
{
    let (sender, receiver) = channel();
    let begun = Instant::now();
    match pace {
        Pace::FixedRate => at_fixed_rate(wanted, count, request, sender),
        Pace::Saturation => at_saturation(wanted, count, request, sender),
    }
    let sent = collect(&receiver, begun + wanted.lasts() + ANSWERED_WITHIN);
    Offered {
        sent,
        lasted: begun.elapsed(),
    }
}

/// Begins each when it is due. Here and below the sender goes with the last request, so that whoever
/// receives knows the end.
fn at_fixed_rate<T, F>(
    wanted: &Wanted,
    count: u32,
    request: impl Fn(u32, Instant) -> F,
    sender: Sender<Sent<T>>,
) where
    T: Send + 'static,
    F: Future<Output = (T, Fate)> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    at_pace(wanted.count().min(count), wanted.rate, |index, due| {
        let (request, room, sender) = (request(index, due), Arc::clone(&room), sender.clone());
        spawn(async move {
            // It is never closed.
            let _turn = room.acquire().await;
            let (what, fate) = request.await;
            let took = due.elapsed();
            // Whoever has waited too long has gone.
            let _ = sender.send(Sent { what, fate, took });
        });
    });
}

/// Begins as many as there are connections, each of which goes on until the time is over.
fn at_saturation<T, F>(
    wanted: &Wanted,
    count: u32,
    request: impl Fn(u32, Instant) -> F + Send + Sync + 'static,
    sender: Sender<Sent<T>>,
) where
    T: Send + 'static,
    F: Future<Output = (T, Fate)> + Send + 'static,
{
    let (request, next) = (Arc::new(request), Arc::new(AtomicU32::new(0)));
    let end = Instant::now() + wanted.lasts();
    for _ in 0..wanted.connections {
        let (request, next, sender) = (Arc::clone(&request), Arc::clone(&next), sender.clone());
        spawn(async move {
            while Instant::now() < end {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    break;
                }
                let begun = Instant::now();
                let (what, fate) = request(index, begun).await;
                let took = begun.elapsed();
                let _ = sender.send(Sent { what, fate, took });
            }
        });
    }
}

#[track_caller]
fn collect<T>(receiver: &Receiver<Sent<T>>, deadline: Instant) -> Vec<Sent<T>> {
    let mut all = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left) {
            Ok(sent) => all.push(sent),
            Err(RecvTimeoutError::Disconnected) => return all,
            Err(RecvTimeoutError::Timeout) => {
                panic!(
                    "some have no answer {ANSWERED_WITHIN:?} after the last was due; {} have one",
                    all.len()
                )
            }
        }
    }
}

/// Figures of one part of a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// How many were sent.
    pub offered: usize,
    /// How many of them were done.
    pub accepted: usize,
    /// How many were answered with anything else.
    pub refused: usize,
    /// How many got no answer.
    pub unanswered: usize,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Accepted in a second.
    pub per_second: f64,
    /// What half of them took at the most: of all but the refused, which are answered soon.
    pub p50_milliseconds: f64,
    /// What 99 of 100 took at the most.
    pub p99_milliseconds: f64,
    /// What the slowest took.
    pub max_milliseconds: f64,
}

impl<T> Offered<T> {
    /// What it comes to.
    ///
    /// # Panics
    /// When everything was refused.
    #[must_use]
    #[track_caller]
    pub fn figures(&self) -> Figures {
        let count = |fate| self.sent.iter().filter(|sent| sent.fate == fate).count();
        let not_refused = self.sent.iter().filter(|sent| sent.fate != Fate::Refused);
        let accepted = count(Fate::Accepted);
        let seconds = self.lasted.as_secs_f64();
        Figures {
            offered: self.sent.len(),
            accepted,
            refused: count(Fate::Refused),
            unanswered: count(Fate::Unanswered),
            seconds,
            per_second: per_second(accepted, seconds),
            ..Figures::of_times(not_refused.map(|sent| sent.took).collect())
        }
    }
}

fn per_second(count: usize, seconds: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds
}

impl Figures {
    /// Of requests that all were accepted, with what each of them took.
    ///
    /// # Panics
    /// When there are none.
    #[must_use]
    #[track_caller]
    fn of_times(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let milliseconds = |percent| percentile(&took, percent).as_secs_f64() * 1e3;
        Self {
            offered: took.len(),
            accepted: took.len(),
            refused: 0,
            unanswered: 0,
            seconds: 0.0,
            per_second: 0.0,
            p50_milliseconds: milliseconds(50),
            p99_milliseconds: milliseconds(99),
            max_milliseconds: milliseconds(100),
        }
    }
}

/// The smallest of these, sorted, that so many of 100 do not exceed.
#[track_caller]
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    assert!(!sorted.is_empty(), "nothing was accepted");
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.max(1) - 1]
}

/// One part of a load, and the same rows by pgbench.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// In what way it was sent.
    pub pace: Pace,
    /// What the service did.
    pub service: Figures,
    /// What pgbench did.
    pub pgbench: Figures,
}

/// Writes `load.json` into the folder of the run.
///
/// # Panics
/// When it cannot be written.
#[track_caller]
pub fn tell(run: &Run, wanted: &Wanted, parts: &[Part]) {
    let load = serde_json::json!({"service": run.target, "wanted": wanted, "parts": parts});
    let text = serde_json::to_string_pretty(&load).expect("JSON");
    let path = run.run_directory.join("load.json");
    if let Err(error) = fs::write(&path, format!("{text}\n")) {
        panic!("{}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        rate: 200,
        seconds: 1,
        connections: 3,
    };

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        for (percent, milliseconds) in [(50, 100), (99, 198), (100, 200), (0, 1)] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(percentile(&times, percent), expected, "{percent}");
        }
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
        let few = [1, 2, 3].map(Duration::from_millis);
        assert_eq!(percentile(&few, 50), few[1]);
        assert_eq!(percentile(&few, 99), few[2]);
    }

    #[test]
    fn what_was_refused_at_once_makes_no_load_look_fast() {
        let sent = |fate, milliseconds| Sent {
            what: (),
            fate,
            took: Duration::from_millis(milliseconds),
        };
        let offered = Offered {
            sent: vec![
                sent(Fate::Refused, 1),
                sent(Fate::Accepted, 10),
                sent(Fate::Refused, 1),
                sent(Fate::Unanswered, 30_000),
            ],
            lasted: Duration::from_secs(2),
        };
        let figures = offered.figures();
        assert_eq!((figures.offered, figures.accepted), (4, 1));
        assert_eq!((figures.refused, figures.unanswered), (2, 1));
        assert!((figures.per_second - 0.5).abs() < 1e-9, "{figures:?}");
        assert!((figures.p50_milliseconds - 10.0).abs() < 1e-9);
        assert!((figures.max_milliseconds - 30_000.0).abs() < 1e-6);
    }

    #[test]
    fn at_a_fixed_rate_a_stall_is_seen_by_all_that_were_due_meanwhile() {
        // The first holds every place for a fifth of a second.
        let stall = Arc::new(Semaphore::new(0));
        let begun = Instant::now();
        let offered = offer(&WANTED, Pace::FixedRate, move |index| {
            let stall = Arc::clone(&stall);
            async move {
                if index == 40 {
                    stall.add_permits(Semaphore::MAX_PERMITS);
                }
                let _over = stall.acquire().await;
                (index, Fate::Accepted)
            }
        });
        assert!(begun.elapsed() >= Duration::from_millis(990));
        assert_eq!(offered.sent.len(), 200);
        let took = |wanted: u32| {
            let mut sent = offered.sent.iter();
            sent.find(|sent| sent.what == wanted).expect("sent").took
        };
        assert!(took(0) >= Duration::from_millis(195), "{:?}", took(0));
        assert!(took(20) >= Duration::from_millis(95), "{:?}", took(20));
    }

    #[test]
    fn at_saturation_as_many_are_under_way_as_there_are_connections() {
        let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let seen = Arc::clone(&most);
        let offered = offer(&WANTED, Pace::Saturation, move |index| {
            let (now, most) = (Arc::clone(&now), Arc::clone(&most));
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>())
                    .await
                    .expect_err("it never ends");
                now.fetch_sub(1, Ordering::SeqCst);
                (index, Fate::Accepted)
            }
        });
        assert_eq!(seen.load(Ordering::SeqCst), WANTED.connections);
        assert!(offered.lasted >= Duration::from_secs(1));
        let mut indexes: Vec<u32> = offered.sent.iter().map(|sent| sent.what).collect();
        indexes.sort_unstable();
        let all = 0..u32::try_from(indexes.len()).expect("few");
        assert!(indexes.iter().copied().eq(all), "each once");
    }

    #[test]
    fn a_load_is_bounded() {
        let much = Wanted {
            rate: 1_000_000,
            seconds: u32::MAX,
            connections: 1,
        };
        assert_eq!(much.count(), COUNT_MAX);
        assert_eq!(WANTED.count(), 200);
    }
}
