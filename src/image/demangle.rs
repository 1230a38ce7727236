//! Turns the linker's names back into those of the source: Rust (both schemes) and C++ (Itanium ABI).

use std::fmt::{self, Write};

/// Longer names than this, in bytes, are shown as they are; no compiler is known to make such long names.
const LONGEST: usize = 1 << 16;

/// The name of the source for the linker's `name`; `name` itself if it is not mangled or is damaged.
///
/// Rust's hashes are left out. What compilers append to parts and copies of a function stays visible: `.cold`,
/// `.part.0` after a Rust or C name, `[clone .cold]` after a C++ name, as binutils and elfutils show it. A symbol's
/// version is no part of the function's name.
pub(crate) fn demangle(name: &str) -> String {
    let name = without_version(name);
    if name.len() > LONGEST || !(name.starts_with("_Z") || name.starts_with("_R") || name.starts_with("__Z")) {
        return name.into();
    }
    rust(name).or_else(|| cpp(name)).unwrap_or_else(|| name.into())
}

/// Without the `@VERSION` or `@@VERSION` that static symbol tables keep after the names of versioned symbols.
fn without_version(name: &str) -> &str {
    match name.find('@') {
        Some(at) if at > 0 && !name.ends_with("@plt") => &name[..at],
        _ => name,
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
    constructor_template(symbol).and_then(|symbol| cpp_as_it_is(&symbol)).or_else(|| cpp_as_it_is(symbol))
}

fn cpp_as_it_is(symbol: &str) -> Option<String> {
    let parsed = cpp_demangle::Symbol::new(symbol).ok()?;
    let options = cpp_demangle::DemangleOptions::new().hide_expression_literal_types();
    let mut text = Bounded(String::new());
    parsed.structured_demangle(&mut text, &options).ok()?;
    Some(text.0)
}

/// The symbol of a constructor or destructor template with a return type put in; `None` for any other.
///
/// Templates state their return type before their parameters, except for these, which have none (Itanium C++ ABI,
/// section 5.1.5.3). cpp_demangle 0.5 takes their first parameter for one and leaves it out. So one is added for it to
/// leave out.
fn constructor_template(symbol: &str) -> Option<String> {
    /// Looking for the end of the name takes time with the square of its length.
    const LONGEST_SEARCHED: usize = 2000;
    let bytes = symbol.as_bytes();
    let marks = bytes.windows(3).any(|part| matches!(part, [b'C' | b'D', b'0'..=b'5', b'I']));
    if !marks || !symbol.starts_with("_ZN") || symbol.len() > LONGEST_SEARCHED {
        return None;
    }
    // The name is the shortest part that makes a whole symbol with an empty list of parameters.
    let ends = (0..bytes.len()).filter(|&place| bytes[place] == b'E').map(|place| place + 1);
    let mut names = ends.filter_map(|end| Some((end, cpp_as_it_is(&format!("{}v", symbol.get(..end)?))?)));
    let (end, name) = names.next()?;
    let is_template = names_its_own_class(name.strip_suffix("()")?);
    is_template.then(|| format!("{}v{}", &symbol[..end], &symbol[end..]))
}

/// Whether the last part of a name is that of the class before it, and a template: `A<int>::A<char>`.
fn names_its_own_class(name: &str) -> bool {
    let mut parts = vec![0];
    let mut depth = 0;
    for (place, byte) in name.bytes().enumerate() {
        match byte {
            b'<' | b'(' => depth += 1,
            b'>' | b')' => depth -= 1,
            b':' if depth == 0 && name[place..].starts_with("::") => parts.push(place + 2),
            _ => {}
        }
    }
    let [.., class, last] = parts[..] else { return false };
    let bare = |part: &str| part.split(['<', ':']).next().unwrap_or_default().trim_start_matches('~').to_owned();
    name[last..].contains('<') && bare(&name[class..]) == bare(&name[last..])
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
            ("_ZSt4cout@GLIBCXX_3.4", "std::cout"),
            ("_ZN3fooILi4EE3barEi", "foo<4>::bar(int)"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
            ("memcpy@GLIBC_2.2.5", "memcpy"),
        ] {
            assert_eq!(demangle(mangled), expected);
        }
    }

    #[test]
    fn templates_of_constructors_keep_all_parameters() {
        // As c++filt shows them.
        for (mangled, expected) in [
            ("_ZN1AC1IiEET_c", "A::A<int>(int, char)"),
            ("_ZN1AD2IiEEv", "A::~A<int>()"),
            ("_ZN2ns1AIcEC4IiEEmT_", "ns::A<char>::A<int>(unsigned long, int)"),
            ("_ZN1A1fIiEEvT_c", "void A::f<int>(int, char)"),
            ("_ZN1AC1Eic", "A::A(int, char)"),
            ("_ZN1AIFvvEEC1IZ4mainEUlvE_vEEOT_", "A<void ()>::A<main::{lambda()#1}, void>(main::{lambda()#1}&&)"),
        ] {
            assert_eq!(demangle(mangled), expected);
        }
    }

    #[test]
    fn leaves_other_names_alone() {
        for name in ["main", "@", "poll@plt", "parse.part.0", "main.main", "_Z", "_ZN", "_R", "_Zfoo", ""] {
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
