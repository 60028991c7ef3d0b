//! Weights and importance that strain an encoder, made from integers alone, so
//! that every machine and language makes the same bits. `make.py` makes the
//! same; the goldens hold only the results. Included by path where it is needed.

/// A kind of input: its name, and the value at a position.
pub(crate) type Kind = (&'static str, fn(&mut Random, usize) -> f32);

/// The splitmix64 generator (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators").
pub(crate) struct Random {
    state: u64,
    /// Kept by kinds that change something only now and then.
    kept: i32,
}

impl Random {
    /// A generator whose sequence depends on the seed alone.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, kept: 0 }
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A multiple of 2^-23 in -1..1.
    fn even(&mut self) -> f32 {
        ((self.next() >> 40) as i32 - (1 << 23)) as f32 * power(-23)
    }

    /// A multiple of 2^-24 in 0..=1, not 0.
    fn positive(&mut self) -> f32 {
        ((self.next() >> 40) as i32 + 1) as f32 * power(-24)
    }

    /// 2^k with probability 2^-(k + 1), up to 2^20.
    fn heavy(&mut self) -> f32 {
        power(self.next().trailing_zeros().min(20) as i32)
    }
}

/// 2^exponent, within the normal numbers.
fn power(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Kinds of weights; all finite.
pub(crate) static WEIGHTS: &[Kind] = &[
    ("even", |r, _| r.even()),
    ("bell", |r, _| {
        let sum: i32 = (0..4).map(|_| (r.next() >> 42) as i32).sum();
        (sum - (1 << 23)) as f32 * power(-23)
    }),
    ("heavy", |r, _| r.even() * r.heavy()),
    ("constant", |_, _| 0.75),
    ("constant-negative", |_, _| -0.75),
    ("positive", |r, _| r.positive()),
    ("negative", |r, _| -r.positive()),
    ("offset", |r, _| 1.0 + r.even() * power(-8)),
    ("one-step", |_, i| if i % 32 == 31 { 0.75 + power(-24) } else { 0.75 }),
    ("zero", |_, _| 0.0),
    ("subnormal", |r, _| {
        let bits = r.next();
        f32::from_bits(((bits >> 63) << 31 | bits >> 32 & 1023) as u32)
    }),
    ("least-normal", |r, _| r.even() * power(-120)),
    ("tiny", |r, _| r.even() * power(-66)),
    ("at-zero-limit", |r, _| r.even() * power(-49)),
    ("half-subnormal", |r, _| r.even() * power(-20)),
    ("half-overflow", |r, _| r.even() * power(22)),
    ("huge", |r, _| r.even() * power(100)),
    ("enormous", |r, _| r.even() * power(127)),
    ("outlier", |r, i| if i % 256 == 77 { 8.0 } else { r.even() * power(-10) }),
    ("alternating", |_, i| if i % 2 == 0 { 0.5 } else { -0.5 }),
    ("sparse", |r, _| if r.next() >> 61 == 0 { r.even() } else { 0.0 }),
    ("ramp", |_, i| (i % 256) as f32 - 128.0),
    ("quarters", |r, _| ((r.next() >> 61) as i32 - 4) as f32 * 0.25),
    ("sixteens", |r, i| {
        if i % 16 == 0 {
            r.kept = (r.next() >> 59) as i32;
        }
        r.even() * power(-r.kept)
    }),
    ("any-bits", |r, _| {
        let bits = (r.next() >> 32) as u32;
        f32::from_bits(if bits >> 23 & 255 == 255 { bits ^ 1 << 30 } else { bits })
    }),
];

/// Kinds of importance; none negative.
pub(crate) static IMPORTANCE: &[Kind] = &[
    ("positive", |r, _| r.positive()),
    ("heavy", |r, _| r.positive() * r.heavy()),
    ("some-zero", |r, _| if r.next() % 3 == 0 { 0.0 } else { r.positive() }),
    ("ones", |_, _| 1.0),
    ("zero", |_, _| 0.0),
    ("tiny", |r, _| r.positive() * power(-100)),
    ("huge", |r, _| r.positive() * power(100)),
];

/// `count` values of a kind.
pub(crate) fn values(kind: &Kind, seed: u64, count: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..count).map(|position| (kind.1)(&mut random, position)).collect()
}

/// The kind called `name`.
pub(crate) fn find<'a>(kinds: &'a [Kind], name: &str) -> Option<&'a Kind> {
    kinds.iter().find(|kind| kind.0 == name)
}
