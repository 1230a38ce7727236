//! What gdbstub asks about the program: threads, registers, memory, and how it was started.

use std::os::unix::ffi::OsStrExt;

use gdbstub::common::{Pid, Signal, Tid};
use gdbstub::target::ext::auxv::{Auxv, AuxvOps};
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::BreakpointsOps;
use gdbstub::target::ext::exec_file::{ExecFile, ExecFileOps};
use gdbstub::target::ext::extended_mode::ExtendedModeOps;
use gdbstub::target::ext::host_io::HostIoOps;
use gdbstub::target::ext::monitor_cmd::MonitorCmdOps;
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};

use super::notice::{Notice, Refusal};
use super::open_files::{OpenFiles, part};
use super::program::Program;
use super::registers::{self, Known, Wide};
use super::threads::Threads;
use crate::addr::Addr;
use crate::process::StopError;
use crate::report::thread_line;

/// The most bytes of a packet from the client. It asks for no more of memory than fits in an answer of this size.
pub(super) const PACKET: usize = 64 << 10;

/// `EPERM`, `EFAULT` (errno(3)).
const NOT_PERMITTED: u8 = 1;
const BAD_ADDRESS: u8 = 14;

/// A program as it is served to one client.
pub(super) struct Served<'s, 'p> {
    pub(super) program: &'s mut Program<'p>,
    pub(super) threads: Threads,
    pub(super) files: OpenFiles,
    /// Whether the client wants a single instruction to be run.
    pub(super) steps: bool,
    tell: &'s mut dyn FnMut(&Notice),
    /// What was refused since the program last stood: a debugger asks for some things more than once.
    refused: Vec<Refusal>,
    /// Whether there was a look.
    begun: bool,
}

impl<'s, 'p> Served<'s, 'p> {
    pub(super) fn new(program: &'s mut Program<'p>, tell: &'s mut dyn FnMut(&Notice)) -> Served<'s, 'p> {
        let (threads, files) = (Threads::default(), OpenFiles::default());
        Served { program, threads, files, steps: false, tell, refused: Vec::new(), begun: false }
    }

    /// The first look, when the client asks for the threads: it waits longer for an answer once it has one.
    fn begin(&mut self) -> Result<(), StopError> {
        if !self.begun {
            self.program.hold()?;
            self.begun = true;
            self.look_again();
        }
        Ok(())
    }

    /// Takes over what the last look at the program showed.
    pub(super) fn look_again(&mut self) {
        self.refused.clear();
        let Some(snapshot) = self.program.snapshot() else { return };
        self.threads.renew(snapshot);
        for sentence in crate::report::not_seen(snapshot) {
            (self.tell)(&Notice::NotSeen(sentence));
        }
    }

    pub(super) fn notify(&mut self, notice: &Notice) {
        (self.tell)(notice);
    }

    /// Says what is refused, once.
    pub(super) fn tell(&mut self, refusal: Refusal) {
        if !self.refused.contains(&refusal) {
            self.refused.push(refusal);
            (self.tell)(&Notice::Refused(refusal));
        }
    }

    /// The same as the answer to the client.
    pub(super) fn refuse<T>(&mut self, refusal: Refusal) -> TargetResult<T, Self> {
        self.tell(refusal);
        Err(TargetError::Errno(NOT_PERMITTED))
    }

    /// What is known of a thread's registers; `None` if there is no such thread.
    fn known(&self, tid: Tid) -> Option<Known<'_>> {
        let stack = self.program.snapshot()?.stacks.get(self.threads.stack(number(tid))?)?;
        let thread = stack.thread.and_then(|tid| self.program.thread(tid));
        let thread_pointer = thread.and_then(|thread| thread.thread_pointer);
        Some(Known { registers: stack.registers.as_deref(), thread_pointer })
    }

    /// The thread that is reported as the one that stopped.
    pub(super) fn first(&self) -> Option<Tid> {
        self.threads.listed().iter().find_map(|number| id(*number))
    }
}

/// A thread or process number as the protocol has it: never zero.
pub(super) fn id(number: i32) -> Option<Tid> {
    Tid::new(usize::try_from(number).ok()?)
}

fn number(tid: Tid) -> i32 {
    i32::try_from(tid.get()).unwrap_or(i32::MAX)
}

impl Target for Served<'_, '_> {
    type Arch = Wide;
    type Error = StopError;

    fn base_ops(&mut self) -> BaseOps<'_, Wide, StopError> {
        BaseOps::MultiThread(self)
    }

    fn support_auxv(&mut self) -> Option<AuxvOps<'_, Self>> {
        Some(self)
    }

    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        Some(self)
    }

    fn support_host_io(&mut self) -> Option<HostIoOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(&mut self) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_extended_mode(&mut self) -> Option<ExtendedModeOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Served<'_, '_> {
    fn read_registers(&mut self, into: &mut registers::Served, tid: Tid) -> TargetResult<(), Self> {
        *into = self.known(tid).ok_or(TargetError::NonFatal)?.all(self.program.arch());
        Ok(())
    }

    fn write_registers(&mut self, _: &registers::Served, _: Tid) -> TargetResult<(), Self> {
        self.refuse(Refusal::Registers)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, at: u64, into: &mut [u8], _: Tid) -> TargetResult<usize, Self> {
        let read = self.program.read(Addr(at), into);
        // A request for more than debuggers ask for comes in several parts, and the next one would be taken for the rest
        // of this one.
        let may_be_short = into.len() <= PACKET / 2;
        if read == into.len() || (read > 0 && may_be_short) { Ok(read) } else { Err(TargetError::Errno(BAD_ADDRESS)) }
    }

    fn write_addrs(&mut self, _: u64, bytes: &[u8], _: Tid) -> TargetResult<(), Self> {
        // By writing nothing, debuggers find out how they may write.
        if bytes.is_empty() { Ok(()) } else { self.refuse(Refusal::Memory) }
    }

    fn list_active_threads(&mut self, list: &mut dyn FnMut(Tid)) -> Result<(), StopError> {
        self.begin()?;
        self.threads.listed().iter().filter_map(|number| id(*number)).for_each(list);
        Ok(())
    }

    fn is_thread_alive(&mut self, tid: Tid) -> Result<bool, StopError> {
        Ok(self.threads.stack(number(tid)).is_some())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

/// For lldb, which takes all registers for unknown if the first one is.
impl SingleRegisterAccess<Tid> for Served<'_, '_> {
    fn read_register(&mut self, tid: Tid, number: registers::Number, into: &mut [u8]) -> TargetResult<usize, Self> {
        let known = self.known(tid).ok_or(TargetError::NonFatal)?;
        let value = known.one(self.program.arch(), number).ok_or(TargetError::NonFatal)?;
        Ok(part(&value.to_le_bytes(), 0, PACKET, into))
    }

    fn write_register(&mut self, _: Tid, _: registers::Number, _: &[u8]) -> TargetResult<(), Self> {
        self.refuse(Refusal::Registers)
    }
}

impl ThreadExtraInfo for Served<'_, '_> {
    fn thread_extra_info(&self, tid: Tid, into: &mut [u8]) -> Result<usize, StopError> {
        let stack = self.threads.stack(number(tid));
        let line = self.program.snapshot().zip(stack).map(|(snapshot, id)| thread_line(snapshot, id));
        Ok(part(line.unwrap_or_default().as_bytes(), 0, PACKET / 2, into))
    }
}

/// Whatever is asked for, all threads go on or none.
impl MultiThreadResume for Served<'_, '_> {
    fn resume(&mut self) -> Result<(), StopError> {
        if self.steps {
            self.tell(Refusal::Step);
        } else if !self.program.go_on() {
            self.tell(Refusal::CoreRuns);
        }
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), StopError> {
        self.steps = false;
        Ok(())
    }

    fn set_resume_action_continue(&mut self, _: Tid, signal: Option<Signal>) -> Result<(), StopError> {
        if signal.is_some() {
            self.tell(Refusal::Signal);
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

/// It is not done; but without an offer of it, some debuggers ask all the same, and the session would end.
impl MultiThreadSingleStep for Served<'_, '_> {
    fn set_resume_action_step(&mut self, _: Tid, _: Option<Signal>) -> Result<(), StopError> {
        self.steps = true;
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Served<'_, '_> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), StopError> {
        if !self.steps {
            self.tell(Refusal::SomeThreads);
        }
        Ok(())
    }
}

impl Auxv for Served<'_, '_> {
    fn get_auxv(&self, offset: u64, length: usize, into: &mut [u8]) -> TargetResult<usize, Self> {
        Ok(part(&self.program.auxv(), offset, length, into))
    }
}

impl ExecFile for Served<'_, '_> {
    fn get_exec_file(&self, _: Option<Pid>, offset: u64, length: usize, into: &mut [u8]) -> TargetResult<usize, Self> {
        let path = self.program.executable().ok_or(TargetError::NonFatal)?;
        Ok(part(path.as_os_str().as_bytes(), offset, length, into))
    }
}

impl TargetDescriptionXmlOverride for Served<'_, '_> {
    fn target_description_xml(
        &self,
        _: &[u8],
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        Ok(part(registers::description(self.program.arch()).as_bytes(), offset, length, into))
    }
}
