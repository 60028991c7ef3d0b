//! What a layer's groups multiply: the stream behind what is quantized already, the full
//! model's beside it, and the sums over both.

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_methods::Needs;
use qz_models::forward::{Chunks, Forward, LayerStream, LinearInputs};
use qz_models::graph::{GroupIndex, LinearGroup};

use super::QuantizeOptions;
use super::capture::{Beside, Captured, LackingKind, Results, Sums, Wanted, gathered};
use crate::calibrate::inputs_of_all;
use crate::error::Error;
use crate::model::to_usize;
use crate::model_weights::ModelWeights;
use crate::stream::{Cancel, check_cancelled};

pub(super) type Stream<'a, B> = LayerStream<'a, B, ModelWeights<'a>>;

/// What is called with the inputs of a group, or of one of its experts, and what the full
/// model has beside them.
type Visit<'v> = dyn FnMut(Option<usize>, &[f32], Option<Beside>) -> Result<(), Error> + 'v;

/// The tokens that an expert is given in a batch.
struct Given {
    expert: Option<usize>,
    /// Their numbers in the batch.
    tokens: Vec<usize>,
    rows: Vec<f32>,
}

/// The text's hidden states on their way through the layers.
pub(super) struct Streams<'a, B: Backend> {
    /// Behind the matrices that are quantized already.
    pub(super) quantized: Stream<'a, B>,
    /// The full model's, if matrices are to make up for what was lost before them.
    full: Option<Stream<'a, B>>,
}

impl<'a, B: Backend> Streams<'a, B> {
    pub(super) fn begin(
        full: &'a Forward<'a, B, ModelWeights<'a>>,
        quantized: &'a Forward<'a, B, ModelWeights<'a>>,
        chunks: &Chunks,
        options: &QuantizeOptions,
    ) -> Result<Self, Error> {
        let begin = |forward: &'a Forward<'a, B, ModelWeights<'a>>| {
            let mut stream = forward.stream(chunks.clone())?;
            stream.set_routing(options.experts.routing());
            Ok::<_, Error>(stream)
        };
        let full = options.propagates().then(|| begin(full)).transpose()?;
        Ok(Self { quantized: begin(quantized)?, full })
    }

    pub(super) fn load_next(&mut self) -> Result<bool, Error> {
        if let Some(full) = &mut self.full {
            full.load_next()?;
        }
        self.quantized.load_next()
    }

    pub(super) fn advance(
        &mut self,
        on_steps: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(full) = &mut self.full {
            full.advance(on_steps)?;
        }
        self.quantized.advance(on_steps)
    }

    /// Shows the inputs of a group, batch by batch.
    fn visit(&mut self, group: GroupIndex, visit: &mut Visit<'_>) -> Result<(), Error> {
        let stage = self.quantized.graph().group(group).stage;
        self.quantized.visit(stage, &mut |inputs| {
            let is_own = inputs.group == group;
            if is_own { visit(inputs.expert, inputs.rows, None) } else { Ok(()) }
        })
    }

    /// Shows the inputs of a group, of these of its experts, batch by batch, and beside them
    /// what the full model has of the same tokens. That model gives its tokens to experts of
    /// its own choice: what it has is what its router sees, and the hidden states behind all
    /// its experts.
    fn visit_beside(
        &mut self,
        group: GroupIndex,
        experts: &[Option<usize>],
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let Self { quantized, full } = self;
        let Some(full) = full else { return self.visit(group, visit) };
        let (graph, hidden) = (quantized.graph(), quantized.hidden_width());
        let own = graph.group(group);
        for batch in 0..quantized.batches() {
            let (first, count) =
                (quantized.tokens_of(batch).start, quantized.tokens_of(batch).len());
            let mut given = Vec::new();
            let mut weights = if own.experts.is_some() { vec![0.0; count] } else { Vec::new() };
            let mut note = |inputs: &LinearInputs<'_>| {
                if inputs.group != group {
                    return Ok(());
                }
                let tokens: Vec<usize> =
                    (0..inputs.count()).map(|row| inputs.token(row) - first).collect();
                if inputs.expert.is_some() {
                    let own = tokens.iter().enumerate();
                    own.for_each(|(row, token)| weights[*token] += inputs.weight(row));
                }
                if experts.contains(&inputs.expert) {
                    let (expert, rows) = (inputs.expert, inputs.rows.to_vec());
                    given.push(Given { expert, tokens, rows });
                }
                Ok(())
            };
            if own.is_added {
                let of_full = full.pass_results(group, batch)?;
                let as_it_was = quantized.visit_results(group, batch, &mut note)?;
                let mut all = Results { full: of_full, quantized: as_it_was, weights };
                for Given { expert, tokens, rows } in given {
                    let beside = match expert {
                        None => std::mem::take(&mut all),
                        Some(_) => all.of(&tokens, hidden),
                    };
                    visit(expert, &rows, Some(Beside::Results(beside)))?;
                }
            } else {
                let mut of_full = inputs_of(full, inputs_of_all(graph, group), batch)?;
                quantized.visit_batch(own.stage, batch, &mut note)?;
                for Given { expert, tokens, rows } in given {
                    let beside = match expert {
                        None => std::mem::take(&mut of_full),
                        Some(_) => gathered(&of_full, &tokens, own.columns),
                    };
                    visit(expert, &rows, Some(Beside::Inputs(beside)))?;
                }
            }
        }
        Ok(())
    }

    /// Shows the inputs of the output matrix, batch by batch, and the full model's beside
    /// them where there is one.
    fn visit_output(&mut self, visit: &mut Visit<'_>) -> Result<(), Error> {
        for batch in 0..self.quantized.batches() {
            let beside = self.full.as_mut().map(|full| full.output_inputs(batch)).transpose()?;
            visit(None, &self.quantized.output_inputs(batch)?, beside.map(Beside::Inputs))?;
        }
        Ok(())
    }
}

/// The inputs of a group without experts.
fn inputs_of<B: Backend>(
    stream: &mut Stream<'_, B>,
    group: GroupIndex,
    batch: usize,
) -> Result<Vec<f32>, Error> {
    let mut own = Vec::new();
    let stage = stream.graph().group(group).stage;
    stream.visit_batch(stage, batch, &mut |inputs| {
        if inputs.group == group {
            own = inputs.rows.to_vec();
        }
        Ok(())
    })?;
    Ok(own)
}

/// How inputs are summed.
pub(super) struct Collector<'a> {
    pub(super) options: &'a QuantizeOptions,
    pub(super) workers: &'a Workers,
    pub(super) cancel: &'a Cancel,
}

/// What is known of a group with experts while they are visited some at a time.
pub(super) struct GroupExperts {
    /// How many there are.
    count: usize,
    /// Tokens that each was given, so far.
    pub(super) tokens: Vec<(usize, u64)>,
    /// The inputs of all together, once one has few of its own.
    all: Option<Sums>,
}

impl GroupExperts {
    pub(super) fn of(count: usize) -> Self {
        Self { count, tokens: Vec::new(), all: None }
    }
}

impl Collector<'_> {
    fn needs(&self) -> Needs {
        self.options.method.needs()
    }

    /// Which sums a group's matrices need, in a model with hidden states of so many numbers.
    pub(super) fn wanted(&self, group: &LinearGroup, hidden: usize) -> Wanted {
        let lacking = match (group.is_added, group.experts, group.inputs_of_all) {
            _ if !self.options.propagates() => None,
            (true, _, _) => Some(LackingKind::Results(hidden)),
            (false, None, _) | (false, Some(_), Some(_)) => Some(LackingKind::Inputs),
            // What experts put together is changed before it is added, or they are heads.
            (false, Some(_), None) => None,
        };
        Wanted { needs: self.needs(), columns: group.columns, lacking }
    }

    /// Which sums the output matrix needs.
    pub(super) fn wanted_of_output(&self, columns: usize) -> Wanted {
        let lacking = self.options.propagates().then_some(LackingKind::Inputs);
        Wanted { needs: self.needs(), columns, lacking }
    }

    /// Experts whose sums fit a quarter of the memory, with those of all together.
    pub(super) fn experts_at_once(&self, wanted: Wanted) -> usize {
        let all = to_usize(self.options.compute.max_memory / 4 / wanted.bytes().max(1));
        all.saturating_sub(usize::from(self.options.experts.prior > 0)).max(1)
    }

    /// What is known of the inputs of some experts, or of the one matrix there is.
    pub(super) fn captured<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        group: GroupIndex,
        experts: &[Option<usize>],
        known: &mut GroupExperts,
    ) -> Result<Vec<(Option<usize>, Captured)>, Error> {
        let own = streams.quantized.graph().group(group);
        let wanted = self.wanted(own, streams.quantized.hidden_width());
        let sums = |expert: &Option<usize>| (*expert, wanted.sums());
        let mut sums: Vec<(Option<usize>, Sums)> = experts.iter().map(sums).collect();
        let mut add = |expert: Option<usize>, rows: &[f32], beside: Option<Beside>| {
            check_cancelled(self.cancel)?;
            if let Some((_, sums)) = sums.iter_mut().find(|(own, _)| *own == expert) {
                self.workers.install(|| sums.add(rows, beside));
            }
            Ok(())
        };
        match wanted.lacking {
            Some(_) => streams.visit_beside(group, experts, &mut add)?,
            None => streams.visit(group, &mut add)?,
        }
        check_cancelled(self.cancel)?;
        let mut captured = Vec::with_capacity(sums.len());
        for (expert, mut sums) in sums {
            let tokens = sums.tokens();
            let mut is_uncorrected = false;
            if let Some(number) = expert {
                known.tokens.push((number, tokens));
                // A regression on as many inputs needs as many tokens.
                let least = self.options.experts.prior.max(own.columns as u64);
                is_uncorrected = tokens < least && sums.forget_lacking();
                if tokens < self.options.experts.prior {
                    let all = match known.all.take() {
                        Some(all) => all,
                        None => self.all_experts(streams, group, known.count)?,
                    };
                    sums.shrink(self.options.experts.prior, known.all.insert(all));
                }
            }
            captured.push((expert, Captured { is_uncorrected, ..sums.finish(tokens) }));
        }
        Ok(captured)
    }

    /// The inputs of all experts together, in an order that batches do not change: for gate
    /// and up those of the router, else one expert's after the other's.
    fn all_experts<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        group: GroupIndex,
        count: usize,
    ) -> Result<Sums, Error> {
        let graph = streams.quantized.graph();
        let shown = inputs_of_all(graph, group);
        let hidden = streams.quantized.hidden_width();
        let wanted = self.wanted(graph.group(group), hidden).alone();
        let experts: Vec<_> = match shown == group {
            true => (0..count).map(Some).collect(),
            false => vec![None],
        };
        let mut all = wanted.sums();
        for experts in experts.chunks(self.experts_at_once(wanted)) {
            let mut sums: Vec<Sums> = experts.iter().map(|_| wanted.sums()).collect();
            streams.visit(shown, &mut |expert, rows, _| {
                check_cancelled(self.cancel)?;
                if let Some(at) = experts.iter().position(|own| *own == expert) {
                    self.workers.install(|| sums[at].add(rows, None));
                }
                Ok(())
            })?;
            sums.into_iter().for_each(|own| all.merge(own));
        }
        Ok(all)
    }

    /// What is known of the inputs of the output matrix.
    pub(super) fn output<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        columns: usize,
    ) -> Result<Captured, Error> {
        let mut sums = self.wanted_of_output(columns).sums();
        streams.visit_output(&mut |_, rows, beside| {
            check_cancelled(self.cancel)?;
            self.workers.install(|| sums.add(rows, beside));
            Ok(())
        })?;
        let tokens = sums.tokens();
        Ok(sums.finish(tokens))
    }
}
