//! What keeps others' memory off a device's node: as the options say, or as they said last.
//!
//! A device may be left out of the options later, so what was said is kept in a file beside the journal; it ends with the store, as all of it does.

use crate::backing::{Reserve, Share, os_error, write_whole};
use crate::options::StoreOptions;
use crate::store::Inner;
use crate::store::attach::unmount;
use crate::store::lifecycle::{Layout, make_dir};
use codax_core::change::{PageKind, PoolRecord, PoolState};
use codax_core::info::Exclusive;
use codax_core::units::format_size;
use codax_core::{DRAM, Error, PageCount, PoolId, Result};
use codax_os::topology::{self, Node};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often a reserve is looked at that nobody wakes: what strangers have let go of makes no sound.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How the files begin that keep a mode; the device's name follows.
const WORD: &str = "exclusive.";

fn word_path(layout: &Layout, pool: &str) -> PathBuf {
    layout.meta().join(format!("{WORD}{pool}"))
}

/// The modes that the store in a directory keeps, by its devices' names: for who has no daemon to ask. Those with huge pages that are set aside have none.
/// `NotFound` if there is no store.
pub fn kept_modes(dir: &Path) -> io::Result<Vec<(String, Exclusive)>> {
    let mut modes = Vec::new();
    for entry in fs::read_dir(Layout { dir: dir.to_owned() }.meta())? {
        let entry = entry?;
        let Some(name) =
            entry.file_name().to_str().and_then(|name| Some(name.strip_prefix(WORD)?.to_owned()))
        else {
            continue;
        };
        modes.push((name, Exclusive::parse(&fs::read_to_string(entry.path())?).unwrap_or_default()));
    }
    modes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(modes)
}

/// What keeps others off a pool's node: as the options say, or as they said last.
pub(crate) fn mode_of(layout: &Layout, pool: &PoolRecord, options: &StoreOptions) -> Result<Exclusive> {
    let Some(memory) = pool.numa else { return Ok(Exclusive::None) };
    if memory.page.is_reserved() {
        // Nobody gets these huge pages in any case.
        return Ok(Exclusive::Reserve);
    }
    given(pool, options).map_or_else(|| said(layout, pool), Ok)
}

/// Keeps what the options say: it is in force from now on, also where they leave the device out.
pub(crate) fn keep_modes<'a>(
    layout: &Layout,
    pools: impl Iterator<Item = &'a PoolRecord>,
    options: &StoreOptions,
) -> Result<()> {
    let free = pools.filter(|pool| pool.numa.is_some_and(|memory| !memory.page.is_reserved()));
    for pool in free {
        let Some(mode) = given(pool, options) else { continue };
        if mode == said(layout, pool)? {
            continue;
        }
        let path = word_path(layout, &pool.name);
        write_whole(&path, mode.name()).map_err(|e| os_error("write", &path.display(), &e))?;
    }
    Ok(())
}

fn given(pool: &PoolRecord, options: &StoreOptions) -> Option<Exclusive> {
    options.devices.iter().find(|device| device.name == pool.name)?.exclusive
}

fn said(layout: &Layout, pool: &PoolRecord) -> Result<Exclusive> {
    let path = word_path(layout, &pool.name);
    match fs::read_to_string(&path) {
        Ok(word) => Ok(Exclusive::parse(&word).unwrap_or_default()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Exclusive::default()),
        Err(e) => Err(os_error("read", &path.display(), &e)),
    }
}

/// Refuses to count on movable memory of a node that isn't.
pub fn check_movable(device: &str, node: &Node) -> Result<()> {
    if node.is_movable() == Some(true) {
        return Ok(());
    }
    let stuck = node.blocks.online - node.blocks.movable;
    Err(Error::invalid(format!(
        "device {device}: exclusive=movable: {stuck} of the {} blocks of memory of node {} aren't movable: bring them online as such (daxctl \
         offline-memory, then online-memory without --no-movable), or take exclusive=reserve",
        node.blocks.online, node.node
    )))
}

/// The same of a pool for which that is to keep others off, if its node has memory online: without, it may be that of before.
pub(crate) fn check_mode(pool: &PoolRecord, mode: Exclusive) -> Result<()> {
    let Some(memory) = pool.numa.filter(|_| mode == Exclusive::Movable) else { return Ok(()) };
    let nodes = topology::nodes(Path::new(topology::SYSFS));
    let node = nodes.iter().find(|node| node.node == memory.node && node.bytes.unwrap_or(0) > 0);
    node.map_or(Ok(()), |node| check_movable(&pool.name, node))
}

/// The reserve of a pool in small or transparent huge pages, if it is to have one; one that it has no more is given back.
pub(crate) fn open_reserve(
    layout: &Layout,
    pool: &PoolRecord,
    options: &StoreOptions,
) -> Result<Option<Arc<Reserve>>> {
    let memory = pool.numa.filter(|memory| !memory.page.is_reserved());
    let wanted = mode_of(layout, pool, options)? == Exclusive::Reserve && pool.state != PoolState::Detached;
    let Some(memory) = memory.filter(|_| wanted) else {
        return drop_reserve(layout, &pool.name).map(|()| None);
    };
    let path = layout.reserve(&pool.name);
    make_dir(&layout.reserves(), 0o700)?;
    make_dir(&path, 0o700)?;
    let huge = if memory.page == PageKind::Small { "never" } else { "within_size" };
    let nodes = topology::nodes(Path::new(topology::SYSFS));
    let node = nodes.iter().find(|node| node.node == memory.node);
    // Where `dram` has no nodes of its own its pages lie where the processors are.
    let with_dram = options.dram_nodes.is_empty() && node.is_some_and(|node| !node.cpus.is_empty());
    let bytes = PageCount(pool.frames).bytes().max(node.and_then(|node| node.bytes).unwrap_or(0));
    Ok(Some(Arc::new(Reserve::open(&path, (memory.node, with_dram), bytes, huge)?)))
}

/// Gives a pool's reserve back to the node, if it has one.
pub(crate) fn drop_reserve(layout: &Layout, pool: &str) -> Result<()> {
    let path = layout.reserve(pool);
    unmount(&path)?;
    match fs::remove_dir(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(os_error("remove", &path.display(), &e)),
        _ => Ok(()),
    }
}

/// Gives the reserves of all pools back.
pub(crate) fn drop_reserves(layout: &Layout) -> Result<()> {
    let names =
        fs::read_dir(layout.reserves()).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).try_for_each(|pool| drop_reserve(layout, &pool))
}

impl Inner {
    /// Populates what is free of a pool's node, again and again, as long as the store is open and the reserve is the pool's.
    pub(super) fn keep_reserve(&self, pool: PoolId) {
        let Some(reserve) = self.lock().pool(pool).backing.holder() else { return };
        let weak = self.me.clone();
        let work = move || {
            let mut told = Told::default();
            loop {
                let Some(inner) = weak.upgrade() else { return };
                let st = inner.lock();
                if st.closing {
                    return;
                }
                let (name, target) = (st.pool(pool).record.name.clone(), st.pool(pool).alloc.free().bytes());
                let leave = st.pool(DRAM).alloc.free().bytes();
                drop(st);
                let share = reserve.is_with_dram().then_some(Share { most: target, leave });
                let filled = match share {
                    None => reserve.fill_whole(),
                    share => reserve.fill(share),
                };
                reserve.was_populated();
                // Some may have been lent or taken meanwhile.
                let target = inner.lock().pool(pool).alloc.free().bytes();
                match filled {
                    Ok(held) => told.tell(&inner, (&name, share), held, target),
                    Err(e) if told.failure.as_ref() != Some(&e) => {
                        tracing::warn!("device {name}: its reserve: {e}");
                        told.failure = Some(e);
                    }
                    Err(_) => {}
                }
                drop(inner);
                if !reserve.wait(LOOK_EVERY) {
                    return;
                }
            }
        };
        self.env.spawn("reserve", Box::new(work));
    }
}

/// What has been said of a reserve.
#[derive(Debug, Default)]
struct Told {
    whole: Option<bool>,
    /// What was missing the last time: what files have just let go of is on its way.
    missing: Option<u64>,
    failure: Option<Error>,
}

impl Told {
    /// Says that it is whole, or what is missing for longer than a moment; each once.
    fn tell(&mut self, inner: &Inner, (name, share): (&str, Option<Share>), held: u64, target: u64) {
        let missing = target.saturating_sub(held);
        let before = self.missing.replace(missing);
        let whole = missing == 0;
        if self.whole == Some(whole) || (!whole && before.is_none_or(|before| before == 0)) {
            return;
        }
        self.whole = Some(whole);
        let rest = if share.is_some() { "the rest is dram's as well" } else { "nothing else fits there" };
        let mut line = format!("{} of its node are populated: {rest}", format_size(held));
        if !whole {
            line = format!(
                "only {} of its node are populated, {} are missing: others have them, or the kernel keeps them free (codax doctor)",
                format_size(held),
                format_size(missing)
            );
            tracing::warn!("device {name}: {line}");
        }
        inner.event("reserve", name, &line, held);
    }
}
