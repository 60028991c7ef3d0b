//! Work that is no longer wanted.
//!
//! A thread may know a flag ([`own`]), and loops that take long ask for it between pieces of
//! their work ([`is_requested`]). Once it is set they leave the rest undone: what they give
//! then means nothing. A flag is never taken back, so whoever gave work to a thread and finds
//! the flag not set afterwards has whole results.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once work is to end.
pub type Flag = Arc<AtomicBool>;

thread_local! {
    static OWN: RefCell<Option<Flag>> = const { RefCell::new(None) };
}

/// Until it is dropped its thread has a flag; then the one it had before.
#[derive(Debug)]
#[must_use = "the thread has the flag only as long"]
pub struct Owned {
    before: Option<Flag>,
    /// Not to be dropped on another thread.
    _thread: std::marker::PhantomData<*const ()>,
}

/// Makes `flag` this thread's.
pub fn own(flag: &Flag) -> Owned {
    Owned { before: OWN.replace(Some(Arc::clone(flag))), _thread: std::marker::PhantomData }
}

impl Drop for Owned {
    fn drop(&mut self) {
        OWN.set(self.before.take());
    }
}

/// True if what this thread works on is no longer wanted.
pub fn is_requested() -> bool {
    OWN.with_borrow(|own| own.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_flag_at_a_time() {
        let (first, second) = (Flag::default(), Flag::default());
        second.store(true, Ordering::Relaxed);
        assert!(!is_requested());
        let outer = own(&first);
        assert!(!is_requested());
        {
            let _inner = own(&second);
            assert!(is_requested());
            let elsewhere = std::thread::spawn(is_requested).join();
            assert!(!elsewhere.expect("no panic"));
        }
        assert!(!is_requested());
        drop(outer);
        first.store(true, Ordering::Relaxed);
        assert!(!is_requested());
    }
}
