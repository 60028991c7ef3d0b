//! The one that sums inputs group by group, some experts at a time.

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_models::graph::{GroupIndex, LinearGroup};

use super::streams::Streams;
use super::sums::{Beside, LackingKind, Sums, Wanted};
use crate::calibrate::{ExpertOptions, inputs_of_all};
use crate::error::Error;
use crate::model::to_usize;
use crate::stream::{Cancel, check_cancelled};

/// Sums the inputs of one group after the other.
pub(crate) struct Collector<'a> {
    /// Which sums there are of inputs.
    pub(crate) moments: bool,
    pub(crate) gram: bool,
    /// Whether what the quantized model lacks is summed, too.
    pub(crate) is_beside: bool,
    pub(crate) experts: ExpertOptions,
    pub(crate) max_memory: u64,
    pub(crate) workers: &'a Workers,
    pub(crate) cancel: &'a Cancel,
}

/// The sums of an expert's inputs, or of those of a matrix without experts.
pub(crate) struct Collected {
    pub(crate) expert: Option<usize>,
    pub(crate) sums: Sums,
    /// Tokens that were seen: sums of few count as more.
    pub(crate) tokens: u64,
    /// What is lacking was left out, because so few tokens do not tell.
    pub(crate) is_uncorrected: bool,
}

/// What is known of a group with experts while they are visited some at a time.
pub(crate) struct GroupExperts {
    /// How many there are.
    count: usize,
    /// Tokens that each was given, so far.
    pub(crate) tokens: Vec<(usize, u64)>,
    /// The inputs of all together, once one has few of its own.
    all: Option<Sums>,
}

impl GroupExperts {
    pub(crate) fn of(count: usize) -> Self {
        Self { count, tokens: Vec::new(), all: None }
    }
}

impl Collector<'_> {
    /// Which sums a group's matrices need, in a model with hidden states of so many numbers.
    pub(crate) fn wanted(&self, group: &LinearGroup, hidden: usize) -> Wanted {
        let lacking = LackingKind::of(group, hidden).filter(|_| self.is_beside);
        // Routers are small, and nobody rounds them.
        let gram = self.gram && !group.is_router;
        Wanted { columns: group.columns, moments: self.moments || !gram, gram, lacking }
    }

    /// Which sums the output matrix needs.
    pub(crate) fn wanted_of_output(&self, columns: usize) -> Wanted {
        let lacking = self.is_beside.then_some(LackingKind::Inputs);
        Wanted { columns, moments: self.moments, gram: self.gram, lacking }
    }

    /// Experts whose sums fit a quarter of the memory, with those of all together.
    pub(crate) fn experts_at_once(&self, wanted: Wanted) -> usize {
        let all = to_usize(self.max_memory / 4 / wanted.bytes().max(1));
        all.saturating_sub(usize::from(self.experts.prior > 0)).max(1)
    }

    /// Sums the inputs of some experts, or of the one matrix there is.
    pub(crate) fn collect<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        group: GroupIndex,
        experts: &[Option<usize>],
        known: &mut GroupExperts,
    ) -> Result<Vec<Collected>, Error> {
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
        let mut collected = Vec::with_capacity(sums.len());
        for (expert, mut sums) in sums {
            let tokens = sums.tokens();
            let mut is_uncorrected = false;
            if let Some(number) = expert {
                known.tokens.push((number, tokens));
                // A regression on as many inputs needs as many tokens.
                let least = self.experts.prior.max(own.columns as u64);
                is_uncorrected = tokens < least && sums.forget_lacking();
                if tokens < self.experts.prior {
                    let all = match known.all.take() {
                        Some(all) => all,
                        None => self.all_experts(streams, group, known.count)?,
                    };
                    sums.shrink(self.experts.prior, known.all.insert(all));
                }
            }
            collected.push(Collected { expert, sums, tokens, is_uncorrected });
        }
        Ok(collected)
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

    /// Sums the inputs of the output matrix.
    pub(crate) fn output<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        columns: usize,
    ) -> Result<Collected, Error> {
        let mut sums = self.wanted_of_output(columns).sums();
        streams.visit_output(&mut |_, rows, beside| {
            check_cancelled(self.cancel)?;
            self.workers.install(|| sums.add(rows, beside));
            Ok(())
        })?;
        let tokens = sums.tokens();
        Ok(Collected { expert: None, sums, tokens, is_uncorrected: false })
    }
}
