//! The real binary in temporary projects, on a random model of a few thousand weights.

mod ablation;
mod bad_plugins;
mod cached;
mod calibration;
mod changed;
mod damage;
mod demo_training;
mod ends;
mod good_plugins;
mod interrupt;
mod killed;
mod mixed_precision;
mod mixed_schemes;
mod new_plugin;
mod parity;
mod peer;
mod pipeline;
mod project;
mod rotate;
mod saved;
mod scoring;
mod script_errors;
mod sensitivity;
mod silent;
mod smoothing;
mod store;
