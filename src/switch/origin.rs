//! Where a panic began, kept for whoever it goes to.
//!
//! A panic that leaves a coroutine goes on in its resumer, and by then the coroutine's stack has been unwound. So the
//! backtrace is taken in the panic hook, where the panic begins, and handed from stack to stack together with the payload.

use std::any::{Any, TypeId};
use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::panic;
use std::sync::{Arc, Once};

use super::on_stack::stack_pointer;
use super::roster;

/// A panic that is on its way.
struct Origin {
    backtrace: Arc<Backtrace>,
    /// By what it is known again: the type of its payload, and the text where it is text.
    mark: (TypeId, Option<String>),
}

thread_local! {
    /// The panic that began last on this thread, on a coroutine's stack.
    static LAST: RefCell<Option<Origin>> = const { RefCell::new(None) };
}

/// From now on, the backtrace of each panic in a coroutine is kept: [`Coroutine::panic_backtrace`] gives it to whoever the
/// panic goes to.
///
/// It adds a panic hook before the one that is there. A hook that is set later in its place ends this. Taking a backtrace
/// costs some microseconds for each panic in a coroutine; its names are looked up only when it is shown.
///
/// [`Coroutine::panic_backtrace`]: super::Coroutine::panic_backtrace
pub fn keep_panic_backtraces() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if roster::bounds(stack_pointer().addr()).is_some() {
                let mark = (info.payload().type_id(), info.payload_as_str().map(str::to_owned));
                LAST.set(Some(Origin { backtrace: Arc::new(Backtrace::force_capture()), mark }));
            }
            before(info);
        }));
    });
}

/// The backtrace of the panic that was caught with this payload; `None` where it began without the hook.
pub(super) fn of(payload: &(dyn Any + Send)) -> Option<Arc<Backtrace>> {
    // A panic that was caught before may have left its own behind: it had another mark.
    LAST.take().filter(|origin| origin.mark == mark(payload)).map(|origin| origin.backtrace)
}

/// Keeps the backtrace of a panic with this payload, which goes on on the next stack.
pub(super) fn goes_on(backtrace: Arc<Backtrace>, payload: &(dyn Any + Send)) {
    LAST.set(Some(Origin { backtrace, mark: mark(payload) }));
}

fn mark(payload: &(dyn Any + Send)) -> (TypeId, Option<String>) {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    (payload.type_id(), text.or_else(|| payload.downcast_ref::<String>().cloned()))
}
