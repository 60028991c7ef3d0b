//! What a layer's groups multiply: the stream behind what is quantized already, the full
//! model's beside it, and the sums over both.

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_methods::Needs;
use qz_models::forward::{Chunks, Forward, LayerStream};
use qz_models::graph::GroupIndex;

use super::QuantizeOptions;
use super::capture::{Beside, Captured, Sums};
use crate::calibrate::inputs_of_all;
use crate::error::Error;
use crate::model::to_usize;
use crate::model_weights::ModelWeights;
use crate::stream::{Cancel, check_cancelled};

pub(super) type Stream<'a, B> = LayerStream<'a, B, ModelWeights<'a>>;

/// What is called with the inputs of a group, or of one of its experts, and what the full
/// model has beside them.
type Visit<'v> = dyn FnMut(Option<usize>, &[f32], Option<&Beside>) -> Result<(), Error> + 'v;

/// The text's hidden states on their way through the layers.
pub(super) struct Streams<'a, B: Backend> {
    /// Behind the matrices that are quantized already.
    pub(super) quantized: Stream<'a, B>,
    /// The full model's, if matrices are to make up for what was lost before them.
    full: Option<Stream<'a, B>>,
}

impl<'a, B: Backend> Streams<'a, B> {
    pub(super) fn begin(
        forward: &'a Forward<'a, B, ModelWeights<'a>>,
        chunks: &Chunks,
        options: &QuantizeOptions,
    ) -> Result<Self, Error> {
        let begin = || -> Result<Stream<'a, B>, Error> {
            let mut stream = forward.stream(chunks.clone())?;
            stream.set_routing(options.experts.routing());
            Ok(stream)
        };
        let full = options.propagates().then(begin).transpose()?;
        Ok(Self { quantized: begin()?, full })
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

    /// Shows the inputs of a group, batch by batch, and what the full model has of the same
    /// tokens if that is asked for. It is not there for experts: the full model gives its
    /// tokens to others.
    fn visit(
        &mut self,
        group: GroupIndex,
        with_full: bool,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let own = self.quantized.graph().group(group);
        let (stage, is_added) = (own.stage, own.is_added);
        for batch in 0..self.quantized.batches() {
            let Some(full) = self.full.as_mut().filter(|_| with_full) else {
                self.quantized.visit_batch(stage, batch, &mut |inputs| {
                    let is_own = inputs.group == group;
                    if is_own { visit(inputs.expert, inputs.rows, None) } else { Ok(()) }
                })?;
                continue;
            };
            let (own, beside) = if is_added {
                let results = full.pass_results(group, batch)?;
                let mut own = Vec::new();
                let as_it_was = self.quantized.visit_results(group, batch, &mut |inputs| {
                    own = inputs.rows.to_vec();
                    Ok(())
                })?;
                (own, Beside::Results([results, as_it_was]))
            } else {
                let inputs = inputs_of(full, group, batch)?;
                (inputs_of(&mut self.quantized, group, batch)?, Beside::Inputs(inputs))
            };
            visit(None, &own, Some(&beside))?;
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

    /// Experts whose sums fit a quarter of the memory, with those of all together.
    pub(super) fn experts_at_once(&self, columns: usize) -> usize {
        let bytes = Sums::bytes(self.needs(), columns);
        let all = to_usize(self.options.compute.max_memory / 4 / bytes.max(1));
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
        let width = own.columns;
        let with_full = self.options.propagates() && experts == [None];
        let results = own.is_added.then(|| streams.quantized.hidden_width());
        let sums = |expert: &Option<usize>| {
            let sums = match with_full {
                true => Sums::beside_full(width, results),
                false => Sums::new(self.needs(), width),
            };
            (*expert, sums)
        };
        let mut sums: Vec<(Option<usize>, Sums)> = experts.iter().map(sums).collect();
        streams.visit(group, with_full, &mut |expert, rows, beside| {
            check_cancelled(self.cancel)?;
            if let Some((_, sums)) = sums.iter_mut().find(|(own, _)| *own == expert) {
                self.workers.install(|| sums.add(rows, beside));
            }
            Ok(())
        })?;
        check_cancelled(self.cancel)?;
        let mut captured = Vec::with_capacity(sums.len());
        for (expert, mut sums) in sums {
            let tokens = sums.tokens();
            if let Some(number) = expert {
                known.tokens.push((number, tokens));
                if tokens < self.options.experts.prior {
                    let all = match known.all.take() {
                        Some(all) => all,
                        None => self.all_experts(streams, group, known.count)?,
                    };
                    sums.shrink(self.options.experts.prior, known.all.insert(all));
                }
            }
            captured.push((expert, sums.finish(tokens)));
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
        let width = graph.group(group).columns;
        let experts: Vec<_> = match shown == group {
            true => (0..count).map(Some).collect(),
            false => vec![None],
        };
        let mut all = Sums::new(self.needs(), width);
        for experts in experts.chunks(self.experts_at_once(width)) {
            let new = |_: &Option<usize>| Sums::new(self.needs(), width);
            let mut sums: Vec<Sums> = experts.iter().map(new).collect();
            streams.visit(shown, false, &mut |expert, rows, _| {
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

    /// Sums of squares of what the output matrix multiplies.
    pub(super) fn output<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        columns: usize,
    ) -> Result<Captured, Error> {
        let mut sums = Sums::new(Needs::Importance, columns);
        streams.quantized.visit_output(&mut |rows| {
            check_cancelled(self.cancel)?;
            self.workers.install(|| sums.add(rows, None));
            Ok(())
        })?;
        let tokens = sums.tokens();
        Ok(sums.finish(tokens))
    }
}
