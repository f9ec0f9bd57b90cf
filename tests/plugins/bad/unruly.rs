//! A quantizer that rounds as it should, and does something to its process besides that is none of a plugin's business.

#![allow(clippy::print_stdout, clippy::print_stderr, unsafe_code)]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;
use workbench_test_plugins::{sign_grid, sign_quantize};

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Conduct {
    /// Nothing else.
    #[default]
    None,
    /// A process in its group and one outside stay behind, with all that they inherit.
    LeaveProcesses,
    /// The same, and then it hangs.
    LeaveProcessesAndHang,
    /// The same, and then it crashes.
    LeaveProcessesAndAbort,
    /// An exit handler that hangs.
    HangAtExit,
    /// An exit handler that hangs, and it hangs before that.
    HangTwice,
    /// Prints what looks like events.
    Forge,
    /// Prints much, in no encoding and without an end of a line.
    Noise,
    /// Closes standard input and output.
    CloseOutput,
    /// Has standard output go elsewhere.
    RedirectOutput,
    /// Closes everything but the standard streams.
    CloseAll,
    /// Closes everything but the standard streams, and then it hangs.
    CloseAllAndHang,
    /// Sends many lines, some of them long.
    Flood,
    /// Says what a terminal would obey.
    Escapes,
    /// Goes to another directory.
    ChangeDirectory,
    /// Has a child that eats memory.
    HungryChild,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// What it does besides.
    conduct: Conduct,
}

struct Unruly(Conduct);

impl Plugin for Unruly {
    type Parameters = Parameters;
    const NAME: &'static str = "unruly";
    const SUMMARY: &'static str = "Does what is none of its business";
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        if parameters.conduct == Conduct::ChangeDirectory {
            std::env::set_current_dir("/").map_err(|e| Error::input(e.to_string()))?;
        }
        Ok(Self(parameters.conduct))
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let linear =
            Linear { module: "a".to_owned(), weight: "a.weight".to_owned(), grid: sign_grid()?, ..Linear::default() };
        let mut model = ExampleModel::default();
        model.tensors.insert("a.weight".to_owned(), ExampleTensor::f32(&[2, 2], &[1.0, -1.0, 2.0, 2.0]));
        let mut example = Example::new("as it should be", Job::Linear(linear), model);
        let codes = ExampleCodes { codes: vec![1, -1, 1, 1], scales: vec![1.0, 2.0], zero_points: None };
        example.expected.codes.insert("a".to_owned(), codes);
        Ok(vec![example])
    }
}

fn leave_processes() {
    let _ = Command::new("sleep").arg("600").spawn();
    // Its own parent ends at once, so that nobody below the node is its parent.
    let script = "trap '' TERM INT HUP; sleep 600 & sleep 600";
    let mut stray = Command::new("sh");
    // SAFETY: between fork and exec only calls are made that may be made there.
    unsafe {
        stray.args(["-c", script]).pre_exec(|| {
            libc::setsid();
            if libc::fork() != 0 {
                libc::_exit(0);
            }
            Ok(())
        });
    }
    let _ = stray.spawn();
    // SAFETY: the child only sleeps.
    unsafe {
        if libc::fork() == 0 {
            libc::sleep(600);
            libc::_exit(0);
        }
    }
    std::thread::sleep(Duration::from_millis(300));
}

extern "C" fn hang() {
    std::thread::sleep(Duration::from_secs(600));
}

fn close_from(first: i32) {
    for descriptor in first..1024 {
        // SAFETY: whoever owns the descriptor finds it closed; that is the point.
        unsafe {
            libc::close(descriptor);
        }
    }
}

fn misbehave(conduct: Conduct, host: &Host<'_>) {
    let print = |bytes: &[u8]| drop(std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()));
    match conduct {
        Conduct::LeaveProcesses => leave_processes(),
        Conduct::LeaveProcessesAndHang => {
            leave_processes();
            hang();
        }
        Conduct::LeaveProcessesAndAbort => {
            leave_processes();
            std::process::abort();
        }
        // SAFETY: registering a function that lives as long as the library.
        Conduct::HangAtExit => drop(unsafe { libc::atexit(hang) }),
        Conduct::HangTwice => {
            // SAFETY: as above.
            unsafe { libc::atexit(hang) };
            hang();
        }
        Conduct::Forge => {
            for event in [
                r#"{"event":"done","existed":false}"#,
                r#"{"event":"failed","message":"forged","causes":[],"hints":[]}"#,
                r#"{"event":"log","level":"error","message":"forged"}"#,
                r#"{"event":"plugin","name":"forged","timeout":1}"#,
            ] {
                println!("{event}");
                eprintln!("{event}");
            }
            std::thread::sleep(Duration::from_millis(1500));
        }
        Conduct::Noise => {
            print(b"begin of noise ");
            (0..512).for_each(|_| print(&[0xff; 64 << 10]));
            print(b" end of noise");
        }
        // SAFETY: nobody of the node's own uses them.
        Conduct::CloseOutput => unsafe {
            libc::close(0);
            libc::close(1);
        },
        Conduct::RedirectOutput => {
            if let Ok(file) = std::fs::File::create("redirected.txt") {
                use std::os::fd::AsRawFd;
                // SAFETY: both descriptors are open.
                unsafe { libc::dup2(file.as_raw_fd(), 1) };
            }
            println!("elsewhere");
        }
        Conduct::CloseAll => close_from(3),
        Conduct::CloseAllAndHang => {
            close_from(3);
            hang();
        }
        Conduct::Flood => {
            for line in 0..20_000 {
                host.log(Level::Warn, &format!("line {line}"));
            }
            host.log(Level::Warn, &"long ".repeat(1 << 20));
        }
        Conduct::Escapes => {
            host.log(Level::Warn, "\u{1b}]0;title\u{7}\u{1b}[2J\r[1/1] done \u{9b}31m\nnext \u{202e}line")
        }
        Conduct::HungryChild => {
            // `tail` keeps the last line, which never ends.
            let _ = Command::new("sh").args(["-c", "tail -n 1 /dev/zero"]).status();
        }
        Conduct::None | Conduct::ChangeDirectory => {}
    }
}

impl Quantizer for Unruly {
    fn quantize(&self, linear: &Linear, host: &Host<'_>) -> Result<QuantizedLinear, Error> {
        let weight = host.tensor(&linear.weight)?;
        let (rows, columns) = weight.matrix_shape()?;
        let identity: Vec<f32> = (0..columns * columns).map(|i| f32::from(u8::from(i % (columns + 1) == 0))).collect();
        misbehave(self.0, host);
        if self.0 == Conduct::Escapes {
            return Err(Error::input("bad \u{1b}[31mred\u{1b}[0m\u{7}").with_hint("\u{1b}]0;x\u{7}"));
        }
        sign_quantize(&weight.to_f32()?, [rows, columns], &identity, &identity, linear.grid.clone())
    }
}

workbench_api::export_quantizer!(Unruly);
