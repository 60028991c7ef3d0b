//! A job that is interrupted.

use std::sync::atomic::Ordering;

use qz_pipeline::{Cancel, Event, Observer};

/// Cancels after so many steps, and counts tensors that were taken over.
pub(crate) struct Stopper<'a> {
    pub(crate) cancel: &'a Cancel,
    /// What a step is.
    pub(crate) is_step: fn(&Event<'_>) -> bool,
    pub(crate) left: u32,
    pub(crate) resumed: usize,
}

impl Observer for Stopper<'_> {
    fn observe(&mut self, event: Event<'_>) {
        if (self.is_step)(&event) {
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                self.cancel.store(true, Ordering::Relaxed);
            }
        }
        if let Event::Resumed { tensors, .. } = event {
            self.resumed = tensors;
        }
    }
}
