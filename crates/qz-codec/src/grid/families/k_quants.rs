//! Q2_K to Q6_K and IQ4_XS: 256 weights with integer scales for every 16 or 32.

use std::sync::LazyLock;

use qz_tensor::DataType;

use super::super::level_grid::LevelGrid;
use super::super::levels::Levels;
use super::super::packing::k_quants::{Q2K, Q3K, Q4K, Q5K, Q6K};
use super::super::packing::plain::Iq4Xs;
use super::super::{EmphasisRule, Grid, GridSpec};
use super::plain::NON_LINEAR;
use super::sub_scaled::SubScaled;
use crate::block::SUPER_BLOCK;

fn spec(data_type: DataType, group_columns: usize, parameters: usize, factor: f32) -> GridSpec {
    GridSpec {
        name: data_type.name().into(),
        data_type: Some(data_type),
        unit_columns: SUPER_BLOCK,
        group_columns,
        lane_columns: 1,
        parameters,
        unit_bytes: data_type.block_bytes(),
        emphasis: EmphasisRule { factor, whole_row: false },
    }
}

static GRID_Q2_K: LazyLock<LevelGrid<SubScaled, Q2K>> = LazyLock::new(|| LevelGrid {
    spec: spec(DataType::Q2_K, 16, 2, 1.0),
    levels: Levels::consecutive(0, 4),
    family: SubScaled::with_offset(15),
    packing: Q2K,
});

static GRID_Q3_K: LazyLock<LevelGrid<SubScaled, Q3K>> = LazyLock::new(|| LevelGrid {
    spec: spec(DataType::Q3_K, 16, 1, 2.0),
    levels: Levels::consecutive(-4, 8),
    family: SubScaled::signed(-32, 31),
    packing: Q3K,
});

static GRID_Q4_K: LazyLock<LevelGrid<SubScaled, Q4K>> = LazyLock::new(|| LevelGrid {
    spec: spec(DataType::Q4_K, 32, 2, 2.0),
    levels: Levels::consecutive(0, 16),
    family: SubScaled::with_offset(63),
    packing: Q4K,
});

static GRID_Q5_K: LazyLock<LevelGrid<SubScaled, Q5K>> = LazyLock::new(|| LevelGrid {
    spec: spec(DataType::Q5_K, 32, 2, 2.0),
    levels: Levels::consecutive(0, 32),
    family: SubScaled::with_offset(63),
    packing: Q5K,
});

static GRID_Q6_K: LazyLock<LevelGrid<SubScaled, Q6K>> = LazyLock::new(|| LevelGrid {
    spec: spec(DataType::Q6_K, 16, 1, 2.0),
    levels: Levels::consecutive(-32, 64),
    family: SubScaled::signed(-128, 127),
    packing: Q6K,
});

static GRID_IQ4_XS: LazyLock<LevelGrid<SubScaled, Iq4Xs>> = LazyLock::new(|| LevelGrid {
    spec: spec(DataType::IQ4_XS, 32, 1, 2.0),
    levels: Levels::table(&NON_LINEAR),
    family: SubScaled::signed(-32, 31),
    packing: Iq4Xs,
});

pub(in super::super) fn q2_k() -> &'static dyn Grid {
    &*GRID_Q2_K
}

pub(in super::super) fn q3_k() -> &'static dyn Grid {
    &*GRID_Q3_K
}

pub(in super::super) fn q4_k() -> &'static dyn Grid {
    &*GRID_Q4_K
}

pub(in super::super) fn q5_k() -> &'static dyn Grid {
    &*GRID_Q5_K
}

pub(in super::super) fn q6_k() -> &'static dyn Grid {
    &*GRID_Q6_K
}

pub(in super::super) fn iq4_xs() -> &'static dyn Grid {
    &*GRID_IQ4_XS
}
