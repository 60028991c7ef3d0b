//! What a job tells its caller while it runs.

use std::path::Path;

use qz_tensor::DataType;

/// One thing that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Work begins; `weights` will be read in all.
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
    /// So many weights have been processed since the last such event.
    Advanced {
        /// Weights.
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
