//! Observers: how a range is chosen, from a weight at once or from activations batch by batch.
//!
//! The names are those of llm-compressor, but for `percentile`, which it does not have. On a weight, which is seen once, `memoryless_minmax`, `static_minmax` and
//! `minmax` are the same; on activations they differ, and their damage to a model differs with them.

pub(crate) mod mse;
pub(crate) mod percentile;
mod running;

pub use running::{RangeObserver, for_activations};

use serde_json::Value;

use crate::args::QuantizationArgs;
use crate::error::{ArgsError, nearest};

/// The names that `observer` can have.
pub const NAMES: [&str; 7] =
    ["memoryless_minmax", "static_minmax", "minmax", "memoryless_mse", "mse", "nvfp4_expanded_mse", "percentile"];

/// The names that `observer_kwargs` can have.
const OPTION_NAMES: [&str; 7] = ["averaging_constant", "maxshrink", "patience", "grid", "norm", "expand", "percentile"];

/// How a range follows from the values of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    MinMax,
    Mse,
    Percentile,
}

/// How a range follows from those of several batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Only the last batch counts.
    Last,
    /// The union of all.
    Union,
    /// A moving average.
    Average,
}

/// An observer's name and options, checked, with defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) method: Method,
    pub(crate) memory: Memory,
    /// Weight of a new batch in the moving average.
    pub(crate) averaging_constant: f64,
    /// How far below the full range the search goes, as a share of it.
    pub(crate) maxshrink: f64,
    /// Steps without any improvement after which the search ends.
    pub(crate) patience: usize,
    /// Steps per full range.
    pub(crate) grid: f64,
    /// Exponent of the error.
    pub(crate) norm: f64,
    /// Where the search starts, as a multiple of the range.
    pub(crate) expand: f64,
    /// The percentile that is the upper bound; the lower one is as far from the other end.
    pub(crate) percentile: f64,
}

impl Options {
    /// Reads the observer of `args`; without a name, the memoryless minimum and maximum.
    pub(crate) fn from_args(args: &QuantizationArgs) -> Result<Self, ArgsError> {
        let name = args.observer.as_deref().unwrap_or("memoryless_minmax");
        let (method, memory) = match name {
            "memoryless_minmax" => (Method::MinMax, Memory::Last),
            "static_minmax" => (Method::MinMax, Memory::Union),
            "minmax" => (Method::MinMax, Memory::Average),
            "memoryless_mse" | "nvfp4_expanded_mse" => (Method::Mse, Memory::Last),
            "mse" => (Method::Mse, Memory::Average),
            "percentile" => (Method::Percentile, Memory::Average),
            _ => return Err(unknown("observer", "observer", name, &NAMES)),
        };
        let mut options = Self {
            method,
            memory,
            averaging_constant: 0.01,
            maxshrink: 0.2,
            patience: 5,
            grid: 100.0,
            norm: 2.4,
            expand: 1.0,
            percentile: 99.99,
        };
        if name == "nvfp4_expanded_mse" {
            options = Self { expand: 1.8, maxshrink: 1.0 - 0.8 / 1.8, grid: 200.0, patience: 1000, ..options };
        }
        for (key, value) in &args.observer_kwargs {
            options.set(key, value).map_err(|error| error.inside("observer_kwargs"))?;
        }
        if options.steps() > MAX_STEPS {
            return Err(ArgsError::new(
                "observer_kwargs.grid",
                format!("a search of {} steps is longer than {MAX_STEPS}", options.steps()),
            )
            .with_hint("the number of steps is maxshrink * grid"));
        }
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), ArgsError> {
        let number = value.as_f64().ok_or_else(|| ArgsError::new(key, format!("`{key}` is a number, not {value}")))?;
        let (target, low, high) = match key {
            "averaging_constant" => (&mut self.averaging_constant, 0.0, 1.0),
            "maxshrink" => (&mut self.maxshrink, 0.0, 1.0),
            "grid" => (&mut self.grid, 1.0, 1e4),
            "norm" => (&mut self.norm, 0.5, 8.0),
            "expand" => (&mut self.expand, 1.0, 10.0),
            "percentile" => (&mut self.percentile, 50.0, 100.0),
            "patience" => {
                self.patience = number.clamp(1.0, 1e6) as usize;
                return Ok(());
            }
            _ => return Err(unknown(key, "option of an observer", key, &OPTION_NAMES)),
        };
        if !(low..=high).contains(&number) {
            return Err(ArgsError::new(key, format!("`{key}` lies between {low} and {high}, not at {number}")));
        }
        *target = number;
        Ok(())
    }

    /// Number of candidate ranges of the search, at least one.
    pub(crate) fn steps(&self) -> usize {
        ((self.maxshrink * self.grid) as usize).max(1)
    }
}

/// Longest search: its improvements are remembered as bits.
const MAX_STEPS: usize = 1024;

fn unknown(key: &str, what: &str, name: &str, known: &[&'static str]) -> ArgsError {
    let error = ArgsError::new(key, format!("unknown {what} `{name}`"));
    match nearest(name, known.iter().copied()) {
        Some(similar) => error.with_hint(format!("did you mean `{similar}`?")),
        None => error.with_hint(format!("there are `{}`", known.join("`, `"))),
    }
}
