//! Watches: transitions as server-sent events, from a cursor on, for as long as the client stays.
//! A watch looks when the database says that something changed, and each second besides, since
//! that may be lost. It keeps nothing: the cursor in the client's hand is all there is.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use common::api::Change;
use common::problem::{Answer, Problem};
use common::shutdown::Shutdown;
use futures_util::stream;
use serde::Serialize;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::domain::page::InChanges;
use crate::store::changes::Look;

/// Watches at the same time: they may last for ever, so they are bounded in number.
pub(crate) const WATCHES_MAX: usize = 64;
/// A watch looks at least this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A watch that has nothing to tell says so this often, with its cursor.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(2);
/// The channel on which the database says that something changed.
const CHANNEL: &str = "changes";

/// What watches share.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    shutdown: Shutdown,
    places: Arc<Semaphore>,
    woken: watch::Sender<u64>,
}

impl Watches {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            places: Arc::new(Semaphore::new(WATCHES_MAX)),
            woken: watch::Sender::new(0),
        }
    }

    /// Wakes every watch when the database says that something changed, until shutdown. The
    /// connection is its own, the one of `pool`.
    pub(crate) async fn listen(self, pool: PgPool) -> anyhow::Result<()> {
        const PAUSE: Duration = Duration::from_millis(500);
        loop {
            match self.shutdown.unless_requested(self.follow(&pool)).await {
                None => return Ok(()),
                Some(Err(error)) => tracing::debug!(%error, "the database tells no changes"),
                Some(Ok(())) => {}
            }
            if !self.shutdown.sleep(PAUSE).await {
                return Ok(());
            }
        }
    }

    async fn follow(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        self.wake();
        loop {
            // `None` is a lost connection, and what was said meanwhile is lost with it.
            listener.try_recv().await?;
            self.wake();
        }
    }

    fn wake(&self) {
        self.woken
            .send_modify(|times| *times = times.wrapping_add(1));
    }

    /// Answers with what `look` gives, from `after` on.
    pub(crate) async fn answer<P, T, F>(
        &self,
        after: InChanges,
        look: impl Fn(InChanges) -> F + Send + 'static,
    ) -> Answer<Response>
    where
        P: Serialize + Send + 'static,
        T: Serialize + Send + 'static,
        F: Future<Output = Answer<Look<P, T>>> + Send,
    {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| {
            Problem::unavailable(format!(
                "{WATCHES_MAX} watches are open, more are not taken"
            ))
        })?;
        // Marked before the first look, so that nothing said during it is slept over.
        let mut woken = self.woken.subscribe();
        woken.mark_unchanged();
        let first = look(after).await?;
        metrics::counter!("watches_opened_total").increment(1);
        let mut open = Open {
            look,
            woken,
            shutdown: self.shutdown.clone(),
            cursor: after,
            waiting: VecDeque::new(),
            told_at: Instant::now(),
            _place: place,
        };
        open.take(first);
        let events = stream::unfold(open, |mut open| async {
            let event = open.next().await?;
            Some((Ok::<_, Infallible>(event), open))
        });
        Ok(Sse::new(events).into_response())
    }
}

/// A watch that is open.
struct Open<L> {
    look: L,
    woken: watch::Receiver<u64>,
    shutdown: Shutdown,
    cursor: InChanges,
    waiting: VecDeque<Event>,
    told_at: Instant,
    _place: OwnedSemaphorePermit,
}

impl<L> Open<L> {
    /// The next event; `None` ends the watch, which the client begins anew.
    async fn next<P, T, F>(&mut self) -> Option<Event>
    where
        L: Fn(InChanges) -> F,
        P: Serialize,
        T: Serialize,
        F: Future<Output = Answer<Look<P, T>>>,
    {
        loop {
            if self.shutdown.is_requested() {
                return None;
            }
            if let Some(event) = self.waiting.pop_front() {
                self.told_at = Instant::now();
                return Some(event);
            }
            if self.told_at.elapsed() >= BOOKMARK_INTERVAL {
                self.told_at = Instant::now();
                let bookmark = Event::default().event("bookmark").data("{}");
                return Some(bookmark.id(self.cursor.to_string()));
            }
            let changed = tokio::time::timeout(LOOK_INTERVAL, self.woken.changed());
            self.shutdown.unless_requested(changed).await?.ok();
            let seen = (self.look)(self.cursor).await.ok()?;
            self.take(seen);
        }
    }

    fn take<P: Serialize, T: Serialize>(&mut self, seen: Look<P, T>) {
        let tell = |(cursor, change): (InChanges, Change<P, T>)| {
            let event = Event::default().event("change").id(cursor.to_string());
            event.json_data(change).ok()
        };
        self.waiting
            .extend(seen.changes.into_iter().filter_map(tell));
        self.cursor = seen.cursor;
    }
}
