//! The auxiliary vector: what the kernel tells a program as it starts (getauxval(3)), in pairs of a key and a value.

use std::path::Path;

/// Where the program's headers are mapped.
pub(super) const AT_PHDR: u64 = 3;
/// Where its loader is mapped; missing or 0 without one.
pub(super) const AT_BASE: u64 = 7;
/// Where execution of the program begins, after its loader.
pub(super) const AT_ENTRY: u64 = 9;
/// Where the path stands by which it was started, on its first stack.
pub(super) const AT_EXECFN: u64 = 31;
/// Where the `[vdso]` is mapped.
pub(super) const AT_SYSINFO_EHDR: u64 = 33;
/// How much room a signal frame takes at most, in bytes (sigaltstack(2)).
pub(super) const AT_MINSIGSTKSZ: u64 = 51;

/// The vector of the process with this directory in `/proc`; empty if it can't be read.
pub(super) fn read(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join("auxv")).unwrap_or_default()
}

/// The value of `key`; `None` if it is missing or 0.
pub(super) fn value(auxv: &[u8], key: u64) -> Option<u64> {
    let mut pairs = auxv.as_chunks::<8>().0.as_chunks::<2>().0.iter().map(|pair| pair.map(u64::from_le_bytes));
    pairs.find(|[known, _]| *known == key).map(|[_, value]| value).filter(|value| *value != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_key_and_half_a_pair_is_none() {
        let words = [AT_PHDR, 0x40, AT_BASE, 0, AT_ENTRY, 0x1000, AT_EXECFN];
        let auxv: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(
            [AT_PHDR, AT_BASE, AT_ENTRY, AT_EXECFN].map(|key| value(&auxv, key)),
            [Some(0x40), None, Some(0x1000), None]
        );
    }
}
