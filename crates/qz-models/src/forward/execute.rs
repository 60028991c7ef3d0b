//! What runs a layer's steps: hidden states through registers, with the weights of the
//! layer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;

use qz_kernels::backend::{
    Backend, Error as BackendError, ExpertLoad, JoinedColumns, Queries, Rounding, ScanWeights,
    Shaped,
};
use qz_tensor::{DataType, Location};

use super::beside::Beside;
use super::capture::{InputsOnly, Routing, Tap, Untapped};
use super::checks::Checks;
use super::chunks::Span;
use super::inputs::Inputs;
use super::layer::Layer;
use super::weights::Linear;
use crate::error::Error;
use crate::graph::{
    Attend, Experts, Factor, GroupIndex, HeadColumns, RecurStep, Register, ScanStep, Stage, Step,
};

/// What all layers share while a batch goes through them.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) rounding: Rounding,
    pub(super) cache_type: DataType,
    /// Of each rotary embedding cosines and sines of each row's position; past its end they
    /// begin again.
    pub(super) rotaries: &'a [B::Buffer],
    /// Which rows belong together, in order, from the first row on.
    pub(super) spans: &'a [Span],
    /// Where a tensor is, for messages.
    pub(super) locate: &'a dyn Fn(&str) -> Location,
    /// The products since [`Self::settle`].
    pub(super) checks: RefCell<Checks<B>>,
    /// What steps use beside the hidden states, and leave.
    pub(super) beside: RefCell<Beside<B>>,
}

/// What is left of what was before, one for each attention or state space of a layer.
pub(super) type Caches<B> = Vec<Cache<B>>;

pub(super) enum Cache<B: Backend> {
    /// Keys and values of all positions.
    Attention(B::Cache),
    /// States behind some positions, the last one that was used at last.
    States(VecDeque<(usize, B::Buffer)>),
}

/// What is computed of some rows with the state that is behind those before them.
type OfRows<'a, B> =
    dyn FnMut(&mut <B as Backend>::Buffer, Range<usize>) -> Result<(), BackendError> + 'a;

/// How many positions' states are kept: that of a beginning that others share, and that of
/// the last of them.
const STATES: usize = 4;

/// What a layer has computed of a batch and still needs.
pub(super) struct Registers<B: Backend>(Vec<Option<B::Buffer>>);

impl<B: Backend> Registers<B> {
    /// Those of a layer that begins with these hidden states.
    pub(super) fn new(layer: &Layer<'_, B>, hidden: B::Buffer) -> Self {
        let mut all: Vec<Option<B::Buffer>> = (0..layer.graph.registers()).map(|_| None).collect();
        all[Register::HIDDEN.0] = Some(hidden);
        Self(all)
    }

    pub(super) fn get(&self, register: Register) -> &B::Buffer {
        self.0[register.0].as_ref().expect("a step before it has written it")
    }

    pub(super) fn set(&mut self, register: Register, buffer: B::Buffer) {
        self.0[register.0] = Some(buffer);
    }

    pub(super) fn take(&mut self, register: Register) -> B::Buffer {
        self.0[register.0].take().expect("a step before it has written it")
    }
}

impl<B: Backend> Pass<'_, B> {
    /// Room for keys and values of so many positions, for what attends among some steps of
    /// a layer.
    pub(super) fn caches(
        &self,
        layer: &Layer<'_, B>,
        steps: Range<usize>,
        capacity: usize,
    ) -> Result<Caches<B>, Error> {
        let cache = |own: &Attend| {
            let cache = self.backend.cache(&own.attention, capacity, self.cache_type);
            let name = &layer.matrix(own.source).name;
            let failed = |source| {
                let location = (self.locate)(name);
                Error::Backend { location, source: Box::new(source) }
            };
            cache.map(Cache::Attention).map_err(failed)
        };
        let caches = layer.graph.steps()[steps].iter().filter_map(|step| match step {
            Step::Attend(own) => Some(cache(own)),
            Step::Scan(_) | Step::Recur(_) => Some(Ok(Cache::States(VecDeque::new()))),
            _ => None,
        });
        caches.collect()
    }

    /// Runs some of a layer's steps on all spans' tokens. `caches` are those of the steps;
    /// they have the keys and values of positions before the first span, and get those of
    /// the spans. `tap` hears of all groups' inputs.
    pub(super) fn run(
        &self,
        layer: &Layer<'_, B>,
        steps: Range<usize>,
        caches: &mut Caches<B>,
        registers: &mut Registers<B>,
        tap: &mut dyn Tap<B>,
    ) -> Result<(), Error> {
        let mut caches = caches.iter_mut();
        for at in steps {
            match &layer.graph.steps()[at] {
                Step::Attend(own) => {
                    let Some(Cache::Attention(cache)) = caches.next() else {
                        unreachable!("a cache for each")
                    };
                    tap.see_cached(registers.get(own.keys), registers.get(own.values))?;
                    let attended = self.attend(layer, own, cache, registers)?;
                    registers.set(own.to, attended);
                }
                Step::Scan(own) => {
                    let Some(Cache::States(states)) = caches.next() else {
                        unreachable!("states for each")
                    };
                    let scanned = self.scan(layer, own, states, registers)?;
                    registers.set(own.to, scanned);
                }
                Step::Recur(own) => {
                    let Some(Cache::States(states)) = caches.next() else {
                        unreachable!("states for each")
                    };
                    let result = self.recur(layer, own, states, registers)?;
                    registers.set(own.to, result);
                }
                step => self.step(layer, step, registers, tap)?,
            }
            layer.graph.dying(at).iter().for_each(|own| registers.0[own.0] = None);
        }
        self.settle()
    }

    /// Waits for all products, and finds the first that is not finite: a number that
    /// overflowed there would be found nowhere else.
    pub(super) fn settle(&self) -> Result<(), Error> {
        let Some((name, token)) = self.checks.borrow_mut().settle(self.backend)? else {
            return Ok(());
        };
        Err(Error::NonFiniteActivation { location: (self.locate)(&name), token })
    }

    /// How many tokens there are.
    fn tokens(&self) -> usize {
        self.spans.last().map_or(0, |span| span.rows.end)
    }

    fn step(
        &self,
        layer: &Layer<'_, B>,
        step: &Step,
        registers: &mut Registers<B>,
        tap: &mut dyn Tap<B>,
    ) -> Result<(), Error> {
        let backend = self.backend;
        match step {
            Step::Norm { from, to, weights, groups, epsilon } => {
                if let Some(weights) = layer.vector(*weights) {
                    let input = registers.get(*from);
                    let normed = backend.rms_norm(input, weights, *groups, *epsilon)?;
                    registers.set(*to, normed);
                }
            }
            Step::BareNorm { rows, size, epsilon } => {
                let ones = backend.buffer(*size, &vec![1.0; *size])?;
                let normed = backend.rms_norm(registers.get(*rows), &ones, 1, *epsilon)?;
                registers.set(*rows, normed);
            }
            Step::LayerNorm { from, to, weights, bias, groups, epsilon, .. } => {
                let width = layer.graph.width(*from);
                let ones = weights.is_none().then(|| backend.buffer(width, &vec![1.0; width]));
                let ones = ones.transpose()?;
                let own = weights.and_then(|weights| layer.vector(weights));
                if let Some(weights) = own.or(ones.as_ref()) {
                    let (input, bias) = (registers.get(*from), layer.vector(*bias));
                    let normed = backend.layer_norm(input, weights, bias, *groups, *epsilon)?;
                    registers.set(*to, normed);
                }
            }
            Step::Linear { group, from, to } => {
                let inputs = self.inputs(layer, (*group, None), registers.get(*from))?;
                tap.see(*group, inputs.shown(), None)?;
                let matrices = layer.matrices(*group, None).iter();
                let products = matrices.map(|matrix| self.product_of(matrix, &inputs));
                let products = products.collect::<Result<Vec<_>, Error>>()?;
                to.iter().zip(products).for_each(|(to, product)| registers.set(*to, product));
            }
            Step::Columns { from, columns, to } => {
                let own = backend.columns(registers.get(*from), columns.clone())?;
                registers.set(*to, own);
            }
            Step::Join { parts, to } => {
                let part = |HeadColumns { rows, size, columns }: &HeadColumns| {
                    let buffer = registers.get(*rows);
                    JoinedColumns { buffer, size: *size, columns: columns.clone() }
                };
                let joined = backend.join(&parts.iter().map(part).collect::<Vec<_>>())?;
                registers.set(*to, joined);
            }
            Step::Heads { group, from, to } => {
                let input = registers.get(from.rows);
                if let Some(products) = self.heads(layer, *group, from, input, tap)? {
                    registers.set(*to, products);
                }
            }
            Step::Weigh { rows, scores } => {
                let mut buffer = registers.take(*rows);
                backend.times_sigmoid(&mut buffer, registers.get(*scores))?;
                registers.set(*rows, buffer);
            }
            Step::Rotate { rows, rotary, rotation } => {
                let mut buffer = registers.take(*rows);
                backend.rotate(&mut buffer, rotation, &self.rotaries[*rotary])?;
                registers.set(*rows, buffer);
            }
            Step::Rowwise { operation, from, vector, to } => {
                let vector = vector.map(|vector| layer.vector(vector).expect("it must be there"));
                let inputs = from.iter().map(|own| registers.get(*own)).chain(vector);
                let result = backend.rowwise(operation, &inputs.collect::<Vec<_>>())?;
                registers.set(*to, result);
            }
            Step::Activate { activation, gate, up } => {
                let mut buffer = registers.take(*gate);
                let up = up.map(|up| registers.get(up));
                let activation = activation.rounded(self.rounding);
                backend.activate_times(activation, &mut buffer, up)?;
                registers.set(*gate, buffer);
            }
            Step::Experts(own) => {
                if let Some(sum) = self.experts(layer, own, registers, tap)? {
                    registers.set(own.to, sum);
                }
            }
            Step::Scale { rows, by } => {
                if let Some(scaled) = self.scaled(layer, registers.get(*rows), *by)? {
                    registers.set(*rows, scaled);
                }
            }
            Step::Leave { rows, slot } => {
                let left = backend.copy(registers.get(*rows))?;
                self.beside.borrow_mut().leave(*slot, left);
            }
            Step::Recall { slot, to } => {
                registers.set(*to, backend.copy(self.beside.borrow().recall(*slot))?);
            }
            Step::Ahead { to, .. } => {
                registers.set(*to, backend.copy(self.beside.borrow().ahead())?);
            }
            Step::OfToken { to, .. } => {
                registers.set(*to, backend.copy(self.beside.borrow().of_token())?);
            }
            Step::Add { to, from, times } => {
                let mut sum = registers.take(*to);
                if *times == 1.0 {
                    backend.add(&mut sum, registers.get(*from))?;
                } else {
                    self.add_times(&mut sum, registers.get(*from), *times)?;
                }
                registers.set(*to, sum);
            }
            Step::Attend(_) | Step::Scan(_) | Step::Recur(_) => unreachable!("they have a cache"),
        }
        Ok(())
    }

    /// Adds so many times what a buffer holds.
    fn add_times(&self, sum: &mut B::Buffer, rows: &B::Buffer, times: f32) -> Result<(), Error> {
        let tokens = self.tokens();
        let load = ExpertLoad { tokens: (0..tokens).collect(), weights: vec![times; tokens] };
        Ok(self.backend.scatter_add(sum, &load, rows)?)
    }

    /// Rows times a number; nothing where the model has none.
    fn scaled(
        &self,
        layer: &Layer<'_, B>,
        rows: &B::Buffer,
        by: Factor,
    ) -> Result<Option<B::Buffer>, Error> {
        let by = match by {
            Factor::Number(number) => number,
            Factor::Vector(vector) => match layer.vector(vector) {
                Some(vector) => self.backend.numbers(vector)?[0],
                None => return Ok(None),
            },
        };
        let mut scaled = self.backend.zeros(rows.rows(), rows.columns())?;
        self.add_times(&mut scaled, rows, by)?;
        Ok(Some(scaled))
    }

    /// A product with its bias, of inputs that are rounded already where they have to be; whether
    /// it is finite is noted.
    pub(super) fn product(
        &self,
        linear: &Linear<B>,
        input: &B::Buffer,
    ) -> Result<B::Buffer, Error> {
        let rounding = linear.inputs.map_or(self.rounding, |_| Rounding::Exact);
        let mut out = self.backend.matmul(rounding, input, &linear.matrix)?;
        if let Some(bias) = &linear.bias {
            self.backend.add_bias(&mut out, bias)?;
        }
        self.checks.borrow_mut().add(self.backend, &linear.name, &out)?;
        Ok(out)
    }

    fn attend(
        &self,
        layer: &Layer<'_, B>,
        own: &Attend,
        cache: &mut B::Cache,
        registers: &Registers<B>,
    ) -> Result<B::Buffer, Error> {
        let [queries, keys, values] =
            [own.queries, own.keys, own.values].map(|register| registers.get(register));
        let sinks = own.sinks.and_then(|sinks| layer.vector(sinks));
        let learned = own.learned.and_then(|learned| layer.vector(learned));
        let mut out = self.backend.zeros(self.tokens(), own.attention.result_width())?;
        for Span { rows, position } in self.spans {
            let (backend, rows) = (self.backend, rows.clone());
            backend.store(cache, *position, keys, values, rows.clone())?;
            let queries = Queries { buffer: queries, rows, position: *position };
            backend.attend(&own.attention, sinks, learned, cache, queries, &mut out)?;
        }
        Ok(out)
    }

    fn scan(
        &self,
        layer: &Layer<'_, B>,
        own: &ScanStep,
        states: &mut VecDeque<(usize, B::Buffer)>,
        registers: &Registers<B>,
    ) -> Result<B::Buffer, Error> {
        let (backend, input) = (self.backend, registers.get(own.from));
        let vector = |index| layer.vector(index).expect("it must be there");
        let weights = ScanWeights {
            convolution: vector(own.convolution),
            convolution_bias: vector(own.convolution_bias),
            time_step: vector(own.time_step),
            decay: vector(own.decay),
            skip: vector(own.skip),
        };
        let mut out = backend.zeros(self.tokens(), own.scan.inner())?;
        self.in_turn(own.scan.state(), states, &mut |state, rows| {
            backend.scan(&own.scan, &weights, state, input, rows, &mut out)
        })?;
        Ok(out)
    }

    fn recur(
        &self,
        layer: &Layer<'_, B>,
        own: &RecurStep,
        states: &mut VecDeque<(usize, B::Buffer)>,
        registers: &Registers<B>,
    ) -> Result<B::Buffer, Error> {
        let (backend, shape) = (self.backend, &own.shape);
        let inputs: Vec<&B::Buffer> = own.from.iter().map(|own| registers.get(*own)).collect();
        let weights: Vec<&B::Buffer> =
            own.weights.iter().filter_map(|own| layer.vector(*own)).collect();
        let mut out = backend.zeros(self.tokens(), shape.width())?;
        self.in_turn(shape.state(), states, &mut |state, rows| {
            backend.recur(shape, &weights, state, &inputs, rows, &mut out)
        })?;
        Ok(out)
    }

    /// Goes through the spans' rows with the state that is behind what was before each; it is
    /// of so many numbers, zeros at the beginning.
    fn in_turn(
        &self,
        numbers: usize,
        states: &mut VecDeque<(usize, B::Buffer)>,
        run: &mut OfRows<'_, B>,
    ) -> Result<(), Error> {
        let backend = self.backend;
        for Span { rows, position } in self.spans {
            let mut state = match states.iter().position(|(own, _)| own == position) {
                _ if *position == 0 => backend.zeros(1, numbers)?,
                Some(at) => {
                    let known = states.remove(at).expect("it was found");
                    let state = backend.copy(&known.1)?;
                    states.push_back(known);
                    state
                }
                None => return Err(Error::StateIsGone { position: *position }),
            };
            run(&mut state, rows.clone())?;
            let end = position + rows.len();
            states.retain(|(own, _)| *own != end);
            states.push_back((end, state));
            if states.len() > STATES {
                states.pop_front();
            }
        }
        Ok(())
    }

    /// The products of matrices that each head has of its own; nothing where the tap wants
    /// no result.
    pub(super) fn heads(
        &self,
        layer: &Layer<'_, B>,
        group: GroupIndex,
        from: &HeadColumns,
        input: &B::Buffer,
        tap: &mut dyn Tap<B>,
    ) -> Result<Option<B::Buffer>, Error> {
        let (backend, tokens) = (self.backend, self.tokens());
        let own = layer.graph.group(group);
        let everyone = ExpertLoad { tokens: (0..tokens).collect(), weights: vec![1.0; tokens] };
        let mut products = Vec::new();
        for head in 0..own.experts.unwrap_or(1) {
            let first = head * from.size;
            let columns = first + from.columns.start..first + from.columns.end;
            let input = backend.columns(input, columns)?;
            tap.see(group, &input, Some((head, &everyone)))?;
            if tap.last() != Some(own.stage) {
                let matrix = &layer.matrices(group, Some(head))[0];
                products.push(self.product(matrix, &input)?);
            }
        }
        let size = own.members[0].rows;
        let part = |buffer| JoinedColumns { buffer, size, columns: 0..size };
        let parts: Vec<_> = products.iter().map(part).collect();
        (!parts.is_empty()).then(|| backend.join(&parts)).transpose().map_err(Error::from)
    }

    /// What experts make of the tokens that they are given; nothing where the tap wants no
    /// result.
    pub(super) fn experts(
        &self,
        layer: &Layer<'_, B>,
        own: &Experts,
        registers: &Registers<B>,
        tap: &mut dyn Tap<B>,
    ) -> Result<Option<B::Buffer>, Error> {
        let (backend, tokens) = (self.backend, self.tokens());
        let (input, scored) = (registers.get(own.from), registers.get(own.scored));
        tap.see(own.router, scored, None)?;
        let scores = self.product(&layer.matrices(own.router, None)[0], scored)?;
        let mut sum = backend.zeros(tokens, layer.graph.width(own.from))?;
        let bias = own.bias.and_then(|bias| layer.vector(bias));
        let last = layer.graph.group(own.down).stage;
        let mut loads = backend.route(&own.routing, &scores, bias)?;
        if let Some(scale) = own.scale.and_then(|scale| layer.vector(scale)) {
            for (load, scale) in loads.iter_mut().zip(backend.numbers(scale)?.iter()) {
                load.weights.iter_mut().for_each(|weight| *weight *= scale);
            }
        }
        for (number, load) in loads.iter().enumerate() {
            if tap.routing() == Routing::All {
                let everyone = everyone(load, tokens);
                let gated = Gated { layer, own, expert: number, load: Some(&everyone) };
                let weighed = self.weighed(layer, own, input, &everyone)?;
                let input = weighed.as_ref().unwrap_or(input);
                self.gated(&gated, input, &mut InputsOnly(tap, last))?;
            }
            if load.tokens.is_empty() {
                continue;
            }
            let mut given = backend.gather(input, &load.tokens)?;
            let own_load = ExpertLoad {
                tokens: (0..load.tokens.len()).collect(),
                weights: load.weights.clone(),
            };
            if let Some(weighed) = self.weighed(layer, own, &given, &own_load)? {
                given = weighed;
            }
            let unweighed = ExpertLoad { weights: vec![1.0; load.tokens.len()], ..load.clone() };
            let load = if own.weighs_inputs { &unweighed } else { load };
            let gated = |load| Gated { layer, own, expert: number, load };
            self.checks.borrow_mut().set_tokens(Some(&load.tokens));
            let answer = match (tap.routing(), tap.last()) {
                (Routing::Chosen, _) => self.gated(&gated(Some(load)), &given, tap),
                (Routing::All, None) => self.gated(&gated(None), &given, &mut Untapped),
                (Routing::All, Some(_)) => Ok(None),
            };
            self.checks.borrow_mut().set_tokens(None);
            if let Some(answer) = answer? {
                backend.scatter_add(&mut sum, load, &answer)?;
            }
        }
        Ok(tap.last().is_none().then_some(sum))
    }

    /// Rows times the weights of a load that has all of them, where experts are given such.
    fn weighed(
        &self,
        layer: &Layer<'_, B>,
        own: &Experts,
        rows: &B::Buffer,
        load: &ExpertLoad,
    ) -> Result<Option<B::Buffer>, Error> {
        if !own.weighs_inputs {
            return Ok(None);
        }
        let mut out = self.backend.zeros(load.tokens.len(), layer.graph.width(own.from))?;
        self.backend.scatter_add(&mut out, load, rows)?;
        Ok(Some(out))
    }

    fn gated(
        &self,
        gated: &Gated<'_, B>,
        input: &B::Buffer,
        tap: &mut dyn Tap<B>,
    ) -> Result<Option<B::Buffer>, Error> {
        let Gated { layer, own, expert, load } = *gated;
        let is_last = |stage: Stage, tap: &dyn Tap<B>| tap.last() == Some(stage);
        let seen = load.map(|load| (expert, load));
        let inputs = self.inputs(layer, (own.gate_up, Some(expert)), input)?;
        tap.see(own.gate_up, inputs.shown(), seen)?;
        if is_last(layer.graph.group(own.gate_up).stage, tap) {
            return Ok(None);
        }
        let product = self.between(layer, own, expert, &inputs)?;
        let inputs = self.inputs(layer, (own.down, Some(expert)), &product)?;
        tap.see(own.down, inputs.shown(), seen)?;
        if is_last(layer.graph.group(own.down).stage, tap) {
            return Ok(None);
        }
        let down = &layer.matrices(own.down, Some(expert))[0];
        self.product_of(down, &inputs).map(Some)
    }
}

impl<B: Backend> Pass<'_, B> {
    /// What an expert's last matrix multiplies.
    fn between(
        &self,
        layer: &Layer<'_, B>,
        own: &Experts,
        expert: usize,
        inputs: &Inputs<'_, B>,
    ) -> Result<B::Buffer, Error> {
        let matrices = layer.matrices(own.gate_up, Some(expert)).iter();
        let products = matrices.map(|matrix| self.product_of(matrix, inputs));
        let mut products = products.collect::<Result<Vec<_>, Error>>()?;
        let (all, width) = (products[0].columns(), layer.graph.group(own.down).columns);
        if products.len() == 1 && all > width {
            // Gate, and behind it up.
            let both = products.remove(0);
            for first in [0, width] {
                products.push(self.backend.columns(&both, first..first + width)?);
            }
        }
        let mut gate = products.remove(0);
        let activation = own.activation.rounded(self.rounding);
        self.backend.activate_times(activation, &mut gate, products.first())?;
        Ok(gate)
    }
}

/// One expert and what it is given.
struct Gated<'a, B: Backend> {
    layer: &'a Layer<'a, B>,
    own: &'a Experts,
    expert: usize,
    /// Its tokens, where they are shown.
    load: Option<&'a ExpertLoad>,
}

/// All tokens of a batch; those that were given to others have no weight.
fn everyone(load: &ExpertLoad, tokens: usize) -> ExpertLoad {
    let mut weights = vec![0.0; tokens];
    for (token, weight) in load.tokens.iter().zip(&load.weights) {
        weights[*token] = *weight;
    }
    ExpertLoad { tokens: (0..tokens).collect(), weights }
}
