//! What a debugger may ask for and does not get: breakpoints, other programs, and the end of this one.

use gdbstub::common::Pid;
use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::extended_mode::{
    Args, AttachKind, CurrentActivePid, CurrentActivePidOps, ExtendedMode, ShouldTerminate,
};

use super::notice::Refusal;
use super::target::{Served, id};

impl Breakpoints for Served<'_, '_> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Served<'_, '_> {
    fn add_sw_breakpoint(&mut self, _: u64, _: usize) -> TargetResult<bool, Self> {
        self.refuse(Refusal::Breakpoint)
    }

    /// None was set.
    fn remove_sw_breakpoint(&mut self, _: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(true)
    }
}

impl HwBreakpoint for Served<'_, '_> {
    fn add_hw_breakpoint(&mut self, _: u64, _: usize) -> TargetResult<bool, Self> {
        self.refuse(Refusal::Breakpoint)
    }

    /// None was set.
    fn remove_hw_breakpoint(&mut self, _: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(true)
    }
}

impl HwWatchpoint for Served<'_, '_> {
    fn add_hw_watchpoint(&mut self, _: u64, _: u64, _: WatchKind) -> TargetResult<bool, Self> {
        self.refuse(Refusal::Breakpoint)
    }

    /// None was set.
    fn remove_hw_watchpoint(&mut self, _: u64, _: u64, _: WatchKind) -> TargetResult<bool, Self> {
        Ok(true)
    }
}

/// The protocol's extended mode, only for the number of the process and for a way to refuse: without it, a debugger is
/// told of process 1, and its request to kill is not even answered.
impl ExtendedMode for Served<'_, '_> {
    fn run(&mut self, _: Option<&[u8]>, _: Args<'_, '_>) -> TargetResult<Pid, Self> {
        self.refuse(Refusal::OtherProgram)
    }

    fn attach(&mut self, pid: Pid) -> TargetResult<(), Self> {
        if Some(pid) == id(self.program.pid()) { Ok(()) } else { self.refuse(Refusal::OtherProgram) }
    }

    fn query_if_attached(&mut self, _: Pid) -> TargetResult<AttachKind, Self> {
        Ok(AttachKind::Attach)
    }

    fn kill(&mut self, _: Option<Pid>) -> TargetResult<ShouldTerminate, Self> {
        self.refuse(Refusal::Kill)
    }

    fn restart(&mut self) -> Result<(), Self::Error> {
        self.tell(Refusal::OtherProgram);
        Ok(())
    }

    fn support_current_active_pid(&mut self) -> Option<CurrentActivePidOps<'_, Self>> {
        Some(self)
    }
}

impl CurrentActivePid for Served<'_, '_> {
    fn current_active_pid(&mut self) -> Result<Pid, Self::Error> {
        // The number in a damaged core file may be none.
        Ok(id(self.program.pid()).unwrap_or(Pid::MIN))
    }
}
