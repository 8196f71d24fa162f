//! The rows of one piece of work, as a transaction that pgbench can run: what was written from when
//! the piece was handed over to its end, in the order in which it was written. And the removal of all
//! rows of such pieces. It follows the events of the piece's chain, since each write has one.

use serde_json::Value;

use super::pgbench::{insert, literal, update};
use crate::database::Database;

const REQUESTS: &str = "remediation_requests";
const EXECUTIONS: &str = "workflow_executions";

/// What DataStorage writes of a request when it changes.
const OF_REQUEST: &[&str] = &[
    "reason",
    "lease_holder",
    "lease_deadline",
    "classification",
    "workflow",
    "execution_id",
    "attempt",
    "blocked_until",
    "phase_deadline",
    "deadline",
    "approval",
];
/// The same of an execution.
const OF_EXECUTION: &[&str] = &["holder", "deadline", "steps", "failure"];
/// What the database itself fills in, in a new row.
const FILLED_IN: &[&str] = &[
    "resource_version",
    "created_at",
    "updated_at",
    "counted_at",
    "written_at",
    "transaction",
];

/// One piece as it is stored.
#[derive(Debug)]
struct Piece {
    request: Value,
    signal: Value,
    execution: Option<Value>,
    /// In the order of the chain, those that there were before it was handed over as well.
    events: Vec<Value>,
    writes: Vec<Value>,
}

/// Writes the same as was written of the request with this ID after the first `before` events of its
/// chain, for a target of its own whose name begins with `theirs`. Where something was there before,
/// the request and the head of its chain are inserted first.
///
/// # Panics
/// When the rows are not there.
#[must_use]
#[track_caller]
pub fn script(database: &mut Database, request_id: &str, before: usize, theirs: &str) -> String {
    let of_request = format!("request_id = '{request_id}'");
    let mut executions = database.rows(EXECUTIONS, &of_request, "attempt");
    assert!(executions.len() < 2, "{request_id}: {executions:?}");
    let piece = Piece {
        request: database.row(REQUESTS, &format!("id = '{request_id}'")),
        signal: database.row("request_signals", &of_request),
        events: database.rows(
            "audit_events",
            &format!("correlation_id = '{request_id}'"),
            "chain_seq",
        ),
        writes: database.rows(
            "writes",
            &format!(
                "resource_id = '{request_id}' OR resource_id IN \
                 (SELECT id FROM {EXECUTIONS} WHERE {of_request})"
            ),
            "written_at",
        ),
        execution: executions.pop(),
    };
    piece.script(before, theirs)
}

impl Piece {
    fn script(&self, before: usize, theirs: &str) -> String {
        let (known, new) = self.events.split_at(before);
        let mut lines = vec!["BEGIN".to_owned()];
        if let (Some(last), Some(first)) = (known.last(), new.iter().find(is_of_request)) {
            lines.push(self.insert_request(theirs, text(&first["event_data"]["from"])));
            lines.push(insert_head(last));
        }
        for events in new.chunk_by(|one, next| one["transaction"] == next["transaction"]) {
            self.transaction(events, theirs, &mut lines);
        }
        lines.push("COMMIT".to_owned());
        // What ends with \gset has no semicolon.
        lines
            .iter()
            .map(|line| match line.ends_with("\\gset") {
                true => format!("{line}\n"),
                false => format!("{line};\n"),
            })
            .collect()
    }

    /// What one transaction of DataStorage has written: what changed, what was answered, the events,
    /// and the head of the chain.
    fn transaction(&self, events: &[Value], theirs: &str, lines: &mut Vec<String>) {
        for event in events {
            self.change(event, theirs, lines);
        }
        let transaction = &events[0]["transaction"];
        let writes = self.writes.iter();
        for write in writes.filter(|write| write["transaction"] == *transaction) {
            let resource = match write["resource_id"] == self.request["id"] {
                true => ":id",
                false => ":execution",
            };
            let instead = [("write_id", "gen_random_uuid()"), ("resource_id", resource)];
            lines.push(insert("writes", &without(write, FILLED_IN), &instead));
        }
        for event in events {
            let instead = [
                ("event_id", "gen_random_uuid()"),
                ("event_timestamp", "now()"),
                ("correlation_id", ":id"),
            ];
            lines.push(insert("audit_events", &without(event, FILLED_IN), &instead));
        }
        let last = &events[events.len() - 1];
        lines.push(match events[0]["chain_seq"] == 1 {
            true => insert_head(last),
            false => format!(
                "UPDATE audit_chains SET last_seq = {}, last_hash = {} WHERE correlation_id = :id",
                last["chain_seq"],
                literal(text(&last["hash"]))
            ),
        });
    }

    /// The change that an event tells of, if it is one.
    fn change(&self, event: &Value, theirs: &str, lines: &mut Vec<String>) {
        let kind = text(&event["event_type"]);
        let Some(kind) = kind.strip_prefix("datastorage.") else {
            return;
        };
        let to = &event["event_data"]["to"];
        match kind {
            "remediation_request.created" => {
                lines.push(self.insert_request(theirs, text(to)));
                let instead = [("signal_id", "gen_random_uuid()"), ("request_id", ":id")];
                let signal = without(&self.signal, FILLED_IN);
                lines.push(insert("request_signals", &signal, &instead));
            }
            "workflow_execution.created" => lines.push(self.insert_execution(theirs)),
            _ => {
                let (table, row, columns, id) = match is_of_request(&event) {
                    true => (REQUESTS, &self.request, OF_REQUEST, ":id"),
                    false => (EXECUTIONS, self.executed(), OF_EXECUTION, ":execution"),
                };
                let phase = literal(text(to));
                let always = [
                    ("phase", phase.as_str()),
                    ("resource_version", "resource_version + 1"),
                    ("updated_at", "now()"),
                ];
                lines.push(update(table, row, columns, &always, id));
            }
        }
    }

    fn insert_request(&self, theirs: &str, phase: &str) -> String {
        let request = without(&without(&self.request, FILLED_IN), OF_REQUEST);
        let fingerprint = "encode(sha256(gen_random_uuid()::text::bytea), 'hex')";
        let instead = [
            ("id", "gen_random_uuid()"),
            ("fingerprint", fingerprint),
            ("target_name", &*name(theirs)),
            ("phase", &*literal(phase)),
        ];
        let request = insert(REQUESTS, &request, &instead);
        format!("{request} RETURNING id \\gset")
    }

    fn insert_execution(&self, theirs: &str) -> String {
        let execution = without(&without(self.executed(), FILLED_IN), OF_EXECUTION);
        let instead = [
            ("id", "gen_random_uuid()"),
            ("request_id", ":id"),
            ("target_name", &*name(theirs)),
            ("phase", &*literal("Pending")),
        ];
        let execution = insert(EXECUTIONS, &execution, &instead);
        format!("{execution} RETURNING id AS execution \\gset")
    }

    #[track_caller]
    fn executed(&self) -> &Value {
        self.execution.as_ref().expect("an execution")
    }
}

/// One open execution for each target: so each has another name.
fn name(theirs: &str) -> String {
    format!("'{theirs}-' || gen_random_uuid()")
}

fn insert_head(last: &Value) -> String {
    format!(
        "INSERT INTO audit_chains (correlation_id, last_seq, last_hash) VALUES (:id, {}, {})",
        last["chain_seq"],
        literal(text(&last["hash"]))
    )
}

fn is_of_request(event: &&Value) -> bool {
    text(&event["event_type"]).starts_with("datastorage.remediation_request.")
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn without(row: &Value, columns: &[&str]) -> Value {
    let mut row = row.clone();
    if let Some(row) = row.as_object_mut() {
        row.retain(|name, _| !columns.contains(&name.as_str()));
    }
    row
}

/// Removes every request for a target whose name begins with `prefix`, and all that belongs to it.
///
/// # Panics
/// When that fails.
#[track_caller]
pub fn remove(database: &mut Database, prefix: &str) {
    let ids = format!("SELECT id FROM {REQUESTS} WHERE target_name LIKE '{prefix}-%'");
    let all = format!("{ids} UNION ALL SELECT id FROM {EXECUTIONS} WHERE request_id IN ({ids})");
    database.run_without_triggers(&format!(
        "DELETE FROM audit_events WHERE correlation_id IN (SELECT id::text FROM ({ids}) pieces); \
         DELETE FROM audit_chains WHERE correlation_id IN (SELECT id::text FROM ({ids}) pieces); \
         DELETE FROM writes WHERE resource_id IN ({all}); \
         DELETE FROM changes WHERE resource_id IN ({all}); \
         DELETE FROM request_signals WHERE request_id IN ({ids}); \
         DELETE FROM {EXECUTIONS} WHERE request_id IN ({ids}); \
         DELETE FROM {REQUESTS} WHERE target_name LIKE '{prefix}-%'"
    ));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(seq: u32, transaction: &str, kind: &str, data: &Value) -> Value {
        json!({"event_id": "e", "event_type": kind, "event_timestamp": "t", "correlation_id": "r",
            "event_data": data, "chain_seq": seq, "hash": "aa", "transaction": transaction})
    }

    fn piece() -> Piece {
        let moved = |seq, transaction, kind: &str, from, to| {
            let kind = format!("datastorage.{kind}");
            event(seq, transaction, &kind, &json!({"from": from, "to": to}))
        };
        Piece {
            request: json!({"id": "r", "phase": "Executing", "target_name": "n", "reason": "why",
                "resource_version": 4, "created_at": "t", "execution_id": "x", "approval": null}),
            signal: json!({"signal_id": "s", "request_id": "r", "counted_at": "t"}),
            execution: Some(json!({"id": "x", "request_id": "r", "phase": "Completed",
                "target_name": "n", "holder": "h", "steps": [1]})),
            events: vec![
                moved(1, "5", "remediation_request.created", None, "Pending"),
                moved(
                    2,
                    "6",
                    "remediation_request.transitioned",
                    Some("Pending"),
                    "Analyzing",
                ),
                event(3, "7", "workflow.selected", &json!({})),
                moved(4, "8", "workflow_execution.created", None, "Pending"),
                moved(
                    5,
                    "8",
                    "remediation_request.transitioned",
                    Some("Analyzing"),
                    "Executing",
                ),
                moved(
                    6,
                    "9",
                    "workflow_execution.transitioned",
                    Some("Pending"),
                    "Completed",
                ),
            ],
            writes: vec![
                json!({"write_id": "w", "resource_id": "r", "answer": {}, "transaction": "6"}),
                json!({"write_id": "v", "resource_id": "x", "answer": {}, "transaction": "9"}),
            ],
        }
    }

    /// What is written where, in order.
    fn tables(script: &str) -> Vec<String> {
        let mut tables = Vec::new();
        for line in script.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["INSERT", "INTO", table, ..] => tables.push(format!("+{table}")),
                ["UPDATE", table, ..] => tables.push(format!("~{table}")),
                _ => tables.push(line.to_owned()),
            }
        }
        tables
    }

    #[test]
    fn all_of_a_piece_is_written_in_its_order() {
        let script = piece().script(0, "p");
        let expected = [
            "BEGIN;",
            "+remediation_requests",
            "+request_signals",
            "+audit_events",
            "+audit_chains",
            "~remediation_requests",
            "+writes",
            "+audit_events",
            "~audit_chains",
            "+audit_events",
            "~audit_chains",
            "+workflow_executions",
            "~remediation_requests",
            "+audit_events",
            "+audit_events",
            "~audit_chains",
            "~workflow_executions",
            "+writes",
            "+audit_events",
            "~audit_chains",
            "COMMIT;",
        ];
        assert_eq!(tables(&script), expected, "{script}");
        assert!(!script.contains("transaction"), "{script}");
        let begins = "BEGIN;\nINSERT INTO remediation_requests (id, phase, target_name) VALUES \
            (gen_random_uuid(), E'Pending', 'p-' || gen_random_uuid()) RETURNING id \\gset\n";
        assert!(script.starts_with(begins), "{script}");
    }

    #[test]
    fn what_was_there_before_is_not_written_again() {
        let script = piece().script(3, "p");
        let expected = [
            "BEGIN;",
            "+remediation_requests",
            "+audit_chains",
            "+workflow_executions",
            "~remediation_requests",
            "+audit_events",
            "+audit_events",
            "~audit_chains",
            "~workflow_executions",
            "+writes",
            "+audit_events",
            "~audit_chains",
            "COMMIT;",
        ];
        assert_eq!(tables(&script), expected, "{script}");
        assert!(script.contains("E'Analyzing', 'p-'"), "{script}");
        assert!(script.contains("(:id, 3, E'aa')"), "{script}");
        assert!(script.contains(":execution"), "{script}");
    }
}
