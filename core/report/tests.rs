//! The whole way from items to text, on synthetic tables.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::{Value, json};

use super::input::*;
use super::*;

mod files;
mod heat;
mod numbers;
mod page;
mod statistics;
mod synthetic;
mod tables;
mod verdicts;
