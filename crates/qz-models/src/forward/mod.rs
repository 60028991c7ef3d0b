//! The forward pass: what a decoder computes of tokens, from any weights and on any
//! backend.
//!
//! [`Forward`] has one layer's weights in memory at a time. All chunks of the text go
//! through it, a batch at a time, before the next layer is read: so a model is read once,
//! however large it is. The hidden states between layers stay in memory while they fit,
//! and in a file that nobody else sees past that.
//!
//! [`Session`] has all of a model in memory, and takes the tokens of one sequence as they
//! come: what follows from the tokens so far may decide the next.
//!
//! | where | what |
//! |---|---|
//! | [`DecoderShape`] | sizes and switches, from GGUF metadata |
//! | `rotary.rs` | the angles of rotary position embedding, scaled or not |
//! | [`WeightSource`] | where weights come from; `weights.rs` puts them on the backend |
//! | [`Chunks`] | which tokens belong together |
//! | `layer.rs` | what a layer computes |
//! | `states.rs` | the hidden states of all tokens |
//! | [`Forward`] | the run over all layers |
//! | [`LayerStream`] | the run with stops: inputs of products seen, weights replaced |
//! | [`Logits`] | what is read of its end |
//! | [`Session`] | one sequence, step by step |
//!
//! The graph is llama.cpp's (`src/models/{llama,qwen2,qwen3}.cpp`), with transformers'
//! sliding window.

mod capture;
mod chunks;
mod layer;
mod logits;
mod output;
mod rotary;
mod run;
mod session;
mod shape;
mod states;
mod stream;
mod visitor;
mod weights;

pub use capture::{LinearGroup, LinearInputs, Routing, Stage};
pub use chunks::{Branches, Chunks};
pub use logits::{Logits, LogitsTile};
pub use run::{Forward, ForwardOptions};
pub use session::Session;
pub use shape::DecoderShape;
pub use stream::{LayerStream, VisitRows};
pub use visitor::Visit;
pub use weights::{StoredTensor, WeightSource};
