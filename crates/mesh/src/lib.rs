//! The brain of the mesh: who is in the room, who offers to whom, how a negotiation goes on, and when to try again.
//!
//! It does no IO. What happens outside (a signaling message, a report of a link, a command) goes in as an [`Input`];
//! what is to be done about it comes out as [`Action`]s. Time is an argument and randomness is a seed, so the same
//! inputs always give the same actions, a test can run hours in a millisecond, and the crate also compiles to
//! `wasm32-unknown-unknown`.
//!
//! ```
//! use remotemedia_mesh::{Action, Input, Mesh, MeshConfig, PeerAnnouncement, Time};
//!
//! let mut mesh = Mesh::new(MeshConfig::new("alice"), Time::ZERO);
//! mesh.handle(Time::ZERO, Input::Announced { peers: vec![PeerAnnouncement::new("bob")] });
//! while let Some(action) = mesh.poll() {
//!     if let Action::CreateOffer { link, .. } = action {
//!         println!("make an offer on {link:?}");
//!     }
//! }
//! ```
//!
//! The owner's loop: [`Mesh::handle`] (or [`Mesh::handle_timeout`] when [`Mesh::poll_timeout`] is due), then
//! [`Mesh::poll`] until it gives `None`, carrying the actions out in order. `docs/peer-states.md` has the state
//! diagram of a peer and `docs/decisions/0005-sans-io-mesh.md` says why it is built like this.
#![forbid(unsafe_code)]

mod config;
mod connect;
mod healing;
mod io;
mod mesh;
mod negotiation;
mod peer;
mod rng;
mod sdp;
mod state;
mod time;

pub use config::{Limits, MeshConfig, Retry};
pub use io::{
    Action, ConnectError, IceCandidate, Input, LinkId, PeerAnnouncement, PeerId, RequestId, Signal, Warning,
    codes,
};
pub use mesh::{Counters, Mesh};
pub use peer::PeerView;
pub use state::{LinkState, PeerState, Reason};
pub use time::Time;
