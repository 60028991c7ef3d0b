//! The binary as its users see it: real commands on the committed checkpoints.
//! One test binary; each module is one question.

mod activations;
mod bad_input;
mod bench;
mod calibrate;
mod completions;
mod convert;
mod determinism;
mod endings;
mod eval;
mod experts;
mod generic;
mod golden;
mod importance;
mod interruption;
#[cfg(unix)]
mod links;
mod loaders;
mod lora;
mod loss;
mod messages;
mod mixed_schemes;
mod native_mxfp4;
mod output_paths;
mod overrides;
mod packed;
mod packed_floats;
mod packed_odd;
mod plan;
mod pruning;
mod pytorch;
mod quantize;
mod reports;
mod rotated_inputs;
mod row_order;
mod safetensors;
mod shapes;
mod sources;
mod split;
mod support;
mod targets;
mod text;
