//! The hidden states of a text on their way through the layers: behind what is quantized, and
//! the full model's beside them.

use qz_kernels::backend::Backend;
use qz_models::forward::{Chunks, Forward, LayerStream, LinearInputs, Routing};
use qz_models::graph::GroupIndex;

use super::lacking::{Beside, Results, gathered};
use crate::calibrate::inputs_of_all;
use crate::error::Error;
use crate::model_weights::ModelWeights;

pub(crate) type Stream<'a, B> = LayerStream<'a, B, ModelWeights<'a>>;

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
pub(crate) struct Streams<'a, B: Backend> {
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
        Ok(Self { quantized: begin(quantized)?, full })
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
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let Self { quantized, full } = self;
        let Some(full) = full else { unreachable!("a full model is beside") };
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
    pub(super) fn visit_output(&mut self, visit: &mut Visit<'_>) -> Result<(), Error> {
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
