//! The order that a driver gives to a node's process.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::Program;
use crate::{
    error::{Error, Result},
    graph::{Graph, Input, Key, NodeKind, Plan, PlanNode, digest::KnownFile, node::DataSource, params},
    store::{RunFolder, Store, write_json},
};

/// A node to run: its meaning, and where the things that it reads lie.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    pub key: Key,
    pub kind: NodeKind,
    pub method: String,
    pub label: String,
    /// The meaning that the key is the hash of; parameters are read from here.
    pub identity: Value,
    /// Folders or files of the models it reads, by role.
    pub models: BTreeMap<String, PathBuf>,
    pub data: BTreeMap<String, DataSource>,
    pub plugin: Option<PathBuf>,
    /// Every file that it is going to read, as the key knows it.
    pub files: Vec<KnownFile>,
    /// Files that would be read if they were there, and were not when the key was made.
    pub absent: Vec<PathBuf>,
    /// The program of the driver.
    pub program: Program,
    /// The results folder.
    pub results: PathBuf,
    /// Threads that it may use. This and what follows is its share of the machine: for the executor to fill in.
    pub threads: usize,
    /// Bytes of anonymous memory past which the node is ended.
    pub memory_limit: u64,
    /// Seconds without a call to the host after which a plugin counts as hung.
    pub plugin_timeout: Option<u64>,
}

/// A path that means the same whatever the directory of a process is: a plugin may change it.
fn anchored(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io("find", path, &e))
}

impl Job {
    /// The parameters of the node.
    pub fn params(&self) -> &Value {
        &self.identity["params"]
    }

    /// The parameters as their type.
    ///
    /// # Errors
    /// Another build of the workbench wrote them.
    pub fn typed<T: DeserializeOwned>(&self) -> Result<T> {
        params::read(self.params())
    }

    /// Where a model lies that the node reads.
    ///
    /// # Errors
    /// It reads none in that role.
    pub fn model(&self, role: &str) -> Result<&Path> {
        let found = self.models.get(role).map(PathBuf::as_path);
        found.ok_or_else(|| Error::internal(format!("the job names no {role}")))
    }

    /// Data that the node reads.
    ///
    /// # Errors
    /// It reads none in that role.
    pub fn source(&self, role: &str) -> Result<&DataSource> {
        self.data.get(role).ok_or_else(|| Error::internal(format!("the job names no {role}")))
    }

    /// The order for a planned node.
    pub fn new(graph: &Graph, planned: &PlanNode, plan: &Plan, store: &Store) -> Result<Self> {
        let node = graph.node(planned.id);
        let mut models = BTreeMap::new();
        let mut files: Vec<KnownFile> = node.files().filter_map(|path| plan.files.get(path).cloned()).collect();
        let mut absent = Vec::new();
        for (role, input) in &node.inputs {
            let path = match input {
                Input::Source(source) => {
                    absent.extend(source.absent.iter().cloned());
                    source.path.clone()
                }
                Input::Node(id) => {
                    let known = plan.identities.get(id.0);
                    let (_, key) = known.ok_or_else(|| Error::internal("an input is missing from the plan"))?;
                    let object = store.object(key)?;
                    files.extend(object.artifact_files()?);
                    object.model().ok_or_else(|| Error::internal(format!("{} holds no model", key.short())))?
                }
            };
            models.insert(role.clone(), anchored(&path)?);
        }
        let mut data = node.data.clone();
        for source in data.values_mut() {
            match source {
                DataSource::File(path) => *path = anchored(path)?,
                DataSource::Node(made) => {
                    let known = plan.identities.get(made.node.0);
                    let (_, key) = known.ok_or_else(|| Error::internal("data are missing from the plan"))?;
                    let object = store.object(key)?;
                    files.extend(object.artifact_files()?);
                    let path =
                        object.data().ok_or_else(|| Error::internal(format!("{} holds no data", key.short())))?;
                    *source = DataSource::File(anchored(&path)?);
                }
                DataSource::Demo(_) => {}
            }
        }
        files.extend(node.plugin.as_ref().map(|plugin| plugin.file.clone()));
        for path in files.iter_mut().map(|file| &mut file.path).chain(&mut absent) {
            *path = anchored(path)?;
        }
        Ok(Self {
            key: planned.key.clone(),
            kind: node.kind,
            method: node.method.clone(),
            label: node.label.clone(),
            identity: planned.identity.clone(),
            models,
            data,
            plugin: node.plugin.as_ref().map(|p| anchored(&p.file.path)).transpose()?,
            files,
            absent,
            program: Program::this()?,
            results: store.root().to_owned(),
            threads: 1,
            memory_limit: 0,
            plugin_timeout: None,
        })
    }

    /// Leaves the order where the node's process finds it.
    pub fn write(&self, run: &RunFolder) -> Result<()> {
        write_json(&run.job(&self.key), self)
    }

    /// Reads the order of a key.
    pub fn read(run: &RunFolder, key: &Key) -> Result<Self> {
        let path = run.job(key);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
        serde_json::from_str(&text)
            .map_err(|e| Error::internal(format!("`{}` is no job", path.display())).cause(e.to_string()))
    }
}
