//! What the user of a debugger is told beside the protocol, which has no room for sentences.

use std::fmt;

use crate::process::StopError;

/// Something that the user is told.
#[derive(Debug)]
pub enum Notice {
    /// What the debugger wanted is not done.
    Refused(Refusal),
    /// The program was to stand and does not.
    NotStopped(StopError),
    /// The program has ended while it ran; how is not known, as we did not start it.
    Ended {
        /// The process.
        pid: i32,
    },
    /// What the look at the program did not see, in a sentence.
    NotSeen(String),
}

/// What is not done for a debugger, because it would change the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// To write memory.
    Memory,
    /// To write registers.
    Registers,
    /// To set a breakpoint or watchpoint.
    Breakpoint,
    /// To run a single instruction.
    Step,
    /// To run some threads and not others.
    SomeThreads,
    /// To go on with a signal.
    Signal,
    /// To kill the program.
    Kill,
    /// To serve another program as well.
    OtherProgram,
    /// To run what a core file keeps.
    CoreRuns,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Memory => "memory is not written: stackscope only reads",
            Refusal::Registers => "registers are not written: stackscope only reads",
            Refusal::Breakpoint => {
                "no breakpoint is set, as stackscope only reads; 'continue' runs the program until you interrupt it"
            }
            Refusal::Step => {
                "no single instruction is run, as stackscope only reads; 'continue' runs the program until you interrupt it"
            }
            Refusal::SomeThreads => "all threads run: none is held back",
            Refusal::Signal => "the program goes on without the signal: stackscope sends it none",
            Refusal::Kill => "the program is not killed; 'detach' lets it go on",
            Refusal::OtherProgram => "stackscope serves this one program; start another 'stackscope serve' for another",
            Refusal::CoreRuns => "a core file does not run",
        })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Refused(refusal) => refusal.fmt(f),
            Notice::NotStopped(error) => write!(f, "the program runs on: {error}"),
            Notice::Ended { pid } => write!(f, "process {pid} has ended"),
            Notice::NotSeen(what) => write!(f, "not seen: {what}"),
        }
    }
}
