//! The most bytes that a stack ever held, and how that is known.

/// The most bytes that a stack ever held, and how that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peak {
    /// Bytes from the stack's high end down to the lowest that was used.
    pub bytes: u64,
    /// How it was found.
    pub method: Method,
    /// What was touched further down and is not counted.
    pub apart: Option<Apart>,
}

/// Touched pages of a stack that nothing shows to have been its depth: none of them joins what was used, and none holds
/// what calls leave behind. Runtimes touch the far end of a stack to have its memory, or to mark it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Apart {
    /// Bytes from the stack's high end down to the lowest of these pages.
    pub bytes: u64,
    /// How many pages these are.
    pub pages: u64,
}

/// How a peak is known. The words are those of the JSON. The surest comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Method {
    /// The lowest word that differs from the pattern with which the stack was filled: true to a word.
    Exact,
    /// The lowest touched page that joins the used part or holds what calls left there: true to a page, and at most too
    /// high.
    Pages,
    /// The lowest stack pointer that a look saw: a lower bound.
    Sampled,
}

impl Apart {
    /// The one that reaches further down.
    pub(crate) fn deeper(left: Option<Apart>, right: Option<Apart>) -> Option<Apart> {
        let bytes = |apart: Option<Apart>| apart.map(|apart| apart.bytes);
        if bytes(right) > bytes(left) { right } else { left }
    }
}

impl Peak {
    /// A peak that is known by touched pages.
    pub(crate) fn by_pages(bytes: u64) -> Peak {
        Peak { bytes, method: Method::Pages, apart: None }
    }
}
