//! Groups of parameters that are trained otherwise than the rest.

use workbench_model::decoder::TrainableParams;

use crate::TrainError;

/// How the parameters that a pattern names are trained. What no group names goes by the settings of the loop and of the optimizer.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGroup {
    /// The names of parameters, `*` for any characters: `*.weight_scale`.
    pub pattern: String,
    /// What the learning rate is multiplied by, at every step of the schedule.
    pub rate: f64,
    /// Share of a parameter that is taken away per unit of its own learning rate, whatever its shape; `None` for the optimizer's, which
    /// lets matrices alone decay.
    pub weight_decay: Option<f64>,
}

impl ParameterGroup {
    /// Whether a parameter of that name belongs to the group.
    pub fn has(&self, name: &str) -> bool {
        matches(&self.pattern, name)
    }
}

/// Whether a name is that of a pattern in which `*` stands for any characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    // What lies between the stars is taken where it is found first: that leaves most to the rest.
    let taken = parts.into_iter().try_fold(rest, |rest, part| rest.find(part).map(|at| &rest[at + part.len()..]));
    taken.is_some_and(|rest| rest.ends_with(last))
}

/// An error for groups that make no sense, or name no parameter that is trained.
pub(crate) fn check(groups: &[ParameterGroup], parameters: &TrainableParams) -> Result<(), TrainError> {
    for group in groups {
        let wrong = |problem: String| Err(TrainError::Setting { setting: "groups", problem });
        let pattern = &group.pattern;
        if !(group.rate >= 0.0 && group.rate.is_finite()) {
            return wrong(format!(
                "`{pattern}`: the factor of the learning rate is {}: it must be at least 0",
                group.rate
            ));
        }
        if let Some(decay) = group.weight_decay.filter(|decay| !(*decay >= 0.0 && decay.is_finite())) {
            return wrong(format!("`{pattern}`: the weight decay is {decay}: it must be at least 0"));
        }
        if !parameters.trainable().any(|(name, _)| group.has(name)) {
            return wrong(format!("`{pattern}` names no parameter that is trained"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_they_say() {
        for (pattern, name, expected) in [
            ("model.norm.weight", "model.norm.weight", true),
            ("model.norm", "model.norm.weight", false),
            ("*", "anything", true),
            ("*.scale", "a.b.scale", true),
            ("*.scale", "a.b.scales", false),
            ("*.scale", "scale", false),
            ("a.*.b.*", "a.1.b.2", true),
            ("a.*.b.*", "a.1.c.2", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "ab", false),
            ("**", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
