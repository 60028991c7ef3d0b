//! `nvfp4-pack-quantized` and `mxfp4-pack-quantized`: E2M1 numbers, two in a byte
//! (`compressors/nvfp4`, `compressors/mxfp4`). Inputs stay as they are, which engines call A16,
//! or become such numbers, too.

use qz_codec::activations::{Activations, Number};
use qz_tensor::DataType;
use serde_json::{Value, json};

use super::integer::input_scale;
use super::{Format, activations, configuration, entry, microscaled, scale_type, transforms};
use crate::error::Error;
use crate::hadamard::Hadamard;
use crate::inputs::InputPart;
use crate::layout::{Layout, Matrix};
use crate::layouts::float4::{Float4, Global, Kind, Picked};
use crate::layouts::float4_groups::Edge;
use crate::layouts::numbers::ScaleType;
use crate::layouts::rotated::Rotated;
use crate::method::{OpenRequest, PackedTensor};
use crate::scheme::{Configuration, Quantized, Scheme};
use crate::schemes::{FOUR_OVER_SIX, Words};

pub(super) const FORMAT: Format = Format { parse, open };

const WEIGHT: &str = "weight_packed";
const SCALES: &str = "weight_scale";
const GLOBAL: &str = "weight_global_scale";

/// The flag of inputs that are multiplied by a matrix of so many columns.
const HADAMARD: &str = "hadamard";

#[derive(Clone, Copy, Debug)]
struct Float4Scheme {
    kind: Kind,
    /// What becomes of inputs.
    inputs: Activations,
    edge: Edge,
    /// What inputs are multiplied by.
    rotation: Option<Hadamard>,
}

fn parse(words: &Words) -> Option<Box<dyn Scheme>> {
    let (kind, inputs) = match words.head() {
        "nvfp4" => (Kind::Nvfp4, Activations::Full),
        "nvfp4a4" => (Kind::Nvfp4, Activations::Nvfp4),
        "mxfp4" => (Kind::Mxfp4, Activations::Full),
        "mxfp4a4" => (Kind::Mxfp4, Activations::Micro(Number::E2M1)),
        "mxfp4xfp8" => (Kind::Mxfp4, Activations::Group(Number::E4M3, 128)),
        _ => return None,
    };
    let edge = if words.has(FOUR_OVER_SIX) { Edge::SixOrFour } else { Edge::Six };
    let rotations = [32, 64, 128].map(|size| (format!("{HADAMARD}{size}"), size));
    let rotation = rotations.iter().find(|(flag, _)| words.has(flag));
    let known: Vec<&str> = match (kind, inputs) {
        (Kind::Nvfp4, _) => vec![FOUR_OVER_SIX],
        (Kind::Mxfp4, Activations::Full) => rotations.iter().map(|(flag, _)| &**flag).collect(),
        (Kind::Mxfp4, _) => Vec::new(),
    };
    let rotation = rotation.and_then(|(_, size)| Hadamard::of(*size));
    let scheme = Float4Scheme { kind, inputs, edge, rotation };
    let fits = words.flags_are(&known) && words.flags().len() <= 1;
    fits.then(|| Box::new(scheme) as Box<dyn Scheme>)
}

impl Float4Scheme {
    fn weights(self) -> Value {
        let (strategy, group, scale) = match self.kind {
            Kind::Nvfp4 => ("tensor_group", 16, "torch.float8_e4m3fn"),
            Kind::Mxfp4 => ("group", 32, "torch.uint8"),
        };
        json!({
            "num_bits": 4,
            "type": "float",
            "symmetric": true,
            "strategy": strategy,
            "group_size": group,
            "dynamic": false,
            "scale_dtype": scale,
            "zp_dtype": scale,
        })
    }
}

impl Scheme for Float4Scheme {
    fn name(&self) -> String {
        let inputs = match self.inputs {
            Activations::Full => "",
            Activations::Group(..) => "xfp8",
            _ => "a4",
        };
        match (self.kind, self.edge) {
            (Kind::Nvfp4, Edge::Six) => format!("nvfp4{inputs}"),
            (Kind::Nvfp4, Edge::SixOrFour) => format!("nvfp4{inputs}+{FOUR_OVER_SIX}"),
            (Kind::Mxfp4, _) => match self.rotation {
                Some(rotation) => format!("mxfp4{inputs}+{HADAMARD}{}", rotation.size()),
                None => format!("mxfp4{inputs}"),
            },
        }
    }

    fn layout(&self, model_type: DataType) -> Box<dyn Layout> {
        let precision = scale_type(model_type);
        let inner = Box::new(Float4 { edge: self.edge, ..layout(self.kind, precision) });
        match self.rotation {
            Some(rotation) => Box::new(Rotated { inner, rotation, precision }),
            None => inner,
        }
    }

    /// The transforms of inputs are those of all matrices.
    fn common(&self) -> Option<(&'static str, &'static str)> {
        let rotation = match self.rotation?.size() {
            32 => "hadamard of 32",
            64 => "hadamard of 64",
            _ => "hadamard of 128",
        };
        Some((transforms::KEY, rotation))
    }

    fn activations(&self) -> Activations {
        self.inputs
    }

    fn input_part(&self, model_type: DataType) -> Option<InputPart> {
        input_scale(self.inputs, model_type)
    }

    fn entry(&self) -> Value {
        let format = match self.kind {
            Kind::Nvfp4 => "nvfp4-pack-quantized",
            Kind::Mxfp4 => "mxfp4-pack-quantized",
        };
        let inputs = activations::arguments(self.inputs);
        entry(format, &self.weights(), &inputs)
    }

    fn configuration(&self, quantized: &Quantized<'_>) -> Configuration {
        let mut configuration = configuration(&self.entry(), quantized);
        if let (Some(rotation), [(_, Value::Object(config))]) =
            (self.rotation, &mut configuration.entries[..])
        {
            let transforms = transforms::configuration(rotation, quantized.left);
            config.insert(transforms::KEY.to_owned(), transforms);
        }
        configuration
    }
}

fn layout(kind: Kind, precision: ScaleType) -> Float4 {
    let global = Global { suffix: GLOBAL, is_divisor: true, rank: 1 };
    Float4 {
        kind,
        weight: WEIGHT,
        scales: SCALES,
        global: (kind == Kind::Nvfp4).then_some(global),
        precision,
        edge: Edge::Six,
        picked: Picked::All,
        in_blocks: false,
    }
}

fn open(request: &OpenRequest<'_>) -> Result<Vec<PackedTensor>, Error> {
    let mut packed = Vec::new();
    for (module, weight) in request.modules_with(WEIGHT) {
        if request.data_type(weight) != DataType::U8
            || microscaled::element(request, module).is_some()
        {
            continue;
        }
        let [rows, bytes] = *request.matrix_dimensions(weight)?;
        let scales = request.part(module, SCALES)?;
        let kind = match request.data_type(scales) == DataType::U8 {
            true => Kind::Mxfp4,
            false => Kind::Nvfp4,
        };
        let matrix = Matrix { rows, columns: bytes.saturating_mul(2) };
        let layout = layout(kind, ScaleType::F32);
        let mut tensor = request.packed(module, matrix, Box::new(layout))?;
        tensor.unused =
            request.tensors(module, &["input_global_scale", "input_scale", "output_scale"]);
        packed.push(tensor);
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{assert_golden, bytes_of, golden, weights};
    use crate::layout::{Rounding, RowBlock};
    use crate::layouts::float4_groups::decode_mxfp4;
    use crate::testing::{Checkpoint, Stored, Tensor, refusal_after, seen, stored};

    const CONFIG: fn() -> Value = || json!({"quant_method": "compressed-tensors"});

    #[test]
    fn parts_hold_what_the_package_writes() {
        for (kind, case) in [(Kind::Nvfp4, "ct-nvfp4a16"), (Kind::Mxfp4, "ct-mxfp4a16")] {
            for (name, precision) in
                [("f32", ScaleType::F32), ("bf16", ScaleType::BF16), ("f16", ScaleType::F16)]
            {
                let layout = layout(kind, precision);
                let weights = weights(13, 8, 128, precision);
                for tile in [1, 3, 8] {
                    let written = stored(&layout, 8, 128, &weights, tile);
                    assert_golden(&format!("{case}-{name}"), "packed", &written.parts[0]);
                    assert_golden(&format!("{case}-{name}"), "scales", &written.parts[1]);
                    if kind == Kind::Nvfp4 {
                        assert_golden(&format!("{case}-{name}"), "global", &written.parts[2]);
                    }
                }
            }
        }
    }

    #[test]
    fn rotated_parts_are_the_packages() {
        for (name, model_type) in
            [("f32", DataType::F32), ("bf16", DataType::BF16), ("f16", DataType::F16)]
        {
            let case = format!("ct-mxfp4-hadamard32-{name}");
            let scheme = parse(&Words::of("mxfp4+hadamard32").expect("words")).expect("a scheme");
            let layout = scheme.layout(model_type);
            let weights = weights(13, 8, 128, scale_type(model_type));
            for tile in [1, 3, 8] {
                let written = stored(&*layout, 8, 128, &weights, tile);
                assert_golden(&case, "packed", &written.parts[0]);
                assert_golden(&case, "scales", &written.parts[1]);
                assert_golden(&case, "decoded", &bytes_of(&written.decoded(&*layout)));
            }
        }
    }

    #[test]
    fn flags_are_those_that_a_kind_has() {
        let check = |text: &str, expected: Option<&str>| {
            let scheme = Words::of(text).as_ref().and_then(parse);
            assert_eq!(scheme.map(|scheme| scheme.name()).as_deref(), expected, "{text}");
        };
        for name in ["nvfp4", "nvfp4a4+4over6", "mxfp4+hadamard64", "mxfp4a4", "mxfp4xfp8"] {
            check(name, Some(name));
        }
        check("mxfp4+4over6", None);
        check("mxfp4+hadamard16", None);
        check("mxfp4+hadamard32+hadamard64", None);
        check("mxfp4a4+hadamard32", None);
        check("nvfp4+hadamard32", None);
    }

    /// The squared errors of all weights, each column's weighed.
    fn error(kind: Kind, rounding: Rounding, importance: &[f32]) -> f64 {
        let (rows, columns) = (8, 128);
        let layout = layout(kind, ScaleType::F32);
        let matrix = Matrix { rows, columns };
        let weights = weights(13, rows as usize, columns as usize, ScaleType::F32);
        let measure = layout.measure(matrix, &weights);
        let importance = Some(importance);
        let block =
            RowBlock { matrix, first_row: 0, weights: &weights, importance, rounding, measure };
        let mut written = Stored::empty(&layout, matrix);
        layout
            .write_constants(matrix, measure, &mut |part, at, bytes| written.put(part, at, bytes));
        layout.encode(&block, &mut |part, at, bytes| written.put(part, at, bytes)).expect("fits");
        let back = written.decoded(&layout);
        let weighed = back.iter().zip(&weights).zip(importance.into_iter().flatten().cycle());
        weighed
            .map(|((back, weight), importance)| f64::from((back - weight).powi(2) * importance))
            .sum()
    }

    #[test]
    fn searches_leave_less_error() {
        let even = vec![1.0; 128];
        let uneven: Vec<f32> = (0..128).map(|column| 1.0 / (1 + column % 16) as f32).collect();
        for kind in [Kind::Nvfp4, Kind::Mxfp4] {
            let nearest = error(kind, Rounding::Nearest, &even);
            let searched = error(kind, Rounding::LeastError, &even);
            let least = error(kind, Rounding::LeastError, &uneven);
            let weighed = error(kind, Rounding::Importance, &uneven);
            // A power of two leaves little to choose.
            let gain = if kind == Kind::Nvfp4 { 0.98 } else { 1.0 };
            assert!(searched <= nearest * gain, "{kind:?}: {searched} {nearest}");
            assert!(weighed <= least, "{kind:?}: {weighed} {least}");
        }
    }

    /// Most groups lose less; few lose more, since the tensor's scale leaves theirs fewer steps.
    #[test]
    fn groups_may_end_at_four() {
        let weights = weights(13, 8, 128, ScaleType::F32);
        let errors = |edge: Edge| -> Vec<f64> {
            let layout = Float4 { edge, ..layout(Kind::Nvfp4, ScaleType::F32) };
            let back = stored(&layout, 8, 128, &weights, 3).decoded(&layout);
            let groups = back.chunks(16).zip(weights.chunks(16));
            let error = |(back, weight): (&f32, &f32)| f64::from(back - weight).powi(2);
            let error_of = |(back, weights): (&[f32], &[f32])| -> f64 {
                back.iter().zip(weights).map(error).sum::<f64>().sqrt()
            };
            groups.map(error_of).collect()
        };
        let (six, either) = (errors(Edge::Six), errors(Edge::SixOrFour));
        let less = six.iter().zip(&either).filter(|(six, either)| either < six).count();
        let more = six.iter().zip(&either).filter(|(six, either)| either > six).count();
        assert!(less > 2 * more, "{less} {more}");
        assert!(either.iter().sum::<f64>() < 0.95 * six.iter().sum::<f64>(), "{six:?} {either:?}");
    }

    fn tensors(global: f32) -> Vec<Tensor<'static>> {
        vec![
            ("a.weight_packed", DataType::U8, &[8, 64], golden("ct-nvfp4a16-f32", "packed")),
            ("a.weight_scale", DataType::F8_E4M3, &[8, 8], golden("ct-nvfp4a16-f32", "scales")),
            ("a.weight_global_scale", DataType::F32, &[1], bytes_of(&[global])),
        ]
    }

    /// With a scale of one the weights are GGML's, else they are decoded.
    #[test]
    fn nvfp4_without_a_scale_of_the_tensor_is_that_of_ggml() {
        let seen_as = |global: f32| {
            let mut all = seen(&Checkpoint::new(tensors(global)).open(CONFIG()).expect("opens"));
            all.remove("a.weight").expect("the weight")
        };
        let (exact, decoded) = (seen_as(1.0), seen_as(4.0));
        assert_eq!((exact.0, decoded.0), (DataType::NVFP4, DataType::F32));
        let quarter: Vec<f32> = exact.2.iter().map(|weight| weight / 4.0).collect();
        assert_eq!(decoded.2, quarter);
    }

    #[test]
    fn mxfp4_is_that_of_ggml() {
        const CASE: &str = "ct-mxfp4a16-f32";
        let source = Checkpoint::new(vec![
            ("a.weight_packed", DataType::U8, &[8, 64], golden(CASE, "packed")),
            ("a.weight_scale", DataType::U8, &[8, 4], golden(CASE, "scales")),
        ])
        .open(CONFIG())
        .expect("opens");
        let seen = seen(&source);
        assert_eq!(seen["a.weight"].0, DataType::MXFP4);
        let mut known = vec![0.0; 1024];
        let (packed, scales) = (golden(CASE, "packed"), golden(CASE, "scales"));
        decode_mxfp4(&packed, &scales, &mut known);
        assert_eq!(seen["a.weight"].2, known);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: fn(&mut Vec<Tensor<'static>>), expected: &str| {
            assert_eq!(refusal_after(|all, _| change(all), tensors(1.0), CONFIG()), expected);
        };
        check(|all| drop(all.pop()), "config.json: a: has no tensor `weight_global_scale`");
        check(|all| drop(all.remove(1)), "config.json: a: has no tensor `weight_scale`");
        check(
            |all| all[1].2 = &[4, 16],
            "model.safetensors: a.weight_scale: at byte 0: is F8_E4M3 [4, 16], expected F8_E4M3 [8, 8]",
        );
        check(
            |all| all[2].1 = DataType::I32,
            "model.safetensors: a.weight_global_scale: at byte 0: is I32 [1], expected F32 [1]",
        );
        check(
            |all| (all[0].2, all[0].3) = (&[8, 4], vec![0; 32]),
            "config.json: a: 8 inputs are not a multiple of the group 16",
        );
    }
}
