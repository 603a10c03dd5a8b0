//! Copying by the kernel from one range of this process's addresses to another.
//!
//! What can't be read is a short count here, where a load would be SIGBUS. The source is what the kernel reads as a program's memory
//! (copy_from_user): there it also recovers from a machine check, by which a processor tells of poison that nobody knew of. The destination it
//! looks up page by page; a page that it can't have is a short count too.
#![allow(unsafe_code)]
//! Unsafe code: `process_vm_writev` on this process. What must hold is the caller's word on the destination; the kernel checks all addresses.

use std::io;

/// Copies `len` bytes, and returns how many: fewer where the next byte can't be read or written.
///
/// # Safety
///
/// `to..to + len` is memory that this process may have written, with no reference to plain bytes into it but the caller's own; both ranges are the
/// caller's, whatever lies behind them, and don't overlap.
pub(crate) unsafe fn transfer(from: *const u8, to: *mut u8, len: usize) -> io::Result<usize> {
    let mut done = 0;
    while done < len {
        let local = libc::iovec { iov_base: from.wrapping_add(done).cast_mut().cast(), iov_len: len - done };
        let remote = libc::iovec { iov_base: to.wrapping_add(done).cast(), iov_len: len - done };
        // SAFETY: the kernel reads the first range and writes the second, which the contract allows; it answers EFAULT, or a short count, for pages
        // that it can't reach.
        let n =
            unsafe { libc::process_vm_writev(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        match usize::try_from(n) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e if matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON)) => break,
                e => return Err(e),
            },
        }
    }
    Ok(done)
}
