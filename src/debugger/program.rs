//! What is served: a process that stands while it is looked at, or a core file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::maps;
use crate::addr::{Addr, PAGE};
use crate::arch::Arch;
use crate::image::Bytes;
use crate::image::names::Lines;
use crate::look::{Held, Looker, Wish};
use crate::memory::Memory;
use crate::process::{self, Core, Ends, Live, RemoteMemory, StopError, Target, Thread};
use crate::snapshot::Snapshot;

/// A process or a core file for a debugger.
pub struct Program<'p>(Kind<'p>);

enum Kind<'p> {
    Live(Box<Process<'p>>),
    Core { core: &'p Core, snapshot: Arc<Snapshot> },
}

struct Process<'p> {
    live: &'p Live,
    looker: Looker,
    /// `None` while it runs.
    held: Option<Held<'p>>,
    /// Of a thread that lives in the stop. The held memory itself keeps all that is read of it.
    memory: RemoteMemory,
    ends: Ends,
}

impl<'p> Program<'p> {
    /// A process, which stands while a debugger looks at it.
    ///
    /// # Errors
    /// It has ended.
    pub fn live(live: &'p Live, looker: Looker) -> Result<Program<'p>, StopError> {
        let pid = live.process().pid;
        let ends = Ends::of(pid).map_err(|_| StopError::Ended { pid })?;
        Ok(Program(Kind::Live(Box::new(Process { live, looker, held: None, memory: live.memory(), ends }))))
    }

    /// A core file, with what a look at it that kept everything showed.
    pub fn core(core: &'p Core, snapshot: Arc<Snapshot>) -> Program<'p> {
        Program(Kind::Core { core, snapshot })
    }

    /// What there is to see; `None` while it runs.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        match &self.0 {
            Kind::Live(process) => process.held.as_ref().map(|held| &held.snapshot),
            Kind::Core { snapshot, .. } => Some(snapshot),
        }
    }

    pub(super) fn arch(&self) -> &'static Arch {
        match &self.0 {
            Kind::Live(process) => process.held.as_ref().map_or(process.live.arch(), |held| held.snapshot.arch),
            Kind::Core { core, .. } => core.arch(),
        }
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        match &self.0 {
            Kind::Live(process) => process.live.process().pid,
            Kind::Core { core, .. } => core.process().pid,
        }
    }

    /// Lets it go on; whether it does, as a core file can't.
    pub(super) fn go_on(&mut self) -> bool {
        match &mut self.0 {
            Kind::Live(process) => process.held = None,
            Kind::Core { .. } => return false,
        }
        true
    }

    /// Has it stand again, and finds its contexts anew.
    pub(super) fn hold(&mut self) -> Result<(), StopError> {
        if let Kind::Live(process) = &mut self.0
            && process.held.is_none()
        {
            process.held = Some(process.looker.hold(process.live, Wish::all(Lines::Cheap))?);
            process.memory = process.live.memory();
        }
        Ok(())
    }

    /// What shows that it has ended, if it runs.
    pub(super) fn running(&self) -> Option<&Ends> {
        match &self.0 {
            Kind::Live(process) if process.held.is_none() => Some(&process.ends),
            _ => None,
        }
    }

    /// Reads memory from `at` on, up to the first page that can't be read; returns how many bytes that were.
    pub(super) fn read(&self, at: Addr, into: &mut [u8]) -> usize {
        let memory: &dyn Memory = match &self.0 {
            Kind::Live(process) if process.held.is_none() => return 0,
            Kind::Live(process) => &process.memory,
            Kind::Core { core, .. } => *core,
        };
        if memory.read(at, into).is_ok() {
            return into.len();
        }
        let mut done = 0;
        while done < into.len() {
            let Some(here) = at.0.checked_add(done as u64) else { break };
            let in_page = (PAGE - here % PAGE) as usize;
            let end = into.len().min(done + in_page);
            if memory.read(Addr(here), &mut into[done..end]).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    /// A thread as the kernel knows it.
    pub(super) fn thread(&self, tid: i32) -> Option<&Thread> {
        let threads = match &self.0 {
            Kind::Live(process) => process.held.as_ref()?.threads(),
            Kind::Core { core, .. } => core.threads(),
        };
        threads.iter().find(|thread| thread.tid == tid)
    }

    /// The auxiliary vector; empty if it is not known.
    pub(super) fn auxv(&self) -> Vec<u8> {
        match &self.0 {
            Kind::Live(process) => process.live.auxv(),
            Kind::Core { core, .. } => core.auxv().to_vec(),
        }
    }

    /// The path of the program's file, as it sees it.
    pub fn executable(&self) -> Option<PathBuf> {
        match &self.0 {
            Kind::Live(process) => process::program(process.live.process().pid),
            Kind::Core { core, .. } => core.program().map(Path::to_owned),
        }
    }

    /// The content of a file that it has mapped, by any path that leads to it, or of its memory map. Other files are none
    /// of the debugger's business.
    ///
    /// # Errors
    /// It is not mapped, can't be opened, or, for a core file, is not the one that was mapped.
    pub(super) fn mapped_file(&self, path: &Path) -> io::Result<Bytes> {
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let is_map = maps::is_of(self.pid(), path);
        match &self.0 {
            Kind::Live(process) => {
                let mappings = process.held.as_ref().ok_or_else(not_found)?.mappings();
                if is_map { Ok(Arc::new(maps::text(mappings))) } else { process.live.open_if_mapped(path, mappings) }
            }
            Kind::Core { core, .. } if is_map => Ok(Arc::new(maps::text(core.mappings()))),
            Kind::Core { core, .. } => core.supplied_file(path).cloned().ok_or_else(not_found),
        }
    }
}
