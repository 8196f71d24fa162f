//! IDs of audit events that are said again after a crash, or by a second replica: they follow from
//! what is said, so it is stored once. They have the form of UUIDv7, as DataStorage wants it.

use time::OffsetDateTime;
use uuid::{Builder, Uuid};

/// The ID of the event that says `what` of the resource `about`. `began` gives the time that a
/// UUIDv7 holds, and must be the same each time: when the resource was created, not now.
#[must_use]
pub fn derive(began: OffsetDateTime, about: Uuid, what: &str) -> Uuid {
    let name = Uuid::new_v5(&about, what.as_bytes());
    let mut random = [0; 10];
    random.copy_from_slice(&name.as_bytes()[..10]);
    let millis = began.unix_timestamp_nanos() / 1_000_000;
    Builder::from_unix_timestamp_millis(u64::try_from(millis).unwrap_or_default(), &random)
        .into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_said_again_has_the_same_id() {
        let began = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let about = Uuid::max();
        let id = derive(began, about, "workflow.selected/1");
        assert_eq!(id, derive(began, about, "workflow.selected/1"));
        assert_ne!(id, derive(began, about, "workflow.selected/2"));
        assert_ne!(id, derive(began, Uuid::nil(), "workflow.selected/1"));
        assert_eq!(id.get_version_num(), 7);
        let seconds = id.get_timestamp().map(|time| time.to_unix().0);
        assert_eq!(seconds, Some(20_000 * 86_400));
    }
}
