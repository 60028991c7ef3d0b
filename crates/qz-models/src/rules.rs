//! Tensor rules: what a tensor is called on both sides, what it does in the
//! model, and how its rows move between them.

use std::ops::Range;

use qz_tensor::TensorIndex;

use crate::hyperparameters::ModelConfig;
use crate::recipe::{PickedColumns, RowSlice, StackedRows};
use crate::row_order::RowOrder;
use crate::tensor_map::{Change, RowFactors, Transposed, TurnedColumns, ValueChange};

pub use crate::name_pattern::{ExpertIndex, LayerIndex, NameNumbers, NamePattern};
pub use crate::role::{Part, Role};

/// A size that `config.json` fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Dimension {
    Vocabulary,
    Hidden,
    Intermediate,
    HeadSize,
    /// Rows of the query projection: heads times head size.
    Queries,
    /// Rows of the key and value projections.
    KeyValues,
    /// Query heads.
    Heads,
    /// Experts of a layer.
    Experts,
    /// Layers of the model.
    Layers,
    /// Rows of a gate and of an up projection behind it.
    GateAndUp,
    /// A size of the family's own, by its key ([`crate::ConfigKey`]).
    Size(&'static str),
    Number(u64),
    Sum(&'static [Dimension]),
    Product(&'static [Dimension]),
    Quotient(&'static Dimension, &'static Dimension),
}

impl Dimension {
    /// The keys of `config.json` that fix it, for messages.
    pub fn keys(self) -> String {
        let joined = |parts: &[Self], with: &str| {
            parts.iter().map(|part| part.keys()).collect::<Vec<_>>().join(with)
        };
        match self {
            Self::Vocabulary => "vocab_size".to_owned(),
            Self::Hidden => "hidden_size".to_owned(),
            Self::Intermediate => "intermediate_size".to_owned(),
            Self::HeadSize => "head_dim".to_owned(),
            Self::Queries => "num_attention_heads x head_dim".to_owned(),
            Self::KeyValues => "num_key_value_heads x head_dim".to_owned(),
            Self::Heads => "num_attention_heads".to_owned(),
            Self::Experts => "num_local_experts".to_owned(),
            Self::Layers => "num_hidden_layers".to_owned(),
            Self::GateAndUp => "2 x intermediate_size".to_owned(),
            Self::Size(key) => key.to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Sum(parts) => joined(parts, " + "),
            Self::Product(parts) => joined(parts, " x "),
            Self::Quotient(whole, parts) => format!("{} / {}", whole.keys(), parts.keys()),
        }
    }
}

/// Whether a checkpoint must have a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Required,
    /// It may be there.
    Optional,
    /// If this boolean of `config.json` is true; it must not be there if the
    /// config says false, and may be there if the config says nothing.
    WhenTrue(&'static str),
    /// The same of layers behind the first, which has one in any case.
    BehindFirstWhenTrue(&'static str),
    /// May be there unless this boolean of `config.json` is false.
    AllowedWhenTrue(&'static str),
    /// If this boolean of `config.json` is false; it may be there in any case.
    WhenFalse(&'static str),
    /// It says nothing in GGUF, and is left out if it is there.
    Dropped,
}

/// What has to hold for a model or a layer to have a tensor. Where it does not, the rule
/// is as good as absent.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// The key of `config.json` that decides, for messages.
    pub key: &'static str,
    /// Whether it holds: of tensors outside of layers it is asked for layer 0.
    pub holds: fn(&ModelConfig, LayerIndex) -> bool,
}

/// Which rows of the stored tensors make the tensor in a GGUF file, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All, in their order.
    All,
    /// The matrices of a layer's experts, each a tensor of its own in the
    /// checkpoint, one behind the other.
    StackExperts,
    /// So many matrices outside of layers, each a tensor of its own in the checkpoint, one behind
    /// the other.
    Stack(u64),
    /// All queries, then all keys, then all values, of a matrix in which the queries that a key
    /// and a value serve stand before these.
    QueriesKeysValues,
    /// Of each `block` rows one run of `rows`, which begins after `first`.
    Runs {
        /// Rows that the runs' beginnings are apart.
        block: Dimension,
        /// Rows before a run.
        first: Dimension,
        /// Rows of a run.
        rows: Dimension,
    },
    /// Of each `block` rows several runs: of all blocks the first, then of all the second,
    /// and so on. Each is where it begins, and how many rows it has.
    Gathered {
        /// Rows that the runs' beginnings are apart.
        block: Dimension,
        /// The runs of a block.
        runs: &'static [(Dimension, Dimension)],
    },
    /// The first `before` rows, then blocks of `rows` rows, `outer` times `inner` of them,
    /// which change places: `inner` times `outer`.
    Turned {
        /// Rows that stay.
        before: Dimension,
        /// How many runs of blocks there are.
        outer: Dimension,
        /// How many blocks a run has.
        inner: Dimension,
        /// Rows of a block.
        rows: Dimension,
    },
}

/// Which columns of stored rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Columns {
    All,
    Even,
    Odd,
    /// So many of them, from the one after `first` on.
    Run {
        first: Dimension,
        columns: Dimension,
    },
    /// Blocks of `width` columns, `outer` times `inner` of them, which change places.
    Turned {
        outer: Dimension,
        inner: Dimension,
        width: Dimension,
    },
}

/// What a tensor's rows are multiplied with: numbers of `config.json`, 1 where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaling {
    /// All rows, first.
    pub all: Option<FactorKey>,
    /// Then runs of rows, one behind the other: how many, and their number.
    pub runs: &'static [(Dimension, FactorKey)],
}

/// A number, or one of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FactorKey {
    /// The key.
    pub key: &'static str,
    /// Which of the list's, if it holds one.
    pub at: Option<usize>,
}

impl FactorKey {
    /// The number of a key.
    pub const fn number(key: &'static str) -> Self {
        Self { key, at: None }
    }

    /// One of a key's list.
    pub const fn listed(key: &'static str, at: usize) -> Self {
        Self { key, at: Some(at) }
    }

    fn value(self, config: &ModelConfig) -> f32 {
        let stated = match self.at {
            None => config.number(self.key),
            Some(at) => config.numbers(self.key).and_then(|list| list.get(at).copied()),
        };
        stated.map_or(1.0, |number| number as f32)
    }
}

impl Scaling {
    /// One number for all rows.
    pub const fn all(factor: FactorKey) -> Self {
        Self { all: Some(factor), runs: &[] }
    }

    fn factors(&self, config: &ModelConfig) -> RowFactors {
        let mut end = 0u64;
        let run = |(rows, factor): &(Dimension, FactorKey)| {
            end = end.saturating_add(config.dimension(*rows));
            (end, factor.value(config))
        };
        let runs: Vec<(u64, f32)> = self.runs.iter().map(run).collect();
        RowFactors::new(self.all.map_or(1.0, |factor| factor.value(config)), &runs)
    }
}

/// How the tensor in a GGUF file follows from the one in the checkpoint, step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform {
    /// Which rows are taken.
    pub rows: Rows,
    /// Which columns of these.
    pub columns: Columns,
    /// Whether each matrix is transposed then.
    pub is_transposed: bool,
    /// Whether within each head the two halves of the rows are interleaved then: Hugging Face's
    /// rotary embedding pairs row `i` with row `i + half`, llama.cpp's "llama" graph pairs
    /// neighbours (`LlamaModel.permute` in `conversion/llama.py`).
    pub is_paired: bool,
    /// What becomes of each value.
    pub values: ValueChange,
    /// What rows are multiplied with, where values do not change otherwise.
    pub scaling: Option<Scaling>,
    /// Its dimensions in GGUF, where they do not follow from the rest.
    pub shape: Option<&'static [Dimension]>,
}

impl Transform {
    /// The tensor as it is.
    pub const KEEP: Self = Self {
        rows: Rows::All,
        columns: Columns::All,
        is_transposed: false,
        is_paired: false,
        values: ValueChange::None,
        scaling: None,
        shape: None,
    };

    /// Some rows, as they are.
    pub const fn rows(rows: Rows) -> Self {
        Self { rows, ..Self::KEEP }
    }

    /// One of equally long halves of each matrix.
    pub const fn part(block: Dimension, first: Dimension, rows: Dimension) -> Self {
        Self::rows(Rows::Runs { block, first, rows })
    }

    /// The same, with each matrix transposed.
    pub const fn transposed(self) -> Self {
        Self { is_transposed: true, ..self }
    }
}

/// One tensor of an architecture.
#[derive(Clone, Copy, Debug)]
pub struct TensorRule {
    /// Its name in a Hugging Face checkpoint.
    pub hugging_face: NamePattern,
    /// Its name in a GGUF file.
    pub gguf: NamePattern,
    /// What it does.
    pub role: Role,
    /// Weight or bias.
    pub part: Part,
    /// Its dimensions in the checkpoint, outermost first.
    pub shape: &'static [Dimension],
    /// Whether it must be there.
    pub presence: Presence,
    /// Which models and layers have it.
    pub condition: Option<Condition>,
    /// How it becomes the one in GGUF.
    pub transform: Transform,
}

impl TensorRule {
    /// A required weight whose rows keep their order.
    pub const fn weight(
        role: Role,
        hugging_face: &'static str,
        gguf: &'static str,
        shape: &'static [Dimension],
    ) -> Self {
        Self {
            hugging_face: NamePattern(hugging_face),
            gguf: NamePattern(gguf),
            role,
            part: Part::Weight,
            shape,
            presence: Presence::Required,
            condition: None,
            transform: Transform::KEEP,
        }
    }

    /// A required bias whose elements keep their order.
    pub const fn bias(
        role: Role,
        hugging_face: &'static str,
        gguf: &'static str,
        shape: &'static [Dimension],
    ) -> Self {
        let mut rule = Self::weight(role, hugging_face, gguf, shape);
        rule.part = Part::Bias;
        rule
    }

    /// A tensor that GGUF has no place for.
    pub const fn dropped(hugging_face: &'static str, shape: &'static [Dimension]) -> Self {
        Self::weight(Role::Output, hugging_face, "", shape).when(Presence::Dropped)
    }

    /// The same rule under another name in the checkpoint.
    pub const fn named(mut self, hugging_face: &'static str) -> Self {
        self.hugging_face = NamePattern(hugging_face);
        self
    }

    /// The same rule under another name in GGUF.
    pub const fn gguf(mut self, gguf: &'static str) -> Self {
        self.gguf = NamePattern(gguf);
        self
    }

    /// The same rule for tensors of other dimensions.
    pub const fn shaped(mut self, shape: &'static [Dimension]) -> Self {
        self.shape = shape;
        self
    }

    /// The same rule with another presence.
    pub const fn when(mut self, presence: Presence) -> Self {
        self.presence = presence;
        self
    }

    /// The same rule, for models and layers of which something holds.
    pub const fn only(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }

    /// The same rule with rotary halves paired.
    pub const fn paired(mut self) -> Self {
        self.transform.is_paired = true;
        self
    }

    /// The same rule with values that change.
    pub const fn changed(mut self, values: ValueChange) -> Self {
        self.transform.values = values;
        self
    }

    /// The same rule with rows that are multiplied.
    pub const fn scaled(mut self, scaling: Scaling) -> Self {
        self.transform.scaling = Some(scaling);
        self
    }

    /// The same rule with other dimensions in GGUF.
    pub const fn reshaped(mut self, shape: &'static [Dimension]) -> Self {
        self.transform.shape = Some(shape);
        self
    }

    /// The same rule with another transform.
    pub const fn transformed(mut self, transform: Transform) -> Self {
        self.transform = transform;
        self
    }

    /// True if a model has the tensor in this layer.
    pub fn applies(&self, config: &ModelConfig, layer: Option<LayerIndex>) -> bool {
        self.condition
            .is_none_or(|condition| (condition.holds)(config, layer.unwrap_or(LayerIndex(0))))
    }

    /// What follows from the configuration of it, in one layer.
    pub(crate) fn sizes(&self, config: &ModelConfig, layer: Option<LayerIndex>) -> RuleSizes {
        let size = |dimension: &Dimension| config.dimension_in(*dimension, layer);
        let sizes = |shape: &[Dimension]| -> Vec<u64> { shape.iter().map(size).collect() };
        let stored = sizes(self.shape);
        let gguf = match self.transform.shape {
            Some(shape) => sizes(shape),
            None => self.transform.shape_of(&stored, config, layer),
        };
        RuleSizes { stored, gguf }
    }

    /// What becomes of the rows that are taken, on the way to GGUF. `gguf` are the
    /// dimensions there.
    pub(crate) fn change(&self, config: &ModelConfig, gguf: &[u64]) -> Change {
        let transposed = match gguf {
            [.., rows, columns] if self.transform.is_transposed => {
                Some(Transposed { rows: *rows, columns: *columns })
            }
            _ => None,
        };
        let size = |dimension| config.dimension(dimension);
        let order = match self.transform.rows {
            _ if self.transform.is_paired => {
                RowOrder::InterleavedHalves { head_rows: config.dimension(Dimension::HeadSize) }
            }
            Rows::Turned { before, outer, inner, rows } => {
                let [before, outer, inner, rows] = [before, outer, inner, rows].map(size);
                RowOrder::Turned { before, outer, inner, rows }
            }
            Rows::All
            | Rows::StackExperts
            | Rows::Stack(_)
            | Rows::QueriesKeysValues
            | Rows::Runs { .. }
            | Rows::Gathered { .. } => RowOrder::AsStored,
        };
        let columns = match self.transform.columns {
            Columns::Turned { outer, inner, width } => {
                let [outer, inner, width] = [outer, inner, width].map(size);
                Some(TurnedColumns { outer, inner, width })
            }
            Columns::All | Columns::Even | Columns::Odd | Columns::Run { .. } => None,
        };
        // Where nothing changes places, none is said to.
        let columns = columns.filter(|columns| columns.outer > 1 && columns.inner > 1);
        let factors = self.transform.scaling.map(|scaling| scaling.factors(config));
        let values = match factors.filter(|factors| !factors.is_one()) {
            Some(factors) => ValueChange::Scaled(factors),
            None => self.transform.values,
        };
        Change { transposed, order, columns, values }
    }

    /// The rows of one stored tensor that are taken.
    pub(crate) fn stored_rows(
        &self,
        config: &ModelConfig,
        layer: Option<LayerIndex>,
        stored: &[u64],
        tensor: TensorIndex,
    ) -> Option<StackedRows> {
        let size = |dimension: Dimension| config.dimension_in(dimension, layer);
        let (all, columns) = match stored {
            [rows @ .., columns] => (rows.iter().product::<u64>(), *columns),
            [] => (1, 1),
        };
        let rows = match self.transform.rows {
            Rows::Runs { block, first, rows } => {
                // A vector's elements are its rows.
                let all = if stored.len() == 1 { columns } else { all };
                let (block, first) = (size(block).max(1), size(first));
                let slice = |run: u64| RowSlice { tensor, first_row: run * block + first };
                StackedRows::new(size(rows), (0..all / block).map(slice).collect())?
            }
            Rows::Gathered { block, runs } => {
                let all = if stored.len() == 1 { columns } else { all };
                let (block, count) = (size(block).max(1), all / size(block).max(1));
                let of_run = |(first, rows): &(Dimension, Dimension)| {
                    let (first, rows) = (size(*first), size(*rows));
                    (0..count).map(move |at| at * block + first..at * block + first + rows)
                };
                gathered(tensor, &runs.iter().flat_map(of_run).collect::<Vec<_>>())?
            }
            Rows::QueriesKeysValues => {
                let (head, groups) = (config.head_size.max(1), config.key_value_heads.max(1));
                let queries = config.heads / groups;
                let slice = |(group, which)| RowSlice {
                    tensor,
                    first_row: (group * (queries + 2) + which) * head,
                };
                let of = |which: Range<u64>| {
                    (0..groups).flat_map(move |group| which.clone().map(move |at| (group, at)))
                };
                let heads = of(0..queries).chain(of(queries..queries + 1));
                let heads = heads.chain(of(queries + 1..queries + 2));
                StackedRows::new(head, heads.map(slice).collect())?
            }
            Rows::All | Rows::StackExperts | Rows::Stack(_) | Rows::Turned { .. } => {
                StackedRows::whole(tensor)
            }
        };
        let (first, step, count) = match self.transform.columns {
            Columns::All | Columns::Turned { .. } => return Some(rows),
            Columns::Even => (0, 2, columns / 2),
            Columns::Odd => (1, 2, columns / 2),
            Columns::Run { first, columns } => (size(first), 1, size(columns)),
        };
        Some(rows.of_columns(PickedColumns { first, step, count, of: columns }))
    }
}

/// Ranges of a tensor's rows, one behind the other, as runs of the same length.
fn gathered(tensor: TensorIndex, ranges: &[Range<u64>]) -> Option<StackedRows> {
    let common = |a: u64, b: u64| {
        let (mut divisor, mut rest) = (a, b);
        while rest != 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        divisor
    };
    let run = ranges.iter().fold(0, |run, range| common(run, range.end - range.start)).max(1);
    let starts = ranges.iter().flat_map(|range| range.clone().step_by(run as usize));
    let slices = starts.map(|first_row| RowSlice { tensor, first_row }).collect();
    StackedRows::new(run, slices)
}

/// Dimensions of a tensor, outermost first.
pub(crate) struct RuleSizes {
    /// In the checkpoint.
    pub(crate) stored: Vec<u64>,
    /// In GGUF.
    pub(crate) gguf: Vec<u64>,
}

impl Transform {
    fn shape_of(
        &self,
        stored: &[u64],
        config: &ModelConfig,
        layer: Option<LayerIndex>,
    ) -> Vec<u64> {
        let mut sizes = stored.to_vec();
        match self.rows {
            Rows::StackExperts => sizes.insert(0, config.dimension(Dimension::Experts)),
            Rows::Stack(count) => sizes.insert(0, count),
            Rows::Runs { block, rows, .. } => {
                let size = |dimension| config.dimension_in(dimension, layer);
                let at = sizes.len().saturating_sub(2);
                if let Some(all) = sizes.get_mut(at) {
                    *all = *all / size(block).max(1) * size(rows);
                }
            }
            Rows::Gathered { block, runs } => {
                let size = |dimension| config.dimension_in(dimension, layer);
                let rows: u64 = runs.iter().map(|(_, rows)| size(*rows)).sum();
                let at = sizes.len().saturating_sub(2);
                if let Some(all) = sizes.get_mut(at) {
                    *all = *all / size(block).max(1) * rows;
                }
            }
            Rows::All | Rows::QueriesKeysValues | Rows::Turned { .. } => {}
        }
        if let Some(last) = sizes.last_mut() {
            match self.columns {
                Columns::Even | Columns::Odd => *last /= 2,
                Columns::Run { columns, .. } => *last = config.dimension_in(columns, layer),
                Columns::All | Columns::Turned { .. } => {}
            }
        }
        if let ([.., rows, columns], true) = (&mut sizes[..], self.is_transposed) {
            std::mem::swap(rows, columns);
        }
        sizes
    }
}
