//! Commands about files and directories. Paths may be any bytes, so they are taken as they come.

use clap::{ArgGroup, Args};
use std::ffi::OsString;
use std::path::PathBuf;

/// Where new pages go.
#[derive(Clone, Debug, Default, Args)]
#[command(group = ArgGroup::new("where"))]
pub struct WhereArgs {
    /// In this pool and no other; when it is full, there is no space
    #[arg(long, value_name = "POOL", group = "where")]
    pub on: Option<String>,

    /// With --on: not even a drain may take it elsewhere
    #[arg(long, requires = "on")]
    pub strict: bool,

    /// In this pool, and in dram when it is full
    #[arg(long, value_name = "POOL", group = "where")]
    pub prefer: Option<String>,

    /// In turns of 2 MiB over these pools
    #[arg(long, value_name = "POOL,POOL", group = "where")]
    pub interleave: Option<String>,

    /// Never on a device that helps out when dram is full: then there is no space
    #[arg(long)]
    pub no_emergency: bool,
}

/// `codax put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// A file of this machine, or - for standard input
    pub src: PathBuf,

    /// Path in the store; an existing directory takes the file under its own name
    pub path: OsString,

    #[command(flatten)]
    pub place: WhereArgs,

    /// Replace a file that is there already
    #[arg(short, long)]
    pub force: bool,

    /// Put a directory with everything in it; links and special files are left out
    #[arg(short, long)]
    pub recursive: bool,
}

/// `codax get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Path in the store
    pub path: OsString,

    /// Where to: a file of this machine, a directory, or - for standard output
    pub dst: PathBuf,

    /// Replace a file that is there already
    #[arg(short, long)]
    pub force: bool,

    /// Get a directory with everything in it
    #[arg(short, long)]
    pub recursive: bool,
}

/// `codax cat`, `codax stat`.
#[derive(Debug, Args)]
pub struct PathsArgs {
    /// Paths in the store
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

/// `codax doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Files and directories in a mount: by whom they are served, and why
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `codax ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Path in the store
    #[arg(default_value = "/")]
    pub path: OsString,

    /// With mode, owner, size, pools and time
    #[arg(short, long)]
    pub long: bool,
}

/// `codax mkdir`.
#[derive(Debug, Args)]
pub struct MkdirArgs {
    /// Paths in the store
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,

    /// Make missing parents too, and don't mind a directory that is there
    #[arg(short, long)]
    pub parents: bool,

    #[command(flatten)]
    pub place: WhereArgs,
}

/// `codax rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Paths in the store
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,

    /// A directory goes with everything in it
    #[arg(short, long)]
    pub recursive: bool,

    /// Don't mind what isn't there
    #[arg(short, long)]
    pub force: bool,
}

/// `codax mv`.
#[derive(Debug, Args)]
pub struct MvArgs {
    /// Old path
    pub from: OsString,

    /// New path; an existing directory takes it under its old name
    pub to: OsString,

    /// Don't replace what is there
    #[arg(short, long)]
    pub no_clobber: bool,
}

/// `codax chmod`.
#[derive(Debug, Args)]
pub struct ChmodArgs {
    /// Octal (644) or symbolic (u+x,go-w)
    #[arg(allow_hyphen_values = true)]
    pub mode: String,

    /// Paths in the store
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

/// `codax chown`.
#[derive(Debug, Args)]
pub struct ChownArgs {
    /// USER, USER:GROUP or :GROUP, by name or number
    pub owner: String,

    /// Paths in the store
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
}

/// `codax du`.
#[derive(Debug, Args)]
pub struct DuArgs {
    /// Paths in the store
    #[arg(default_value = "/", value_name = "PATH")]
    pub paths: Vec<OsString>,
}

/// `codax placement`.
#[derive(Debug, Args)]
pub struct PlacementArgs {
    /// Path in the store
    pub path: OsString,

    #[command(flatten)]
    pub place: WhereArgs,

    /// Take the directory's placement again
    #[arg(long, group = "where")]
    pub clear: bool,

    /// Take back --no-emergency
    #[arg(long, conflicts_with = "no_emergency")]
    pub emergency: bool,
}

/// `codax move`.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// Path in the store
    pub path: OsString,

    /// The pool
    #[arg(long, value_name = "POOL")]
    pub to: String,

    /// Only the blocks of 2 MiB that these bytes touch
    #[arg(long, value_name = "OFFSET:LENGTH")]
    pub range: Option<String>,
}
