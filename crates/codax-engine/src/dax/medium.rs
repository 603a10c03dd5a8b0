//! Taking a medium: what is on it, whether it may be made a pool's, and opening it.

use super::areas;
use crate::backing::{Backing, Devdax, Fsdax, OBJECTS, object_of, os_error};
use crate::catalog::{Catalog, Copies, Found, Geometry, SUPERBLOCK_BYTES, Superblock, probe};
use crate::env::Env;
use crate::options::{DaxSpec, Format};
use codax_core::change::{DaxMemory, PoolRecord};
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, HUGE_SIZE, PAGE_SIZE, PageCount, PoolUuid, Result};
use codax_os::dax::{DaxDevice, OpenError};
use codax_os::filesystem;
use codax_os::process::{self, Hold};
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of a directory's filesystem so much stays free where no size is given, as a part.
const LEFT_PART: u64 = 16;

/// What the store knows of a medium that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Nothing: it takes it for the first time. It may be formatted.
    First,
    /// Its files are there.
    Again,
    /// It has left nothing there: another store may have had it meanwhile.
    Empty,
}

/// What a new pool on a medium will be.
#[derive(Debug)]
pub(crate) struct Plan {
    pub memory: DaxMemory,
    pub persistent: bool,
    /// Capacity in frames.
    pub frames: u64,
}

/// A medium, open.
pub(crate) struct Taken {
    pub backing: Arc<dyn Backing>,
    pub catalog: Catalog,
    /// Lines for people: what was not as it should be.
    pub notes: Vec<String>,
}

/// A medium that nobody else has as long as this lives.
enum Medium {
    Device(DaxDevice),
    Directory(PathBuf, File),
}

/// What a medium is and holds.
struct Look {
    medium: Medium,
    copies: Copies,
    found: Found,
    /// Whether it outlives the power.
    persistent: bool,
    what: String,
}

/// What a device named `name` will be that the store has not had before. Nothing is written.
pub(crate) fn plan(spec: &DaxSpec, name: &str, bytes: Option<u64>, env: &dyn Env) -> Result<Plan> {
    let about = |e: Error| Error::new(e.kind, format!("device {name}: {}", e.message));
    let look = look(spec).map_err(about)?;
    let geometry = match look.kept(spec).map_err(about)? {
        Some(superblock) => {
            let wrong = bytes.filter(|bytes| PageCount(superblock.geometry.frames).bytes() != *bytes);
            if let Some(bytes) = wrong {
                let is = PageCount(superblock.geometry.frames).bytes();
                return Err(about(Error::device_state(format!(
                    "{} holds a pool of {is} bytes, which can't become {bytes}: leave the size out",
                    look.what
                ))));
            }
            return Ok(look.as_plan(spec, superblock.pool, &superblock.geometry, env));
        }
        None => look.new_geometry(bytes).map_err(about)?,
    };
    let (high, low) = (env.random().to_le_bytes(), env.random().to_le_bytes());
    let mut uuid = [0; 16];
    uuid[..8].copy_from_slice(&high);
    uuid[8..].copy_from_slice(&low);
    Ok(look.as_plan(spec, PoolUuid(uuid), &geometry, env))
}

/// Opens the medium of a pool. One that the store takes for the first time, or has left nothing on, is formatted first if it may be and isn't the pool's:
/// [`plan`] has asked the same, and somebody else may have had it since.
pub(crate) fn open(
    pool: &PoolRecord,
    spec: &DaxSpec,
    tokens: &Path,
    take: Take,
    env: &dyn Env,
) -> Result<Taken> {
    let about = |e: Error| Error::new(e.kind, format!("device {}: {}", pool.name, e.message));
    let memory = pool.dax.as_ref().ok_or_else(|| Error::internal("a pool without a medium of its own"))?;
    let spec = match take {
        Take::First => spec.clone(),
        // What was said of it once holds; but not the leave to overwrite what others have put there since.
        Take::Again | Take::Empty => DaxSpec {
            persistent: Some(pool.persistent),
            format: if spec.format == Format::Force { Format::IfNotOurs } else { spec.format },
            ..spec.clone()
        },
    };
    let mut look = look(&spec).map_err(about)?;
    if let (Medium::Device(device), Take::First | Take::Empty) = (&look.medium, take) {
        nobody_maps(device, &look.what).map_err(about)?;
    }
    let mut notes = look.notes();
    let its_own = matches!(&look.found, Found::Ours(found, _) if found.pool == memory.uuid);
    let format = take != Take::Again && !its_own && look.kept(&spec).map_err(about)?.is_none();
    let catalog = match format {
        true => look.format(pool, memory, env),
        false => look.reopen(memory, take).map(|(catalog, more)| {
            notes.extend(more);
            catalog
        }),
    };
    let catalog = catalog.map_err(about)?;
    let backing: Arc<dyn Backing> = match look.medium {
        Medium::Device(device) => Arc::new(Devdax::new(device, tokens, memory.data, memory.unit)?),
        Medium::Directory(dir, lock) => Arc::new(Fsdax::new(&dir, lock)?),
    };
    Ok(Taken { backing, catalog, notes })
}

fn look(spec: &DaxSpec) -> Result<Look> {
    let path = &spec.path;
    let what = path.display().to_string();
    if !spec.files {
        let device = DaxDevice::open(path, true).map_err(of_open)?;
        device.lock().map_err(of_open)?;
        let persistent = spec.persistent.unwrap_or(device.persistent());
        // Superblocks are at the very ends; how long the areas are they say themselves.
        let outer = areas::of_device(&device, SUPERBLOCK_BYTES as u64)?;
        let found = probe(&outer, Some(device.len()));
        let copies = match &found {
            Found::Ours(superblock, _) => areas::of_device(&device, superblock.geometry.copy_bytes)?,
            _ => areas::of_device(&device, device.align().max(HUGE_SIZE).min(device.len()))?,
        };
        // Marks of others lie behind the first superblock.
        let found = match found {
            Found::Ours(..) | Found::Newer(_) | Found::OtherLength { .. } => found,
            _ => probe(&copies, Some(device.len())),
        };
        return Ok(Look { medium: Medium::Device(device), copies, found, persistent, what });
    }
    let there = fs::metadata(path).map_err(|e| os_error("look at", &path.display(), &e))?;
    if !there.is_dir() {
        return Err(Error::invalid(format!("{what} is not a directory")));
    }
    let me = process::uid();
    if there.uid() != me {
        return Err(Error::permission(format!(
            "{what} belongs to uid {}: a pool's directory is its store's owner's",
            there.uid()
        )));
    }
    let facts =
        filesystem::of(path).map_err(|e| os_error("look at the filesystem of", &path.display(), &e))?;
    let persistent = spec.persistent.unwrap_or(facts.persistent);
    let lock = areas::lock(path)?;
    let copies = areas::of_directory(path)?;
    let found = match copies.iter().all(|copy| copy.is_empty()) {
        true if has_entries(&path.join(OBJECTS))? => {
            Found::Foreign("a directory `objects` with something in it")
        }
        true => Found::Blank,
        false => probe(&copies, None),
    };
    Ok(Look { medium: Medium::Directory(path.clone(), lock), copies, found, persistent, what })
}

fn of_open(e: OpenError) -> Error {
    let kind = match &e {
        OpenError::Missing(_) | OpenError::Gone(_) => ErrorKind::NotFound,
        OpenError::NotDax(_) => ErrorKind::Invalid,
        OpenError::Denied(_) => ErrorKind::Permission,
        OpenError::SystemRam(_) | OpenError::Unbound(_) | OpenError::OtherDriver { .. } => {
            ErrorKind::DeviceState
        }
        OpenError::Busy(_) => ErrorKind::Busy,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, e.to_string())
}

/// Who maps a device, by himself or for a store that had it before, goes on writing to it whatever is there by then.
fn nobody_maps(device: &DaxDevice, what: &str) -> Result<()> {
    let id = device.id();
    let held = process::holders_of_device(id.number, (id.dev, id.ino));
    let held = held.map_err(|e| os_error("look through", &"/proc", &e))?;
    match held.iter().find(|held| matches!(held.what, Hold::Mapped { .. })) {
        None => Ok(()),
        Some(held) => Err(Error::busy(format!(
            "{what} is mapped by process {} ({}), which would go on writing to it: end that first",
            held.pid, held.command
        ))),
    }
}

/// The boot that the machine is in, as a number.
fn boot() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}

impl Look {
    /// The superblock of the pool that it holds and that is to be kept; `None` if it is to be formatted. The error says why it can be neither.
    fn kept(&self, spec: &DaxSpec) -> Result<Option<Superblock>> {
        if spec.format == Format::Force {
            return Ok(None);
        }
        match &self.found {
            Found::Ours(superblock, _) => {
                if superblock.is_void(&boot()) {
                    // It was a device's that keeps nothing, before the machine was started: there is nothing to keep.
                    return Ok(None);
                }
                if superblock.is_volatile() == self.persistent {
                    let (was, is) =
                        if self.persistent { ("volatile", "persistent") } else { ("persistent", "volatile") };
                    return Err(Error::device_state(format!(
                        "{} holds a pool that was made {was}, and it is to be {is} now: say which it is with `persistent`, or format it by force",
                        self.what
                    )));
                }
                self.check_alignment(superblock)?;
                Ok(Some((**superblock).clone()))
            }
            Found::Blank | Found::Foreign(_) | Found::Damaged(_) if spec.format == Format::IfNotOurs => {
                Ok(None)
            }
            other => other.clone().ours(&self.what).map(|(superblock, _)| Some(superblock)),
        }
    }

    fn new_geometry(&self, bytes: Option<u64>) -> Result<Geometry> {
        match &self.medium {
            Medium::Device(device) => {
                if let Some(bytes) = bytes {
                    return Err(Error::invalid(format!(
                        "size {bytes}: {} is taken whole; a part of it is a device of its own (daxctl create-device)",
                        self.what
                    )));
                }
                geometry_of(device)
            }
            Medium::Directory(dir, _) => {
                let facts = filesystem::of(dir)
                    .map_err(|e| os_error("look at the filesystem of", &dir.display(), &e))?;
                let bytes = bytes
                    .unwrap_or((facts.free_bytes - facts.free_bytes / LEFT_PART) / HUGE_SIZE * HUGE_SIZE);
                if bytes > facts.free_bytes {
                    return Err(Error::no_space(format!(
                        "size {}: the filesystem of {} has {} free",
                        format_size(bytes),
                        self.what,
                        format_size(facts.free_bytes)
                    )));
                }
                Geometry::beside(bytes, PAGE_SIZE)
            }
        }
    }

    fn as_plan(&self, spec: &DaxSpec, uuid: PoolUuid, geometry: &Geometry, env: &dyn Env) -> Plan {
        let data = if spec.files { 0 } else { geometry.data_at() };
        let path = self.what.clone();
        let memory =
            DaxMemory { path, unit: geometry.unit / PAGE_SIZE, data, uuid, owner: env.random().max(1) };
        Plan { memory, persistent: self.persistent, frames: geometry.frames }
    }

    /// A device can be mapped only by multiples of its alignment, which may not be what it was.
    fn check_alignment(&self, superblock: &Superblock) -> Result<()> {
        let Medium::Device(device) = &self.medium else { return Ok(()) };
        let (unit, align) = (superblock.geometry.unit, device.align());
        if unit.is_multiple_of(align) {
            return Ok(());
        }
        Err(Error::device_state(format!(
            "{} holds a pool in units of {}, and is aligned to {} now: daxctl reconfigure-device --align {unit} brings that back",
            self.what,
            format_size(unit),
            format_size(align)
        )))
    }

    /// What is worth knowing of it that is no error.
    fn notes(&self) -> Vec<String> {
        let Medium::Directory(dir, _) = &self.medium else { return Vec::new() };
        match filesystem::of(dir) {
            Ok(facts) if !facts.dax => {
                let how = if facts.persistent {
                    "stores are durable after fsync, through the page cache"
                } else {
                    "nothing there outlives the power"
                };
                vec![format!("{}: {} there is not mounted with dax: {how}", self.what, facts.name)]
            }
            _ => Vec::new(),
        }
    }

    /// Makes the medium the pool's.
    fn format(&mut self, pool: &PoolRecord, memory: &DaxMemory, env: &dyn Env) -> Result<Catalog> {
        let bytes = PageCount(pool.frames).bytes();
        let (geometry, data) = match &self.medium {
            Medium::Device(device) => geometry_of(device).map(|geometry| (geometry, geometry.data_at()))?,
            Medium::Directory(..) => (Geometry::beside(bytes, PAGE_SIZE)?, 0),
        };
        let is = (geometry.frames, geometry.unit / PAGE_SIZE, data, self.persistent);
        if is != (pool.frames, memory.unit, memory.data, pool.persistent) {
            return Err(Error::device_state(format!(
                "{} is another device by now: it has room for {}, and is {}, where the pool has {} and is {}",
                self.what,
                format_size(PageCount(geometry.frames).bytes()),
                kept_or_not(self.persistent),
                format_size(bytes),
                kept_or_not(pool.persistent)
            )));
        }
        match &self.medium {
            Medium::Device(device) => self.copies = areas::of_device(device, geometry.copy_bytes)?,
            Medium::Directory(dir, _) => {
                clear_objects(&dir.join(OBJECTS))?;
                areas::make_files(dir, &geometry)?;
                self.copies = areas::of_directory(dir)?;
            }
        }
        let boot = (!pool.persistent).then(boot);
        let now = env.wall_ns();
        let superblock = Superblock::new(memory.uuid, memory.owner, &pool.name, geometry, boot, now)?;
        Catalog::format(self.copies.clone(), superblock, || env.reached("format:begun"))
    }

    /// Opens what the medium holds, which is the store's from now on.
    fn reopen(&mut self, memory: &DaxMemory, take: Take) -> Result<(Catalog, Vec<String>)> {
        let (superblock, _) = self.found.clone().ours(&self.what)?;
        self.check_alignment(&superblock)?;
        if superblock.pool != memory.uuid {
            return Err(Error::device_state(format!(
                "{} is not the medium it was: it holds the pool {} and not {}",
                self.what, superblock.pool, memory.uuid
            )));
        }
        if take == Take::Again && superblock.store != memory.owner {
            return Err(Error::device_state(format!(
                "{} was used by another store since: what this one knows of it may be wrong; take it as a device with a new name, or purge this store",
                self.what
            )));
        }
        let device_bytes = match &self.medium {
            Medium::Device(device) => Some(device.len()),
            Medium::Directory(dir, _) => {
                // A copy that somebody has removed is made, and mended by `check`.
                areas::make_files(dir, &superblock.geometry)?;
                self.copies = areas::of_directory(dir)?;
                None
            }
        };
        let (catalog, findings) = Catalog::open(self.copies.clone(), device_bytes)?;
        let files = catalog.contents().nodes().len();
        if take == Take::Empty && superblock.store != memory.owner && files > 0 {
            return Err(Error::device_state(format!(
                "{} was used by another store since, and has {files} files and directories of its: take it as a device with a new name",
                self.what
            )));
        }
        Ok((catalog, findings.into_iter().map(|finding| finding.what).collect()))
    }
}

fn geometry_of(device: &DaxDevice) -> Result<Geometry> {
    Geometry::of_device(device.len(), device.align().max(PAGE_SIZE))
}

fn kept_or_not(persistent: bool) -> &'static str {
    if persistent { "persistent" } else { "volatile" }
}

/// Whether there is something in a directory, or in the place of one.
fn has_entries(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => Ok(true),
        Err(e) => Err(os_error("look into", &dir.display(), &e)),
    }
}

/// Makes a directory for objects, or removes those of the pool that was here before: what else is there stays.
fn clear_objects(dir: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(|e| os_error("make", &dir.display(), &e)),
    }
    let failed = |e: std::io::Error| os_error("clear", &dir.display(), &e);
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_str().and_then(object_of).is_some() {
            fs::remove_file(entry.path()).map_err(|e| os_error("remove", &entry.path().display(), &e))?;
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use codax_core::change::{BackingKind, LinkModel, PoolState};
    use codax_core::{DRAM, PoolId};
    use std::time::Duration;

    #[derive(Debug)]
    struct Numbers;

    impl Env for Numbers {
        fn now(&self) -> Duration {
            Duration::ZERO
        }

        fn wall_ns(&self) -> i64 {
            1
        }

        fn random(&self) -> u64 {
            7
        }

        fn sleep(&self, _time: Duration) {}

        fn spawn(&self, _name: &str, _job: Box<dyn FnOnce() + Send>) {}

        fn reached(&self, _point: &'static str) {}
    }

    fn spec(dir: &Path, format: Format, persistent: bool) -> DaxSpec {
        DaxSpec { path: dir.to_owned(), files: true, format, persistent: Some(persistent) }
    }

    /// The pool that a directory is to be.
    fn planned(spec: &DaxSpec) -> PoolRecord {
        let Plan { memory, persistent, frames } =
            plan(spec, "pm", Some(4 << 20), &Numbers).expect("it may be");
        PoolRecord {
            id: PoolId(1),
            name: "pm".to_owned(),
            backing: BackingKind::Fsdax,
            numa: None,
            dax: Some(memory),
            persistent,
            retired: Vec::new(),
            medium: DRAM,
            frames,
            link: LinkModel::default(),
            state: PoolState::Online,
            drain_limit: None,
            drain_terms: Default::default(),
        }
    }

    fn open_as(pool: &PoolRecord, spec: &DaxSpec, take: Take) -> Result<usize> {
        open(pool, spec, &spec.path, take, &Numbers).map(|taken| taken.catalog.contents().nodes().len())
    }

    #[test]
    fn what_was_put_there_since_it_was_looked_at_is_not_formatted() {
        let dir = tempfile::tempdir().expect("room");
        let spec = spec(dir.path(), Format::IfNotOurs, true);
        let pool = planned(&spec);
        // Another store was quicker.
        let mut other = planned(&spec);
        other.dax.as_mut().expect("a medium").uuid = PoolUuid([3; 16]);
        assert_eq!(open_as(&other, &spec, Take::First), Ok(0));
        let before = fs::read(dir.path().join("catalog.0")).expect("there");
        for take in [Take::First, Take::Again, Take::Empty] {
            let error = open_as(&pool, &spec, take).expect_err("another's");
            assert!(error.message.contains("is not the medium it was"), "{take:?}: {error}");
        }
        // The leave to overwrite a pool was given for what was there then.
        let force = DaxSpec { format: Format::Force, ..spec.clone() };
        open_as(&pool, &force, Take::Empty).expect_err("another's");
        assert_eq!(fs::read(dir.path().join("catalog.0")).expect("there"), before);
        assert_eq!(open_as(&pool, &force, Take::First), Ok(0));
        assert_eq!(open_as(&pool, &spec, Take::Again), Ok(0));
        open_as(&other, &spec, Take::Again).expect_err("it is gone");
    }

    #[test]
    fn another_device_is_not_formatted_for_a_pool() {
        let dir = tempfile::tempdir().expect("room");
        let pool = planned(&spec(dir.path(), Format::IfNotOurs, true));
        let error = open_as(&pool, &spec(dir.path(), Format::IfNotOurs, false), Take::First);
        let error = error.expect_err("it keeps nothing");
        assert!(
            error.message.contains("is another device by now") && error.message.contains("volatile"),
            "{error}"
        );
        let mut larger = pool.clone();
        larger.dax.as_mut().expect("a medium").unit = 512;
        let error = open_as(&larger, &spec(dir.path(), Format::IfNotOurs, true), Take::First);
        assert!(error.expect_err("of other units").message.contains("another device by now"));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn somebody_else_s_objects_stay() {
        let dir = tempfile::tempdir().expect("room");
        let objects = dir.path().join(OBJECTS);
        fs::create_dir(&objects).expect("made");
        fs::write(objects.join("notes"), "mine").expect("written");
        fs::write(objects.join("000000000000000a"), "of a pool that was here").expect("written");
        let refused = plan(&spec(dir.path(), Format::Never, true), "pm", None, &Numbers).expect_err("theirs");
        assert_eq!(refused.kind, ErrorKind::Exists);
        assert!(refused.message.contains("directory `objects`"), "{refused}");
        let spec = spec(dir.path(), Format::IfNotOurs, true);
        assert_eq!(open_as(&planned(&spec), &spec, Take::First), Ok(0));
        let left: Vec<_> = fs::read_dir(&objects).expect("listed").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["notes"]);
    }
}
