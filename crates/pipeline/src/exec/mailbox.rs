use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::{Priority, Runnable, Shared, WorkerPool, lock};

/// Messages an actor runs before it goes to the end of the line.
const MESSAGES_A_TURN: usize = 8;

/// What happens to a message for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// The oldest one waiting makes room.
    DropOldest,
    /// Everything waiting makes room: only the newest is worth having.
    Latest,
    /// It is handed back.
    Reject,
}

/// What became of a pushed message.
#[derive(Debug, PartialEq, Eq)]
pub enum Push<M> {
    /// It waits for its turn.
    Pushed,
    /// It waits for its turn, and these older ones were taken out to make room, oldest first.
    Dropped(Vec<M>),
    /// There is no room, or the mailbox is closed: here it is back.
    Refused(M),
}

/// A bounded queue in front of an actor. What it takes out it hands back, so that nothing of the caller's is dropped
/// under the mailbox's lock.
pub trait MailQueue<M>: Send {
    /// Takes a message in, by its own policy.
    fn push(&mut self, message: M) -> Push<M>;
    /// The next message to run.
    fn pop(&mut self) -> Option<M>;
    /// Messages waiting.
    fn len(&self) -> usize;
    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A queue of at most `capacity` messages under one [`Policy`].
pub struct Bounded<M> {
    queue: VecDeque<M>,
    capacity: usize,
    policy: Policy,
}

/// How a mailbox is named and served.
#[derive(Debug, Clone)]
pub struct MailboxOptions {
    /// Appears in panic reports and logs.
    pub name: Arc<str>,
    /// Which line it waits in.
    pub priority: Priority,
}

/// Counters of one mailbox. `pushed` = `run` + `dropped` + `closed` + `depth`, once nothing is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MailboxStats {
    /// Messages waiting right now.
    pub depth: usize,
    /// Messages taken in.
    pub pushed: u64,
    /// Messages the handler ran, those it panicked on among them.
    pub run: u64,
    /// Messages taken out again to make room for newer ones.
    pub dropped: u64,
    /// Messages handed back because there was no room, or the mailbox was closed.
    pub refused: u64,
    /// Messages that waited when the mailbox closed.
    pub closed: u64,
    /// Panics in the handler.
    pub panics: u64,
}

impl MailboxStats {
    /// Those of both together.
    pub(crate) fn and(&self, other: &MailboxStats) -> MailboxStats {
        MailboxStats {
            depth: self.depth + other.depth,
            pushed: self.pushed + other.pushed,
            run: self.run + other.run,
            dropped: self.dropped + other.dropped,
            refused: self.refused + other.refused,
            closed: self.closed + other.closed,
            panics: self.panics + other.panics,
        }
    }
}

/// The way to one actor. Clones lead to the same one.
pub struct Mailbox<M> {
    actor: Arc<Actor<M>>,
}

/// Runs a message, or the time that it asked for last with `None`. Says when it wants to be called next.
type Handler<M> = Box<dyn FnMut(Option<M>) -> Option<Instant> + Send>;

struct Actor<M> {
    name: Arc<str>,
    priority: Priority,
    pool: Arc<Shared>,
    state: Mutex<State<M>>,
    /// Locked only by the one worker that has the actor, and by a close while none has.
    handler: Mutex<Option<Handler<M>>>,
    /// Itself, where its handler may ask for a time.
    timed: Option<Weak<Actor<M>>>,
    counters: Counters,
}

struct State<M> {
    queue: Box<dyn MailQueue<M>>,
    /// In line or on a worker.
    scheduled: bool,
    /// When the handler wants to be called without a message.
    wish: Option<Instant>,
    /// The earliest timer there is for that.
    armed: Option<Instant>,
    /// That time has come.
    due: bool,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// Takes nothing in, runs what waits.
    Draining,
    Closed,
}

#[derive(Default)]
struct Counters {
    pushed: AtomicU64,
    run: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
    panics: AtomicU64,
}

impl WorkerPool {
    /// A mailbox whose messages `handler` runs on this pool, in order, one at a time.
    ///
    /// The handler is dropped when the mailbox is closed or its last clone is gone and nothing waits.
    pub fn mailbox<M: Send + 'static>(
        &self,
        options: MailboxOptions,
        queue: impl MailQueue<M> + 'static,
        mut handler: impl FnMut(M) + Send + 'static,
    ) -> Mailbox<M> {
        let handler: Handler<M> = Box::new(move |message| {
            message.map(&mut handler);
            None
        });
        self.actor(options, Box::new(queue), handler, false)
    }

    /// A mailbox of `capacity` (at least 1) messages under one policy.
    pub fn bounded<M: Send + 'static>(
        &self,
        name: &str,
        capacity: usize,
        policy: Policy,
        handler: impl FnMut(M) + Send + 'static,
    ) -> Mailbox<M> {
        let options = MailboxOptions { name: name.into(), priority: Priority::Normal };
        self.mailbox(options, Bounded::new(capacity, policy), handler)
    }

    /// As [`WorkerPool::bounded`], for an actor that also does things at times of its own.
    ///
    /// The handler returns when it wants to be called with `None`, if no message comes before; each call replaces what
    /// the one before asked for. It is called then or a little later: after the messages that wait, and once a worker
    /// is free. A time keeps neither the actor nor the pool.
    pub fn timed<M: Send + 'static>(
        &self,
        name: &str,
        capacity: usize,
        policy: Policy,
        handler: impl FnMut(Option<M>) -> Option<Instant> + Send + 'static,
    ) -> Mailbox<M> {
        let options = MailboxOptions { name: name.into(), priority: Priority::Normal };
        self.actor(options, Box::new(Bounded::new(capacity, policy)), Box::new(handler), true)
    }

    fn actor<M: Send + 'static>(
        &self,
        options: MailboxOptions,
        queue: Box<dyn MailQueue<M>>,
        handler: Handler<M>,
        timed: bool,
    ) -> Mailbox<M> {
        let actor = Arc::new_cyclic(|me| Actor {
            name: options.name,
            priority: options.priority,
            pool: self.shared.clone(),
            state: Mutex::new(State {
                queue,
                scheduled: false,
                wish: None,
                armed: None,
                due: false,
                phase: Phase::Open,
            }),
            handler: Mutex::new(Some(handler)),
            timed: timed.then(|| me.clone()),
            counters: Counters::default(),
        });
        Mailbox { actor }
    }
}

impl<M: Send + 'static> Mailbox<M> {
    /// Hands a message to the actor. Never blocks.
    pub fn push(&self, message: M) -> Push<M> {
        let actor = &self.actor;
        let count = &actor.counters;
        let (outcome, schedule) = {
            let mut state = lock(&actor.state);
            if state.phase != Phase::Open {
                count.refused.fetch_add(1, Ordering::Relaxed);
                return Push::Refused(message);
            }
            let outcome = state.queue.push(message);
            let schedule = !state.scheduled && !state.queue.is_empty();
            state.scheduled |= schedule;
            (outcome, schedule)
        };
        match &outcome {
            Push::Pushed => count.pushed.fetch_add(1, Ordering::Relaxed),
            Push::Dropped(old) => {
                count.dropped.fetch_add(old.len() as u64, Ordering::Relaxed);
                count.pushed.fetch_add(1, Ordering::Relaxed)
            }
            Push::Refused(_) => count.refused.fetch_add(1, Ordering::Relaxed),
        };
        if schedule && !actor.pool.schedule(actor.clone()) {
            actor.abandon();
        }
        outcome
    }

    /// Hands a message to the actor at a time, if it and the pool are still there. It is dropped where there are as many
    /// timers as there may be.
    pub(crate) fn push_at(&self, at: Instant, message: M) {
        let actor = Arc::downgrade(&self.actor);
        let push = move || {
            if let Some(actor) = actor.upgrade() {
                // Refused once it is closed; then nobody waits for it.
                let _ = Mailbox { actor }.push(message);
            }
        };
        self.actor.pool.at(at, Box::new(push));
    }

    /// Takes nothing in any more, drops what waits and, once it is not running, the handler. Idempotent; doesn't wait.
    pub fn close(&self) {
        self.actor.close();
    }

    /// Takes nothing in any more, runs what waits, then closes. Idempotent; doesn't wait.
    pub fn drain(&self) {
        let idle = {
            let mut state = lock(&self.actor.state);
            if state.phase == Phase::Open {
                state.phase = Phase::Draining;
            }
            !state.scheduled
        };
        if idle {
            self.actor.close();
        }
    }

    /// Whether it takes nothing in any more.
    pub fn is_closed(&self) -> bool {
        lock(&self.actor.state).phase != Phase::Open
    }

    /// Whether nothing waits and nothing runs.
    pub(crate) fn is_idle(&self) -> bool {
        let state = lock(&self.actor.state);
        !state.scheduled && state.queue.is_empty()
    }

    /// The counters now.
    pub fn stats(&self) -> MailboxStats {
        let count = &self.actor.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MailboxStats {
            depth: lock(&self.actor.state).queue.len(),
            pushed: get(&count.pushed),
            run: get(&count.run),
            dropped: get(&count.dropped),
            refused: get(&count.refused),
            closed: get(&count.closed),
            panics: get(&count.panics),
        }
    }

    /// A handle that doesn't keep the actor.
    pub(crate) fn downgrade(&self) -> WeakMailbox<M> {
        WeakMailbox(Arc::downgrade(&self.actor))
    }
}

/// A [`Mailbox`] that may be gone.
pub(crate) struct WeakMailbox<M>(std::sync::Weak<Actor<M>>);

impl<M> WeakMailbox<M> {
    pub(crate) fn upgrade(&self) -> Option<Mailbox<M>> {
        self.0.upgrade().map(|actor| Mailbox { actor })
    }
}

impl<M> Clone for WeakMailbox<M> {
    fn clone(&self) -> Self {
        WeakMailbox(self.0.clone())
    }
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Mailbox { actor: self.actor.clone() }
    }
}

impl<M> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({})", self.actor.name)
    }
}

impl<M: Send + 'static> Actor<M> {
    /// The handler wants to be called then, as of its last call in this turn; `None`: it was not called.
    fn wish(&self, state: &mut State<M>, asked: Option<Option<Instant>>) {
        if let Some(at) = asked {
            state.wish = at;
            self.arm(state);
        }
    }

    /// Sees to it that there is a timer for the time wished for, or an earlier one that will.
    fn arm(&self, state: &mut State<M>) {
        let (Some(at), Some(me)) = (state.wish, &self.timed) else { return };
        if state.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        let me = me.clone();
        let fire = move || {
            if let Some(actor) = me.upgrade() {
                actor.fire(at);
            }
        };
        if self.pool.at(at, Box::new(fire)) {
            state.armed = Some(at);
        }
    }

    /// The timer made for this time has come.
    fn fire(self: Arc<Self>, at: Instant) {
        {
            let mut state = lock(&self.state);
            if state.armed == Some(at) {
                state.armed = None;
            }
            if state.phase == Phase::Closed {
                return;
            }
            if state.wish.is_none_or(|wish| wish > Instant::now()) {
                self.arm(&mut state);
                return;
            }
            state.wish = None;
            state.due = true;
            if std::mem::replace(&mut state.scheduled, true) {
                return;
            }
        }
        if !self.pool.schedule(self.clone()) {
            self.abandon();
        }
    }

    fn close(&self) {
        {
            let mut state = lock(&self.state);
            state.phase = Phase::Closed;
        }
        self.discard();
        self.take_handler();
    }

    /// Drops the handler, unless a worker runs it: that worker then sees the closed phase and drops it after its turn.
    fn take_handler(&self) {
        let handler = match self.handler.try_lock() {
            Ok(mut handler) => handler.take(),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
            Err(std::sync::TryLockError::WouldBlock) => None,
        };
        drop_guarded(handler);
    }

    /// Takes what waits out and drops it, with the lock open.
    fn discard(&self) {
        loop {
            let message = lock(&self.state).queue.pop();
            let Some(message) = message else { break };
            self.counters.closed.fetch_add(1, Ordering::Relaxed);
            self.pool.guarded(&self.name, || drop(message));
        }
    }
}

impl<M: Send + 'static> Runnable for Actor<M> {
    fn turn(&self) -> bool {
        let mut handler = lock(&self.handler);
        let mut asked = None;
        for _ in 0..MESSAGES_A_TURN {
            let call = {
                let mut state = lock(&self.state);
                let call = match state.phase {
                    Phase::Closed => None,
                    _ => match state.queue.pop() {
                        Some(message) => Some(Some(message)),
                        None => std::mem::take(&mut state.due).then_some(None),
                    },
                };
                if call.is_none() {
                    if state.phase == Phase::Draining {
                        state.phase = Phase::Closed;
                    }
                    let closed = state.phase == Phase::Closed;
                    self.wish(&mut state, if closed { Some(None) } else { asked });
                    state.scheduled = false;
                    drop(state);
                    let done = if closed { handler.take() } else { None };
                    drop(handler);
                    drop_guarded(done);
                    // A close in between found the handler locked, and left it to us.
                    if lock(&self.state).phase == Phase::Closed {
                        self.take_handler();
                    }
                    // A push after `scheduled` was cleared has put the actor in line by itself.
                    return false;
                }
                call
            };
            let (Some(message), Some(run)) = (call, handler.as_mut()) else { continue };
            self.counters.run.fetch_add(u64::from(message.is_some()), Ordering::Relaxed);
            let mut at = None;
            if !self.pool.guarded(&self.name, || at = run(message)) {
                self.counters.panics.fetch_add(1, Ordering::Relaxed);
            }
            asked = Some(at);
        }
        self.wish(&mut lock(&self.state), asked);
        true
    }

    fn priority(&self) -> Priority {
        self.priority
    }

    fn abandon(&self) {
        self.close();
    }
}

impl<M> Drop for Actor<M> {
    fn drop(&mut self) {
        // Someone's handler or message may panic when it is dropped; no worker may die of it.
        let handler = self.handler.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        drop_guarded(handler);
    }
}

fn drop_guarded<T>(value: T) {
    if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(value))) {
        std::mem::forget(payload);
    }
}

impl<M> Bounded<M> {
    /// A queue of at most `capacity` messages; 0 counts as 1.
    pub fn new(capacity: usize, policy: Policy) -> Bounded<M> {
        Bounded { queue: VecDeque::new(), capacity: capacity.max(1), policy }
    }
}

impl<M: Send> MailQueue<M> for Bounded<M> {
    fn push(&mut self, message: M) -> Push<M> {
        if self.queue.len() < self.capacity && self.policy != Policy::Latest {
            self.queue.push_back(message);
            return Push::Pushed;
        }
        let old: Vec<M> = match self.policy {
            Policy::Reject => return Push::Refused(message),
            Policy::DropOldest => self.queue.pop_front().into_iter().collect(),
            Policy::Latest => self.queue.drain(..).collect(),
        };
        self.queue.push_back(message);
        if old.is_empty() { Push::Pushed } else { Push::Dropped(old) }
    }

    fn pop(&mut self) -> Option<M> {
        self.queue.pop_front()
    }

    fn len(&self) -> usize {
        self.queue.len()
    }
}
