//! The words of a scheme's name: `w4g128+v2+asym`.

/// The flag of NVFP4 whose groups may end at four.
pub(crate) const FOUR_OVER_SIX: &str = "4over6";

/// A scheme's name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    head: String,
    flags: Vec<String>,
}

impl Words {
    /// Takes a name apart at its plus signs. None for an empty word, or one twice.
    pub fn of(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let mut words = text.split('+').map(str::to_owned);
        let head = words.next()?;
        let flags: Vec<String> = words.collect();
        let is_new = |(position, flag): (usize, &String)| {
            !flags.iter().take(position).any(|one| one == flag)
        };
        let sound = !head.is_empty()
            && flags.iter().all(|flag| !flag.is_empty())
            && flags.iter().enumerate().all(is_new);
        sound.then_some(Self { head, flags })
    }

    /// What stands before the first plus sign.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// True if this flag is there.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    /// True if there are no flags but these.
    pub fn flags_are(&self, known: &[&str]) -> bool {
        self.flags.iter().all(|flag| known.contains(&&**flag))
    }

    /// The flags.
    pub fn flags(&self) -> &[String] {
        &self.flags
    }

    /// `w4g128`: bits, and columns of a group unless there are none.
    pub fn bits_and_group(&self) -> Option<(u32, Option<u64>)> {
        let text = self.head.strip_prefix('w')?;
        match text.split_once('g') {
            None => Some((number(text)? as u32, None)),
            Some((bits, group)) => Some((number(bits)? as u32, Some(number(group)?))),
        }
    }

    /// `g32`: columns of a group, among the flags.
    pub fn group_flag(&self) -> Option<u64> {
        self.flags.iter().find_map(|flag| number(flag.strip_prefix('g')?))
    }
}

/// A plain decimal of at most five digits, not zero.
pub fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty()
        && digits.len() <= 5
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let check = |text: &str, expected: Option<(u32, Option<u64>)>| {
            let found = Words::of(text).and_then(|words| words.bits_and_group());
            assert_eq!(found, expected, "{text}");
        };
        check("w4g128", Some((4, Some(128))));
        check("W4G128+v2", Some((4, Some(128))));
        check("w8", Some((8, None)));
        check("w4g0", None);
        check("w04", None);
        check("w4g128+", None);
        check("w4g128+v2+v2", None);
        check("4", None);
        check("", None);
    }
}
