//! Pages of a list: how many, and after what. A cursor is opaque to clients; here it is the sort
//! key of the last item of the page before.

use std::fmt;

use common::problem::{Answer, Problem};
use time::OffsetDateTime;
use uuid::Uuid;

/// Most items of a page.
pub(crate) const LIMIT_MAX: u32 = 1000;
const LIMIT_DEFAULT: u32 = 100;

/// How many items a page may have.
pub(crate) fn limit(limit: Option<u32>) -> Answer<i64> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "limit: 1 to {LIMIT_MAX} are possible"
        )));
    }
    Ok(i64::from(limit))
}

/// A place in a list that is sorted by time and ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByTime {
    /// To the microsecond, as PostgreSQL keeps it.
    pub(crate) at: OffsetDateTime,
    pub(crate) id: Uuid,
}

impl ByTime {
    /// Reads a cursor that [`fmt::Display`] wrote.
    pub(crate) fn parse(cursor: &str) -> Answer<Self> {
        Self::read(cursor).ok_or_else(bad_cursor)
    }

    fn read(cursor: &str) -> Option<Self> {
        let (micros, id) = cursor.strip_prefix('t')?.split_once('.')?;
        let nanos = micros.parse::<i64>().ok().map(i128::from)? * 1000;
        Some(Self {
            at: OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?,
            id: id.parse().ok()?,
        })
    }
}

impl fmt::Display for ByTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.at.unix_timestamp_nanos() / 1000;
        write!(formatter, "t{micros}.{}", self.id.simple())
    }
}

/// A place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BySequence(pub(crate) i64);

impl BySequence {
    /// Reads a cursor that [`fmt::Display`] wrote.
    pub(crate) fn parse(cursor: &str) -> Answer<Self> {
        let number = cursor.strip_prefix('c').and_then(|n| n.parse().ok());
        number.map(Self).ok_or_else(bad_cursor)
    }
}

impl fmt::Display for BySequence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "c{}", self.0)
    }
}

/// A place in the order of all transitions: transaction, then number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InChanges {
    pub(crate) xid: u64,
    pub(crate) id: i64,
}

impl InChanges {
    /// Reads a cursor that [`fmt::Display`] wrote.
    pub(crate) fn parse(cursor: &str) -> Answer<Self> {
        let read = || {
            let (xid, id) = cursor.strip_prefix('w')?.split_once('.')?;
            Some(Self {
                xid: xid.parse().ok()?,
                id: id.parse().ok()?,
            })
        };
        read()
            .ok_or_else(|| Problem::bad_request("after: not a cursor that a list or a watch gave"))
    }
}

impl fmt::Display for InChanges {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "w{}.{}", self.xid, self.id)
    }
}

fn bad_cursor() -> Problem {
    Problem::bad_request("cursor: not one that this list gave")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(micros in -2_000_000_000_000_000_i64..4_000_000_000_000_000, id: u128, seq: i64) {
            let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).expect("time");
            let by_time = ByTime { at, id: Uuid::from_u128(id) };
            prop_assert_eq!(ByTime::parse(&by_time.to_string()).expect("cursor"), by_time);
            let by_sequence = BySequence(seq);
            prop_assert_eq!(BySequence::parse(&by_sequence.to_string()).expect("cursor"), by_sequence);
            let in_changes = InChanges { xid: seq.unsigned_abs(), id: micros };
            prop_assert_eq!(InChanges::parse(&in_changes.to_string()).expect("cursor"), in_changes);
        }

        #[test]
        fn anything_else_is_refused_and_not_a_panic(text: String) {
            let _ = (ByTime::parse(&text), BySequence::parse(&text), InChanges::parse(&text));
        }
    }

    #[test]
    fn the_cursor_of_another_list_is_refused() {
        assert!(ByTime::parse("c7").is_err());
        assert!(BySequence::parse("t7.00000000000000000000000000000000").is_err());
        assert!(ByTime::parse("t9223372036854775807.00000000000000000000000000000000").is_err());
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).expect("limit"), 100);
        assert_eq!(limit(Some(1000)).expect("limit"), 1000);
        assert!(limit(Some(0)).is_err() && limit(Some(1001)).is_err());
    }
}
