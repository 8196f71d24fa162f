//! Audit events and their chains. The head of a chain is a row, locked in the transaction that
//! appends; whether an event is stored already is asked under that lock.

use std::collections::{BTreeMap, HashMap};

use common::api::{AuditEvent, AuditEvents, AuditQuery, ChainVerdict};
use common::canonical;
use common::problem::{Answer, Problem};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Outcome, Store, StoreError, Stored, now};
use crate::domain::audit::{self, Draft, GENESIS, Head};
use crate::domain::page::{self, BySequence, ByTime};

/// A page ends before it is larger.
const PAGE_BYTES_MAX: i64 = 8 * 1024 * 1024;
/// What the columns other than `event_data` take, at the most, rounded.
const EVENT_OVERHEAD_BYTES: i64 = 2048;

impl Store {
    /// Stores all of these, or none. `Found` when every one was stored before.
    pub(crate) async fn record(
        &self,
        drafts: Vec<Draft>,
        actor: &str,
    ) -> Answer<Outcome<Vec<AuditEvent>>> {
        self.transacted(|| self.try_to_record(drafts.clone(), actor))
            .await
    }

    async fn try_to_record(
        &self,
        drafts: Vec<Draft>,
        actor: &str,
    ) -> Stored<Outcome<Vec<AuditEvent>>> {
        let mut transaction = self.begin().await?;
        let mut heads = lock_heads(&mut transaction, &drafts).await?;
        let stored = stored_events(&mut transaction, &drafts).await?;
        let now = now(&mut transaction).await?;

        let mut conflicts = Vec::new();
        let mut answer = Vec::with_capacity(drafts.len());
        let mut new = Vec::new();
        for (index, draft) in drafts.into_iter().enumerate() {
            if let Some(stored) = stored.get(&draft.fields().event_id) {
                if is_resend(stored, &draft, actor) {
                    answer.push(stored.clone());
                } else {
                    conflicts.push((index, stored.event.event_id));
                }
                continue;
            }
            draft
                .check_time(now)
                .map_err(|problem| at(index, &problem))?;
            let head = heads.entry(draft.fields().correlation_id.clone());
            let event = draft.link(head.or_insert_with(genesis), actor)?;
            new.push(event.clone());
            answer.push(event);
        }
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts).into());
        }
        if new.is_empty() {
            return Ok(Outcome::Found(answer));
        }
        insert(&mut transaction, &new, &heads).await?;
        transaction.commit().await?;
        Ok(Outcome::Created(answer))
    }

    /// A page of events.
    pub(crate) async fn audit_events(&self, query: &AuditQuery) -> Answer<AuditEvents> {
        let limit = page::limit(query.limit)?;
        self.transacted(|| self.try_to_list(query, limit)).await
    }

    async fn try_to_list(&self, query: &AuditQuery, limit: i64) -> Stored<AuditEvents> {
        // One chain is listed in its order, everything else by time.
        let cursor = query.cursor.as_deref();
        let (after_seq, after) = match (&query.correlation_id, cursor) {
            (_, None) => (None, None),
            (Some(_), Some(cursor)) => (Some(BySequence::parse(cursor)?.0), None),
            (None, Some(cursor)) => (None, Some(ByTime::parse(cursor)?)),
        };
        let statement = match query.correlation_id {
            Some(_) => LIST_CHAIN,
            None => LIST_BY_TIME,
        };
        let outcome = query.event_outcome.as_ref().map(super::name_of);
        let rows: Vec<(Json<AuditEvent>, bool)> = sqlx::query_as(statement)
            .bind(&query.correlation_id)
            .bind(&query.event_type)
            .bind(&query.event_category)
            .bind(outcome.transpose()?)
            .bind(query.since)
            .bind(query.until)
            .bind(after_seq)
            .bind(after.map(|after| after.at))
            .bind(after.map(|after| after.id))
            .bind(limit)
            .bind(PAGE_BYTES_MAX)
            .bind(EVENT_OVERHEAD_BYTES)
            .fetch_all(&self.pool)
            .await?;
        let more = rows.last().is_some_and(|(_, more)| *more);
        let events: Vec<AuditEvent> = rows.into_iter().map(|(Json(event), _)| event).collect();
        let next_cursor = events.last().filter(|_| more).map(|last| {
            if query.correlation_id.is_some() {
                BySequence(last.chain_seq).to_string()
            } else {
                let (at, id) = (last.event.event_timestamp, last.event.event_id);
                ByTime { at, id }.to_string()
            }
        });
        Ok(AuditEvents {
            events,
            next_cursor,
        })
    }

    /// Rebuilds every hash of a chain from the columns, in one snapshot.
    pub(crate) async fn verify_chain(&self, correlation_id: &str) -> Answer<ChainVerdict> {
        self.transacted(|| self.try_to_verify(correlation_id)).await
    }

    async fn try_to_verify(&self, correlation_id: &str) -> Stored<ChainVerdict> {
        let mut transaction = self.snapshot().await?;
        let head: Option<(i64, String)> = sqlx::query_as(
            "SELECT last_seq, last_hash FROM audit_chains WHERE correlation_id = $1",
        )
        .bind(correlation_id)
        .fetch_optional(&mut *transaction)
        .await?;
        let mut walk = Walk::default();
        loop {
            let rows: Vec<(i64, Json<Value>)> = sqlx::query_as(
                "SELECT chain_seq, to_jsonb(e) FROM audit_events e
                  WHERE correlation_id = $1 AND chain_seq > $2 ORDER BY chain_seq LIMIT 200",
            )
            .bind(correlation_id)
            .bind(walk.last_seen)
            .fetch_all(&mut *transaction)
            .await?;
            if rows.is_empty() {
                break;
            }
            for (seq, Json(row)) in rows {
                walk.step(seq, row);
            }
        }
        if head.is_none() && walk.count == 0 {
            return Err(Problem::not_found("there is no such chain").into());
        }
        Ok(walk.verdict(correlation_id, head))
    }
}

/// Appends events of DataStorage's own. The caller holds whatever comes before chain heads in the
/// order of locks.
pub(super) async fn append(
    connection: &mut PgConnection,
    drafts: Vec<Draft>,
    actor: &str,
) -> Stored<()> {
    let mut heads = lock_heads(connection, &drafts).await?;
    let mut events = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let head = heads.entry(draft.fields().correlation_id.clone());
        events.push(draft.link(head.or_insert_with(genesis), actor)?);
    }
    insert(connection, &events, &heads).await
}

/// Locks the head of every chain that is touched, in the order of their keys, and makes those that
/// are missing. One statement does both, so no two transactions can wait for each other.
async fn lock_heads(
    connection: &mut PgConnection,
    drafts: &[Draft],
) -> Stored<BTreeMap<String, Head>> {
    let mut keys: Vec<&str> = drafts
        .iter()
        .map(|draft| draft.fields().correlation_id.as_str())
        .collect();
    // Bytewise, as the column's collation "C" sorts.
    keys.sort_unstable();
    keys.dedup();
    let rows: Vec<(String, i64, String)> = sqlx::query_as(
        "INSERT INTO audit_chains AS head (correlation_id, last_seq, last_hash)
         SELECT key, 0, $2 FROM unnest($1::text[]) WITH ORDINALITY AS keys (key, position) ORDER BY position
         ON CONFLICT (correlation_id) DO UPDATE SET last_seq = head.last_seq
         RETURNING correlation_id, last_seq, last_hash",
    )
    .bind(&keys)
    .bind(GENESIS)
    .fetch_all(connection)
    .await?;
    let head = |(key, seq, hash)| (key, Head { seq, hash });
    Ok(rows.into_iter().map(head).collect())
}

async fn stored_events(
    connection: &mut PgConnection,
    drafts: &[Draft],
) -> Stored<HashMap<Uuid, AuditEvent>> {
    let ids: Vec<Uuid> = drafts.iter().map(|draft| draft.fields().event_id).collect();
    let rows: Vec<Json<AuditEvent>> =
        sqlx::query_scalar("SELECT to_jsonb(e) FROM audit_events e WHERE event_id = ANY($1)")
            .bind(&ids)
            .fetch_all(connection)
            .await?;
    let by_id = |Json(event): Json<AuditEvent>| (event.event.event_id, event);
    Ok(rows.into_iter().map(by_id).collect())
}

/// Numbers may be spelled otherwise after PostgreSQL had them, so the canonical forms are compared.
fn is_resend(stored: &AuditEvent, draft: &Draft, actor: &str) -> bool {
    let stored_form = canonical::to_bytes(&stored.event).ok();
    let sent_form = canonical::to_bytes(draft.fields()).ok();
    stored.actor == actor && stored_form.is_some() && stored_form == sent_form
}

/// Stores the events and moves the heads of their chains.
async fn insert(
    connection: &mut PgConnection,
    events: &[AuditEvent],
    heads: &BTreeMap<String, Head>,
) -> Stored<()> {
    sqlx::query(
        "INSERT INTO audit_events
         SELECT event_id, version, event_type, event_category, event_action, event_outcome,
                event_timestamp, correlation_id, event_data, resource_type, resource_name, namespace,
                severity, duration_ms, parent_event_id, actor, chain_seq, previous_hash, hash
           FROM jsonb_populate_recordset(NULL::audit_events, $1)",
    )
    .bind(Json(events))
    .execute(&mut *connection)
    .await?;
    let (mut keys, mut seqs, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for (key, head) in heads {
        keys.push(key);
        seqs.push(head.seq);
        hashes.push(&head.hash);
    }
    sqlx::query(
        "UPDATE audit_chains AS head SET last_seq = new.seq, last_hash = new.hash
           FROM unnest($1::text[], $2::bigint[], $3::text[]) AS new (key, seq, hash)
          WHERE head.correlation_id = new.key",
    )
    .bind(&keys)
    .bind(&seqs)
    .bind(&hashes)
    .execute(connection)
    .await?;
    Ok(())
}

/// Names every conflict, by its index and its ID.
fn conflict(conflicts: &[(usize, Uuid)]) -> Problem {
    let name = |(index, id): &(usize, Uuid)| format!("events[{index}].event_id: {id}");
    let names: Vec<String> = conflicts.iter().map(name).collect();
    let indexes: Vec<usize> = conflicts.iter().map(|(index, _)| *index).collect();
    let names = names.join(", ");
    Problem::conflict(format!("{names} is stored with another body")).with("conflicts", indexes)
}

fn genesis() -> Head {
    Head {
        seq: 0,
        hash: GENESIS.to_owned(),
    }
}

fn at(index: usize, problem: &Problem) -> StoreError {
    let detail = format!("events[{index}].{}", problem.detail());
    Problem::new(problem.status(), detail).into()
}

/// The verification, event by event.
struct Walk {
    count: i64,
    last_seen: i64,
    last_hash: String,
    broken: Option<(i64, String)>,
}

impl Default for Walk {
    fn default() -> Self {
        Self {
            count: 0,
            last_seen: 0,
            last_hash: GENESIS.to_owned(),
            broken: None,
        }
    }
}

impl Walk {
    fn step(&mut self, seq: i64, row: Value) {
        let expected_seq = self.last_seen + 1;
        self.count += 1;
        self.last_seen = seq;
        if self.broken.is_some() {
            return;
        }
        match self.check(seq, expected_seq, row) {
            Ok(hash) => self.last_hash = hash,
            Err(reason) => self.broken = Some((expected_seq, reason)),
        }
    }

    fn check(&self, seq: i64, expected_seq: i64, row: Value) -> Result<String, String> {
        if seq != expected_seq {
            return Err(format!("the event is missing, the next one is {seq}"));
        }
        let event: AuditEvent = serde_json::from_value(row)
            .map_err(|error| format!("the row is not an event: {error}"))?;
        if event.previous_hash != self.last_hash {
            return Err("previous_hash is not the hash of the event before".to_owned());
        }
        match audit::hash(&event) {
            Ok(hash) if hash == event.hash => Ok(hash),
            Ok(_) => Err("the hash does not follow from the event".to_owned()),
            Err(error) => Err(format!("the event has no canonical form: {error}")),
        }
    }

    fn verdict(self, correlation_id: &str, head: Option<(i64, String)>) -> ChainVerdict {
        let after_last = self.last_seen + 1;
        let broken = self.broken.or(match head {
            None => Some((1, "the chain has no head".to_owned())),
            Some((seq, _)) if seq > self.count => Some((
                after_last,
                format!("the head says that there are {seq} events"),
            )),
            Some((seq, _)) if seq < self.count => Some((
                seq + 1,
                format!("the head says that there are {seq} events"),
            )),
            Some((_, hash)) if hash != self.last_hash => {
                Some((self.last_seen, "the head has another hash".to_owned()))
            }
            Some(_) => None,
        });
        ChainVerdict {
            correlation_id: correlation_id.to_owned(),
            intact: broken.is_none(),
            event_count: self.count,
            first_broken_seq: broken.as_ref().map(|(seq, _)| *seq),
            reason: broken.map(|(_, reason)| reason),
        }
    }
}

/// The filters and the bounds of a page; `$KEY` is what it is sorted by. The last column tells
/// whether there is more after this page; a page holds one event at least.
macro_rules! list {
    ($key:literal, $after:literal) => {
        concat!(
            "WITH page AS (
                SELECT e.*, row_number() OVER w AS position,
                       sum(octet_length(event_data::text) + $12) OVER w AS bytes
                  FROM (SELECT * FROM audit_events
                         WHERE ($1::text IS NULL OR correlation_id = $1)
                           AND ($2::text IS NULL OR event_type = $2)
                           AND ($3::text IS NULL OR event_category = $3)
                           AND ($4::text IS NULL OR event_outcome = $4)
                           AND ($5::timestamptz IS NULL OR event_timestamp >= $5)
                           AND ($6::timestamptz IS NULL OR event_timestamp < $6)
                           AND ",
            $after,
            " ORDER BY ",
            $key,
            " LIMIT $10 + 1) e
                WINDOW w AS (ORDER BY ",
            $key,
            " ROWS UNBOUNDED PRECEDING)
             ), total AS (SELECT count(*) AS n FROM page)
             SELECT to_jsonb(page) - 'position' - 'bytes',
                    n > count(*) OVER ()
               FROM page, total
              WHERE position <= $10 AND (position = 1 OR bytes <= $11)
              ORDER BY position"
        )
    };
}

const LIST_CHAIN: &str = list!(
    "chain_seq",
    "($7::bigint IS NULL OR chain_seq > $7)
     AND ($8::timestamptz IS NULL) AND ($9::uuid IS NULL)"
);
const LIST_BY_TIME: &str = list!(
    "event_timestamp, event_id",
    "($7::bigint IS NULL)
     AND ($8::timestamptz IS NULL OR (event_timestamp, event_id) > ($8, $9::uuid))"
);
