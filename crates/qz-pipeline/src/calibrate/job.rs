//! One run through a model's layers, and what has come of it.

use qz_calib::Moments;
use qz_kernels::Workers;
use qz_kernels::backend::Backend;
use qz_linalg::Gram;

use super::CalibrateOptions;
use super::beside::Quantized;
use super::experts::ExpertCoverage;
use super::layout::{File, Group};
use crate::error::Error;
use crate::eval::Steps;
use crate::statistics::{Collected, Collector, Item, Lacking, MeanOfExperts, Streams, Sums};
use crate::stream::{Cancel, check_cancelled};

/// A run, and what has come of it.
pub(super) struct Job<'a> {
    pub(super) options: &'a CalibrateOptions,
    pub(super) workers: &'a Workers,
    pub(super) cancel: &'a Cancel,
    pub(super) file: File<'a>,
    pub(super) coverage: Vec<ExpertCoverage>,
    pub(super) warnings: Vec<String>,
}

/// The moments of each group's experts, and how many tokens each was given, so far.
type OfExperts = Vec<(Vec<Moments>, Vec<u64>)>;

impl Job<'_> {
    /// Puts the text through the layers, and keeps the statistics of each group. `quantized`
    /// is the model that is computed, where a full one is beside it.
    pub(super) fn run<B: Backend>(
        &mut self,
        mut streams: Streams<'_, B>,
        quantized: Option<&Quantized<'_, B>>,
        groups: &[Group],
        progress: &mut Steps<'_>,
    ) -> Result<(), Error> {
        let collector = Collector {
            moments: true,
            gram: self.options.collect.grams,
            may_cut: true,
            is_beside: quantized.is_some(),
            in_halves: false,
            samples: false,
            experts: self.options.experts,
            max_memory: self.options.compute.max_memory,
            workers: self.workers,
            cancel: self.cancel,
        };
        let count = streams.quantized.layer_count().into();
        while streams.load_next()? {
            let layer = streams.quantized.layer();
            let own: Vec<&Group> =
                groups.iter().filter(|group| group.layer == Some(layer)).collect();
            let is_open = own.iter().any(|group| !self.file.is_complete(group));
            let part = if is_open { "layer" } else { "finished layer" };
            progress.at(part, u64::from(layer.0) + 1, count, is_open);
            match quantized {
                _ if !is_open => streams.advance(&mut |steps| progress.advance(steps))?,
                None => self.layer(&collector, &mut streams, &own, progress)?,
                Some(quantized) => {
                    self.layer_beside(&collector, &mut streams, quantized, &own, progress)?;
                }
            }
        }
        if let Some(group) = groups.iter().find(|group| group.layer.is_none()) {
            let mut moments = None;
            let backend = streams.backend;
            collector.output(&mut streams, group.width, &mut |mut sums| {
                progress.advance(0)?;
                moments = moments.take().or(sums.take::<Moments>());
                self.keep_large(backend, group, 0, sums, false)
            })?;
            self.keep_moments(group, moments.as_slice(), &[])?;
        }
        Ok(())
    }

    /// Collects the statistics of a layer's groups, and finishes the layer.
    fn layer<B: Backend>(
        &mut self,
        collector: &Collector<'_>,
        streams: &mut Streams<'_, B>,
        groups: &[&Group],
        progress: &mut Steps<'_>,
    ) -> Result<(), Error> {
        let mut passes = collector.passes(self.items(collector, streams, groups));
        let mut known = vec![(Vec::new(), Vec::new()); groups.len()];
        let last = passes.pop().unwrap_or_default();
        let is_only = passes.is_empty();
        let mut mean = MeanOfExperts::default();
        for items in passes {
            let collected = collector.collect(streams, items, &mut mean)?;
            progress.advance(0)?;
            self.keep(streams.backend, groups, collected, &mut known)?;
        }
        let collected = if is_only {
            collector.collect_and_advance(streams, last, &mut |steps| progress.advance(steps))?
        } else {
            let collected = collector.collect(streams, last, &mut mean)?;
            streams.advance(&mut |steps| progress.advance(steps))?;
            collected
        };
        self.keep(streams.backend, groups, collected, &mut known)?;
        for (group, (moments, tokens)) in groups.iter().zip(known) {
            self.keep_moments(group, &moments, &tokens)?;
        }
        Ok(())
    }

    /// The same beside the full model, one group after the other, with that model's matrices
    /// where the group's products are added to hidden states.
    fn layer_beside<B: Backend>(
        &mut self,
        collector: &Collector<'_>,
        streams: &mut Streams<'_, B>,
        quantized: &Quantized<'_, B>,
        groups: &[&Group],
        progress: &mut Steps<'_>,
    ) -> Result<(), Error> {
        for group in groups {
            let mut known = vec![(Vec::new(), Vec::new())];
            let mut mean = MeanOfExperts::default();
            quantized.take_full(streams, group)?;
            for items in collector.passes(self.items(collector, streams, &[group])) {
                let collected = collector.collect(streams, items, &mut mean)?;
                self.keep(streams.backend, &[group], collected, &mut known)?;
            }
            quantized.take_own(streams, group)?;
            progress.advance(0)?;
            self.keep_moments(group, &known[0].0, &known[0].1)?;
        }
        streams.advance(&mut |steps| progress.advance(steps))
    }

    /// What is summed for a layer's groups, in the order of their stages.
    fn items<B: Backend>(
        &self,
        collector: &Collector<'_>,
        streams: &Streams<'_, B>,
        groups: &[&Group],
    ) -> Vec<Item> {
        let (graph, hidden) = (streams.quantized.graph(), streams.quantized.hidden_width());
        let linear = groups.iter().filter_map(|group| Some((group, group.linear.as_ref()?)));
        linear
            .flat_map(|(group, (index, _))| {
                collector.items(graph, *index, hidden, &group.experts())
            })
            .collect()
    }

    /// Keeps what was collected: moments until all of a group's experts have theirs, the rest
    /// in the file.
    fn keep<B: Backend>(
        &mut self,
        backend: &B,
        groups: &[&Group],
        collected: Vec<Collected<B>>,
        known: &mut OfExperts,
    ) -> Result<(), Error> {
        for Collected { item, mut sums, tokens } in collected {
            let is_own = |group: &&Group| {
                group.linear.as_ref().is_some_and(|(index, _)| *index == item.group)
            };
            let number = groups.iter().position(is_own).expect("a group of the layer");
            if let Some(moments) = sums.take::<Moments>() {
                known[number].0.push(moments);
                known[number].1.push(tokens);
            }
            let is_short = item.is_too_short(tokens);
            let expert = item.expert.unwrap_or(0);
            self.keep_large(backend, groups[number], expert, sums, is_short)?;
        }
        Ok(())
    }

    /// Writes one expert's sums of products. Of one that is short of tokens nothing is known to be
    /// lacking.
    fn keep_large<B: Backend>(
        &mut self,
        backend: &B,
        group: &Group,
        expert: usize,
        mut sums: Sums<B>,
        is_short: bool,
    ) -> Result<(), Error> {
        // Gram matrices are sums of as many tokens as experts with few of them count.
        let tokens = sums.tokens();
        if let Some(gram) = sums.take::<Gram<B::Buffer>>() {
            let (start, entries) = (gram.packed_start(), gram.into_packed(backend)?);
            // The last run of a job that is to stop was not summed.
            check_cancelled(self.cancel)?;
            self.file.put_gram(group, expert, start, entries)?;
        }
        match sums.take::<Lacking<B::Buffer>>() {
            Some(lacking) => {
                let (kind, means) = (lacking.kind(), lacking.finish(backend)?);
                let means = means.filter(|_| !is_short).map(|means| means.mean);
                check_cancelled(self.cancel)?;
                self.file.put_lacking(group, expert, kind, means, tokens)
            }
            None => Ok(()),
        }
    }

    /// Notes what should be known about a group's inputs, and writes their moments.
    fn keep_moments(
        &mut self,
        group: &Group,
        experts: &[Moments],
        tokens: &[u64],
    ) -> Result<(), Error> {
        let name = &group.names[0];
        let zeros = |one: &Moments| if one.rows() > 0 { one.zeros() } else { 0 };
        let most = experts.iter().map(zeros).max().unwrap_or(0);
        if most > 0 {
            let columns =
                format!("{most} of {} columns of the inputs were always zero", group.width);
            self.warnings.push(format!("{name}: {columns}"));
        }
        if let Some(layer) = group.layer.filter(|_| group.is_first_of_experts()) {
            let coverage = ExpertCoverage { layer: layer.0, tokens: tokens.to_vec() };
            self.warnings.extend(coverage.warnings(self.options.experts.least_tokens()));
            self.coverage.push(coverage);
        }
        self.file.put_moments(group, experts)
    }
}
