//! Lists that are joined while the program is compiled: families share parts of their tables.

/// How many elements lists have together.
pub(crate) const fn count<T>(lists: &[&[T]]) -> usize {
    let (mut count, mut list) = (0, 0);
    while list < lists.len() {
        count += lists[list].len();
        list += 1;
    }
    count
}

/// Lists one behind the other, which have so many elements. The first is not empty.
pub(crate) const fn joined<T: Copy, const COUNT: usize>(lists: &[&[T]]) -> [T; COUNT] {
    let mut all = [lists[0][0]; COUNT];
    let (mut at, mut list) = (0, 0);
    while list < lists.len() {
        let mut own = 0;
        while own < lists[list].len() {
            all[at] = lists[list][own];
            (at, own) = (at + 1, own + 1);
        }
        list += 1;
    }
    all
}
