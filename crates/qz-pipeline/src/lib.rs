//! Jobs: convert, inspect, verify, eval, calibrate, quantize, bench. A job opens a model, plans, streams tiles
//! from its source through codecs into sinks, and reports.
//!
//! What belongs here: the container registry, the streaming engine, the order of
//! steps and what is checked between them. What does not: byte layouts
//! (`formats/*`), searches (`qz-codec`), names of tensors (`qz-models`), type
//! rules (`qz-plan`), anything a person sees (the binary).
//!
//! Layer 6: uses every layer below; used by the binary only. It never prints and
//! never reads the environment; what happens is told to an [`Observer`].
//!
//! Invariant: data flows one way, source → plan → codec → sink, and a job holds
//! tiles of rows, never a whole tensor.

#![forbid(unsafe_code)]

mod adapters;
mod bench;
mod calibrate;
mod caught;
mod compute;
mod container;
mod convert;
mod edits;
mod error;
mod estimate;
mod eval;
mod event;
mod folder;
mod format;
mod inputs;
mod inspect;
mod loaders;
mod loss;
mod mapped_rows;
mod measuring;
mod metadata_override;
mod model;
mod model_weights;
mod plan;
mod planning;
mod pruning;
mod quantization;
mod quantize;
mod rounded_inputs;
mod sinks;
mod source_rows;
mod statistics;
mod stream;
mod target;
mod targets;
mod unknown_target;
mod unread_rows;
mod verify;

pub use adapters::{AdapterReport, MergedAdapter, convert_adapter};
pub use bench::{
    CodecBench, CodecBenchOptions, CodecSpeed, Machine, ModelBench, ModelBenchOptions, ModelSpeed,
    bench_codecs, bench_model,
};
pub use calibrate::{
    CalibrateOptions, Calibration, CalibrationData, Collect, Conversations, DataOptions, DataPart,
    ExpertCoverage, ExpertOptions, MergedStatistics, StatisticsFormat, StatisticsSummary,
    calibrate, each_parquet_row, merge_statistics, show_statistics,
};
pub use caught::catches_panics;
pub use compute::ComputeOptions;
pub use container::{CONTAINERS, Container, HubId, stem_of};
pub use convert::{
    ConvertOptions, ConvertReport, ConvertedTensor, FallbackTensor, Output, convert,
};
pub use edits::{
    Axis, Edit, EditedColumns, EditedType, Edits, Factor, FactorStrides, LowRank, Operand,
    Operation,
};
pub use error::{Error, Uncovered};
pub use eval::{
    CompareOptions, CompareReport, Compared, Ending, EvalData, EvalOptions, Evaluation, FewShot,
    Figures, Pair, ReferenceOptions, Sample, SampleOptions, SaveOptions, TaskEvaluation,
    TaskOptions, TextOptions, Thresholds, compare, eval, eval_tasks, sample,
};
pub use event::{Event, Observer, Silent};
pub use format::{Demand, FORMATS, Format};
pub use inputs::Inputs;
pub use inspect::{
    InspectedTensor, InspectedTensors, Inspection, ShownMetadata, TypeShare, inspect,
};
pub use loaders::{ENGINES, Engine, LOADER_RULES, LoaderRule};
pub use metadata_override::{InvalidMetadataOverride, MetadataOverride};
pub use model::{Model, ModelTensor, OpenOptions};
pub use model_weights::ModelWeights;
pub use plan::{Measured, PlanReport, PlannedOutput, TensorPlan, plan};
pub use planning::{PlanOptions, unknown_targets};
pub use quantization::Quantization;
pub use quantize::{
    CalibrationSummary, FoldingSummary, MethodTensor, Propagation, QuantizeOptions, QuantizeReport,
    TRANSFORMS, Transform, UnseenInputs, quantize,
};
pub use qz_calib::ImportanceMatrix;
pub use qz_calib::summary::{LayerSummary, TensorSummary};
pub use qz_eval::bootstrap::{FEWEST_CHUNKS, Interval, LEAST_P_VALUE};
pub use qz_eval::sampling::SamplingOptions;
pub use qz_eval::similarity::{Pooling, Similarity};
pub use qz_eval::statistics::{Comparison, Estimate, Perplexity, Spread};
pub use qz_eval::tasks::{Score, Share};
pub use qz_gguf::{SplitOptions, base_name};
pub use qz_kernels::backend::Rounding;
pub use qz_kernels::{Error as IsaError, Isa};
pub use qz_methods;
pub use qz_packed::{CacheScales, Rounding as PackedRounding};
pub use qz_plan::{Fallback, InvalidOverride, Overrides, TensorOverride, Wish, element_type};
pub use qz_safetensors::DEFAULT_SHARD_SIZE;
pub use rounded_inputs::RoundedInputs;
pub use stream::Cancel;
pub use target::Target;
pub use targets::{ModelFit, TargetInfo, targets};
pub use unknown_target::UnknownTarget;
pub use verify::{
    Finding, FindingKind, JudgedFor, TensorCheck, Verification, VerifyOptions, verify,
};
