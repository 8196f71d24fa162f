//! Many at once.

use std::panic;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::scenario;

/// Calls `act` with 0 to `count - 1`, each in a thread of its own and all at once, and gives what
/// they gave, in that order.
///
/// # Panics
/// When one of them does, with its message.
pub fn together<T: Send>(count: usize, act: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (act, barrier) = (&act, &Barrier::new(count));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn(move || {
                    barrier.wait();
                    act(index)
                })
            })
            .collect();
        let ended = threads.into_iter().map(|thread| {
            let id = thread.thread().id();
            thread.join().map_err(|payload| (id, payload))
        });
        let ended: Vec<_> = ended.collect();
        let results: Result<Vec<T>, _> = ended.into_iter().collect();
        results.unwrap_or_else(|(id, payload)| {
            scenario::adopt_note(id);
            panic::resume_unwind(payload)
        })
    })
}

/// Between two pieces of work of one worker under [`under_load`], so that one that is refused
/// does not spin.
const BREATH: Duration = Duration::from_millis(5);

/// Runs `act` while `count` workers call `work` with their number and a running index over and
/// over; they stop when `act` has ended. Gives what `act` gave and all that the workers gave.
///
/// # Panics
/// When one of them does, with its message.
pub fn under_load<T: Send, R: Send>(
    count: usize,
    work: impl Fn(usize, usize) -> T + Sync,
    act: impl FnOnce() -> R + Send,
) -> (R, Vec<T>) {
    let ended = &AtomicBool::new(false);
    let work = &work;
    thread::scope(|scope| {
        let acting = scope.spawn(move || {
            let _stop = StopAtEnd(ended);
            act()
        });
        let id = acting.thread().id();
        let given = together(count, |worker| {
            let mut given = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                given.push(work(worker, given.len()));
                thread::sleep(BREATH);
            }
            given
        });
        let acted = acting.join().unwrap_or_else(|payload| {
            scenario::adopt_note(id);
            panic::resume_unwind(payload)
        });
        (acted, given.into_iter().flatten().collect())
    })
}

/// When the `index`th of so many a second is due, after the first.
#[must_use]
pub fn due_after(index: u32, per_second: u32) -> Duration {
    Duration::from_secs(u64::from(index)) / per_second
}

/// Calls `act` with 0 to `count - 1` and the moment at which each was due, `per_second` of them in a
/// second and none before its time. One that is late is not left out, and those after it are due when
/// they were.
pub fn at_pace(count: u32, per_second: u32, mut act: impl FnMut(u32, Instant)) {
    let begun = Instant::now();
    for index in 0..count {
        let due = begun + due_after(index, per_second);
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            thread::sleep(early);
        }
        act(index, due);
    }
}

struct StopAtEnd<'flag>(&'flag AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::poll::{Look, eventually};

    #[test]
    fn the_load_lasts_as_long_as_the_act() {
        let seen = Mutex::new([0_usize; 3]);
        let (acted, given) = under_load(
            3,
            |worker, index| {
                seen.lock().expect("no panic")[worker] = index + 1;
                (worker, index)
            },
            || {
                eventually("two turns of each", Duration::from_secs(10), || match *seen
                    .lock()
                    .expect("no panic")
                {
                    turns if turns.iter().all(|&count| count > 1) => Look::Seen(()),
                    turns => Look::NotYet(format!("{turns:?}")),
                });
            },
        );
        assert_eq!(acted, ());
        for worker in 0..3 {
            assert!(given.contains(&(worker, 0)) && given.contains(&(worker, 1)));
        }
    }

    #[test]
    fn an_act_that_panics_ends_the_load() {
        let all = panic::catch_unwind(|| under_load(2, |_, _| (), || panic!("no")));
        assert!(all.is_err());
    }

    #[test]
    fn a_pace_is_kept_whatever_an_act_takes() {
        let due: Vec<Duration> = [0, 1, 2, 7].map(|index| due_after(index, 4)).into();
        let milliseconds = Duration::from_millis;
        assert_eq!(due, [0, 250, 500, 1750].map(milliseconds));
        // The first takes as long as ten of them: those that were due meanwhile come at once.
        let mut late = Vec::new();
        at_pace(12, 500, |index, due| {
            if index == 0 {
                let over = Instant::now() + milliseconds(20);
                while Instant::now() < over {
                    std::hint::spin_loop();
                }
            }
            late.push(due.elapsed());
        });
        assert_eq!(late.len(), 12);
        assert!(late[1] >= milliseconds(17), "{late:?}");
        assert!(late[8] >= milliseconds(3), "{late:?}");
    }

    #[test]
    fn all_results_come_in_order() {
        assert_eq!(together(5, |index| index * index), [0, 1, 4, 9, 16]);
    }

    #[test]
    fn one_panic_is_everyones() {
        let all = panic::catch_unwind(|| together(3, |index| assert_ne!(index, 1)));
        assert!(all.is_err());
    }
}
