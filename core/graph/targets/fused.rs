//! Linears that servers run as one.
//!
//! vLLM and SGLang stack q, k and v into one matrix, gate and up into another. Each stack has one scheme, so a folder that
//! quantizes its parts differently, or only some of them, is refused when they load it.

use std::collections::{BTreeMap, BTreeSet};

use workbench_model::arch::FUSED_STACKS;

/// The stack that a linear is part of: where it stands, and which of the stacks there it is.
pub fn stack(module: &str) -> Option<(&str, usize)> {
    let (parent, part) = module.rsplit_once('.')?;
    FUSED_STACKS.iter().position(|parts| parts.contains(&part)).map(|index| (parent, index))
}

/// The last parts of the names in a stack, by its index.
pub fn parts(index: usize) -> &'static [&'static str] {
    FUSED_STACKS.get(index).copied().unwrap_or_default()
}

/// One sentence for every way in which a choice of schemes splits a stack. `schemes` holds the quantized linears alone.
pub fn splits<S: PartialEq>(schemes: &BTreeMap<&str, S>) -> Vec<String> {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for (parent, index) in schemes.keys().filter_map(|module| stack(module)).collect::<BTreeSet<_>>() {
        let scheme = |part: &str| schemes.get(format!("{parent}.{part}").as_str());
        if let Some(how) = split(FUSED_STACKS[index], scheme) {
            *found.entry(how).or_default() += 1;
        }
    }
    let sentence = |(how, layers): (String, usize)| {
        let plural = if layers == 1 { "" } else { "s" };
        format!("in {layers} layer{plural} {how}: vLLM and SGLang run them as one matrix and refuse to load the folder")
    };
    found.into_iter().map(sentence).collect()
}

/// How the parts of a stack differ, if they do.
fn split<'a, S: PartialEq + 'a>(parts: &[&str], scheme: impl Fn(&str) -> Option<&'a S>) -> Option<String> {
    let (quantized, dense): (Vec<&str>, Vec<&str>) = parts.iter().partition(|part| scheme(part).is_some());
    if !dense.is_empty() {
        return Some(format!("{} is quantized and {} is not", quantized.join(", "), dense.join(", ")));
    }
    let first = scheme(parts[0]);
    let same = parts.iter().all(|part| scheme(part) == first);
    (!same).then(|| format!("{} have different schemes", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(schemes: &[(&str, u8)]) -> Vec<String> {
        splits(&schemes.iter().copied().collect())
    }

    #[test]
    fn whole_stacks_are_no_split() {
        let attention = [("l.0.a.q_proj", 4), ("l.0.a.k_proj", 4), ("l.0.a.v_proj", 4), ("l.0.a.o_proj", 8)];
        assert!(found(&attention).is_empty());
        assert!(found(&[("l.0.m.down_proj", 4), ("lm_head", 8)]).is_empty());
        assert!(found(&[("l.0.m.gate_proj", 4), ("l.0.m.up_proj", 4)]).is_empty());
        assert!(found(&[]).is_empty());
    }

    #[test]
    fn a_missing_or_different_part_is_one() {
        let lines = found(&[("l.0.a.q_proj", 4), ("l.0.a.k_proj", 4), ("l.1.a.q_proj", 4), ("l.1.a.k_proj", 4)]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("in 2 layers q_proj, k_proj is quantized and v_proj is not: vLLM"), "{lines:?}");
        let lines = found(&[("l.0.m.gate_proj", 4), ("l.0.m.up_proj", 8), ("l.1.m.up_proj", 8)]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("in 1 layer gate_proj, up_proj have different schemes"), "{lines:?}");
        assert!(lines[1].starts_with("in 1 layer up_proj is quantized and gate_proj is not"), "{lines:?}");
    }
}
