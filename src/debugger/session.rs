//! One client from its first byte to its last.

use std::io;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::state_machine::GdbStubStateMachine as Machine;
use gdbstub::stub::{GdbStub, GdbStubError, MultiThreadStopReason};

use super::client::{Client, Event, Place};
use super::notice::Notice;
use super::program::Program;
use super::target::{PACKET, Served};
use crate::process::StopError;

/// Why a session ended that should have gone on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What the client sent is not the protocol.
    #[error("the debugger does not speak gdb's remote protocol")]
    Protocol(#[source] GdbStubError<StopError, io::Error>),
    /// The program can't be stopped.
    #[error(transparent)]
    Stop(StopError),
    /// The connection can't be used.
    #[error("cannot read from the debugger")]
    Client(#[source] io::Error),
}

/// Serves `program` to a client, for which it stands as soon as that asks for its threads, until that leaves, or the program ends while it runs. Then the program goes on as soon
/// as it is dropped, if it stands.
///
/// `tell` gets what the user of the debugger should read.
///
/// # Errors
/// [`ServeError`]. A client that closes the connection at any moment has left.
pub fn serve(program: &mut Program<'_>, client: Client, tell: &mut dyn FnMut(&Notice)) -> Result<(), ServeError> {
    let (mut input, output) = client.split();
    let mut served = Served::new(program, tell);
    let mut buffer = vec![0; PACKET];
    let stub = GdbStub::builder(output).with_packet_buffer(&mut buffer).build();
    // The builder refuses only what has no buffer.
    let Ok(stub) = stub else { return Ok(()) };
    let mut place = Place::Between;
    let mut machine = stub.run_state_machine(&mut served);
    loop {
        let next = match machine {
            Err(error) if error.is_connection_error() => return Ok(()),
            Err(error) if error.is_target_error() => {
                return error.into_target_error().map_or(Ok(()), |error| Err(ServeError::Stop(error)));
            }
            Err(error) => return Err(ServeError::Protocol(error)),
            Ok(Machine::Disconnected(_)) => return Ok(()),
            Ok(Machine::CtrlCInterrupt(stub)) => {
                let stopped = stand(&mut served);
                stub.interrupt_handled(&mut served, stopped)
            }
            Ok(Machine::Running(stub)) if served.program.running().is_none() => {
                let stopped = here(served.first());
                stub.report_stop(&mut served, stopped)
            }
            Ok(Machine::Running(stub)) => match input.next(served.program.running()).map_err(ServeError::Client)? {
                Event::Byte(byte) if place.is_impatience(byte) => Ok(stub.into()),
                Event::Byte(byte) => {
                    place = place.after(byte);
                    stub.incoming_data(&mut served, byte)
                }
                Event::Closed => return Ok(()),
                Event::Ended => {
                    let pid = served.program.pid();
                    served.notify(&Notice::Ended { pid });
                    return Ok(());
                }
            },
            Ok(Machine::Idle(stub)) => match input.next(None).map_err(ServeError::Client)? {
                Event::Byte(byte) if place.is_impatience(byte) => Ok(stub.into()),
                Event::Byte(byte) => {
                    place = place.after(byte);
                    stub.incoming_data(&mut served, byte)
                }
                Event::Closed | Event::Ended => return Ok(()),
            },
        };
        machine = next;
    }
}

/// Has a program that runs stand, and looks at it; `None` if it stood already, or can't be stopped.
fn stand(served: &mut Served<'_, '_>) -> Option<MultiThreadStopReason<u64>> {
    served.program.running()?;
    match served.program.hold() {
        Ok(()) => {
            served.look_again();
            Some(stop(served.first(), Signal::SIGINT))
        }
        Err(StopError::Ended { .. }) => None,
        Err(error) => {
            served.notify(&Notice::NotStopped(error));
            None
        }
    }
}

/// That a program stands where it stood.
fn here(thread: Option<Tid>) -> MultiThreadStopReason<u64> {
    stop(thread, Signal::SIGZERO)
}

fn stop(thread: Option<Tid>, signal: Signal) -> MultiThreadStopReason<u64> {
    match thread {
        Some(tid) => MultiThreadStopReason::SignalWithThread { tid, signal },
        None => MultiThreadStopReason::Signal(signal),
    }
}
