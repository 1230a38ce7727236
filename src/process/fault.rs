//! A signal and what it was raised for, as the kernel describes it in a `siginfo_t` (sigaction(2)).

use crate::addr::Addr;

/// The length of a `siginfo_t` on all 64-bit CPUs.
pub(super) const SIGINFO: usize = 128;

/// A signal and what it was raised for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Its number.
    pub signal: i32,
    /// `si_code`: why it was raised.
    pub code: i32,
    /// The address whose access failed, if the kernel raised it for one (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`,
    /// `SIGTRAP`). For the last three it is that of the instruction.
    pub address: Option<Addr>,
}

impl Fault {
    /// `si_code` of what the kernel raised without an address, as for an address that no pointer can have.
    pub const BY_KERNEL: i32 = 0x80;

    /// What a `siginfo_t` says; `None` if it is none.
    pub(super) fn read(siginfo: &[u8]) -> Option<Fault> {
        let number = |at: usize| Some(i32::from_le_bytes(*siginfo.get(at..)?.first_chunk()?));
        let (signal, code) = (number(0)?, number(8)?);
        let has_address = matches!(signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP);
        // Codes above zero are the kernel's own; others come from programs and carry no address.
        let has_address = has_address && code > 0 && code != Fault::BY_KERNEL;
        let address = siginfo.get(16..).and_then(|rest| rest.first_chunk()).filter(|_| has_address);
        let address = address.map(|bytes| Addr(u64::from_le_bytes(*bytes)));
        (signal != 0).then_some(Fault { signal, code, address })
    }

    /// Whether the kernel raised it for what the thread did just then.
    pub fn is_own_doing(&self) -> bool {
        self.code > 0 && matches!(self.signal, libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE)
    }

    /// The process that sent it by `kill` or a similar call, for which codes of at most zero stand; `None` for the
    /// kernel's own.
    pub(super) fn sender(siginfo: &[u8]) -> Option<i32> {
        let number = |at: usize| Some(i32::from_le_bytes(*siginfo.get(at..)?.first_chunk()?));
        number(16).filter(|_| number(8).is_some_and(|code| code <= 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn siginfo(signal: i32, code: i32, address: u64) -> [u8; SIGINFO] {
        let mut bytes = [0; SIGINFO];
        bytes[0..4].copy_from_slice(&signal.to_le_bytes());
        bytes[8..12].copy_from_slice(&code.to_le_bytes());
        bytes[16..24].copy_from_slice(&address.to_le_bytes());
        bytes
    }

    #[test]
    fn only_what_the_kernel_raised_for_an_address_has_one() {
        let address = |signal, code| Fault::read(&siginfo(signal, code, 0x10)).and_then(|fault| fault.address);
        assert_eq!(address(libc::SIGSEGV, 1), Some(Addr(0x10)));
        assert_eq!(address(libc::SIGSEGV, Fault::BY_KERNEL), None);
        assert_eq!(address(libc::SIGSEGV, libc::SI_TKILL), None);
        assert_eq!(address(libc::SIGTERM, 1), None);
        assert_eq!(Fault::read(&[0; 4]), None);
    }

    #[test]
    fn only_processes_are_senders() {
        assert_eq!(Fault::sender(&siginfo(libc::SIGTERM, libc::SI_USER, 77)), Some(77));
        assert_eq!(Fault::sender(&siginfo(libc::SIGSEGV, 1, 77)), None);
    }
}
