//! The forward pass: what a decoder computes of tokens, from any weights and on any
//! backend.
//!
//! [`Forward`] has one layer's weights in memory at a time. All chunks of the text go
//! through it, a batch at a time, before the next layer is read: so a model is read once,
//! however large it is. The hidden states between layers stay on the device while they fit,
//! and in a file that nobody else sees past that.
//!
//! [`Session`] has all of a model in memory, and takes the tokens of one sequence as they
//! come: what follows from the tokens so far may decide the next.
//!
//! | where | what |
//! |---|---|
//! | [`WeightSource`] | where weights come from; `weights.rs` puts them on the backend |
//! | [`Chunks`] | which tokens belong together |
//! | `layer.rs` | a layer's weights |
//! | `execute.rs` | what runs a layer's steps ([`crate::graph`]) |
//! | `inputs.rs` | what matrices multiply, as engines round it |
//! | `checks.rs` | whether products are finite, asked once a layer |
//! | `states.rs` | the hidden states of all tokens |
//! | `beside.rs` | what layers leave for later ones, and what the model has for each token in a layer |
//! | [`Forward`] | the run over all layers |
//! | [`LayerStream`] | the run with stops: inputs of products seen, weights replaced |
//! | [`HiddenStates`] | what is at its end; an encoder's result |
//! | [`Logits`] | what predicts tokens from them |
//! | [`Session`] | one sequence, step by step |
//!
//! What is computed stands in [`crate::graph`]; nothing here knows a family.

mod beside;
mod capture;
mod checks;
mod chunks;
mod execute;
mod hidden;
mod inputs;
mod layer;
mod logits;
mod output;
mod run;
mod session;
mod states;
mod stream;
mod visitor;
mod weights;

pub use capture::{LinearInputs, Routing};
pub use chunks::{Branches, Chunks};
pub use hidden::HiddenStates;
pub use logits::{Logits, LogitsTile};
pub use run::{Forward, ForwardOptions};
pub use session::Session;
pub use stream::{LayerStream, VisitRows};
pub use visitor::{Visit, VisitCached};
pub use weights::{StoredTensor, WeightSource};
