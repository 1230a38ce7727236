//! Where in a program's code exceptions are raised and land.
//!
//! Every language on Linux raises by `_Unwind_RaiseException` (Itanium C++ ABI, "Level I"), which `libgcc_s.so.1` exports
//! and static programs have inside; the loader keeps the name in programs that were stripped. It has searched all frames
//! by the time it lands for the first time, and has noted where it will stop. In GCC's, the landing is the one
//! instruction of the same function that sets the stack pointer to another frame's; in LLVM's it is a routine of its own.

use crate::addr::Addr;
use crate::image::{CodeBytes, FunctionSymbol, Image, Module, Modules, stack_pointer_writes};

/// What starts a search for a handler.
const RAISE: &[u8] = b"_Unwind_RaiseException";
/// What unwinds without a search: the end of a thread, and what libraries end their coroutines with.
const FORCE: &[u8] = b"_Unwind_ForcedUnwind";
/// LLVM's routine that goes on in another frame.
const JUMP: &[u8] = b"__libunwind_Registers_x86_64_jumpto";
/// What the loader calls before and after it changes which files are mapped (`r_brk` in glibc's and musl's `link.h`).
const LOADER: &[u8] = b"_dl_debug_state";

/// The places of a program's unwinders.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Unwinders {
    /// Where raising begins.
    pub(crate) raises: Vec<Addr>,
    /// Where forced unwinding begins.
    pub(crate) forces: Vec<Addr>,
    /// Where what was raised lands for the first time.
    pub(crate) landings: Vec<Addr>,
}

impl Unwinders {
    /// Those of a program's modules.
    pub(crate) fn of(modules: &Modules) -> Unwinders {
        let mut unwinders = Unwinders::default();
        for module in modules.iter() {
            let Some(image) = &module.image else { continue };
            // A file that has others define it needs no search through what may be a million symbols.
            if image.imports(RAISE) {
                continue;
            }
            for function in image.functions_named(&[RAISE, FORCE, JUMP]) {
                unwinders.add(module, image, &function);
            }
        }
        unwinders
    }

    fn add(&mut self, module: &Module, image: &Image, function: &FunctionSymbol<'_>) {
        let placed = |svma: u64| Addr(module.bias.wrapping_add(svma));
        let at = placed(function.svma);
        match function.name {
            RAISE => {
                self.raises.push(at);
                let code = image.code();
                let body = code.iter().find_map(|part| body(*part, function));
                self.landings.extend(body.into_iter().flat_map(stack_pointer_writes).map(placed));
            }
            FORCE => self.forces.push(at),
            _ => self.landings.push(at),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.raises.is_empty() && self.forces.is_empty()
    }
}

/// The code of one function.
fn body<'a>(part: CodeBytes<'a>, function: &FunctionSymbol<'_>) -> Option<CodeBytes<'a>> {
    let bytes = part.tail(function.svma)?;
    let length = usize::try_from(function.size).ok()?.min(bytes.len());
    Some(CodeBytes { svma: function.svma, bytes: bytes.get(..length)? })
}

/// Where the loader says that it maps more files.
pub(crate) fn loads_more(modules: &Modules) -> Option<Addr> {
    let in_module = |module: &Module| {
        let image = module.image.as_ref()?;
        let found = image.functions_named(&[LOADER]);
        found.first().map(|function| Addr(module.bias.wrapping_add(function.svma)))
    };
    // It is the loader's own, and loaders are the system's.
    modules.iter().filter(|module| module.is_system()).find_map(in_module)
}
