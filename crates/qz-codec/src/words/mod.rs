//! The codewords of the codebook codecs, packed: four 3-bit digits or eight 2-bit
//! digits, the first column's in the lowest bits. A word's place in its table is its
//! number in a block; its packed form is its code.

mod iq1;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;

pub(crate) use iq1::IQ1;
pub(crate) use iq2_s::IQ2_S;
pub(crate) use iq2_xs::IQ2_XS;
pub(crate) use iq2_xxs::IQ2_XXS;
pub(crate) use iq3_s::IQ3_S;
pub(crate) use iq3_xxs::IQ3_XXS;

/// What the digits of IQ2 words stand for: about eight times what the encoders take
/// them for (1, 3, 5). There is no digit 3.
pub(crate) const IQ2_MAGNITUDES: [u8; 3] = [8, 25, 43];

/// What the digits of [`IQ3_XXS`] stand for: four times what the encoder takes them for
/// (1, 3, 5 to 15), but for the last.
pub(crate) const IQ3_XXS_MAGNITUDES: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];

/// What the digits of [`IQ3_S`] stand for, to decoders and the encoder alike.
pub(crate) const IQ3_S_MAGNITUDES: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// The magnitudes of each word.
pub(crate) const fn levels<const DIM: usize, const DIGITS: usize, const COUNT: usize>(
    words: &[u16; COUNT],
    magnitudes: &[u8; DIGITS],
) -> [[u8; DIM]; COUNT] {
    let bits = if DIM == 8 { 2 } else { 3 };
    let mut levels = [[0; DIM]; COUNT];
    let mut number = 0;
    while number < COUNT {
        let mut position = 0;
        while position < DIM {
            let digit = words[number] >> (bits * position) & ((1 << bits) - 1);
            levels[number][position] = magnitudes[digit as usize];
            position += 1;
        }
        number += 1;
    }
    levels
}
