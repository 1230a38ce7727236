//! The code of a program that is put together by a target.

use stackscope::workshop::addr::Addr;
use stackscope::workshop::unwind::Code;

/// Where it lies.
pub const CODE: u64 = 0x1_0000;

/// These bytes there.
pub struct CodeAt<'a>(pub &'a [u8]);

impl Code for CodeAt<'_> {
    fn is_executable(&self, at: Addr) -> bool {
        at.0.checked_sub(CODE).is_some_and(|offset| offset < self.0.len() as u64)
    }

    fn code(&self, at: Addr, into: &mut [u8]) -> bool {
        let tail = at.0.checked_sub(CODE).and_then(|offset| self.0.get(offset as usize..));
        let bytes = tail.and_then(|tail| tail.get(..into.len()));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }
}
