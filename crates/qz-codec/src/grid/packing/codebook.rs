//! Numbers of words, signs, and four bits for each group (ggml-common.h, `block_iq2_xxs`
//! and its like). The layouts are those in the codecs' files.

use super::super::Unit;
use super::super::families::codebook::{Choice, LANE};
use super::{parameter, set_parameter};
use crate::block::SUPER_BLOCK;
use crate::codebook::scales::{four_bits_at, pack_scales};
use crate::codebook::signs::{four_times_seven, with_eighth_sign};

/// What the lanes of a unit store.
type Choices = [Choice; SUPER_BLOCK / LANE];

/// Where the bits of a type go; bytes to pack into are zeros.
#[derive(Clone, Copy)]
pub(in super::super) struct CodebookPacking {
    pack: fn(&Unit, &Choices, &mut [u8]),
    unpack: fn(&[u8], &mut Unit, &mut Choices),
}

impl CodebookPacking {
    pub(in super::super) fn pack(&self, unit: &Unit, choices: &Choices, out: &mut [u8]) {
        set_parameter(out, 0, unit.parameters[0]);
        (self.pack)(unit, choices, &mut out[2..]);
    }

    pub(in super::super) fn unpack(&self, bytes: &[u8], choices: &mut Choices) -> Unit {
        let mut unit = Unit { parameters: [parameter(bytes, 0), 0.0], ..Unit::default() };
        (self.unpack)(&bytes[2..], &mut unit, choices);
        unit
    }
}

/// Scales two to a byte.
fn set_scales(unit: &Unit, out: &mut [u8]) {
    pack_scales(&unit.scales.map(|scale| scale as u8 & 15), out);
}

/// Undoes [`set_scales`].
fn get_scales(bytes: &[u8], unit: &mut Unit) {
    for position in 0..2 * bytes.len() {
        unit.scales[position] = i16::from(four_bits_at(bytes, position));
    }
}

/// Four times seven signs and a scale.
fn signs_and_scale(choices: &[Choice], scale: i16) -> [u8; 4] {
    let signs = std::array::from_fn(|lane| choices[lane].signs);
    (four_times_seven(signs, 0) | (scale as u32 & 15) << 28).to_le_bytes()
}

/// Undoes [`signs_and_scale`].
fn set_signs(word: [u8; 4], choices: &mut [Choice]) -> i16 {
    let word = u32::from_le_bytes(word);
    for (lane, choice) in choices.iter_mut().enumerate() {
        choice.signs = with_eighth_sign(word >> (7 * lane));
    }
    (word >> 28) as i16
}

pub(in super::super) const IQ3_XXS: CodebookPacking = CodebookPacking {
    pack: |unit, choices, out| {
        let (numbers, words) = out.split_at_mut(SUPER_BLOCK / 4);
        for (numbers, choice) in numbers.as_chunks_mut().0.iter_mut().zip(choices) {
            *numbers = choice.words.map(|word| word as u8);
        }
        let groups = words.as_chunks_mut().0.iter_mut().zip(choices.chunks(4));
        for ((word, choices), scale) in groups.zip(unit.scales) {
            *word = signs_and_scale(choices, scale);
        }
    },
    unpack: |bytes, unit, choices| {
        let (numbers, words) = bytes.split_at(SUPER_BLOCK / 4);
        for (numbers, choice) in numbers.as_chunks::<2>().0.iter().zip(&mut *choices) {
            choice.words = numbers.map(u16::from);
        }
        let groups = words.as_chunks().0.iter().zip(choices.chunks_mut(4));
        for ((word, choices), scale) in groups.zip(&mut unit.scales) {
            *scale = set_signs(*word, choices);
        }
    },
};

pub(in super::super) const IQ2_XXS: CodebookPacking = CodebookPacking {
    pack: |unit, choices, out| {
        let groups = out.as_chunks_mut::<4>().0.as_chunks_mut::<2>().0.iter_mut();
        for (([numbers, word], choices), scale) in groups.zip(choices.chunks(4)).zip(unit.scales) {
            *numbers = std::array::from_fn(|lane| choices[lane].words[0] as u8);
            *word = signs_and_scale(choices, scale);
        }
    },
    unpack: |bytes, unit, choices| {
        let groups = bytes.as_chunks::<4>().0.as_chunks::<2>().0.iter();
        let groups = groups.zip(choices.chunks_mut(4)).zip(&mut unit.scales);
        for (([numbers, word], choices), scale) in groups {
            *scale = set_signs(*word, choices);
            for (choice, number) in choices.iter_mut().zip(numbers) {
                choice.words = [u16::from(*number), 0];
            }
        }
    },
};

pub(in super::super) const IQ2_XS: CodebookPacking = CodebookPacking {
    pack: |unit, choices, out| {
        let (words, scales) = out.split_at_mut(SUPER_BLOCK / 4);
        for (word, choice) in words.as_chunks_mut().0.iter_mut().zip(choices) {
            *word = (choice.words[0] & 511 | u16::from(choice.signs & 127) << 9).to_le_bytes();
        }
        set_scales(unit, scales);
    },
    unpack: |bytes, unit, choices| {
        let (words, scales) = bytes.split_at(SUPER_BLOCK / 4);
        for (word, choice) in words.as_chunks().0.iter().zip(choices) {
            let word = u16::from_le_bytes(*word);
            let signs = with_eighth_sign(u32::from(word >> 9));
            *choice = Choice { words: [word & 511, 0], signs };
        }
        get_scales(scales, unit);
    },
};

pub(in super::super) const IQ2_S: CodebookPacking = CodebookPacking {
    pack: |unit, choices, out| {
        let (numbers, rest) = out.split_at_mut(SUPER_BLOCK / 8);
        let (signs, rest) = rest.split_at_mut(SUPER_BLOCK / 8);
        let (upper, scales) = rest.split_at_mut(SUPER_BLOCK / 32);
        for (lane, choice) in choices.iter().enumerate() {
            let [low, high] = choice.words[0].to_le_bytes();
            (numbers[lane], signs[lane]) = (low, choice.signs);
            upper[lane / 4] |= (high & 3) << (2 * (lane % 4));
        }
        set_scales(unit, scales);
    },
    unpack: |bytes, unit, choices| {
        let (numbers, rest) = bytes.split_at(SUPER_BLOCK / 8);
        let (signs, rest) = rest.split_at(SUPER_BLOCK / 8);
        let (upper, scales) = rest.split_at(SUPER_BLOCK / 32);
        for (lane, choice) in choices.iter_mut().enumerate() {
            let high = upper[lane / 4] >> (2 * (lane % 4)) & 3;
            choice.words = [u16::from_le_bytes([numbers[lane], high]), 0];
            choice.signs = signs[lane];
        }
        get_scales(scales, unit);
    },
};

pub(in super::super) const IQ3_S: CodebookPacking = CodebookPacking {
    pack: |unit, choices, out| {
        let (numbers, rest) = out.split_at_mut(SUPER_BLOCK / 4);
        let (upper, rest) = rest.split_at_mut(SUPER_BLOCK / 32);
        let (signs, scales) = rest.split_at_mut(SUPER_BLOCK / 8);
        for (lane, choice) in choices.iter().enumerate() {
            for (at, word) in choice.words.into_iter().enumerate() {
                let [low, high] = word.to_le_bytes();
                let number = 2 * lane + at;
                numbers[number] = low;
                upper[number / 8] |= (high & 1) << (number % 8);
            }
            signs[lane] = choice.signs;
        }
        set_scales(unit, scales);
    },
    unpack: |bytes, unit, choices| {
        let (numbers, rest) = bytes.split_at(SUPER_BLOCK / 4);
        let (upper, rest) = rest.split_at(SUPER_BLOCK / 32);
        let (signs, scales) = rest.split_at(SUPER_BLOCK / 8);
        for (lane, choice) in choices.iter_mut().enumerate() {
            for (at, word) in choice.words.iter_mut().enumerate() {
                let number = 2 * lane + at;
                let high = upper[number / 8] >> (number % 8) & 1;
                *word = u16::from_le_bytes([numbers[number], high]);
            }
            choice.signs = signs[lane];
        }
        get_scales(scales, unit);
    },
};
