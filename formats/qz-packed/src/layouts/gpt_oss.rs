//! gpt-oss (`quant_method: "mxfp4"`): the experts of a layer in one tensor of blocks and one of
//! scales, rows of gate and up projection taking turns. Source: transformers 5.17
//! (`integrations/mxfp4.py`).
//!
//! They are seen as stacks of plain matrices, `….gate_proj.weight`, `….up_proj.weight` and
//! `….down_proj.weight`, of experts, outputs and inputs; the biases stay as they are stored.

use qz_tensor::{DataType, Shape, TensorIndex};
use serde_json::json;

use super::float4::{Float4, Kind, Picked};
use super::float4_groups::Edge;
use super::numbers::ScaleType;
use crate::error::{Error, Fault};
use crate::inputs::Inputs;
use crate::layout::Layout;
use crate::method::{Method, OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Mixing, Quantized, Scheme, SchemeFamily, Stacked};

pub(crate) const FAMILY: SchemeFamily = SchemeFamily {
    name: "mxfp4",
    examples: &["native"],
    form: "mxfp4:native, as gpt-oss is published; other models have ct:mxfp4",
    method: "mxfp4",
    mixing: Mixing::None,
    cache_part: None,
    parse: |text| (text.eq_ignore_ascii_case("native")).then(|| Box::new(NativeScheme) as _),
};

pub(crate) const METHOD: Method = Method {
    name: "mxfp4",
    aliases: &[],
    looks_like: "`…_blocks` and `…_scales` of experts",
    recognise,
    open,
};

const BLOCKS: &str = "_blocks";
const SCALES: &str = "_scales";
const FUSED: &str = "gate_up_proj";
const DOWN: &str = "down_proj";
/// Whose rows take turns.
const TURNS: [&str; 2] = ["gate_proj", "up_proj"];

/// Bytes of a block.
const BLOCK_BYTES: u64 = 16;
/// Weights of a block.
const BLOCK: u64 = 32;

/// The experts as they are published, and nothing else.
#[derive(Clone, Copy, Debug)]
struct NativeScheme;

impl Scheme for NativeScheme {
    fn name(&self) -> String {
        "native".to_owned()
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let precision = ScaleType::of(model_type).unwrap_or(ScaleType::BF16);
        Box::new(layout(Picked::All, precision))
    }

    fn packs_stacks(&self) -> bool {
        true
    }

    fn stacked(&self, shown_name: &str, model_type: DataType) -> Option<Stacked> {
        let precision = ScaleType::of(model_type).unwrap_or(ScaleType::BF16);
        let (prefix, own) = shown_name.strip_suffix(".weight")?.rsplit_once('.')?;
        let turn = TURNS.iter().position(|name| *name == own);
        let (stem, picked) = match (turn, own) {
            (Some(first), _) => (FUSED, Picked::Every2nd { first: first as u64 }),
            (None, DOWN) => (DOWN, Picked::All),
            (None, _) => return None,
        };
        let layout = Box::new(layout(picked, precision));
        Some(Stacked { stem: format!("{prefix}.{stem}"), layout })
    }

    /// As it is published, whatever else is plain.
    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let config = json!({
            "quant_method": METHOD.name,
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "meta": quantized.provenance.meta(),
        });
        Configuration { entries: vec![("quantization_config", config)], files: Vec::new() }
    }
}

fn layout(picked: Picked, precision: ScaleType) -> Float4 {
    Float4 {
        kind: Kind::Mxfp4,
        weight: BLOCKS,
        scales: SCALES,
        global: None,
        precision,
        edge: Edge::Six,
        picked,
        in_blocks: true,
    }
}

fn recognise(request: &OpenRequest<'_>) -> Option<TensorIndex> {
    let tensors = request.source.tensors().iter();
    let is_stack = |info: &qz_tensor::TensorInfo| {
        let stem = info.name.strip_suffix(BLOCKS);
        stem.is_some_and(|stem| request.names.contains_key(&*format!("{stem}{SCALES}")))
    };
    tensors.into_iter().position(is_stack).map(TensorIndex)
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let mut packed = Vec::new();
    for (position, info) in request.source.tensors().iter().enumerate() {
        let Some(stem) = info.name.strip_suffix(BLOCKS) else { continue };
        let stack = Stack::of(request, stem, TensorIndex(position))?;
        match stem.strip_suffix(FUSED) {
            Some(prefix) => {
                for (first, name) in (0..).zip(TURNS) {
                    let name = format!("{prefix}{name}.weight");
                    packed.push(stack.seen(request, name, Picked::Every2nd { first })?);
                }
            }
            None => packed.push(stack.seen(request, format!("{stem}.weight"), Picked::All)?),
        }
    }
    Ok(packed)
}

/// The stored matrices of all experts.
struct Stack {
    blocks: TensorIndex,
    scales: TensorIndex,
    experts: u64,
    rows: u64,
    columns: u64,
}

impl Stack {
    fn of(request: &OpenRequest<'_>, stem: &str, blocks: TensorIndex) -> Result<Self, Error> {
        let scales_name = format!("{stem}{SCALES}");
        let missing = || request.tensor_fault(blocks, Fault::MissingPart(scales_name.clone()));
        let scales = *request.names.get(&*scales_name).ok_or_else(missing)?;
        let wrong = |tensor: TensorIndex, expected: &str| {
            let info = request.info(tensor);
            let found = format!("{} {}", info.data_type, info.shape);
            request.tensor_fault(tensor, Fault::Part { found, expected: expected.to_owned() })
        };
        let &[experts, rows, count, BLOCK_BYTES] = request.dimensions(blocks) else {
            return Err(wrong(blocks, "U8 [experts, outputs, blocks, 16]"));
        };
        if request.data_type(blocks) != DataType::U8 {
            return Err(wrong(blocks, "U8 [experts, outputs, blocks, 16]"));
        }
        let fits = request.dimensions(scales) == [experts, rows, count]
            && request.data_type(scales) == DataType::U8;
        if !fits {
            return Err(wrong(scales, &format!("U8 [{experts}, {rows}, {count}]")));
        }
        Ok(Self { blocks, scales, experts, rows, columns: count.saturating_mul(BLOCK) })
    }

    fn seen(
        &self,
        request: &OpenRequest<'_>,
        name: String,
        picked: Picked,
    ) -> Result<PackedTensor, Error> {
        let rows = match picked {
            Picked::All => self.rows,
            // Rows of one expert are even in number, so that those of all experts take turns.
            Picked::Every2nd { .. } if self.rows.is_multiple_of(2) => self.rows / 2,
            Picked::Every2nd { .. } => {
                let detail = format!("has {} rows for gate and up projection", self.rows);
                return Err(request.tensor_fault(self.blocks, Fault::Unfit(detail)));
            }
        };
        let shape = Shape::new([self.experts, rows, self.columns])
            .map_err(|error| request.tensor_fault(self.blocks, Fault::Unfit(error.to_string())))?;
        let layout = layout(picked, ScaleType::F32);
        let parts = vec![self.blocks, self.scales];
        let (unused, remark) = (Vec::new(), None);
        let (layout, inputs) = (Box::new(layout), Inputs::default());
        let code_bits = Some(4);
        Ok(PackedTensor { name, shape, layout, parts, unused, code_bits, inputs, remark })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::golden::{assert_golden, bytes_of, golden};
    use crate::testing::{Checkpoint, Tensor, refusal_after, seen};

    fn checkpoint() -> Vec<Tensor<'static>> {
        let (blocks, scales) = (golden("gpt-oss", "blocks"), golden("gpt-oss", "scales"));
        vec![
            ("e.gate_up_proj_blocks", DataType::U8, &[2, 4, 2, 16], blocks.clone()),
            ("e.gate_up_proj_scales", DataType::U8, &[2, 4, 2], scales.clone()),
            ("e.gate_up_proj_bias", DataType::F32, &[2, 4], vec![0; 32]),
            ("e.down_proj_blocks", DataType::U8, &[2, 4, 2, 16], blocks),
            ("e.down_proj_scales", DataType::U8, &[2, 4, 2], scales),
        ]
    }

    #[test]
    fn gate_and_up_projection_take_turns() {
        let source =
            Checkpoint::new(checkpoint()).open(json!({"quant_method": "mxfp4"})).expect("opens");
        let seen = seen(&source);
        assert_eq!(seen.len(), 4);
        let (down, gate, up) =
            (&seen["e.down_proj.weight"], &seen["e.gate_proj.weight"], &seen["e.up_proj.weight"]);
        assert_eq!((down.0, &*down.1), (DataType::MXFP4, &[2, 4, 64][..]));
        assert_eq!((gate.0, &*gate.1), (DataType::MXFP4, &[2, 2, 64][..]));
        // The codec has no zero below zero.
        let known: Vec<f32> = down.2.iter().map(|weight| weight + 0.0).collect();
        assert_eq!(known.len(), 512);
        for (expert, rows) in known.chunks(256).enumerate() {
            for (row, weights) in rows.chunks(64).enumerate() {
                let own = if row % 2 == 0 { &gate.2 } else { &up.2 };
                assert_eq!(&own[expert * 128 + row / 2 * 64..][..64], weights);
            }
        }
    }

    #[test]
    fn blocks_decode_as_transformers_reads_them() {
        use crate::layouts::float4_groups::decode_mxfp4;
        let mut out = vec![0.0; 512];
        decode_mxfp4(&golden("gpt-oss", "blocks"), &golden("gpt-oss", "scales"), &mut out);
        assert_golden("gpt-oss", "decoded", &bytes_of(&out));
        let seen = seen(
            &Checkpoint::new(checkpoint()).open(json!({"quant_method": "mxfp4"})).expect("opens"),
        );
        assert_eq!(seen["e.down_proj.weight"].2, out);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), expected: &str| {
            let config = json!({"quant_method": "mxfp4"});
            assert_eq!(refusal_after(|all, _| change(all), checkpoint(), config), expected);
        };
        check(
            |all| drop(all.remove(1)),
            "model.safetensors: e.gate_up_proj_blocks: at byte 0: has no tensor \
             `e.gate_up_proj_scales`",
        );
        check(
            |all| all[1].2 = &[4, 2, 2],
            "model.safetensors: e.gate_up_proj_scales: at byte 0: is U8 [4, 2, 2], expected U8 \
             [2, 4, 2]",
        );
        check(
            |all| all[3].2 = &[2, 4, 4, 8],
            "model.safetensors: e.down_proj_blocks: at byte 0: is U8 [2, 4, 4, 8], expected U8 \
             [experts, outputs, blocks, 16]",
        );
    }
}
