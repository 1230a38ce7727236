//! One entry of call frame information, and the common part (CIE) that it shares with others.

use gimli::{BaseAddresses, CallFrameInstructionIter, UnwindOffset, UnwindSection};

use super::program::{Machine, RuleSet, Terms, number};
use super::sections::{Cie, Sections, Slice, Source};
use crate::registers::Register;

/// The longest entry whose instructions are run, in bytes. The longest of librustc_driver has 2,900.
const LONGEST: usize = 1 << 18;
/// How many CIEs are kept. Images have one to ten.
const MOST_KEPT: usize = 128;

/// What is needed of a frame description entry.
#[derive(Clone)]
pub(super) struct Entry<'t, 'd> {
    terms: Terms<'t, 'd>,
    cie: CieKey,
    /// The first address that it no longer covers.
    pub(super) end: u64,
    /// Whether it describes a signal trampoline (`S` in the CIE's augmentation).
    pub(super) is_signal: bool,
    /// The register whose rule is that of the return address; `None` for one that is not kept.
    pub(super) return_address: Option<Register>,
    /// The table that says what the function does if an exception passes through it: where the file says that it lies.
    pub(super) lsda: Option<u64>,
    instructions: CallFrameInstructionIter<'t, Slice<'d>>,
}

/// Where in our memory a CIE begins: that distinguishes it from those of all sections and images.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct CieKey(usize);

impl<'t, 'd> Entry<'t, 'd> {
    /// The entry at `offset` in the section `source`; `None` if it is malformed or huge.
    pub(super) fn at(
        sections: &'t Sections<'d>,
        source: Source,
        offset: usize,
        cies: &mut Cies<'d>,
    ) -> Option<Entry<'t, 'd>> {
        match source {
            Source::EhFrame => Entry::parse(sections, source, &sections.eh_frame, offset, cies),
            Source::DebugFrame => Entry::parse(sections, source, &sections.debug_frame, offset, cies),
        }
    }

    #[inline]
    fn parse<S>(
        sections: &'t Sections<'d>,
        source: Source,
        section: &'t S,
        offset: usize,
        cies: &mut Cies<'d>,
    ) -> Option<Entry<'t, 'd>>
    where
        S: UnwindSection<Slice<'d>> + gimli::Section<Slice<'d>>,
    {
        let partial = section.partial_fde_from_offset(&sections.bases, offset.into()).ok()?;
        if partial.entry_len() > LONGEST {
            return None;
        }
        let key = CieKey(section.reader().slice().as_ptr().addr() + UnwindOffset::into(partial.cie_offset()));
        let cie = cies.get_or_parse(key, section, &sections.bases, partial.cie_offset())?;
        let fde = partial.parse(|_, _, _| Ok(cie.clone())).ok()?;
        Some(Entry {
            terms: Terms {
                sections,
                source,
                start: fde.initial_address(),
                code_alignment: cie.code_alignment_factor(),
                data_alignment: cie.data_alignment_factor(),
            },
            cie: key,
            end: fde.end_address(),
            is_signal: cie.is_signal_trampoline(),
            return_address: number(cie.return_address_register()),
            lsda: fde.lsda().and_then(direct),
            instructions: fde.instructions(section, &sections.bases),
        })
    }

    /// The first address that it covers.
    pub(super) fn start(&self) -> u64 {
        self.terms.start
    }

    pub(super) fn covers(&self, address: u64) -> bool {
        self.start() <= address && address < self.end
    }

    /// Whether it covers no address at all.
    pub(super) fn is_empty(&self) -> bool {
        self.end <= self.start()
    }

    /// The rules for `address`, written to `state`; `None` if the instructions are malformed.
    pub(super) fn state_at(
        &self,
        address: u64,
        cies: &mut Cies<'d>,
        machine: &mut Machine<'d>,
        state: &mut RuleSet<'d>,
    ) -> Option<()> {
        let kept = cies.kept.get_mut(cies.keys.iter().position(|key| *key == self.cie)?)?;
        let initial = kept.initial.get_or_insert_with(|| {
            let instructions = match self.terms.source {
                Source::EhFrame => kept.cie.instructions(&self.terms.sections.eh_frame, &self.terms.sections.bases),
                Source::DebugFrame => {
                    kept.cie.instructions(&self.terms.sections.debug_frame, &self.terms.sections.bases)
                }
            };
            let mut state = RuleSet::NONE;
            machine.run(&self.terms, instructions, &mut state, None, u64::MAX).map(|()| state)
        });
        let initial = initial.as_ref()?;
        state.become_equal(initial);
        machine.run(&self.terms, self.instructions.clone(), state, Some(initial), address)
    }
}

/// No compiler known here writes a table's address indirectly.
fn direct(pointer: gimli::Pointer) -> Option<u64> {
    match pointer {
        gimli::Pointer::Direct(svma) => Some(svma),
        gimli::Pointer::Indirect(_) => None,
    }
}

/// CIEs that were met before, each with the state that its entries begin with.
#[derive(Default)]
pub(super) struct Cies<'d> {
    keys: Vec<CieKey>,
    kept: Vec<Kept<'d>>,
}

struct Kept<'d> {
    cie: Cie<'d>,
    /// `None` until it was asked for; `Some(None)` where the instructions are malformed.
    initial: Option<Option<RuleSet<'d>>>,
}

impl<'d> Cies<'d> {
    /// The CIE that is known by `key`, which lies at `offset` in `section`.
    fn get_or_parse<S>(
        &mut self,
        key: CieKey,
        section: &S,
        bases: &BaseAddresses,
        offset: S::Offset,
    ) -> Option<&Cie<'d>>
    where
        S: UnwindSection<Slice<'d>>,
    {
        let position = match self.keys.iter().position(|kept| *kept == key) {
            Some(position) => position,
            None => {
                let cie = section.cie_from_offset(bases, offset).ok().filter(|cie| cie.entry_len() <= LONGEST)?;
                self.make_room();
                self.keys.push(key);
                self.kept.push(Kept { cie, initial: None });
                self.keys.len() - 1
            }
        };
        Some(&self.kept.get(position)?.cie)
    }

    fn make_room(&mut self) {
        if self.keys.len() >= MOST_KEPT {
            self.keys.clear();
            self.kept.clear();
        }
    }
}
