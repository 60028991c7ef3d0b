//! What every backend must compute: its operations beside the reference's, on made-up
//! numbers.

use qz_codec::CODECS;
use qz_tensor::DataType;

use super::{Attention, Backend, RotaryPairs, Rounding, reference};

/// Differences allowed, relative to the largest number: sums in another order, and
/// exponentials and sines of another library.
const TOLERANCE: f32 = 2e-5;

/// Compares every operation.
///
/// # Errors
/// What differs first.
pub fn check<B: Backend>(backend: &B) -> Result<(), String> {
    matmuls(backend)?;
    norms(backend)?;
    rotations(backend)?;
    attentions(backend)?;
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

fn compare(what: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} numbers instead of {}", found.len(), expected.len()));
    }
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    for (position, (found, expected)) in found.iter().zip(expected).enumerate() {
        let within = (found - expected).abs() <= TOLERANCE * largest;
        if !within {
            return Err(format!("{what}: number {position} is {found}, expected {expected}"));
        }
    }
    Ok(())
}

fn contents<B: Backend>(backend: &B, buffer: &B::Buffer, count: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; count];
    backend.read(buffer, 0, &mut numbers);
    numbers
}

/// Every type with every count of tokens up to one past a panel, and more, and odd counts
/// of rows.
fn matmuls<B: Backend>(backend: &B) -> Result<(), String> {
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
) -> Result<(), String> {
    let what =
        format!("matmul of {tokens} x {columns} by {rows} rows of {data_type}, {rounding:?}");
    let size = rows * columns / data_type.block_elements() * data_type.block_bytes();
    let bytes: Vec<u8> = bytes.iter().copied().cycle().take(size).collect();
    let activations = made_up(tokens * columns, 2);
    let expected = reference::matmul(rounding, &activations, columns, data_type, &bytes)
        .map_err(|error| error.to_string())?;
    let matrix =
        backend.matrix(data_type, rows, columns, bytes).map_err(|error| error.to_string())?;
    let mut out = backend.zeros(tokens * rows);
    backend.matmul(rounding, &backend.buffer(&activations), &matrix, &mut out);
    compare(&what, &contents(backend, &out, tokens * rows), &expected)
}

fn norms<B: Backend>(backend: &B) -> Result<(), String> {
    for (rows, width) in [(1, 1), (3, 64), (5, 100)] {
        let (input, weights) = (made_up(rows * width, 3), made_up(width, 4));
        let expected: Vec<f32> =
            input.chunks(width).flat_map(|row| reference::rms_norm(row, &weights, 1e-5)).collect();
        let mut out = backend.zeros(rows * width);
        backend.rms_norm(&backend.buffer(&input), &backend.buffer(&weights), 1e-5, &mut out);
        compare("rms norm", &contents(backend, &out, rows * width), &expected)?;
    }
    Ok(())
}

fn rotations<B: Backend>(backend: &B) -> Result<(), String> {
    let (positions, heads, size) = (5, 3, 8);
    let table: Vec<f32> = made_up(positions * size / 2, 5)
        .iter()
        .flat_map(|angle| [angle.cos(), angle.sin()])
        .collect();
    let input = made_up(2 * positions * heads * size, 6);
    for pairs in [RotaryPairs::Adjacent, RotaryPairs::Halves] {
        let mut expected = input.clone();
        for (head, numbers) in expected.chunks_mut(size).enumerate() {
            let table = &table[head / heads % positions * size..][..size];
            reference::rotate(numbers, pairs, table);
        }
        let mut rows = backend.buffer(&input);
        backend.rotate(&mut rows, heads * size, size, pairs, &backend.buffer(&table));
        compare("rotary embedding", &contents(backend, &rows, input.len()), &expected)?;
    }
    Ok(())
}

fn attentions<B: Backend>(backend: &B) -> Result<(), String> {
    for (heads, key_value_heads) in [(1, 1), (4, 4), (6, 2)] {
        for window in [None, Some(1), Some(5)] {
            let shape = Attention { heads, key_value_heads, head_size: 32, scale: 0.3, window };
            for data_type in [DataType::F32, DataType::F16] {
                attention(backend, &shape, data_type)?;
            }
        }
    }
    // Heads that fill no vector.
    let shape = Attention { heads: 3, key_value_heads: 1, head_size: 20, scale: 1.0, window: None };
    attention(backend, &shape, DataType::F32)?;
    match backend.cache(&shape, 4, DataType::Q8_0) {
        Err(_) => Ok(()),
        Ok(_) => Err("a cache of Q8_0 was made for heads of 20".to_owned()),
    }
}

/// A sequence whose second part comes later, and whose rows are not the buffer's first.
fn attention<B: Backend>(
    backend: &B,
    shape: &Attention,
    data_type: DataType,
) -> Result<(), String> {
    let (before, positions, first_part) = (2, 43, 26);
    let width = shape.key_value_width();
    let rows = before + positions;
    let queries = made_up(rows * shape.query_width(), 7);
    let mut keys = made_up(rows * width, 8);
    let mut values = made_up(rows * width, 9);
    let fail = |error: super::Error| error.to_string();
    let mut cache = backend.cache(shape, positions, data_type).map_err(fail)?;
    let mut out = backend.zeros(queries.len());
    let buffers = [&queries, &keys, &values].map(|numbers| backend.buffer(numbers));
    for part in [0..first_part, first_part..positions] {
        let rows = before + part.start..before + part.end;
        backend.store(&mut cache, part.start, &buffers[1], &buffers[2], rows.clone());
        backend.attend(shape, &cache, part.start, &buffers[0], rows, &mut out);
    }
    super::round_activations(data_type, shape.head_size, &mut keys);
    super::round_activations(data_type, shape.head_size, &mut values);
    let mut expected = vec![0.0; queries.len()];
    for position in 0..positions {
        for head in 0..shape.heads {
            let own = (before + position) * shape.query_width() + head * shape.head_size;
            let own = own..own + shape.head_size;
            let served = head * shape.key_value_heads / shape.heads;
            let of_head = |numbers: &[f32]| -> Vec<f32> {
                let rows = numbers[before * width..].chunks(width);
                rows.flat_map(|row| row[served * shape.head_size..][..shape.head_size].to_vec())
                    .collect()
            };
            let result = reference::attend(
                shape,
                position,
                &queries[own.clone()],
                &of_head(&keys),
                &of_head(&values),
            );
            expected[own].copy_from_slice(&result);
        }
    }
    let what = format!("attention {shape:?} with {data_type} keys");
    compare(&what, &contents(backend, &out, queries.len()), &expected)
}

fn elementwise<B: Backend>(backend: &B) -> Result<(), String> {
    let count = 20_000;
    let (a, b) = (made_up(count, 10), made_up(count, 11));
    let expect = |work: &dyn Fn(f32, f32) -> f32| -> Vec<f32> {
        a.iter().zip(&b).map(|(a, b)| work(*a, *b)).collect()
    };
    let mut sum = backend.buffer(&a);
    backend.add(&mut sum, &backend.buffer(&b));
    compare("add", &contents(backend, &sum, count), &expect(&|a, b| a + b))?;
    let mut gate = backend.buffer(&a);
    backend.silu_times(&mut gate, &backend.buffer(&b));
    compare("silu", &contents(backend, &gate, count), &expect(&reference::silu_times))?;
    let mut rows = backend.buffer(&a);
    backend.add_bias(&mut rows, &backend.buffer(&b[..100]));
    let expected: Vec<f32> = a.iter().enumerate().map(|(i, a)| a + b[i % 100]).collect();
    compare("bias", &contents(backend, &rows, count), &expected)
}

fn experts<B: Backend>(backend: &B) -> Result<(), String> {
    let (tokens, experts, used, width) = (7, 5, 2, 3);
    let scores = made_up(tokens * experts, 12);
    let loads = backend.route(&backend.buffer(&scores), experts, used);
    let expected = reference::route(&scores, experts, used);
    let input = made_up(tokens * width, 13);
    let mut sums = backend.zeros(tokens * width);
    for (load, expected) in loads.iter().zip(&expected) {
        if load.tokens != expected.tokens {
            return Err(format!("routing: {:?}, expected {:?}", load.tokens, expected.tokens));
        }
        compare("weights of experts", &load.weights, &expected.weights)?;
        let own = backend.gather(&backend.buffer(&input), width, &load.tokens);
        backend.scatter_add(&mut sums, width, load, &own);
    }
    if loads.len() != experts {
        return Err(format!("routing: {} experts instead of {experts}", loads.len()));
    }
    // A token's weights sum up to 1.
    compare("sums of experts", &contents(backend, &sums, tokens * width), &input)
}

fn non_finite<B: Backend>(backend: &B) -> Result<(), String> {
    for (value, expected) in [(1.0, None), (f32::NAN, Some(777)), (f32::NEG_INFINITY, Some(777))] {
        let mut numbers = made_up(1000, 14);
        numbers[777] = value;
        let found = backend.first_non_finite(&backend.buffer(&numbers));
        if found != expected {
            return Err(format!("number 777 is {value}; not finite: {found:?}"));
        }
    }
    Ok(())
}
