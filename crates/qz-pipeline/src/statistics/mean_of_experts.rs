//! What all experts of a layer see together, and experts' sums mixed with that.
//!
//! An expert sees a small part of the text, and its Gram matrix has more columns than some experts
//! have tokens. So it is the mean of its own and of what all experts see, scaled to its own size:
//! that counts as so many tokens as a quarter of its columns. QUALITY.md has what this gives.

use std::collections::BTreeMap;
use std::ops::Range;

use qz_calib::Moments;
use qz_kernels::backend::Backend;
use qz_linalg::Gram;
use qz_models::graph::GroupIndex;

use super::collector::{Collected, Collector, Pass};
use super::passes::{Item, at_once};
use super::streams::Streams;
use super::sums::WantedSums;
use crate::calibrate::inputs_of_all;
use crate::error::Error;
use crate::model::to_usize;

/// The sum of the squares of inputs, over all columns, and their tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    squares: f64,
    tokens: u64,
}

impl Size {
    fn of_moments(moments: &Moments) -> Self {
        Self { squares: moments.squares().sum(), tokens: moments.rows() }
    }

    fn of_gram<B: Backend>(backend: &B, gram: &mut Gram<B::Buffer>) -> Result<Self, Error> {
        Ok(Self { squares: gram.trace(backend)?, tokens: gram.tokens() })
    }

    /// How large a token's inputs are beside another's; 1 where either has none.
    fn beside(self, other: Self) -> f64 {
        let [own, other] = [self, other].map(|size| size.squares / size.tokens.max(1) as f64);
        if own > 0.0 && other > 0.0 { own / other } else { 1.0 }
    }
}

/// What is known of a layer's experts together, from one pass over it to the next.
pub(crate) struct MeanOfExperts<B: Backend> {
    /// The inputs of all experts together, of the group and the rows that were last asked for.
    gram: Option<(GroupIndex, Range<usize>, Gram<B::Buffer>)>,
    /// Of each expert, and of all together, where their moments were summed: Gram matrices may
    /// be there in parts alone.
    sizes: BTreeMap<(GroupIndex, Option<usize>), Size>,
}

impl<B: Backend> Default for MeanOfExperts<B> {
    fn default() -> Self {
        Self { gram: None, sizes: BTreeMap::new() }
    }
}

impl Collector<'_> {
    /// Whether experts' sums are mixed with those of all of them.
    pub(crate) fn adds_mean(&self, wanted: &WantedSums) -> bool {
        wanted.gram.is_some() && self.experts.tokens_of_mean(wanted.columns) > 0
    }

    /// Mixes the sums of experts with those of all.
    pub(super) fn mix_experts<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        collected: &mut [Collected<B>],
        mean: &mut MeanOfExperts<B>,
    ) -> Result<(), Error> {
        self.fill_up_moments(collected, mean);
        let backend = streams.backend;
        for at in 0..collected.len() {
            let Item { group, expert, wanted } = &collected[at].item;
            let (group, expert) = (*group, *expert);
            let Some(rows) = wanted.gram.clone().filter(|_| self.adds_mean(wanted)) else {
                continue;
            };
            if expert.is_none() {
                continue;
            }
            let count = self.experts.tokens_of_mean(wanted.columns);
            let known = mean.gram.take();
            let known = known.filter(|(of, part, _)| (*of, part) == (group, &rows));
            let mut all = match known {
                Some((.., all)) => all,
                None => self.inputs_of_all(streams, group, collected, at)?,
            };
            let sums = &mut collected[at].sums;
            let own = sums.get_mut::<Gram<B::Buffer>>().expect("it was wanted");
            let size = |expert| mean.sizes.get(&(group, expert)).copied();
            let own_size = size(expert).map_or_else(|| Size::of_gram(backend, own), Ok)?;
            let all_size = size(None).map_or_else(|| Size::of_gram(backend, &mut all), Ok)?;
            own.add_mean(backend, count, &mut all, own_size.beside(all_size))?;
            mean.gram = Some((group, rows, all));
        }
        Ok(())
    }

    /// Fills up the moments of experts with few tokens: those of all of a group's experts are
    /// there at once.
    pub(super) fn fill_up_moments<B: Backend>(
        &self,
        collected: &mut [Collected<B>],
        mean: &mut MeanOfExperts<B>,
    ) {
        let is_of_experts =
            |one: &&mut Collected<B>| one.item.expert.is_some() && one.item.wanted.moments;
        let mut experts: Vec<_> = collected.iter_mut().filter(is_of_experts).collect();
        for group in experts.chunk_by_mut(|one, next| one.item.group == next.item.group) {
            let mut all = Moments::new(group[0].item.wanted.columns);
            for one in group.iter() {
                let Some(own) = one.sums.get::<Moments>() else { continue };
                mean.sizes.insert((one.item.group, one.item.expert), Size::of_moments(own));
                all.merge(own);
            }
            mean.sizes.insert((group[0].item.group, None), Size::of_moments(&all));
            for own in group.iter_mut().filter_map(|one| one.sums.get_mut::<Moments>()) {
                own.shrink(self.experts.least_tokens(), &all);
            }
        }
    }

    /// The inputs of all experts together, in an order that passes do not change: for gate
    /// and up those of the router, else one expert's after the other's. `first` is the number of
    /// the group's first one among those that are collected, none of which is mixed yet.
    fn inputs_of_all<B: Backend>(
        &self,
        streams: &mut Streams<'_, B>,
        group: GroupIndex,
        collected: &mut [Collected<B>],
        first: usize,
    ) -> Result<Gram<B::Buffer>, Error> {
        let graph = streams.quantized.graph();
        let backend = streams.backend;
        let wanted = collected[first].item.wanted.of_mean();
        let rows = wanted.gram.clone().expect("rows of a Gram matrix");
        let mut all = Gram::of_rows(backend, wanted.columns, rows)?;
        let shown = inputs_of_all(graph, group);
        let experts: Vec<_> = match (shown == group, graph.group(group).experts) {
            (true, Some(count)) => (0..count).map(Some).collect(),
            _ => vec![None],
        };
        let is_own = |one: &&mut Collected<B>| {
            one.item.group == group && one.item.wanted.gram == wanted.gram
        };
        let own: Vec<_> = collected[first..].iter_mut().filter(is_own).collect();
        if own.iter().map(|one| one.item.expert).eq(experts.iter().copied()) {
            for one in own {
                let own = one.sums.get_mut::<Gram<B::Buffer>>().expect("it was wanted");
                all.merge(backend, own)?;
            }
            return Ok(all);
        }
        let stage = graph.group(shown).stage;
        let item =
            |expert: &Option<usize>| Item { group: shown, expert: *expert, wanted: wanted.clone() };
        for experts in experts.chunks(to_usize(at_once(&wanted, self.limit(), true))) {
            let mut pass = Pass::of(self, backend, experts.iter().map(item).collect())?;
            streams.quantized.visit(stage, &mut |inputs| pass.take(inputs))?;
            for mut own in pass.finish()? {
                let own = own.sums.get_mut::<Gram<B::Buffer>>().expect("it was wanted");
                all.merge(backend, own)?;
            }
        }
        Ok(all)
    }
}
