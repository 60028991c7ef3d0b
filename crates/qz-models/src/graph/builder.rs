//! A layer, step by step, and what follows from its steps: where it can be stopped, and
//! what has to be kept there.

mod norms;
mod rowwise;

use std::collections::BTreeSet;
use std::ops::Range;

use qz_kernels::backend::{
    Activation, Attention, Convolution, Distances, Recurrence, Rotation, Router, Scan,
};

use super::{
    Attend, Experts, Factor, GroupIndex, HeadColumns, LayerGraph, LinearGroup, MatrixIndex, Member,
    Otherwise, RecurStep, Register, ScanStep, Slot, Stage, Step, Stop, Vector, VectorIndex,
    last_up_to,
};
use crate::rules::{Part, Role};

/// A layer that grows.
pub(crate) struct LayerBuilder {
    groups: Vec<LinearGroup>,
    vectors: Vec<Vector>,
    widths: Vec<usize>,
    steps: Vec<Step>,
    without: Vec<Role>,
    stages: usize,
    /// For each register the matrix whose products it began as.
    sources: Vec<Option<MatrixIndex>>,
}

impl LayerBuilder {
    /// A layer without steps, of hidden states of this width.
    pub(crate) fn new(hidden: usize) -> Self {
        Self {
            groups: Vec::new(),
            vectors: Vec::new(),
            widths: vec![hidden],
            steps: Vec::new(),
            without: Vec::new(),
            stages: 0,
            sources: vec![None],
        }
    }

    fn register(&mut self, width: usize, source: Option<MatrixIndex>) -> Register {
        self.widths.push(width);
        self.sources.push(source);
        Register(self.widths.len() - 1)
    }

    /// Numbers of a row of the hidden states.
    pub(crate) fn hidden(&self) -> usize {
        self.widths[Register::HIDDEN.0]
    }

    /// Numbers of a row of a register.
    pub(crate) fn row_width(&self, rows: Register) -> usize {
        self.widths[rows.0]
    }

    /// A vector that the model must have.
    pub(crate) fn vector(&mut self, role: Role, length: usize) -> VectorIndex {
        self.any_vector(Vector::weight(role, length))
    }

    /// A vector, if the model has it.
    pub(crate) fn optional_vector(&mut self, role: Role, length: usize) -> VectorIndex {
        self.any_vector(Vector::weight(role, length).optional())
    }

    /// What is added when experts are chosen, if the model has it.
    pub(crate) fn selection_bias(&mut self, experts: usize) -> VectorIndex {
        let role = Role::ExpertSelectionBias;
        self.any_vector(Vector::bias(role, experts).optional())
    }

    fn any_vector(&mut self, vector: Vector) -> VectorIndex {
        self.vectors.push(vector);
        VectorIndex(self.vectors.len() - 1)
    }

    /// Says that the layer has no tensor of a role: with it, it would compute something else.
    pub(crate) fn without(&mut self, role: Role) {
        self.without.push(role);
    }

    /// Multiplies a register with a number.
    pub(crate) fn scale(&mut self, rows: Register, by: f32) {
        self.steps.push(Step::Scale { rows, by: Factor::Number(by) });
    }

    /// Multiplies a register with the one number of a tensor, if the model has it.
    pub(crate) fn scale_by(&mut self, rows: Register, role: Role) {
        let vector = Vector::weight(role, 1).optional();
        let by = Factor::Vector(self.any_vector(vector));
        self.steps.push(Step::Scale { rows, by });
    }

    /// Leaves rows for later layers.
    pub(crate) fn leave(&mut self, rows: Register, slot: Slot) {
        self.steps.push(Step::Leave { rows, slot });
    }

    /// Rows of so many numbers that an earlier layer has left.
    pub(crate) fn recall(&mut self, slot: Slot, width: usize) -> Register {
        let to = self.register(width, None);
        self.steps.push(Step::Recall { slot, to });
        to
    }

    /// So many numbers that the model has for each token in this layer.
    pub(crate) fn of_token(&mut self, width: usize, epsilon: f32) -> Register {
        let to = self.register(width, None);
        self.steps.push(Step::OfToken { to, epsilon });
        to
    }

    /// The embedding of the token so many positions further on.
    pub(crate) fn ahead(&mut self, tokens: usize) -> Register {
        let to = self.register(self.hidden(), None);
        self.steps.push(Step::Ahead { to, tokens });
        to
    }

    /// Puts rows in the place of the hidden states.
    pub(crate) fn begin_with(&mut self, rows: Register) {
        let (to, columns) = (Register::HIDDEN, 0..self.hidden());
        self.steps.push(Step::Columns { from: rows, columns, to });
    }

    /// What a state space makes of rows.
    pub(crate) fn scan(&mut self, from: Register, scan: Scan) -> Register {
        let [width, heads] = [scan.convolved(), scan.heads];
        let mut vector = |role, part, length| self.any_vector(Vector::of(role, part, length));
        let convolution = Role::StateSpaceConvolution;
        let (weight, bias) = (Part::Weight, Part::Bias);
        let (convolution, convolution_bias) =
            (vector(convolution, weight, width * scan.taps), vector(convolution, bias, width));
        let time_step = vector(Role::StateSpaceTimeStep, bias, heads);
        let decay = vector(Role::StateSpaceDecay, weight, heads);
        let skip = vector(Role::StateSpaceSkip, weight, heads);
        let to = self.register(scan.inner(), None);
        self.steps.push(Step::Scan(ScanStep {
            from,
            to,
            scan,
            convolution,
            convolution_bias,
            time_step,
            decay,
            skip,
        }));
        to
    }

    /// What a recurrence makes of rows; `weights` are of these roles, in its order.
    pub(crate) fn recur(
        &mut self,
        shape: Recurrence,
        from: Vec<Register>,
        weights: &[(Role, Part)],
    ) -> Register {
        let lengths = shape.weights();
        let of = |(&(role, part), length): (&(Role, Part), usize)| {
            // A convolution may have no bias.
            let is_optional = matches!(shape, Recurrence::Convolution(_)) && part == Part::Bias;
            self.any_vector(Vector { is_optional, ..Vector::of(role, part, length) })
        };
        let weights = weights.iter().zip(lengths).map(of).collect();
        let to = self.register(shape.width(), None);
        self.steps.push(Step::Recur(RecurStep { shape, from, to, weights }));
        to
    }

    /// Sums over so many tokens, of each number by itself.
    pub(crate) fn convolve(
        &mut self,
        from: Register,
        role: Role,
        taps: usize,
        activates: bool,
    ) -> Register {
        let shape = Convolution { width: self.widths[from.0], taps, activates };
        let weights = [(role, Part::Weight), (role, Part::Bias)];
        self.recur(Recurrence::Convolution(shape), vec![from], &weights)
    }

    /// The products of matrices that multiply the same.
    pub(crate) fn linear(&mut self, from: Register, members: &[(Role, usize)]) -> Vec<Register> {
        let group = self.group(self.widths[from.0], members, None, self.stages);
        self.stages += 1;
        let matrix = |member| MatrixIndex { group, member };
        let to = members.iter().enumerate();
        let to: Vec<Register> =
            to.map(|(at, (_, rows))| self.register(*rows, Some(matrix(at)))).collect();
        self.steps.push(Step::Linear { group, from, to: to.clone() });
        to
    }

    /// The product of one matrix.
    pub(crate) fn product(&mut self, from: Register, role: Role, rows: usize) -> Register {
        self.linear(from, &[(role, rows)])[0]
    }

    fn group(
        &mut self,
        columns: usize,
        members: &[(Role, usize)],
        experts: Option<usize>,
        stage: usize,
    ) -> GroupIndex {
        debug_assert!(members.iter().all(|(role, _)| role.is_rounded() || role.is_router()));
        let is_router = members.iter().all(|(role, _)| role.is_router());
        let members = members.iter().map(|(role, rows)| Member { role: *role, rows: *rows });
        self.groups.push(LinearGroup {
            members: members.collect(),
            columns,
            experts,
            stage: Stage(stage),
            is_router,
            inputs_of_all: None,
            is_added: false,
        });
        GroupIndex(self.groups.len() - 1)
    }

    /// Some numbers of each row.
    pub(crate) fn columns(&mut self, from: Register, columns: Range<usize>) -> Register {
        let to = self.register(columns.len(), self.sources[from.0]);
        self.steps.push(Step::Columns { from, columns, to });
        to
    }

    /// Head by head the numbers of all parts; a row has so many heads.
    pub(crate) fn join(&mut self, heads: usize, parts: Vec<HeadColumns>) -> Register {
        let width = parts.iter().map(|part| part.columns.len()).sum::<usize>() * heads;
        let to = self.register(width, parts.first().and_then(|part| self.sources[part.rows.0]));
        self.steps.push(Step::Join { parts, to });
        to
    }

    /// The products of a matrix that each of so many heads has of its own.
    pub(crate) fn heads(
        &mut self,
        heads: usize,
        from: HeadColumns,
        (role, rows): (Role, usize),
    ) -> Register {
        let columns = from.columns.len();
        let group = self.group(columns, &[(role, rows)], Some(heads), self.stages);
        self.stages += 1;
        let to = self.register(rows * heads, None);
        self.steps.push(Step::Heads { group, from, to });
        to
    }

    /// Multiplies each row with the sigmoid of its score.
    pub(crate) fn weigh(&mut self, rows: Register, scores: Register) {
        self.steps.push(Step::Weigh { rows, scores });
    }

    /// Turns rows by the angles of a rotary embedding.
    pub(crate) fn rotate(&mut self, rows: Register, rotary: usize, rotation: Rotation) {
        self.steps.push(Step::Rotate { rows, rotary, rotation });
    }

    /// What the heads attend to.
    pub(crate) fn attend(
        &mut self,
        [queries, keys, values]: [Register; 3],
        attention: Attention,
        sinks: Option<VectorIndex>,
    ) -> Register {
        let to = self.register(attention.result_width(), None);
        let source =
            self.sources[keys.0].unwrap_or(MatrixIndex { group: GroupIndex(0), member: 0 });
        let learned = match attention.distances {
            Distances::Ranges { count } => Some(
                self.any_vector(
                    Vector::weight(Role::AttentionDistances, count * attention.heads)
                        .otherwise(Otherwise::FirstLayer),
                ),
            ),
            Distances::None | Distances::Slopes { .. } => None,
        };
        let step = Attend { queries, keys, values, to, attention, sinks, learned, source };
        self.steps.push(Step::Attend(step));
        to
    }

    /// The gate times up.
    pub(crate) fn activate(&mut self, activation: Activation, gate: Register, up: Register) {
        self.steps.push(Step::Activate { activation, gate, up: Some(up) });
    }

    /// Rows through an activation, and no more.
    pub(crate) fn activate_alone(&mut self, activation: Activation, rows: Register) {
        self.steps.push(Step::Activate { activation, gate: rows, up: None });
    }

    /// What is added, if the model has it.
    fn bias(&mut self, role: Role, length: usize) -> VectorIndex {
        self.any_vector(Vector::bias(role, length).optional())
    }

    /// What experts of so many numbers make of their tokens.
    pub(crate) fn experts(
        &mut self,
        from: Register,
        routing: Router,
        bias: Option<VectorIndex>,
        width: usize,
        activation: Activation,
    ) -> Register {
        let form = ExpertForm::Gated;
        let kind = ExpertKind { routing, bias, scale: None, width, activation, form };
        self.experts_of(from, from, kind)
    }

    /// The same of experts of any kind, chosen by what the router makes of `scored`.
    pub(crate) fn experts_of(
        &mut self,
        from: Register,
        scored: Register,
        kind: ExpertKind,
    ) -> Register {
        let ExpertKind { routing, bias, scale, width, activation, form } = kind;
        let own = self.widths[from.0];
        let router = [(Role::ExpertRouter, routing.experts)];
        let router = self.group(self.widths[scored.0], &router, None, self.stages);
        let experts = Some(routing.experts);
        let gate_up: &[(Role, usize)] = match form {
            ExpertForm::Gated => &[(Role::FeedForwardGate, width), (Role::FeedForwardUp, width)],
            ExpertForm::Fused => &[(Role::FeedForwardGateUp, 2 * width)],
            ExpertForm::Plain => &[(Role::FeedForwardUp, width)],
        };
        let gate_up = self.group(own, gate_up, experts, self.stages);
        self.groups[gate_up.0].inputs_of_all = Some(router).filter(|_| scored == from);
        let down = [(Role::FeedForwardDown, own)];
        let down = self.group(width, &down, experts, self.stages + 1);
        self.stages += 2;
        let to = self.register(own, None);
        self.steps.push(Step::Experts(Experts {
            from,
            scored,
            to,
            routing,
            bias,
            scale,
            router,
            gate_up,
            down,
            activation,
            weighs_inputs: false,
        }));
        to
    }

    /// The same of experts that are given their tokens times these' weights.
    pub(crate) fn experts_of_weighed(
        &mut self,
        from: Register,
        routing: Router,
        width: usize,
        activation: Activation,
    ) -> Register {
        let to = self.experts(from, routing, None, width, activation);
        if let Some(Step::Experts(step)) = self.steps.last_mut() {
            step.weighs_inputs = true;
            // Each expert sees other numbers than the router does.
            self.groups[step.gate_up.0].inputs_of_all = None;
        }
        to
    }

    /// Adds to the hidden states.
    pub(crate) fn add(&mut self, from: Register) {
        self.add_to(Register::HIDDEN, from);
    }

    /// Adds to a register.
    pub(crate) fn add_to(&mut self, to: Register, from: Register) {
        self.steps.push(Step::Add { to, from, times: 1.0 });
    }

    /// Adds so many times to the hidden states.
    pub(crate) fn add_times(&mut self, from: Register, times: f32) {
        self.steps.push(Step::Add { to: Register::HIDDEN, from, times });
    }

    /// The layer.
    pub(crate) fn finish(mut self) -> LayerGraph {
        let live = live(&self.steps);
        for pair in self.steps.windows(2) {
            let [product, Step::Add { to: Register::HIDDEN, from, times: 1.0 }] = pair else {
                continue;
            };
            match product {
                Step::Linear { group, to, .. } if to == &[*from] => {
                    self.groups[group.0].is_added = true;
                }
                Step::Experts(own) if own.to == *from => self.groups[own.down.0].is_added = true,
                _ => {}
            }
        }
        let bases = live.iter().enumerate().filter(|(_, live)| live.len() == 1);
        let bases: Vec<usize> = bases.map(|(at, _)| at).collect();
        let mut stops = Vec::new();
        for (at, step) in self.steps.iter().enumerate().filter(|(_, step)| step.is_product()) {
            let stop = stop(&self.steps, &live[at], at, last_up_to(&bases, at));
            if matches!(step, Step::Experts(_)) {
                // Before gate and up, and before down.
                stops.push(stop.clone());
            }
            stops.push(stop);
        }
        debug_assert_eq!(stops.len(), self.stages);
        let Self { groups, vectors, widths, steps, without, .. } = self;
        let dying = steps.iter().zip(&live[1..]).map(|(step, live)| dying(step, live)).collect();
        LayerGraph { groups, vectors, widths, steps, dying, without, bases, stops }
    }
}

/// Experts of a layer.
pub(crate) struct ExpertKind {
    pub(crate) routing: Router,
    /// What is added when experts are chosen.
    pub(crate) bias: Option<VectorIndex>,
    /// What each expert's weight is multiplied with.
    pub(crate) scale: Option<VectorIndex>,
    /// Numbers between an expert's products.
    pub(crate) width: usize,
    pub(crate) activation: Activation,
    pub(crate) form: ExpertForm,
}

/// Which matrices an expert has before the last.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExpertForm {
    /// Gate and up.
    Gated,
    /// The same in one, one behind the other.
    Fused,
    /// Up alone.
    Plain,
}

/// What is live before each step, and at the end.
fn live(steps: &[Step]) -> Vec<BTreeSet<Register>> {
    let mut now = BTreeSet::from([Register::HIDDEN]);
    let mut all = vec![now.clone()];
    for step in steps.iter().rev() {
        let (reads, writes) = step.registers();
        now.retain(|register| !writes.contains(register));
        now.extend(reads);
        now.insert(Register::HIDDEN);
        all.push(now.clone());
    }
    all.reverse();
    all
}

/// What a step reads or writes, and nobody needs after it.
fn dying(step: &Step, live: &BTreeSet<Register>) -> Vec<Register> {
    let (reads, writes) = step.registers();
    reads.into_iter().chain(writes).filter(|own| !live.contains(own)).collect()
}

fn stop(steps: &[Step], live: &BTreeSet<Register>, step: usize, base: usize) -> Stop {
    let since = &steps[base..step];
    // What is kept stands beside the hidden states as they were at `base`.
    debug_assert!(since.iter().all(|step| !step.registers().1.contains(&Register::HIDDEN)));
    let others = live.iter().copied().filter(|own| *own != Register::HIDDEN);
    let kept = if since.iter().any(Step::is_product) { others.collect() } else { Vec::new() };
    Stop { step, base, kept, is_dear: since.iter().any(Step::is_mixer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept at each stage: the step before it where nothing but the hidden states
    /// is there, and the widths of what is.
    fn check(layer: LayerBuilder, expected: &[(usize, &[usize], bool)]) {
        let graph = layer.finish();
        let found = graph.stops.iter().map(|stop| {
            let widths: Vec<usize> = stop.kept.iter().map(|own| graph.width(*own)).collect();
            (stop.base, widths, stop.is_dear)
        });
        let expected: Vec<_> =
            expected.iter().map(|(base, widths, dear)| (*base, widths.to_vec(), *dear)).collect();
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    fn attention(layer: &mut LayerBuilder, input: Register) -> Register {
        let rows = [Role::AttentionQuery, Role::AttentionKey, Role::AttentionValue];
        let rows = layer.linear(input, &rows.map(|role| (role, 6)));
        let attended = layer.attend([rows[0], rows[1], rows[2]], Attention::plain(1, 1, 6), None);
        layer.product(attended, Role::AttentionOutput, 4)
    }

    #[test]
    fn what_is_kept_where_a_layer_stops() {
        let mut layer = LayerBuilder::new(4);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, 1e-5);
        let attended = attention(&mut layer, normed);
        layer.add(attended);
        let normed = layer.norm(Register::HIDDEN, Role::FeedForwardNorm, 1e-5);
        let fed = layer.product(normed, Role::FeedForwardUp, 9);
        let fed = layer.product(fed, Role::FeedForwardDown, 4);
        layer.add(fed);
        check(layer, &[(0, &[], false), (0, &[6], true), (5, &[], false), (5, &[9], false)]);
    }

    /// Attention and a network beside each other: their common input stays.
    #[test]
    fn branches_keep_what_they_share() {
        let mut layer = LayerBuilder::new(4);
        let normed = layer.norm(Register::HIDDEN, Role::AttentionNorm, 1e-5);
        let attended = attention(&mut layer, normed);
        let fed = layer.product(normed, Role::FeedForwardUp, 4);
        layer.add(attended);
        layer.add(fed);
        check(layer, &[(0, &[], false), (0, &[4, 6], true), (0, &[4, 4], true)]);
    }

    #[test]
    fn products_that_are_added_as_they_are() {
        let mut layer = LayerBuilder::new(4);
        let plain = layer.product(Register::HIDDEN, Role::AttentionOutput, 4);
        layer.add(plain);
        let product = layer.product(Register::HIDDEN, Role::FeedForwardDown, 4);
        let normed = layer.norm(product, Role::PostFeedForwardNorm, 1e-5);
        layer.add(normed);
        let added: Vec<bool> = layer.finish().groups.iter().map(|group| group.is_added).collect();
        assert_eq!(added, [true, false]);
    }
}
