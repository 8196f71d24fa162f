//! DataStorage, end to end: what is accepted is kept, what is refused leaves no trace, and what is
//! done behind its back is found.

#[path = "datastorage/audit_events.rs"]
mod audit_events;
#[path = "datastorage/faults.rs"]
mod faults;
#[path = "datastorage/requests.rs"]
mod requests;
#[path = "datastorage/watch.rs"]
mod watch;
#[path = "datastorage/workflows.rs"]
mod workflows;
