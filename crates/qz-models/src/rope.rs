//! Rotary position embedding: its parameters, the metadata that carries them,
//! and the frequency factors that Llama 3 stores as a tensor.

use qz_tensor::{Array, Metadata};
use serde_json::Value;

use crate::config::{DEFAULT_ROPE_THETA, JsonObject, shown};
use crate::error::Error;

/// Which part of a head's elements is turned.
const PART: &str = "partial_rotary_factor";

/// The tensor of frequency factors in a GGUF file.
pub(crate) const FACTORS_NAME: &str = "rope_freqs.weight";
/// Those of LongRoPE, past the trained context and within it.
pub(crate) const LONG_FACTORS_NAME: &str = "rope_factors_long.weight";
pub(crate) const SHORT_FACTORS_NAME: &str = "rope_factors_short.weight";

/// The type of rotary parameters whose frequencies go by a head's size, though only a part of
/// it turns.
pub(crate) const PROPORTIONAL: &str = "proportional";
/// The factor of a frequency with which nothing turns.
pub(crate) const STANDING_STILL: f32 = 1e30;

/// The rotary embedding's parameters.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// Base of the frequencies, if stated (10000 otherwise).
    pub theta: Option<f64>,
    /// Base in sliding-window layers, where it differs.
    pub sliding_theta: Option<f64>,
    /// How positions past the trained context are handled.
    pub scaling: RopeScaling,
    /// Which part of a head's elements is turned, if not all.
    pub part: Option<f64>,
    /// How many of a head's pairs turn by the position in time, and by those in an image;
    /// those of a text are the same.
    pub sections: Option<Vec<i32>>,
}

/// How positions past the trained context are handled.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the sequence. GGUF has no word for it.
    Dynamic,
    /// YaRN.
    Yarn(YarnScaling),
    /// One factor per frequency, from a formula.
    Llama3(Llama3Scaling),
    /// One factor per frequency, listed: some within the trained context, others past it.
    Long(LongScaling),
}

/// LongRoPE's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct LongScaling {
    /// Factors within the trained context.
    pub short: Vec<f32>,
    /// Factors past it.
    pub long: Vec<f32>,
    /// The trained context.
    pub original_context: u64,
}

/// YaRN's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct YarnScaling {
    /// How many times the trained context.
    pub factor: f64,
    /// The trained context.
    pub original_context: u64,
    /// Weight of the extrapolated part.
    pub extrapolation_factor: Option<f64>,
    /// Scale of the attention logits.
    pub attention_factor: Option<f64>,
    /// Rotations above which nothing is scaled.
    pub beta_fast: Option<f64>,
    /// Rotations below which everything is scaled.
    pub beta_slow: Option<f64>,
    /// By how much scores grow with the logarithm of the factor (DeepSeek).
    pub score_growth: Option<f64>,
    /// By how much queries grow with the logarithm of their position (Ministral 3).
    pub query_growth: Option<f64>,
}

/// Llama 3's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// The divisor of low frequencies.
    pub factor: f64,
    /// Below this many periods in the trained context a frequency is low.
    pub low_frequency_factor: f64,
    /// Above this many a frequency is high, and is left alone.
    pub high_frequency_factor: f64,
    /// The trained context.
    pub original_context: u64,
}

impl Rope {
    /// Reads the rotary parameters; `config` is what they lie in.
    pub(crate) fn read(
        config: &JsonObject,
        outer: &JsonObject,
        has_long_scaling: bool,
    ) -> Result<Self, Error> {
        let nested = outer.get("full_attention").is_some_and(serde_json::Value::is_object);
        let rope = if nested { outer.object("full_attention")? } else { None };
        let rope = rope.as_ref().unwrap_or(outer);
        let sliding = match outer.get("sliding_attention") {
            Some(value) if value.is_object() => outer.object("sliding_attention")?,
            _ => None,
        };
        let theta = match rope.positive_number("rope_theta")? {
            None if !nested => config.positive_number("rope_theta")?,
            theta => theta,
        };
        Ok(Self {
            theta,
            sliding_theta: sliding
                .map(|rope| rope.positive_number("rope_theta"))
                .transpose()?
                .flatten(),
            scaling: RopeScaling::read(config, rope, has_long_scaling)?,
            part: match rope.positive_number(PART)? {
                None => config.positive_number(PART)?,
                part => part,
            },
            sections: sections(rope)?,
        })
    }

    /// Adds the keys of `TextModel.set_gguf_parameters` (`conversion/base.py`)
    /// up to and without the frequency base.
    pub(crate) fn write_scaling(&self, architecture: &str, metadata: &mut Metadata) {
        let mut set = |key: &str, value: qz_tensor::Value| {
            metadata.set(format!("{architecture}.rope.scaling.{key}"), value);
        };
        match &self.scaling {
            RopeScaling::Linear { factor } => {
                set("type", "linear".into());
                set("factor", (*factor as f32).into());
            }
            RopeScaling::Yarn(yarn) => {
                set("type", "yarn".into());
                set("factor", (yarn.factor as f32).into());
                set("original_context_length", (yarn.original_context as u32).into());
                for (key, value) in [
                    ("yarn_ext_factor", yarn.extrapolation_factor),
                    ("yarn_attn_factor", yarn.attention_factor),
                    ("yarn_beta_fast", yarn.beta_fast),
                    ("yarn_beta_slow", yarn.beta_slow),
                ] {
                    if let Some(value) = value {
                        set(key, (value as f32).into());
                    }
                }
            }
            RopeScaling::Long(_) => set("type", "longrope".into()),
            RopeScaling::None | RopeScaling::Dynamic | RopeScaling::Llama3(_) => {}
        }
    }

    /// Adds the sections of a head, and the frequency bases.
    pub(crate) fn write_bases(&self, architecture: &str, metadata: &mut Metadata) {
        if let Some(sections) = &self.sections {
            let sections = qz_tensor::Value::Array(Array::I32(sections.clone()));
            metadata.set(format!("{architecture}.rope.dimension_sections"), sections);
        }
        if let Some(theta) = self.theta {
            metadata.set(format!("{architecture}.rope.freq_base"), theta as f32);
        }
        if let Some(theta) = self.sliding_theta {
            metadata.set(format!("{architecture}.rope.freq_base_swa"), theta as f32);
        }
    }

    /// How many of a head's elements are turned.
    pub fn turned(&self, head_size: u64) -> u64 {
        self.part.map_or(head_size, |part| (part * head_size as f64) as u64)
    }

    /// The kind of a scaling that a GGUF file cannot say, and that is not computed here.
    pub fn lost_in_gguf(&self) -> Option<&'static str> {
        matches!(self.scaling, RopeScaling::Dynamic).then_some("dynamic")
    }

    /// The frequency factors that Llama 3 stores as `rope_freqs.weight`, one per
    /// pair of a head's elements.
    ///
    /// The arithmetic is that of `LlamaModel.generate_extra_tensors`
    /// (`conversion/llama.py`): 32-bit floats, where torch divides a number by a
    /// tensor by multiplying with the reciprocal. torch's 32-bit power is not
    /// correctly rounded and differs in the last bit between its vector units;
    /// here it is rounded from 64 bits.
    pub fn llama3_factors(&self, head_size: u64) -> Option<Vec<f32>> {
        let RopeScaling::Llama3(scaling) = &self.scaling else { return None };
        let base = f64::from(self.theta.unwrap_or(DEFAULT_ROPE_THETA) as f32);
        let factors = (0..head_size.div_ceil(2)).map(|pair| {
            let exponent = (2 * pair) as f32 / head_size as f32;
            let frequency = 1.0 / (libm::pow(base, f64::from(exponent)) as f32);
            scaling.factor_of(frequency)
        });
        Some(factors.collect())
    }
}

impl Llama3Scaling {
    /// The factor of a frequency.
    fn factor_of(&self, frequency: f32) -> f32 {
        let context = self.original_context as f64;
        let longest_high = (context / self.high_frequency_factor) as f32;
        let longest_low = (context / self.low_frequency_factor) as f32;
        let wavelength = (1.0 / frequency) * (std::f64::consts::TAU as f32);
        if wavelength < longest_high {
            1.0
        } else if wavelength > longest_low || longest_high == longest_low {
            self.factor as f32
        } else {
            let periods = (1.0 / wavelength) * (context as f32);
            let span = (self.high_frequency_factor - self.low_frequency_factor) as f32;
            let smooth = (periods - self.low_frequency_factor as f32) / span;
            1.0 / ((1.0 - smooth) / (self.factor as f32) + smooth)
        }
    }
}

impl RopeScaling {
    fn read(config: &JsonObject, rope: &JsonObject, has_long: bool) -> Result<Self, Error> {
        let kind = match rope.string("rope_type")? {
            Some(kind) => kind,
            None => match rope.string("type")? {
                Some(kind) => kind,
                None => return Ok(Self::None),
            },
        };
        let factor = rope.positive_number("factor")?;
        match (kind, factor) {
            // A text's tokens have the same position in all sections of `mrope`.
            ("default" | "mrope", _) => Ok(Self::None),
            ("linear", Some(factor)) => Ok(Self::Linear { factor }),
            ("yarn", Some(factor)) => YarnScaling::read(rope, factor).map(Self::Yarn),
            ("dynamic", _) => Ok(Self::Dynamic),
            ("longrope" | "su", _) if has_long => LongScaling::read(config, rope).map(Self::Long),
            _ if kind.eq_ignore_ascii_case("llama3") => Llama3Scaling::read(rope).map(Self::Llama3),
            ("linear" | "yarn", None) => Err(rope.fault("factor", "is missing")),
            _ => {
                let key = if rope.has("rope_type") { "rope_type" } else { "type" };
                let problem =
                    format!("{} is not supported", shown(&Value::String(kind.to_owned())));
                Err(rope.fault(key, problem))
            }
        }
    }
}

const LONGEST_CONTEXT: u64 = u32::MAX as u64;

impl YarnScaling {
    fn read(rope: &JsonObject, factor: f64) -> Result<Self, Error> {
        let growths = [rope.number("mscale")?, rope.number("mscale_all_dim")?];
        if let [Some(one), Some(all)] = growths
            && one != all
        {
            let problem =
                format!("is {one}, but only the same as mscale_all_dim is supported, {all}");
            return Err(rope.fault("mscale", problem));
        }
        let attention_key =
            if rope.has("attention_factor") { "attention_factor" } else { "attn_factor" };
        Ok(Self {
            factor,
            original_context: rope
                .required_integer("original_max_position_embeddings", 1..=LONGEST_CONTEXT)?,
            extrapolation_factor: rope.number("extrapolation_factor")?,
            attention_factor: rope.number(attention_key)?,
            beta_fast: rope.number("beta_fast")?,
            beta_slow: rope.number("beta_slow")?,
            score_growth: rope.number("mscale_all_dim")?,
            query_growth: rope.number("llama_4_scaling_beta")?,
        })
    }
}

impl LongScaling {
    /// Phi-3 has the trained context beside the rotary parameters.
    fn read(config: &JsonObject, rope: &JsonObject) -> Result<Self, Error> {
        let key = "original_max_position_embeddings";
        let outer = config.integer(key, 1..=LONGEST_CONTEXT)?;
        let inner = rope.integer(key, 1..=LONGEST_CONTEXT)?;
        if let (Some(outer), Some(inner)) = (outer, inner)
            && outer != inner
        {
            return Err(rope.fault(key, format!("is {inner}, but outside of it {outer}")));
        }
        let original_context = match outer.or(inner) {
            Some(context) => context,
            None => rope.required_integer(key, 1..=LONGEST_CONTEXT)?,
        };
        let context = config.integer("max_position_embeddings", 1..=LONGEST_CONTEXT)?;
        let growth = long_growth(context.unwrap_or(original_context), original_context);
        let key = "attention_factor";
        if let Some(stated) = rope.number(key)?.filter(|stated| (stated - growth).abs() > 1e-4) {
            let problem = format!("is {stated}, but this architecture computes with {growth}");
            return Err(rope.fault(key, problem));
        }
        let (short, long) = (factors(rope, "short_factor")?, factors(rope, "long_factor")?);
        if short.len() != long.len() {
            let problem = format!("has {} numbers, but long_factor {}", short.len(), long.len());
            return Err(rope.fault("short_factor", problem));
        }
        Ok(Self { short, long, original_context })
    }
}

/// By how much LongRoPE's sines and cosines grow past the context of training.
pub(crate) fn long_growth(context: u64, original: u64) -> f64 {
    let original = original as f64;
    let scale = context as f64 / original;
    if scale > 1.0 { (1.0 + libm::log(scale) / libm::log(original)).sqrt() } else { 1.0 }
}

/// The sections of a head: four of them, the last ones of nothing.
fn sections(rope: &JsonObject) -> Result<Option<Vec<i32>>, Error> {
    const KEY: &str = "mrope_section";
    const COUNT: usize = 4;
    let Some(stated) = rope.get(KEY) else { return Ok(None) };
    let number = |value: &Value| i32::try_from(value.as_u64()?).ok();
    let numbers = stated.as_array().and_then(|values| values.iter().map(number).collect());
    match numbers {
        Some::<Vec<i32>>(mut numbers) => {
            numbers.resize(COUNT, 0);
            Ok(Some(numbers))
        }
        None => Err(rope.fault(KEY, format!("is {}, expected a list of sizes", shown(stated)))),
    }
}

/// A list of numbers above zero.
fn factors(rope: &JsonObject, key: &str) -> Result<Vec<f32>, Error> {
    let Some(Value::Array(values)) = rope.get(key) else {
        return Err(rope.fault(key, "is no list of numbers"));
    };
    let factor = |value: &Value| {
        let number = value.as_f64().map(|number| number as f32);
        number.filter(|number| number.is_finite() && *number > 0.0).ok_or_else(|| {
            rope.fault(key, format!("has {}, expected numbers above zero", shown(value)))
        })
    };
    values.iter().map(factor).collect()
}

impl Llama3Scaling {
    fn read(rope: &JsonObject) -> Result<Self, Error> {
        let key = "original_max_position_embeddings";
        let original_context = rope.integer(key, 1..=LONGEST_CONTEXT)?.unwrap_or(8192);
        let scaling = Self {
            factor: rope.positive_number("factor")?.unwrap_or(8.0),
            low_frequency_factor: rope.positive_number("low_freq_factor")?.unwrap_or(1.0),
            high_frequency_factor: rope.positive_number("high_freq_factor")?.unwrap_or(4.0),
            original_context,
        };
        // Llama 4 has no frequencies between.
        if scaling.high_frequency_factor < scaling.low_frequency_factor {
            let problem = format!(
                "is {}, expected at least low_freq_factor {}",
                scaling.high_frequency_factor, scaling.low_frequency_factor
            );
            return Err(rope.fault("high_freq_factor", problem));
        }
        Ok(scaling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The factors of Llama 3.1 8B and 3.2 1B as the reference computes them
    /// (llama.cpp 0c1e57098, torch 2.15.0, AVX-512): how many are 1, then the
    /// bits of those between, then how many are the scaling factor.
    #[test]
    fn llama_3_factors_have_the_reference_bits() {
        let check = |head_size: u64, factor: f64, ones: usize, between: &[u32], scaled: usize| {
            let scaling = Llama3Scaling {
                factor,
                low_frequency_factor: 1.0,
                high_frequency_factor: 4.0,
                original_context: 8192,
            };
            let rope = Rope {
                theta: Some(500_000.0),
                sliding_theta: None,
                scaling: RopeScaling::Llama3(scaling),
                part: None,
                sections: None,
            };
            let factors = rope.llama3_factors(head_size).expect("a Llama 3");
            let bits: Vec<u32> = factors.iter().map(|factor| factor.to_bits()).collect();
            let mut expected = vec![1f32.to_bits(); ones];
            expected.extend(between);
            expected.extend(vec![(factor as f32).to_bits(); scaled]);
            assert_eq!(bits, expected);
        };
        let llama_3_1 =
            [0x3f9a_8ed5, 0x3fc6_d64a, 0x4001_af1d, 0x402c_732e, 0x406b_cace, 0x40a8_3c06];
        check(128, 8.0, 29, &llama_3_1, 29);
        check(64, 32.0, 15, &[0x3fd3_5ec2, 0x4052_b46f, 0x411a_aaee], 14);
    }
}
