//! `linears`: what a script may know of a model's layers without its weights.

use rhai::{Array, Dynamic, Engine, Map};

use super::Host;
use crate::{graph::fused, script::ModelHandle};

pub(super) fn register(engine: &mut Engine, _: &Host) {
    engine.register_fn("linears", linears);
}

/// The linears of the decoder blocks in forward order: `name`, `block`, `kind`, `inputs`, `outputs`, `weights`, and `stack`, which
/// is the same for linears that servers run as one and that therefore need one scheme.
fn linears(model: &mut ModelHandle) -> Array {
    let whole = |n: usize| Dynamic::from(n as i64);
    let linears = model.signature.config.linears().into_iter().map(|linear| {
        let block = linear.name.split('.').find_map(|part| part.parse::<i64>().ok()).unwrap_or_default();
        let kind = linear.name.rsplit('.').next().unwrap_or_default().to_owned();
        let stack = match fused::stack(&linear.name) {
            Some((parent, index)) => format!("{parent}.{}", fused::parts(index).join("+")),
            None => linear.name.clone(),
        };
        Dynamic::from(Map::from_iter([
            ("block".into(), Dynamic::from(block)),
            ("kind".into(), kind.into()),
            ("inputs".into(), whole(linear.in_features)),
            ("outputs".into(), whole(linear.out_features)),
            ("weights".into(), whole(linear.in_features * linear.out_features)),
            ("stack".into(), stack.into()),
            ("name".into(), linear.name.into()),
        ]))
    });
    linears.collect()
}
