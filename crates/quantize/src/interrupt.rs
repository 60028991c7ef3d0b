//! Signals. Ctrl-C, termination and a terminal that goes away: the first stops the job
//! between pieces of its work, so that it can be continued; a second ends the process at
//! once. Limits of file size are errors of the write that meets them; memory that is refused
//! ends the process with a code of its own.

use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[cfg(unix)]
use signal_hook::consts::{SIGABRT, SIGHUP, SIGXFSZ};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::{exit, progress};

/// The signal that arrived, for the exit code; 0 for none.
static SIGNAL: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// Time between looks at what has happened.
const GLANCE: Duration = Duration::from_millis(50);

/// A job asks its flag more often than that. Where it does not, the process ends all the
/// same: it may be killed at any time, and what is in the journal holds.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Set once something went wrong that is no lack of memory.
static FAULT: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Makes writes beyond a limit of file size fail, instead of the process being killed; and lets a
/// process that gets no memory end as one that lacks something of its surroundings. The standard
/// library says how many bytes it was, and aborts, which nothing but a signal's handler sees.
pub(crate) fn survive_limits() {
    #[cfg(unix)]
    {
        // Nobody reads the flag: a signal that is handled does not kill.
        let _ = flag::register(SIGXFSZ, Arc::default());
        let fault = Arc::clone(FAULT.get_or_init(Arc::default));
        let _ = flag::register_conditional_shutdown(SIGABRT, exit::INTERNAL.into(), fault);
        let always = Arc::new(AtomicBool::new(true));
        let _ = flag::register_conditional_shutdown(SIGABRT, exit::ENVIRONMENT.into(), always);
    }
}

/// Notes a panic: what aborts after it is an internal error. A thread that gets no memory for
/// its stacks panics, too.
pub(crate) fn note_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or_default();
    let lacks_memory = message.starts_with("failed to allocate an alternative stack")
        || message.starts_with("failed to set up alternative stack");
    if !lacks_memory {
        FAULT.get_or_init(Arc::default).store(true, Ordering::SeqCst);
    }
}

/// A flag that the first signal sets.
pub(crate) fn install() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let arrived = SIGNAL.get_or_init(Arc::default);
    let ignored = ignored_signals();
    for signal in SIGNALS {
        // Whoever started us wants it so: `nohup`, or a shell's background.
        if ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        // In this order: the default action fires only if the flag is set
        // already, that is on the second signal.
        flag::register_conditional_default(signal, Arc::clone(&stop))?;
        flag::register_usize(signal, Arc::clone(arrived), usize::try_from(signal).unwrap_or(0))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    watch(Arc::clone(arrived));
    Ok(stop)
}

/// 128 plus the signal's number, as shells report it.
pub(crate) fn exit_code() -> u8 {
    let signal = SIGNAL.get().map_or(0, |signal| signal.load(Ordering::Relaxed));
    u8::try_from(128 + signal).unwrap_or(130)
}

/// Answers the first signal on a thread of its own, since the job may be in the middle of
/// something. Without such a thread the job stops all the same.
fn watch(arrived: Arc<AtomicUsize>) {
    let answer = move || {
        while arrived.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(GLANCE);
            progress::tick();
        }
        progress::say_stopping();
        std::thread::sleep(PATIENCE);
        progress::say_stopped();
        std::process::exit(exit_code().into());
    };
    let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(answer);
}

/// The signals that are ignored, a bit each, where the system tells (`SigIgn` of proc(5)).
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
