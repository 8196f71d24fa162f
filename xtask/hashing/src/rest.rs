//! When a file has rested for long enough to be read. The kernel sets the change time once, when a
//! write begins: whoever opens the file in the middle of that write sees equal stamps before and
//! after, and bytes of two states. So nothing is read whose stamps are young.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::file::Stamp;

/// For so long a file must not have changed when it begins to be read. The kernel's clock for
/// stamps ticks every few milliseconds, and a write of some megabytes takes no longer.
pub const MARGIN: Duration = Duration::from_millis(100);
/// For so long a file is waited for that is written to over and over.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Lets a time pass; false when no more time is to be lost.
pub type Pause<'a> = &'a (dyn Fn(Duration) -> bool + Sync);

/// A file that did not rest yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restless {
    stamp: Stamp,
    seen: Instant,
    /// How long it should still rest.
    left: Duration,
}

impl Restless {
    /// Nothing if a file with this stamp has rested: by the clock, or since it was last seen. Only
    /// the latter tells it of a file with times in the future.
    pub(crate) fn look(stamp: Stamp, before: Option<Self>) -> Option<Self> {
        let left = left(stamp)?;
        let now = Instant::now();
        let seen = before.filter(|before| before.stamp == stamp);
        let seen = seen.map_or(now, |before| before.seen);
        let left = left.min(MARGIN.saturating_sub(now - seen));
        (!left.is_zero()).then_some(Self { stamp, seen, left })
    }

    /// One that was written to while it was read.
    pub(crate) fn written(stamp: Stamp) -> Self {
        Self {
            stamp,
            seen: Instant::now(),
            left: MARGIN,
        }
    }
}

/// Waits until the longest of these has rested, if it is not written to again. False when there is
/// no patience left: it is counted from `begun`.
pub(crate) fn wait(
    restless: impl IntoIterator<Item = Restless>,
    begun: Instant,
    pause: Pause<'_>,
) -> bool {
    let left = restless.into_iter().map(|one| one.left).max();
    begun.elapsed() < PATIENCE && pause(left.unwrap_or_default())
}

/// By the clock; nothing if both times of a file are old.
fn left(stamp: Stamp) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let now = now.and_then(|now| i128::try_from(now.as_nanos()).ok())?;
    let age = now - stamp.youngest_nanoseconds();
    let margin = MARGIN.as_nanos() as i128;
    if age >= margin {
        return None;
    }
    // One from the future is young for as long as one of now.
    let left = margin - age.max(0);
    Some(Duration::from_nanos(
        u64::try_from(left).unwrap_or_default(),
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    /// What is waited for never comes: the time is what is wanted.
    pub(crate) fn pause(time: Duration) -> bool {
        let (_sender, receiver) = mpsc::channel::<()>();
        receiver.recv_timeout(time).is_err()
    }
}
