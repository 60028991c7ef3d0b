//! How long encoding will take: each pair of types is tried on this machine, on
//! a few thousand made-up weights, and the model's weights are counted. The
//! fastest of several rounds counts, so that it is the time on an idle machine.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use qz_kernels::codec_for;
use qz_packed::{Matrix, Rounding, RowBlock};
use qz_tensor::DataType;

use crate::format::PackedPlace;
use crate::stream::Work;

/// Columns and rows of the made-up matrix: whole blocks of every type.
const COLUMNS: usize = 2048;
const ROWS: usize = 8;

/// A trial is repeated until it took this long, but at least twice: the first
/// round also brings code and tables into memory.
const TRIAL: Duration = Duration::from_millis(20);

/// About how much longer a weight takes than one that is copied: for progress, where trials
/// would take longer than small models.
pub(crate) fn relative_cost(work: &Work<'_>) -> f64 {
    let of_type = |to: DataType| match to.name() {
        _ if to == work.tensor.source_type => 0.0,
        name if name.starts_with("IQ") => 100.0,
        name if name.starts_with("TQ") || name.starts_with("Q8") => 2.0,
        name if name.ends_with("_K") => 15.0,
        _ if to.is_block() => 5.0,
        _ => 1.0,
    };
    let of_packing = |rounding: Rounding| match rounding {
        Rounding::Nearest => 5.0,
        _ => 100.0,
    };
    let packed: f64 = work.packed().map(|(_, rounding)| of_packing(rounding)).sum();
    1.0 + work.data_types().map(of_type).sum::<f64>() + packed
}

/// Seconds of encoding on `threads` threads that share the work evenly; more
/// threads than cores do not help. Reading
/// and writing go on beside it and are not counted; nor are tensors that are
/// copied.
pub(crate) fn encoding_seconds(work: &[Work<'_>], threads: usize) -> f64 {
    let mut speeds: HashMap<(DataType, DataType, bool), f64> = HashMap::new();
    let mut packed: HashMap<(String, u64), f64> = HashMap::new();
    let mut seconds = 0.0;
    for work in work {
        let (from, weighed) = (work.tensor.source_type, work.importance.is_some());
        for to in work.data_types().filter(|to| *to != from) {
            let per_weight =
                speeds.entry((from, to, weighed)).or_insert_with(|| trial(from, to, weighed));
            seconds += work.tensor.shape.elements() as f64 * *per_weight;
        }
        for (place, rounding) in work.packed() {
            let matrix = Matrix { rows: place.row_unit().max(ROWS as u64), ..place.matrix };
            let key = (format!("{:?} {rounding:?}", place.layout), matrix.columns);
            let per_weight =
                *packed.entry(key).or_insert_with(|| packed_trial(place, matrix, rounding));
            seconds += work.tensor.shape.elements() as f64 * per_weight;
        }
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    seconds / threads.clamp(1, cores) as f64
}

/// Seconds to turn one weight of one type into another.
fn trial(from: DataType, to: DataType, weighed: bool) -> f64 {
    let (Some(decoder), Some(encoder)) = (codec_for(from), codec_for(to)) else { return 0.0 };
    let mut weights = made_up(ROWS * COLUMNS);
    let importance: Vec<f32> = weights[..COLUMNS].iter().map(|weight| weight * weight).collect();
    let bytes = |data_type: DataType| {
        vec![0; weights.len() / data_type.block_elements() * data_type.block_bytes()]
    };
    let (mut stored, mut encoded) = (bytes(from), bytes(to));
    decoder.encode(&weights, COLUMNS, None, &mut stored);
    let (start, mut fastest, mut rounds) = (Instant::now(), Duration::MAX, 0);
    while rounds < 2 || start.elapsed() < TRIAL {
        let round = Instant::now();
        decoder.decode(&stored, &mut weights);
        encoder.encode(&weights, COLUMNS, weighed.then_some(&importance[..]), &mut encoded);
        fastest = fastest.min(round.elapsed());
        rounds += 1;
    }
    fastest.as_secs_f64() / weights.len() as f64
}

/// Seconds to pack one weight.
fn packed_trial(place: &PackedPlace, matrix: Matrix, rounding: Rounding) -> f64 {
    let count = (matrix.rows * matrix.columns) as usize;
    let weights: Vec<f32> = made_up(ROWS * COLUMNS).into_iter().cycle().take(count).collect();
    let measure = place.layout.measure(matrix, &weights);
    let (importance, first_row) = (None, 0);
    let block = RowBlock { matrix, first_row, weights: &weights, importance, rounding, measure };
    let (start, mut fastest, mut rounds) = (Instant::now(), Duration::MAX, 0);
    while rounds < 2 || start.elapsed() < TRIAL {
        let round = Instant::now();
        let mut bytes = 0;
        // Made-up weights overflow nothing.
        let _ = place.layout.encode(&block, &mut |_, _, out: &[u8]| bytes += out.len());
        std::hint::black_box(bytes);
        fastest = fastest.min(round.elapsed());
        rounds += 1;
    }
    fastest.as_secs_f64() / count.max(1) as f64
}

/// Weights in a bell around zero, the same every time: each the sum of four draws
/// of a linear congruential generator (Knuth's MMIX constants).
pub(crate) fn made_up(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut draw = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (draw() + draw() + draw() + draw()) * 0.05).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_take_time() {
        for to in [DataType::F16, DataType::Q8_0, DataType::Q4_K] {
            let seconds = trial(DataType::BF16, to, to == DataType::Q4_K);
            assert!(seconds > 0.0 && seconds < 1e-3, "{to}: {seconds}");
        }
    }

    #[test]
    fn made_up_weights_are_a_bell() {
        let weights = made_up(ROWS * COLUMNS);
        let mean = weights.iter().sum::<f32>() / weights.len() as f32;
        assert!(mean.abs() < 0.002, "{mean}");
        assert!(weights.iter().all(|weight| weight.abs() <= 0.1));
    }
}
