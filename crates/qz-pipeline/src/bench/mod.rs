//! `bench`: how fast this machine is with each codec, or with a model.

mod codecs;
mod machine;
mod model;
mod timing;

pub use codecs::{CodecBench, CodecBenchOptions, CodecSpeed, bench_codecs};
pub use machine::Machine;
pub use model::{ModelBench, ModelBenchOptions, ModelSpeed, bench_model};
