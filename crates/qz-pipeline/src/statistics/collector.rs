//! The one that sums inputs, in as many passes over a layer as memory asks for.

use std::collections::{BTreeMap, BTreeSet};

use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_linalg::gram_parts;
use qz_models::forward::LinearInputs;
use qz_models::graph::{GroupIndex, LayerGraph, LinearGroup, Stage};

use super::lacking::{Beside, LackingKind, WantedLacking};
use super::mean_of_experts::MeanOfExperts;
use super::passes::{Item, at_once, passes};
use super::streams::Streams;
use super::sums::{Sums, WantedSums};
use crate::calibrate::ExpertOptions;
use crate::error::Error;
use crate::stream::{Cancel, check_cancelled};

/// Which statistics there are of inputs, and how they are summed.
pub(crate) struct Collector<'a> {
    pub(crate) moments: bool,
    pub(crate) gram: bool,
    /// Gram matrices that do not fit memory are summed some rows at a time.
    pub(crate) may_cut: bool,
    /// Whether what the quantized model lacks is summed, too.
    pub(crate) is_beside: bool,
    /// Over two halves of the text, each for itself.
    pub(crate) in_halves: bool,
    /// Whether some inputs of experts are kept as they are.
    pub(crate) samples: bool,
    pub(crate) experts: ExpertOptions,
    pub(crate) max_memory: u64,
    pub(crate) workers: &'a Workers,
    pub(crate) cancel: &'a Cancel,
}

/// What was summed for an item.
pub(crate) struct Collected<B: Backend> {
    pub(crate) item: Item,
    pub(crate) sums: Sums<B>,
    /// Tokens that were seen: sums of few count as more.
    pub(crate) tokens: u64,
}

impl Collector<'_> {
    /// Bytes of sums at a time.
    pub(super) fn limit(&self) -> u64 {
        self.max_memory / 4
    }

    /// What a method is told of a group's inputs, all of it, in a model with hidden states of
    /// so many numbers.
    pub(crate) fn wanted(&self, group: &LinearGroup, hidden: usize) -> WantedSums {
        let lacking = self.wanted_lacking(LackingKind::of(group, hidden));
        // Routers are small, and nobody rounds them.
        let gram = self.gram && !group.is_router;
        let (columns, moments) = (group.columns, self.moments || !gram);
        let gram = gram.then_some(0..columns);
        let samples = self.samples && group.experts.is_some() && gram.is_some();
        WantedSums { columns, moments, maxima: false, gram, lacking, samples }
    }

    fn wanted_lacking(&self, kind: Option<LackingKind>) -> Option<WantedLacking> {
        let kind = kind.filter(|_| self.is_beside)?;
        Some(WantedLacking { kind, in_halves: self.in_halves })
    }

    /// What is wanted of the output matrix's inputs.
    pub(crate) fn wanted_of_output(&self, columns: usize) -> WantedSums {
        let lacking = self.wanted_lacking(Some(LackingKind::Inputs));
        WantedSums {
            columns,
            moments: self.moments,
            maxima: false,
            gram: self.gram.then_some(0..columns),
            lacking,
            samples: false,
        }
    }

    /// How many experts' sums are there at once, at most.
    pub(crate) fn experts_at_once(&self, wanted: &WantedSums) -> u64 {
        at_once(wanted, self.limit(), self.adds_mean(wanted))
    }

    /// The statistics of a group, or of some of its experts, as they are summed: moments first,
    /// those of all experts together, then what takes memory.
    pub(crate) fn items(
        &self,
        graph: &LayerGraph,
        group: GroupIndex,
        hidden: usize,
        experts: &[Option<usize>],
    ) -> Vec<Item> {
        let all = self.wanted(graph.group(group), hidden);
        let mut items = Vec::new();
        if all.moments {
            let moments = WantedSums { gram: None, lacking: None, samples: false, ..all.clone() };
            let item =
                |expert: &Option<usize>| Item { group, expert: *expert, wanted: moments.clone() };
            items.extend(experts.iter().map(item));
        }
        for expert in experts {
            for (number, wanted) in self.in_parts(&all).into_iter().enumerate() {
                let lacking = wanted.lacking.filter(|_| number == 0);
                let wanted = WantedSums { moments: false, lacking, ..wanted };
                items.push(Item { group, expert: *expert, wanted });
            }
        }
        items
    }

    /// What takes memory of a matrix, cut into what fits.
    fn in_parts(&self, wanted: &WantedSums) -> Vec<WantedSums> {
        let parts = match &wanted.gram {
            None if wanted.lacking.is_none() => return Vec::new(),
            Some(_) if self.may_cut => gram_parts(wanted.columns, self.limit()),
            _ => return vec![wanted.clone()],
        };
        parts.into_iter().map(|rows| WantedSums { gram: Some(rows), ..wanted.clone() }).collect()
    }

    /// Cuts items of a layer into passes.
    pub(crate) fn passes(&self, items: Vec<Item>) -> Vec<Vec<Item>> {
        passes(items, self.limit(), self.experts.prior != Some(0))
    }

    /// Sums what items ask for, in one pass over the layer's stages.
    pub(crate) fn collect<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        items: Vec<Item>,
        mean: &mut MeanOfExperts<B>,
    ) -> Result<Vec<Collected<B>>, Error> {
        let mut pass = Pass::of(self, streams.backend, items)?;
        // A pass does not go back.
        for (stage, groups) in pass.stages(streams.quantized.graph()) {
            let is_beside = |group: &GroupIndex| pass.is_beside(*group);
            let (beside, alone): (Vec<_>, Vec<_>) = groups.into_iter().partition(is_beside);
            if !alone.is_empty() {
                streams.quantized.visit(
                    stage,
                    &mut |inputs| match alone.contains(&inputs.group) {
                        true => pass.take(inputs),
                        false => Ok(()),
                    },
                )?;
            }
            for group in beside {
                let experts = pass.experts(group);
                streams.visit_beside(group, &experts, &mut |expert, rows, beside| {
                    pass.add(group, expert, rows, beside.as_ref())
                })?;
            }
        }
        let mut collected = pass.finish()?;
        self.mix_experts(streams, &mut collected, mean)?;
        Ok(collected)
    }

    /// As [`Self::collect`], and finishes the layer: the text is put through it only once,
    /// unless experts' sums are mixed with those of all.
    pub(crate) fn collect_and_advance<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        items: Vec<Item>,
        on_steps: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<Vec<Collected<B>>, Error> {
        let is_mixed = |item: &Item| item.expert.is_some() && self.adds_mean(&item.wanted);
        if streams.full.is_some() || items.iter().any(is_mixed) {
            let collected = self.collect(streams, items, &mut MeanOfExperts::default())?;
            streams.advance(on_steps)?;
            return Ok(collected);
        }
        let mut pass = Pass::of(self, streams.backend, items)?;
        streams.quantized.visit_and_advance(&mut |inputs| pass.take(inputs), on_steps)?;
        let mut collected = pass.finish()?;
        self.fill_up_moments(&mut collected, &mut MeanOfExperts::default());
        Ok(collected)
    }

    /// Sums the inputs of the output matrix, and gives what is complete to `keep`.
    pub(crate) fn output<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        columns: usize,
        keep: &mut dyn FnMut(Sums<B>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let all = self.wanted_of_output(columns);
        let parts = self.in_parts(&all);
        let parts = if parts.is_empty() { vec![all] } else { parts };
        for (number, part) in parts.into_iter().enumerate() {
            let is_first = number == 0;
            let (moments, lacking) = (part.moments && is_first, part.lacking.filter(|_| is_first));
            let backend = streams.backend;
            let mut sums = WantedSums { moments, lacking, ..part }.sums(backend)?;
            streams.visit_output(&mut |_, rows, beside| {
                check_cancelled(self.cancel)?;
                Ok(self.workers.install(|| sums.add(backend, rows, beside.as_ref()))?)
            })?;
            keep(sums)?;
        }
        Ok(())
    }
}

/// The sums of a pass while tokens come in.
pub(super) struct Pass<'c, 'a, B: Backend> {
    collector: &'c Collector<'a>,
    backend: &'c B,
    all: Vec<(Item, Sums<B>)>,
}

impl<'c, 'a, B: Backend> Pass<'c, 'a, B> {
    pub(super) fn of(
        collector: &'c Collector<'a>,
        backend: &'c B,
        items: Vec<Item>,
    ) -> Result<Self, Error> {
        let with_sums = |item: Item| {
            let sums = item.wanted.sums(backend)?;
            debug_assert_eq!(sums.bytes(), item.wanted.bytes(), "what was planned");
            Ok((item, sums))
        };
        let all: Result<_, Error> = items.into_iter().map(with_sums).collect();
        Ok(Self { collector, backend, all: all? })
    }

    /// The groups whose inputs are summed, by the stages at which these are known.
    fn stages(&self, graph: &LayerGraph) -> BTreeMap<Stage, BTreeSet<GroupIndex>> {
        let mut stages = BTreeMap::<_, BTreeSet<_>>::new();
        for (item, _) in &self.all {
            stages.entry(graph.group(item.group).stage).or_default().insert(item.group);
        }
        stages
    }

    /// Whether the full model is asked for what it has beside a group's inputs.
    fn is_beside(&self, group: GroupIndex) -> bool {
        self.all.iter().any(|(item, _)| item.group == group && item.wanted.lacking.is_some())
    }

    /// Whose inputs are summed in a group.
    fn experts(&self, group: GroupIndex) -> Vec<Option<usize>> {
        let own = self.all.iter().filter(|(item, _)| item.group == group);
        let mut experts: Vec<_> = own.map(|(item, _)| item.expert).collect();
        experts.sort_unstable();
        experts.dedup();
        experts
    }

    /// Takes what a stream shows.
    pub(super) fn take(&mut self, inputs: &LinearInputs<'_, B>) -> Result<(), Error> {
        self.add(inputs.group, inputs.expert, inputs.rows, None)
    }

    fn add(
        &mut self,
        group: GroupIndex,
        expert: Option<usize>,
        rows: &B::Buffer,
        beside: Option<&Beside<B::Buffer>>,
    ) -> Result<(), Error> {
        check_cancelled(self.collector.cancel)?;
        let is_own =
            |(item, _): &&mut (Item, Sums<B>)| (item.group, item.expert) == (group, expert);
        for (_, sums) in self.all.iter_mut().filter(is_own) {
            self.collector.workers.install(|| sums.add(self.backend, rows, beside))?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<Collected<B>>, Error> {
        check_cancelled(self.collector.cancel)?;
        let collected =
            |(item, sums): (Item, Sums<B>)| Collected { tokens: sums.tokens(), item, sums };
        Ok(self.all.into_iter().map(collected).collect())
    }
}
