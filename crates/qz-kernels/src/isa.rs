//! Instruction sets: which ones there are, which one is used.

use std::fmt;
use std::str::FromStr;
#[cfg(target_arch = "x86_64")]
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU8, Ordering};

use qz_codec::{CODECS, Codec, NUMBERS};
use qz_tensor::DataType;

use crate::error::Error;

#[cfg(target_arch = "x86_64")]
use crate::{codecs::accelerated, x86};

/// An instruction set for which the codecs are compiled. Their results are the same
/// with each, bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum Isa {
    /// What every machine of the architecture has: SSE2 on x86-64.
    Baseline,
    /// AVX2 on x86-64.
    Avx2,
    /// AVX-512 on x86-64: F, BW, DQ and VL.
    Avx512,
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().copied().find(|isa| isa.name() == name);
        found.ok_or_else(|| Error::Unknown(name.to_owned()))
    }
}

/// The chosen set's number, or [`UNDECIDED`].
static CHOSEN: AtomicU8 = AtomicU8::new(UNDECIDED);

const UNDECIDED: u8 = u8::MAX;

impl Isa {
    /// All of them, the least capable first.
    pub const ALL: &[Self] = &[Self::Baseline, Self::Avx2, Self::Avx512];

    /// Its name on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// True if this machine has it.
    pub fn is_supported(self) -> bool {
        match self {
            Self::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::has_avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// The most capable one of this machine.
    pub fn best() -> Self {
        let supported = Self::ALL.iter().copied().filter(|isa| isa.is_supported());
        supported.max().unwrap_or(Self::Baseline)
    }

    /// Uses this one from now on, in the whole process, instead of the best.
    ///
    /// # Errors
    ///
    /// If this machine lacks it.
    pub fn choose(self) -> Result<(), Error> {
        if !self.is_supported() {
            return Err(Error::Unsupported(self));
        }
        CHOSEN.store(self as u8, Ordering::Relaxed);
        Ok(())
    }

    /// The one in use.
    pub fn chosen() -> Self {
        let chosen = CHOSEN.load(Ordering::Relaxed);
        let found = Self::ALL.iter().copied().find(|isa| *isa as u8 == chosen);
        found.unwrap_or_else(Self::best)
    }

    /// Every codec, compiled for this set; for the baseline where the machine lacks it.
    pub fn codecs(self) -> &'static [&'static dyn Codec] {
        #[cfg(target_arch = "x86_64")]
        {
            type Codecs = LazyLock<Option<Vec<&'static dyn Codec>>>;
            static AVX2: Codecs = LazyLock::new(|| Some(accelerated(CODECS, x86::avx2_codecs()?)));
            static AVX512: Codecs =
                LazyLock::new(|| Some(accelerated(CODECS, x86::avx512_codecs()?)));
            let compiled = match self {
                Self::Baseline => None,
                Self::Avx2 => AVX2.as_deref(),
                Self::Avx512 => AVX512.as_deref(),
            };
            if let Some(codecs) = compiled {
                return codecs;
            }
        }
        CODECS
    }

    /// The codec of an element type, compiled for this set; numbers that no weights
    /// become are read as they are.
    pub fn codec_for(self, data_type: DataType) -> Option<&'static dyn Codec> {
        let codecs = self.codecs().iter().chain(NUMBERS).copied();
        codecs.into_iter().find(|codec| codec.spec().data_type == data_type)
    }
}

/// The codec of an element type, compiled for the instruction set in use.
pub fn codec_for(data_type: DataType) -> Option<&'static dyn Codec> {
    Isa::chosen().codec_for(data_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for isa in Isa::ALL.iter().copied() {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
        assert_eq!("mmx".parse::<Isa>(), Err(Error::Unknown("mmx".into())));
    }

    #[test]
    fn the_baseline_is_always_there() {
        assert!(Isa::Baseline.is_supported());
        assert!(Isa::best().is_supported());
    }
}
