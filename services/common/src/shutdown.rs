//! One token that tells every part of a process to end. It carries no reason and cannot be undone.

use tokio::sync::watch;

/// Cloned to everyone who must end when the process does.
#[derive(Clone, Debug)]
pub struct Shutdown {
    sender: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Not requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: watch::Sender::new(false),
        }
    }

    /// Tells everyone; a second time does nothing.
    pub fn request(&self) {
        self.sender.send_replace(true);
    }

    /// Has it been requested?
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.sender.borrow()
    }

    /// Returns once it has been requested.
    pub async fn requested(&self) {
        let mut receiver = self.sender.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|requested| *requested).await;
    }

    /// Waits for `duration`, or less when shutdown is requested: `false` then.
    pub async fn sleep(&self, duration: std::time::Duration) -> bool {
        tokio::time::timeout(duration, self.requested())
            .await
            .is_err()
    }

    /// Runs `future` to its end, or gives `None` as soon as shutdown is requested.
    pub async fn unless_requested<F: Future>(&self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            output = future => Some(output),
        }
    }
}
