//! What was typed: the command line, word for word. What it means is worked out by [`checked`], before anything is done.

pub mod checked;
mod files;
mod store;
mod usage;

pub use files::*;
pub use store::*;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;

/// Names the store's directory where no option does.
const STORE_VARIABLE: &str = "CODAX_STORE";

const LONG_ABOUT: &str = "\
codax puts the memory of coherently attached devices under a filesystem: what is on a device is there because somebody put it there, \
under a name; it is mapped, not copied; it can be moved while it is in use, and the device can be emptied at any time.

A store is one namespace with its pools, served by one daemon (`codax up`). Pools are named; the host's own memory is the pool `dram`. \
Paths of the store start with `/`; the leading `/` may be left out.";

const AFTER_HELP: &str = "\
Sizes are bytes, or take KiB, MiB, GiB or TiB (64MiB). Durations take ms, s, m or h (1500ms, 30s). Rates are in GB/s, 10^9 bytes a second (2.5).

The store's directory is --store, or CODAX_STORE, or a default: /run/codax for root; for others $XDG_RUNTIME_DIR/codax, which most systems \
remove when the user's last session ends (`loginctl enable-linger` keeps it), or /dev/shm/codax-UID where there is no XDG_RUNTIME_DIR, \
which a logout leaves alone unless systemd-logind has RemoveIPC=yes.

--json prints one object, {\"schema\": 1, \"command\": \"ls\", \"rows\": [...]}, with `rows` a list however many rows there are; `events --follow` \
prints one such object a line. Numbers are bytes and nanoseconds. A path or name is given twice: `path` (`name`) is the text, or null if it is \
not UTF-8, and `path_hex` (`name_hex`) is always its bytes in hexadecimal. Commands whose standard output is a file's content (`cat`, `get PATH -`) \
print the object on standard error. `demo` prints an object of its own form as its last line. Where text is for people, names are escaped (\\n, \\\\, \\x9f).

Exit codes: 0 ok, 1 internal, 2 usage, 3 not found, 4 no space, 5 busy, 6 device state, 7 permission, 8 no daemon, 9 corrupt, 10 exists, \
11 over quota, 130 cancelled.";

/// Device memory as files: put, map, move while mapped, drain.
#[derive(Debug, Parser)]
#[command(name = "codax", version, long_about = LONG_ABOUT, after_long_help = AFTER_HELP)]
#[command(arg_required_else_help = true, max_term_width = 100, infer_long_args = false)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the program's words, or ends it with help.
    pub fn typed() -> codax_core::Result<Self> {
        let mut command = Self::command();
        // An empty variable says nothing; an empty option is an error.
        if std::env::var_os(STORE_VARIABLE).is_some_and(|value| value.is_empty()) {
            command = command.mut_arg("store", |arg| arg.env(None));
        }
        let words = command.try_get_matches();
        words.and_then(|mut words| Self::from_arg_matches_mut(&mut words)).map_err(|e| usage::mistake(&e))
    }
}

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Directory of the store (`codax help` tells the default)
    #[arg(long, global = true, env = STORE_VARIABLE, value_name = "DIR", help_heading = "Global options")]
    pub store: Option<PathBuf>,

    /// Print JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the daemon of a store, making the store if it isn't there
    Up(UpArgs),
    /// End the daemon; the store stays unless --purge
    Down(DownArgs),
    /// Mount the store on a directory: every program sees it as files
    Mount(MountArgs),
    /// Unmount it
    Umount(UmountArgs),
    /// Make the daemon read its configuration again
    Reload,
    /// What the store has and does
    Status,
    /// What the store did and refused, and why
    Events(EventsArgs),
    /// What this machine can do for a store, and what follows; or how mounts serve files
    Doctor(DoctorArgs),
    /// Devices: discover, list, show, drain, online
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Put a file (or - for standard input) into the store
    Put(PutArgs),
    /// Get a file out of the store (to - for standard output)
    Get(GetArgs),
    /// Print files of the store
    Cat(PathsArgs),
    /// List a directory
    Ls(LsArgs),
    /// All about a file or directory: placement, extents, who maps it
    Stat(PathsArgs),
    /// Make directories
    Mkdir(MkdirArgs),
    /// Remove files, and with -r trees
    Rm(RmArgs),
    /// Rename a file or directory
    Mv(MvArgs),
    /// Change permission bits
    Chmod(ChmodArgs),
    /// Change owner and group
    Chown(ChownArgs),
    /// Room in every pool
    Df,
    /// Bytes and files below a path, per pool
    Du(DuArgs),
    /// Print or change where a file's or directory's pages go
    Placement(PlacementArgs),
    /// How much of each pool users and directories may have; set and clear that
    Quota(QuotaArgs),
    /// Move a file to a pool, while it is in use
    Move(MoveArgs),
    /// Run an operation on files, by a device's coprocessor
    Run(RunArgs),
    /// What lies in every frame of a pool, read from the frame table itself; needs no daemon
    Pages(PagesArgs),
    /// Measure latency and bandwidth of pools, and what the CPUs tell each other costs, beside what is announced
    Probe(ProbeArgs),
    /// Compare frame table, journal and objects; exit code 9 if they differ
    Check(CheckArgs),
    /// Show the main job with real files and processes, on a store of its own that goes at the end
    Demo(DemoArgs),
    /// Print a completion script
    Completions(CompletionsArgs),
    /// Write manual pages, one for each command
    Man(ManArgs),
    /// Be the coprocessor of a device: started by the daemon
    #[command(hide = true)]
    Coprocessor(CoprocessorArgs),
}

impl Command {
    /// The name under which the command is typed, as JSON has it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Down(_) => "down",
            Self::Mount(_) => "mount",
            Self::Umount(_) => "umount",
            Self::Reload => "reload",
            Self::Status => "status",
            Self::Events(_) => "events",
            Self::Doctor(_) => "doctor",
            Self::Device(device) => device.name(),
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Cat(_) => "cat",
            Self::Ls(_) => "ls",
            Self::Stat(_) => "stat",
            Self::Mkdir(_) => "mkdir",
            Self::Rm(_) => "rm",
            Self::Mv(_) => "mv",
            Self::Chmod(_) => "chmod",
            Self::Chown(_) => "chown",
            Self::Df => "df",
            Self::Du(_) => "du",
            Self::Placement(_) => "placement",
            Self::Quota(args) => args.name(),
            Self::Move(_) => "move",
            Self::Run(_) => "run",
            Self::Pages(_) => "pages",
            Self::Probe(_) => "probe",
            Self::Check(_) => "check",
            Self::Demo(_) => "demo",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
            Self::Coprocessor(_) => codax_daemon::SUBCOMMAND,
        }
    }
}
