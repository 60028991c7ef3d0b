//! How weights lie in memory.

use std::ops::Deref;

/// Bytes of a matrix, in large pages if there are many and the system has such pages. A row
/// of weights is read once for each token; with pages of 4 KiB, where the processor stops
/// to read ahead and has to look up where the next one lies, that takes twice as long.
pub(crate) enum Bytes {
    AsTheyCame(Vec<u8>),
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    Large(large::Pages),
}

impl Bytes {
    /// Copies the bytes if they fill a large page: to have the system move them takes ten
    /// times as long.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        if bytes.len() >= large::PAGE {
            return Self::Large(large::Pages::copy(&bytes));
        }
        Self::AsTheyCame(bytes)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::AsTheyCame(bytes) => bytes,
            #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
            Self::Large(pages) => pages,
        }
    }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod large {
    use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
    use std::ops::Deref;
    use std::ptr::NonNull;

    /// Bytes of a large page on x86-64, and on aarch64 with pages of 4 KiB.
    pub(super) const PAGE: usize = 2 << 20;

    /// Memory of its own that begins with a large page, and bytes at its beginning.
    pub(crate) struct Pages {
        first: NonNull<u8>,
        length: usize,
        layout: Layout,
    }

    // SAFETY: the memory belongs to this value alone, wherever it is moved to.
    unsafe impl Send for Pages {}
    // SAFETY: shared values only read the memory.
    unsafe impl Sync for Pages {}

    impl Pages {
        /// A copy of bytes, of which there is at least one.
        pub(super) fn copy(bytes: &[u8]) -> Self {
            let length = bytes.len();
            // The last page may be a large one too, if little of it is wasted.
            let whole = length.next_multiple_of(PAGE);
            let size = if whole - length <= length / 16 { whole } else { length };
            // A vector's bytes are at most half of the addresses, so the size is valid.
            let Ok(layout) = Layout::from_size_align(size, PAGE) else {
                handle_alloc_error(Layout::new::<u8>())
            };
            // SAFETY: the layout's size is not zero: the caller has at least one byte.
            let Some(first) = NonNull::new(unsafe { alloc(layout) }) else {
                handle_alloc_error(layout)
            };
            // SAFETY: these pages lie within the memory that was just allocated, and advice
            // about huge pages changes no content. On an error they stay as they are.
            unsafe {
                libc::madvise(first.as_ptr().cast(), size / PAGE * PAGE, libc::MADV_HUGEPAGE)
            };
            // SAFETY: both have `length` bytes, and memory that was just allocated overlaps
            // no other.
            unsafe { first.copy_from_nonoverlapping(NonNull::from(bytes).cast(), length) };
            Self { first, length, layout }
        }
    }

    impl Deref for Pages {
        type Target = [u8];

        fn deref(&self) -> &[u8] {
            // SAFETY: `copy` wrote `length` bytes there, and nothing writes there later.
            unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.length) }
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the memory is from `alloc`, with this layout.
            unsafe { dealloc(self.first.as_ptr(), self.layout) };
        }
    }

    #[cfg(test)]
    mod tests {
        use super::super::Bytes;
        use super::PAGE;

        #[test]
        fn bytes_stay_the_same() {
            for length in [0, 1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE - 3, 20 * PAGE - 1] {
                let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
                let copy = Bytes::new(bytes.clone());
                assert!(*copy == *bytes, "{length}");
                assert_eq!(matches!(copy, Bytes::Large(_)), length >= PAGE, "{length}");
            }
        }
    }
}
