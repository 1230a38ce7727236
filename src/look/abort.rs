//! What the C library kept of why a program aborts.
//!
//! glibc writes the message of a failed assertion, a damaged heap or a smashed stack to stderr, and keeps it for debuggers:
//! `__abort_msg` points to its length and then its text (`struct abort_msg_s` in `include/stdlib.h`).

use crate::addr::Addr;
use crate::image::Modules;
use crate::memory::Memory;

/// The variable that points to the message.
const VARIABLE: &[u8] = b"__abort_msg";

/// Where the text begins.
const TEXT: i64 = 4;

/// Of a message no more bytes than this are read.
const LONGEST: usize = 1024;

/// The message, in one line.
pub(super) fn message(modules: &Modules, memory: &dyn Memory) -> Option<String> {
    let places = modules.iter().filter_map(|module| {
        let svma = module.image.as_ref()?.exported_variable(VARIABLE)?;
        Some(Addr(svma.wrapping_add(module.bias)))
    });
    let texts = places.filter_map(|place| text(memory, Addr(memory.read_u64(place).ok()?).offset(TEXT)));
    texts.into_iter().next()
}

fn text(memory: &dyn Memory, at: Addr) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while bytes.len() < LONGEST && memory.read(at.offset(bytes.len() as i64), &mut byte).is_ok() && byte != [0] {
        bytes.extend(byte);
    }
    let line = String::from_utf8_lossy(&bytes).trim().replace('\n', " ");
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Slices;

    #[test]
    fn a_message_ends_with_a_zero_or_with_its_memory() {
        let read = |bytes: &[u8]| text(&Slices::new(vec![(Addr(0x1000), bytes)]), Addr(0x1000));
        assert_eq!(read(b"free(): invalid pointer\n\0rest"), Some("free(): invalid pointer".to_owned()));
        assert_eq!(read(b"cut"), Some("cut".to_owned()));
        assert_eq!((read(b"\0"), read(b"")), (None, None));
        assert_eq!(read(&[b'x'; 4096]).map(|text| text.len()), Some(LONGEST));
    }
}
