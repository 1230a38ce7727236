//! Brings the names of three tools to one form, since each writes the same function in its own way.

/// The last part of a function's name, without generics, hashes and the suffixes of compilers and linkers.
///
/// `<Stdin as Read>::read_to_end`, `_$LT$Stdin$u20$as$u20$Read$GT$::read_to_end::h0123456789abcdef` and
/// `std::io::stdio::{impl#5}::read_to_end` all become `read_to_end`.
pub(crate) fn plain(name: &str) -> String {
    if name == "<signal handler called>" {
        return "signal handler called".to_owned();
    }
    let name = demangled(name);
    let name = name.split("@@").next().unwrap_or_default();
    let name = without_arguments(&without_brackets(name));
    let mut parts: Vec<&str> = name.split("::").filter(|part| !part.is_empty()).collect();
    if parts.last().is_some_and(|part| is_hash(part)) {
        parts.pop();
    }
    let last = parts.last().copied().unwrap_or_default();
    if last.contains("closure") || last.contains("shim") {
        return "closure".to_owned();
    }
    c_name(last)
}

/// A C function without the marks of glibc's aliases and of the compiler's copies.
fn c_name(name: &str) -> String {
    let name = name.split('@').next().unwrap_or_default();
    let copies = [".constprop.", ".isra.", ".part.", ".cold", ".llvm.", ".abi0"];
    let end = copies.iter().filter_map(|copy| name.find(copy)).min().unwrap_or(name.len());
    let name = name[..end].trim_start_matches("__GI_").trim_start_matches('_');
    let name = name.strip_prefix("libc_").filter(|rest| !rest.starts_with("start")).unwrap_or(name);
    name.strip_suffix("_impl").unwrap_or(name).to_owned()
}

fn demangled(name: &str) -> String {
    if let Some(end) = name.strip_prefix("_R") {
        let body = format!("_R{}", end.split('.').next().unwrap_or_default());
        return format!("{:#}", rustc_demangle::demangle(&body));
    }
    // eu-stack takes names of Rust's older form for C++, and leaves their escapes as they are.
    let escapes = [
        ("$LT$", "<"),
        ("$GT$", ">"),
        ("$u20$", " "),
        ("$C$", ","),
        ("$LP$", "("),
        ("$RP$", ")"),
        ("$RF$", "&"),
        ("$BP$", "*"),
        ("$u7b$", "{"),
        ("$u7d$", "}"),
        ("..", "::"),
    ];
    escapes.iter().fold(name.to_owned(), |name, (escape, meant)| name.replace(escape, meant))
}

/// Without what stands between `<` and `>`; an arrow's `>` closes nothing.
fn without_brackets(name: &str) -> String {
    let (mut depth, mut kept, mut former) = (0u32, String::new(), ' ');
    for letter in name.chars() {
        match letter {
            '<' => depth += 1,
            '>' if former != '-' => depth = depth.saturating_sub(1),
            _ if depth == 0 => kept.push(letter),
            _ => {}
        }
        former = letter;
    }
    kept
}

/// Without the types of arguments, which C++ names carry.
fn without_arguments(name: &str) -> String {
    match name.find('(') {
        Some(at) if at > 0 => name[..at].trim_end().to_owned(),
        _ => name.to_owned(),
    }
}

fn is_hash(part: &str) -> bool {
    part.len() == 17 && part.starts_with('h') && part[1..].bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn one_function_has_one_plain_name() {
    let cases = [
        ("<std::io::stdio::Stdin as std::io::Read>::read_to_end", "read_to_end"),
        ("_$LT$Stdin$u20$as$u20$std..io..Read$GT$::read_to_end::h0123456789abcdef", "read_to_end"),
        ("_RNvXs3_NtNtCsjrHSEGnQ3l9_3std2io5stdioNtB5_5StdinNtB7_4Read11read_to_end", "read_to_end"),
        ("a::b::{{closure}}", "closure"),
        ("a::b::{closure#0}", "closure"),
        ("__GI___libc_read", "read"),
        ("__libc_start_main@@GLIBC_2.34", "libc_start_main"),
        ("__libc_start_main_impl", "libc_start_main"),
        ("wait.constprop.0", "wait"),
        ("runtime.futex.abi0", "runtime.futex"),
        ("A::f(int, std::vector<B>)", "f"),
        ("(anonymous namespace)::g", "g"),
    ];
    for (name, expected) in cases {
        assert_eq!(plain(name), expected, "{name}");
    }
}
