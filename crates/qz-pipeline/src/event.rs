//! What a job tells its caller while it runs.

use std::path::Path;

use qz_tensor::DataType;

/// One thing that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// One of several targets begins, each of which is a run of its own.
    Target {
        /// Its name.
        name: &'a str,
        /// Which one, from 1.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// A text is read.
    Reading {
        /// Chunks of it.
        chunks: usize,
        /// Tokens of a chunk.
        context: usize,
    },
    /// Work begins, which is counted in weights: each piece of it as the share of the weights
    /// that is its share of the work.
    Started {
        /// What is being done, in one word ("convert").
        job: &'static str,
        /// Tensors.
        tensors: usize,
        /// Weights over all tensors.
        weights: u64,
    },
    /// The most memory that the work takes.
    Memory {
        /// Bytes.
        bound: u64,
    },
    /// Work on one of several equal parts begins.
    At {
        /// What the parts are, in the singular ("layer").
        part: &'static str,
        /// Which one, from 1.
        number: u64,
        /// How many there are; none where what is worked on is no part.
        count: u64,
        /// True if all that is left goes at this pace.
        steady: bool,
    },
    /// So much work is done since the last such event.
    Advanced {
        /// Its share of the weights.
        weights: u64,
    },
    /// A tensor is complete in every output.
    TensorDone {
        /// Its name in the output.
        name: &'a str,
        /// The type it was read in.
        from: DataType,
        /// The type of each output.
        to: &'a [DataType],
    },
    /// Something a person should know that is no error.
    Warning(&'a str),
    /// An interrupted run's finished tensors are taken over.
    Resumed {
        /// The output.
        path: &'a Path,
        /// How many tensors.
        tensors: usize,
    },
    /// An output is at its final path already: an earlier run of the same job has made it.
    There {
        /// The output.
        path: &'a Path,
    },
    /// A model wrote more of a text.
    Text(&'a str),
    /// An output is complete at its final path.
    Written {
        /// The path.
        path: &'a Path,
        /// Its size in bytes.
        bytes: u64,
    },
}

/// Receives events, on the thread that runs the job.
pub trait Observer {
    /// Called for each event, in order.
    fn observe(&mut self, event: Event<'_>);
}

/// Hears nothing.
#[derive(Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&mut self, _: Event<'_>) {}
}

/// Counts work of any unit as shares of the weights: [`Event::Advanced`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    weights: u64,
    whole: f64,
    done: f64,
}

impl Shares {
    /// All `weights` are as much work as `whole` of the unit.
    pub(crate) fn new(weights: u64, whole: f64) -> Self {
        Self { weights, whole, done: 0.0 }
    }

    /// The weights that this piece of the work stands for. Nothing is lost to rounding.
    pub(crate) fn advance(&mut self, work: f64) -> u64 {
        let through = |done: f64| {
            let share = (done / self.whole.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0);
            (self.weights as f64 * share).round() as u64
        };
        let before = through(self.done);
        self.done += work;
        through(self.done) - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let mut shares = Shares::new(100, 7.0);
        let found: Vec<u64> = (0..7).map(|_| shares.advance(1.0)).collect();
        assert_eq!(found, [14, 15, 14, 14, 14, 15, 14]);
        assert_eq!(shares.advance(1.0), 0);
        assert_eq!(Shares::new(100, 0.0).advance(0.0), 0);
    }
}
