//! One coalesced way to wake the JavaScript thread.

use std::sync::Arc;

use napi::Status;
use napi::bindgen_prelude::Function;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};

type Callback = ThreadsafeFunction<(), (), (), Status, false, true, 2>;

/// Calls a JavaScript function from any thread. Weak: it does not keep the process running.
#[derive(Clone)]
pub(crate) struct Wake(Arc<Callback>);

impl Wake {
    pub(crate) fn new(function: &Function<'_, (), ()>) -> napi::Result<Wake> {
        let callback = function
            .build_threadsafe_function::<()>()
            .callee_handled::<false>()
            .weak::<true>()
            .max_queue_size::<2>()
            .build()?;
        Ok(Wake(Arc::new(callback)))
    }

    pub(crate) fn call(&self) {
        // A full queue means that a call is on its way already; a closing one that nobody is left to hear it.
        let _ = self.0.call((), ThreadsafeFunctionCallMode::NonBlocking);
    }
}
