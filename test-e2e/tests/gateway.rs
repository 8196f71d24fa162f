//! Gateway, end to end: a signal becomes exactly one remediation request in DataStorage, or is
//! refused with a reason.

#[path = "gateway/faults.rs"]
mod faults;
#[path = "gateway/signals.rs"]
mod signals;
