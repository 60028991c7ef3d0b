//! What a forward pass is made of: operations on buffers that a device holds, and the
//! processor's implementation of them.
//!
//! | where | what |
//! |---|---|
//! | [`Backend`] | the operations |
//! | [`mod@reference`] | what they compute, one number after the other: the definition |
//! | [`CpuBackend`] | the same with vector instructions on several threads |
//! | [`conformance`] | compares any implementation with the reference |
//!
//! Invariant: an operation's result does not depend on the number of threads.
//!
//! What does not belong here: which operations make a layer (`qz-models`), files.

mod activations;
pub mod conformance;
mod cpu;
pub mod reference;

use std::borrow::Cow;
use std::ops::Range;

use qz_tensor::DataType;

pub use crate::error::Error;
pub use activations::{Rounding, activation_type, round_activations};
pub use cpu::{CpuBackend, FewTokens};

/// Which elements of a head turn together in rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryPairs {
    /// Neighbours: llama.cpp's "normal" order, of checkpoints whose rows were permuted.
    Adjacent,
    /// Element `i` and `i + half`: Hugging Face's order, "neox" in llama.cpp.
    Halves,
}

/// The shape of one attention operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`, and each serves that many in a row.
    pub key_value_heads: usize,
    /// Elements of one head.
    pub head_size: usize,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    /// How many positions back a query sees, itself among them; all if none.
    pub window: Option<usize>,
}

impl Attention {
    /// Elements of a row of keys or of values.
    pub fn key_value_width(&self) -> usize {
        self.key_value_heads * self.head_size
    }

    /// Elements of a row of queries.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_size
    }

    /// The positions that a query at `position` sees.
    pub fn visible(&self, position: usize) -> Range<usize> {
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        first..position + 1
    }
}

/// An expert's tokens, with the weight of its answer for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExpertLoad {
    /// Row numbers, in order.
    pub tokens: Vec<usize>,
    /// One for each token.
    pub weights: Vec<f32>,
}

/// The operations of a decoder's forward pass. A buffer holds f32 numbers as rows one
/// behind the other; the width of a row follows from the operation. Shapes that
/// contradict each other are the caller's mistake and may panic.
pub trait Backend: Send + Sync {
    /// Numbers on the device.
    type Buffer: Send + Sync;
    /// Weights on the device, in their own type.
    type Matrix: Send + Sync;
    /// Keys and values of one sequence.
    type Cache: Send + Sync;

    /// Takes `rows` rows of `columns` weights, as they are stored.
    ///
    /// # Errors
    /// If the type has no codec, or the bytes are not those of such a matrix.
    fn matrix(
        &self,
        data_type: DataType,
        rows: usize,
        columns: usize,
        bytes: Vec<u8>,
    ) -> Result<Self::Matrix, Error>;

    /// Rows of a matrix.
    fn rows(&self, matrix: &Self::Matrix) -> usize;

    /// A buffer with these numbers.
    fn buffer(&self, values: &[f32]) -> Self::Buffer;

    /// A buffer of zeros.
    fn zeros(&self, elements: usize) -> Self::Buffer;

    /// Copies numbers from `from` on out of a buffer.
    fn read(&self, buffer: &Self::Buffer, from: usize, out: &mut [f32]);

    /// All numbers of a buffer, without a copy where they are in the machine's memory.
    fn numbers<'b>(&self, buffer: &'b Self::Buffer) -> Cow<'b, [f32]>;

    /// The position of a number that is not finite, if there is one.
    fn first_non_finite(&self, buffer: &Self::Buffer) -> Option<usize>;

    /// `out[t][r] = Σ activations[t][c] · matrix[r][c]`, with the activations rounded
    /// as `rounding` says.
    fn matmul(
        &self,
        rounding: Rounding,
        activations: &Self::Buffer,
        matrix: &Self::Matrix,
        out: &mut Self::Buffer,
    );

    /// Each row of `weights.len()` numbers divided by its root mean square and
    /// multiplied with the weights.
    fn rms_norm(
        &self,
        input: &Self::Buffer,
        weights: &Self::Buffer,
        epsilon: f32,
        out: &mut Self::Buffer,
    );

    /// Turns pairs of each head's elements in rows of `width` numbers. `table` has, for
    /// each position, the cosine and sine of each pair; after its last position the next
    /// row is at the first one again.
    fn rotate(
        &self,
        rows: &mut Self::Buffer,
        width: usize,
        head_size: usize,
        pairs: RotaryPairs,
        table: &Self::Buffer,
    );

    /// An empty cache for `capacity` positions, which keeps keys and values as
    /// `data_type` rounds them.
    ///
    /// # Errors
    /// If a head does not fill the type's blocks.
    fn cache(
        &self,
        shape: &Attention,
        capacity: usize,
        data_type: DataType,
    ) -> Result<Self::Cache, Error>;

    /// Puts rows of keys and values into the cache, from `position` on.
    fn store(
        &self,
        cache: &mut Self::Cache,
        position: usize,
        keys: &Self::Buffer,
        values: &Self::Buffer,
        rows: Range<usize>,
    );

    /// Causal attention of `rows` of the queries, the first of which is at `position`,
    /// to the cache; writes the same rows of `out`.
    fn attend(
        &self,
        shape: &Attention,
        cache: &Self::Cache,
        position: usize,
        queries: &Self::Buffer,
        rows: Range<usize>,
        out: &mut Self::Buffer,
    );

    /// `gate[i] = silu(gate[i]) · up[i]`.
    fn silu_times(&self, gate: &mut Self::Buffer, up: &Self::Buffer);

    /// `to[i] += from[i]`.
    fn add(&self, to: &mut Self::Buffer, from: &Self::Buffer);

    /// Adds `bias` to each row.
    fn add_bias(&self, to: &mut Self::Buffer, bias: &Self::Buffer);

    /// Gives each row of `scores` to the `used` experts with the highest softmax
    /// probability; weights are these probabilities, divided by their sum.
    fn route(&self, scores: &Self::Buffer, experts: usize, used: usize) -> Vec<ExpertLoad>;

    /// The rows `tokens`, each of `width` numbers, one behind the other.
    fn gather(&self, from: &Self::Buffer, width: usize, tokens: &[usize]) -> Self::Buffer;

    /// Adds row `i` of `from` times its weight to row `load.tokens[i]` of `to`.
    fn scatter_add(
        &self,
        to: &mut Self::Buffer,
        width: usize,
        load: &ExpertLoad,
        from: &Self::Buffer,
    );
}
