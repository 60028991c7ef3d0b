//! The one that sums inputs, in as many passes over a layer as memory asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use qz_calib::Moments;
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_linalg::gram_parts;
use qz_models::LayerIndex;
use qz_models::forward::LinearInputs;
use qz_models::graph::{GroupIndex, LayerGraph, LinearGroup, Stage};

use super::lacking::{Beside, LackingKind, WantedLacking};
use super::passes::{Item, at_once, passes};
use super::streams::Streams;
use super::sums::{Sums, WantedSums};
use crate::calibrate::{ExpertOptions, inputs_of_all};
use crate::error::Error;
use crate::model::to_usize;
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

/// The inputs of all experts together, kept for the next pass over the same group.
pub(crate) struct OfAllExperts<B: Backend>(Option<(LayerIndex, GroupIndex, Range<usize>, Sums<B>)>);

impl<B: Backend> Default for OfAllExperts<B> {
    fn default() -> Self {
        Self(None)
    }
}

impl Collector<'_> {
    /// Bytes of sums at a time.
    fn limit(&self) -> u64 {
        self.max_memory / 4
    }

    /// What a method is told of a group's inputs, all of it, in a model with hidden states of
    /// so many numbers.
    pub(crate) fn wanted(&self, group: &LinearGroup, hidden: usize) -> WantedSums {
        let lacking = self.wanted_lacking(LackingKind::of(group, hidden));
        // Routers are small, and nobody rounds them.
        let gram = self.gram && !group.is_router;
        let (columns, moments) = (group.columns, self.moments || !gram);
        WantedSums { columns, moments, maxima: false, gram: gram.then_some(0..columns), lacking }
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
        }
    }

    /// How many experts' sums are there at once, at most.
    pub(crate) fn experts_at_once(&self, wanted: &WantedSums) -> u64 {
        at_once(wanted, self.limit(), self.experts.prior > 0)
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
            let moments = WantedSums { gram: None, lacking: None, ..all.clone() };
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
        passes(items, self.limit(), self.experts.prior)
    }

    /// Sums what items ask for, in one pass over the layer's stages.
    pub(crate) fn collect<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        items: Vec<Item>,
        of_all: &mut OfAllExperts<B>,
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
        self.fill_up(streams, &mut collected, of_all)?;
        Ok(collected)
    }

    /// As [`Self::collect`], and finishes the layer: the text is put through it only once,
    /// unless an expert may have too few tokens.
    pub(crate) fn collect_and_advance<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        items: Vec<Item>,
        on_steps: &mut dyn FnMut(u64) -> Result<(), Error>,
    ) -> Result<Vec<Collected<B>>, Error> {
        let may_be_short = |item: &Item| item.expert.is_some() && item.wanted.gram.is_some();
        let is_once = self.experts.prior == 0 || !items.iter().any(may_be_short);
        if streams.full.is_some() || !is_once {
            let collected = self.collect(streams, items, &mut OfAllExperts::default())?;
            streams.advance(on_steps)?;
            return Ok(collected);
        }
        let mut pass = Pass::of(self, streams.backend, items)?;
        streams.quantized.visit_and_advance(&mut |inputs| pass.take(inputs), on_steps)?;
        let mut collected = pass.finish()?;
        self.fill_up_moments(streams.backend, &mut collected)?;
        Ok(collected)
    }

    /// Draws the sums of experts with few tokens toward those of all.
    fn fill_up<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        collected: &mut [Collected<B>],
        of_all: &mut OfAllExperts<B>,
    ) -> Result<(), Error> {
        self.fill_up_moments(streams.backend, collected)?;
        for Collected { item, sums, tokens } in collected {
            let Some(rows) = item.wanted.gram.clone() else { continue };
            if item.expert.is_none() || *tokens >= self.experts.prior {
                continue;
            }
            let (layer, group) = (streams.quantized.layer(), item.group);
            let known = of_all.0.take();
            let known =
                known.filter(|(of, own, part, _)| (*of, *own, part) == (layer, group, &rows));
            let mut all = match known {
                Some((.., all)) => all,
                None => self.all_experts(streams, group, &item.wanted.alone())?,
            };
            sums.shrink(streams.backend, self.experts.prior, &mut all)?;
            of_all.0 = Some((layer, group, rows, all));
        }
        Ok(())
    }

    /// The same for moments: those of all of a group's experts are there at once.
    fn fill_up_moments<B: Backend>(
        &self,
        backend: &B,
        collected: &mut [Collected<B>],
    ) -> Result<(), Error> {
        let is_of_experts =
            |one: &&mut Collected<B>| one.item.expert.is_some() && one.item.wanted.moments;
        let mut experts: Vec<_> = collected.iter_mut().filter(is_of_experts).collect();
        for group in experts.chunk_by_mut(|one, next| one.item.group == next.item.group) {
            let mut all = Moments::new(group[0].item.wanted.columns);
            group.iter().filter_map(|one| one.sums.get::<Moments>()).for_each(|own| all.merge(own));
            let mut all = Sums::of(all);
            for one in group {
                one.sums.shrink(backend, self.experts.prior, &mut all)?;
            }
        }
        Ok(())
    }

    /// The inputs of all experts together, in an order that passes do not change: for gate
    /// and up those of the router, else one expert's after the other's.
    fn all_experts<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        group: GroupIndex,
        wanted: &WantedSums,
    ) -> Result<Sums<B>, Error> {
        let graph = streams.quantized.graph();
        let shown = inputs_of_all(graph, group);
        let stage = graph.group(shown).stage;
        let experts: Vec<_> = match (shown == group, graph.group(group).experts) {
            (true, Some(count)) => (0..count).map(Some).collect(),
            _ => vec![None],
        };
        let item =
            |expert: &Option<usize>| Item { group: shown, expert: *expert, wanted: wanted.clone() };
        let backend = streams.backend;
        let mut all = wanted.sums(backend)?;
        for experts in experts.chunks(to_usize(at_once(wanted, self.limit(), true))) {
            let mut pass = Pass::of(self, backend, experts.iter().map(item).collect())?;
            streams.quantized.visit(stage, &mut |inputs| pass.take(inputs))?;
            for own in pass.finish()? {
                all.merge(backend, own.sums)?;
            }
        }
        Ok(all)
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
struct Pass<'c, 'a, B: Backend> {
    collector: &'c Collector<'a>,
    backend: &'c B,
    all: Vec<(Item, Sums<B>)>,
}

impl<'c, 'a, B: Backend> Pass<'c, 'a, B> {
    fn of(collector: &'c Collector<'a>, backend: &'c B, items: Vec<Item>) -> Result<Self, Error> {
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
    fn take(&mut self, inputs: &LinearInputs<'_, B>) -> Result<(), Error> {
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

    fn finish(self) -> Result<Vec<Collected<B>>, Error> {
        check_cancelled(self.collector.cancel)?;
        let collected =
            |(item, sums): (Item, Sums<B>)| Collected { tokens: sums.tokens(), item, sums };
        Ok(self.all.into_iter().map(collected).collect())
    }
}
