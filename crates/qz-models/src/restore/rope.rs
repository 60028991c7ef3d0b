//! The rotary parameters of `config.json`.

use qz_tensor::{DataType, TensorIndex, TensorSource};
use serde_json::{Map, Value, json};

use super::keys::Keys;
use crate::architecture::Architecture;
use crate::config::shortest;
use crate::error::Error;
use crate::rope::{
    FACTORS_NAME, LONG_FACTORS_NAME, Llama3Scaling, PROPORTIONAL, Rope, RopeScaling,
    SHORT_FACTORS_NAME, STANDING_STILL,
};

/// The parameters without the frequencies' base.
pub(super) fn rope_parameters(
    architecture: &dyn Architecture,
    keys: &Keys<'_>,
    source: &dyn TensorSource,
    head_size: u64,
    theta: f32,
) -> Result<Map<String, Value>, Error> {
    let key = |name: &str| format!("{}.rope.scaling.{name}", architecture.gguf_name());
    let mut parameters = Map::new();
    let mut set = |name: &str, value: Value| {
        parameters.insert(name.to_owned(), value);
    };
    if let Some([short, long]) = long_factors(keys, source)? {
        set("rope_type", json!("longrope"));
        set("short_factor", short);
        set("long_factor", long);
        let all = 1..=u64::from(u32::MAX);
        let context = match keys.integer(&key("original_context_length"), all.clone())? {
            Some(context) => context,
            None => {
                let whole = format!("{}.context_length", architecture.gguf_name());
                keys.required_integer(&whole, all)?
            }
        };
        set("original_max_position_embeddings", json!(context));
        return Ok(parameters);
    }
    if let Some(part) = turned_part(keys, source)? {
        set("rope_type", json!(PROPORTIONAL));
        set("partial_rotary_factor", json!(part));
        return Ok(parameters);
    }
    match keys.string(&key("type"))?.unwrap_or("none") {
        "none" => match llama3_scaling(keys, source, head_size, theta)? {
            None => set("rope_type", json!("default")),
            Some(scaling) => {
                set("rope_type", json!("llama3"));
                set("factor", shortest(scaling.factor as f32));
                set("low_freq_factor", shortest(scaling.low_frequency_factor as f32));
                set("high_freq_factor", shortest(scaling.high_frequency_factor as f32));
                set("original_max_position_embeddings", json!(scaling.original_context));
            }
        },
        "linear" => {
            set("rope_type", json!("linear"));
            set("factor", shortest(keys.required_float(&key("factor"))?));
        }
        "yarn" => {
            set("rope_type", json!("yarn"));
            set("factor", shortest(keys.required_float(&key("factor"))?));
            let context = key("original_context_length");
            let context = keys.required_integer(&context, 1..=u64::from(u32::MAX))?;
            set("original_max_position_embeddings", json!(context));
            for (name, stored) in [
                ("extrapolation_factor", "yarn_ext_factor"),
                ("attention_factor", "yarn_attn_factor"),
                ("beta_fast", "yarn_beta_fast"),
                ("beta_slow", "yarn_beta_slow"),
            ] {
                if let Some(value) = keys.float(&key(stored))? {
                    set(name, shortest(value));
                }
            }
            // DeepSeek's two factors are the same in all published models, and cancel.
            if let Some(growth) = keys.float(&key("yarn_log_multiplier"))? {
                for name in ["mscale", "mscale_all_dim"] {
                    set(name, shortest(growth * 10.0));
                }
            }
        }
        other => {
            let problem = format!("{other:?} cannot be said in a checkpoint of this architecture");
            return Err(keys.fault(&key("type"), problem));
        }
    }
    Ok(parameters)
}

/// The factors of LongRoPE, within the trained context and past it, if a file has them.
fn long_factors(keys: &Keys<'_>, source: &dyn TensorSource) -> Result<Option<[Value; 2]>, Error> {
    let read = |name: &'static str| -> Result<Option<Value>, Error> {
        let factors = factors_named(keys, source, name)?;
        Ok(factors.map(|factors| factors.into_iter().map(shortest).collect::<Vec<_>>().into()))
    };
    Ok(read(SHORT_FACTORS_NAME)?.zip(read(LONG_FACTORS_NAME)?).map(|(short, long)| [short, long]))
}

/// Which part of a head turns, where the factors of the others let them stand still.
fn turned_part(keys: &Keys<'_>, source: &dyn TensorSource) -> Result<Option<f64>, Error> {
    let factors = factors_named(keys, source, FACTORS_NAME)?.unwrap_or_default();
    let turned = factors.iter().take_while(|factor| **factor == 1.0).count();
    let (all, rest) = (factors.len(), &factors[turned..]);
    let stand_still = !rest.is_empty() && rest.iter().all(|factor| *factor == STANDING_STILL);
    Ok(stand_still.then(|| turned as f64 / all as f64))
}

/// The factors of a tensor, if a file has it.
fn factors_named(
    keys: &Keys<'_>,
    source: &dyn TensorSource,
    name: &'static str,
) -> Result<Option<Vec<f32>>, Error> {
    let tensors = source.tensors();
    let Some(position) = tensors.iter().position(|tensor| tensor.name == name) else {
        return Ok(None);
    };
    let info = &tensors[position];
    if info.data_type != DataType::F32 || info.shape.elements() > MOST_FACTORS {
        let problem = format!("is {} {}, expected F32 factors", info.data_type, info.shape);
        let path = keys.path.to_owned();
        return Err(Error::RopeFactors { path, tensor: name, problem });
    }
    floats(source, TensorIndex(position), info.bytes).map(Some)
}

/// More frequencies than a head has.
const MOST_FACTORS: u64 = 1 << 16;

/// The numbers of a small F32 tensor.
fn floats(source: &dyn TensorSource, tensor: TensorIndex, bytes: u64) -> Result<Vec<f32>, Error> {
    let mut stored = vec![0; usize::try_from(bytes).unwrap_or_default()];
    source.read(tensor, 0, &mut stored).map_err(Error::File)?;
    Ok(stored.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Llama 3's parameters, from the factors that a file has instead.
fn llama3_scaling(
    keys: &Keys<'_>,
    source: &dyn TensorSource,
    head_size: u64,
    theta: f32,
) -> Result<Option<Llama3Scaling>, Error> {
    let tensors = source.tensors();
    let Some(position) = tensors.iter().position(|tensor| tensor.name == FACTORS_NAME) else {
        return Ok(None);
    };
    let fault = |problem: String| Error::RopeFactors {
        path: keys.path.to_owned(),
        tensor: FACTORS_NAME,
        problem,
    };
    let info = &tensors[position];
    let count = head_size / 2;
    if info.data_type != DataType::F32 || info.shape.elements() != count {
        let found = format!("{} {}", info.data_type, info.shape);
        return Err(fault(format!("is {found}, expected one F32 for each of {count} frequencies")));
    }
    // As many as half a head has elements.
    let factors = floats(source, TensorIndex(position), info.bytes)?;
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(None);
    }
    infer(&factors, head_size, theta).map(Some).ok_or_else(|| {
        fault(
            "these factors are not those of Llama 3's rope scaling with any parameters".to_owned(),
        )
    })
}

/// Parameters that give these factors. Those of Llama 3.1 to 3.3 and of Llama 4 first; else from
/// two factors between the ends: between them the formula is linear in the
/// frequency, and the parameters count only by their ratios.
fn infer(factors: &[f32], head_size: u64, theta: f32) -> Option<Llama3Scaling> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    let published = [4.0, 1.0].map(|high_frequency_factor| Llama3Scaling {
        factor,
        low_frequency_factor: 1.0,
        high_frequency_factor,
        original_context: 8192,
    });
    let fitted = || fit(factors, factor, head_size, theta);
    let gives = |scaling: &Llama3Scaling| {
        let rope = Rope {
            theta: Some(f64::from(theta)),
            sliding_theta: None,
            scaling: RopeScaling::Llama3(scaling.clone()),
            part: None,
            sections: None,
        };
        let found = rope.llama3_factors(head_size).unwrap_or_default();
        // A power function of another library may differ in its last bits.
        let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= 2e-6 * b.abs();
        found.len() == factors.len() && found.iter().zip(factors).all(is_close)
    };
    published.into_iter().find(&gives).or_else(|| fitted().filter(&gives))
}

/// With `p` the periods of a frequency in the trained context, a factor between 1
/// and `factor` is `1 / ((1 - s) / factor + s)`, where `s` goes from 0 at `p = low`
/// to 1 at `p = high`. The low end is taken for 1.
fn fit(factors: &[f32], factor: f64, head_size: u64, theta: f32) -> Option<Llama3Scaling> {
    let point = |(pair, found): (usize, &f32)| {
        let exponent = 2.0 * pair as f64 / head_size as f64;
        let turns = libm::pow(f64::from(theta), -exponent) / std::f64::consts::TAU;
        let smooth = (1.0 / f64::from(*found) - 1.0 / factor) / (1.0 - 1.0 / factor);
        (0.0 < smooth && smooth < 1.0).then_some((turns, smooth))
    };
    let points: Vec<(f64, f64)> = factors.iter().enumerate().filter_map(point).collect();
    let ((first, high), (last, low)) = (*points.first()?, *points.last()?);
    if points.len() < 2 {
        return None;
    }
    let slope = (high - low) / (first - last);
    let start = low - slope * last;
    let high_frequency_factor = 1.0 - 1.0 / start;
    let context = (slope * (high_frequency_factor - 1.0)).round();
    let nice = (high_frequency_factor * 100.0).round() / 100.0;
    (nice > 1.0 && (1.0..=f64::from(u32::MAX)).contains(&context)).then_some(Llama3Scaling {
        factor,
        low_frequency_factor: 1.0,
        high_frequency_factor: nice,
        original_context: context as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_tell_their_parameters() {
        let check = |factor: f64, low: f64, high: f64, context: u64, theta: f32, head_size: u64| {
            let scaling = Llama3Scaling {
                factor,
                low_frequency_factor: low,
                high_frequency_factor: high,
                original_context: context,
            };
            let rope = |scaling: &Llama3Scaling| Rope {
                theta: Some(f64::from(theta)),
                sliding_theta: None,
                scaling: RopeScaling::Llama3(scaling.clone()),
                part: None,
                sections: None,
            };
            let factors = rope(&scaling).llama3_factors(head_size).expect("a Llama 3");
            let found = infer(&factors, head_size, theta).expect("parameters");
            assert_eq!((found.factor, found.low_frequency_factor), (factor, 1.0));
            // Only the ratios count.
            assert_eq!(found.high_frequency_factor, high / low);
            assert_eq!(found.original_context, (context as f64 / low) as u64);
        };
        check(8.0, 1.0, 4.0, 8192, 500_000.0, 128);
        check(32.0, 1.0, 4.0, 8192, 500_000.0, 64);
        check(16.0, 1.0, 8.0, 4096, 10_000.0, 128);
        check(4.0, 2.0, 3.0, 16_384, 1_000_000.0, 256);
        check(8.0, 1.0, 4.0, 8192, 500_000.0, 32);
        check(16.0, 1.0, 1.0, 8192, 500_000.0, 128);
    }

    #[test]
    fn other_factors_have_none() {
        let check = |factors: &[f32]| {
            let head_size = 2 * factors.len() as u64;
            assert!(infer(factors, head_size, 10_000.0).is_none(), "{factors:?}");
        };
        check(&[1.0, 1.5, 1.2, 4.0]);
        check(&[4.0, 4.0, 4.0, 1.0]);
        check(&[1.0, f32::NAN, 2.0, 4.0]);
        check(&[0.5, 0.5, 0.5, 0.5]);
    }
}
