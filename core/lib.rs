//! The workbench: scripts build graphs, graphs become plans, plans run as node processes, records become tables.
//!
//! `ARCHITECTURE.md` holds the map of the modules and the invariants between them.

pub mod calib;
pub mod cli;
pub mod config;
pub mod data;
pub mod demo;
pub mod engine;
pub mod error;
pub mod eval;
pub mod exec;
pub mod graph;
pub mod identity;
pub mod plugin;
mod printable;
mod process;
pub mod progress;
pub mod report;
pub mod schema;
pub mod script;
pub mod steps;
pub mod store;
mod words;
