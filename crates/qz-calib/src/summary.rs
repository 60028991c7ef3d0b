//! What an importance matrix says about a model's activations: llama-imatrix's
//! `--show-statistics` (`compute_statistics` and `compute_cossim` in
//! tools/imatrix/imatrix.cpp), in f64.

use std::collections::BTreeMap;

use crate::sums::{ImportanceSums, TensorSums};

/// A mean square below this counts as a column that is not used.
const INACTIVE: f64 = 1e-5;

/// One tensor's columns, of the experts that were counted.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(test, derive(Default))]
pub struct TensorSummary {
    /// The GGUF name.
    pub name: String,
    /// The layer, if it belongs to one.
    pub layer: Option<u32>,
    /// Columns.
    pub columns: usize,
    /// Sum of all mean squares.
    pub sum: f64,
    /// The smallest mean square.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// The share of columns that are used at all.
    pub active: f64,
    /// Entropy of the distribution that they are, in bits.
    pub entropy: f64,
    /// The share of columns more than one standard deviation above the mean.
    pub outstanding: f64,
    /// Cosine of the angle to the same tensor of the layer before; 0 if there is none.
    pub cosine: f64,
}

/// Means over a layer's tensors, weighted with their columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSummary {
    /// The layer.
    pub layer: u32,
    /// Mean sum of mean squares.
    pub sum: f64,
    /// Mean share of outstanding columns.
    pub outstanding: f64,
    /// Mean cosine.
    pub cosine: f64,
}

impl TensorSummary {
    /// Entropy, divided by that of equal columns.
    pub fn relative_entropy(&self) -> f64 {
        if self.columns > 1 { self.entropy / libm::log2(self.columns as f64) } else { 0.0 }
    }
}

/// Every tensor's figures, sorted as llama-imatrix prints them: by the name within the
/// layer, then by the sum.
pub fn summarize(matrix: &ImportanceSums) -> Vec<TensorSummary> {
    let one = |(name, sums): (&String, &TensorSums)| {
        let layer = layer_of(name);
        let before = layer.and_then(|layer| layer.checked_sub(1));
        let before = before.and_then(|before| {
            let name = name.replacen(&format!("blk.{}.", before + 1), &format!("blk.{before}."), 1);
            matrix.tensors.get(&name)
        });
        summarize_one(name, sums).map(|summary| TensorSummary {
            cosine: before.map_or(0.0, |before| cosine(&sums.squares, &before.squares)),
            layer,
            ..summary
        })
    };
    let mut all: Vec<TensorSummary> = matrix.tensors.iter().filter_map(one).collect();
    all.sort_by(|one, other| {
        let names = name_in_layer(&one.name).cmp(name_in_layer(&other.name));
        names.then(other.sum.total_cmp(&one.sum))
    });
    all
}

/// Every layer's figures.
pub fn summarize_layers(tensors: &[TensorSummary]) -> Vec<LayerSummary> {
    let mut layers: BTreeMap<u32, Vec<&TensorSummary>> = BTreeMap::new();
    for tensor in tensors {
        if let Some(layer) = tensor.layer {
            layers.entry(layer).or_default().push(tensor);
        }
    }
    let layer = |(layer, tensors): (u32, Vec<&TensorSummary>)| {
        let columns: f64 = tensors.iter().map(|tensor| tensor.columns as f64).sum();
        let mean = |figure: fn(&TensorSummary) -> f64| {
            tensors.iter().map(|one| one.columns as f64 * figure(one)).sum::<f64>() / columns
        };
        LayerSummary {
            layer,
            sum: mean(|one| one.sum),
            outstanding: mean(|one| one.outstanding),
            cosine: mean(|one| one.cosine),
        }
    };
    layers.into_iter().map(layer).collect()
}

fn summarize_one(name: &str, sums: &TensorSums) -> Option<TensorSummary> {
    let experts = sums.squares.chunks_exact(sums.width().max(1)).zip(&sums.counts);
    let counted = experts.filter(|(_, count)| **count > 0);
    let means: Vec<f64> = counted
        .flat_map(|(squares, count)| {
            squares.iter().map(|square| f64::from(*square) / *count as f64)
        })
        .collect();
    if means.is_empty() {
        return None;
    }
    let columns = means.len() as f64;
    let sum: f64 = means.iter().sum();
    let mean = sum / columns;
    let square: f64 = means.iter().map(|value| value * value).sum::<f64>() / columns;
    let deviation = (square - mean * mean).max(0.0).sqrt();
    let share = |test: &dyn Fn(f64) -> bool| {
        means.iter().filter(|value| test(**value)).count() as f64 / columns
    };
    let probabilities = means.iter().map(|value| value / sum).filter(|p| *p > 0.0);
    Some(TensorSummary {
        name: name.to_owned(),
        layer: None,
        columns: means.len(),
        sum,
        min: means.iter().copied().fold(f64::INFINITY, f64::min),
        max: means.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        mean,
        deviation,
        active: share(&|value| value > INACTIVE),
        entropy: if sum > 0.0 { probabilities.map(|p| -p * libm::log2(p)).sum() } else { 0.0 },
        outstanding: share(&|value| deviation > 0.0 && (value - mean) / deviation > 1.0),
        cosine: 0.0,
    })
}

fn cosine(one: &[f32], other: &[f32]) -> f64 {
    let dot = |one: &[f32], other: &[f32]| -> f64 {
        one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let lengths = (dot(one, one) * dot(other, other)).sqrt();
    if lengths > 0.0 { dot(one, other) / lengths } else { 0.0 }
}

fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// `attn_q` of `blk.3.attn_q.weight`.
fn name_in_layer(name: &str) -> &str {
    let parts = name.split_once(".weight").map_or(name, |(before, _)| before);
    parts.rsplit('.').next().unwrap_or(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(tensors: &[(&str, &[f32], &[u64])]) -> ImportanceSums {
        let tensor = |(name, squares, counts): &(&str, &[f32], &[u64])| {
            let sums = TensorSums { squares: squares.to_vec(), counts: counts.to_vec() };
            ((*name).to_owned(), sums)
        };
        ImportanceSums { tensors: tensors.iter().map(tensor).collect(), datasets: Vec::new() }
    }

    #[test]
    fn figures_of_a_tensor() {
        let all = summarize(&matrix(&[
            ("blk.0.attn_q.weight", &[2.0, 2.0, 2.0, 10.0], &[2]),
            ("blk.1.attn_q.weight", &[4.0, 4.0, 4.0, 20.0], &[4]),
            // The expert without tokens does not count.
            ("blk.1.ffn_up_exps.weight", &[9.0, 9.0, 0.0, 4.0], &[0, 1]),
        ]));
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(
            names,
            ["blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.1.ffn_up_exps.weight"]
        );
        let first = &all[0];
        assert_eq!((first.sum, first.min, first.max, first.mean), (8.0, 1.0, 5.0, 2.0));
        assert_eq!((first.deviation, first.outstanding, first.active), (3f64.sqrt(), 0.25, 1.0));
        assert!((first.entropy - 1.548_794_940_695_398).abs() < 1e-12, "{}", first.entropy);
        assert_eq!(first.cosine, 0.0);
        assert!((all[1].cosine - 1.0).abs() < 1e-12);
        assert_eq!((all[2].columns, all[2].sum, all[2].active), (2, 4.0, 0.5));
        let layers = summarize_layers(&all);
        assert_eq!(layers.len(), 2);
        assert!((layers[1].sum - (4.0 * 8.0 + 2.0 * 4.0) / 6.0).abs() < 1e-12);
    }
}
