//! Loading one file, with every check that keeps a wrong one from being called.

use std::ffi::c_int;
use std::io::Read;
use std::path::{Path, PathBuf};

use abi_stable::library::lib_header_from_path;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use serde_json::Value;
use workbench_api::abi::{PROBE_MAGIC, PROBE_SYMBOL, PluginModuleRef, Probe};
use workbench_api::descriptor::Descriptor;
use workbench_api::error::Error;
use workbench_api::host::{Heartbeat, HostServices, Instance, Module};
use workbench_api::job::{Job, Needs, Report};
use workbench_api::{ABI_MAJOR, ABI_MINOR};
use workbench_model::regular_file;
use workbench_quant::GRID_VERSION;

use super::gate::Gate;
use super::layout;
use super::problem::{Problem, ProblemKind};
use super::validate::{self, validate};

/// A plugin file, loaded into this process for good: a library is never unloaded, since its threads may live on.
pub struct Loaded {
    module: Module,
    descriptor: Descriptor,
    path: PathBuf,
}

impl Loaded {
    /// Loads a file.
    ///
    /// # Errors
    /// The file is no plugin that this workbench can run; the problem says why.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        // A name without a folder is one that the system's loader looks for elsewhere.
        let file = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        read_probe(&file)?;
        let module = root_module(&file)?;
        let descriptor = module.descriptor().map_err(|error| {
            let problem = Problem::new(path, ProblemKind::Faulty, format!("its descriptor cannot be had: {error}"));
            Problem { hint: error.hint, ..problem }
        })?;
        let descriptor = validate::as_written(descriptor);
        Ok(Self { module, descriptor, path: path.to_path_buf() })
    }

    /// What the plugin says about itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The plugin with parameters; those not given have their defaults.
    ///
    /// # Errors
    /// The parameters do not fit the schema, or the plugin refuses them.
    pub fn create(&self, given: &Value) -> Result<Running, Error> {
        let parameters = validate(&self.descriptor, given).map_err(|error| {
            let message = error.to_string();
            Error { hint: error.hint, ..Error::parameters(message) }
        })?;
        let name = &self.descriptor.name;
        let instance = self.module.create(&parameters).map_err(|error| error.context(format!("plugin `{name}`")))?;
        Ok(Running { instance, name: self.descriptor.name.clone(), rounds: self.descriptor.grid_version != 0 })
    }
}

/// A plugin with its parameters, ready for jobs.
pub struct Running {
    instance: Instance,
    name: String,
    rounds: bool,
}

impl Running {
    /// What a job wants to have ready.
    ///
    /// # Errors
    /// The plugin does not know the job.
    pub fn needs(&self, job: &Job) -> Result<Needs, Error> {
        self.instance.needs(job).map_err(|error| error.context(format!("plugin `{}`", self.name)))
    }

    /// Does a job. What the plugin puts reaches the services only if it is finite and fits.
    ///
    /// The heartbeat is kept for whoever watches from another thread.
    ///
    /// # Errors
    /// The plugin's own error, a panic in it, or what it put was refused.
    pub fn run(&self, job: &Job, services: &dyn HostServices, heartbeat: &Heartbeat) -> Result<Report, Error> {
        let gate = Gate::new(job, services, self.rounds);
        let outcome = self.instance.run(job, &gate, heartbeat);
        // What the gate refused comes first: a plugin may have carried on and reported success.
        let outcome = gate.verdict().and(outcome).and_then(|report| gate.complete().map(|()| report));
        outcome.map_err(|error| error.context(format!("plugin `{}`", self.name)))
    }
}

/// Loads the library and checks its probe, before anything in it is called but its constructors.
fn read_probe(path: &Path) -> Result<(), Problem> {
    check_magic(path)?;
    // RTLD_NOW: a symbol that cannot be resolved is an error here instead of the end of the process at its first use.
    let flags: c_int = RTLD_NOW | RTLD_LOCAL;
    // SAFETY: loading runs the library's constructors, whatever they do; this process exists to take that risk.
    #[allow(unsafe_code)]
    let library = unsafe { Library::open(Some(path), flags) }.map_err(|error| {
        // libloading's own message says only that dlopen failed.
        let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        let path_prefix = format!("{}: ", path.display());
        let reason = reason.strip_prefix(&path_prefix).unwrap_or(&reason).to_owned();
        Problem::new(path, ProblemKind::NotALibrary, format!("it cannot be loaded: {reason}"))
    })?;
    // SAFETY: the symbol is only read as a `Probe` after its magic was found; see `Probe` on what may be read when.
    #[allow(unsafe_code)]
    let probe = unsafe { library.get::<*const Probe>(PROBE_SYMBOL.as_bytes()) }.map(|symbol| *symbol);
    // Its threads and thread-local destructors may already exist: the library stays.
    std::mem::forget(library);
    let Ok(probe) = probe else {
        return Err(not_a_plugin(path));
    };
    // SAFETY: a static of that name is a probe, or at least this many bytes long; the magic tells.
    #[allow(unsafe_code)]
    let (magic, abi) = unsafe { ((*probe).magic, ((*probe).abi_major, (*probe).abi_minor)) };
    if magic != PROBE_MAGIC {
        return Err(not_a_plugin(path));
    }
    check_abi(path, abi)?;
    // SAFETY: the ABI version matches, so the whole struct is laid out as ours.
    #[allow(unsafe_code)]
    let grid_version = unsafe { (*probe).grid_version };
    check_grid(path, grid_version)
}

fn check_abi(path: &Path, (major, minor): (u32, u32)) -> Result<(), Problem> {
    let ours = (ABI_MAJOR, ABI_MINOR);
    // Below 1.0 each minor version is an ABI of its own; from then on a plugin may be older, but not newer.
    if (major, minor) == ours || (major == ABI_MAJOR && major > 0 && minor <= ABI_MINOR) {
        return Ok(());
    }
    let message = format!("it is built for plugin ABI {major}.{minor}, this workbench has {}.{}", ours.0, ours.1);
    let hint = if (major, minor) < ours {
        "build the plugin again with this workbench's `workbench-api`"
    } else {
        "use a newer workbench, or build the plugin with this one's `workbench-api`"
    };
    Err(Problem::new(path, ProblemKind::Abi, message).hint(hint))
}

fn check_grid(path: &Path, version: u32) -> Result<(), Problem> {
    if version == 0 || version == GRID_VERSION {
        return Ok(());
    }
    let message = format!("it rounds by version {version} of the grid rules, this workbench by version {GRID_VERSION}");
    Err(Problem::new(path, ProblemKind::Grid, message)
        .hint("build the plugin again with this workbench's `workbench-quant`"))
}

pub(super) fn not_a_plugin(path: &Path) -> Problem {
    let message = format!("it is a library, but no workbench plugin: it does not export `{PROBE_SYMBOL}`");
    Problem::new(path, ProblemKind::NotAPlugin, message)
        .hint("a plugin calls one of the macros `export_quantizer!`, `export_transform!`, `export_trainer!`")
}

/// What the system's loader does not say well: of a text file it says `invalid ELF header`, and a file that was cut short
/// it maps all the same, which ends the process at the first page that is not there.
fn check_magic(path: &Path) -> Result<(), Problem> {
    let mut header = Vec::new();
    let length = regular_file(path)
        .and_then(|()| std::fs::File::open(path))
        .and_then(|file| {
            let length = file.metadata()?.len();
            file.take(64).read_to_end(&mut header)?;
            Ok(length)
        })
        .map_err(|error| Problem::new(path, ProblemKind::Unreadable, format!("it cannot be read: {error}")))?;
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    let problem = |message: String| Err(Problem::new(path, ProblemKind::NotALibrary, message));
    if length == 0 {
        return problem("it is empty".to_owned());
    }
    if !header.starts_with(b"\x7fELF") {
        return problem("it is no shared library: it does not start as an ELF file".to_owned());
    }
    match elf_length(&header) {
        Some(whole) if whole > length => problem(format!("it is cut short: {length} bytes of at least {whole}")),
        _ => Ok(()),
    }
}

/// End of the section table of a 64-bit little-endian ELF file, which linkers put last.
fn elf_length(header: &[u8]) -> Option<u64> {
    const CLASS_64_LITTLE_ENDIAN: [u8; 2] = [2, 1];
    if header.get(4..6)? != CLASS_64_LITTLE_ENDIAN {
        return None;
    }
    let sections = u64::from_le_bytes(*header.get(40..)?.first_chunk()?);
    let size = u16::from_le_bytes(*header.get(58..)?.first_chunk()?);
    let count = u16::from_le_bytes(*header.get(60..)?.first_chunk()?);
    sections.checked_add(u64::from(size) * u64::from(count))
}

fn root_module(path: &Path) -> Result<Module, Problem> {
    // `RootModule::load_from_file` would return the first library of the process, whatever the path.
    let module = lib_header_from_path(path).and_then(|header| header.init_root_module::<PluginModuleRef>());
    module.map(Module::new).map_err(|error| {
        let problem = Problem::new(path, ProblemKind::Layout, layout::essence(&error));
        let problem = problem.hint("build the plugin again with this workbench's `workbench-api`");
        Problem { detail: Some(error.to_string()), ..problem }
    })
}
