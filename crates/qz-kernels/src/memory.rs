//! How weights lie in memory.

/// Has the operating system put these bytes into large pages, if it can. A row of
/// weights is read once for each token; with pages of 4 KiB, where the processor stops
/// to read ahead and has to look up where the next one lies, that takes twice as long.
///
/// Only whole large pages within `bytes` change, so no memory is used beyond them.
pub(crate) fn use_large_pages(bytes: &[u8]) {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    {
        /// Bytes of a large page on x86-64, and on aarch64 with pages of 4 KiB.
        const LARGE: usize = 2 << 20;
        /// `MADV_COLLAPSE` of Linux 6.1: now, rather than when the system gets to it.
        const COLLAPSE: libc::c_int = 25;
        let before = bytes.as_ptr().align_offset(LARGE);
        let length = bytes.len().saturating_sub(before) / LARGE * LARGE;
        if length == 0 {
            return;
        }
        let first = bytes[before..].as_ptr().cast_mut().cast();
        for advice in [libc::MADV_HUGEPAGE, COLLAPSE] {
            // SAFETY: the pages are those of `bytes`; neither advice changes what they
            // hold. An error says that they stay as they are.
            unsafe { libc::madvise(first, length, advice) };
        }
    }
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    let _ = bytes;
}
