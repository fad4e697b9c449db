//! What tests share: a virtual network with latency, loss and a seed, and hostile input by mutation.
//!
//! Nothing here knows WebRTC. Time is a [`Duration`] since the start of the test; whoever needs an `Instant` adds it to one
//! taken once.
#![forbid(unsafe_code)]

mod mutate;
mod network;
mod random;

pub use mutate::Mutator;
pub use network::{Counts, Delivery, Network, Path};
pub use random::Random;
