//! Pools of threads whose work can be stopped: they know a flag, as [`qz_tensor::stop`] has
//! it, and whoever put work on a pool asks afterwards whether it is set.

use std::sync::Arc;

use qz_tensor::stop::own;
pub use qz_tensor::stop::{Flag, is_requested};

/// A pool of so many threads, whose work ends early once `flag` is set.
///
/// # Errors
/// If the operating system gives no threads.
pub fn pool(threads: usize, flag: &Flag) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    let flag = Arc::clone(flag);
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        // The threads have it to their end.
        .start_handler(move |_| std::mem::forget(own(&flag)))
        .build()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

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
