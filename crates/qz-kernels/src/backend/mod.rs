//! What a forward pass is made of: operations on buffers that a device holds, and the
//! processor's implementation of them.
//!
//! | where | what |
//! |---|---|
//! | [`Backend`] | the operations |
//! | [`mod@reference`] | what they compute, one number after the other: the definition |
//! | [`Shaped`] | rows and columns; `shapes.rs` has what each operation asks of them |
//! | [`CpuBackend`] | the same with vector instructions on several threads |
//! | [`rowwise`], [`recurrence`] | operations of few families |
//! | [`conformance`] | compares any implementation with the reference |
//! | [`failing`] | any implementation, whose device is lost at some operation |
//!
//! Invariant: an operation's result does not depend on the number of threads.
//!
//! What does not belong here: which operations make a layer (`qz-models`), files.

mod activations;
pub mod conformance;
mod cpu;
mod distances;
pub mod failing;
mod host;
pub mod recurrence;
pub mod reference;
mod routing;
pub mod rowwise;
mod shapes;

use std::borrow::Cow;
use std::ops::Range;

use qz_tensor::DataType;

pub use crate::error::Error;
pub use activations::{Rounding, activation_type, round_activations};
pub use cpu::{CpuBackend, FewTokens};
pub use distances::Distances;
pub use host::HostBuffer;
pub use qz_codec::activations::{Activations, InputRounding, Number};
pub use recurrence::{Convolution, Delta, Recurrence, Selective};
pub use routing::{ExpertLoad, Gating, Router};
pub use rowwise::Rowwise;
pub use shapes::Shaped;

/// Which elements of a head turn together in rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotaryPairs {
    /// Neighbours: llama.cpp's "normal" order, of checkpoints whose rows were permuted.
    Adjacent,
    /// Element `i` and `i + half`: Hugging Face's order, "neox" in llama.cpp.
    Halves,
}

/// Which elements of each head turn, and how many angles a position has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Elements of one head.
    pub head_size: usize,
    /// The first that turns.
    pub first: usize,
    /// How many turn: two for each angle.
    pub count: usize,
    /// Which of them turn together.
    pub pairs: RotaryPairs,
}

/// The shape of one attention operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`, and each serves that many in a row.
    pub key_value_heads: usize,
    /// Elements of one head of queries and keys.
    pub key_size: usize,
    /// Elements of one head of values.
    pub value_size: usize,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    /// How many positions back a query sees, itself among them; all if none. One that sees
    /// positions behind its own sees half as many on either side, and itself.
    pub window: Option<usize>,
    /// Positions stand in chunks of so many, of which a query sees its own only; all if none.
    pub chunk: Option<usize>,
    /// Scores `s` become `cap · tanh(s / cap)`.
    pub soft_cap: Option<f32>,
    /// A query sees no positions behind its own; if not, all of its sequence.
    pub is_causal: bool,
    /// What is added to scores by how far keys are.
    pub distances: Distances,
}

impl Attention {
    /// Attention whose heads have so many elements, and nothing out of the ordinary.
    pub fn plain(heads: usize, key_value_heads: usize, size: usize) -> Self {
        Self {
            heads,
            key_value_heads,
            key_size: size,
            value_size: size,
            scale: 1.0 / (size as f32).sqrt(),
            window: None,
            chunk: None,
            soft_cap: None,
            is_causal: true,
            distances: Distances::None,
        }
    }

    /// What is added to a head's score of a key. `learned` has the numbers of ranges, of all heads
    /// range by range.
    pub fn added(&self, head: usize, query: usize, key: usize, learned: Option<&[f32]>) -> f32 {
        match (self.distances, learned) {
            (Distances::Slopes { least }, _) => {
                -Distances::slope(least, head, self.heads) * key.abs_diff(query) as f32
            }
            (Distances::Ranges { count }, Some(learned)) => {
                let range = Distances::range(count, !self.is_causal, query, key);
                learned[range * self.heads + head]
            }
            (Distances::None | Distances::Ranges { .. }, _) => 0.0,
        }
    }

    /// Elements of a row of keys.
    pub fn key_width(&self) -> usize {
        self.key_value_heads * self.key_size
    }

    /// Elements of a row of values.
    pub fn value_width(&self) -> usize {
        self.key_value_heads * self.value_size
    }

    /// Elements of a row of queries.
    pub fn query_width(&self) -> usize {
        self.heads * self.key_size
    }

    /// Elements of a row of results.
    pub fn result_width(&self) -> usize {
        self.heads * self.value_size
    }

    /// The positions that a query at `position` of a sequence of `length` sees.
    pub fn visible(&self, position: usize, length: usize) -> Range<usize> {
        let chunk = self.chunk.map_or(0, |chunk| position / chunk.max(1) * chunk);
        match (self.window, self.is_causal) {
            (None, true) => chunk..position + 1,
            (None, false) => chunk..length,
            (Some(window), true) => chunk.max((position + 1).saturating_sub(window))..position + 1,
            (Some(window), false) => {
                let half = window / 2;
                chunk.max(position.saturating_sub(half))..length.min(position + half + 1)
            }
        }
    }
}

/// What becomes of a gate before it is multiplied with up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x · Φ(x)`, with the hyperbolic tangent in the place of the error function.
    GeluTanh,
    /// `x · Φ(x)`, with the error function.
    GeluErf,
    /// The former two as ggml has them: with the hyperbolic tangent, of a binary16 number,
    /// and rounded to one (`ggml_vec_gelu_f32` in vec.h).
    GeluHalf,
    /// gpt-oss': `x · sigmoid(1.702 x)` of gates of at most 7, times one more than up, which
    /// lies between -7 and 7 (`swiglu_oai` in ggml, `GptOssExperts` in transformers).
    ClampedSilu,
    /// `sigmoid(x)`: a gate that only weakens.
    Sigmoid,
    /// `x`: a product, and nothing else.
    Identity,
    /// The square of what is above zero.
    ReluSquared,
    /// The hyperbolic tangent.
    Tanh,
    /// With learned numbers.
    Xielu(Xielu),
}

/// xIELU (arXiv 2411.13010): `above · x² + slope · x` above zero, and
/// `below · (exp(min(x, limit)) − 1 − x) + slope · x` elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Xielu {
    /// What squares are multiplied with.
    pub above: f32,
    /// What exponentials are multiplied with.
    pub below: f32,
    /// The slope at zero.
    pub slope: f32,
    /// The largest argument of exponentials; below zero, and near it.
    pub limit: f32,
}

/// The shape of one state space operation (Mamba 2): for each head a state of `head_size`
/// rows of `state_size` numbers, which every token lets decay and adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Heads.
    pub heads: usize,
    /// Numbers of one head.
    pub head_size: usize,
    /// Groups of heads that are written to and read by the same vectors; divides `heads`.
    pub groups: usize,
    /// Numbers of such a vector.
    pub state_size: usize,
    /// Tokens that the convolution before it sees, the last of them the token itself.
    pub taps: usize,
}

impl Scan {
    /// Numbers of a row of results.
    pub fn inner(&self) -> usize {
        self.heads * self.head_size
    }

    /// Numbers of a row that the convolution sees: the heads' own, and the vectors with which
    /// states are written and read.
    pub fn convolved(&self) -> usize {
        self.inner() + 2 * self.groups * self.state_size
    }

    /// Numbers of a row of inputs: the gate, what is convolved, and each head's time step.
    pub fn width(&self) -> usize {
        self.inner() + self.convolved() + self.heads
    }

    /// Numbers that a sequence leaves behind: the last rows that the convolution has seen, and
    /// the states.
    pub fn state(&self) -> usize {
        (self.taps - 1) * self.convolved() + self.inner() * self.state_size
    }
}

/// The weights of a state space operation.
#[derive(Clone, Copy, Debug)]
pub struct ScanWeights<'a, Buffer: ?Sized> {
    /// For each number that is convolved what each of the tokens counts.
    pub convolution: &'a Buffer,
    /// What is added to each.
    pub convolution_bias: &'a Buffer,
    /// What is added to each head's time step.
    pub time_step: &'a Buffer,
    /// How fast each head's state decays; negative.
    pub decay: &'a Buffer,
    /// How much of its input is added to each head's result.
    pub skip: &'a Buffer,
}

impl Activation {
    /// What a backend computes that rounds as `rounding` says.
    pub fn rounded(self, rounding: Rounding) -> Self {
        match (self, rounding) {
            (Self::GeluTanh | Self::GeluErf, Rounding::Engine) => Self::GeluHalf,
            _ => self,
        }
    }
}

/// Numbers of each head of a buffer.
#[derive(Clone, Debug)]
pub struct JoinedColumns<'a, Buffer> {
    /// The buffer.
    pub buffer: &'a Buffer,
    /// Numbers of one of its heads.
    pub size: usize,
    /// Which of them.
    pub columns: Range<usize>,
}

/// Rows of queries.
#[derive(Clone, Debug)]
pub struct Queries<'a, Buffer> {
    /// Where they are.
    pub buffer: &'a Buffer,
    /// Which rows.
    pub rows: Range<usize>,
    /// The position of the first of them; the last is at the end of the sequence.
    pub position: usize,
}

/// The operations of a decoder's forward pass. A buffer holds rows of f32 numbers; a vector is
/// one row.
///
/// # Errors
/// A device can be lost, or have no memory left, in any operation: [`Error::Device`]. Shapes
/// that contradict each other are [`Error::Shape`].
pub trait Backend: Send + Sync + 'static {
    /// Numbers on the device.
    type Buffer: Shaped + Send + Sync;
    /// Weights on the device, in their own type.
    type Matrix: Shaped + Send + Sync;
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

    /// A matrix' weights as numbers.
    fn decode(&self, matrix: &Self::Matrix) -> Result<Self::Buffer, Error>;

    /// A buffer with these numbers, in rows of `columns`.
    fn buffer(&self, columns: usize, values: &[f32]) -> Result<Self::Buffer, Error>;

    /// A buffer of zeros.
    fn zeros(&self, rows: usize, columns: usize) -> Result<Self::Buffer, Error>;

    /// Another buffer with the same numbers.
    fn copy(&self, buffer: &Self::Buffer) -> Result<Self::Buffer, Error>;

    /// All numbers of a buffer, without a copy where they are in the machine's memory.
    fn numbers<'b>(&self, buffer: &'b Self::Buffer) -> Result<Cow<'b, [f32]>, Error>;

    /// All numbers of a buffer that nobody needs any more.
    fn take_numbers(&self, buffer: Self::Buffer) -> Result<Vec<f32>, Error>;

    /// Writes the first row that has a number that is not finite as number `at` of `found`; -1
    /// if there is none. Nobody waits: what was found is looked at when all of a layer is.
    fn check_finite(
        &self,
        buffer: &Self::Buffer,
        found: &mut Self::Buffer,
        at: usize,
    ) -> Result<(), Error>;

    /// In row `t` for each row `r` of the matrix `Σ activations[t][c] · matrix[r][c]`, with the
    /// activations rounded as `rounding` says.
    fn matmul(
        &self,
        rounding: Rounding,
        activations: &Self::Buffer,
        matrix: &Self::Matrix,
    ) -> Result<Self::Buffer, Error>;

    /// Each row as an engine rounds a matrix' inputs.
    fn round_inputs(
        &self,
        inputs: &Self::Buffer,
        rounding: &InputRounding,
    ) -> Result<Self::Buffer, Error>;

    /// Each run of as many numbers as there are weights divided by its root mean square and
    /// multiplied with the weights; of `groups` parts of a run each by its own.
    fn rms_norm(
        &self,
        input: &Self::Buffer,
        weights: &Self::Buffer,
        groups: usize,
        epsilon: f32,
    ) -> Result<Self::Buffer, Error>;

    /// Each run of as many numbers as there are weights less its mean, divided by its standard deviation,
    /// multiplied with the weights, and `bias` added; of `groups` parts of a run each by its own.
    fn layer_norm(
        &self,
        input: &Self::Buffer,
        weights: &Self::Buffer,
        bias: Option<&Self::Buffer>,
        groups: usize,
        epsilon: f32,
    ) -> Result<Self::Buffer, Error>;

    /// Turns pairs of each head's elements. `table` has for each position a row, with the
    /// cosine and sine of each pair; after its last position the next row is at the first one
    /// again.
    fn rotate(
        &self,
        rows: &mut Self::Buffer,
        rotation: &Rotation,
        table: &Self::Buffer,
    ) -> Result<(), Error>;

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
    ) -> Result<(), Error>;

    /// Attention of queries to the cache; writes the same rows of `out`. `sinks` has for each head a score of
    /// nothing: it takes its part of the probability, and adds no value. `learned` has the numbers of
    /// [`Distances::Ranges`].
    fn attend(
        &self,
        shape: &Attention,
        sinks: Option<&Self::Buffer>,
        learned: Option<&Self::Buffer>,
        cache: &Self::Cache,
        queries: Queries<'_, Self::Buffer>,
        out: &mut Self::Buffer,
    ) -> Result<(), Error>;

    /// State space operation on `rows` of the input, which follow those that `state` is of;
    /// writes the same rows of `out`, and makes `state` that behind them.
    fn scan(
        &self,
        shape: &Scan,
        weights: &ScanWeights<'_, Self::Buffer>,
        state: &mut Self::Buffer,
        input: &Self::Buffer,
        rows: Range<usize>,
        out: &mut Self::Buffer,
    ) -> Result<(), Error>;

    /// A recurrence of `rows` of the inputs, which follow those that `state` is of; writes the
    /// same rows of `out`, and makes `state` that behind them. Without an own implementation
    /// it is computed in the machine's memory.
    fn recur(
        &self,
        shape: &Recurrence,
        weights: &[&Self::Buffer],
        state: &mut Self::Buffer,
        inputs: &[&Self::Buffer],
        rows: Range<usize>,
        out: &mut Self::Buffer,
    ) -> Result<(), Error> {
        shapes::recur(shape, weights, state, inputs, &rows, out)?;
        let numbers = |all: &[&Self::Buffer]| -> Result<Vec<Vec<f32>>, Error> {
            all.iter().map(|own| Ok(self.numbers(own)?.into_owned())).collect()
        };
        let (weights, inputs) = (numbers(weights)?, numbers(inputs)?);
        let weights: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
        let widths = shape.inputs();
        let own = inputs.iter().zip(&widths);
        let own: Vec<&[f32]> =
            own.map(|(input, width)| &input[rows.start * width..rows.end * width]).collect();
        let mut left = self.numbers(state)?.into_owned();
        let results = recurrence::recur(shape, &weights, &mut left, &own);
        let mut all = self.numbers(out)?.into_owned();
        let width = shape.width();
        all[rows.start * width..rows.end * width].copy_from_slice(&results);
        (*state, *out) = (self.buffer(left.len(), &left)?, self.buffer(width, &all)?);
        Ok(())
    }

    /// An operation on each row by itself; vectors are one row. Without an own implementation it is
    /// computed in the machine's memory.
    fn rowwise(
        &self,
        operation: &Rowwise,
        inputs: &[&Self::Buffer],
    ) -> Result<Self::Buffer, Error> {
        let (rows, width) = shapes::rowwise(operation, inputs)?;
        let numbers = inputs.iter().map(|own| self.numbers(own));
        let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
        let mut out = vec![0.0; rows * width];
        for (row, out) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let own = inputs.iter().zip(&numbers).map(|(input, numbers)| {
                let row = if input.rows() == 1 { 0 } else { row };
                &numbers[row * input.columns()..(row + 1) * input.columns()]
            });
            operation.of_row(&own.collect::<Vec<_>>(), out);
        }
        self.buffer(width, &out)
    }

    /// `gate[i] = activation(gate[i]) · up[i]`, with ones in the place of an `up` that is not
    /// there.
    fn activate_times(
        &self,
        activation: Activation,
        gate: &mut Self::Buffer,
        up: Option<&Self::Buffer>,
    ) -> Result<(), Error>;

    /// Of each row the numbers in `columns`.
    fn columns(&self, from: &Self::Buffer, columns: Range<usize>) -> Result<Self::Buffer, Error>;

    /// Head by head the numbers of all parts, one behind the other; those of a part with one head
    /// are every head's.
    fn join(&self, parts: &[JoinedColumns<'_, Self::Buffer>]) -> Result<Self::Buffer, Error>;

    /// `rows[t][i] *= sigmoid(scores[t])`.
    fn times_sigmoid(&self, rows: &mut Self::Buffer, scores: &Self::Buffer) -> Result<(), Error>;

    /// `to[i] += from[i]`.
    fn add(&self, to: &mut Self::Buffer, from: &Self::Buffer) -> Result<(), Error>;

    /// Adds `bias` to each row.
    fn add_bias(&self, to: &mut Self::Buffer, bias: &Self::Buffer) -> Result<(), Error>;

    /// Gives each row of `scores` to experts. `bias` has for each expert what is added when
    /// experts are chosen, and not when they are weighed.
    fn route(
        &self,
        router: &Router,
        scores: &Self::Buffer,
        bias: Option<&Self::Buffer>,
    ) -> Result<Vec<ExpertLoad>, Error>;

    /// Some rows, one behind the other.
    fn gather(&self, from: &Self::Buffer, rows: &[usize]) -> Result<Self::Buffer, Error>;

    /// All rows of all parts, one behind the other.
    fn stack(&self, parts: &[&Self::Buffer]) -> Result<Self::Buffer, Error>;

    /// Adds row `i` of `from` times its weight to row `load.tokens[i]` of `to`.
    fn scatter_add(
        &self,
        to: &mut Self::Buffer,
        load: &ExpertLoad,
        from: &Self::Buffer,
    ) -> Result<(), Error>;

    /// Adds `Σ left[t][i] · right[t][j]` over the rows `t` in `rows` to `sums[i][j]`. Products are
    /// summed in f32, 256 rows at a time, and these sums added in the rows' order.
    fn add_products(
        &self,
        sums: &mut Self::Buffer,
        left: &Self::Buffer,
        right: &Self::Buffer,
        rows: Range<usize>,
    ) -> Result<(), Error>;

    /// The same of a buffer with itself, of its columns from `first` on: of the first of them as
    /// many as `sums` has rows, with all of them. `sums[i][j]` with `j < i` means nothing.
    fn add_gram(
        &self,
        sums: &mut Self::Buffer,
        inputs: &Self::Buffer,
        first: usize,
        rows: Range<usize>,
    ) -> Result<(), Error>;

    /// The upper triangular R of a symmetric matrix `R Rᵀ`, with a positive diagonal; what is below
    /// the diagonal of either means nothing. Where there is none, a column that depends on later
    /// ones, or too nearly for f32.
    fn factor(&self, size: usize, matrix: Vec<f32>) -> Result<Result<Vec<f32>, usize>, Error>;
}
