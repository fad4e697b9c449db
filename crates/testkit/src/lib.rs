//! What tests share: a virtual network with latency, loss and a seed, what real links do to packets, and hostile input by mutation.
//!
//! The program `tun-forward` does it to the packets of network namespaces. Nothing here knows WebRTC. Time is a [`Duration`] since the start of the test; whoever needs an `Instant` adds it to one
//! taken once.
#![forbid(unsafe_code)]

mod conditions;
mod mutate;
mod network;
mod random;
mod shape;

pub use conditions::{CONDITIONS, Condition};
pub use mutate::Mutator;
pub use network::{Counts, Delivery, Network, Path};
pub use random::Random;
pub use shape::{Bursts, Shape, ShapeCounts, Shaper, Stalls};
