//! Causal attention over cached keys and values.

use std::ops::Range;

use qz_tensor::DataType;
use rayon::prelude::*;

use super::super::reference::soft_capped;
use super::super::{Attention, Distances, Error, activation_type, round_activations};
use super::tiles::{self, ROWS};
use super::{Instructions, exponentials};
use crate::gemm::{Destination, OwnBlock, ViewMut};
use crate::stop;

/// Keys and values of one sequence, as numbers that the cache's type can represent, in
/// panels as [`tiles::add`] takes them: of keys, `width` positions of a head, of values,
/// `width` elements of all positions of a head.
pub struct Cache {
    data_type: DataType,
    key_size: usize,
    value_size: usize,
    heads: usize,
    /// Positions, a whole number of panels.
    capacity: usize,
    width: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    pub(super) fn new(
        shape: &Attention,
        capacity: usize,
        data_type: DataType,
        width: usize,
    ) -> Result<Self, Error> {
        let Attention { key_size, value_size, key_value_heads: heads, .. } = *shape;
        for head_size in [key_size, value_size] {
            if !head_size.is_multiple_of(data_type.block_elements()) {
                return Err(Error::CacheType { head_size, data_type });
            }
        }
        let capacity = capacity.next_multiple_of(width);
        let keys = vec![0.0; heads * capacity * key_size];
        let values = vec![0.0; heads * capacity * value_size.next_multiple_of(width)];
        Ok(Self { data_type, key_size, value_size, heads, capacity, width, keys, values })
    }

    /// Numbers of a row of keys, numbers of a row of values, and positions.
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.heads * self.key_size, self.heads * self.value_size, self.capacity)
    }

    pub(super) fn store(
        &mut self,
        position: usize,
        keys: &[f32],
        values: &[f32],
        rows: Range<usize>,
    ) {
        let (size, value_size, width) = (self.key_size, self.value_size, self.width);
        let key_head = self.capacity * size;
        let value_head = self.capacity * value_size.next_multiple_of(width);
        let (mut own, mut own_values) = (vec![0.0; size], vec![0.0; value_size]);
        for (position, row) in (position..).zip(rows) {
            for head in 0..self.heads {
                let of_row = row * self.heads + head;
                own.copy_from_slice(&keys[of_row * size..(of_row + 1) * size]);
                round_activations(self.data_type, size, &mut own);
                let panel = head * key_head + position / width * width * size;
                let to = &mut self.keys[panel + position % width..];
                to.iter_mut().step_by(width).zip(&own).for_each(|(to, key)| *to = *key);
                own_values.copy_from_slice(&values[of_row * value_size..(of_row + 1) * value_size]);
                round_activations(self.data_type, value_size, &mut own_values);
                for (panel, own) in own_values.chunks(width).enumerate() {
                    let panel = head * value_head + panel * self.capacity * width;
                    let to = panel + position * width;
                    self.values[to..to + own.len()].copy_from_slice(own);
                }
            }
        }
    }
}

/// One attention operation.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) instructions: Instructions,
    pub(super) shape: &'a Attention,
    pub(super) sinks: Option<&'a [f32]>,
    /// Numbers of distances.
    pub(super) learned: Option<&'a [f32]>,
    pub(super) cache: &'a Cache,
    /// Of the first query.
    pub(super) position: usize,
    /// Of the sequence, up to the last query.
    pub(super) length: usize,
}

impl Work<'_> {
    /// Attention of queries; runs on the current pool's threads.
    pub(super) fn attend(self, queries: &[f32], out: &mut [f32]) {
        let count = queries.len() / self.shape.query_width();
        let heads = |first| (0..self.shape.heads).map(move |head| (first, head));
        let tasks: Vec<(usize, usize)> = (0..count).step_by(ROWS).flat_map(heads).collect();
        let mut all = ViewMut::dense(out, count, self.shape.result_width());
        let destination = Destination::new(&mut all);
        tasks.into_par_iter().for_each_init(Scratch::default, |scratch, (first, head)| {
            if stop::is_requested() {
                return;
            }
            let rows = first..count.min(first + ROWS);
            let left = head * self.shape.value_size;
            let columns = left..left + self.shape.value_size;
            // SAFETY: no other task has both these rows and this head.
            let mut own = unsafe { destination.block(rows.clone(), columns) };
            Head { work: self, head }.attend(queries, rows, scratch, &mut own);
        });
    }
}

/// What one query head's work needs, kept from one to the next.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    probabilities: Vec<f32>,
    with_sink: Vec<f32>,
}

/// One query head's work.
struct Head<'a> {
    work: Work<'a>,
    head: usize,
}

impl Head<'_> {
    /// Writes the results of the queries `rows`, at most [`ROWS`], to their own block.
    fn attend(
        &self,
        queries: &[f32],
        rows: Range<usize>,
        scratch: &mut Scratch,
        out: &mut OwnBlock<'_>,
    ) {
        let Work { instructions, shape, cache, position, length, .. } = self.work;
        let (key_size, value_size) = (shape.key_size, shape.value_size);
        // A query that is alone stays so; others get rows of zeros to fill a tile.
        let count = if rows.len() == 1 { 1 } else { ROWS };
        scratch.queries.clear();
        for row in rows.clone() {
            let from = row * shape.query_width() + self.head * key_size;
            scratch.queries.extend_from_slice(&queries[from..from + key_size]);
        }
        self.round_queries(&mut scratch.queries);
        scratch.queries.resize(count * key_size, 0.0);
        let visible = |row: usize| shape.visible(position + row, length);
        let seen = visible(rows.start).start..visible(rows.end - 1).end;
        self.probabilities(count, &seen, position + rows.start, scratch, |row| {
            (rows.start + row < rows.end).then(|| visible(rows.start + row))
        });
        let served = self.head * shape.key_value_heads / shape.heads;
        let panels = value_size.div_ceil(cache.width);
        for panel in 0..panels {
            let first = (served * panels + panel) * cache.capacity;
            let values = &cache.values[(first + seen.start) * cache.width..];
            let values = &values[..seen.len() * cache.width];
            scratch.scores.clear();
            scratch.scores.resize(count * cache.width, 0.0);
            let (probabilities, sums) = (&scratch.probabilities, &mut scratch.scores);
            tiles::add(instructions, values, probabilities, seen.len(), sums);
            let left = panel * cache.width;
            for (row, sums) in sums.chunks_exact(cache.width).enumerate().take(rows.len()) {
                let count = cache.width.min(value_size - left);
                let own = out.elements(row, left, count);
                own.copy_from_slice(&sums[..count]);
            }
        }
    }

    /// ggml rounds queries for quantized keys; for others its tiled attention keeps them
    /// (`ggml_compute_forward_flash_attn_ext_tiled` in ops.cpp).
    fn round_queries(&self, queries: &mut [f32]) {
        let Work { shape, cache, .. } = self.work;
        if cache.data_type.is_block() {
            round_activations(activation_type(cache.data_type), shape.key_size, queries);
        }
    }

    /// For each query, the first of which is at `position`, the probabilities of the positions
    /// `seen` by any: zero for those that it does not see itself.
    fn probabilities(
        &self,
        count: usize,
        seen: &Range<usize>,
        position: usize,
        scratch: &mut Scratch,
        visible: impl Fn(usize) -> Option<Range<usize>>,
    ) {
        let Work { instructions, shape, sinks, learned, cache, .. } = self.work;
        let size = shape.key_size;
        let served = self.head * shape.key_value_heads / shape.heads;
        let keys = &cache.keys[served * cache.capacity * size..][..cache.capacity * size];
        let first_panel = seen.start / cache.width;
        let panels = first_panel..seen.end.div_ceil(cache.width);
        scratch.scores.clear();
        scratch.scores.resize(panels.len() * count * cache.width, 0.0);
        let of_panels = scratch.scores.chunks_exact_mut(count * cache.width);
        let keys = keys.chunks_exact(cache.width * size).skip(first_panel);
        for (keys, scores) in keys.zip(of_panels) {
            tiles::add(instructions, keys, &scratch.queries, size, scores);
        }
        scratch.probabilities.clear();
        scratch.probabilities.resize(count * seen.len(), 0.0);
        for (row, own) in scratch.probabilities.chunks_exact_mut(seen.len()).enumerate() {
            let Some(visible) = visible(row) else { continue };
            let own = &mut own[visible.start - seen.start..visible.end - seen.start];
            let mut rest = own.iter_mut();
            let mut key = visible.start;
            while key < visible.end {
                let (panel, place) = (key / cache.width - first_panel, key % cache.width);
                let scores = &scratch.scores[(panel * count + row) * cache.width..][..cache.width];
                let scores = scores[place..].iter().take(visible.end - key);
                key += scores.len();
                for (score, own) in scores.zip(&mut rest) {
                    *own = score * shape.scale;
                }
            }
            if let Some(cap) = shape.soft_cap {
                own.iter_mut().for_each(|score| *score = soft_capped(*score, cap));
            }
            if shape.distances != Distances::None {
                let query = position + row;
                for (key, score) in visible.clone().zip(own.iter_mut()) {
                    *score += shape.added(self.head, query, key, learned);
                }
            }
            let Some(sinks) = sinks else {
                exponentials::softmax(instructions, own);
                continue;
            };
            // The sink is one more position, which has no value.
            scratch.with_sink.clear();
            scratch.with_sink.extend_from_slice(own);
            scratch.with_sink.push(sinks[self.head]);
            exponentials::softmax(instructions, &mut scratch.with_sink);
            own.copy_from_slice(&scratch.with_sink[..own.len()]);
        }
    }
}
