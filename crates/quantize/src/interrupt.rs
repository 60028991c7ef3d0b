//! Ctrl-C and termination: the first stops the job between tiles, so that it can
//! be continued; a second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The signal that arrived, for the exit code; 0 for none.
static SIGNAL: std::sync::OnceLock<Arc<AtomicUsize>> = std::sync::OnceLock::new();

/// A flag that the first signal sets.
pub(crate) fn install() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let arrived = SIGNAL.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the default action fires only if the flag is set
        // already, that is on the second signal.
        flag::register_conditional_default(signal, Arc::clone(&stop))?;
        flag::register_usize(signal, Arc::clone(arrived), usize::try_from(signal).unwrap_or(0))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// 128 plus the signal's number, as shells report it.
pub(crate) fn exit_code() -> u8 {
    let signal = SIGNAL.get().map_or(0, |signal| signal.load(Ordering::Relaxed));
    u8::try_from(128 + signal).unwrap_or(130)
}
