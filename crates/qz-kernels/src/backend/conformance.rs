//! What every backend must compute: its operations beside the reference's, on made-up
//! numbers.

mod recurrences;

use qz_codec::CODECS;
use qz_tensor::DataType;

use super::{
    Activation, Attention, Backend, Gating, Part, Queries, RotaryPairs, Rotation, Rounding, Router,
    Scan, ScanWeights, reference,
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
    elementwise(backend)?;
    experts(backend)?;
    non_finite(backend)
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

fn contents<B: Backend>(backend: &B, buffer: &B::Buffer, count: usize) -> Checked<Vec<f32>> {
    let mut numbers = vec![0.0; count];
    backend.read(buffer, 0, &mut numbers)?;
    Ok(numbers)
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
    let matrix = backend.matrix(data_type, rows, columns, bytes)?;
    let mut out = backend.zeros(tokens * rows)?;
    backend.matmul(rounding, &backend.buffer(&activations)?, &matrix, &mut out)?;
    compare(&what, &contents(backend, &out, tokens * rows)?, &expected)
}

fn norms<B: Backend>(backend: &B) -> Checked {
    for (rows, width) in [(1, 1), (3, 64), (5, 100)] {
        let (input, weights) = (made_up(rows * width, 3), made_up(width, 4));
        let expected: Vec<f32> =
            input.chunks(width).flat_map(|row| reference::rms_norm(row, &weights, 1e-5)).collect();
        let mut out = backend.zeros(rows * width)?;
        backend.rms_norm(
            &backend.buffer(&input)?,
            &backend.buffer(&weights)?,
            1,
            1e-5,
            &mut out,
        )?;
        compare("rms norm", &contents(backend, &out, rows * width)?, &expected)?;
    }
    let (input, weights, bias) = (made_up(300, 3), made_up(100, 4), made_up(100, 23));
    for bias in [None, Some(&bias)] {
        let row = |row: &[f32]| reference::layer_norm(row, &weights, bias.map(|b| &b[..]), 1e-5);
        let expected: Vec<f32> = input.chunks(100).flat_map(row).collect();
        let there = [backend.buffer(&input)?, backend.buffer(&weights)?];
        let bias = bias.map(|bias| backend.buffer(bias)).transpose()?;
        let mut out = backend.zeros(300)?;
        backend.layer_norm(&there[0], &there[1], bias.as_ref(), 1e-5, &mut out)?;
        compare("layer norm", &contents(backend, &out, 300)?, &expected)?;
    }
    let (input, weights) = (made_up(60, 3), made_up(20, 4));
    let parts = input.chunks(5).zip(weights.chunks(5).cycle());
    let expected: Vec<f32> =
        parts.flat_map(|(part, weights)| reference::rms_norm(part, weights, 1e-5)).collect();
    let mut out = backend.zeros(60)?;
    backend.rms_norm(&backend.buffer(&input)?, &backend.buffer(&weights)?, 4, 1e-5, &mut out)?;
    compare("rms norm in groups", &contents(backend, &out, 60)?, &expected)?;
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
            .flat_map(|angle| [angle.cos(), angle.sin()])
            .collect();
        let input = made_up(2 * positions * heads * head_size, 6);
        let mut expected = input.clone();
        for (head, numbers) in expected.chunks_mut(head_size).enumerate() {
            let table = &table[head / heads % positions * count..][..count];
            reference::rotate(numbers, &rotation, table);
        }
        let mut rows = backend.buffer(&input)?;
        backend.rotate(&mut rows, heads * head_size, &rotation, &backend.buffer(&table)?)?;
        let what = format!("rotary embedding {rotation:?}");
        compare(&what, &contents(backend, &rows, input.len())?, &expected)?;
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
    // Heads that fill no vector.
    let shape = Attention { scale: 1.0, ..Attention::plain(3, 1, 20) };
    attention(backend, &shape, false, DataType::F32)?;
    let shape = Attention { value_size: 12, soft_cap: Some(0.7), ..shape };
    attention(backend, &shape, false, DataType::F32)?;
    attention(backend, &Attention { value_size: 40, ..shape }, true, DataType::F32)?;
    let shape = Attention { is_causal: false, ..Attention::plain(2, 2, 32) };
    attention(backend, &shape, false, DataType::F32)?;
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
    let mut out = backend.zeros(rows * shape.result_width())?;
    let sinks_there = sinks.as_deref().map(|sinks| backend.buffer(sinks)).transpose()?;
    let buffers = [backend.buffer(&queries)?, backend.buffer(&keys)?, backend.buffer(&values)?];
    for part in [0..first_part, first_part..positions] {
        let rows = before + part.start..before + part.end;
        backend.store(&mut cache, part.start, &buffers[1], &buffers[2], rows.clone())?;
        let sinks = sinks_there.as_ref();
        let queries = Queries { buffer: &buffers[0], rows, position: part.start };
        backend.attend(shape, sinks, &cache, queries, &mut out)?;
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
                (position, if position < first_part { first_part } else { positions }),
                &queries[own(shape.query_width(), shape.key_size)],
                &of_head(&keys, shape.key_width(), shape.key_size),
                &of_head(&values, shape.value_width(), shape.value_size),
            );
            expected[own(shape.result_width(), shape.value_size)].copy_from_slice(&result);
        }
    }
    let what = format!("attention {shape:?} with {data_type} keys, sinks: {with_sinks}");
    compare(&what, &contents(backend, &out, expected.len())?, &expected)
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
    let expected = reference::scan(&shape, &weights, &input[before * shape.width()..]);
    let there = [&convolution, &bias, &steps, &decay, &skip].map(|own| backend.buffer(own));
    let there = there.into_iter().collect::<Result<Vec<_>, _>>()?;
    let weights = ScanWeights {
        convolution: &there[0],
        convolution_bias: &there[1],
        time_step: &there[2],
        decay: &there[3],
        skip: &there[4],
    };
    let mut state = backend.zeros(shape.state())?;
    let mut out = backend.zeros((before + tokens) * shape.inner())?;
    for part in [0..1, 1..first_part, first_part..tokens] {
        let rows = before + part.start..before + part.end;
        backend.scan(&shape, &weights, &mut state, &backend.buffer(&input)?, rows, &mut out)?;
    }
    let found = contents(backend, &out, (before + tokens) * shape.inner())?;
    compare("state space", &found[before * shape.inner()..], &expected)
}

fn elementwise<B: Backend>(backend: &B) -> Checked {
    let count = 20_000;
    let (a, b) = (made_up(count, 10), made_up(count, 11));
    let expect = |work: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
        a.iter().zip(&b).map(|(a, b)| work(*a, *b)).collect()
    };
    let mut sum = backend.buffer(&a)?;
    backend.add(&mut sum, &backend.buffer(&b)?)?;
    compare("add", &contents(backend, &sum, count)?, &expect(&|a, b| a + b))?;
    for activation in [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::GeluHalf,
        Activation::ClampedSilu,
        Activation::Sigmoid,
        Activation::Identity,
    ] {
        // Past the limits of what is clamped.
        let mut gate = backend.buffer(&a.iter().map(|x| x * 9.0).collect::<Vec<f32>>())?;
        backend.activate_times(activation, &mut gate, Some(&backend.buffer(&b)?))?;
        let expected = expect(&|a, b| reference::activate_times(activation, a * 9.0, b));
        compare(&format!("{activation:?}"), &contents(backend, &gate, count)?, &expected)?;
        let mut alone = backend.buffer(&a)?;
        backend.activate_times(activation, &mut alone, None)?;
        let expected = expect(&|a, _| reference::activate_times(activation, a, 1.0));
        compare(&format!("{activation:?} alone"), &contents(backend, &alone, count)?, &expected)?;
    }
    let there = [backend.buffer(&a)?, backend.buffer(&b)?];
    let parts = [
        Part { buffer: &there[0], size: 100, columns: 10..70 },
        Part { buffer: &there[1], size: 100, columns: 0..20 },
    ];
    let joined =
        a.chunks(100).zip(b.chunks(100)).flat_map(|(a, b)| [&a[10..70], &b[..20]].concat());
    let joined: Vec<f32> = joined.collect();
    compare("join", &contents(backend, &backend.join(&parts)?, joined.len())?, &joined)?;
    let mut rows = backend.buffer(&a)?;
    backend.times_sigmoid(&mut rows, 100, &there[1])?;
    let weighed = a.iter().enumerate().map(|(i, a)| a / (1.0 + (-b[i / 100]).exp()));
    compare("sigmoid", &contents(backend, &rows, count)?, &weighed.collect::<Vec<f32>>())?;
    let columns = backend.columns(&backend.buffer(&a)?, 100, 20..50)?;
    let expected: Vec<f32> = a.chunks(100).flat_map(|row| &row[20..50]).copied().collect();
    compare("columns", &contents(backend, &columns, expected.len())?, &expected)?;
    let mut rows = backend.buffer(&a)?;
    backend.add_bias(&mut rows, &backend.buffer(&b[..100])?)?;
    let expected: Vec<f32> = a.iter().enumerate().map(|(i, a)| a + b[i % 100]).collect();
    compare("bias", &contents(backend, &rows, count)?, &expected)
}

fn experts<B: Backend>(backend: &B) -> Checked {
    let plain = Router::plain(6, 2);
    routing(backend, &plain, false)?;
    routing(
        backend,
        &Router { gating: Gating::SoftmaxOfChosen, normalize: false, ..plain },
        false,
    )?;
    routing(backend, &Router { gating: Gating::Sigmoid, groups: Some((3, 2)), ..plain }, true)
}

/// Experts as a router chooses them, whose weights sum up to 1.
fn routing<B: Backend>(backend: &B, router: &Router, with_bias: bool) -> Checked {
    let (tokens, experts, width) = (7, router.experts, 3);
    let scores = made_up(tokens * experts, 12);
    let bias = with_bias.then(|| made_up(experts, 16));
    let there = bias.as_deref().map(|bias| backend.buffer(bias)).transpose()?;
    let loads = backend.route(router, &backend.buffer(&scores)?, there.as_ref())?;
    let expected = reference::route(router, &scores, bias.as_deref());
    let input = made_up(tokens * width, 13);
    let mut sums = backend.zeros(tokens * width)?;
    for (load, expected) in loads.iter().zip(&expected) {
        if load.tokens != expected.tokens {
            return Err(
                format!("routing: {:?}, expected {:?}", load.tokens, expected.tokens).into()
            );
        }
        compare("weights of experts", &load.weights, &expected.weights)?;
        let own = backend.gather(&backend.buffer(&input)?, width, &load.tokens)?;
        backend.scatter_add(&mut sums, width, load, &own)?;
    }
    if loads.len() != experts {
        return Err(format!("routing: {} experts instead of {experts}", loads.len()).into());
    }
    // A token's weights sum up to 1.
    compare("sums of experts", &contents(backend, &sums, tokens * width)?, &input)
}

fn non_finite<B: Backend>(backend: &B) -> Checked {
    for (value, expected) in [(1.0, None), (f32::NAN, Some(777)), (f32::NEG_INFINITY, Some(777))] {
        let mut numbers = made_up(1000, 14);
        numbers[777] = value;
        let found = backend.first_non_finite(&backend.buffer(&numbers)?)?;
        if found != expected {
            return Err(format!("number 777 is {value}; not finite: {found:?}").into());
        }
    }
    Ok(())
}
