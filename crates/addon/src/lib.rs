//! The Node addon: one file per JavaScript class. Never a timer, never a decision; TypeScript throws, this returns.

mod build;
