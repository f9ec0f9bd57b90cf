//! Copies of models, and of data that models wrote, outside of the store. A copy takes the place of an earlier one that nobody
//! changed, and of nothing else.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Access, CWD, FlockOperation, RenameFlags, access, flock, renameat_with};

use super::{
    Object, Store,
    discard::{hide, remove, remove_counting},
    files::{entries, sync_folder},
    manifest::{Depth, Hash, Manifest},
    object::{RECORD, REMEDY},
};
use crate::{
    error::{Error, Result},
    identity::digest,
};

/// What a model or data may be saved to.
enum Place {
    /// Nothing is there, or an empty folder.
    Free,
    /// A copy that was saved before, as it was written.
    Saved(Manifest),
}

/// Where `folder` lies, links on the way resolved.
///
/// # Errors
/// It has no name, or lies in something that is no folder.
pub fn resolve(folder: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    let whole = std::path::absolute(folder).map_err(|e| Error::io("find", folder, &e))?;
    let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
        return Err(Error::usage(format!("`{shown}` names no folder that something could be saved to")));
    };
    let mut missing = vec![name.to_owned()];
    let mut there = parent;
    while fs::symlink_metadata(there).is_err() {
        match (there.components().next_back(), there.parent()) {
            (Some(Component::Normal(name)), Some(above)) => {
                missing.push(name.to_owned());
                there = above;
            }
            _ => return Err(Error::usage(format!("`{shown}` leads through a folder that is not there"))),
        }
    }
    let real = there.canonicalize().map_err(|e| Error::io("find", there, &e))?;
    if !real.is_dir() {
        return Err(Error::refused(format!("`{shown}` cannot be made: `{}` is no folder", there.display())));
    }
    Ok(missing.iter().rev().fold(real, |path, name| path.join(name)))
}

/// Refuses to save to a folder that holds anything else than an unchanged copy that was saved there before. Without
/// `hash`, weight shards are only looked at for their size.
///
/// # Errors
/// Something is there that would be lost, or the folder cannot be written.
pub fn check_place(folder: &Path, hash: Option<&mut Hash<'_>>) -> Result<()> {
    let target = resolve(folder)?;
    let depth = if hash.is_some() { Depth::All } else { Depth::Small };
    let mut read = |path: &Path| Ok(digest::hash(path)?.0);
    look(&target, depth, hash.unwrap_or(&mut read))?;
    let above = target.ancestors().skip(1).find(|path| path.exists()).unwrap_or(Path::new("/"));
    access(above, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| Error::io("write into", above, &e.into()))
}

fn look(target: &Path, depth: Depth, hash: &mut Hash<'_>) -> Result<Place> {
    let refused = |what: &str| {
        Error::refused(format!("`{}` {what}: nothing is saved in its place", target.display()))
            .hint("move it away, or save to another folder")
    };
    let meta = match fs::symlink_metadata(target) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Place::Free),
        found => found.map_err(|e| Error::io("read", target, &e))?,
    };
    if meta.is_symlink() {
        return Err(refused("is a symbolic link"));
    }
    if !meta.is_dir() {
        return Err(refused("is there already and is no folder"));
    }
    if entries(target)?.is_empty() {
        return Ok(Place::Free);
    }
    match Manifest::read(target) {
        Ok(Some(manifest)) => {
            let found = manifest.differences(target, &[], depth, hash)?;
            if found.is_empty() {
                return Ok(Place::Saved(manifest));
            }
            Err(found.into_iter().fold(refused("was changed since something was saved there"), Error::cause))
        }
        Ok(None) if target.join(RECORD).is_file() => {
            Err(refused("holds a model without the digests that would tell whether somebody changed it"))
        }
        // Somebody else's file of that name.
        Ok(None) | Err(_) => Err(refused("is there already and was not saved by the workbench")),
    }
}

impl Store {
    /// Refuses folders that a run itself lives in, reads or writes twice. `saves` are all folders of the run, `sources` the
    /// models and files that it reads from outside of the store.
    ///
    /// # Errors
    /// The message names the two folders that cannot be both.
    pub fn check_saves(&self, saves: &[PathBuf], project: &Path, sources: &[PathBuf]) -> Result<()> {
        let results = resolve(self.root())?;
        let own = ["store", "runs", "cache", "reports"].map(|name| results.join(name));
        let refused = |path: &Path, what: &str, other: &Path| {
            let message = format!("`{}` {what} `{}`: nothing is saved there", path.display(), other.display());
            Err(Error::refused(message).hint("save to another folder"))
        };
        let mut seen: Vec<PathBuf> = Vec::new();
        for folder in saves {
            let target = resolve(folder)?;
            if let Some(other) = own.iter().find(|own| target.starts_with(own) || own.starts_with(&target)) {
                return refused(folder, "would mix with the workbench's own", other);
            }
            if project.canonicalize().is_ok_and(|project| project.starts_with(&target)) {
                return refused(folder, "holds the project", project);
            }
            let real = |source: &PathBuf| source.canonicalize().unwrap_or_else(|_| source.clone());
            if let Some(source) = sources.iter().find(|source| real(source).starts_with(&target)) {
                return refused(folder, "is, or holds, what the script reads,", source);
            }
            if let Some(other) = seen.iter().find(|other| target.starts_with(other) || other.starts_with(&target)) {
                return refused(folder, "is, or lies within or around, another folder that is saved to,", other);
            }
            seen.push(target);
        }
        Ok(())
    }

    /// Copies the model or the data of a result to a folder outside the store, with the record and the digests of all files beside
    /// it.
    /// The folder appears whole; one that is there already is only replaced if it is such a copy, and unchanged. Returns
    /// whether anything had to be written.
    ///
    /// # Errors
    /// Something else is in the place, the stored model is damaged, or the copy cannot be written; then nothing is left of it.
    pub fn export(&self, object: &Object, folder: &Path, hash: &mut Hash<'_>) -> Result<bool> {
        let target = resolve(folder)?;
        let place = look(&target, Depth::All, hash)?;
        if matches!(&place, Place::Saved(manifest) if manifest.key == *object.key()) {
            return Ok(false);
        }
        let parent = target.parent().unwrap_or(Path::new("/"));
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let made = make_folders(parent)?;
        let copied = clear_remains(parent, &name)
            .and_then(|()| Copy::begin(parent.join(format!(".{name}.{SAVING}{}", std::process::id()))))
            .and_then(|copy| {
                copy.fill(object)?;
                copy.put(&target, &place, hash)
            });
        // Another run may have saved the same model at the same time.
        if copied.is_err()
            && matches!(look(&target, Depth::All, hash), Ok(Place::Saved(found)) if found.key == *object.key())
        {
            return Ok(false);
        }
        if copied.is_err() {
            // Only those that are empty can be removed.
            made.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
        }
        copied.map(|()| true)
    }
}

/// In the names of copies in the making, before the process that makes them.
const SAVING: &str = "saving-";

/// Makes a folder and those above it; returns the new ones, the outermost first.
fn make_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
    missing.reverse();
    fs::create_dir_all(folder).map_err(|e| {
        missing.iter().rev().for_each(|folder| drop(fs::remove_dir(folder)));
        Error::io("create the folder", folder, &e)
    })?;
    Ok(missing.into_iter().map(Path::to_owned).collect())
}

/// Removes copies that their processes did not live to finish.
fn clear_remains(parent: &Path, name: &str) -> Result<()> {
    let start = format!(".{name}.{SAVING}");
    for path in entries(parent)? {
        let digits = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(&start));
        let ours = digits.is_some_and(|digits| digits.parse::<u32>().is_ok()) && path.is_dir();
        let held = || lock_folder(&path).is_none();
        if ours && !held() {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Takes the lock of a folder, unless another process has it.
fn lock_folder(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file)
}

/// A copy in the making, beside the folder that it is for; removed unless it gets there.
struct Copy {
    path: PathBuf,
    _lock: Option<File>,
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = remove_counting(&self.path);
    }
}

impl Copy {
    fn begin(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).map_err(|e| Error::io("create the folder", &path, &e))?;
        let lock = lock_folder(&path);
        Ok(Self { path, _lock: lock })
    }

    /// Copies the files of the model or of the data, and the record, and holds what was read against the digests of the store.
    fn fill(&self, object: &Object) -> Result<()> {
        let key = object.key();
        let made = object.artifact();
        let made = made.ok_or_else(|| Error::internal(format!("{} holds neither model nor data", key.short())))?;
        object.check()?;
        let known = object.artifact_files()?;
        let mut manifest = Manifest::new(key.clone());
        for from in entries(&made)?.into_iter().chain([object.path().join(RECORD)]) {
            let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to = self.path.join(&name);
            let digest = copy(&from, &to)?;
            let promised = known.iter().find(|file| file.path == from);
            if promised.is_some_and(|file| !digest.starts_with(&file.digest)) {
                return Err(Error::refused(format!("the stored result {} is damaged", key.short()))
                    .cause(format!("`{}` does not hold what was written", from.display()))
                    .hint(REMEDY));
            }
            manifest.add(name, &to, digest)?;
        }
        manifest.write(&self.path)?;
        sync_folder(&self.path)
    }

    /// Puts the copy where it belongs.
    fn put(mut self, target: &Path, place: &Place, hash: &mut Hash<'_>) -> Result<()> {
        let conflict = |e: std::io::Error| Error::io("put the copy in place at", target, &e);
        let Place::Saved(before) = place else {
            // An empty folder may be there; nothing else is replaced by a folder.
            fs::rename(&self.path, target).map_err(conflict)?;
            return sync_folder(target.parent().unwrap_or(Path::new("/")));
        };
        // In one step where the file system can; else there is nothing in the place for a moment.
        let swapped = renameat_with(CWD, &self.path, CWD, target, RenameFlags::EXCHANGE).is_ok();
        let old = if swapped { self.path.clone() } else { hide(target)? };
        // Somebody may have put a file there since it was looked at.
        let changed = before.differences(&old, &[], Depth::All, hash).unwrap_or_else(|e| vec![e.to_string()]);
        if !changed.is_empty() {
            let back = if swapped {
                renameat_with(CWD, &self.path, CWD, target, RenameFlags::EXCHANGE).map_err(Into::into)
            } else {
                fs::rename(&old, target)
            };
            if let Err(e) = back {
                // What is not ours stays, wherever it is.
                self.path = PathBuf::new();
                return Err(conflict(e).hint(format!("what was there lies in `{}` now", old.display())));
            }
            let refused = Error::refused(format!("`{}` was changed while it was saved to", target.display()));
            return Err(changed.into_iter().fold(refused, Error::cause));
        }
        if !swapped && let Err(e) = fs::rename(&self.path, target) {
            let back = fs::rename(&old, target);
            let error = conflict(e);
            return Err(match back {
                Ok(()) => error,
                Err(_) => error.hint(format!("what was there lies in `{}` now", old.display())),
            });
        }
        remove_counting(&old)?;
        sync_folder(target.parent().unwrap_or(Path::new("/")))
    }
}

/// Copies a file and returns the digest of what was read.
fn copy(from: &Path, to: &Path) -> Result<String> {
    let mut source = File::open(from).map_err(|e| Error::io("read", from, &e))?;
    let mut copy = File::create_new(to).map_err(|e| Error::io("write", to, &e))?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 18];
    loop {
        let read = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::io("read", from, &e)),
        };
        hasher.update(&piece[..read]);
        copy.write_all(&piece[..read]).map_err(|e| Error::io("write", to, &e))?;
    }
    copy.sync_all().map_err(|e| Error::io("write", to, &e))?;
    Ok(hasher.finalize().to_hex().to_string())
}
