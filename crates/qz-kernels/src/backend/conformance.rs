//! What every backend must compute: its operations beside the reference's, on made-up
//! numbers.

mod inputs;
mod recurrences;
mod rowwise;
mod sums;

use qz_codec::CODECS;
use qz_tensor::DataType;

use super::{
    Activation, Activations, Attention, Backend, Distances, Error, ExpertLoad, Gating,
    JoinedColumns, Number, Queries, RotaryPairs, Rotation, Rounding, Router, Rowwise, Scan,
    ScanWeights, Shaped, Xielu, reference,
};

/// Differences allowed, relative to the largest number: sums in another order, and
/// exponentials and sines of another library.
const TOLERANCE: f32 = 2e-5;

/// Compares every operation.
///
/// # Errors
/// What differs first.
pub fn check<B: Backend>(backend: &B) -> Result<(), String> {
    operations(backend).map_err(|problem| problem.to_string())
}

/// An operation that failed, or what differs.
type Checked<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn operations<B: Backend>(backend: &B) -> Checked {
    matmuls(backend)?;
    norms(backend)?;
    rotations(backend)?;
    attentions(backend)?;
    scans(backend)?;
    recurrences::check(backend)?;
    rowwise::check(backend)?;
    inputs::check(backend)?;
    elementwise(backend)?;
    experts(backend)?;
    copies(backend)?;
    sums::check(backend)?;
    non_finite(backend)?;
    mismatches(backend)
}

/// Numbers between -1 and 1 without a pattern.
pub fn made_up(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn compare(what: &str, found: &[f32], expected: &[f32]) -> Checked {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} numbers instead of {}", found.len(), expected.len()).into());
    }
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (position, (found, expected)) in found.iter().zip(expected).enumerate() {
        let within = (found - expected).abs() <= TOLERANCE * largest;
        if !within {
            return Err(format!("{what}: number {position} is {found}, expected {expected}").into());
        }
    }
    Ok(())
}

/// Compares a buffer's shape and numbers.
fn compare_buffer<B: Backend>(
    backend: &B,
    what: &str,
    found: &B::Buffer,
    columns: usize,
    expected: &[f32],
) -> Checked {
    if (found.rows() * columns, found.columns()) != (expected.len(), columns) {
        let [rows, width] = [found.rows(), found.columns()];
        return Err(format!("{what}: {rows} x {width} numbers, expected {}", expected.len()).into());
    }
    compare(what, &backend.numbers(found)?, expected)
}

/// Every type with every count of tokens up to one past a panel, and more, and odd counts
/// of rows.
fn matmuls<B: Backend>(backend: &B) -> Checked {
    for codec in CODECS {
        let data_type = codec.spec().data_type;
        let Some(codec) = crate::codec_for(data_type) else { continue };
        // One row of seven times 256 weights; matrices repeat it.
        let (columns, weights) = (7 * 256, made_up(7 * 256, 1));
        let mut bytes = vec![0; columns / data_type.block_elements() * data_type.block_bytes()];
        codec.encode(&weights, columns, Some(&vec![1.0; columns]), &mut bytes);
        let sizes = (1..=17).map(|tokens| (tokens, 2 * tokens - 1, 256 * (1 + tokens % 3)));
        for shape in sizes.chain([(37, 101, 5 * 256)]) {
            for rounding in [Rounding::Exact, Rounding::Engine] {
                matmul(backend, data_type, shape, &bytes, rounding)?;
            }
        }
    }
    // Rows that fill no vector, each of them another one.
    for columns in [1, 7, 33, 100, 4100] {
        for tokens in [1, 5] {
            let weights = made_up(columns + 1, 1);
            let bytes: Vec<u8> = weights.iter().flat_map(|x| x.to_le_bytes()).collect();
            let shape = (tokens, 6, columns);
            matmul(backend, DataType::F32, shape, &bytes, Rounding::Engine)?;
            let halves: Vec<u8> =
                bytes.as_chunks::<4>().0.iter().flat_map(|bytes| [bytes[2], bytes[3]]).collect();
            matmul(backend, DataType::BF16, shape, &halves, Rounding::Engine)?;
        }
    }
    Ok(())
}

/// A matrix whose bytes are some bytes again and again.
fn matmul<B: Backend>(
    backend: &B,
    data_type: DataType,
    (tokens, rows, columns): (usize, usize, usize),
    bytes: &[u8],
    rounding: Rounding,
) -> Checked {
    let what =
        format!("matmul of {tokens} x {columns} by {rows} rows of {data_type}, {rounding:?}");
    let size = rows * columns / data_type.block_elements() * data_type.block_bytes();
    let bytes: Vec<u8> = bytes.iter().copied().cycle().take(size).collect();
    let activations = made_up(tokens * columns, 2);
    let expected = reference::matmul(rounding, &activations, columns, data_type, &bytes)?;
    let weights = reference::decode(data_type, &bytes)?;
    let matrix = backend.matrix(data_type, rows, columns, bytes)?;
    let decoded = backend.decode(&matrix)?;
    compare_buffer(backend, &format!("decoded {data_type}"), &decoded, columns, &weights)?;
    let activations = backend.buffer(columns, &activations)?;
    let out = backend.matmul(rounding, &activations, &matrix)?;
    compare_buffer(backend, &what, &out, rows, &expected)
}

fn norms<B: Backend>(backend: &B) -> Checked {
    for (rows, width) in [(1, 1), (3, 64), (5, 100)] {
        let (input, weights) = (made_up(rows * width, 3), made_up(width, 4));
        let expected: Vec<f32> =
            input.chunks(width).flat_map(|row| reference::rms_norm(row, &weights, 1e-5)).collect();
        let there = [backend.buffer(width, &input)?, backend.buffer(width, &weights)?];
        let out = backend.rms_norm(&there[0], &there[1], 1, 1e-5)?;
        compare_buffer(backend, "rms norm", &out, width, &expected)?;
    }
    let (input, weights, bias) = (made_up(300, 3), made_up(100, 4), made_up(100, 23));
    for bias in [None, Some(&bias)] {
        for groups in [1, 4] {
            let width = 100 / groups;
            let part = |(at, row): (usize, &[f32])| {
                let own = at % groups * width..(at % groups + 1) * width;
                let bias = bias.map(|bias| &bias[own.clone()]);
                reference::layer_norm(row, &weights[own], bias, 1e-5)
            };
            let expected: Vec<f32> = input.chunks(width).enumerate().flat_map(part).collect();
            let there = [backend.buffer(100, &input)?, backend.buffer(100, &weights)?];
            let bias = bias.map(|bias| backend.buffer(100, bias)).transpose()?;
            let out = backend.layer_norm(&there[0], &there[1], bias.as_ref(), groups, 1e-5)?;
            compare_buffer(backend, "layer norm", &out, 100, &expected)?;
        }
    }
    // Rows of several heads, and of several groups.
    let (input, weights) = (made_up(60, 3), made_up(20, 4));
    let there = [backend.buffer(60, &input)?, backend.buffer(20, &weights)?];
    for groups in [1, 4] {
        let width = 20 / groups;
        let parts = input.chunks(width).zip(weights.chunks(width).cycle());
        let expected: Vec<f32> =
            parts.flat_map(|(part, weights)| reference::rms_norm(part, weights, 1e-5)).collect();
        let out = backend.rms_norm(&there[0], &there[1], groups, 1e-5)?;
        compare_buffer(backend, "rms norm in groups", &out, 60, &expected)?;
    }
    Ok(())
}

fn rotations<B: Backend>(backend: &B) -> Checked {
    let (positions, heads, head_size) = (5, 3, 8);
    for (pairs, first, count) in [
        (RotaryPairs::Adjacent, 0, 8),
        (RotaryPairs::Halves, 0, 8),
        (RotaryPairs::Halves, 0, 6),
        (RotaryPairs::Adjacent, 4, 4),
    ] {
        let rotation = Rotation { head_size, first, count, pairs };
        let table: Vec<f32> = made_up(positions * count / 2, 5)
            .iter()
            .flat_map(|angle: &f32| [libm::cosf(*angle), libm::sinf(*angle)])
            .collect();
        let input = made_up(2 * positions * heads * head_size, 6);
        let mut expected = input.clone();
        for (head, numbers) in expected.chunks_mut(head_size).enumerate() {
            let table = &table[head / heads % positions * count..][..count];
            reference::rotate(numbers, &rotation, table);
        }
        let mut rows = backend.buffer(heads * head_size, &input)?;
        backend.rotate(&mut rows, &rotation, &backend.buffer(count, &table)?)?;
        let what = format!("rotary embedding {rotation:?}");
        compare_buffer(backend, &what, &rows, heads * head_size, &expected)?;
    }
    Ok(())
}

fn attentions<B: Backend>(backend: &B) -> Checked {
    for (heads, key_value_heads) in [(1, 1), (4, 4), (6, 2)] {
        for window in [None, Some(1), Some(5)] {
            let plain = Attention::plain(heads, key_value_heads, 32);
            let shape = Attention { scale: 0.3, window, ..plain };
            for data_type in [DataType::F32, DataType::F16] {
                attention(backend, &shape, false, data_type)?;
                attention(backend, &shape, true, data_type)?;
            }
        }
    }
    let chunks = Attention { chunk: Some(11), ..Attention::plain(6, 2, 32) };
    attention(backend, &chunks, false, DataType::F32)?;
    // Heads that fill no vector.
    let shape = Attention { scale: 1.0, ..Attention::plain(3, 1, 20) };
    attention(backend, &shape, false, DataType::F32)?;
    let shape = Attention { value_size: 12, soft_cap: Some(0.7), ..shape };
    attention(backend, &shape, false, DataType::F32)?;
    attention(backend, &Attention { value_size: 40, ..shape }, true, DataType::F32)?;
    for window in [None, Some(1), Some(7), Some(40)] {
        let shape = Attention { is_causal: false, window, ..Attention::plain(2, 2, 32) };
        attention(backend, &shape, false, DataType::F32)?;
    }
    let sloping = Distances::Slopes { least: 8.0 };
    for (distances, is_causal) in [
        (sloping, true),
        (sloping, false),
        (Distances::Ranges { count: 32 }, true),
        (Distances::Ranges { count: 32 }, false),
    ] {
        let shape = Attention { is_causal, distances, ..Attention::plain(6, 2, 32) };
        attention(backend, &shape, false, DataType::F32)?;
    }
    match backend.cache(&Attention::plain(3, 1, 20), 4, DataType::Q8_0) {
        Err(_) => Ok(()),
        Ok(_) => Err("a cache of Q8_0 was made for heads of 20".into()),
    }
}

/// A sequence whose second part comes later, and whose rows are not the buffer's first.
fn attention<B: Backend>(
    backend: &B,
    shape: &Attention,
    with_sinks: bool,
    data_type: DataType,
) -> Checked {
    let (before, positions, first_part) = (2, 43, 26);
    let rows = before + positions;
    let queries = made_up(rows * shape.query_width(), 7);
    let mut keys = made_up(rows * shape.key_width(), 8);
    let mut values = made_up(rows * shape.value_width(), 9);
    let sinks = with_sinks.then(|| made_up(shape.heads, 15));
    let mut cache = backend.cache(shape, positions, data_type)?;
    let mut out = backend.zeros(rows, shape.result_width())?;
    let learned = match shape.distances {
        Distances::Ranges { count } => Some(made_up(count * shape.heads, 25)),
        Distances::None | Distances::Slopes { .. } => None,
    };
    let learned_there =
        learned.as_deref().map(|learned| backend.buffer(learned.len(), learned)).transpose()?;
    let sinks_there =
        sinks.as_deref().map(|sinks| backend.buffer(shape.heads, sinks)).transpose()?;
    let buffers = [
        backend.buffer(shape.query_width(), &queries)?,
        backend.buffer(shape.key_width(), &keys)?,
        backend.buffer(shape.value_width(), &values)?,
    ];
    for part in [0..first_part, first_part..positions] {
        let rows = before + part.start..before + part.end;
        backend.store(&mut cache, part.start, &buffers[1], &buffers[2], rows.clone())?;
        let sinks = sinks_there.as_ref();
        let queries = Queries { buffer: &buffers[0], rows, position: part.start };
        backend.attend(shape, sinks, learned_there.as_ref(), &cache, queries, &mut out)?;
    }
    super::round_activations(data_type, shape.key_size, &mut keys);
    super::round_activations(data_type, shape.value_size, &mut values);
    let mut expected = vec![0.0; rows * shape.result_width()];
    for position in 0..positions {
        for head in 0..shape.heads {
            let own = |width: usize, size: usize| {
                let first = (before + position) * width + head * size;
                first..first + size
            };
            let served = head * shape.key_value_heads / shape.heads;
            let of_head = |numbers: &[f32], width: usize, size: usize| -> Vec<f32> {
                let rows = numbers[before * width..].chunks(width);
                rows.flat_map(|row| row[served * size..][..size].to_vec()).collect()
            };
            let result = reference::attend(
                shape,
                sinks.as_ref().map(|sinks| sinks[head]),
                &|key| shape.added(head, position, key, learned.as_deref()),
                (position, if position < first_part { first_part } else { positions }),
                &queries[own(shape.query_width(), shape.key_size)],
                &of_head(&keys, shape.key_width(), shape.key_size),
                &of_head(&values, shape.value_width(), shape.value_size),
            );
            expected[own(shape.result_width(), shape.value_size)].copy_from_slice(&result);
        }
    }
    let what = format!("attention {shape:?} with {data_type} keys, sinks: {with_sinks}");
    compare_buffer(backend, &what, &out, shape.result_width(), &expected)
}

/// A sequence whose second part comes later, and whose rows are not the buffer's first.
fn scans<B: Backend>(backend: &B) -> Checked {
    let shape = Scan { heads: 6, head_size: 5, groups: 2, state_size: 7, taps: 4 };
    let (before, tokens, first_part) = (2, 23, 9);
    let input = made_up((before + tokens) * shape.width(), 17);
    let convolution = made_up(shape.convolved() * shape.taps, 18);
    let bias = made_up(shape.convolved(), 19);
    let [steps, skip, decay] = [20, 21, 22].map(|seed| made_up(shape.heads, seed));
    let decay: Vec<f32> = decay.iter().map(|decay| decay - 1.5).collect();
    let weights = ScanWeights {
        convolution: &convolution[..],
        convolution_bias: &bias,
        time_step: &steps,
        decay: &decay,
        skip: &skip,
    };
    let mut state = vec![0.0; shape.state()];
    let rows = &input[before * shape.width()..];
    let expected = reference::scan(&shape, &weights, &mut state, rows);
    let there =
        [&convolution, &bias, &steps, &decay, &skip].map(|own| backend.buffer(own.len(), own));
    let there = there.into_iter().collect::<Result<Vec<_>, _>>()?;
    let weights = ScanWeights {
        convolution: &there[0],
        convolution_bias: &there[1],
        time_step: &there[2],
        decay: &there[3],
        skip: &there[4],
    };
    let mut state = backend.zeros(1, shape.state())?;
    let mut out = backend.zeros(before + tokens, shape.inner())?;
    let input = backend.buffer(shape.width(), &input)?;
    for part in [0..1, 1..first_part, first_part..tokens] {
        let rows = before + part.start..before + part.end;
        backend.scan(&shape, &weights, &mut state, &input, rows, &mut out)?;
    }
    let found = backend.numbers(&out)?;
    compare("state space", &found[before * shape.inner()..], &expected)
}

fn elementwise<B: Backend>(backend: &B) -> Checked {
    let count = 20_000;
    let (a, b) = (made_up(count, 10), made_up(count, 11));
    let expect = |work: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
        a.iter().zip(&b).map(|(a, b)| work(*a, *b)).collect()
    };
    let mut sum = backend.buffer(100, &a)?;
    let other = backend.buffer(100, &b)?;
    backend.add(&mut sum, &other)?;
    compare_buffer(backend, "add", &sum, 100, &expect(&|a, b| a + b))?;
    for activation in [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::GeluHalf,
        Activation::ClampedSilu,
        Activation::Sigmoid,
        Activation::Identity,
        Activation::ReluSquared,
        Activation::Tanh,
        Activation::Xielu(Xielu { above: 0.8, below: 1.3, slope: 0.5, limit: -1e-6 }),
    ] {
        // Past the limits of what is clamped.
        let mut gate = backend.buffer(100, &a.iter().map(|x| x * 9.0).collect::<Vec<f32>>())?;
        backend.activate_times(activation, &mut gate, Some(&other))?;
        let expected = expect(&|a, b| reference::activate_times(activation, a * 9.0, b));
        compare_buffer(backend, &format!("{activation:?}"), &gate, 100, &expected)?;
        let mut alone = backend.buffer(100, &a)?;
        backend.activate_times(activation, &mut alone, None)?;
        let expected = expect(&|a, _| reference::activate_times(activation, a, 1.0));
        compare_buffer(backend, &format!("{activation:?} alone"), &alone, 100, &expected)?;
    }
    let there = [backend.buffer(200, &a)?, backend.buffer(200, &b)?];
    let of_all: Vec<f32> = a.chunks(200).flat_map(|row| &row[..7]).copied().collect();
    let shared = backend.buffer(7, &of_all)?;
    let parts = [
        JoinedColumns { buffer: &there[0], size: 100, columns: 10..70 },
        JoinedColumns { buffer: &there[1], size: 100, columns: 0..20 },
        JoinedColumns { buffer: &shared, size: 7, columns: 2..5 },
    ];
    let heads = a.chunks(100).zip(b.chunks(100)).enumerate();
    let joined = heads.flat_map(|(at, (own, other))| {
        [&own[10..70], &other[..20], &of_all[at / 2 * 7..][2..5]].concat()
    });
    let joined: Vec<f32> = joined.collect();
    compare_buffer(backend, "join", &backend.join(&parts)?, 166, &joined)?;
    let mut rows = backend.buffer(100, &a)?;
    backend.times_sigmoid(&mut rows, &backend.buffer(1, &b[..count / 100])?)?;
    let weighed = a.iter().enumerate().map(|(i, a)| a / (1.0 + libm::expf(-b[i / 100])));
    compare_buffer(backend, "sigmoid", &rows, 100, &weighed.collect::<Vec<f32>>())?;
    let columns = backend.columns(&backend.buffer(100, &a)?, 20..50)?;
    let expected: Vec<f32> = a.chunks(100).flat_map(|row| &row[20..50]).copied().collect();
    compare_buffer(backend, "columns", &columns, 30, &expected)?;
    let mut rows = backend.buffer(100, &a)?;
    backend.add_bias(&mut rows, &backend.buffer(100, &b[..100])?)?;
    let expected: Vec<f32> = a.iter().enumerate().map(|(i, a)| a + b[i % 100]).collect();
    compare_buffer(backend, "bias", &rows, 100, &expected)
}

fn copies<B: Backend>(backend: &B) -> Checked {
    let numbers = made_up(60, 24);
    let first = backend.buffer(5, &numbers)?;
    let mut second = backend.copy(&first)?;
    backend.add(&mut second, &first)?;
    compare_buffer(backend, "what was copied", &first, 5, &numbers)?;
    let doubled: Vec<f32> = numbers.iter().map(|number| number + number).collect();
    compare_buffer(backend, "a copy", &second, 5, &doubled)?;
    let stacked = backend.stack(&[&first, &second])?;
    compare_buffer(backend, "stack", &stacked, 5, &[numbers, doubled].concat())?;
    let numbers = backend.take_numbers(stacked)?;
    compare_buffer(backend, "numbers", &backend.buffer(5, &numbers)?, 5, &numbers)?;
    compare_buffer(backend, "zeros", &backend.zeros(3, 7)?, 7, &[0.0; 21])
}

fn experts<B: Backend>(backend: &B) -> Checked {
    let plain = Router::plain(6, 2);
    routing(backend, &plain, false)?;
    routing(
        backend,
        &Router { gating: Gating::SoftmaxOfChosen, normalize: false, ..plain },
        false,
    )?;
    let sparse = Router { gating: Gating::SparseMixer, normalize: false, ..plain };
    routing(backend, &sparse, false)?;
    routing(backend, &Router { gating: Gating::Sigmoid, groups: Some((3, 2)), ..plain }, true)
}

/// Experts as a router chooses them, and the sums of what they give.
fn routing<B: Backend>(backend: &B, router: &Router, with_bias: bool) -> Checked {
    let (tokens, experts, width) = (7, router.experts, 3);
    let scores = made_up(tokens * experts, 12);
    let bias = with_bias.then(|| made_up(experts, 16));
    let there = bias.as_deref().map(|bias| backend.buffer(experts, bias)).transpose()?;
    let loads = backend.route(router, &backend.buffer(experts, &scores)?, there.as_ref())?;
    let expected = reference::route(router, &scores, bias.as_deref());
    let input = made_up(tokens * width, 13);
    let (mut sums, there) = (backend.zeros(tokens, width)?, backend.buffer(width, &input)?);
    for (load, expected) in loads.iter().zip(&expected) {
        if load.tokens != expected.tokens {
            return Err(
                format!("routing: {:?}, expected {:?}", load.tokens, expected.tokens).into()
            );
        }
        compare("weights of experts", &load.weights, &expected.weights)?;
        let own = backend.gather(&there, &load.tokens)?;
        backend.scatter_add(&mut sums, load, &own)?;
    }
    if loads.len() != experts {
        return Err(format!("routing: {} experts instead of {experts}", loads.len()).into());
    }
    let mut weights = vec![0.0; tokens];
    for load in &expected {
        load.tokens.iter().zip(&load.weights).for_each(|(token, weight)| weights[*token] += weight);
    }
    if router.gating != Gating::SparseMixer {
        compare("weights of tokens", &weights, &vec![1.0; tokens])?;
    }
    let given = input.iter().enumerate().map(|(at, number)| number * weights[at / width]);
    compare_buffer(backend, "sums of experts", &sums, width, &given.collect::<Vec<f32>>())
}

fn non_finite<B: Backend>(backend: &B) -> Checked {
    let mut found = backend.zeros(1, 3)?;
    for (at, value) in [1.0, f32::NAN, f32::NEG_INFINITY].into_iter().enumerate() {
        let mut numbers = made_up(1000, 14);
        numbers[777] = value;
        backend.check_finite(&backend.buffer(50, &numbers)?, &mut found, at)?;
    }
    compare_buffer(backend, "rows that are not finite", &found, 3, &[-1.0, 15.0, 15.0])
}

/// Shapes that do not fit are refused.
fn mismatches<B: Backend>(backend: &B) -> Checked {
    let buffer = |rows: usize, columns: usize| backend.zeros(rows, columns);
    let refused = |outcome: Result<(), Error>| match outcome {
        Err(Error::Shape { .. }) => Ok(()),
        other => Err(format!("shapes that do not fit: {other:?}")),
    };
    let matrix = backend.matrix(DataType::F32, 2, 3, vec![0; 24])?;
    let (mut pair, wide, tall) = (buffer(2, 4)?, buffer(2, 5)?, buffer(3, 4)?);
    refused(backend.buffer(4, &[0.0; 6]).map(drop))?;
    refused(backend.matmul(Rounding::Exact, &pair, &matrix).map(drop))?;
    let micro = Activations::Micro(Number::E2M1).with(1.0);
    refused(backend.round_inputs(&pair, &micro).map(drop))?;
    refused(backend.rms_norm(&pair, &wide, 1, 1e-5).map(drop))?;
    refused(backend.layer_norm(&pair, &buffer(1, 4)?, Some(&wide), 1, 1e-5).map(drop))?;
    refused(backend.layer_norm(&pair, &buffer(1, 4)?, None, 3, 1e-5).map(drop))?;
    let rotation = Rotation { head_size: 4, first: 0, count: 4, pairs: RotaryPairs::Halves };
    refused(backend.rotate(&mut pair, &rotation, &wide))?;
    refused(backend.rotate(&mut pair, &rotation, &tall))?;
    let shape = Attention::plain(2, 1, 2);
    let mut cache = backend.cache(&shape, 4, DataType::F32)?;
    let (keys, mut out) = (buffer(2, 2)?, buffer(2, 4)?);
    refused(backend.store(&mut cache, 0, &keys, &pair, 0..2))?;
    refused(backend.store(&mut cache, 0, &keys, &keys, 0..3))?;
    let queries = |buffer, rows| Queries { buffer, rows, position: 0 };
    refused(backend.attend(&shape, None, None, &cache, queries(&wide, 0..2), &mut out))?;
    refused(backend.attend(&shape, Some(&pair), None, &cache, queries(&pair, 0..2), &mut out))?;
    let learned = Some(&pair);
    refused(backend.attend(&shape, None, learned, &cache, queries(&pair, 0..2), &mut out))?;
    refused(backend.rowwise(&Rowwise::Times, &[&pair, &wide]).map(drop))?;
    refused(backend.activate_times(Activation::Silu, &mut out, Some(&tall)))?;
    refused(backend.columns(&pair, 2..5).map(drop))?;
    refused(backend.join(&[JoinedColumns { buffer: &pair, size: 4, columns: 3..5 }]).map(drop))?;
    refused(backend.times_sigmoid(&mut out, &tall))?;
    refused(backend.add(&mut out, &wide))?;
    refused(backend.add_bias(&mut out, &wide))?;
    refused(backend.route(&Router::plain(6, 2), &pair, None).map(drop))?;
    refused(backend.gather(&pair, &[2]).map(drop))?;
    refused(backend.stack(&[&pair, &wide]).map(drop))?;
    let load = ExpertLoad { tokens: vec![0], weights: vec![1.0] };
    refused(backend.scatter_add(&mut out, &load, &pair))?;
    refused(backend.check_finite(&pair, &mut out, 8))?;
    refused(backend.add_products(&mut out, &pair, &pair, 0..2))?;
    refused(backend.add_gram(&mut out, &wide, 0, 0..2))?;
    refused(backend.add_gram(&mut out, &pair, 0, 1..3))?;
    refused(backend.factor(2, vec![1.0; 3]).map(drop))?;
    Ok(())
}
