//! The hidden states of a text on their way through the layers: behind what is quantized, and
//! the full model's beside them.

use qz_kernels::backend::Backend;
use qz_models::forward::{Chunks, Forward, LayerStream, LinearInputs, Routing};
use qz_models::graph::GroupIndex;

use super::lacking::{Beside, Results};
use crate::calibrate::inputs_of_all;
use crate::error::Error;
use crate::model_weights::ModelWeights;

pub(crate) type Stream<'a, B> = LayerStream<'a, B, ModelWeights<'a>>;

/// What is called with the inputs of a group, or of one of its experts, and what the full
/// model has beside them.
type Visit<'v, T> = dyn FnMut(Option<usize>, &T, Option<Beside<T>>) -> Result<(), Error> + 'v;

/// The tokens that an expert is given in a batch.
struct Given<T> {
    expert: Option<usize>,
    /// Their numbers in the batch.
    tokens: Vec<usize>,
    rows: T,
}

/// The text's hidden states on their way through the layers.
pub(crate) struct Streams<'a, B: Backend> {
    /// Where they are computed.
    pub(crate) backend: &'a B,
    /// Behind the matrices that are quantized already.
    pub(crate) quantized: Stream<'a, B>,
    /// The full model's, if matrices are to make up for what was lost before them.
    pub(crate) full: Option<Stream<'a, B>>,
}

impl<'a, B: Backend> Streams<'a, B> {
    /// Begins both, or the one.
    pub(crate) fn begin(
        full: Option<&'a Forward<'a, B, ModelWeights<'a>>>,
        quantized: &'a Forward<'a, B, ModelWeights<'a>>,
        chunks: &Chunks,
        routing: Routing,
    ) -> Result<Self, Error> {
        let begin = |forward: &'a Forward<'a, B, ModelWeights<'a>>| {
            let mut stream = forward.stream(chunks.clone())?;
            stream.set_routing(routing);
            Ok::<_, Error>(stream)
        };
        let full = full.map(begin).transpose()?;
        Ok(Self { backend: quantized.backend(), quantized: begin(quantized)?, full })
    }

    pub(crate) fn load_next(&mut self) -> Result<bool, Error> {
        if let Some(full) = &mut self.full {
            full.load_next()?;
        }
        self.quantized.load_next()
    }

    pub(crate) fn advance(
        &mut self,
        on_steps: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(full) = &mut self.full {
            // Its steps are counted with the other's.
            full.advance(&mut |_| on_steps(0))?;
        }
        self.quantized.advance(on_steps)
    }

    /// Shows the inputs of a group, of these of its experts, batch by batch, and beside them
    /// what the full model has of the same tokens. That model gives its tokens to experts of
    /// its own choice: what it has is what its router sees, and the hidden states behind all
    /// its experts.
    pub(super) fn visit_beside(
        &mut self,
        group: GroupIndex,
        experts: &[Option<usize>],
        visit: &mut Visit<'_, B::Buffer>,
    ) -> Result<(), Error> {
        let backend = self.backend;
        let Self { quantized, full, .. } = self;
        let Some(full) = full else { unreachable!("a full model is beside") };
        let graph = quantized.graph();
        let own = graph.group(group);
        for batch in 0..quantized.batches() {
            let (first, count) =
                (quantized.tokens_of(batch).start, quantized.tokens_of(batch).len());
            let mut given = Vec::new();
            let mut weights = if own.experts.is_some() { vec![0.0; count] } else { Vec::new() };
            let mut note = |inputs: &LinearInputs<'_, B>| {
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
                    let (expert, rows) = (inputs.expert, backend.copy(inputs.rows)?);
                    given.push(Given { expert, tokens, rows });
                }
                Ok(())
            };
            if own.is_added {
                let of_full = full.pass_results(group, batch)?;
                let as_it_was = quantized.visit_results(group, batch, &mut note)?;
                let mut all = Some(Results { full: of_full, quantized: as_it_was, weights });
                for Given { expert, tokens, rows } in given {
                    let beside = match (expert, &all) {
                        (Some(_), Some(all)) => all.of(backend, &tokens)?,
                        _ => all.take().expect("a group without experts is shown once"),
                    };
                    visit(expert, &rows, Some(Beside::Results(beside)))?;
                }
            } else {
                let mut of_full = inputs_of(backend, full, inputs_of_all(graph, group), batch)?;
                quantized.visit_batch(own.stage, batch, &mut note)?;
                for Given { expert, tokens, rows } in given {
                    let beside = match (expert, &of_full) {
                        (Some(_), Some(all)) => backend.gather(all, &tokens)?,
                        _ => of_full.take().expect("a group without experts is shown once"),
                    };
                    visit(expert, &rows, Some(Beside::Inputs(beside)))?;
                }
            }
        }
        Ok(())
    }

    /// Shows the inputs of the output matrix, batch by batch, and the full model's beside
    /// them where there is one.
    pub(super) fn visit_output(&mut self, visit: &mut Visit<'_, B::Buffer>) -> Result<(), Error> {
        for batch in 0..self.quantized.batches() {
            let beside = self.full.as_mut().map(|full| full.output_inputs(batch)).transpose()?;
            visit(None, &self.quantized.output_inputs(batch)?, beside.map(Beside::Inputs))?;
        }
        Ok(())
    }
}

/// The inputs of a group without experts.
fn inputs_of<B: Backend>(
    backend: &B,
    stream: &mut Stream<'_, B>,
    group: GroupIndex,
    batch: usize,
) -> Result<Option<B::Buffer>, Error> {
    let mut own = None;
    let stage = stream.graph().group(group).stage;
    stream.visit_batch(stage, batch, &mut |inputs| {
        if inputs.group == group {
            own = Some(backend.copy(inputs.rows)?);
        }
        Ok(())
    })?;
    Ok(own)
}
