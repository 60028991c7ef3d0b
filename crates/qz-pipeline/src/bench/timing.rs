//! Time that work takes.

use std::time::{Duration, Instant};

/// Work is repeated until it took this long, but at least as often as [`LEAST`].
const TRIAL: Duration = Duration::from_millis(150);

/// The first round also brings code and tables into memory.
const LEAST: usize = 3;

/// Seconds of the fastest round of `work`, which is told the round's number: what it
/// takes on an idle machine.
pub(super) fn fastest(mut work: impl FnMut(usize)) -> f64 {
    let (start, mut fastest, mut rounds) = (Instant::now(), Duration::MAX, 0);
    while rounds < LEAST || start.elapsed() < TRIAL {
        let round = Instant::now();
        work(rounds);
        fastest = fastest.min(round.elapsed());
        rounds += 1;
    }
    // A clock that stands still would make infinite speeds.
    fastest.as_secs_f64().max(1e-9)
}
