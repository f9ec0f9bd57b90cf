//! What a script can call. One file per kind of handle.

mod codes;
mod data;
mod estimates;
mod generate;
mod groups;
mod layers;
mod model;
mod open;
mod reward;
mod scheme;
mod stage;
mod supply;
mod table;
mod task;
mod training;

pub(super) use data::context;
pub(super) use reward::reward_of;

use std::sync::Arc;

use rhai::{Dynamic, Engine, EvalAltResult, NativeCallContext};

use super::{Force, Root, ScriptEnv, Shared, lock, place};
use crate::{error::Result, plugin::Registry};

/// What the functions share.
#[derive(Clone)]
struct Host {
    shared: Shared,
    registry: Arc<Registry>,
    force: Arc<dyn Force>,
    root: Root,
}

/// The result of a function that a script calls.
type Called<T> = std::result::Result<T, Box<EvalAltResult>>;

/// Gives an error the place of the call.
fn placed<T>(context: &NativeCallContext<'_>, result: Result<T>) -> Called<T> {
    result.map_err(|error| place::raise(context, error))
}

/// Registers everything.
pub(super) fn register(engine: &mut Engine, shared: &Shared, env: &ScriptEnv) {
    let host = Host {
        shared: Arc::clone(shared),
        registry: Arc::clone(&env.registry),
        force: Arc::clone(&env.force),
        root: Root::new(env.root.clone(), env.settings.values()),
    };
    let parameters = host.clone();
    engine.register_fn(
        "param",
        move |context: NativeCallContext<'_>, name: &str, default: Dynamic| -> Called<Dynamic> {
            placed(&context, lock(&parameters.shared).settings.value(name, &default))
        },
    );
    data::register(engine, &host);
    stage::register(engine, &host);
    layers::register(engine, &host);
    model::register(engine, &host);
    task::register(engine, &host);
    generate::register(engine, &host);
    reward::register(engine, &host);
    table::register(engine, &host);
}
