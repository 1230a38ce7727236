//! Looks for instructions in the bytes of x86-64 code, without decoding all of it.
//!
//! A scan looks at each byte as if an instruction began there, so what it finds may lie inside another instruction:
//! a caller decodes from a place where an instruction is known to begin. Encodings: Intel SDM, volume 2.

use std::ops::{Range, RangeInclusive};

use super::scan::{Span, distances, places};

/// Code, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct CodeBytes<'a> {
    /// The svma of the first byte.
    pub svma: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> CodeBytes<'a> {
    /// The addresses that it covers.
    pub fn range(&self) -> Range<u64> {
        self.svma..self.svma.saturating_add(self.bytes.len() as u64)
    }

    /// The bytes from `svma` to the end.
    pub fn tail(&self, svma: u64) -> Option<&'a [u8]> {
        let offset = usize::try_from(svma.checked_sub(self.svma)?).ok()?;
        self.bytes.get(offset..).filter(|tail| !tail.is_empty())
    }
}

/// An instruction `mov [r+slot], r64` (`REX.W 89 /r`) without an index register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store {
    /// Its address.
    pub at: u64,
    /// The number of the register that is stored, as in [`crate::arch`]'s encodings: 15 is `r15`.
    pub register: u8,
}

/// The stores of whole registers to `slot` bytes above what some register holds, in order.
pub fn stores(code: CodeBytes<'_>, slot: i32) -> impl Iterator<Item = Store> {
    let [low, ..] = slot.to_le_bytes();
    let (is_short, is_zero) = (i8::try_from(slot).is_ok(), slot == 0);
    let may_store = move |[rex, opcode, modrm, next]: [u8; 4]| {
        let has_slot = is_zero & (modrm & 0xc0 == 0) | (next == low) & (modrm & 0xc0 != 0);
        (rex & 0xf8 == 0x48) & (opcode == 0x89) & (modrm & 7 != 4) & has_slot
    };
    let store = move |place: usize| {
        let &[rex, _, modrm, ref rest @ ..] = code.bytes.get(place..)? else { return None };
        let is_there = match modrm >> 6 {
            0 => is_zero && modrm & 7 != 5,
            1 => is_short && rest.first() == Some(&low),
            2 => rest.first_chunk() == Some(&slot.to_le_bytes()),
            _ => false,
        };
        let at = code.svma.wrapping_add(place as u64);
        is_there.then_some(Store { at, register: modrm >> 3 & 7 | (rex & 4) << 1 })
    };
    places(code.bytes, may_store).filter_map(store)
}

/// How an instruction names an address by its distance from the next instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reference {
    /// `call x` (`E8`), which returns to the byte after the distance.
    Call,
    /// `jmp x` (`E9`).
    Jump,
    /// A jump on a condition (`0F 8x`).
    Branch,
    /// `call [rip+x]` (`FF /2`) of what the word at the address points to; it returns to the byte after the distance.
    SlotCall,
    /// `jmp [rip+x]` (`FF /4`).
    SlotJump,
    /// `lea r, [rip+x]` (`8D /r`).
    Take,
    /// `mov r, [rip+x]` (`8B /r`), of the word at the address.
    SlotLoad,
}

impl Reference {
    /// What an instruction is that has `code` before its distance.
    fn before_distance(code: &[u8]) -> Option<Reference> {
        match code {
            [.., 0xff, 0x15] => Some(Reference::SlotCall),
            [.., 0xff, 0x25] => Some(Reference::SlotJump),
            [.., 0x8d, modrm] if modrm & 0xc7 == 0x05 => Some(Reference::Take),
            [.., 0x8b, modrm] if modrm & 0xc7 == 0x05 => Some(Reference::SlotLoad),
            [.., 0x0f, 0x80..=0x8f] => Some(Reference::Branch),
            [.., 0xe8] => Some(Reference::Call),
            [.., 0xe9] => Some(Reference::Jump),
            _ => None,
        }
    }

    /// How many bytes stand before the distance, prefixes aside.
    pub fn opcode_bytes(self) -> u64 {
        match self {
            Reference::Call | Reference::Jump => 1,
            _ => 2,
        }
    }
}

/// An instruction that names an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Referrer {
    /// The address of the next instruction.
    pub next: u64,
    /// The address that it names.
    pub target: u64,
    /// How.
    pub reference: Reference,
}

impl Referrer {
    /// Where the instruction begins, its prefixes aside.
    pub fn at(&self) -> u64 {
        self.next.wrapping_sub(4 + self.reference.opcode_bytes())
    }
}

/// Addresses further apart than this are searched for as two groups...
const NEAR: u64 = 1 << 18;

/// ... but more groups than this are joined: each is tried for at each byte.
const MOST_GROUPS: usize = 8;

/// The instructions that name an address in one of the ranges `wanted`, in order.
///
/// Each range begins and ends no lower than the one before it. The nearer all are to each other, the faster.
pub fn references<'a>(code: CodeBytes<'a>, wanted: &'a [RangeInclusive<u64>]) -> impl Iterator<Item = Referrer> + 'a {
    let (mut near, mut groups) = (NEAR, Vec::new());
    while groups.is_empty() && !wanted.is_empty() {
        let is_near =
            |low: &RangeInclusive<u64>, high: &RangeInclusive<u64>| high.start().saturating_sub(*low.end()) <= near;
        let grouped = wanted.chunk_by(is_near);
        if near == u64::MAX || grouped.clone().count() <= MOST_GROUPS {
            groups = grouped.collect();
        }
        near = near.saturating_mul(4);
    }
    let span = |group: &&[RangeInclusive<u64>]| {
        let (low, high) = (*group.first()?.start(), *group.last()?.end());
        let span = u32::try_from(high.wrapping_sub(low)).unwrap_or(u32::MAX);
        Some(Span { low: low.wrapping_sub(code.svma) as u32, span })
    };
    let places = distances(code.bytes, groups.iter().filter_map(span).collect());
    places.filter_map(move |place| {
        let reference = Reference::before_distance(&code.bytes[..place])?;
        let distance = i32::from_le_bytes(*code.bytes.get(place..)?.first_chunk()?);
        let next = code.svma.wrapping_add(place as u64 + 4);
        let target = next.wrapping_add_signed(i64::from(distance));
        let range = wanted.get(wanted.partition_point(|range| *range.end() < target))?;
        range.contains(&target).then_some(Referrer { next, target, reference })
    })
}

/// Where jumps to `target` may begin that name it by one byte (`EB`, and `7x` on a condition), in order.
pub fn short_jumps(code: CodeBytes<'_>, target: u64) -> impl Iterator<Item = u64> {
    let low = target.saturating_sub(1 << 7).saturating_sub(1).max(code.svma);
    let places = (low..target.saturating_add(1 << 7)).filter(move |at| match code.tail(*at) {
        Some(&[0xeb | 0x70..=0x7f, distance, ..]) => {
            at.wrapping_add(2).wrapping_add_signed(i64::from(distance as i8)) == target
        }
        _ => false,
    });
    places.filter(move |at| code.range().contains(at))
}

/// A function's own labels lie at most this far from where it takes their addresses, in bytes.
const NEAR_LABEL: i32 = 1 << 12;

/// The instructions `lea r, [rip+x]` that take an address nearby, in order: where each begins, and the address.
pub fn nearby_addresses_taken(code: CodeBytes<'_>) -> impl Iterator<Item = (u64, u64)> {
    let takes = |[rex, opcode, modrm, _]: [u8; 4]| (rex & 0xfb == 0x48) & (opcode == 0x8d) & (modrm & 0xc7 == 0x05);
    places(code.bytes, takes).filter_map(move |place| {
        let distance = i32::from_le_bytes(*code.bytes.get(place + 3..)?.first_chunk()?);
        let at = code.svma.wrapping_add(place as u64);
        let target = at.wrapping_add(7).wrapping_add_signed(i64::from(distance));
        (distance.unsigned_abs() < NEAR_LABEL.unsigned_abs() && code.range().contains(&target)).then_some((at, target))
    })
}

/// Whether the code has this number in four bytes, as it has an address if it is linked to run at a fixed place.
pub fn has_number(code: &[CodeBytes<'_>], number: u32) -> bool {
    code.iter().any(|part| memchr::memmem::find(part.bytes, &number.to_le_bytes()).is_some())
}

/// The return addresses after `call r/m` (`FF /2`), in order.
pub fn indirect_calls(code: CodeBytes<'_>) -> Vec<u64> {
    let after = |index: usize| {
        let tail = &code.bytes[index..];
        let length = indirect_call_length(tail)?;
        (length <= tail.len()).then(|| code.svma.wrapping_add((index + length) as u64))
    };
    memchr::memchr_iter(0xff, code.bytes).filter_map(after).collect()
}

/// The length of a `call r/m` that begins here, by its ModRM and SIB bytes.
fn indirect_call_length(code: &[u8]) -> Option<usize> {
    let modrm = *code.get(1)?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && rm == 4;
    let displacement = match mode {
        0 if rm == 5 => 4,
        0 if has_sib && code.get(2)? & 7 == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    (modrm >> 3 & 7 == 2).then_some(2 + usize::from(has_sib) + displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_cut_short_is_no_error() {
        let code = |bytes| CodeBytes { svma: 0, bytes };
        for length in 0..4 {
            assert_eq!(references(code(&[0xe8, 0, 0, 0][..length]), &[0..=u64::MAX]).count(), 0);
            assert_eq!(references(code(&[0xff, 0x15, 0, 0][..length]), &[0..=u64::MAX]).count(), 0);
            assert_eq!(stores(code(&[0x4c, 0x89, 0x7f, 0x30][..length]), 0x30).count(), 0);
        }
    }

    #[test]
    fn finds_stores_however_their_place_is_written() {
        let check = |bytes: &[u8], slot, register| {
            let found: Vec<Store> = stores(CodeBytes { svma: 0x1000, bytes }, slot).collect();
            assert_eq!(found, [Store { at: 0x1000, register }], "{bytes:x?}");
            assert_eq!(stores(CodeBytes { svma: 0x1000, bytes }, slot + 8).count(), 0, "{bytes:x?}");
        };
        check(&[0x4c, 0x89, 0x3f], 0, 15); // mov [rdi], r15
        check(&[0x4c, 0x89, 0x7f, 0x30], 0x30, 15); // mov [rdi+0x30], r15
        check(&[0x4c, 0x89, 0xbf, 0xa0, 0, 0, 0], 0xa0, 15); // mov [rdi+0xa0], r15
        check(&[0x49, 0x89, 0x58, 0xf8], -8, 3); // mov [r8-8], rbx
        assert_eq!(stores(CodeBytes { svma: 0, bytes: &[0x4c, 0x89, 0x3d, 0, 0, 0, 0] }, 0).count(), 0, "[rip+0]");
    }

    #[test]
    fn short_jumps_name_their_target_by_one_byte() {
        let code = CodeBytes { svma: 0x1000, bytes: &[0xeb, 0x02, 0x74, 0x00, 0x90, 0xeb, 0xfd] };
        assert_eq!(short_jumps(code, 0x1004).collect::<Vec<_>>(), [0x1000, 0x1002, 0x1005]);
        assert_eq!(short_jumps(code, 0x1003).count(), 0);
    }

    #[test]
    fn instructions_refer_to_where_the_distance_says() {
        let code = [
            0xe8, 0xfa, 0x0f, 0, 0, // call
            0xe9, 0xfa, 0x0f, 0, 0, // jmp
            0xff, 0x25, 0xfa, 0x0f, 0, 0, // jmp [rip+x]
            0xff, 0x15, 0xfa, 0x0f, 0, 0, // call [rip+x]
            0x48, 0x8d, 0x3d, 0xfa, 0x0f, 0, 0, // lea rdi, [rip+x]
            0x4c, 0x8b, 0x05, 0xfa, 0x0f, 0, 0, // mov r8, [rip+x]
            0x0f, 0x85, 0xfa, 0x0f, 0, 0, // jne
        ];
        let code = CodeBytes { svma: 0x1000, bytes: &code };
        let found: Vec<_> =
            references(code, &[0x1f00..=0x1fff, 0x2000..=0x2100]).map(|found| (found.at(), found.reference)).collect();
        let expected = [
            (0x1000, Reference::Call),
            (0x1005, Reference::Jump),
            (0x100a, Reference::SlotJump),
            (0x1010, Reference::SlotCall),
            (0x1017, Reference::Take),
            (0x101e, Reference::SlotLoad),
            (0x1024, Reference::Branch),
        ];
        assert_eq!(found, expected);
        assert_eq!(references(code, &[0x1fff..=0x1fff]).map(|found| found.next).collect::<Vec<_>>(), [0x1005]);
        assert!(has_number(&[code], 0xffa) && !has_number(&[code], 0xffb));
    }
}
