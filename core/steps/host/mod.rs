//! What a node offers to the plugin that it runs, and how it runs it.

mod curve;
mod jobs;
mod plugin;
mod services;
mod streams;
mod watchdog;

pub(super) use self::{
    curve::keep_curve,
    jobs::{linear, linears, pairs},
    plugin::Plugin,
    services::{Inputs, Method, Model},
    streams::{BlockInputs, SequenceStream},
};
