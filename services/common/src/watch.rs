//! The client's side of a watch: server-sent events of DataStorage, read one by one; and following,
//! which is a list and then a watch from that list on, again and again. Whoever follows is handed
//! everything that is there and every transition after it, some of them more than once.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use reqwest::Response;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{Change, Execution, ExecutionQuery, RemediationRequest, RequestQuery};
use crate::client::{ClientError, DataStorage};
use crate::shutdown::Shutdown;
use crate::transitions::{ExecutionPhase, RequestPhase};

/// A watch says something at least every two seconds; one that is silent for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// After so long all is listed again: a second pair of eyes, should a step have been given up.
const RESYNC_INTERVAL: Duration = Duration::from_secs(15);
/// Between two tries while DataStorage is away.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How much a list gives at once.
const PAGE_SIZE: u32 = 500;
/// An event is one row; one larger than this is none.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// An open watch.
#[derive(Debug)]
pub struct Watch<P, T> {
    response: Response,
    read: Parser,
    cursor: Option<String>,
    what: PhantomData<fn() -> (P, T)>,
}

impl<P: DeserializeOwned, T: DeserializeOwned> Watch<P, T> {
    pub(crate) fn new(response: Response) -> Self {
        Self {
            response,
            read: Parser::default(),
            cursor: None,
            what: PhantomData,
        }
    }

    /// The cursor after all that was told so far, for the next watch.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// The next transition; `None` when DataStorage ended the watch, as it does when it ends.
    ///
    /// # Errors
    /// When the connection is lost or silent, or what comes is not understood.
    pub async fn next(&mut self) -> Result<Option<Change<P, T>>, ClientError> {
        loop {
            while let Some(event) = self.read.events.pop_front() {
                if !event.id.is_empty() {
                    self.cursor = Some(event.id);
                }
                if event.name == "change" {
                    let change = serde_json::from_str(&event.data);
                    return change
                        .map(Some)
                        .map_err(|error| ClientError::NotUnderstood(error.to_string()));
                }
            }
            let lost = |why: &dyn fmt::Display| ClientError::Unreachable(why.to_string());
            let chunk = tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await;
            match chunk {
                Err(_) => return Err(lost(&"the watch is silent")),
                Ok(Err(error)) => return Err(lost(&error)),
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some(bytes))) => self.read.take(&bytes)?,
            }
        }
    }
}

/// Server-sent events, as far as DataStorage writes them.
#[derive(Debug, Default)]
struct Parser {
    /// A line that has no end yet.
    rest: Vec<u8>,
    /// An event that has no end yet.
    event: Event,
    events: VecDeque<Event>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: String,
    name: String,
    data: String,
}

impl Parser {
    fn take(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = std::str::from_utf8(&line)
                .map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
            self.line(line.trim_end_matches(['\r', '\n']));
        }
        if self.rest.len() > EVENT_BYTES_MAX {
            let why = format!("a line of more than {EVENT_BYTES_MAX} bytes");
            return Err(ClientError::NotUnderstood(why));
        }
        Ok(())
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if event != Event::default() {
                self.events.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.event.id),
            "event" => value.clone_into(&mut self.event.name),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // A comment, or what is not known yet.
            _ => {}
        }
    }
}

/// Hands over every request in one of these phases, now and whenever one enters them, until
/// shutdown or until nobody takes them any more.
pub async fn follow_requests(
    storage: DataStorage,
    phases: Vec<RequestPhase>,
    shutdown: Shutdown,
    found: mpsc::Sender<RemediationRequest>,
) {
    let mut pauses = Pauses::default();
    while !found.is_closed() {
        let once = requests_once(&storage, &phases, &found);
        let ended = shutdown.unless_requested(once).await;
        if !pauses.after(ended, &shutdown).await {
            return;
        }
    }
}

/// A list, and a watch from it on.
async fn requests_once(
    storage: &DataStorage,
    phases: &[RequestPhase],
    found: &mpsc::Sender<RemediationRequest>,
) -> Result<(), ClientError> {
    let mut query = RequestQuery {
        phase: phases.to_vec(),
        limit: Some(PAGE_SIZE),
        ..RequestQuery::default()
    };
    let mut from = None;
    loop {
        let page = storage.requests(&query).await?;
        // The first page is the earliest moment.
        from.get_or_insert(page.watch_cursor);
        hand_over(found, page.items).await?;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    let watch = storage.watch_requests(phases, from.as_deref()).await?;
    watched(watch, found).await
}

/// Hands over every execution in one of these phases, now and whenever one enters them, until
/// shutdown or until nobody takes them any more.
pub async fn follow_executions(
    storage: DataStorage,
    phases: Vec<ExecutionPhase>,
    shutdown: Shutdown,
    found: mpsc::Sender<Execution>,
) {
    let mut pauses = Pauses::default();
    while !found.is_closed() {
        let once = executions_once(&storage, &phases, &found);
        let ended = shutdown.unless_requested(once).await;
        if !pauses.after(ended, &shutdown).await {
            return;
        }
    }
}

async fn executions_once(
    storage: &DataStorage,
    phases: &[ExecutionPhase],
    found: &mpsc::Sender<Execution>,
) -> Result<(), ClientError> {
    let mut query = ExecutionQuery {
        phase: phases.to_vec(),
        limit: Some(PAGE_SIZE),
        ..ExecutionQuery::default()
    };
    let mut from = None;
    loop {
        let page = storage.executions(&query).await?;
        from.get_or_insert(page.watch_cursor);
        hand_over(found, page.items).await?;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    let watch = storage.watch_executions(phases, from.as_deref()).await?;
    watched(watch, found).await
}

/// Hands over the executions that enter one of these phases from now on, without those that are in
/// them already: for ends, of which there are ever more.
pub async fn follow_new_executions(
    storage: DataStorage,
    phases: Vec<ExecutionPhase>,
    shutdown: Shutdown,
    found: mpsc::Sender<Execution>,
) {
    let mut pauses = Pauses::default();
    let mut from = None;
    while !found.is_closed() {
        let once = new_executions_once(&storage, &phases, &found, &mut from);
        let ended = shutdown.unless_requested(once).await;
        if !pauses.after(ended, &shutdown).await {
            return;
        }
    }
}

async fn new_executions_once(
    storage: &DataStorage,
    phases: &[ExecutionPhase],
    found: &mpsc::Sender<Execution>,
    from: &mut Option<String>,
) -> Result<(), ClientError> {
    if from.is_none() {
        let query = ExecutionQuery {
            limit: Some(1),
            ..ExecutionQuery::default()
        };
        *from = Some(storage.executions(&query).await?.watch_cursor);
    }
    let mut watch = storage.watch_executions(phases, from.as_deref()).await?;
    loop {
        let Some(change) = watch.next().await? else {
            return Ok(());
        };
        hand_over(found, vec![change.item]).await?;
        // Only now: what was not handed over is told again.
        if let Some(cursor) = watch.cursor() {
            *from = Some(cursor.to_owned());
        }
    }
}

/// Between two watches; longer each time, while there is none to be had.
struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: PAUSE }
    }
}

impl Pauses {
    /// `false` when shutdown was requested.
    async fn after(&mut self, ended: Option<Result<(), ClientError>>, shutdown: &Shutdown) -> bool {
        match ended {
            None => return false,
            Some(Ok(())) => self.next = PAUSE,
            Some(Err(error)) => {
                tracing::debug!(%error, "a watch ended");
                self.next = PAUSE_MAX.min(self.next * 2);
            }
        }
        shutdown.sleep(self.next).await
    }
}

async fn watched<P: DeserializeOwned, T: DeserializeOwned>(
    mut watch: Watch<P, T>,
    found: &mpsc::Sender<T>,
) -> Result<(), ClientError> {
    let resync = Instant::now() + RESYNC_INTERVAL;
    loop {
        match tokio::time::timeout_at(resync, watch.next()).await {
            Err(_) => return Ok(()),
            Ok(next) => match next? {
                Some(change) => hand_over(found, vec![change.item]).await?,
                None => return Ok(()),
            },
        }
    }
}

async fn hand_over<T>(found: &mpsc::Sender<T>, items: Vec<T>) -> Result<(), ClientError> {
    for item in items {
        let sent = found.send(item).await;
        sent.map_err(|_| ClientError::Unreachable("nobody takes it any more".to_owned()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, name: &str, data: &str) -> Event {
        Event {
            id: id.to_owned(),
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    #[test]
    fn events_are_read_whole_wherever_the_network_cuts_them() {
        let text = "event: change\nid: w7.1\ndata: {\"ä\": 1}\n\n: nothing\n\n\
                    event: bookmark\r\nid:w8.0\r\ndata: a\r\ndata: b\r\n\r\nid: w9.0\n";
        for size in [1, 2, 7, text.len()] {
            let mut parser = Parser::default();
            for chunk in text.as_bytes().chunks(size) {
                parser.take(chunk).expect("text");
            }
            let expected = [
                event("w7.1", "change", "{\"ä\": 1}"),
                event("w8.0", "bookmark", "a\nb"),
            ];
            assert_eq!(parser.events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_text_is_no_event() {
        assert!(Parser::default().take(b"data: \xff\n").is_err());
        let endless = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert!(Parser::default().take(&endless).is_err());
    }
}
