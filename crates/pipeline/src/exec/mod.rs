//! Where work runs: a fixed pool of named threads and the mailboxes it serves.
//!
//! Each [`Mailbox`] belongs to one actor: a handler that sees its messages in order and on one worker at a time. A
//! worker takes an actor, runs a bounded number of its messages, and puts it at the end of the line if more wait, so a
//! busy actor can't starve the others. The line never holds an actor twice, so its length is bounded by their number.

mod mailbox;
mod timer;

pub(crate) use mailbox::WeakMailbox;
pub use mailbox::{Bounded, MailQueue, Mailbox, MailboxOptions, MailboxStats, Policy, Push};
use timer::Timer;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{JoinHandle, ThreadId};
use std::time::Instant;

/// The most threads a pool has.
pub const MAX_WORKERS: usize = 64;

/// Timers that wait at one time.
const MAX_TIMERS: usize = 65_536;

/// What panic reports call a timer.
const TIMER: &str = "timer";

/// After this many urgent turns in a row a normal actor gets one, so that audio can't starve video for good.
const URGENT_IN_A_ROW: u32 = 8;

/// Which line an actor waits in for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Served in the order of arrival.
    #[default]
    Normal,
    /// Served before [`Priority::Normal`], but for one turn in nine: short work that must not wait, as audio is.
    Urgent,
}

/// What is told of a panic that a worker caught.
#[derive(Debug, Clone)]
pub struct PanicReport {
    /// The name of the mailbox whose handler panicked.
    pub mailbox: Arc<str>,
    /// The panic's message where it was a string.
    pub message: String,
}

/// Called on the worker that caught a panic. It must not panic itself; if it does, that is caught and counted too.
pub type PanicHook = Arc<dyn Fn(&PanicReport) + Send + Sync>;

/// A fixed set of threads that run actors. Clones share the threads; [`WorkerPool::close`], or dropping the last clone,
/// ends them. Mailboxes don't keep a pool.
#[derive(Clone)]
pub struct WorkerPool {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
    workers: usize,
}

struct Threads {
    shared: Arc<Shared>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

/// Why a pool can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The number of threads is outside 1..=[`MAX_WORKERS`].
    #[error("a worker pool has 1 to {MAX_WORKERS} threads, not {0}")]
    Workers(usize),
    /// The operating system refused a thread.
    #[error("a worker thread could not be started: {0}")]
    Spawn(#[from] std::io::Error),
}

/// Something with turns to run; one actor.
trait Runnable: Send + Sync {
    /// Runs one turn. True when it wants another, and then goes to the end of its line.
    fn turn(&self) -> bool;
    fn priority(&self) -> Priority;
    /// The pool is closing: nothing runs any more.
    fn abandon(&self);
}

struct Shared {
    line: Mutex<Line>,
    work: Condvar,
    panics: AtomicU64,
    hook: Option<PanicHook>,
}

#[derive(Default)]
struct Line {
    urgent: VecDeque<Arc<dyn Runnable>>,
    normal: VecDeque<Arc<dyn Runnable>>,
    urgent_run: u32,
    /// The earliest first.
    timers: BinaryHeap<Reverse<Timer>>,
    timers_made: u64,
    /// Until when an idle worker sleeps to see to the earliest timer; the other idle ones sleep until there is work.
    keeper: Option<Instant>,
    closed: bool,
}

impl WorkerPool {
    /// Starts `workers` threads, named `name-0`, `name-1` and so on.
    ///
    /// `hook` is told of every panic in a handler; the pool survives it and the actor goes on with its next message.
    pub fn new(name: &str, workers: usize, hook: Option<PanicHook>) -> Result<WorkerPool, ExecError> {
        if !(1..=MAX_WORKERS).contains(&workers) {
            return Err(ExecError::Workers(workers));
        }
        let shared = Arc::new(Shared {
            line: Mutex::default(),
            work: Condvar::new(),
            panics: AtomicU64::new(0),
            hook,
        });
        let threads = Arc::new(Threads { shared: shared.clone(), handles: Mutex::default() });
        let pool = WorkerPool { shared, threads, workers };
        for index in 0..workers {
            let shared = pool.shared.clone();
            let spawned =
                std::thread::Builder::new().name(format!("{name}-{index}")).spawn(move || shared.work());
            match spawned {
                Ok(handle) => lock(&pool.threads.handles).push(handle),
                Err(error) => {
                    pool.close();
                    return Err(ExecError::Spawn(error));
                }
            }
        }
        Ok(pool)
    }

    /// How many threads it was made with.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Panics caught so far, in handlers and in the hook.
    pub fn panics(&self) -> u64 {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// Actors waiting for a worker right now.
    pub fn waiting(&self) -> usize {
        let line = lock(&self.shared.line);
        line.urgent.len() + line.normal.len()
    }

    /// Has `run` called on one of the threads at `at`, or as soon after that as one is free: the way to a clock that never
    /// waits for anybody is to push a message from there. It runs between two turns, so it is short.
    ///
    /// False when the pool is closed or 65,536 of them wait; then it is dropped uncalled, as it is when the pool closes first.
    pub fn at(&self, at: Instant, run: impl FnOnce() + Send + 'static) -> bool {
        self.shared.at(at, Box::new(run))
    }

    /// Ends the threads and joins them: what runs finishes, what waits is dropped, later pushes are refused.
    /// Idempotent. Called on one of its own workers, it joins the others and that one ends when it returns.
    pub fn close(&self) {
        self.threads.close();
    }
}

impl Threads {
    fn close(&self) {
        let (abandoned, timers) = {
            let mut line = lock(&self.shared.line);
            line.closed = true;
            let mut all = std::mem::take(&mut line.urgent);
            all.append(&mut line.normal);
            (all, std::mem::take(&mut line.timers))
        };
        self.shared.work.notify_all();
        let name: Arc<str> = TIMER.into();
        for Reverse(timer) in timers {
            self.shared.guarded(&name, || drop(timer));
        }
        for actor in abandoned {
            actor.abandon();
        }
        let me: ThreadId = std::thread::current().id();
        let threads = std::mem::take(&mut *lock(&self.handles));
        for handle in threads {
            if handle.thread().id() != me {
                // A worker catches every panic, so there is nothing in the result.
                let _ = handle.join();
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Puts an actor in line. False when the pool is closed.
    fn schedule(&self, actor: Arc<dyn Runnable>) -> bool {
        {
            let mut line = lock(&self.line);
            if line.closed {
                return false;
            }
            match actor.priority() {
                Priority::Urgent => line.urgent.push_back(actor),
                Priority::Normal => line.normal.push_back(actor),
            }
        }
        self.work.notify_one();
        true
    }

    fn at(&self, at: Instant, run: Box<dyn FnOnce() + Send>) -> bool {
        {
            let mut line = lock(&self.line);
            if line.closed || line.timers.len() >= MAX_TIMERS {
                return false;
            }
            let number = line.timers_made;
            line.timers_made += 1;
            line.timers.push(Reverse(Timer { at, number, run }));
            if line.keeper.is_some_and(|until| until <= at) {
                return true;
            }
        }
        // Whoever wakes sees to it; when all are busy, whoever is free first.
        self.work.notify_one();
        true
    }

    fn work(&self) {
        while let Some(actor) = self.next() {
            if actor.turn() && !self.schedule(actor.clone()) {
                actor.abandon();
            }
        }
    }

    fn next(&self) -> Option<Arc<dyn Runnable>> {
        let mut line = lock(&self.line);
        loop {
            if line.closed {
                return None;
            }
            if let Some(timer) = line.due() {
                drop(line);
                self.guarded(&TIMER.into(), timer.run);
                line = lock(&self.line);
                continue;
            }
            if let Some(actor) = line.pop() {
                if line.keeper.is_none() && !line.timers.is_empty() {
                    self.work.notify_one();
                }
                return Some(actor);
            }
            line = self.rest(line);
        }
    }

    /// Sleeps until there may be something to do.
    fn rest<'a>(&self, mut line: MutexGuard<'a, Line>) -> MutexGuard<'a, Line> {
        let earliest = line.timers.peek().map(|Reverse(timer)| timer.at);
        let Some(until) = earliest.filter(|at| line.keeper.is_none_or(|kept| *at < kept)) else {
            return self.work.wait(line).unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        line.keeper = Some(until);
        let time = until.saturating_duration_since(Instant::now());
        let (mut line, _) =
            self.work.wait_timeout(line, time).unwrap_or_else(|poisoned| poisoned.into_inner());
        if line.keeper == Some(until) {
            line.keeper = None;
        }
        line
    }

    /// Runs `task`; a panic in it is counted and told to the hook. True when there was none.
    fn guarded(&self, mailbox: &Arc<str>, task: impl FnOnce()) -> bool {
        let Err(payload) = catch_unwind(AssertUnwindSafe(task)) else { return true };
        self.panics.fetch_add(1, Ordering::Relaxed);
        let message = panic_message(payload.as_ref());
        tracing::error!(mailbox = &**mailbox, message, "a handler panicked");
        // A payload may itself panic when it is dropped, and the hook is someone else's code.
        let told = catch_unwind(AssertUnwindSafe(|| {
            drop(payload);
            if let Some(hook) = &self.hook {
                hook(&PanicReport { mailbox: mailbox.clone(), message });
            }
        }));
        if let Err(second) = told {
            self.panics.fetch_add(1, Ordering::Relaxed);
            std::mem::forget(second);
        }
        false
    }
}

impl Line {
    /// The earliest timer, once its time has come.
    fn due(&mut self) -> Option<Timer> {
        let Reverse(first) = self.timers.peek()?;
        if first.at > Instant::now() {
            return None;
        }
        self.timers.pop().map(|Reverse(timer)| timer)
    }

    fn pop(&mut self) -> Option<Arc<dyn Runnable>> {
        let normal_is_due = self.urgent_run >= URGENT_IN_A_ROW && !self.normal.is_empty();
        if !normal_is_due && let Some(actor) = self.urgent.pop_front() {
            self.urgent_run += 1;
            return Some(actor);
        }
        let actor = self.normal.pop_front()?;
        self.urgent_run = 0;
        Some(actor)
    }
}

/// The message of a caught panic, as far as it has one.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// Locks, and goes on when a panicking thread held the lock: everything behind our locks is kept valid at every step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
