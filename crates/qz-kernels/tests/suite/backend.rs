//! The processor as a backend: what it computes is what the reference computes, with every
//! instruction set and any number of threads.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use qz_codec::number::{f16_from_f32, f32_from_f16};
use qz_kernels::backend::{
    Attention, Backend, CpuBackend, FewTokens, Queries, Rounding, Shaped, conformance,
    failing::Failing, reference::ReferenceBackend, round_activations,
};
use qz_kernels::{Isa, Workers, codec_for, stop};
use qz_tensor::{DataType, Diagnose, FaultClass};

use crate::on;

/// The instruction sets that this machine has.
fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.iter().copied().filter(|isa| isa.is_supported())
}

#[test]
fn conforms() {
    for (threads, few) in [(1, FewTokens::AsMany), (1, FewTokens::Own), (3, FewTokens::Own)] {
        let backend = on(threads).with_few_tokens(few);
        conformance::check(&backend).unwrap_or_else(|problem| panic!("{problem}"));
    }
}

/// The reference is what it says it is, and what fails later is the same until then.
#[test]
fn the_reference_conforms() {
    conformance::check(&ReferenceBackend).unwrap_or_else(|problem| panic!("{problem}"));
}

#[test]
fn a_lost_device_is_an_error_of_the_operation() {
    let backend = Failing::after(2, ReferenceBackend);
    let mut ones = backend.buffer(2, &[1.0; 4]).expect("the first operation");
    let other = backend.copy(&ones).expect("the second operation");
    let error = backend.add(&mut ones, &other).expect_err("the device is lost");
    assert_eq!(error.to_string(), "the device failed in the operation `add`: the device is lost");
    assert_eq!(error.diagnosis().class, FaultClass::Environment);
    assert!(backend.copy(&other).is_err(), "it stays lost");
}

/// The products of tokens and a matrix.
fn products(
    backend: &CpuBackend,
    activations: &[f32],
    matrix: &<CpuBackend as Backend>::Matrix,
    rounding: Rounding,
) -> Vec<f32> {
    let activations = backend.buffer(matrix.columns(), activations).expect("a buffer");
    backend.matmul(rounding, &activations, matrix).expect("computed").to_vec()
}

/// A long context and a large product, which would take seconds.
#[test]
fn a_stop_is_heard() {
    let flag = stop::Flag::default();
    let backend = CpuBackend::new(&Workers::stopped_by(2, &flag).expect("threads"));
    let shape = Attention::plain(32, 1, 64);
    let tokens = 16 * 1024;
    let cache = backend.cache(&shape, tokens, DataType::F32).expect("a cache");
    let width = shape.query_width();
    let queries = backend.buffer(width, &vec![0.5; tokens / 8 * width]).expect("a buffer");
    let mut out = queries.clone();
    let (rows, columns) = (4096, 4096);
    let matrix = backend.matrix(DataType::F32, rows, columns, vec![0; rows * columns * 4]);
    let matrix = matrix.expect("fits");
    let activations = backend.buffer(columns, &vec![0.5; 512 * columns]).expect("a buffer");
    let setter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        flag.store(true, Ordering::Relaxed);
        Instant::now()
    });
    let rows = 0..tokens / 8;
    let queries = Queries { buffer: &queries, rows, position: tokens - tokens / 8 };
    backend.attend(&shape, None, None, &cache, queries, &mut out).expect("computed");
    let attended = Instant::now();
    let set = setter.join().expect("no panic");
    assert!(attended.saturating_duration_since(set) < Duration::from_secs(2));
    backend.matmul(Rounding::Exact, &activations, &matrix).expect("computed");
    assert!(attended.elapsed() < Duration::from_secs(2));
}

#[test]
fn every_instruction_set_conforms() {
    for isa in sets() {
        let backend = on(2).with_few_tokens(FewTokens::Own);
        conformance::check(&backend.with_isa(isa))
            .unwrap_or_else(|problem| panic!("{isa}: {problem}"));
    }
}

/// Blocks of any bytes but for the units, which lie at `units`: levels and scales that
/// no encoder makes, with activations as large as they can be.
#[test]
fn one_token_takes_every_block() {
    let check = |data_type: DataType, units: &[usize]| {
        let (rows, columns) = (5, 1024);
        let size = rows * columns / data_type.block_elements() * data_type.block_bytes();
        let numbers = conformance::made_up(size, 3);
        let mut bytes: Vec<u8> = numbers.iter().map(|x| (x * 1e4) as i32 as u8).collect();
        // The highest levels and scales.
        bytes[..data_type.block_bytes()].fill(0xff);
        for block in bytes.chunks_exact_mut(data_type.block_bytes()) {
            units.iter().for_each(|unit| block[unit + 1] = 0x2c);
        }
        let signs = conformance::made_up(columns, 4);
        let activations: Vec<f32> = signs.iter().map(|x| 1.0f32.copysign(*x)).collect();
        let run = |isa| {
            let backend = on(1);
            let backend = backend.with_few_tokens(FewTokens::Own).with_isa(isa);
            let matrix = backend.matrix(data_type, rows, columns, bytes.clone());
            products(&backend, &activations, &matrix.expect("fits"), Rounding::Engine)
        };
        let expected = run(Isa::Baseline);
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        for isa in sets() {
            for (found, expected) in run(isa).iter().zip(&expected) {
                let within = (found - expected).abs() <= 1e-5 * largest;
                assert!(within, "{data_type} {isa}: {found}, not {expected}");
            }
        }
    };
    check(DataType::Q8_0, &[0]);
    check(DataType::Q2_K, &[80, 82]);
    check(DataType::Q3_K, &[108]);
    check(DataType::Q4_K, &[0, 2]);
    check(DataType::Q5_K, &[0, 2]);
    check(DataType::Q6_K, &[208]);
    check(DataType::IQ4_XS, &[0]);
}

#[test]
fn a_token_is_the_same_in_any_company() {
    for (data_type, rows, columns) in
        [(DataType::F32, 35, 512), (DataType::BF16, 35, 512), (DataType::Q4_K, 35, 512)]
    {
        let weights = conformance::made_up(rows * columns, 1);
        let blocks = rows * columns / data_type.block_elements();
        let mut bytes = vec![0; blocks * data_type.block_bytes()];
        codec_for(data_type).expect("a codec").encode(&weights, columns, None, &mut bytes);
        let activations = conformance::made_up(23 * columns, 2);
        let backend = on(2);
        let matrix = backend.matrix(data_type, rows, columns, bytes).expect("fits");
        let run = |tokens: usize| {
            products(&backend, &activations[..tokens * columns], &matrix, Rounding::Engine)
        };
        let all = run(23);
        for tokens in [1, 4, 5, 17] {
            assert!(run(tokens) == all[..tokens * rows], "{data_type} {tokens}");
        }
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let shapes = [(DataType::F32, 301, 512), (DataType::Q8_0, 301, 512)];
    let more = [(DataType::Q4_K, 301, 512), (DataType::BF16, 51, 4608)];
    for (data_type, rows, columns) in shapes.into_iter().chain(more) {
        let weights = conformance::made_up(rows * columns, 1);
        let blocks = rows * columns / data_type.block_elements();
        let mut bytes = vec![0; blocks * data_type.block_bytes()];
        codec_for(data_type).expect("a codec").encode(&weights, columns, None, &mut bytes);
        for tokens in [1, 3, 23] {
            let activations = conformance::made_up(tokens * columns, 2);
            let run = |threads| {
                let backend = on(threads);
                let backend = backend.with_few_tokens(FewTokens::Own);
                let matrix = backend.matrix(data_type, rows, columns, bytes.clone());
                let matrix = matrix.expect("fits");
                [Rounding::Engine, Rounding::Exact]
                    .map(|rounding| products(&backend, &activations, &matrix, rounding))
            };
            assert!(run(1) == run(2), "{data_type} {tokens}");
            assert!(run(1) == run(5), "{data_type} {tokens}");
        }
    }
}

#[test]
fn rounding_keeps_what_fits() {
    // Multiples of a scale that is a power of two, 127 among them.
    let values: Vec<f32> = (0..256u16).map(|i| f32::from(i % 255) - 127.0).collect();
    for data_type in [DataType::F16, DataType::BF16, DataType::Q8_0, DataType::Q8_1] {
        let mut rounded = values.clone();
        rounded.iter_mut().for_each(|value| *value *= 0.25);
        // Every block has the same largest magnitude.
        rounded.chunks_mut(32).for_each(|block| block[0] = 127.0 * 0.25);
        let before = rounded.clone();
        round_activations(data_type, 256, &mut rounded);
        assert_eq!(rounded, before, "{data_type}");
    }
    let mut rounded = vec![0.3; 256];
    round_activations(DataType::F16, 256, &mut rounded);
    assert_eq!(rounded[0], f32_from_f16(f16_from_f32(0.3)));
}
