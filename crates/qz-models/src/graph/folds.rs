//! Factors that can move between a layer's tensors: what is divided where numbers are made, and
//! multiplied where matrices read them, changes nothing that the layer computes.
//!
//! Which there are follows from the steps: the numbers must be read by products alone, and
//! nothing between their making and that reading may be other than linear in them.

use std::ops::Range;

use qz_kernels::backend::Activation;

use super::{Experts, GroupIndex, LayerGraph, MatrixIndex, ModelGraph, NormKind, Register, Step};
use crate::rules::{Part, Role};

/// Channels that can be divided by a factor each where they are made, and multiplied with it
/// in the columns that read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// How many channels.
    pub channels: usize,
    /// What makes them.
    pub source: FoldSource,
    /// The matrices that read them, and nothing else does.
    pub readers: Vec<MatrixIndex>,
    /// The group whose inputs they are.
    pub group: GroupIndex,
    /// Which columns of the readers are which channel.
    pub columns: FoldColumns,
    /// The factors are each expert's own, as the matrices are.
    pub of_each_expert: bool,
}

/// What makes a fold's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldSource {
    /// The weights of a norm, and its bias.
    Norm(Role),
    /// Rows of a matrix from `first` on, and of its bias.
    Rows {
        /// The matrix.
        matrix: MatrixIndex,
        /// The first row.
        first: usize,
    },
}

/// Which channel a column reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoldColumns {
    /// Channels that come one after the other, as of a head.
    run: usize,
    /// How many runs in a row read the same channels.
    repeats: usize,
}

impl FoldColumns {
    /// Each column reads the channel of its number.
    pub const SAME: Self = Self { run: usize::MAX, repeats: 1 };

    /// The channel of a column.
    pub fn channel(self, column: usize) -> usize {
        column / self.run / self.repeats * self.run + column % self.run
    }
}

impl LayerGraph {
    /// What can be folded, in the order in which the layer computes it.
    pub fn folds(&self) -> Vec<Fold> {
        let steps = self.steps.iter().enumerate();
        let mut folds: Vec<Fold> = steps.filter_map(|(at, step)| self.fold_of(at, step)).collect();
        folds.sort_by_key(|fold| fold.group);
        folds
    }

    fn fold_of(&self, at: usize, step: &Step) -> Option<Fold> {
        match step {
            Step::Norm { to, weights, groups: 1, .. }
            | Step::LayerNorm { to, weights: Some(weights), is_optional: false, .. } => {
                let vector = self.vectors[weights.0];
                let is_whole = vector.length == self.width(*to);
                self.norm_fold(at, *to, vector.role).filter(|_| is_whole)
            }
            Step::Attend(own) => {
                let attention = &own.attention;
                let columns = FoldColumns {
                    run: attention.value_size,
                    repeats: attention.heads / attention.key_value_heads,
                };
                self.rows_fold(at, own.values, own.to, columns)
            }
            Step::Activate { activation, gate, up: Some(up) } if is_linear(*activation) => {
                self.rows_fold(at, *up, *gate, FoldColumns::SAME)
            }
            Step::Experts(own) if is_linear(own.activation) => self.experts_fold(own),
            _ => None,
        }
    }

    /// A norm's weights into all that reads what it makes.
    fn norm_fold(&self, at: usize, made: Register, role: Role) -> Option<Fold> {
        // Weights that two norms share are no fold of either.
        if self
            .vectors
            .iter()
            .filter(|vector| vector.role == role && vector.part == Part::Weight)
            .count()
            > 1
        {
            return None;
        }
        let mut groups = Vec::new();
        for reader in self.readers(at, made)? {
            match &self.steps[reader] {
                Step::Linear { group, from, .. } if *from == made => groups.push(*group),
                Step::Experts(own) if own.from == made && own.scored == made => {
                    groups.extend([own.router, own.gate_up]);
                }
                _ => return None,
            }
        }
        Some(Fold {
            channels: self.width(made),
            source: FoldSource::Norm(role),
            readers: groups.iter().flat_map(|group| self.matrices(*group)).collect(),
            group: *groups.first()?,
            columns: FoldColumns::SAME,
            of_each_expert: false,
        })
    }

    /// Rows of a matrix, which the step at `at` alone reads, into the one that reads what that
    /// step makes.
    fn rows_fold(
        &self,
        at: usize,
        rows: Register,
        made: Register,
        columns: FoldColumns,
    ) -> Option<Fold> {
        let (matrix, own) = self.rows_of(at, rows)?;
        let readers = self.readers(at, made)?;
        let [reader] = readers[..] else { return None };
        let Step::Linear { group, from, .. } = &self.steps[reader] else { return None };
        let channels = own.len();
        let is_whole = columns.channel(self.width(made) - 1) + 1 == channels;
        (*from == made && is_whole).then(|| Fold {
            channels,
            source: FoldSource::Rows { matrix, first: own.start },
            readers: self.matrices(*group).collect(),
            group: *group,
            columns,
            of_each_expert: false,
        })
    }

    fn experts_fold(&self, own: &Experts) -> Option<Fold> {
        let channels = self.group(own.down).columns;
        let gate_up = self.group(own.gate_up);
        // Gate and up, or both in one; experts of one matrix put it through the activation.
        let (member, first) = match &gate_up.members[..] {
            [_, up] if up.rows == channels => (1, 0),
            [both] if both.rows == 2 * channels => (0, channels),
            _ => return None,
        };
        let matrix = MatrixIndex { group: own.gate_up, member };
        Some(Fold {
            channels,
            source: FoldSource::Rows { matrix, first },
            readers: self.matrices(own.down).collect(),
            group: own.down,
            columns: FoldColumns::SAME,
            of_each_expert: true,
        })
    }

    /// The rows of a matrix that a register holds at the step `at`, if no other step has seen
    /// or changed it, nor will.
    fn rows_of(&self, at: usize, register: Register) -> Option<(MatrixIndex, Range<usize>)> {
        let made = self.last_write(at, register)?;
        if self.readers(made, register)? != [at] {
            return None;
        }
        match &self.steps[made] {
            Step::Linear { group, to, .. } => {
                let member = to.iter().position(|own| *own == register)?;
                let matrix = MatrixIndex { group: *group, member };
                Some((matrix, 0..self.member(matrix).rows))
            }
            Step::Columns { from, columns, .. } => {
                let product = self.last_write(made, *from)?;
                let Step::Linear { group, to, .. } = &self.steps[product] else { return None };
                let member = to.iter().position(|own| own == from)?;
                let is_apart = |reader: &usize| match &self.steps[*reader] {
                    Step::Columns { columns: other, .. } => {
                        *reader == made || other.end <= columns.start || columns.end <= other.start
                    }
                    _ => false,
                };
                let readers = self.readers(product, *from)?;
                let matrix = MatrixIndex { group: *group, member };
                readers.iter().all(is_apart).then(|| (matrix, columns.clone()))
            }
            _ => None,
        }
    }

    /// The last step before `at` that writes a register.
    fn last_write(&self, at: usize, register: Register) -> Option<usize> {
        (0..at).rev().find(|step| self.steps[*step].registers().1.contains(&register))
    }

    /// The steps that read what the step `at` has written to a register, up to the one that
    /// writes it anew; none of the hidden states, which later layers read.
    fn readers(&self, at: usize, register: Register) -> Option<Vec<usize>> {
        if register == Register::HIDDEN {
            return None;
        }
        let mut readers = Vec::new();
        for (number, step) in self.steps.iter().enumerate().skip(at + 1) {
            let (reads, writes) = step.registers();
            if reads.contains(&register) {
                readers.push(number);
            }
            if writes.contains(&register) {
                break;
            }
        }
        Some(readers)
    }
}

impl ModelGraph {
    /// Whether the norm behind the layers has weights, and only an output matrix reads what it
    /// makes: factors of the one can be folded into the other where it is no embedding.
    pub fn folds_output(&self) -> bool {
        self.around.predicts && self.around.epsilon.is_some() && self.around.norm != NormKind::Bare
    }
}

/// True if what comes of gate and up is linear in up.
fn is_linear(activation: Activation) -> bool {
    match activation {
        Activation::Silu
        | Activation::GeluTanh
        | Activation::GeluErf
        | Activation::GeluHalf
        | Activation::Sigmoid
        | Activation::Identity
        | Activation::ReluSquared
        | Activation::Tanh
        | Activation::Xielu(_) => true,
        // Up has a least and a greatest value.
        Activation::ClampedSilu => false,
    }
}

#[cfg(test)]
mod tests {
    use qz_kernels::backend::Attention;

    use super::super::LayerBuilder;
    use super::*;

    /// For each fold its source, channels, and the roles that read it.
    fn check(layer: LayerBuilder, expected: &[(&str, usize, &[Role])]) {
        let graph = layer.finish();
        let found: Vec<(String, usize, Vec<Role>)> = graph
            .folds()
            .iter()
            .map(|fold| {
                let source = match fold.source {
                    FoldSource::Norm(role) => format!("{role:?}"),
                    FoldSource::Rows { matrix, first } => {
                        format!("{:?} {first}", graph.member(matrix).role)
                    }
                };
                let readers = fold.readers.iter().map(|matrix| graph.member(*matrix).role);
                (source, fold.channels, readers.collect())
            })
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(source, channels, readers)| ((*source).to_owned(), *channels, readers.to_vec()))
            .collect();
        assert_eq!(found, expected);
    }

    const HEADS: [Role; 3] = [Role::AttentionQuery, Role::AttentionKey, Role::AttentionValue];

    /// Two query heads, which share keys and values of three numbers.
    fn attention(layer: &mut LayerBuilder, input: Register) -> [Register; 2] {
        let [query, key, value] = HEADS;
        let rows = layer.linear(input, &[(query, 6), (key, 3), (value, 3)]);
        let shape = Attention::plain(2, 1, 3);
        let attended = layer.attend([rows[0], rows[1], rows[2]], shape, None);
        [layer.product(attended, Role::AttentionOutput, 4), rows[2]]
    }

    #[test]
    fn a_decoder_layer() {
        let mut layer = LayerBuilder::new(4);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, 1e-5);
        let [attended, _] = attention(&mut layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, 1e-5);
        let gate_up = [(Role::FeedForwardGate, 9), (Role::FeedForwardUp, 9)];
        let rows = layer.linear(normed, &gate_up);
        layer.activate(Activation::Silu, rows[0], rows[1]);
        let fed = layer.product(rows[0], Role::FeedForwardDown, 4);
        layer.add(fed);
        check(
            layer,
            &[
                ("AttentionNorm", 4, &HEADS),
                ("AttentionValue 0", 3, &[Role::AttentionOutput]),
                ("FeedForwardNorm", 4, &[Role::FeedForwardGate, Role::FeedForwardUp]),
                ("FeedForwardUp 0", 9, &[Role::FeedForwardDown]),
            ],
        );
    }

    #[test]
    fn heads_that_share_values_read_the_same_channels() {
        let columns = FoldColumns { run: 3, repeats: 2 };
        let found: Vec<usize> = (0..12).map(|column| columns.channel(column)).collect();
        assert_eq!(found, [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        assert_eq!(FoldColumns::SAME.channel(7), 7);
    }

    #[test]
    fn what_something_else_reads_stays() {
        // The norm's results are added to the hidden states, the values are left for others,
        // the activation knows a greatest value, and one of a matrix alone is not linear.
        let mut layer = LayerBuilder::new(4);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, 1e-5);
        let [attended, values] = attention(&mut layer, normed);
        layer.leave(values, super::super::Slot(0));
        layer.add(normed);
        layer.add(attended);
        let rows =
            layer.linear(Register::HIDDEN, &[(Role::FeedForwardGate, 9), (Role::FeedForwardUp, 9)]);
        layer.activate(Activation::ClampedSilu, rows[0], rows[1]);
        let fed = layer.product(rows[0], Role::FeedForwardDown, 4);
        layer.add(fed);
        let rows = layer.product(Register::HIDDEN, Role::FeedForwardUp, 9);
        layer.activate_alone(Activation::Silu, rows);
        let fed = layer.product(rows, Role::FeedForwardDown, 4);
        layer.add(fed);
        check(layer, &[]);
    }

    #[test]
    fn parts_of_a_product_are_its_rows() {
        let mut layer = LayerBuilder::new(4);
        let both = layer.product(Register::HIDDEN, Role::FeedForwardGateUp, 18);
        let gate = layer.columns(both, 0..9);
        let up = layer.columns(both, 9..18);
        layer.activate(Activation::Silu, gate, up);
        let fed = layer.product(gate, Role::FeedForwardDown, 4);
        layer.add(fed);
        check(layer, &[("FeedForwardGateUp 9", 9, &[Role::FeedForwardDown])]);
    }
}
