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

/// What `codax run` takes for each operation.
const RUN_HELP: &str = "\
Operations, and what stands after PATH:
  crc32c, xxh3                            (the file, or --range of it)
  sum-f32, sum-f64, sum-i64, min-…, max-… (the same)
  search      TEXT     1 to 256 bytes
  compare     SECOND   a path: the file that PATH, or --range of it, is compared with; all of it, and as long
  dot-f32, dot-f64, dot-i64   SECOND
  copy        OUTPUT   a path: made if it isn't there; written from its beginning
  fill        BYTE     a number from 0 to 255
  histogram   [OUTPUT] 256 u64; without a path they are printed
  matvec-f32  VECTOR [OUTPUT]  PATH has the matrix, row after row
  nop                  (and no PATH)
docs/operations.md says what each gives, docs/queues.md how programs do this.";

/// `codax run`.
#[derive(Debug, Args)]
#[command(after_long_help = RUN_HELP)]
pub struct RunArgs {
    /// The device
    pub device: String,

    /// The operation
    #[arg(value_name = "OP")]
    pub operation: String,

    /// Path in the store
    pub path: Option<OsString>,

    /// What the operation takes beside it: see below
    #[arg(value_name = "ARGS")]
    pub more: Vec<OsString>,

    /// Only these bytes of PATH
    #[arg(long, value_name = "OFFSET:LENGTH")]
    pub range: Option<String>,

    /// Have the result's 16 bytes written to this file, which is made if it isn't there
    #[arg(long, value_name = "PATH")]
    pub result_to: Option<OsString>,

    /// Where in that file
    #[arg(long, value_name = "OFFSET", requires = "result_to", default_value = "0")]
    pub result_at: String,
}

/// `codax coprocessor`.
#[derive(Debug, Args)]
pub struct CoprocessorArgs {
    /// The device
    #[arg(long)]
    pub device: String,

    /// The CPU
    #[arg(long)]
    pub cpu: Option<u32>,
}
