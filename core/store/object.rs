//! Finished results.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    files,
    manifest::{Depth, Hash, Manifest, is_shard},
};
use crate::{
    error::{Error, Result},
    identity::{
        Key,
        digest::{self, KnownFile},
    },
};

pub(super) const RECORD: &str = "record.json";
pub(super) const PROVENANCE: &str = "provenance.json";
/// The folder of a model artifact within an object.
pub(super) const ARTIFACT: &str = "model";
/// The folder of data that a node made, within an object.
pub(super) const DATA: &str = "data";
/// The rows of made data, a JSON object a line.
pub(super) const ROWS: &str = "data.jsonl";
/// In a model artifact, and beside made data: every stage that led to it.
pub const RECIPE: &str = "recipe.json";
/// One line per evaluated item.
pub(super) const ITEMS: &str = "items.jsonl";

/// Files that the manifest of a result says nothing of: times and hosts are none of its meaning.
pub(super) const APART: [&str; 1] = [PROVENANCE];

/// What helps against damage.
pub(super) const REMEDY: &str =
    "`workbench gc` lists what is damaged, and removes it with --yes; the next run makes it anew";

/// What a node found out: a function of its meaning and the kind of machine, never of time or place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this format. The first had no manifest beside it.
    pub version: u32,
    /// The meaning that the key is the hash of.
    pub identity: Value,
    /// Values by name: `perplexity`, `nll`, `accuracy`, `gptq_loss`.
    pub values: Value,
    /// Everything else worth knowing: matched layers, the protocol, the grid, equivalence checks.
    pub facts: Value,
}

impl Record {
    /// The version that this build writes.
    pub const VERSION: u32 = 2;

    fn has_manifest(&self) -> bool {
        self.version > 1
    }
}

/// A stored result.
#[derive(Clone, Debug)]
pub struct Object {
    key: Key,
    path: PathBuf,
}

impl Object {
    pub(super) fn open(key: Key, path: PathBuf) -> Result<Self> {
        if path.join(RECORD).is_file() {
            Ok(Self { key, path })
        } else {
            Err(Error::refused(format!("the store holds no result of {}", key.short())))
        }
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the model it produced, if it produced one.
    pub fn model(&self) -> Option<PathBuf> {
        Some(self.path.join(ARTIFACT)).filter(|p| p.is_dir())
    }

    /// The file of the data it produced, if it produced some.
    pub fn data(&self) -> Option<PathBuf> {
        Some(self.path.join(DATA).join(ROWS)).filter(|p| p.is_file())
    }

    /// The folder of what it produced, model or data, if it produced something.
    pub(super) fn artifact(&self) -> Option<PathBuf> {
        self.model().or_else(|| Some(self.path.join(DATA)).filter(|p| p.is_dir()))
    }

    /// Bytes on disk; shards shared with other results count in full.
    pub fn size(&self) -> u64 {
        files::size(&self.path)
    }

    /// Its record.
    ///
    /// # Errors
    /// It is not what was written.
    pub fn record(&self) -> Result<Record> {
        Ok(self.open_record()?.0)
    }

    /// The record, and the manifest that it was held against.
    fn open_record(&self) -> Result<(Record, Option<Manifest>)> {
        let manifest = Manifest::read(&self.path).map_err(|e| self.damaged(e.message).cause(e.causes.join(": ")))?;
        let bytes = self.read(RECORD, manifest.as_ref())?;
        let record: Record = serde_json::from_slice(&bytes).map_err(|e| self.unreadable(RECORD, &e))?;
        match &manifest {
            Some(manifest) if manifest.key != self.key => {
                Err(self.damaged(format!("it is the result of {}", manifest.key.short())))
            }
            None if record.has_manifest() => Err(self.damaged("its manifest is missing")),
            None if Key::of(&record.identity) != self.key => {
                Err(self.damaged(format!("`{}` belongs to another key", self.path.join(RECORD).display())))
            }
            _ => Ok((record, manifest)),
        }
    }

    /// Times, host and paths of the run that made it.
    pub fn provenance(&self) -> Result<Value> {
        serde_json::from_slice(&self.read(PROVENANCE, None)?).map_err(|e| self.unreadable(PROVENANCE, &e))
    }

    /// The items of an evaluation, in order.
    ///
    /// # Errors
    /// They are not those that were written.
    pub fn items<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let (record, manifest) = self.open_record()?;
        let bytes = self.read(ITEMS, manifest.as_ref())?;
        if manifest.is_none() {
            self.count(&bytes, &record)?;
        }
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate();
        lines
            .map(|(index, line)| {
                let place = format!("{ITEMS}, line {}", index + 1);
                serde_json::from_slice(line).map_err(|e| self.unreadable(&place, &e))
            })
            .collect()
    }

    /// Items that no manifest speaks for: as many as the record says, and none twice.
    fn count(&self, bytes: &[u8], record: &Record) -> Result<()> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let ids: Vec<String> =
            lines.map(|line| serde_json::from_slice::<Value>(line).unwrap_or_default()["id"].to_string()).collect();
        let distinct = ids.iter().collect::<BTreeSet<_>>().len();
        match record.values["items"].as_u64() {
            Some(expected) if expected != ids.len() as u64 || distinct != ids.len() => Err(self.damaged(format!(
                "`{}` holds {} items ({distinct} distinct), and the record counts {expected}",
                self.path.join(ITEMS).display(),
                ids.len()
            ))),
            _ => Ok(()),
        }
    }

    /// The manifest that the result's files are held against; `None` for a result of the first version.
    pub(super) fn manifest(&self) -> Result<Option<Manifest>> {
        Ok(self.open_record()?.1)
    }

    /// A file's bytes, if they are those that were written.
    pub(super) fn read(&self, name: &str, manifest: Option<&Manifest>) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
        match manifest.map(|manifest| manifest.digest(name)) {
            Some(digest) if digest != Some(blake3::hash(&bytes).to_hex().as_str()) => {
                Err(self.damaged(format!("`{}` does not hold what was written", path.display())))
            }
            _ => Ok(bytes),
        }
    }

    /// What is not as it was written, a line each.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub(super) fn damage(&self, depth: Depth, hash: &mut Hash<'_>) -> Result<Vec<String>> {
        match self.open_record() {
            Ok((_, Some(manifest))) => manifest.differences(&self.path, &APART, depth, hash),
            Ok((record, None)) => {
                let mut found = Vec::new();
                if record.identity["kind"] == "evaluate"
                    && let Err(error) = self.items::<Value>()
                {
                    found.push(error.to_string());
                }
                if depth == Depth::All {
                    for shard in self.shards_by_name()? {
                        if !hash(&shard.path)?.starts_with(&shard.digest) {
                            found.push(format!("`{}` does not hold what was written", shard.path.display()));
                        }
                    }
                }
                Ok(found)
            }
            Err(error) if error.message == self.refusal().message => Ok(error.causes),
            Err(error) => Ok(vec![error.to_string()]),
        }
    }

    /// Refuses a result that is not as it was written; of weight shards only the size is looked at.
    ///
    /// # Errors
    /// Something of it is damaged; the causes say what.
    pub fn check(&self) -> Result<()> {
        let found = self.damage(Depth::Small, &mut |path| Ok(digest::hash(path)?.0))?;
        if found.is_empty() { Ok(()) } else { Err(found.into_iter().fold(self.refusal(), Error::cause)) }
    }

    /// The files of the model, or of the data, with the digests that they were written with.
    ///
    /// # Errors
    /// The record or the manifest is damaged.
    pub fn artifact_files(&self) -> Result<Vec<KnownFile>> {
        let Some(manifest) = self.open_record()?.1 else { return self.shards_by_name() };
        let prefixes = [ARTIFACT, DATA].map(|folder| format!("{folder}/"));
        let made = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let inside = manifest.files.into_iter().filter(|(name, _)| made(name));
        let known = |(name, entry): (String, super::manifest::Entry)| KnownFile {
            path: self.path.join(name),
            digest: entry.digest,
            stamp: None,
        };
        Ok(inside.map(known).collect())
    }

    /// The shards of a model without a manifest: each carries the first digits of its digest in its name.
    fn shards_by_name(&self) -> Result<Vec<KnownFile>> {
        let shards = files::entries(&self.path.join(ARTIFACT))?.into_iter().filter(|path| is_shard(path));
        let known = |path: PathBuf| {
            let digest = digest_in_name(&path).unwrap_or_default().to_owned();
            KnownFile { path, digest, stamp: None }
        };
        Ok(shards.map(known).collect())
    }

    fn refusal(&self) -> Error {
        Error::refused(format!("the stored result {} is damaged", self.key.short())).hint(REMEDY)
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> Error {
        self.refusal().cause(what)
    }

    fn unreadable(&self, name: &str, error: &serde_json::Error) -> Error {
        self.damaged(format!("`{}`: {error}", self.path.join(name).display()))
    }
}

/// The digits of the digest that a shard's name ends with.
pub(super) fn digest_in_name(shard: &Path) -> Option<&str> {
    let digits = shard.file_stem()?.to_str()?.rsplit_once('-')?.1;
    let hexadecimal = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (digits.len() >= 16 && hexadecimal).then_some(digits)
}
