//! Nodes on the flow of items of any kind.

use std::time::Instant;

use super::simple;
use crate::data::{Item, Kind};
use crate::error::NodeError;
use crate::spec::{Emit, Node, NodeSpec, ParamSpec, Params, PortSpec};

/// `Tee`: `in` (any) -> `out` and `copy` (the same). Gives each item to both; contents are shared and not copied.
pub(super) fn tee() -> NodeSpec {
    struct Tee;
    impl Node for Tee {
        fn process(&mut self, _port: usize, item: Item, out: &mut Emit) -> Result<(), NodeError> {
            out.push(0, item.clone());
            out.push(1, item);
            Ok(())
        }
    }
    NodeSpec {
        outputs: vec![PortSpec::new("out", Kind::Any), PortSpec::new("copy", Kind::Any)],
        load: simple(|_| Ok(Tee)),
        ..any_to_any("Tee", Vec::new())
    }
}

/// `Drop`: `in` (any) -> `out` (the same). Takes items out of a stream; the next one is marked as following a gap.
pub(super) fn drop() -> NodeSpec {
    NodeSpec {
        load: simple(|params| Ok(DropNode { every: every(params), seen: 0, gap: false })),
        ..any_to_any(
            "Drop",
            vec![
                ParamSpec::integer("every", 1, 100_000, 1)
                    .unit("items")
                    .about("drops each n-th; 1 drops all"),
            ],
        )
    }
}

struct DropNode {
    every: u64,
    seen: u64,
    gap: bool,
}

fn every(params: &Params) -> u64 {
    params.integer("every").map_or(1, |every| every as u64)
}

impl Node for DropNode {
    fn process(&mut self, _port: usize, mut item: Item, out: &mut Emit) -> Result<(), NodeError> {
        self.seen += 1;
        if self.seen.is_multiple_of(self.every) {
            self.gap = true;
        } else {
            item.discontinuity |= std::mem::take(&mut self.gap);
            out.push(0, item);
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        (self.every, self.seen) = (every(params), 0);
        Ok(())
    }
}

/// `Throttle`: `in` (any) -> `out` (the same). Lets at most `rate` items a second through and drops the rest; what follows
/// a dropped one is marked as following a gap. Pictures are spaced by their timestamps, other kinds by when they come.
pub(super) fn throttle() -> NodeSpec {
    NodeSpec {
        load: simple(|params| {
            Ok(Throttle {
                start: Instant::now(),
                interval_us: interval_us(params),
                due: [None; 2],
                gap: false,
            })
        }),
        ..any_to_any(
            "Throttle",
            vec![
                ParamSpec::number("rate", 0.01, 1000.0, 15.0)
                    .unit("items/s")
                    .about("lets so many through at most"),
            ],
        )
    }
}

struct Throttle {
    start: Instant,
    interval_us: i64,
    /// When the next may pass, by the items' clock and by ours.
    due: [Option<i64>; 2],
    gap: bool,
}

fn interval_us(params: &Params) -> i64 {
    (1e6 / params.number("rate").unwrap_or(15.0)) as i64
}

impl Throttle {
    fn passes(&mut self, item: &Item) -> bool {
        let ours = Instant::now().saturating_duration_since(self.start).as_micros() as i64;
        let (clock, now) = if item.kind() == Kind::Video { (0, item.timestamp_us) } else { (1, ours) };
        // A little early is on time: a camera's 33 ms are not exactly a thirtieth of a second.
        let slack = self.interval_us / 10;
        let due = self.due[clock].filter(|due| (due - now).abs() <= self.interval_us * 2);
        if due.is_some_and(|due| now < due - slack) {
            return false;
        }
        // In step with the rate while they come in time, and afresh after a pause or a jump.
        let from = due.filter(|due| now - due < self.interval_us).unwrap_or(now);
        self.due[clock] = Some(from + self.interval_us);
        true
    }
}

impl Node for Throttle {
    fn process(&mut self, _port: usize, mut item: Item, out: &mut Emit) -> Result<(), NodeError> {
        if self.passes(&item) {
            item.discontinuity |= std::mem::take(&mut self.gap);
            out.push(0, item);
        } else {
            self.gap = true;
        }
        Ok(())
    }

    fn set_params(&mut self, params: &Params) -> Result<(), NodeError> {
        self.interval_us = interval_us(params);
        self.due = [None; 2];
        Ok(())
    }
}

fn any_to_any(node_type: &str, params: Vec<ParamSpec>) -> NodeSpec {
    NodeSpec { node_type: node_type.to_owned(), params, ..super::pass_through() }
}
