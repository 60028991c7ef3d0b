//! One layer's statistics, in as many passes over it as memory asks for.

use std::ops::Range;

use qz_calib::Moments;
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_linalg::Gram;
use qz_models::forward::{LayerStream, LinearInputs};
use qz_models::graph::Stage;

use super::layout::Group;
use crate::error::Error;
use crate::eval::Steps;
use crate::model_weights::ModelWeights;

/// Moments of each expert; of one for matrices without.
pub(super) type Collected = Vec<Moments>;

/// What is called with rows of a Gram matrix that are complete.
pub(super) type Keep<'k> = dyn FnMut(&Group, usize, Gram) -> Result<(), Error> + 'k;

pub(super) struct LayerCollector<'a> {
    pub(super) workers: &'a Workers,
    pub(super) grams: bool,
    /// The most bytes of Gram matrices at a time, and again for those of all experts where
    /// some have few tokens.
    pub(super) limit: u64,
    /// The tokens that an expert counts at least.
    pub(super) prior: u64,
}

/// Rows of one expert's Gram matrix.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    group: usize,
    expert: usize,
    rows: Range<usize>,
}

/// What is collected in one pass.
struct Pass<'g> {
    groups: &'g [&'g Group],
    /// The groups whose moments are collected.
    with_moments: Vec<bool>,
    grams: Vec<(Item, Gram)>,
}

impl LayerCollector<'_> {
    /// Collects the moments of all groups of the layer that is loaded, gives Gram
    /// matrices to `keep`, and finishes the layer.
    pub(super) fn layer<'s, B: Backend>(
        &self,
        stream: &mut LayerStream<'s, B, ModelWeights<'s>>,
        groups: &[&Group],
        keep: &mut Keep<'_>,
        progress: &mut Steps<'_>,
    ) -> Result<Vec<Collected>, Error> {
        let none = |group: &&Group| vec![Moments::new(group.width); group.experts];
        let mut moments: Vec<Collected> = groups.iter().map(none).collect();
        let passes = self.passes(groups);
        let last = passes.len() - 1;
        // Experts with few tokens are seen when the pass is over, and ask for another visit.
        let may_shrink =
            self.grams && self.prior > 0 && groups.iter().any(|group| group.experts > 1);
        let mut is_seen = vec![false; groups.len()];
        for (number, items) in passes.into_iter().enumerate() {
            let stages = stages(groups, &items, &is_seen, number == last);
            let with_moments = groups.iter().zip(&is_seen).map(|(group, seen)| {
                !seen && (last == 0 || stages.iter().any(|own| group.stage() == Some(*own)))
            });
            let with_moments: Vec<bool> = with_moments.collect();
            is_seen.iter_mut().zip(&with_moments).for_each(|(seen, new)| *seen |= new);
            let gram = |item: Item| {
                let rows = Gram::of_rows(groups[item.group].width, item.rows.clone());
                (item, rows)
            };
            let grams = items.into_iter().map(gram).collect();
            let mut pass = Pass { groups, with_moments, grams };
            let mut visit = |inputs: &LinearInputs<'_>| -> Result<(), Error> {
                self.workers.install(|| pass.add(inputs, &mut moments));
                Ok(())
            };
            if last == 0 && !may_shrink {
                stream.visit_and_advance(&mut visit, &mut |steps| progress.advance(steps))?;
            } else {
                for stage in &stages {
                    stream.visit(*stage, &mut visit)?;
                    progress.advance(0)?;
                }
                self.shrink(stream, groups, &mut pass.grams)?;
                if number == last {
                    stream.advance(&mut |steps| progress.advance(steps))?;
                }
            }
            // What was left undone is not kept.
            progress.advance(0)?;
            for (item, rows) in pass.grams {
                keep(groups[item.group], item.expert, rows)?;
            }
        }
        Ok(moments)
    }

    /// Draws the Gram matrices of experts with few tokens toward that of all experts.
    fn shrink<'s, B: Backend>(
        &self,
        stream: &mut LayerStream<'s, B, ModelWeights<'s>>,
        groups: &[&Group],
        grams: &mut [(Item, Gram)],
    ) -> Result<(), Error> {
        let is_short = |(item, gram): &&mut (Item, Gram)| {
            groups[item.group].experts > 1 && gram.tokens() < self.prior
        };
        let mut short: Vec<_> =
            grams.iter_mut().filter(is_short).map(|(item, _)| (item.group, &item.rows)).collect();
        short.sort_unstable_by_key(|(group, rows)| (*group, rows.start));
        short.dedup();
        let short: Vec<_> = short.into_iter().map(|(group, rows)| (group, rows.clone())).collect();
        for (number, rows) in short {
            let mut all = self.all_experts(stream, groups[number], &rows)?;
            let own = grams.iter_mut().filter(is_short);
            own.filter(|(item, _)| item.group == number && item.rows == rows)
                .for_each(|(_, gram)| gram.shrink(self.prior, &mut all));
        }
        Ok(())
    }

    /// Rows of the Gram matrix of all experts' inputs, in an order that batches do not change:
    /// for gate and up those of the router, else one expert's after the other's.
    fn all_experts<'s, B: Backend>(
        &self,
        stream: &mut LayerStream<'s, B, ModelWeights<'s>>,
        group: &Group,
        rows: &Range<usize>,
    ) -> Result<Gram, Error> {
        let Some(stage) = group.stage() else {
            return Ok(Gram::of_rows(group.width, rows.clone()));
        };
        let shown = group.inputs_of_all();
        let experts: Vec<_> = match shown == group.index() {
            true => (0..group.experts).map(Some).collect(),
            false => vec![None],
        };
        let at_once = self.limit / Gram::bytes(group.width, rows).max(1);
        let at_once = usize::try_from(at_once).unwrap_or(usize::MAX).max(1);
        let new = |_: &Option<usize>| Gram::of_rows(group.width, rows.clone());
        let mut all = new(&None);
        for experts in experts.chunks(at_once) {
            let mut grams: Vec<Gram> = experts.iter().map(new).collect();
            stream.visit(stage, &mut |inputs| {
                let at = experts.iter().position(|expert| *expert == inputs.expert);
                if let Some(at) = at.filter(|_| Some(inputs.group) == shown) {
                    self.workers.install(|| grams[at].add(inputs.rows));
                }
                Ok(())
            })?;
            grams.into_iter().for_each(|own| all.merge(own));
        }
        Ok(all)
    }

    /// What is collected in each pass, in the order of stages; one pass if it all fits.
    fn passes(&self, groups: &[&Group]) -> Vec<Vec<Item>> {
        let mut passes = vec![Vec::new()];
        let mut free = self.limit;
        let with_grams = groups.iter().enumerate().filter(|(_, group)| group.gram_name().is_some());
        for (number, group) in with_grams.filter(|_| self.grams) {
            for expert in 0..group.experts {
                for rows in Gram::parts(group.width, self.limit) {
                    let bytes = Gram::bytes(group.width, &rows);
                    let pass = passes.last().map_or(0, Vec::len);
                    if bytes > free && pass > 0 {
                        passes.push(Vec::new());
                        free = self.limit;
                    }
                    free = free.saturating_sub(bytes);
                    let item = Item { group: number, expert, rows };
                    passes.last_mut().expect("a pass").push(item);
                }
            }
        }
        passes
    }
}

impl Pass<'_> {
    fn add(&mut self, inputs: &LinearInputs<'_>, moments: &mut [Collected]) {
        let number = self.groups.iter().position(|group| group.index() == Some(inputs.group));
        let Some(number) = number else { return };
        let expert = inputs.expert.unwrap_or(0);
        if self.with_moments[number] {
            moments[number][expert].add(inputs.rows);
        }
        let grams = self.grams.iter_mut();
        grams
            .filter(|(item, _)| (item.group, item.expert) == (number, expert))
            .for_each(|(_, gram)| gram.add(inputs.rows));
    }
}

/// The stages of items, each once, in order; and on the way those of groups without a Gram
/// matrix that were not seen. A pass does not go back.
fn stages(groups: &[&Group], items: &[Item], is_seen: &[bool], is_last: bool) -> Vec<Stage> {
    let mut stages: Vec<Stage> =
        items.iter().filter_map(|item| groups[item.group].stage()).collect();
    let most = stages.iter().max().copied();
    let left = groups.iter().zip(is_seen).filter(|(group, seen)| {
        !**seen && group.gram_name().is_none() && (is_last || group.stage() <= most)
    });
    stages.extend(left.filter_map(|(group, _)| group.stage()));
    stages.sort_unstable();
    stages.dedup();
    stages
}

#[cfg(test)]
mod tests {
    use qz_models::graph::{GroupIndex, LinearGroup};

    use super::*;

    /// A group whose inputs are known at a stage.
    fn group(number: usize, stage: usize, width: usize, experts: Option<usize>) -> Group {
        let linear = LinearGroup {
            members: Vec::new(),
            columns: width,
            experts,
            stage: Stage(stage),
            is_router: false,
            inputs_of_all: None,
            is_added: false,
        };
        let (linear, names) = (Some((GroupIndex(number), linear)), vec!["m".into()]);
        let experts = experts.unwrap_or(1);
        Group { layer: None, linear, names, width, experts, hidden: width }
    }

    /// For each pass the stages and the number of items.
    fn check(groups: &[Group], limit: u64, expected: &[(&[usize], usize)]) {
        let workers = Workers::new(1).expect("a thread");
        let groups: Vec<&Group> = groups.iter().collect();
        let collector = LayerCollector { workers: &workers, grams: true, limit, prior: 64 };
        let passes = collector.passes(&groups);
        let (last, mut is_seen) = (passes.len() - 1, vec![false; groups.len()]);
        let mut found: Vec<(Vec<Stage>, usize)> = Vec::new();
        for (number, items) in passes.iter().enumerate() {
            let stages = stages(&groups, items, &is_seen, number == last);
            let seen = groups.iter().map(|group| stages.contains(&group.stage().expect("one")));
            is_seen.iter_mut().zip(seen).for_each(|(own, seen)| *own |= seen);
            found.push((stages, items.len()));
        }
        let expected: Vec<(Vec<Stage>, usize)> = expected
            .iter()
            .map(|(stages, items)| (stages.iter().copied().map(Stage).collect(), *items))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn passes_hold_what_fits() {
        let dense = [
            group(0, 0, 10, None),
            group(1, 1, 10, None),
            group(2, 2, 10, None),
            group(3, 3, 20, None),
        ];
        let one = Gram::bytes(10, &(0..10));
        assert!(2 * one < Gram::bytes(20, &(0..20)));
        check(&dense, u64::MAX, &[(&[0, 1, 2, 3], 4)]);
        check(&dense, 3 * one, &[(&[0, 1, 2], 3), (&[3], 1)]);
        check(&dense, 2 * one, &[(&[0, 1], 2), (&[2], 1), (&[3], 1), (&[3], 1)]);
        // The router's stage is visited with the experts'.
        let mut experts = [group(0, 0, 10, None), group(1, 0, 10, Some(3))];
        if let Some((_, router)) = &mut experts[0].linear {
            router.is_router = true;
        }
        check(&experts, one, &[(&[0], 1), (&[0], 1), (&[0], 1)]);
        // One that has a stage of its own is visited on the way to the next.
        let mut shared = [group(0, 0, 10, None), group(1, 1, 10, None), group(2, 2, 10, None)];
        if let Some((_, router)) = &mut shared[1].linear {
            router.is_router = true;
        }
        check(&shared, one, &[(&[0], 1), (&[1, 2], 1)]);
    }
}
