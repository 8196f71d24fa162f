//! The state machines of requests and executions: which transition is legal, and whose it is.
//! One table each, used by every service and enforced by DataStorage.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a remediation request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the terms of the domain")]
pub enum RequestPhase {
    Pending,
    Processing,
    Analyzing,
    AwaitingApproval,
    Executing,
    Verifying,
    Blocked,
    Completed,
    Failed,
    TimedOut,
    Skipped,
    Cancelled,
}

/// Where a workflow execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the terms of the domain")]
pub enum ExecutionPhase {
    Pending,
    Running,
    Cancelling,
    Completed,
    Failed,
    Cancelled,
}

const GATEWAY: &str = "gateway";
const PROCESSING: &str = "signalprocessing";
const ORCHESTRATOR: &str = "remediationorchestrator";
const EXECUTION: &str = "workflowexecution";

/// Every legal transition of a request, with the subjects that may make it. The move from a phase
/// into Executing is not here: it happens only by creating an execution (see [`MAY_START_EXECUTION`]).
pub const REQUEST_TRANSITIONS: &[(RequestPhase, RequestPhase, &[&str])] = {
    use RequestPhase::*;
    &[
        (Pending, Processing, &[PROCESSING]),
        (Pending, Skipped, &[GATEWAY, ORCHESTRATOR]),
        (Pending, Cancelled, &[ORCHESTRATOR]),
        (Pending, TimedOut, &[ORCHESTRATOR]),
        (Processing, Analyzing, &[PROCESSING]),
        (Processing, Failed, &[PROCESSING, ORCHESTRATOR]),
        (Processing, Skipped, &[GATEWAY, ORCHESTRATOR]),
        (Processing, Cancelled, &[ORCHESTRATOR]),
        (Processing, TimedOut, &[ORCHESTRATOR]),
        (Analyzing, AwaitingApproval, &[ORCHESTRATOR]),
        (Analyzing, Blocked, &[ORCHESTRATOR]),
        (Analyzing, Failed, &[ORCHESTRATOR]),
        (Analyzing, Skipped, &[GATEWAY, ORCHESTRATOR]),
        (Analyzing, Cancelled, &[ORCHESTRATOR]),
        (Analyzing, TimedOut, &[ORCHESTRATOR]),
        (AwaitingApproval, Analyzing, &[ORCHESTRATOR]),
        (AwaitingApproval, Blocked, &[ORCHESTRATOR]),
        (AwaitingApproval, Failed, &[ORCHESTRATOR]),
        (AwaitingApproval, Skipped, &[GATEWAY, ORCHESTRATOR]),
        (AwaitingApproval, Cancelled, &[ORCHESTRATOR]),
        (AwaitingApproval, TimedOut, &[ORCHESTRATOR]),
        (Blocked, Analyzing, &[ORCHESTRATOR]),
        (Blocked, Skipped, &[GATEWAY, ORCHESTRATOR]),
        (Blocked, Cancelled, &[ORCHESTRATOR]),
        (Blocked, TimedOut, &[ORCHESTRATOR]),
        (Executing, Verifying, &[ORCHESTRATOR]),
        (Executing, Failed, &[ORCHESTRATOR]),
        (Executing, Cancelled, &[ORCHESTRATOR]),
        (Executing, TimedOut, &[ORCHESTRATOR]),
        (Verifying, Completed, &[ORCHESTRATOR]),
        (Verifying, Failed, &[ORCHESTRATOR]),
        (Verifying, Cancelled, &[ORCHESTRATOR]),
        (Verifying, TimedOut, &[ORCHESTRATOR]),
    ]
};

/// The phases from which an execution may be started, which moves the request to Executing.
pub const MAY_START_EXECUTION: &[RequestPhase] = &[
    RequestPhase::Analyzing,
    RequestPhase::AwaitingApproval,
    RequestPhase::Blocked,
];

/// The one subject that may start an execution.
pub const STARTS_EXECUTIONS: &str = ORCHESTRATOR;

/// Every legal transition of an execution, with the subjects that may make it.
pub const EXECUTION_TRANSITIONS: &[(ExecutionPhase, ExecutionPhase, &[&str])] = {
    use ExecutionPhase::*;
    &[
        (Pending, Running, &[EXECUTION]),
        (Pending, Cancelled, &[ORCHESTRATOR]),
        (Pending, Failed, &[EXECUTION]),
        (Running, Completed, &[EXECUTION]),
        (Running, Failed, &[EXECUTION]),
        (Running, Cancelling, &[ORCHESTRATOR]),
        (Cancelling, Cancelled, &[EXECUTION]),
        (Cancelling, Completed, &[EXECUTION]),
        (Cancelling, Failed, &[EXECUTION]),
    ]
};

/// What the tables say of a wish to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legality {
    /// It may be made by this subject.
    Legal,
    /// It exists and is another subject's.
    NotYours,
    /// It does not exist.
    Illegal,
}

fn look_up<P: PartialEq + Copy>(
    table: &[(P, P, &[&str])],
    from: P,
    to: P,
    subject: &str,
) -> Legality {
    match table.iter().find(|(f, t, _)| *f == from && *t == to) {
        Some((_, _, subjects)) if subjects.contains(&subject) => Legality::Legal,
        Some(_) => Legality::NotYours,
        None => Legality::Illegal,
    }
}

impl fmt::Display for RequestPhase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl fmt::Display for ExecutionPhase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl RequestPhase {
    /// Every phase.
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::Processing,
        Self::Analyzing,
        Self::AwaitingApproval,
        Self::Executing,
        Self::Verifying,
        Self::Blocked,
        Self::Completed,
        Self::Failed,
        Self::TimedOut,
        Self::Skipped,
        Self::Cancelled,
    ];

    /// No way leads out.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !REQUEST_TRANSITIONS.iter().any(|(from, _, _)| *from == self)
    }

    /// May `subject` move a request from here to `to`?
    #[must_use]
    pub fn may_become(self, to: Self, subject: &str) -> Legality {
        look_up(REQUEST_TRANSITIONS, self, to, subject)
    }
}

impl ExecutionPhase {
    /// Every phase.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Cancelling,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// No way leads out.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        !EXECUTION_TRANSITIONS
            .iter()
            .any(|(from, _, _)| *from == self)
    }

    /// May `subject` move an execution from here to `to`?
    #[must_use]
    pub fn may_become(self, to: Self, subject: &str) -> Legality {
        look_up(EXECUTION_TRANSITIONS, self, to, subject)
    }
}
