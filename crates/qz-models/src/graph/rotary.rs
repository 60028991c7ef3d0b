//! The angles of rotary position embedding: plain, divided (linear scaling), YaRN's mix
//! of both, or with a factor for each frequency (Llama 3). ggml's arithmetic
//! (`ggml_rope_cache_init` in ops.cpp; the factors of YaRN's magnitudes in
//! llama-context.cpp), in which an angle is formed by multiplying the one before.

use super::Keys;
use crate::error::Error;

/// Rotary parameters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rotary {
    /// Elements of a head that turn.
    size: usize,
    base: f32,
    /// What positions are multiplied with.
    scale: f32,
    /// What cosines and sines are multiplied with.
    magnitude: f32,
    yarn: Option<Yarn>,
    factors: Factors,
    temperature: Option<Temperature>,
}

/// Queries grow with their position: by a logarithm of how many times it is as long as the
/// text that the model was trained with first (`llm_graph_input_attn_temp` in
/// llama-graph.cpp, `get_llama_4_attn_scale` in transformers).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Temperature {
    pub(crate) scale: f32,
    /// Positions of that text.
    pub(crate) length: usize,
    /// The first position is this one.
    pub(crate) offset: usize,
}

impl Temperature {
    /// What queries at a position are multiplied with.
    fn at(self, position: usize) -> f32 {
        libm::logf(((position + self.offset) / self.length.max(1)) as f32 + 1.0) * self.scale + 1.0
    }
}

/// Where the divisors of the frequencies stand, if there are some.
#[derive(Clone, Debug, PartialEq)]
enum Factors {
    None,
    /// In one tensor.
    Common,
    /// In one tensor for texts of at most so many positions, and in another for longer ones.
    ByLength(usize),
}

/// YaRN: frequencies with many rotations in the trained context stay as they are, those
/// with few are scaled, and between the two there is a ramp.
#[derive(Clone, Debug, PartialEq)]
struct Yarn {
    /// Weight of the unscaled part.
    extrapolation: f32,
    /// The pairs where the ramp begins and ends.
    low: f32,
    high: f32,
}

/// llama.cpp's and transformers' defaults.
const BETA_FAST: f32 = 32.0;
const BETA_SLOW: f32 = 1.0;

impl Rotary {
    pub(crate) fn read(keys: &Keys<'_>, size: usize) -> Result<Self, Error> {
        let base = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
        let factor = match keys.number("rope.scaling.factor")? {
            None => keys.number("rope.scale_linear")?,
            factor => factor,
        };
        let factor = factor.filter(|factor| *factor != 0.0).unwrap_or(1.0);
        let magnitude = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let plain = Self {
            size,
            base,
            scale: 1.0 / factor,
            magnitude,
            yarn: None,
            factors: Factors::Common,
            temperature: None,
        };
        match keys.text("rope.scaling.type").unwrap_or("linear") {
            "none" => Ok(Self { scale: 1.0, ..plain }),
            "linear" => Ok(plain),
            "yarn" => plain.with_yarn(keys, factor),
            _ => Err(keys.fault("rope.scaling.type", "is not supported")),
        }
    }

    /// The same of a family whose files say that the length of the text decides about
    /// frequencies, and no context but the model's.
    pub(crate) fn read_long(keys: &Keys<'_>, size: usize) -> Result<Self, Error> {
        match keys.text("rope.scaling.type") {
            Some("longrope") => Self::with_long_factors(keys, size),
            _ => Self::read(keys, size),
        }
    }

    /// The same of a family whose files have divisors of the frequencies, and say nothing of
    /// them.
    pub(crate) fn with_long_factors(keys: &Keys<'_>, size: usize) -> Result<Self, Error> {
        let base = keys.number("rope.freq_base")?.unwrap_or(10_000.0);
        let magnitude = keys.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
        let original = keys.size("rope.scaling.original_context_length")?;
        let most = original.map_or_else(|| keys.required("context_length"), Ok)?;
        Ok(Self { magnitude, factors: Factors::ByLength(most), ..Self::plain(size, base) })
    }

    /// The same with divisors of the frequencies for texts within the context of training
    /// and for longer ones, if the file speaks of that context (longrope). llama.cpp and
    /// transformers choose by the context that is computed, not by the position.
    pub(crate) fn by_length(mut self, keys: &Keys<'_>) -> Result<Self, Error> {
        if let Some(most) = keys.size("rope.scaling.original_context_length")? {
            self.factors = Factors::ByLength(most);
        }
        Ok(self)
    }

    /// The same for queries that grow with their position. All of a head turns.
    pub(crate) fn with_temperature(self, temperature: Temperature) -> Self {
        Self { temperature: Some(temperature), ..self }
    }

    /// The same, with cosines and sines multiplied with this.
    pub(crate) fn with_magnitude(self, magnitude: f32) -> Self {
        Self { magnitude, ..self }
    }

    /// Angles of this base, and nothing else.
    pub(crate) fn plain(size: usize, base: f32) -> Self {
        Self {
            size,
            base,
            scale: 1.0,
            magnitude: 1.0,
            yarn: None,
            factors: Factors::None,
            temperature: None,
        }
    }

    /// Angles of zero.
    pub(crate) fn still(size: usize) -> Self {
        Self { scale: 0.0, ..Self::plain(size, 1.0) }
    }

    /// The tensor with the divisors of the frequencies for texts of so many positions; a
    /// model without it has none.
    pub(crate) fn factors(&self, positions: usize) -> Option<&'static str> {
        match self.factors {
            Factors::None => None,
            Factors::Common => Some("rope_freqs.weight"),
            Factors::ByLength(most) if positions <= most => Some("rope_factors_short.weight"),
            Factors::ByLength(_) => Some("rope_factors_long.weight"),
        }
    }

    /// Numbers of a position in [`Self::table`].
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    fn with_yarn(mut self, keys: &Keys<'_>, factor: f32) -> Result<Self, Error> {
        let context = match keys.size("rope.scaling.original_context_length")? {
            Some(context) => context,
            None => keys.required("context_length")?,
        } as f32;
        let beta = |key: &str, default: f32| Ok::<f32, Error>(keys.number(key)?.unwrap_or(default));
        let fast = beta("rope.scaling.yarn_beta_fast", BETA_FAST)?;
        let slow = beta("rope.scaling.yarn_beta_slow", BETA_SLOW)?;
        let pair_with = |rotations: f32| {
            let periods = context / (rotations * 2.0 * std::f32::consts::PI);
            self.size as f32 * libm::logf(periods) / (2.0 * libm::logf(self.base))
        };
        let (low, high) = (pair_with(fast).floor(), pair_with(slow).ceil());
        self.yarn = Some(Yarn {
            extrapolation: keys.number("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0),
            low: low.max(0.0),
            high: high.min(self.size as f32 - 1.0),
        });
        let stretched = if factor <= 1.0 { 1.0 } else { 0.1 * libm::logf(factor) + 1.0 };
        self.magnitude *= keys.number("rope.scaling.yarn_attn_factor")?.unwrap_or(stretched);
        Ok(self)
    }

    /// Cosine and sine of each pair, for each position from 0 on. `factors` are the
    /// frequencies' divisors, one for each pair.
    pub(crate) fn table(&self, positions: usize, factors: Option<&[f32]>) -> Vec<f32> {
        let step = libm::powf(self.base, -2.0 / self.size as f32);
        let mut table = Vec::with_capacity(positions * self.size);
        for position in 0..positions {
            let growth = self.temperature.map_or(1.0, |own| own.at(position));
            let magnitude = self.magnitude * growth;
            let mut angle = position as f32;
            for pair in 0..self.size / 2 {
                let factor = factors.map_or(1.0, |factors| factors[pair]);
                let turned = self.scaled(angle / factor, pair);
                table.push(libm::cosf(turned) * magnitude);
                table.push(libm::sinf(turned) * magnitude);
                angle *= step;
            }
        }
        table
    }

    fn scaled(&self, angle: f32, pair: usize) -> f32 {
        let scaled = self.scale * angle;
        let Some(yarn) = &self.yarn else { return scaled };
        let along = (pair as f32 - yarn.low) / (yarn.high - yarn.low).max(0.001);
        let unscaled = (1.0 - along.clamp(0.0, 1.0)) * yarn.extrapolation;
        scaled * (1.0 - unscaled) + angle * unscaled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rotary: &Rotary, factors: Option<&[f32]>, position: usize, expected: &[f64]) {
        let table = rotary.table(position + 1, factors);
        let row = &table[position * rotary.size..];
        for (pair, angle) in expected.iter().enumerate() {
            let found = [row[2 * pair], row[2 * pair + 1]].map(f64::from);
            for (found, expected) in found.iter().zip([libm::cos(*angle), libm::sin(*angle)]) {
                assert!((found - expected).abs() < 1e-5, "pair {pair}: {found}, {expected}");
            }
        }
    }

    fn plain() -> Rotary {
        Rotary::plain(4, 10_000.0)
    }

    #[test]
    fn angles_fall_by_the_base() {
        check(&plain(), None, 3, &[3.0, 0.03]);
        check(&Rotary { scale: 0.25, ..plain() }, None, 3, &[0.75, 0.0075]);
        check(&plain(), Some(&[1.0, 8.0]), 16, &[16.0, 0.02]);
    }

    /// Llama 4 counts positions from 1.
    #[test]
    fn queries_grow_with_their_position() {
        let check = |offset: usize, position: usize, steps: f32| {
            let growth = Temperature { scale: 0.5, length: 8, offset };
            assert_eq!(growth.at(position), libm::logf(steps + 1.0) * 0.5 + 1.0);
            let still = Rotary::still(2).with_temperature(growth);
            assert_eq!(still.table(position + 1, None)[2 * position..], [growth.at(position), 0.0]);
        };
        check(0, 7, 0.0);
        check(1, 7, 1.0);
        check(0, 8, 1.0);
        check(1, 22, 2.0);
        check(1, 23, 3.0);
    }

    #[test]
    fn yarn_scales_low_frequencies_only() {
        let yarn = Some(Yarn { extrapolation: 1.0, low: 0.0, high: 1.0 });
        let rotary = Rotary { scale: 0.25, yarn, ..plain() };
        check(&rotary, None, 8, &[8.0, 0.02]);
    }
}
