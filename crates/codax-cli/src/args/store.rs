//! Commands about the store as a whole, its daemon and its devices.

use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// `codax up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Room in the pool `dram`, the host's own memory
    #[arg(long, value_name = "SIZE")]
    pub dram: Option<String>,

    /// The NUMA nodes that dram is kept to, as numactl(8) takes them: 0,2-3 (root only)
    #[arg(long, value_name = "NODES")]
    pub dram_nodes: Option<String>,

    /// A device; more than one may be given. NAME=software[:SIZE][,cpu=N] is one with a coprocessor (codax run), whose memory is emulated if it has some, NAME=none one without memory whose driver connects, NAME=numa:NODE[,page=4K|thp|2M|1G][,reserve=SIZE|all][,exclusive=reserve|movable|none][,cpus=yes] is a NUMA node, NAME=devdax:/dev/daxX.Y[,format|,format=force][,persistent=yes|no] a DAX device, NAME=fsdax:DIR[,size=SIZE] with the same a directory of a DAX filesystem. The link's figures are what the pool announces; gbps also paces moves. With emergency=allow[,at_most=SIZE|PERCENT%][,when=free:SIZE|some:STALL/WINDOW|full:STALL/WINDOW] it helps out when memory is exhausted
    #[arg(long = "device", value_name = "NAME=emulated:SIZE[,read_ns=N,write_ns=N,gbps=N]")]
    pub devices: Vec<String>,

    /// Configuration (codax.toml); options on the command line come first
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Mount the store on this empty directory
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,

    /// Options of that mount, as of codax mount
    #[arg(long, value_name = "LIST", requires = "mount")]
    pub mount_options: Option<String>,

    /// Return once the store is served, and log to meta/daemon.log in the store's directory
    #[arg(long)]
    pub detach: bool,
}

/// `codax mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// An empty directory
    pub dir: PathBuf,

    /// Options of mount(8), separated by commas: ro, noexec, sync, dirsync, noatime, nodiratime, strictatime, lazytime
    #[arg(short, long, value_name = "LIST")]
    pub options: Vec<String>,
}

/// `codax umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// The directory (default: everywhere)
    pub dir: Option<PathBuf>,
}

/// `codax down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Delete the store, its files and everything it mounted
    #[arg(long)]
    pub purge: bool,
}

/// `codax events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Go on with new events as they come
    #[arg(short, long)]
    pub follow: bool,

    /// Start with event number N (default: the first that is kept, or with --follow the last ten)
    #[arg(long, value_name = "N")]
    pub since: Option<u64>,
}

/// `codax device`.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// What of this machine's memory codax could use, and the lines for codax.toml; needs no daemon
    Discover,
    /// All devices, with what they announce
    List,
    /// One device
    Show(DeviceName),
    /// Move everything off a device and take it out of service
    Drain(DrainArgs),
    /// Put a device back in service and bring home what a drain took away; cancels a drain that runs
    Online(OnlineArgs),
    /// Let go of an offline device, so that its memory can leave the machine, and say who else is on it
    Detach(DeviceName),
    /// Take a detached device again; it is offline then
    Attach(DeviceName),
    /// Move what other programs have on a device's NUMA node to the host's own memory
    EvictStrangers(EvictStrangersArgs),
}

impl DeviceCommand {
    /// See [`super::Command::name`].
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Discover => "device discover",
            Self::List => "device list",
            Self::Show(_) => "device show",
            Self::Drain(_) => "device drain",
            Self::Online(_) => "device online",
            Self::Detach(_) => "device detach",
            Self::Attach(_) => "device attach",
            Self::EvictStrangers(_) => "device evict-strangers",
        }
    }
}

/// A device.
#[derive(Debug, Args)]
pub struct DeviceName {
    /// The device
    pub name: String,
}

/// `codax device evict-strangers`.
#[derive(Debug, Args)]
pub struct EvictStrangersArgs {
    /// The device
    pub name: String,

    /// Print what would be moved, and why some would stay, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `codax device drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The device
    pub name: String,

    /// Print the plan and do nothing; exit code 0 also when it says that the drain can't be done now
    #[arg(long)]
    pub dry_run: bool,

    /// Move what can be moved and wait so long for files that somebody holds; without it (and --evict) a held file refuses the drain
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<String>,

    /// Keep below this bandwidth
    #[arg(long, value_name = "GB/S")]
    pub limit: Option<String>,

    /// Kill the processes that still hold a file when the wait is over; at once without --wait
    #[arg(long)]
    pub evict: bool,
    /// Let files that outlive the power go to memory that doesn't; without it a persistent device is drained only to others
    #[arg(long)]
    pub volatile: bool,

    /// Reset a device whose driver doesn't bring it to a safe point in time: what it was doing is lost; without it such a device refuses the drain
    #[arg(long)]
    pub reset_device: bool,

    /// Take only files off it: its coprocessor goes on with what it does, wherever they are
    #[arg(long, conflicts_with = "reset_device")]
    pub keep_running: bool,
}

/// `codax device online`.
#[derive(Debug, Args)]
pub struct OnlineArgs {
    /// The device
    pub name: String,

    /// Reset it, and drop the state that a drain saved, in place of giving that back
    #[arg(long)]
    pub reset_device: bool,
}

/// `codax quota`.
#[derive(Debug, Args)]
pub struct QuotaArgs {
    #[command(subcommand)]
    pub command: Option<QuotaCommand>,
}

/// What is done to quotas; without it they are listed.
#[derive(Debug, Subcommand)]
pub enum QuotaCommand {
    /// List them, as without a word
    List,
    /// Let a user or a directory have so much of a pool: less than it has is allowed, and it gets nothing more until it has less
    Set(QuotaSetArgs),
    /// Let it have as much as there is again
    Clear(QuotaClearArgs),
}

impl QuotaArgs {
    /// See [`super::Command::name`].
    pub const fn name(&self) -> &'static str {
        match self.command {
            None | Some(QuotaCommand::List) => "quota",
            Some(QuotaCommand::Set(_)) => "quota set",
            Some(QuotaCommand::Clear(_)) => "quota clear",
        }
    }
}

/// Whose a quota is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct WhoseArgs {
    /// A user, by name or number: all files that are theirs
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// A directory of the store: all files below it
    #[arg(long, value_name = "PATH")]
    pub dir: Option<OsString>,
}

/// `codax quota set`.
#[derive(Debug, Args)]
pub struct QuotaSetArgs {
    #[command(flatten)]
    pub whose: WhoseArgs,

    /// The pool
    pub pool: String,

    /// How much of it, in whole frames of 4 KiB; 0 is nothing
    #[arg(allow_hyphen_values = true)]
    pub size: String,
}

/// `codax quota clear`.
#[derive(Debug, Args)]
pub struct QuotaClearArgs {
    #[command(flatten)]
    pub whose: WhoseArgs,

    /// The pool (default: all)
    pub pool: Option<String>,
}

/// `codax pages`.
#[derive(Debug, Args)]
pub struct PagesArgs {
    /// The pool
    pub pool: String,

    /// Only the frames of this file: a path, or #ID
    #[arg(long, value_name = "PATH")]
    pub file: Option<OsString>,

    /// One row for every frame, not for every run of them
    #[arg(long)]
    pub each: bool,
}

/// `codax probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The pools (default: all that are online)
    #[arg(value_name = "POOL")]
    pub pools: Vec<String>,

    /// Measure each pool for about so long, and all pairs of CPUs together for as long
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub time: String,

    /// Measure in so many bytes of each pool (default: twice the last-level cache, from 64 to 512 MiB, and no more than half of what is free)
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,

    /// Directory of the store in which the file to measure in is made; it has no name while it is measured
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub dir: OsString,

    /// Pair all CPUs; of more than 16, some that stand for the rest are taken otherwise
    #[arg(long)]
    pub all_cpus: bool,
}

/// `codax check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Mend what can be mended, and say what is lost
    #[arg(long)]
    pub repair: bool,
}

/// `codax demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Load the files below this directory, at most 20000 of them (default: some of /usr/lib and of the Rust toolchain's libraries)
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,

    /// Load at most so much (default: 256 MiB, or all that is below --input)
    #[arg(long, value_name = "BYTES")]
    pub size: Option<String>,

    /// What the device sim0 is, as behind `codax up --device NAME=`: emulated, or numa:NODE[,page=4K|thp|2M] (root only)
    #[arg(long, value_name = "WHAT", default_value = "emulated")]
    pub device: String,
}

/// `codax completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `codax man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to write the pages; made if it isn't there
    pub dir: PathBuf,
}
