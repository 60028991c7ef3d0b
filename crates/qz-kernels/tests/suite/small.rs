//! Every kernel in its smallest shapes: whole register tiles, and what does not fill one. They
//! are small enough for Miri (`.ci/run`), which looks at each access to memory.

use qz_kernels::backend::{
    Activation, Attention, Backend, CpuBackend, FewTokens, Queries, Rounding, conformance::made_up,
};
use qz_kernels::{Isa, gemm, tile};
use qz_tensor::DataType;

use crate::on;

/// Compares what is computed with every instruction set with what is computed without.
fn check(what: &str, compute: impl Fn(&CpuBackend) -> Vec<f32>) {
    let run = |isa| {
        let backend = on(2).with_few_tokens(FewTokens::Own);
        compute(&backend.with_isa(isa))
    };
    let expected = run(Isa::Baseline);
    let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0 && largest.is_finite(), "{what}: {largest}");
    for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_supported()).skip(1) {
        for (found, expected) in run(isa).iter().zip(&expected) {
            assert!((found - expected).abs() <= 2e-5 * largest, "{what} {isa}: {found} {expected}");
        }
    }
}

/// Five short rows of blocks of any bytes but for the units, which lie at `units`.
fn check_products(data_type: DataType, units: &[usize]) {
    let (rows, columns) = (5, data_type.block_elements().max(32));
    let size = rows * columns / data_type.block_elements() * data_type.block_bytes();
    let numbers = made_up(size, 3);
    let mut bytes: Vec<u8> = numbers.iter().map(|x| (x * 1e4) as i32 as u8).collect();
    for block in bytes.chunks_exact_mut(data_type.block_bytes()) {
        units.iter().for_each(|unit| block[unit + 1] = 0x2c);
    }
    // One token, few, and more than a panel of AVX2 has; of long rows no few, for Miri's time.
    for tokens in [1, 3, 9].into_iter().filter(|tokens| columns < 256 || *tokens != 3) {
        check(&format!("{data_type} {tokens}"), |backend| {
            let matrix = backend.matrix(data_type, rows, columns, bytes.clone()).expect("fits");
            let activations = backend.buffer(columns, &made_up(tokens * columns, 4));
            let activations = activations.expect("a buffer");
            backend.matmul(Rounding::Engine, &activations, &matrix).expect("computed").to_vec()
        });
    }
}

#[test]
fn products_of_levels() {
    check_products(DataType::Q4_K, &[0, 2]);
    check_products(DataType::Q4_0, &[0]);
}

#[test]
fn products_of_words() {
    check_products(DataType::Q8_0, &[0]);
    check_products(DataType::IQ2_S, &[0]);
}

#[test]
fn products_of_floats() {
    check_products(DataType::BF16, &[0]);
}

#[test]
fn attention() {
    let shape = Attention::plain(2, 1, 8);
    let (keys, queries) = (made_up(7 * 8, 1), made_up(7 * 16, 2));
    check("attention", |backend| {
        let mut cache = backend.cache(&shape, 7, DataType::F32).expect("a cache");
        let keys = backend.buffer(8, &keys).expect("a buffer");
        backend.store(&mut cache, 0, &keys, &keys, 0..7).expect("computed");
        let mut out = backend.zeros(7, 16).expect("a buffer");
        let queries = backend.buffer(16, &queries).expect("a buffer");
        let queries = Queries { buffer: &queries, rows: 0..7, position: 0 };
        backend.attend(&shape, None, None, &cache, queries, &mut out).expect("computed");
        out.to_vec()
    });
}

#[test]
fn gates() {
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::ClampedSilu] {
        check("gates", |backend| {
            let [mut gate, up] =
                [1, 2].map(|seed| backend.buffer(7, &made_up(21, seed)).expect("a buffer"));
            backend.activate_times(activation, &mut gate, Some(&up)).expect("computed");
            gate.to_vec()
        });
    }
}

/// Of these the process has one instruction set; what is compared is where they write.
#[test]
fn products_of_floats_with_each_other() {
    let (rows, depth, columns) = (7, 3, 35);
    let (a, b) = (vec![1.0; rows * depth], vec![1.0; depth * columns]);
    let mut c = vec![7.0; rows * (columns + 2)];
    let to = gemm::ViewMut::new(&mut c, rows, columns, columns + 2);
    let (a, b) = (gemm::View::dense(&a, rows, depth), gemm::View::dense(&b, depth, columns));
    gemm::multiply(gemm::Into::Set, 1.0, a, b, to);
    for row in c.chunks(columns + 2) {
        assert_eq!(row[..columns], [3.0; 35]);
        assert_eq!(row[columns..], [7.0; 2]);
    }
}

#[test]
fn tiles() {
    let mut columns = [[1.0; tile::TILE_ROWS]; 2];
    tile::add_weighted_columns(&mut columns, &[[2.0; tile::TILE_ROWS]; 3], &[1.0; 6], 3);
    assert_eq!(columns, [[7.0; tile::TILE_ROWS]; 2]);
    let mut row = [1.0; 19];
    tile::subtract_row(&mut row, &[0.5; 19], 2.0);
    assert_eq!(row, [0.0; 19]);
}
