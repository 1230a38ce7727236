//! Puts probes into a program, while it stands.
//!
//! Order: the table and memory for stubs, by system calls that the program itself makes; then the stubs, with what lists
//! them; and last the jumps. Each state in between is one that the program can run in, for ever if need be.

use std::fs::File;
use std::sync::mpsc;

use iced_x86::{Decoder, DecoderOptions};
use log::debug;

use super::plan::{JUMP, Obstacle, Surroundings, Window, plan};
use super::stub::{Note, ROOM, Stub, stub};
use super::table;
use super::{Site, Unprobed};
use crate::addr::{Addr, AddrRange, PAGE};
use crate::arch::X86_64;
use crate::find::descriptors::Departure;
use crate::find::running::detours::{self, Detour};
use crate::find::sites::Departures;
use crate::image::{ImageSource, Module};
use crate::mapping::{Mapping, Origin, SWITCH_TABLE, mapping_at};
use crate::memory::Memory;
use crate::process::{Argument, Call, Errand, ErrandError, Stopped, Target, open_of};

/// Memory for stubs, in bytes.
const ARENA: u64 = 64 << 10;

/// Records come first in an arena, then the stubs.
const STUBS: u64 = 24 << 10;

/// How far a jump leads, less what code and stubs take.
const REACH: u64 = (1 << 31) - (16 << 20);

/// Where an arena is tried, as distances from a module: not where heaps or the next libraries go.
const BELOW: [u64; 3] = [32 << 20, 256 << 20, 1 << 30];
const ABOVE: [u64; 2] = [1 << 30, 512 << 20];

/// Where a table is tried: far from everything, so that nothing is pushed away by it.
const TABLES: [u64; 4] = [0x2000_0000_0000, 0x2800_0000_0000, 0x4000_0000_0000, 0x1000_0000_0000];

/// The lowest address that is mapped.
const LOWEST: u64 = 1 << 20;

/// Memory of the program that is ours.
#[derive(Clone, Debug)]
pub(super) struct Arena {
    range: AddrRange,
    /// The detours in it, each with its code.
    detours: Vec<(Detour, Vec<u8>)>,
    /// Where the next stub goes.
    next: u64,
}

/// A site that can be probed, with where it lies in the program.
pub(super) struct Planned {
    window: Window,
    pub(super) site: Site,
}

/// Why a program is not probed at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotProbed {
    /// Its CPU, or this one, is not one that probes are made for.
    Cpu,
    /// It has a filter of system calls, which might end it for ours.
    Filtered,
    /// It locks its memory, of which the table would then be a part.
    LocksMemory,
    /// It has no memory for the table: a limit, or no room.
    NoMemory,
    /// It stands nowhere where it could make system calls for us.
    NotNow,
    /// Its code can't be written to.
    NotWritable,
}

/// The windows of departures, in the program's own addresses; and those that have none.
pub(super) fn planned(departures: &[Departures<'_>]) -> (Vec<Planned>, Vec<Unprobed>) {
    let (mut planned, mut unprobed) = (Vec::new(), Vec::new());
    for Departures { module, found, unplaced } in departures {
        let name = module.name.clone();
        let none = |obstacle| Unprobed { at: None, module: name.clone(), function: None, saves: false, obstacle };
        unprobed.extend((0..*unplaced).map(|_| none(Obstacle::Unplaced)));
        for departure in found {
            let at = Addr(departure.site.wrapping_add(module.bias));
            match window_of(module, departure) {
                Ok(window) => {
                    let saves = departure.saves;
                    let routine = departure.routine.wrapping_add(module.bias);
                    let site =
                        Site { at, routine: Addr(routine), module: name.clone(), function: None, saves, class: 0 };
                    planned.push(Planned { window, site });
                }
                Err(obstacle) => unprobed.push(Unprobed { at: Some(at), saves: departure.saves, ..none(obstacle) }),
            }
        }
    }
    (planned, unprobed)
}

fn window_of(module: &Module, departure: &Departure) -> Result<Window, Obstacle> {
    let image = module.image.as_ref().filter(|image| image.source() == ImageSource::File).ok_or(Obstacle::NoWindow)?;
    let data = image.content().map_or(&[][..], |content| (**content).as_ref());
    let is_fixed = image.segments().iter().all(|segment| segment.svma > 0);
    let window = plan(&Surroundings { code: &image.code(), data, is_fixed }, departure)?;
    if window.bytes.len() > detours::LONGEST {
        return Err(Obstacle::NoWindow);
    }
    let moved = window.start().wrapping_add(module.bias);
    let decoder = Decoder::with_ip(64, &window.bytes, moved, DecoderOptions::NONE);
    let instructions = decoder.into_iter().collect();
    Ok(Window { instructions, ..window })
}

/// What was put into a program, or would be.
#[derive(Default)]
pub(super) struct Injected {
    pub(super) table: Option<(u64, File)>,
    pub(super) arenas: Vec<Arena>,
    /// The sites that are probed, by number.
    pub(super) sites: Vec<Site>,
    /// What was at each place that was changed.
    pub(super) original: Vec<(Addr, Vec<u8>)>,
}

impl Injected {
    /// Probes these sites of a program that stands; what can't be is added to `unprobed`.
    ///
    /// # Errors
    /// None of them is probed, and the program is as it was, but for memory that it does not use.
    pub(super) fn add(
        &mut self,
        stopped: &Stopped<'_>,
        planned: Vec<Planned>,
        unprobed: &mut Vec<Unprobed>,
    ) -> Result<(), NotProbed> {
        let planned: Vec<Planned> = planned.into_iter().filter(|planned| is_unchanged(stopped, planned)).collect();
        if planned.is_empty() {
            return Ok(());
        }
        if planned.iter().any(|planned| is_in_use(stopped, planned)) {
            return Err(NotProbed::NotNow);
        }
        self.reserve(stopped, &planned)?;
        let mut jumps = Vec::new();
        let known = self.sites.len();
        for Planned { window, site } in planned {
            let at = site.at;
            let (module, saves) = (site.module.clone(), site.saves);
            let refused = |obstacle| Unprobed { at: Some(at), module, function: None, saves, obstacle };
            match self.make(&window, &site) {
                Ok(jump) => {
                    self.original.push((Addr(window.start()), window.bytes[..JUMP].to_vec()));
                    jumps.push((Addr(window.start()), jump));
                    self.sites.push(site);
                }
                Err(obstacle) => unprobed.push(refused(obstacle)),
            }
        }
        debug!("{} sites are probed", jumps.len());
        match stopped.write(&self.contents()) && stopped.write(&jumps) {
            true => Ok(()),
            false => {
                // What was written is taken back; where that fails too, nothing was.
                stopped.write(&self.original[known..]);
                self.original.truncate(known);
                self.sites.truncate(known);
                Err(NotProbed::NotWritable)
            }
        }
    }

    /// Has the program map what is needed.
    fn reserve(&mut self, stopped: &Stopped<'_>, planned: &[Planned]) -> Result<(), NotProbed> {
        let mut wanted: Vec<AddrRange> = Vec::new();
        for window in planned.iter().map(|planned| &planned.window) {
            let known = self.arenas.iter().map(|arena| arena.range).chain(wanted.iter().copied());
            if !known.into_iter().any(|arena| reaches(arena, window.start()))
                && let Some(place) = place_near(stopped.mappings(), &wanted, window.start())
            {
                wanted.push(place);
            }
        }
        let room = room_for_code(stopped).ok_or(NotProbed::NotNow)?;
        let table = match self.table {
            Some(_) => None,
            None => Some(table_place(stopped.mappings()).ok_or(NotProbed::NoMemory)?),
        };
        if table.is_none() && wanted.is_empty() {
            return Ok(());
        }
        let (calls, bytes) = (calls(table, &wanted), [SWITCH_TABLE.as_bytes(), b"\0"].concat());
        let (tell, results) = mpsc::channel();
        let pid = stopped.process().pid;
        let told = move |index: usize, result: i64| {
            let file = (table.is_some() && index == 0 && result >= 0).then(|| sized(pid, result));
            let _ = tell.send((result, file));
        };
        let ran = stopped.run(Errand { calls, bytes, room, told: Box::new(told) });
        let results: Vec<(i64, Option<std::io::Result<File>>)> = results.try_iter().collect();
        debug!("the program's calls for us: {ran:?} {results:?}");
        ran.map_err(|error| match error {
            ErrandError::Refused(_) => NotProbed::NotWritable,
            _ => NotProbed::NotNow,
        })?;
        let mut results = results.into_iter();
        if let Some(place) = table {
            let file = results.next().and_then(|(_, file)| file?.ok());
            let mapped = results.next().is_some_and(|(at, _)| at as u64 == place);
            results.by_ref().take(2).for_each(drop);
            self.table = Some((place, file.filter(|_| mapped).ok_or(NotProbed::NoMemory)?));
        }
        for (range, (at, _)) in wanted.into_iter().zip(results) {
            if at as u64 == range.low.0 {
                self.arenas.push(Arena { range, detours: Vec::new(), next: range.low.0 + STUBS });
            }
        }
        Ok(())
    }

    /// Makes the stub for a window; returns the jump to it.
    fn make(&mut self, window: &Window, site: &Site) -> Result<Vec<u8>, Obstacle> {
        let number = u16::try_from(self.sites.len() + 1).ok().filter(|number| *number <= table::MOST_SITES);
        let number = number.ok_or(Obstacle::TooMany)?;
        let (table, _) = self.table.as_ref().ok_or(Obstacle::OutOfReach)?;
        let note = Note { table: *table, site: number, class: site.class, keeps_pair: !site.saves };
        let arena = self.arenas.iter_mut().find(|arena| reaches(arena.range, window.start()) && arena.has_room());
        let arena = arena.ok_or(Obstacle::OutOfReach)?;
        let stub = stub(window, note, arena.next)?;
        let jump = jump(window.start(), arena.next).ok_or(Obstacle::OutOfReach)?;
        arena.add(window, stub)?;
        Ok(jump)
    }

    /// What is to be in the arenas.
    fn contents(&self) -> Vec<(Addr, Vec<u8>)> {
        let table = self.table.as_ref().map_or(0, |(at, _)| *at);
        self.arenas.iter().flat_map(|arena| arena.contents(table)).collect()
    }
}

impl Arena {
    fn has_room(&self) -> bool {
        let records = detours::HEADER + (self.detours.len() + 1) * detours::RECORD;
        self.next + 1024 < self.range.high.0 && (records as u64) < STUBS
    }

    fn add(&mut self, window: &Window, stub: Stub) -> Result<(), Obstacle> {
        let inside = window.instructions.iter().map(|instruction| instruction.ip()).chain([window.end()]);
        let places = stub.places.iter().copied().zip(inside.map(|at| (at - window.start()) as u16)).collect();
        let detour = Detour {
            window: window.start(),
            original: window.bytes.clone(),
            stub: self.next,
            length: u16::try_from(stub.code.len()).map_err(|_| Obstacle::OutOfReach)?,
            note: stub.note,
            kept: stub.kept,
            noted: stub.noted,
            room: ROOM as u16,
            places,
        };
        detour.encode().ok_or(Obstacle::NoWindow)?;
        self.next = (self.next + u64::from(detour.length)).next_multiple_of(64);
        self.detours.push((detour, stub.code));
        Ok(())
    }

    /// Its stubs, and then what lists them.
    fn contents(&self, table: u64) -> Vec<(Addr, Vec<u8>)> {
        let stubs = self.detours.iter().map(|(detour, code)| (Addr(detour.stub), code.clone()));
        let records: Vec<u8> = self.detours.iter().filter_map(|(detour, _)| detour.encode()).flatten().collect();
        let list = [&detours::header(table, self.detours.len() as u32)[..], &records].concat();
        stubs.chain([(self.range.low, list)]).collect()
    }
}

/// The system calls that map what is needed: of a table four, and one for each arena.
fn calls(table: Option<u64>, arenas: &[AddrRange]) -> Vec<Call> {
    use Argument::{Bytes, Kept, Number};
    let call = |number: libc::c_long, arguments: [Argument; 6], keeps| Call { number: number as u64, arguments, keeps };
    let zero = Number(0);
    let flags = |flags: i32| Number((flags | libc::MAP_FIXED_NOREPLACE | libc::MAP_NORESERVE) as u64);
    let access = |access: i32| Number(access as u64);
    let mut calls = Vec::new();
    if let Some(at) = table {
        let file = [Bytes, Number(u64::from(libc::MFD_CLOEXEC)), zero, zero, zero, zero];
        let read_write = access(libc::PROT_READ | libc::PROT_WRITE);
        let map = [Number(at), Number(table::SIZE), read_write, flags(libc::MAP_SHARED), Kept, zero];
        let thin = [Number(at), Number(table::SIZE), Number(libc::MADV_DONTDUMP as u64), zero, zero, zero];
        calls.push(call(libc::SYS_memfd_create, file, true));
        calls.push(call(libc::SYS_mmap, map, false));
        calls.push(call(libc::SYS_madvise, thin, false));
        calls.push(call(libc::SYS_close, [Kept, zero, zero, zero, zero, zero], false));
    }
    for arena in arenas {
        let (at, length) = (Number(arena.low.0), Number(arena.len()));
        let read_execute = access(libc::PROT_READ | libc::PROT_EXEC);
        let private = flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        calls.push(call(libc::SYS_mmap, [at, length, read_execute, private, Number(u64::MAX), zero], false));
    }
    calls
}

/// The program's memory file as ours, made as long as the table. A limit on the length of files is ours alone then.
fn sized(pid: i32, number: i64) -> std::io::Result<File> {
    let file = open_of(pid, number)?;
    crate::process::set_length(&file, table::SIZE)?;
    Ok(file)
}

/// Whether the code is what its file says.
fn is_unchanged(stopped: &Stopped<'_>, planned: &Planned) -> bool {
    let mut bytes = vec![0; planned.window.bytes.len()];
    stopped.read(Addr(planned.window.start()), &mut bytes).is_ok() && bytes == planned.window.bytes
}

/// Whether a thread stands inside a window, or may.
fn is_in_use(stopped: &Stopped<'_>, planned: &Planned) -> bool {
    let inside = planned.window.start() + 1..planned.window.end();
    stopped.threads().iter().any(|thread| match &thread.registers {
        Ok(registers) => registers.get(X86_64.pc).is_none_or(|pc| inside.contains(&pc)),
        Err(reason) => *reason != crate::process::NotStopped::Ended,
    })
}

/// The unused end of the kernel's own code in the program.
fn room_for_code(stopped: &Stopped<'_>) -> Option<AddrRange> {
    let vdso = stopped.mappings().iter().find(|mapping| mapping.origin == Origin::Vdso)?;
    let mut bytes = vec![0; vdso.range.len().min(64 << 10) as usize];
    stopped.read(vdso.range.low, &mut bytes).ok()?;
    let used = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let low = vdso.range.low.offset(used.next_multiple_of(64) as i64);
    (low < vdso.range.high).then(|| AddrRange::new(low, vdso.range.high))
}

fn reaches(arena: AddrRange, at: u64) -> bool {
    arena.low.0.abs_diff(at) < REACH && arena.high.0.abs_diff(at) < REACH
}

/// Free memory for an arena within reach of `at`.
fn place_near(mappings: &[Mapping], taken: &[AddrRange], at: u64) -> Option<AddrRange> {
    let module = mapping_at(mappings, Addr(at))?;
    let path = module.file().map(|file| &file.path);
    let is_same = |mapping: &&Mapping| mapping.file().map(|file| &file.path) == path && path.is_some();
    let ranges = mappings.iter().filter(is_same).map(|mapping| mapping.range);
    let (low, high) = ranges
        .fold((module.range.low, module.range.high), |(low, high), range| (low.min(range.low), high.max(range.high)));
    let below = BELOW.into_iter().filter_map(|distance| low.0.checked_sub(distance));
    let above = ABOVE.into_iter().filter_map(|distance| high.0.checked_add(distance));
    let places = below.chain(above).filter(|place| *place >= LOWEST).map(|place| {
        let low = Addr(place).align_down(PAGE);
        AddrRange::new(low, low.offset(ARENA as i64))
    });
    let is_free = |place: &AddrRange| {
        let overlaps = |range: &AddrRange| range.intersection(*place).is_some();
        !mappings.iter().any(|mapping| overlaps(&mapping.range)) && !taken.iter().any(overlaps)
    };
    places.into_iter().find(|place| is_free(place) && reaches(*place, at))
}

/// Free memory for a table.
fn table_place(mappings: &[Mapping]) -> Option<u64> {
    let is_free = |at: &u64| {
        let place = AddrRange::new(Addr(*at), Addr(*at + table::SIZE));
        mappings.iter().all(|mapping| mapping.range.intersection(place).is_none())
    };
    TABLES.into_iter().find(is_free)
}

/// `jmp rel32` from one address to another.
fn jump(from: u64, to: u64) -> Option<Vec<u8>> {
    let distance = to.wrapping_sub(from.wrapping_add(JUMP as u64)) as i64;
    let distance = i32::try_from(distance).ok()?;
    Some([&[0xe9][..], &distance.to_le_bytes()].concat())
}
