//! Panics of decoders that are not ours, which become errors.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// True while a panic of this thread is going to be an error, which a program's panic hook
/// need not tell.
pub fn catches_panics() -> bool {
    CATCHING.get()
}

/// What `job` returns, or nothing if it panics.
pub(crate) fn caught<T>(job: impl FnOnce() -> T) -> Option<T> {
    CATCHING.set(true);
    let result = catch_unwind(AssertUnwindSafe(job));
    CATCHING.set(false);
    result.ok()
}
