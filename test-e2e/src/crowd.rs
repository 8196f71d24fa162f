//! Many at once.

use std::panic;
use std::sync::Barrier;
use std::thread;

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

#[cfg(test)]
mod tests {
    use super::*;

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
