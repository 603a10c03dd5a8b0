//! What a daemon is started with: the command line over the configuration file over the defaults.

use crate::coprocessors;
use crate::device::{Device, DeviceEntry, check_distinct, parse_device};
use crate::nodes;
use crate::quantity::{Size, Span, pool_bytes};
use codax_core::emergency::When;
use codax_core::mounting::MountOptions;
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, HUGE_SIZE, Result};
use codax_engine::{HugeMode, StoreOptions};
use codax_os::cgroup::MemoryCgroups;
use codax_os::{probe, topology};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use tracing_subscriber::EnvFilter;

/// Variable that says what is logged; comes before the configuration's `log`.
pub const LOG_VARIABLE: &str = "CODAX_LOG";

/// What the command line says, as it was typed.
#[derive(Clone, Debug, Default)]
pub struct CommandLine {
    /// `--store`.
    pub store: Option<PathBuf>,
    /// `--dram`.
    pub dram: Option<String>,
    /// `--dram-nodes`.
    pub dram_nodes: Option<String>,
    /// `--device`, each.
    pub devices: Vec<String>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--mount`.
    pub mount: Option<PathBuf>,
    /// `--mount-options`.
    pub mount_options: Option<String>,
}

/// What a daemon is started with, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store's directory, absolute.
    pub store: PathBuf,
    /// Where the store is mounted, absolute; nowhere unless it was said.
    pub mount: Option<PathBuf>,
    /// What that mount is to be like.
    pub mount_options: MountOptions,
    /// Capacity of `dram` in bytes, if it was said.
    pub dram: Option<u64>,
    /// The NUMA nodes that `dram` is kept to, if it was said.
    pub dram_nodes: Option<Vec<u32>>,
    /// The devices.
    pub devices: Vec<Device>,
    /// Where tmpfs gives huge pages.
    pub huge: HugeMode,
    /// How long a client may take to answer a step of a move.
    pub ack_timeout: Duration,
    /// How long a device's driver may take to bring it to a safe point.
    pub quiesce_timeout: Duration,
    /// How long a drain that a restart interrupted waits for files that are held.
    pub resume_wait: Duration,
    /// Bytes moved as one step, if it was said.
    pub chunk: Option<u64>,
    /// What is logged, as a filter of `tracing_subscriber`.
    pub log: String,
    /// Permission bits of the socket.
    pub socket_mode: u32,
    /// Where devices stand that are the configuration file's, by their names.
    places: BTreeMap<String, String>,
    /// Where it all came from, for a reload.
    source: CommandLine,
}

/// The configuration file, `codax.toml`. Every key may be left out; any other key is an error.
///
/// Sizes are text with a unit (`KiB`, `MiB`, `GiB`, `TiB`) or a number of bytes, times are text with `us`, `ms`, `s`, `m` or `h`. The command line comes
/// before the file. SIGHUP and `codax reload` read it again: they take what a device's link announces and what an emergency may have of it, `ack_timeout`, `quiesce_timeout`, `chunk`, `resume_wait`, `log` and `socket_mode`, and say of
/// other changes that they need a restart.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    /// The store's directory. Default: `/run/codax` for root, else `$XDG_RUNTIME_DIR/codax`, else `/dev/shm/codax-UID`. Clients don't
    /// read this file: give them the same directory with `--store` or `CODAX_STORE`.
    store: Option<PathBuf>,
    /// An empty directory on which the store is mounted, as a filesystem for every program. Default: none; `codax mount` mounts it later.
    mount: Option<PathBuf>,
    /// Options of that mount, separated by commas, in the words of mount(8): "ro,noexec". Default: none.
    mount_options: Option<String>,
    /// Capacity of the pool `dram`, a multiple of 4096 bytes. Default: what the store has; for a new one a quarter of the machine's
    /// memory, or of what the daemon's memory cgroup may have, rounded down to 2 MiB.
    dram: Option<Size>,
    /// The NUMA nodes that `dram` is kept to: a list as numactl(8) takes it ("0,2-3"), or of numbers. Default: those with CPUs if a device is a
    /// node, else wherever the kernel gives memory. Only root may say it.
    dram_nodes: Option<NodeList>,
    /// Where tmpfs gives huge pages: "within_size" (where a file fills them), "always", "never" or "advise". Default: "within_size". Takes
    /// effect where the daemon may mount.
    huge: Option<Huge>,
    /// How long a client may take to answer a step of a move before the step is undone: 10 ms to 10 min. Default: "2s".
    ack_timeout: Option<Span>,
    /// How long a device's driver may take to bring it to a safe point, to save its state and to take it back: 10 ms to an hour. Default: "10s".
    quiesce_timeout: Option<Span>,
    /// How long a drain that a restart interrupted waits for files that somebody holds, up to a day. Default: "60s".
    resume_wait: Option<Span>,
    /// Bytes moved as one step, a power of two from 64 KiB to 2 MiB: an access that meets a move waits for about one. Default: 2 MiB where there are
    /// huge pages, 512 KiB elsewhere.
    chunk: Option<Size>,
    /// What is logged to standard error (with `--detach`, to `meta/daemon.log` in the store's directory), as a `tracing` filter: "info", "warn,codax_engine=debug".
    /// The variable `CODAX_LOG` comes before it. Default: "warn".
    log: Option<String>,
    /// Permission bits of the socket, as octal text: who may connect at all; files have owners and modes of their own. Default: "0666".
    socket_mode: Option<String>,
    /// Devices beside `dram`. One given on the command line with the same name comes before one given here.
    device: Vec<Spanned<DeviceEntry>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Huge {
    WithinSize,
    Always,
    Never,
    Advise,
}

impl From<Huge> for HugeMode {
    fn from(huge: Huge) -> Self {
        match huge {
            Huge::WithinSize => Self::WithinSize,
            Huge::Always => Self::Always,
            Huge::Never => Self::Never,
            Huge::Advise => Self::Advise,
        }
    }
}

/// NUMA nodes, as they are written.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "dram_nodes: write the NUMA nodes as \"0,2-3\" or [0, 2, 3]")]
enum NodeList {
    Text(String),
    Numbers(Vec<u32>),
}

impl NodeList {
    fn numbers(self, key: &str) -> Result<Vec<u32>> {
        let mut nodes = match self {
            Self::Text(text) => topology::list(&text).ok_or_else(|| {
                let text = text.escape_debug();
                Error::invalid(format!("{key}: `{text}` is not a list of NUMA nodes, as 0,2-3"))
            })?,
            Self::Numbers(nodes) => nodes,
        };
        nodes.sort_unstable();
        nodes.dedup();
        if nodes.is_empty() {
            return Err(Error::invalid(format!("{key}: it names no NUMA node: leave it out for any")));
        }
        Ok(nodes)
    }
}

impl Config {
    /// Reads the configuration file, if there is one, and puts the command line over it. `Invalid` (`NotFound`, `Permission` for a file that
    /// can't be read) names the option or key that is wrong, in one line.
    pub fn load(line: &CommandLine) -> Result<Self> {
        let mut source = line.clone();
        source.config = source.config.as_deref().map(absolute).transpose()?;
        let (file, places) = source.config.as_deref().map_or_else(|| Ok(Default::default()), read_file)?;
        let place = source.config.as_ref().map_or_else(String::new, |path| format!("{}: ", path.display()));
        let config = Self::from_file(file).map_err(|e| Error::new(e.kind, format!("{place}{e}")))?;
        Self { places, ..config }.overridden(source)
    }

    /// What the engine is opened with, on this machine. `Invalid` names a device that it hasn't.
    pub fn store_options(&self) -> Result<StoreOptions> {
        let machine = topology::nodes(Path::new(topology::SYSFS));
        check_floors(&self.devices, probe::memory_total()).map_err(|e| self.placed(e))?;
        let devices = nodes::resolve(&self.devices, &machine).map_err(|e| self.placed(e))?;
        coprocessors::check(&self.devices)?;
        Ok(StoreOptions {
            dram_bytes: self.dram,
            dram_default: default_dram(),
            dram_nodes: match &self.dram_nodes {
                Some(wanted) => nodes::chosen_for_dram(wanted, &devices, &machine)
                    .map_err(|e| Error::new(e.kind, format!("{}: {e}", self.dram_nodes_key())))?,
                None => nodes::of_dram(&devices, &machine),
            },
            devices,
            huge: self.huge,
            ack_timeout: self.ack_timeout,
            chunk_bytes: self.chunk,
            quiesce_timeout: self.quiesce_timeout,
            resume_wait: self.resume_wait,
            ..StoreOptions::new(self.store.clone())
        })
    }

    /// An error that may be about a device, with where that is written if it is the configuration file's.
    pub(crate) fn placed(&self, e: Error) -> Error {
        let about = |name: &str| e.message.starts_with(&format!("device {name}: "));
        match self.places.iter().find(|(name, _)| about(name)) {
            Some((_, place)) => Error::new(e.kind, format!("{place}: {e}")),
            None => e,
        }
    }

    /// Where the nodes of `dram` were said.
    fn dram_nodes_key(&self) -> &'static str {
        if self.source.dram_nodes.is_some() { "--dram-nodes" } else { "dram_nodes" }
    }

    /// Reads everything again, from where it came from.
    pub(crate) fn reload(&self) -> Result<Self> {
        Self::load(&self.source)
    }

    fn from_file(file: ConfigFile) -> Result<Self> {
        let devices =
            file.device.into_iter().map(|entry| entry.into_inner().check()).collect::<Result<Vec<_>>>()?;
        check_distinct(&devices)?;
        let log = file.log.unwrap_or_else(|| "warn".into());
        check_filter("log", &log)?;
        let time =
            |key, span: Option<Span>, default, range| span.map_or(Ok(default), |s| check_time(key, s, range));
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        Ok(Self {
            store: file.store.unwrap_or_else(codax_wire::default_dir),
            mount: file.mount,
            mount_options: mount_options("mount_options", file.mount_options.as_deref())?,
            dram: file.dram.map(|size| dram_bytes("dram", size)).transpose()?,
            dram_nodes: file.dram_nodes.map(|list| list.numbers("dram_nodes")).transpose()?,
            devices,
            huge: file.huge.unwrap_or(Huge::WithinSize).into(),
            ack_timeout: time("ack_timeout", file.ack_timeout, s(2), (ms(10), s(600)))?,
            quiesce_timeout: time("quiesce_timeout", file.quiesce_timeout, s(10), (ms(10), s(3600)))?,
            resume_wait: time("resume_wait", file.resume_wait, s(60), (s(0), s(86_400)))?,
            chunk: file.chunk.map(check_chunk).transpose()?,
            log,
            socket_mode: file.socket_mode.map_or(Ok(0o666), |text| check_mode(&text))?,
            places: BTreeMap::new(),
            source: CommandLine::default(),
        })
    }

    fn overridden(mut self, source: CommandLine) -> Result<Self> {
        if let Some(store) = &source.store {
            self.store.clone_from(store);
        }
        if self.store.as_os_str().is_empty() {
            return Err(Error::invalid("store: the directory's name is empty"));
        }
        self.store = absolute(&self.store)?;
        if let Some(mount) = &source.mount {
            self.mount = Some(mount.clone());
            self.mount_options = mount_options("--mount-options", source.mount_options.as_deref())?;
        }
        if self.mount.as_ref().is_some_and(|mount| mount.as_os_str().is_empty()) {
            return Err(Error::invalid("mount: the directory's name is empty"));
        }
        self.mount = self.mount.as_deref().map(absolute).transpose()?;
        if let Some(dram) = &source.dram {
            let size = Size::parse(dram).map_err(|e| Error::new(e.kind, format!("--dram: {e}")))?;
            self.dram = Some(dram_bytes("--dram", size)?);
        }
        if let Some(list) = &source.dram_nodes {
            self.dram_nodes = Some(NodeList::Text(list.clone()).numbers("--dram-nodes")?);
        }
        let typed = source.devices.iter().map(|text| parse_device(text)).collect::<Result<Vec<_>>>()?;
        check_distinct(&typed)?;
        self.devices.retain(|device| typed.iter().all(|other| other.name != device.name));
        self.places.retain(|name, _| typed.iter().all(|device| device.name != *name));
        self.devices.extend(typed);
        if let Ok(log) = std::env::var(LOG_VARIABLE)
            && !log.is_empty()
        {
            check_filter(LOG_VARIABLE, &log)?;
            self.log = log;
        }
        self.source = source;
        Ok(self)
    }
}

/// The file's contents, and where its devices stand.
fn read_file(path: &Path) -> Result<(ConfigFile, BTreeMap<String, String>)> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            _ => ErrorKind::Invalid,
        };
        Error::new(kind, format!("configuration {}: {e}", path.display()))
    })?;
    let file = parse_file(&text).map_err(|e| Error::new(e.kind, format!("{}:{e}", path.display())))?;
    let place = |device: &Spanned<DeviceEntry>| {
        let line = line_at(&text, device.span().start);
        (device.get_ref().name().to_owned(), format!("{}:{line}", path.display()))
    };
    let places = file.device.iter().map(place).collect();
    Ok((file, places))
}

/// The number of a line, by a byte in it.
fn line_at(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

/// The file's contents; an error begins with its line number.
fn parse_file(text: &str) -> Result<ConfigFile> {
    toml::from_str(text).map_err(|e| {
        let line = line_at(text, e.span().map_or(0, |span| span.start));
        Error::invalid(format!("{line}: {}", e.message().replace('\n', "; ")))
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::invalid(format!("{}: {e}", path.display())))
}

fn dram_bytes(key: &str, size: Size) -> Result<u64> {
    pool_bytes(size).map_err(|e| Error::new(e.kind, format!("{key}: {e}")))
}

/// Refuses a condition that would always be fulfilled: less free memory than more than the machine has.
fn check_floors(devices: &[Device], machine: Option<u64>) -> Result<()> {
    let total = machine.unwrap_or(u64::MAX);
    for device in devices {
        match device.emergency.and_then(|emergency| emergency.when) {
            Some(when @ When::Free(bytes)) if bytes > total => {
                return Err(Error::invalid(format!(
                    "device {}: when: {when} is more than the machine has, {}: it would always be so",
                    device.name,
                    format_size(total)
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_time(key: &str, span: Span, (min, max): (Duration, Duration)) -> Result<Duration> {
    if (min..=max).contains(&span.0) {
        return Ok(span.0);
    }
    Err(Error::invalid(format!("{key}: {:?} is not between {min:?} and {max:?}", span.0)))
}

fn check_chunk(size: Size) -> Result<u64> {
    if size.0.is_power_of_two() && (64 << 10..=HUGE_SIZE).contains(&size.0) {
        return Ok(size.0);
    }
    Err(Error::invalid(format!("chunk: {} is not a power of two from 64 KiB to 2 MiB", size.0)))
}

fn check_mode(text: &str) -> Result<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
    mode.ok_or_else(|| {
        Error::invalid(format!(
            "socket_mode: `{text}` is not octal permission bits that let the owner in, as \"0600\" or \"0666\""
        ))
    })
}

fn mount_options(key: &str, list: Option<&str>) -> Result<MountOptions> {
    MountOptions::parse(list.unwrap_or_default()).map_err(|e| Error::new(e.kind, format!("{key}: {e}")))
}

fn check_filter(key: &str, filter: &str) -> Result<()> {
    let parsed = EnvFilter::builder().parse(filter);
    parsed.map(drop).map_err(|e| Error::invalid(format!("{key}: `{filter}` is not a log filter: {e}")))
}

/// A quarter of the machine's memory, or of what this process's memory cgroup may have, in whole huge pages.
fn default_dram() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the fields' type differs between architectures")]
    let bytes = u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit));
    let limit = MemoryCgroups::of(None).and_then(|cgroups| cgroups.limit());
    let bytes = limit.map_or(bytes, |limit| bytes.min(limit.bytes));
    (bytes / 4 / HUGE_SIZE).max(1) * HUGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, line: &CommandLine) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("codax.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&CommandLine { config: Some(path), ..line.clone() })
    }

    fn line() -> CommandLine {
        CommandLine { store: Some("/store".into()), ..CommandLine::default() }
    }

    #[test]
    fn the_example_is_read_and_holds_the_defaults() {
        let example = include_str!("../codax.example.toml");
        let given = load(example, &line()).unwrap();
        assert!(given.devices.is_empty() && given.dram.is_none());
        let plain = load("", &line()).unwrap();
        assert_eq!((given.ack_timeout, given.resume_wait), (plain.ack_timeout, plain.resume_wait));
        assert_eq!(given.quiesce_timeout, plain.quiesce_timeout);
        assert_eq!(
            (given.chunk, given.huge, given.socket_mode),
            (plain.chunk, plain.huge, plain.socket_mode)
        );
        // Every line that is commented out holds as well.
        let whole: String =
            example.lines().map(|l| l.strip_prefix("#: ").unwrap_or(l).to_owned() + "\n").collect();
        let whole = load(&whole, &CommandLine::default()).unwrap();
        assert_eq!(whole.store, Path::new("/run/codax"));
        assert_eq!(whole.mount.as_deref(), Some(Path::new("/mnt/codax")));
        assert_eq!((whole.dram, whole.chunk), (Some(8 << 30), Some(1 << 20)));
        assert_eq!(whole.dram_nodes, Some(vec![0, 1]));
        assert_eq!(whole.devices.len(), 5);
        assert_eq!(whole.devices[0].link.mbps, Some(12_500));
        assert_eq!(whole.devices[0].driver_user, Some(1000));
    }

    #[test]
    fn the_command_line_comes_first() {
        let text = "dram = \"1GiB\"\n[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\n\
                    [[device]]\nname = \"b\"\nbacking = \"emulated\"\nsize = \"1MiB\"\ngbps = 8\n";
        let typed = CommandLine {
            dram: Some("2MiB".into()),
            devices: vec!["a=emulated:8192".into(), "c=emulated:4096".into()],
            ..line()
        };
        let config = load(text, &typed).unwrap();
        assert_eq!((config.dram, config.store.as_path()), (Some(2 << 20), Path::new("/store")));
        let devices: Vec<_> = config.devices.iter().map(|d| (d.name.as_str(), d.bytes)).collect();
        assert_eq!(devices, [("b", Some(1 << 20)), ("a", Some(8192)), ("c", Some(4096))]);
        assert_eq!(config.devices[0].link.mbps, Some(8000));
    }

    #[test]
    fn a_file_says_of_emergencies_what_the_command_line_says() {
        let text = "[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 8192\nemergency = \"allow\"\nat_most = 4096\nwhen = \"some:150ms/1s\"\n\
                    [[device]]\nname = \"b\"\nbacking = \"emulated\"\nsize = 4096\nemergency = \"never\"\n";
        let typed = vec![
            "a=emulated:8192,emergency=allow,at_most=4096,when=some:150ms/1s".to_owned(),
            "b=emulated:4096".to_owned(),
        ];
        let typed = load("", &CommandLine { devices: typed, ..line() }).unwrap();
        assert_eq!(load(text, &line()).unwrap().devices, typed.devices);
    }

    #[test]
    fn a_device_of_the_file_is_named_with_its_line() {
        let device = |more: &str| {
            format!(
                "# Ours.\n\n[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 8192\nemergency = \"allow\"\n{more}"
            )
        };
        let config = load(&device("when = \"free:1000TiB\""), &line()).unwrap();
        let error = config.store_options().unwrap_err().message;
        assert!(error.contains("codax.toml:3: device a: when: free:1000TiB is more than"), "{error}");
        let typed = CommandLine { devices: vec!["a=emulated:8192".to_owned()], ..line() };
        let typed = load(&device(""), &typed).unwrap();
        let error = Error::invalid("device a: something");
        assert_eq!(typed.placed(error.clone()), error, "it is the command line's");
        assert!(
            load(&device(""), &line())
                .unwrap()
                .placed(error)
                .message
                .ends_with("codax.toml:3: device a: something")
        );
    }

    #[test]
    fn a_file_says_of_dax_what_the_command_line_says() {
        let text = "[[device]]\nname = \"a\"\nbacking = \"devdax\"\npath = \"/dev/dax0.0\"\nformat = \"force\"\nread_ns = 350\n\
                    [[device]]\nname = \"b\"\nbacking = \"fsdax\"\npath = \"/mnt/pmem0/codax\"\nsize = \"1GiB\"\nformat = true\npersistent = false\n";
        let typed = vec![
            "a=devdax:/dev/dax0.0,format=force,read_ns=350".to_owned(),
            "b=fsdax:/mnt/pmem0/codax,size=1GiB,format,persistent=no".to_owned(),
        ];
        let typed = load("", &CommandLine { devices: typed, ..line() }).unwrap();
        assert_eq!(load(text, &line()).unwrap().devices, typed.devices);
    }

    #[test]
    fn bad_files_are_refused_with_the_line_and_the_key() {
        for (bad, says) in [
            ("speed = 3", "1: unknown field `speed`"),
            ("\n\nhuge = \"sometimes\"", "3: unknown variant `sometimes`"),
            ("dram", "1:"),
            ("dram = 0", "size 0"),
            ("dram = -4096", "negative"),
            ("dram = \"-1GiB\"", "negative"),
            ("dram = 5000", "not a multiple"),
            ("dram = 99999999999999999999", "1:"),
            ("dram = \"18446744073709551615\"", "dram"),
            ("dram = \"much\"", "much"),
            ("dram = true", "true is not a size"),
            ("dram_nodes = \"\"", "dram_nodes: it names no NUMA node"),
            ("dram_nodes = []", "dram_nodes: it names no NUMA node"),
            ("dram_nodes = \"0,x\"", "dram_nodes: `0,x` is not a list"),
            ("dram_nodes = \"3-1\"", "dram_nodes: `3-1` is not a list"),
            ("dram_nodes = [-1]", "dram_nodes: write the NUMA nodes as"),
            ("dram_nodes = 1", "dram_nodes: write the NUMA nodes as"),
            ("ack_timeout = \"0s\"", "ack_timeout"),
            ("ack_timeout = 2", "2 is not a time"),
            ("ack_timeout = \"2h\"", "ack_timeout"),
            ("resume_wait = \"100000s\"", "resume_wait"),
            ("chunk = \"3MiB\"", "chunk"),
            ("chunk = 98304", "chunk"),
            ("chunk = 4096", "chunk"),
            ("log = \"a=b=c\"", "log"),
            ("socket_mode = \"0888\"", "socket_mode"),
            ("socket_mode = \"066\"", "socket_mode"),
            ("socket_mode = 438", "invalid type"),
            ("store = \"\"", "store"),
            ("mount = \"\"", "mount"),
            ("mount_options = \"ro,colour\"", "mount_options: a mount has no option `colour`"),
            ("[[device]]\nname = \"a\"\nsize = 4096", "missing field `backing`"),
            (
                "[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\nemergency = true",
                "emergency: write \"never\" or \"allow\"",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\nwhen = 5",
                "when: write a condition, as \"free:512MiB\"",
            ),
            ("[[device]]\nname = \"a\"\nbacking = \"emulated\"", "`size` is missing"),
            ("[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\nnode = 1", "`node` is nothing"),
            ("[[device]]\nname = \"a\"\nbacking = \"numa\"", "`node` is missing"),
            ("[[device]]\nname = \"a\"\nbacking = \"numa\"\nnode = 1\nsize = 4096", "a node has `reserve`"),
            ("[[device]]\nname = \"a\"\nbacking = \"numa\"\nnode = 1\nreserve = \"some\"", "or `all`"),
            ("[[device]]\nname = \"a\"\nbacking = \"numa\"\nnode = 1\nreserve = 5000", "reserve: "),
            (
                "[[device]]\nname = \"a\"\nbacking = \"numa\"\nnode = 1\npage = \"8K\"",
                "there are 4K, thp, 2M and 1G",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"numa\"\nnode = 1\nformat = true",
                "`format` is nothing that a numa",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\npath = \"/a\"",
                "`path` is nothing",
            ),
            ("[[device]]\nname = \"a\"\nbacking = \"devdax\"", "`path` is missing: the device file"),
            (
                "[[device]]\nname = \"a\"\nbacking = \"devdax\"\npath = \"/d\"\nsize = 4096",
                "all of it is the pool's",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"devdax\"\npath = \"/d\"\nnode = 1",
                "nothing that a devdax device has",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"devdax\"\npath = \"/d\"\nformat = \"yes\"",
                "format: write true, false or",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"devdax\"\npath = \"/d\"\npersistent = \"yes\"",
                "invalid type",
            ),
            ("[[device]]\nname = \"a\"\nbacking = \"fsdax\"\npath = \"mnt\"", "does not begin with /"),
            ("[[device]]\nname = \"a\"\nbacking = \"fsdax\"\npath = \"/a,b\"", "comma"),
            ("[[device]]\nname = \"a\"\nbacking = \"fsdax\"\npath = \"/a\\nb\"", "control character"),
            ("[[device]]\nname = \"a\"\nbacking = \"fsdax\"\npath = \"/a\"\nsize = 5000", "not a multiple"),
            (
                "[[device]]\nname = \"a\"\nbacking = \"fsdax\"\npath = \"/a\"\nreserve = \"all\"",
                "`reserve` is nothing",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\nemergency = \"allow\"\nat_most = true",
                "at_most: write a size",
            ),
            (
                "[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\nat_most = \"5%\"",
                "it wants emergency=allow",
            ),
            (
                "[[device]]\nname = \"dram\"\nbacking = \"emulated\"\nsize = 4096\nemergency = \"allow\"",
                "which devices may help out",
            ),
            ("[[device]]\nname = \"a/b\"\nbacking = \"emulated\"\nsize = 4096", "only letters"),
            ("[[device]]\nname = \"a\"\nbacking = \"cxl\"\nsize = 4096", "no backing `cxl`"),
            ("[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 1", "not a multiple"),
            (
                "[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\ncolour = 1",
                "unknown field `colour`",
            ),
            ("[[device]]\nname = \"a\"\nbacking = \"emulated\"\nsize = 4096\ngbps = 0", "`0`"),
            (
                "device = [{name=\"a\",backing=\"emulated\",size=4096},{name=\"a\",backing=\"emulated\",size=4096}]",
                "given twice",
            ),
        ] {
            let error = load(bad, &CommandLine::default()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{bad}: {error}");
            assert!(error.message.contains(says) && !error.message.contains('\n'), "{bad}: {error}");
        }
    }

    #[test]
    fn bad_command_lines_are_refused() {
        let bad = |line: CommandLine| Config::load(&line).unwrap_err();
        let dram = bad(CommandLine { dram: Some("0".into()), ..line() });
        assert!(dram.message.starts_with("--dram: size 0"), "{dram}");
        let nodes = bad(CommandLine { dram_nodes: Some("all".into()), ..line() });
        assert!(nodes.message.starts_with("--dram-nodes: `all` is not a list"), "{nodes}");
        let twice = vec!["a=emulated:1MiB".to_owned(); 2];
        assert!(bad(CommandLine { devices: twice, ..line() }).message.contains("given twice"));
        let missing = bad(CommandLine { config: Some("/nowhere/codax.toml".into()), ..line() });
        assert_eq!(missing.kind, ErrorKind::NotFound);
        assert!(bad(CommandLine { store: Some("".into()), ..line() }).message.contains("empty"));
    }

    #[test]
    fn nodes_of_dram_are_lists_of_either_kind_and_those_typed_come_first() {
        let nodes = |text: &str, typed: Option<&str>| {
            load(text, &CommandLine { dram_nodes: typed.map(str::to_owned), ..line() }).unwrap().dram_nodes
        };
        assert_eq!(nodes("dram_nodes = \"0,2-3\"", None), Some(vec![0, 2, 3]));
        assert_eq!(nodes("dram_nodes = [2, 0, 2]", None), Some(vec![0, 2]));
        assert_eq!(nodes("dram_nodes = [2]", Some("1")), Some(vec![1]));
        assert_eq!(nodes("", None), None);
        let nowhere = load("dram_nodes = [60000]", &line()).unwrap().store_options().unwrap_err();
        assert!(nowhere.message.starts_with("dram_nodes: there is no NUMA node 60000"), "{nowhere}");
    }

    #[test]
    fn a_default_for_dram_is_whole_huge_pages_of_a_part_of_the_memory() {
        let options = load("", &line()).unwrap().store_options().unwrap();
        assert!(options.dram_default > 0 && options.dram_default.is_multiple_of(HUGE_SIZE));
        assert_eq!(options.dram_bytes, None);
    }
}
