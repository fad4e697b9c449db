//! The Node addon: one file per JavaScript class. Never a timer, never a decision; TypeScript throws, this returns.

mod build;
mod codec;
mod desk;
mod error;
mod event;
mod frame;
mod item;
mod runner;
mod stats;
mod transport;
mod transport_session;
mod wake;
