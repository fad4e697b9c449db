//! Worker pool and mailboxes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use remotemedia_pipeline::*;

const LONG: Duration = Duration::from_secs(30);

#[test]
fn messages_run_in_order_and_one_at_a_time_on_named_threads() {
    let pool = WorkerPool::new("named", 4, None).unwrap();
    let (tx, rx) = channel();
    let busy = Arc::new(AtomicUsize::new(0));
    let mailbox = pool.bounded("a", 10_000, Policy::Reject, move |n: u32| {
        assert_eq!(busy.fetch_add(1, Ordering::SeqCst), 0, "two workers at once");
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        busy.fetch_sub(1, Ordering::SeqCst);
        tx.send((n, thread)).unwrap();
    });
    for n in 0..10_000 {
        assert_eq!(mailbox.push(n), Push::Pushed);
    }
    for expected in 0..10_000 {
        let (n, thread) = rx.recv_timeout(LONG).unwrap();
        assert_eq!(n, expected);
        assert!(thread.starts_with("named-"), "{thread}");
    }
    pool.close();
    let stats = mailbox.stats();
    assert_eq!((stats.pushed, stats.run, stats.depth, stats.panics), (10_000, 10_000, 0, 0));
}

#[test]
fn a_panic_is_counted_and_told_and_the_actor_goes_on() {
    let (told, tells) = channel();
    let hook: PanicHook = Arc::new(move |report: &PanicReport| {
        told.send((report.mailbox.to_string(), report.message.clone())).unwrap();
        panic!("the hook panics too");
    });
    let pool = WorkerPool::new("p", 1, Some(hook)).unwrap();
    let (tx, rx) = channel();
    let mailbox = pool.bounded("shaky", 8, Policy::Reject, move |n: u32| {
        assert_ne!(n, 1, "one is refused");
        tx.send(n).unwrap();
    });
    (0..3).for_each(|n| assert_eq!(mailbox.push(n), Push::Pushed));
    assert_eq!(rx.recv_timeout(LONG).unwrap(), 0);
    assert_eq!(rx.recv_timeout(LONG).unwrap(), 2);
    let (name, message) = tells.recv_timeout(LONG).unwrap();
    assert_eq!(name, "shaky");
    assert!(message.contains("one is refused"), "{message}");
    assert_eq!(pool.panics(), 2, "the handler's and the hook's");
    assert_eq!(mailbox.stats().panics, 1);
    pool.close();
}

/// A pool of one worker that is held until the gate is passed, so that what waits is known.
fn held() -> (WorkerPool, Arc<Barrier>) {
    let pool = WorkerPool::new("held", 1, None).unwrap();
    let gate = Arc::new(Barrier::new(2));
    let inside = gate.clone();
    let blocker = pool.bounded("blocker", 1, Policy::Reject, move |()| {
        inside.wait();
        inside.wait();
    });
    assert_eq!(blocker.push(()), Push::Pushed);
    gate.wait();
    (pool, gate)
}

fn recorder(tx: &Sender<(char, u32)>, name: char) -> impl FnMut(u32) + Send + use<> {
    let tx = tx.clone();
    move |n| tx.send((name, n)).unwrap()
}

#[test]
fn a_busy_actor_does_not_starve_another() {
    let (pool, gate) = held();
    let (tx, rx) = channel();
    let busy = pool.bounded("busy", 1000, Policy::Reject, recorder(&tx, 'b'));
    let quiet = pool.bounded("quiet", 8, Policy::Reject, recorder(&tx, 'q'));
    (0..1000).for_each(|n| assert_eq!(busy.push(n), Push::Pushed));
    assert_eq!(quiet.push(0), Push::Pushed);
    gate.wait();
    let order: Vec<char> = (0..1001).map(|_| rx.recv_timeout(LONG).unwrap().0).collect();
    let at = order.iter().position(|name| *name == 'q').unwrap();
    assert!(at <= 16, "the quiet one ran after {at} messages of the busy one");
    pool.close();
}

#[test]
fn urgent_actors_go_first_but_not_for_ever() {
    let (pool, gate) = held();
    let (tx, rx) = channel();
    let options = |name: &str, priority| MailboxOptions { name: name.into(), priority };
    let queue = || Bounded::new(1000, Policy::Reject);
    let normal = pool.mailbox(options("n", Priority::Normal), queue(), recorder(&tx, 'n'));
    let urgent = pool.mailbox(options("u", Priority::Urgent), queue(), recorder(&tx, 'u'));
    assert_eq!(normal.push(0), Push::Pushed);
    (0..1000).for_each(|n| assert_eq!(urgent.push(n), Push::Pushed));
    gate.wait();
    let order: Vec<char> = (0..1001).map(|_| rx.recv_timeout(LONG).unwrap().0).collect();
    let at = order.iter().position(|name| *name == 'n').unwrap();
    assert!(at > 0, "the urgent one did not go first");
    assert!(at <= 8 * 9, "the normal one waited for {at} urgent messages");
    pool.close();
}

#[test]
fn close_joins_drops_what_waits_and_refuses_the_rest() {
    let (pool, gate) = held();
    let witness = Arc::new(());
    let mailbox = pool.bounded("m", 4, Policy::Reject, |_: Arc<()>| {});
    (0..3).for_each(|_| assert_eq!(mailbox.push(witness.clone()), Push::Pushed));
    let closer = std::thread::spawn({
        let pool = pool.clone();
        move || pool.close()
    });
    // What waits is dropped without waiting for the worker, which is still held.
    let since = std::time::Instant::now();
    while Arc::strong_count(&witness) > 1 {
        assert!(since.elapsed() < LONG, "the messages were not dropped");
        std::thread::yield_now();
    }
    gate.wait();
    closer.join().unwrap();
    assert!(matches!(mailbox.push(witness.clone()), Push::Refused(_)));
    assert_eq!(mailbox.stats().closed, 3);
    pool.close();
}

#[test]
fn a_worker_may_close_its_own_pool_and_the_last_handle() {
    let pool = WorkerPool::new("self", 2, None).unwrap();
    let (tx, rx) = channel();
    let mine = pool.clone();
    let mailbox = pool.bounded("suicidal", 1, Policy::Reject, move |()| {
        mine.close();
        tx.send(()).unwrap();
    });
    assert_eq!(mailbox.push(()), Push::Pushed);
    rx.recv_timeout(LONG).unwrap();
    pool.close();
}

#[test]
fn closing_a_mailbox_drops_its_handler_and_draining_runs_what_waits_first() {
    let (pool, gate) = held();
    let (tx, rx) = channel();
    let alive = Arc::new(());
    let make = |name: char, alive: Arc<()>| {
        let mut record = recorder(&tx, name);
        pool.bounded("m", 8, Policy::Reject, move |n| {
            let _ = &alive;
            record(n);
        })
    };
    let (closed, drained) = (make('c', alive.clone()), make('d', alive.clone()));
    (0..3).for_each(|n| {
        assert_eq!(closed.push(n), Push::Pushed);
        assert_eq!(drained.push(n), Push::Pushed);
    });
    closed.close();
    drained.drain();
    assert_eq!(drained.push(9), Push::Refused(9));
    gate.wait();
    let ran: Vec<_> = (0..3).map(|_| rx.recv_timeout(LONG).unwrap()).collect();
    assert_eq!(ran, [('d', 0), ('d', 1), ('d', 2)]);
    pool.close();
    assert_eq!(Arc::strong_count(&alive), 1, "a handler outlived its mailbox");
    assert_eq!(closed.stats().closed, 3);
    assert_eq!(drained.stats().run, 3);
}

/// Threads of this process whose name begins so.
#[cfg(target_os = "linux")]
fn threads(prefix: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with(prefix)).count()
}

/// The kernel shows a thread's name a moment after it started, and the thread a moment after it was joined.
#[cfg(target_os = "linux")]
fn soon(prefix: &str, count: usize) -> bool {
    let since = std::time::Instant::now();
    while since.elapsed() < LONG {
        // The list skips one now and then while other threads come and go.
        if threads(prefix) == count {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_outlives_its_pool() {
    for closed in [true, false] {
        let pool = WorkerPool::new("census", 3, None).unwrap();
        let mailbox = pool.bounded("m", 1, Policy::Reject, |()| {});
        let clone = pool.clone();
        assert!(soon("census", 3));
        if closed {
            clone.close();
        }
        drop(pool);
        assert!(soon("census", if closed { 0 } else { 3 }));
        drop(clone);
        assert!(soon("census", 0));
        assert_eq!(mailbox.push(()), Push::Pushed, "it is taken in, and dropped");
        assert_eq!(mailbox.stats().closed, 1);
        assert_eq!(mailbox.push(()), Push::Refused(()));
    }
}

#[test]
fn worker_counts_out_of_range_are_refused() {
    assert!(matches!(WorkerPool::new("x", 0, None), Err(ExecError::Workers(0))));
    assert!(matches!(WorkerPool::new("x", MAX_WORKERS + 1, None), Err(ExecError::Workers(_))));
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::DropOldest), Just(Policy::Latest), Just(Policy::Reject)]
}

#[test]
fn timers_are_called_in_their_order_and_not_before_their_time() {
    let pool = WorkerPool::new("clock", 1, None).unwrap();
    let (tx, rx) = channel();
    let start = Instant::now();
    // Made in another order than they are due, two at one time among them.
    for (name, ms) in [("c", 60), ("a", 20), ("d", 61), ("b", 20)] {
        let tx = tx.clone();
        let at = start + Duration::from_millis(ms);
        assert!(pool.at(at, move || tx.send((name, at, Instant::now())).unwrap()));
    }
    let order: Vec<&str> = (0..4)
        .map(|_| {
            let (name, at, called) = rx.recv_timeout(LONG).unwrap();
            assert!(called >= at, "{name} was called early");
            name
        })
        .collect();
    assert_eq!(order, ["a", "b", "c", "d"]);
}

#[test]
fn a_timer_is_seen_to_while_other_workers_are_busy_and_after_they_were() {
    let pool = WorkerPool::new("clock", 2, None).unwrap();
    let (hold, held) = channel::<()>();
    let held = Mutex::new(held);
    let (busy, is_busy) = channel();
    let worker = pool.bounded("busy", 4, Policy::Reject, move |()| {
        busy.send(()).unwrap();
        let _ = held.lock().unwrap().recv();
    });
    let (tx, rx) = channel();
    let after = |ms| {
        let tx = tx.clone();
        assert!(pool.at(Instant::now() + Duration::from_millis(ms), move || tx.send(()).unwrap()));
    };
    // The idle worker that waits for this timer is the one that is given work first, as often as not.
    after(30);
    worker.push(());
    is_busy.recv_timeout(LONG).unwrap();
    rx.recv_timeout(LONG).unwrap();
    after(1);
    rx.recv_timeout(LONG).unwrap();
    hold.send(()).unwrap();
    after(5);
    rx.recv_timeout(LONG).unwrap();
}

#[test]
fn a_timer_that_panics_harms_nobody_and_one_that_is_not_due_ends_with_the_pool() {
    let pool = WorkerPool::new("clock", 1, None).unwrap();
    let (tx, rx) = channel();
    assert!(pool.at(Instant::now(), || panic!("a timer's own fault")));
    let sender = tx.clone();
    assert!(pool.at(Instant::now(), move || sender.send(1).unwrap()));
    assert_eq!(rx.recv_timeout(LONG), Ok(1));
    assert_eq!(pool.panics(), 1);
    assert!(pool.at(Instant::now() + Duration::from_secs(3600), move || tx.send(2).unwrap()));
    pool.close();
    assert!(rx.recv_timeout(LONG).is_err(), "what waits is dropped, and its sender with it");
    assert!(!pool.at(Instant::now(), || {}));
}

proptest! {
    /// Against a plain model: what is in, what comes back, and that nothing is lost or doubled.
    #[test]
    fn a_bounded_queue_behaves_as_its_policy_says(
        capacity in 1usize..6,
        policy in policy(),
        operations in proptest::collection::vec(any::<bool>(), 0..200),
    ) {
        let mut queue = Bounded::new(capacity, policy);
        let mut model: VecDeque<u32> = VecDeque::new();
        for (n, push) in operations.into_iter().enumerate() {
            let n = n as u32;
            if push {
                let full = model.len() >= capacity;
                let expected = match policy {
                    Policy::Latest if !model.is_empty() => Push::Dropped(model.drain(..).collect()),
                    Policy::Reject if full => Push::Refused(n),
                    Policy::DropOldest if full => Push::Dropped(model.pop_front().into_iter().collect()),
                    _ => Push::Pushed,
                };
                if expected != Push::Refused(n) {
                    model.push_back(n);
                }
                prop_assert_eq!(queue.push(n), expected);
            } else {
                prop_assert_eq!(queue.pop(), model.pop_front());
            }
            prop_assert!(MailQueue::len(&queue) <= capacity);
            prop_assert_eq!(MailQueue::len(&queue), model.len());
        }
    }

    /// Many senders, any policy: every message is run, dropped, refused or closed, exactly one of them.
    #[test]
    fn every_message_is_accounted_for(capacity in 1usize..20, policy in policy(), senders in 1usize..4) {
        const EACH: u64 = 300;
        let pool = WorkerPool::new("prop", 2, None).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let mailbox = pool.bounded("m", capacity, policy, move |n: u64| sink.lock().unwrap().push(n));
        let threads: Vec<_> = (0..senders as u64).map(|sender| {
            let mailbox = mailbox.clone();
            std::thread::spawn(move || {
                let mut back = Vec::new();
                for n in sender * EACH..(sender + 1) * EACH {
                    match mailbox.push(n) {
                        Push::Pushed => {}
                        Push::Dropped(old) => back.extend(old),
                        Push::Refused(n) => back.push(n),
                    }
                }
                back
            })
        }).collect();
        let mut all: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        pool.close();
        let stats = mailbox.stats();
        all.extend(seen.lock().unwrap().iter());
        all.sort_unstable();
        let total = all.len() as u64;
        all.dedup();
        prop_assert_eq!(all.len() as u64, total, "a message was seen twice");
        prop_assert_eq!(total + stats.closed, senders as u64 * EACH);
        prop_assert_eq!(stats.pushed, stats.run + stats.dropped + stats.closed);
        prop_assert_eq!(stats.pushed + stats.refused, senders as u64 * EACH);
    }
}
/// Calls that a timed actor got: a message, or its time, with the moment.
type Calls = Arc<Mutex<Vec<(Option<u32>, Instant)>>>;

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_timed_actor_is_called_at_the_time_it_asked_for_last() {
    for workers in [1, 3] {
        let pool = WorkerPool::new("timed", workers, None).unwrap();
        let calls: Calls = Arc::default();
        let (seen, mut asked) = (calls.clone(), None);
        let start = Instant::now();
        let ms = move |n| start + Duration::from_millis(n);
        // 1 asks for 60 s, 2 for 40 ms; a time that has come asks for another one twice, and then for none.
        let mut left = 2;
        let mailbox = pool.timed("clock", 8, Policy::Reject, move |message: Option<u32>| {
            seen.lock().unwrap().push((message, Instant::now()));
            asked = match message {
                Some(1) => Some(ms(60_000)),
                Some(_) => Some(ms(40)),
                None if left > 0 => {
                    left -= 1;
                    asked.map(|at| at + Duration::from_millis(20))
                }
                None => None,
            };
            asked
        });
        for message in [1, 2] {
            assert!(matches!(mailbox.push(message), Push::Pushed));
        }
        // Busy workers don't lose the time.
        let other = pool.bounded("other", 1000, Policy::Reject, |()| std::thread::yield_now());
        wait_for("three times", || {
            other.push(());
            calls.lock().unwrap().len() >= 5
        });
        std::thread::sleep(Duration::from_millis(60));
        let calls = calls.lock().unwrap();
        let order: Vec<_> = calls.iter().map(|(message, _)| *message).collect();
        assert_eq!(order, [Some(1), Some(2), None, None, None], "{workers} workers");
        for (call, wanted) in calls[2..].iter().zip([40, 60, 80]) {
            assert!(call.1 >= ms(wanted), "{workers} workers: {wanted} ms came early");
        }
        assert_eq!(mailbox.stats().run, 2, "times are no messages");
    }
}

#[test]
fn many_timed_actors_share_the_workers_and_each_has_its_time() {
    let pool = WorkerPool::new("many", 2, None).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let early = Arc::new(AtomicUsize::new(0));
    let mailboxes: Vec<_> = (0..50u64)
        .map(|n| {
            let (count, early) = (count.clone(), early.clone());
            let mut due: Option<Instant> = None;
            let mut ticks = 0;
            pool.timed("tick", 4, Policy::Reject, move |message: Option<()>| {
                let now = Instant::now();
                if message.is_none() {
                    early.fetch_add(usize::from(due.is_none_or(|at| now < at)), Ordering::Relaxed);
                    count.fetch_add(1, Ordering::Relaxed);
                    ticks += 1;
                }
                due = (ticks < 20).then(|| now + Duration::from_micros(500 + 37 * n));
                due
            })
        })
        .collect();
    for mailbox in &mailboxes {
        mailbox.push(());
    }
    wait_for("20 ticks of each of 50 actors", || count.load(Ordering::Relaxed) == 1000);
    assert_eq!(early.load(Ordering::Relaxed), 0);
}

#[test]
fn a_time_keeps_no_actor_and_a_closed_one_is_not_called() {
    let pool = WorkerPool::new("gone", 1, None).unwrap();
    let held = Arc::new(());
    let called = Arc::new(AtomicUsize::new(0));
    let make = || {
        let (held, called) = (held.clone(), called.clone());
        pool.timed("short", 4, Policy::Reject, move |message: Option<()>| {
            let _held = &held;
            called.fetch_add(usize::from(message.is_none()), Ordering::Relaxed);
            Some(Instant::now() + Duration::from_millis(30))
        })
    };
    let (dropped, closed) = (make(), make());
    for mailbox in [&dropped, &closed] {
        mailbox.push(());
        wait_for("the message is run", || mailbox.stats().run == 1 && pool.waiting() == 0);
    }
    drop(dropped);
    closed.close();
    wait_for("both handlers are gone", || Arc::strong_count(&held) == 1);
    let so_far = called.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(80));
    assert_eq!(called.load(Ordering::Relaxed), so_far);
}
