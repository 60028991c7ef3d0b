//! Work that is no longer wanted.
//!
//! A pool's threads know a flag ([`pool`]), and loops that take long ask for it between
//! pieces of their work ([`is_requested`]). Once it is set they leave the rest undone:
//! what they give then means nothing. A flag is never taken back, so whoever put work on a
//! pool and finds the flag not set afterwards has whole results.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set once work is to end.
pub type Flag = Arc<AtomicBool>;

thread_local! {
    /// The flag of the pool that this thread belongs to.
    static OWN: RefCell<Option<Flag>> = const { RefCell::new(None) };
}

/// A pool of so many threads, whose work ends early once `flag` is set.
///
/// # Errors
/// If the operating system gives no threads.
pub fn pool(threads: usize, flag: &Flag) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    let flag = Arc::clone(flag);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .start_handler(move |_| OWN.set(Some(Arc::clone(&flag))))
        .build()
}

/// True if what this thread works on is no longer wanted.
pub fn is_requested() -> bool {
    OWN.with_borrow(|own| own.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_knows_its_own_flag() {
        let (first, second) = (Flag::default(), Flag::default());
        let pools = [&first, &second].map(|flag| pool(2, flag).expect("threads"));
        let ask = || pools.each_ref().map(|pool| pool.install(is_requested));
        assert_eq!(ask(), [false, false]);
        second.store(true, Ordering::Relaxed);
        assert_eq!(ask(), [false, true]);
        assert!(!is_requested());
    }
}
