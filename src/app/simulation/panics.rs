//! Notes each panic of a simulation's thread: tokio keeps one to its task, so it would pass for a connection that was cut.

use std::{cell::RefCell, panic, sync::Once};

use crate::simulated;

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Has panics of simulations noted from now on, beside what is done about them otherwise.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if simulated::network().is_some() {
                PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            }
            before(info);
        }));
    });
    PANICS.take();
}

/// The panics of this thread.
pub(super) fn take() -> Vec<String> {
    PANICS.take()
}
