//! Turns the linker's names back into those of the source: Rust (both schemes) and C++ (Itanium ABI).

use std::fmt::{self, Write};

/// Longer names than this are shown as they are; no compiler's are known to be so long.
const LONGEST: usize = 1 << 16;

/// The name of the source for the linker's `name`; `name` itself where it is not mangled or is damaged.
///
/// Rust's hashes are left out. What compilers append to parts and copies of a function stays visible: `.cold`, `.part.0`
/// behind a Rust or C name, `[clone .cold]` behind a C++ name, as binutils and elfutils show it; `@VERSION` too.
pub(crate) fn demangle(name: &str) -> String {
    if name.len() > LONGEST || !(name.starts_with("_Z") || name.starts_with("_R") || name.starts_with("__Z")) {
        return name.into();
    }
    let (symbol, version) = name.find('@').map_or((name, ""), |at| name.split_at(at));
    match rust(symbol).or_else(|| cpp(symbol)) {
        Some(demangled) => demangled + version,
        None => name.into(),
    }
}

fn rust(symbol: &str) -> Option<String> {
    let demangled = rustc_demangle::try_demangle(symbol).ok()?;
    let mut text = Bounded(String::new());
    write!(text, "{demangled:#}").ok()?;
    Some(text.0)
}

/// The parser limits how deep a name may nest; how long its expansion becomes is limited here.
fn cpp(symbol: &str) -> Option<String> {
    let parsed = cpp_demangle::Symbol::new(symbol).ok()?;
    let mut text = Bounded(String::new());
    parsed.structured_demangle(&mut text, &cpp_demangle::DemangleOptions::new()).ok()?;
    Some(text.0)
}

/// Text that refuses to grow beyond [`LONGEST`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > LONGEST - self.0.len() {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_schemes_in_use() {
        for (mangled, expected) in [
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE.llvm.1234", "core::fmt::Write::write_fmt"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_RINvNtC3std3mem8align_ofdE", "std::mem::align_of::<f64>"),
            ("_ZN5chatd4conn3runEv", "chatd::conn::run()"),
            ("_Z3foov.cold", "foo() [clone .cold]"),
            ("_Z3foov.isra.0", "foo() [clone .isra.0]"),
            ("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back(int const&)"),
            ("_ZSt4cout@GLIBCXX_3.4", "std::cout@GLIBCXX_3.4"),
        ] {
            assert_eq!(demangle(mangled), expected);
        }
    }

    #[test]
    fn leaves_other_names_alone() {
        for name in
            ["main", "memcpy@@GLIBC_2.14", "poll@plt", "parse.part.0", "main.main", "_Z", "_ZN", "_R", "_Zfoo", ""]
        {
            assert_eq!(demangle(name), name);
        }
    }

    #[test]
    fn a_name_that_expands_without_end_stays_as_it_is() {
        // Each template argument stands for two copies of the one before.
        let mut name = String::from("_Z1fI1aS_E");
        for count in 0..40 {
            let last = if count == 0 { "S0_".into() } else { format!("S{}_", base36(count)) };
            name += &format!("1bI{last}{last}E");
        }
        assert!(demangle(&name).len() <= LONGEST);
        let deep = format!("_Z{}1fv", "P".repeat(60_000));
        assert!(demangle(&deep).len() <= LONGEST);
        let deep = format!("_ZN{}E", "1aI".repeat(20_000));
        assert!(demangle(&deep).len() <= LONGEST);
    }

    fn base36(number: usize) -> char {
        char::from_digit(number as u32 % 36, 36).unwrap().to_ascii_uppercase()
    }
}
