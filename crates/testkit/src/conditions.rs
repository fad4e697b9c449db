//! Networks by name. The numbers are one access link's: two peers behind such links have both between them.

use crate::shape::{Bursts, Shape, Stalls};
use std::time::Duration;

/// A kind of access link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// What tests call it.
    pub name: &'static str,
    /// From the peer to the network.
    pub up: Shape,
    /// From the network to the peer.
    pub down: Shape,
}

/// Every condition there is. `docs/network-conditions.md` shows the same numbers; a test compares the two.
pub const CONDITIONS: &[Condition] = &[
    both("clear", Shape::CLEAR),
    both("lossy-1", Shape { delay: ms(10), loss: 0.01, ..Shape::CLEAR }),
    both("lossy-5", Shape { delay: ms(10), loss: 0.05, ..Shape::CLEAR }),
    both("lossy-10", Shape { delay: ms(10), loss: 0.10, ..Shape::CLEAR }),
    both("jittery", Shape { delay: ms(20), jitter: ms(60), ..Shape::CLEAR }),
    both("reordering", Shape { delay: ms(15), reorder: 0.05, reorder_by: ms(12), ..Shape::CLEAR }),
    both("transatlantic", Shape { delay: ms(45), jitter: ms(2), loss: 0.001, ..Shape::CLEAR }),
    both(
        "wifi-bad",
        Shape {
            delay: ms(3),
            jitter: ms(20),
            loss: 0.005,
            bursts: Some(Bursts { enter: 0.01, leave: 0.25, loss: 0.5 }),
            stalls: Some(Stalls { every: ms(3000), length: ms(120) }),
            bits_per_second: 12_000_000,
            queue: ms(200),
            ..Shape::CLEAR
        },
    ),
    Condition { name: "4g", up: mobile(8_000_000), down: mobile(20_000_000) },
    Condition {
        name: "3g",
        up: Shape { bits_per_second: 768_000, ..slow_mobile() },
        down: Shape { bits_per_second: 1_600_000, ..slow_mobile() },
    },
    Condition {
        name: "satellite",
        up: Shape { bits_per_second: 3_000_000, ..satellite() },
        down: Shape { bits_per_second: 20_000_000, ..satellite() },
    },
];

impl Condition {
    /// The condition of this name.
    pub fn named(name: &str) -> Option<&'static Condition> {
        CONDITIONS.iter().find(|condition| condition.name == name)
    }

    /// Its row of the table in `docs/network-conditions.md`.
    pub fn row(&self) -> String {
        let both = |show: &dyn Fn(&Shape) -> String| {
            let (up, down) = (show(&self.up), show(&self.down));
            if up == down { up } else { format!("{up} / {down}") }
        };
        let shown = |n: f64, unit: &str| if n == 0.0 { "-".to_owned() } else { format!("{n}{unit}") };
        let percent = |n: f64| shown((n * 1000.0).round() / 10.0, " %");
        let span = |d: Duration| shown(d.as_secs_f64() * 1000.0, " ms");
        let cells = [
            both(&|s| span(s.delay)),
            both(&|s| span(s.jitter)),
            both(&|s| percent(s.loss)),
            both(&|s| {
                s.bursts.map_or("-".to_owned(), |b| {
                    let share = percent(b.enter / (b.enter + b.leave));
                    format!("{share} of packets, {} each, {} lost", 1.0 / b.leave, percent(b.loss))
                })
            }),
            both(&|s| {
                s.stalls.map_or("-".to_owned(), |st| format!("{} every {}", span(st.length), span(st.every)))
            }),
            both(&|s| {
                if s.reorder == 0.0 {
                    "-".to_owned()
                } else {
                    format!("{} by {}", percent(s.reorder), span(s.reorder_by))
                }
            }),
            both(&|s| shown(s.bits_per_second as f64 / 1e6, " Mbit/s")),
            both(&|s| if s.bits_per_second == 0 { "-".to_owned() } else { span(s.queue) }),
        ];
        format!("| `{}` | {} |", self.name, cells.join(" | "))
    }
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn both(name: &'static str, shape: Shape) -> Condition {
    Condition { name, up: shape, down: shape }
}

const fn mobile(bits_per_second: u64) -> Shape {
    Shape { delay: ms(30), jitter: ms(25), loss: 0.005, bits_per_second, queue: ms(400), ..Shape::CLEAR }
}

const fn slow_mobile() -> Shape {
    Shape { delay: ms(75), jitter: ms(40), loss: 0.01, queue: ms(800), ..Shape::CLEAR }
}

const fn satellite() -> Shape {
    Shape { delay: ms(270), jitter: ms(15), loss: 0.005, queue: ms(500), ..Shape::CLEAR }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_condition_as_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/network-conditions.md");
        let page = std::fs::read_to_string(path).unwrap();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<String> = CONDITIONS.iter().map(Condition::row).collect();
        assert_eq!(rows, wanted, "the table of {path}");
    }

    #[test]
    fn names_are_found_and_unique() {
        for condition in CONDITIONS {
            assert_eq!(Condition::named(condition.name), Some(condition));
        }
        assert_eq!(Condition::named("carrier-pigeon"), None);
    }
}
