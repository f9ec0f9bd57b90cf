//! What is read is what was keyed: files are held against the digests that a job names before and after they are read.
//!
//! A file whose stamp is the one that it had when it was hashed is not hashed again. What the driver has not hashed, as the
//! models of the store, is hashed by the first node of a run that reads it, which notes the stamp for the others.

use std::fs;

use crate::{
    error::{Error, Result},
    exec::Job,
    graph::digest::{KnownFile, Stamp, hash},
    store::RunFolder,
};

/// The files that a node reads.
#[derive(Debug)]
pub(in crate::steps) struct Reads<'a> {
    job: &'a Job,
    run: &'a RunFolder,
    /// With the stamps that they had before they were read: `None` proves nothing.
    files: Vec<(&'a KnownFile, Option<Stamp>)>,
}

impl<'a> Reads<'a> {
    /// Holds every file against its digest, before it is read.
    ///
    /// # Errors
    /// One is not what the key stands for.
    pub(in crate::steps) fn check(job: &'a Job, run: &'a RunFolder) -> Result<Self> {
        let mut reads = Self { job, run, files: Vec::new() };
        reads.check_absent()?;
        for file in &job.files {
            let stamp = reads.check_file(file, file.stamp)?;
            reads.files.push((file, stamp));
        }
        Ok(reads)
    }

    /// The same after they were read, and before what was made of them is stored.
    ///
    /// # Errors
    /// One was changed meanwhile.
    pub(in crate::steps) fn check_again(&self) -> Result<()> {
        self.check_absent()?;
        self.files.iter().try_for_each(|(file, stamp)| self.check_file(file, *stamp).map(drop))
    }

    fn check_absent(&self) -> Result<()> {
        match self.job.absent.iter().find(|path| fs::symlink_metadata(path).is_ok()) {
            Some(path) => Err(Error::refused(format!("`{}` appeared while the run went on", path.display()))
                .cause("the model would be read with it, and its key stands for the model without it")
                .hint("run the same command again")),
            None => Ok(()),
        }
    }

    /// Returns the stamp by which the file, as it should be, is known again.
    fn check_file(&self, file: &KnownFile, known: Option<Stamp>) -> Result<Option<Stamp>> {
        let now = Stamp::of(&file.path).map_err(|e| self.changed(file, &e.to_string()))?;
        if known == Some(now) {
            return Ok(known);
        }
        let note = self.run.note(&file.path);
        if note.as_ref().is_some_and(|note| note.read().as_ref() == Some(&(now, file.digest.clone()))) {
            return Ok(Some(now));
        }
        let (digest, stamp) = hash(&file.path)?;
        if !digest.starts_with(&file.digest) {
            return Err(self.changed(file, "it holds something else now"));
        }
        if let (Some(note), Some(stamp)) = (note, stamp) {
            note.write(&(stamp, file.digest.clone()));
        }
        Ok(stamp)
    }

    fn changed(&self, file: &KnownFile, why: &str) -> Error {
        let path = file.path.display();
        if file.path.starts_with(&self.job.results) {
            return Error::refused(format!("`{path}`, which this node reads from the store, is damaged"))
                .cause(why)
                .hint("`workbench gc` lists what is damaged, and removes it with --yes; the next run makes it anew");
        }
        Error::refused(format!("`{path}` changed while the run went on"))
            .cause(why)
            .hint("leave it as it is until the run is over, and run the same command again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        exec::Program,
        graph::{Key, NodeKind},
        store::Store,
    };
    use serde_json::json;
    use std::{collections::BTreeMap, path::Path};

    fn job(results: &Path, files: Vec<KnownFile>, absent: &Path) -> Job {
        let identity = json!({});
        Job {
            key: Key::of(&identity),
            kind: NodeKind::Evaluate,
            method: "kl".into(),
            label: String::new(),
            identity,
            models: BTreeMap::new(),
            data: BTreeMap::new(),
            plugin: None,
            files,
            absent: vec![absent.to_owned()],
            program: Program::this().unwrap(),
            results: results.to_owned(),
            threads: 1,
            memory_limit: 0,
            plugin_timeout: None,
        }
    }

    #[test]
    fn a_file_that_is_not_the_one_of_the_key_is_refused_before_and_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = Store::new(dir.path()).create_run("x.rhai", &[]).unwrap();
        let (text, appears) = (dir.path().join("text"), dir.path().join("appears"));
        fs::write(&text, "one").unwrap();
        let known = |stamp| KnownFile { path: text.clone(), digest: hash(&text).unwrap().0, stamp };
        let (mut loose, strict) = (known(None), known(Stamp::of(&text).ok()));
        // A model of before there were manifests is known by the first digits.
        loose.digest.truncate(16);
        let elsewhere = dir.path().join("elsewhere");
        let (job, stored) =
            (job(&elsewhere, vec![loose, strict.clone()], &appears), job(dir.path(), vec![strict], &appears));
        let reads = Reads::check(&job, &run).unwrap();
        reads.check_again().unwrap();

        fs::write(&appears, "").unwrap();
        assert!(reads.check_again().unwrap_err().message.contains("appeared while the run went on"));
        assert!(Reads::check(&job, &run).is_err());
        fs::remove_file(&appears).unwrap();

        // Written anew with the same content: only hashed again.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&text, "one").unwrap();
        reads.check_again().unwrap();
        fs::write(&text, "two").unwrap();
        assert!(reads.check_again().unwrap_err().message.ends_with("changed while the run went on"));
        assert!(Reads::check(&job, &run).unwrap_err().causes[0].contains("something else"));
        let error = Reads::check(&stored, &run).unwrap_err();
        assert!(error.message.ends_with("is damaged") && error.hints[0].contains("workbench gc"), "{error}");
        fs::remove_file(&text).unwrap();
        assert!(reads.check_again().is_err());
    }

    #[test]
    fn what_one_node_has_hashed_no_other_hashes_again() {
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = Store::new(dir.path()).create_run("x.rhai", &[]).unwrap();
        let shard = dir.path().join("shard");
        fs::write(&shard, "weights").unwrap();
        let file = KnownFile { path: shard.clone(), digest: hash(&shard).unwrap().0, stamp: None };
        let job = job(dir.path(), vec![file.clone()], &dir.path().join("appears"));
        // As if the file had been hashed long enough after it was written.
        let stamp = Stamp::of(&shard).unwrap();
        run.note(&shard).unwrap().write(&(stamp, file.digest));
        let reads = Reads::check(&job, &run).unwrap();
        assert_eq!(reads.files[0].1, Some(stamp), "by what was noted");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&shard, "WEIGHTS").unwrap();
        assert!(Reads::check(&job, &run).is_err(), "a note speaks for a stamp, not for a path");
    }
}
