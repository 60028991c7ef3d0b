//! Threads for parallel work: statistics, methods and scoring run on them, and so does the
//! processor as a backend.

use std::sync::Arc;

use qz_tensor::stop::own;

use crate::error::Error;
use crate::stop::Flag;

/// A pool of threads. Copies are the same threads.
#[derive(Clone, Debug)]
pub struct Workers {
    pool: Arc<rayon::ThreadPool>,
}

impl Workers {
    /// So many threads, at least one.
    ///
    /// # Errors
    /// If the operating system gives none.
    pub fn new(threads: usize) -> Result<Self, Error> {
        Self::stopped_by(threads, &Flag::default())
    }

    /// The same, with work that ends early once `flag` is set ([`crate::stop`]).
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub fn stopped_by(threads: usize, flag: &Flag) -> Result<Self, Error> {
        let flag = Arc::clone(flag);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            // The threads have it to their end.
            .start_handler(move |_| std::mem::forget(own(&flag)))
            .build()
            .map_err(|error| Error::Threads(error.to_string()))?;
        Ok(Self { pool: Arc::new(pool) })
    }

    /// Calls `work` on one of the threads, so that parallel work in it runs on all of them.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::stop::is_requested;

    #[test]
    fn workers_know_their_own_flag() {
        let (first, second) = (Flag::default(), Flag::default());
        let both = [&first, &second].map(|flag| Workers::stopped_by(2, flag).expect("threads"));
        let ask = || both.each_ref().map(|workers| workers.install(is_requested));
        assert_eq!(ask(), [false, false]);
        second.store(true, Ordering::Relaxed);
        assert_eq!(ask(), [false, true]);
        assert!(!is_requested());
    }
}
