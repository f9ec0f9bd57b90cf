//! Panics must not cross the boundary: there they would end the process without a word to the user.

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::error::{Error, ErrorKind};

/// Calls that the host has not got back from. A panic outside them is none of ours.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// What panics have said since a guard last asked, on whichever thread they happened.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

static HOOK: Once = Once::new();

/// A dynamic library has a standard library, and so a panic hook, of its own: without this one, a panic would be written
/// to the process's stderr, and the place where it happened be lost to the error.
fn install_hook() {
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if INSIDE.load(Ordering::SeqCst) == 0 {
                return previous(info);
            }
            let place = info.location().map(|place| format!(" ({}:{})", place.file(), place.line()));
            let said = format!("{}{}", said(info.payload()), place.unwrap_or_default());
            SAID.lock().unwrap_or_else(PoisonError::into_inner).push(said);
        }));
    });
}

fn said(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Runs a plugin's code and turns a panic into an error that says what and where.
pub(crate) fn guard<T>(code: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    install_hook();
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let outcome = catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|payload| {
        Err(Error::new(ErrorKind::Panic, format!("the plugin panicked: {}", take_panic(said(&*payload)))))
    });
    // Only now: until its own message is taken, `take_panics` of another call must leave it where it is.
    INSIDE.fetch_sub(1, Ordering::SeqCst);
    outcome
}

/// What the hook wrote down of a panic: message and place. Several threads may have panicked; a thread pool hands on the
/// message of one of them.
fn take_panic(message: &str) -> String {
    let mut all = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    match all.iter().position(|said| said.starts_with(message)) {
        Some(index) => all.swap_remove(index),
        None => message.to_owned(),
    }
}

/// What panics said that no guard has turned into an error: those of threads that nobody joined. Nothing while another call is inside,
/// whose own panic may be among them; the last call to leave finds them.
pub(crate) fn take_panics() -> Vec<String> {
    let mut all = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    // Under the lock: a call that enters after this adds its messages after they are taken.
    if INSIDE.load(Ordering::SeqCst) == 0 { std::mem::take(&mut *all) } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_its_place() {
        let error = guard::<()>(|| panic!("row {} is empty", 3)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Panic);
        assert!(error.message.contains("row 3 is empty (") && error.message.contains("guard.rs:"), "{error}");
    }

    #[test]
    fn another_call_that_ends_meanwhile_leaves_a_panic_its_place() {
        struct Another;
        impl Drop for Another {
            /// Runs while the panic unwinds: it has been written down and not yet been taken.
            fn drop(&mut self) {
                take_panics();
            }
        }
        let error = guard::<()>(|| {
            let _ends_meanwhile = Another;
            panic!("row 4 is empty")
        });
        let error = error.unwrap_err();
        assert!(error.message.contains("row 4 is empty (") && error.message.contains("guard.rs:"), "{error}");
    }
}
