//! What a function does if an exception passes through one of its calls: its language specific data area (LSDA).
//!
//! The layout is that of GCC and LLVM (`.gcc_except_table`; `read_encoded_value` and `PERSONALITY_FUNCTION` in GCC's
//! `eh_personality.cc`), which C++, Rust, C with cleanups and others share: a table of call sites, each with a landing
//! pad and the first of a chain of actions. Pure: bytes in, meaning out; damaged tables have no meaning.

use crate::addr::Addr;
use crate::memory::Memory;

/// What a function does if an exception passes through a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Handling {
    /// It runs something and lets the exception go on: destructors, drops, `finally`.
    pub(crate) cleans_up: bool,
    /// It may catch it. Which C++ types it catches is not said here.
    pub(crate) catches: bool,
    /// It restricts what may pass. Rust marks so what may not unwind at all; C++ had lists of permitted types.
    pub(crate) filters: bool,
    /// The call is in no entry of its table: an exception ends the program (`noexcept`).
    pub(crate) forbids: bool,
}

/// More call sites or actions than this come from a damaged table.
const MOST_SITES: usize = 1 << 16;
const MOST_ACTIONS: usize = 64;

/// `DW_EH_PE_omit` of the Linux Standard Base: there is no such value.
const OMITTED: u8 = 0xff;

/// What the function that begins at `start`, with its table at `table`, does for the call at `at`; `None` if the table
/// can't be read.
pub(crate) fn handling(memory: &dyn Memory, table: Addr, start: Addr, at: Addr) -> Option<Handling> {
    let mut reader = Reader::new(memory, table);
    let pads_encoding = reader.byte()?;
    if pads_encoding != OMITTED {
        reader.encoded(pads_encoding)?;
    }
    if reader.byte()? != OMITTED {
        reader.unsigned()?;
    }
    let encoding = reader.byte()?;
    let length = reader.unsigned()?;
    let actions = reader.at.offset(i64::try_from(length).ok()?);
    let offset = at.0.checked_sub(start.0)?;
    for _ in 0..MOST_SITES {
        if reader.at >= actions {
            break;
        }
        let (first, length, pad) = (reader.encoded(encoding)?, reader.encoded(encoding)?, reader.encoded(encoding)?);
        let action = reader.unsigned()?;
        if offset < first {
            break;
        }
        if offset - first < length {
            return match (pad, action) {
                (0, _) => Some(Handling::default()),
                (_, 0) => Some(Handling { cleans_up: true, ..Handling::default() }),
                (_, action) => chain(memory, actions.offset(i64::try_from(action).ok()? - 1)),
            };
        }
    }
    Some(Handling { forbids: true, ..Handling::default() })
}

/// The chain of actions that begins at `at`: pairs of what is done and how far it is to the next one.
fn chain(memory: &dyn Memory, mut at: Addr) -> Option<Handling> {
    let mut handling = Handling::default();
    for _ in 0..MOST_ACTIONS {
        let mut reader = Reader::new(memory, at);
        match reader.signed()? {
            0 => handling.cleans_up = true,
            1.. => handling.catches = true,
            _ => handling.filters = true,
        }
        let from = reader.at;
        match reader.signed()? {
            0 => return Some(handling),
            distance => at = from.offset(distance),
        }
    }
    None
}

/// Reads a table from the start to the end, some bytes in advance.
struct Reader<'m> {
    memory: &'m dyn Memory,
    at: Addr,
    ready: [u8; Reader::PIECE],
    /// Where `ready` begins, if anything is.
    ready_at: Option<Addr>,
}

impl<'m> Reader<'m> {
    /// How much is read at once. No piece reaches over one of these, so none is in two pages.
    const PIECE: usize = 64;

    fn new(memory: &'m dyn Memory, at: Addr) -> Reader<'m> {
        Reader { memory, at, ready: [0; Reader::PIECE], ready_at: None }
    }

    fn byte(&mut self) -> Option<u8> {
        let piece = self.at.align_down(Reader::PIECE as u64);
        if self.ready_at != Some(piece) {
            self.memory.read(piece, &mut self.ready).ok()?;
            self.ready_at = Some(piece);
        }
        let byte = self.ready.get((self.at.0 - piece.0) as usize).copied();
        self.at = self.at.offset(1);
        byte
    }

    fn fixed<const SIZE: usize>(&mut self) -> Option<[u8; SIZE]> {
        let mut bytes = [0; SIZE];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Some(bytes)
    }

    /// A LEB128 number (DWARF 5, section 7.6), and whether its last byte has the bit of a sign.
    fn leb128(&mut self) -> Option<(u64, u32, bool)> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                return Some((value, shift, byte & 0x40 != 0));
            }
        }
    }

    fn unsigned(&mut self) -> Option<u64> {
        self.leb128().map(|(value, ..)| value)
    }

    fn signed(&mut self) -> Option<i64> {
        let (value, bits, negative) = self.leb128()?;
        let sign = if negative { u64::MAX.checked_shl(bits).unwrap_or(0) } else { 0 };
        Some((value | sign).cast_signed())
    }

    /// A number in one of the encodings that call sites have. They count from the function's start.
    fn encoded(&mut self, encoding: u8) -> Option<u64> {
        Some(match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => u64::from_le_bytes(self.fixed()?),
            0x01 => self.unsigned()?,
            0x02 => u16::from_le_bytes(self.fixed()?).into(),
            0x03 => u32::from_le_bytes(self.fixed()?).into(),
            0x09 => self.signed()?.cast_unsigned(),
            0x0a => i64::from(i16::from_le_bytes(self.fixed()?)).cast_unsigned(),
            0x0b => i64::from(i32::from_le_bytes(self.fixed()?)).cast_unsigned(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Copied;

    const TABLE: Addr = Addr(0x5000);
    const START: Addr = Addr(0x1000);

    /// A table with these call sites (start, length, pad, action), and these actions.
    fn memory(sites: &[[u8; 4]], actions: &[u8]) -> Copied {
        let mut bytes = vec![OMITTED, OMITTED, 0x01, (4 * sites.len()) as u8];
        bytes.extend(sites.iter().flatten());
        bytes.extend(actions);
        bytes.resize(256, 0x80);
        let mut memory = Copied::default();
        memory.insert(TABLE, bytes.into());
        memory
    }

    fn at(memory: &Copied, offset: i64) -> Option<Handling> {
        handling(memory, TABLE, START, START.offset(offset))
    }

    #[test]
    fn a_call_does_what_its_site_says() {
        // Actions: 1: catch type 1, then what is 2 bytes on from its second byte: cleanup. 5: filter, the end.
        let memory = memory(&[[0, 4, 0, 0], [4, 4, 40, 0], [8, 4, 41, 1], [12, 4, 42, 5]], &[1, 1, 0, 0, 0x7f, 0]);
        let nothing = Handling::default();
        assert_eq!(at(&memory, 3), Some(nothing));
        assert_eq!(at(&memory, 4), Some(Handling { cleans_up: true, ..nothing }));
        assert_eq!(at(&memory, 11), Some(Handling { cleans_up: true, catches: true, ..nothing }));
        assert_eq!(at(&memory, 12), Some(Handling { filters: true, ..nothing }));
        assert_eq!(at(&memory, 16), Some(Handling { forbids: true, ..nothing }));
        assert_eq!(at(&memory, -1), None);
    }

    #[test]
    fn damaged_tables_have_no_meaning() {
        // A chain that leads back to itself, and one that ends in an endless number.
        assert_eq!(at(&memory(&[[0, 4, 40, 1]], &[1, 0x7f]), 0), None);
        assert_eq!(at(&memory(&[[0, 4, 40, 1]], &[0x80]), 0), None);
        assert_eq!(handling(&Copied::default(), TABLE, START, START), None);
        let cut = memory(&[[0, 4, 40, 1]], &[]);
        assert_eq!(handling(&cut, TABLE.offset(250), START, START), None);
    }
}
