//! Core files that no program wrote: tables that lie, overlap, or end nowhere.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A segment of a made-up core file.
#[derive(Clone, Copy, Default)]
struct Load {
    offset: u64,
    address: u64,
    held: u64,
    size: u64,
}

const WRITABLE: u32 = 6;
const HEADER: u64 = 64;
const ENTRY: u64 = 56;

/// An ELF header whose field counts `count` program headers, and these headers, the first one of notes.
fn core_file(count: u16, notes: (u64, u64), loads: &[Load]) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    bytes.resize(HEADER as usize, 0);
    bytes[16] = 4;
    bytes[18] = 62;
    bytes[32..40].copy_from_slice(&HEADER.to_le_bytes());
    bytes[54] = ENTRY as u8;
    bytes[56..58].copy_from_slice(&count.to_le_bytes());
    let mut add = |kind: u32, words: [u64; 6]| {
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&WRITABLE.to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    add(4, [notes.0, 0, 0, notes.1, 0, 4]);
    for load in loads {
        add(1, [load.offset, load.address, 0, load.held, load.size, 4096]);
    }
    bytes
}

/// Writes `bytes` to a file and opens that.
fn opened(bytes: &[u8]) -> Core {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("stackscope-core-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, bytes).unwrap();
    let core = Core::open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    core
}

fn everywhere() -> AddrRange {
    AddrRange::new(Addr(0), Addr(u64::MAX))
}

#[test]
fn memory_is_read_across_segments_and_not_past_what_is_held() {
    let loads = [
        Load { offset: 0x1000, address: 0x10_0000, held: 0x1000, size: 0x1000 },
        Load { offset: 0x2000, address: 0x10_1000, held: 0x800, size: 0x1000 },
    ];
    let mut bytes = core_file(3, (0, 0), &loads);
    bytes.resize(0x1000, 0);
    bytes.resize(0x2000, 1);
    bytes.resize(0x2800, 2);
    let core = opened(&bytes);
    assert_eq!(core.read_u64(Addr(0x10_0ffc)), Ok(0x0202_0202_0101_0101));
    assert_eq!(core.read_u64(Addr(0x10_17f8)), Ok(0x0202_0202_0202_0202));
    assert!(core.read_u64(Addr(0x10_17f9)).is_err());
    assert!(core.read_u64(Addr(0xf_fffc)).is_err());
    assert_eq!(core.pages(everywhere()).unwrap().runs[0].range, AddrRange::new(Addr(0x10_0000), Addr(0x10_2000)));
}

#[test]
fn numbers_near_the_end_of_all_numbers_are_no_harm() {
    let extremes = [0, 1, 0x1000, u64::MAX / 2, u64::MAX - 0xfff, u64::MAX - 1, u64::MAX];
    let mut loads = Vec::new();
    for offset in extremes {
        for address in extremes {
            loads.extend(
                extremes.iter().flat_map(|held| extremes.map(|size| Load { offset, address, held: *held, size })),
            );
        }
    }
    for (at, load) in loads.iter().enumerate() {
        let notes = (loads[loads.len() - 1 - at].offset, load.size);
        let mut bytes = core_file(2, notes, &[*load]);
        bytes.resize(0x3000, 7);
        let core = opened(&bytes);
        let _ = core.pages(everywhere());
        let _ = core.read(Addr(load.address), &mut [0; 64]);
        let _ = core.read(Addr(u64::MAX - 8), &mut [0; 64]);
    }
}

#[test]
fn the_last_page_of_the_address_space_is_looked_at_once() {
    let load = Load { offset: 0x1000, address: u64::MAX - 0xfff, held: 0xfff, size: 0xfff };
    let mut bytes = core_file(2, (0, 0), &[load]);
    bytes.resize(0x2000, 7);
    let pages = opened(&bytes).pages(everywhere()).unwrap();
    assert_eq!(pages.runs.len(), 1);
}

#[test]
fn what_is_described_twice_keeps_its_first_description() {
    let load = Load { offset: 0x1000, address: 0x10_0000, held: 0x1000, size: 0x1000 };
    let twice = Load { offset: 0, address: 0x10_0800, ..load };
    let mut bytes = core_file(3, (0, 0), &[load, twice]);
    bytes.resize(0x2000, 7);
    let core = opened(&bytes);
    assert_eq!(core.mappings().len(), 1);
    assert!(core.warnings().contains(&CoreWarning::Overlap { at: Addr(0x10_0800) }));
}

#[test]
fn counts_that_lie_are_said() {
    let core = opened(&core_file(1000, (0, 0), &[]));
    assert!(core.warnings().contains(&CoreWarning::SegmentsCut { has: 1, needs: 1000 }), "{:?}", core.warnings());
    let core = opened(&core_file(u16::MAX, (0, 0), &[]));
    assert!(core.warnings().contains(&CoreWarning::SegmentCountLost { at_least: 65535 }), "{:?}", core.warnings());
    let mut odd_size = core_file(2, (0, 0), &[Load::default()]);
    odd_size[54] = 55;
    assert!(opened(&odd_size).warnings().contains(&CoreWarning::SegmentsCut { has: 0, needs: 2 }));
    assert!(opened(&odd_size).warnings().contains(&CoreWarning::NoNotes));
}

/// A note with this owner and content.
fn note(owner: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [owner.len() as u32, content.len() as u32, kind] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    for part in [owner, content] {
        note.extend_from_slice(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

#[test]
fn a_dump_of_a_whole_machine_is_named() {
    let note = note(b"VMCOREINFO\0", 0, b"OSRELEASE=6.1.0\n");
    let mut bytes = core_file(1, (HEADER + ENTRY, note.len() as u64), &[]);
    bytes.extend_from_slice(&note);
    let path = std::env::temp_dir().join(format!("stackscope-vmcore-{}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let error = Core::open(&path).unwrap_err().to_string();
    std::fs::remove_file(path).unwrap();
    assert!(
        error.contains("is a dump of a whole machine, not a core file of a process: crash and drgn read it"),
        "{error}"
    );
}

#[test]
fn notes_without_end_come_to_an_end() {
    // A tebibyte of holes that calls itself notes: reading it all would take minutes.
    let path = std::env::temp_dir().join(format!("stackscope-sparse-{}", std::process::id()));
    std::fs::write(&path, core_file(1, (0x1000, (1 << 40) - 0x1000), &[])).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    if file.set_len(1 << 40).is_ok() {
        let core = Core::open(&path).unwrap();
        assert_eq!(core.warnings(), [CoreWarning::NotesLost]);
    }
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_core_file_that_shrinks_loses_its_end_only() {
    let load = Load { offset: 0x1000, address: 0x10_0000, held: 0x4000, size: 0x4000 };
    let mut bytes = core_file(2, (0, 0), &[load]);
    bytes.resize(0x5000, 7);
    let path = std::env::temp_dir().join(format!("stackscope-core-shrinks-{}", std::process::id()));
    std::fs::write(&path, &bytes).unwrap();
    let core = Core::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(0x3000).unwrap();
    assert!(core.read_u64(Addr(0x10_3000)).is_err());
    assert_eq!(core.read_u64(Addr(0x10_1000)), Ok(0x0707_0707_0707_0707));
    std::fs::remove_file(path).unwrap();
}
