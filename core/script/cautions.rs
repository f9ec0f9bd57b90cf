//! What a reader of the results has to be told about the texts behind them, once for each text or model.

use std::collections::BTreeMap;

use crate::{
    graph::NodeId,
    words::{listed, plural},
};

/// A sentence, and the nodes whose results it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caution {
    pub text: String,
    pub nodes: Vec<NodeId>,
}

/// What was noticed while a script ran.
#[derive(Debug, Default)]
pub struct Cautions {
    /// By text: who measures on it, and the models that have seen it.
    leaks: BTreeMap<String, Found>,
    /// By model: the texts of the demo that it is given although it does not know the demo's world.
    strangers: BTreeMap<String, Found>,
}

#[derive(Debug, Default)]
struct Found {
    first: Vec<String>,
    second: Vec<String>,
    nodes: Vec<NodeId>,
}

impl Found {
    fn add(&mut self, first: &str, second: &str, node: NodeId) {
        for (list, name) in [(&mut self.first, first), (&mut self.second, second)] {
            if !list.iter().any(|known| known == name) {
                list.push(name.to_owned());
            }
        }
        self.nodes.push(node);
    }
}

impl Cautions {
    /// A model is measured on what it was calibrated or trained on, which flatters it.
    pub(super) fn leak(&mut self, text: &str, task: &str, model: &str, node: NodeId) {
        self.leaks.entry(text.to_owned()).or_default().add(task, model, node);
    }

    /// A model that is not the demo's reads one of its texts.
    pub(super) fn stranger(&mut self, model: &str, text: &str, node: NodeId) {
        self.strangers.entry(model.to_owned()).or_default().add(text, "", node);
    }

    /// The sentences.
    pub fn all(&self) -> Vec<Caution> {
        let leaks = self.leaks.iter().map(|(text, found)| Caution {
            text: format!(
                "{} {} on `{text}`, which {} seen in calibration or training: {}",
                listed(&found.first, 3),
                if found.first.len() == 1 { "is measured" } else { "are measured" },
                if found.second.len() == 1 {
                    "1 model has".to_owned()
                } else {
                    format!("{} have", plural(found.second.len(), "model"))
                },
                listed(&found.second, 3),
            ),
            nodes: found.nodes.clone(),
        });
        let strangers = self.strangers.iter().map(|(model, found)| Caution {
            text: format!(
                "`{model}` reads {}, texts about the demo's made-up world in its own vocabulary, which say little about any other model: \
                 give it texts of its own",
                listed(&found.first.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>(), 3),
            ),
            nodes: found.nodes.clone(),
        });
        leaks.chain(strangers).collect()
    }
}
