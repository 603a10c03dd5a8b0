//! The plan of a drain: what goes where, and why it can't, in words for people.

use super::RETRY_EVERY;
use crate::backing::{Backing, os_error};
use crate::mover::{confirmed, keepers, mount_holder, stranger, unseen};
use crate::store::Inner;
use crate::store::blocks::frames;
use crate::store::state::State;
use codax_core::extent::{self, Extent};
use codax_core::info::HeldFile;
use codax_core::namespace::Inode;
use codax_core::plan::{Candidate, Holder, Obstacle, Plan, Spilled, plan_drain};
use codax_core::{Error, FileId, PageCount, PageRange, PoolId, Result};
use codax_os::process::Held;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Who has something of a pool, besides the sessions.
struct Seen {
    /// Processes that have an object of a file open or mapped, or the file through a mount.
    by_kernel: HashMap<FileId, Vec<Held>>,
    /// Those of them that don't use it through sessions only.
    strange: HashMap<FileId, Vec<Held>>,
    /// Who keeps mounts there that nobody serves any more.
    keepers: Vec<Holder>,
}

impl Inner {
    /// What a drain of `pool` would do. Who holds something and is nowhere to be seen is about to let go, and has some time for it.
    pub(super) fn plan_patiently(&self, pool: PoolId, volatile: bool) -> Result<Plan> {
        let deadline = self.env.now() + self.options().ack_timeout;
        loop {
            let plan = self.plan(pool, volatile)?;
            let held = held_by(&plan);
            if held.is_empty() || !held.iter().all(nobody_shows) || self.env.now() >= deadline {
                return Ok(plan);
            }
            let mut st = self.wait_changed(self.lock(), RETRY_EVERY);
            self.retry_held(&mut st);
        }
    }

    /// What a drain of `pool` would do now.
    ///
    /// What outlives the power goes only where it does, unless `volatile` says that it needn't.
    pub(super) fn plan(&self, pool: PoolId, volatile: bool) -> Result<Plan> {
        if !self.lock().pool(pool).record.has_memory() {
            return Ok(Plan::default());
        }
        let seen = self.look_who_has(pool)?;
        let st = self.lock();
        let help = st.help_for(pool);
        let helpers: Vec<PoolId> = help.iter().map(|(pool, _)| *pool).collect();
        let mut candidates: Vec<Candidate> =
            st.files_on(pool).map(|inode| seen.candidate(&st, inode, pool, &helpers)).collect();
        if st.pool(pool).record.persistent && !volatile {
            for candidate in &mut candidates {
                let kept = |to: &PoolId| st.pool(*to).record.persistent;
                candidate.volatile = candidate.refuges.iter().any(|to| !kept(to));
                candidate.refuges.retain(kept);
            }
        }
        let mut plan = plan_drain(candidates, &|id| st.room(id), &help.into_iter().collect());
        let lent = frames(&st.pool(pool).lent).bytes();
        plan.obstacles.extend((lent > 0).then_some(Obstacle::Lent { bytes: lent }));
        for file in st.pool(pool).held.keys() {
            let mut by: Vec<_> = seen.of(*file).map(stranger).collect();
            by.extend(st.stale_holders(pool, *file));
            by.dedup();
            let file = format!("{} (what it had there)", st.path(*file));
            plan.obstacles.push(Obstacle::Held { file, by });
        }
        Ok(plan)
    }

    /// Asks the kernel who has objects of the pool, in one pass over all processes.
    fn look_who_has(&self, pool: PoolId) -> Result<Seen> {
        let backing = self.lock().pool(pool).backing.clone();
        let looked = |e: &std::io::Error| os_error("look through", &"/proc", e);
        let mut kernel = codax_os::process::holders_on(backing.device()?).map_err(|e| looked(&e))?;
        // Who uses a file through a mount shows the mount's inode.
        let served: HashMap<(u64, u64), FileId> = {
            let mut st =
                self.wait_for_leavers(self.lock(), |st| st.live.keys().any(|&file| st.leaving(file)));
            self.retry_lingering(&mut st);
            // What programs have written by themselves is to be moved as well.
            self.refresh_all(&mut st);
            let served = st.live.keys().filter(|file| st.served_by_kernel(**file));
            served.flat_map(|&file| st.mount_identities(file).map(move |id| (id, file))).collect()
        };
        let by_mount = served.keys().copied().collect();
        kernel.extend(codax_os::process::holders(&by_mount).map_err(|e| looked(&e))?);
        // Which object is which file's matters only if somebody holds one, and mostly nobody does.
        let mut objects: HashMap<(u64, u64), FileId> = match kernel.is_empty() {
            true => HashMap::new(),
            false => backing.list()?.into_iter().map(|(file, info)| (info.identity, file)).collect(),
        };
        objects.extend(served);
        let identities: HashSet<(u64, u64)> = objects.keys().copied().collect();
        let file_of = |held: &Held| objects.get(&(held.dev, held.ino)).copied();
        let suspects = {
            let st = self.lock();
            let strange = |h: &&Held| file_of(h).is_some_and(|file| !st.uses(h.pid, file));
            kernel.iter().filter(strange).cloned().collect()
        };
        let mut by_kernel: HashMap<FileId, Vec<Held>> = HashMap::new();
        let mut strange: HashMap<FileId, Vec<Held>> = HashMap::new();
        for (all, held) in [(&mut by_kernel, kernel), (&mut strange, confirmed(suspects, &identities)?)] {
            for held in held {
                if let Some(file) = file_of(&held) {
                    all.entry(file).or_default().push(held);
                }
            }
        }
        let dead: BTreeSet<u64> = {
            let st = self.lock();
            st.files_on(pool).flat_map(|inode| st.dead_mounts(inode.id)).collect()
        };
        let keepers = keepers(&dead.into_iter().collect::<Vec<_>>());
        let mut seen = Seen { by_kernel, strange, keepers };
        self.look_who_maps(pool, &*backing, &mut seen)?;
        Ok(seen)
    }

    /// The same of those who map the pool's device itself, and hold no file's object by that.
    fn look_who_maps(&self, pool: PoolId, backing: &dyn Backing, seen: &mut Seen) -> Result<()> {
        let mapped = backing.mappings()?;
        if mapped.is_empty() {
            return Ok(());
        }
        let files: Vec<FileId> = self.lock().files_on(pool).map(|inode| inode.id).collect();
        for (file, held) in self.strangers_on_device(backing, &mapped, &files)? {
            seen.strange.entry(file).or_default().push(held);
        }
        for file in files {
            let held = mapped.iter().filter(|held| backing.is_mapped(file, &[PageRange::ALL], held));
            seen.by_kernel.entry(file).or_default().extend(held.cloned());
        }
        Ok(())
    }
}

impl Seen {
    fn of(&self, file: FileId) -> impl Iterator<Item = &Held> + Clone {
        self.by_kernel.get(&file).into_iter().flatten()
    }

    /// A file that is to leave the pool; `helpers` may have what spilled of it.
    fn candidate(&self, st: &State, inode: &Inode, pool: PoolId, helpers: &[PoolId]) -> Candidate {
        let here: Vec<Extent> = inode.extents.iter().filter(|e| e.pool == pool).copied().collect();
        let mut held = self.holders(st, inode, &here);
        let placement = st.ns.placement(inode.id);
        let mut refuges = if placement.may_leave(pool) { placement.refuges(pool) } else { Vec::new() };
        let mut helpers: Vec<PoolId> = match st.ns.forbids_emergency(inode.id) {
            true => Vec::new(),
            false => helpers.iter().filter(|to| !refuges.contains(to)).copied().collect(),
        };
        // Where the kernel moves pages it doesn't matter who uses the file.
        let near = |to: &PoolId| st.media.same(*to, pool);
        let any = refuges.iter().any(near);
        if any && (refuges.iter().all(near) || !held.is_empty()) {
            refuges.retain(near);
            helpers.retain(near);
            held = st.pinned_by(inode.id, &here);
        }
        let pages = pages_to_move(inode, pool);
        // What its placement has come to name is no emergency's any more.
        let (spilled, named) = match placement.pools().contains(&pool) {
            true => (Vec::new(), pages),
            false => apart(pages, inode, pool),
        };
        Candidate {
            file: inode.id,
            path: st.path(inode.id),
            ranges: named,
            held,
            volatile: false,
            spilled: Spilled { ranges: spilled, refuges: refuges.clone(), helpers },
            refuges,
        }
    }

    /// Who holds these pages of a file, as sessions and the kernel say.
    fn holders(&self, st: &State, inode: &Inode, here: &[Extent]) -> Vec<Holder> {
        let strangers = self.strange.get(&inode.id).into_iter().flatten();
        let mut held = st.holders_of(inode.id, here);
        let by_mount: Vec<Holder> = strangers
            .clone()
            .filter(|h| st.mount_identities(inode.id).any(|id| id == (h.dev, h.ino)))
            .map(mount_holder)
            .collect();
        let kept = by_mount.is_empty() && !st.dead_mounts(inode.id).is_empty();
        let keepers = self.keepers.iter().filter(|_| kept).cloned();
        if !by_mount.is_empty() || kept && keepers.clone().next().is_some() {
            // They are named better than by who opened it.
            let openers = st.openers(inode.id);
            held.retain(|h| !openers.contains(h));
        }
        held.extend(keepers);
        held.extend(strangers.map(stranger).filter(|h| by_mount.iter().all(|m| m.pid != h.pid)));
        held.extend(by_mount);
        held.dedup();
        held
    }
}

/// The pages of a file that are to leave a pool. What of a huge page is behind its end goes with the rest, and needs no place. Where there is nothing else, the
/// move takes it back.
fn pages_to_move(inode: &Inode, pool: PoolId) -> Vec<PageRange> {
    let all = crate::store::pages_in(inode, pool);
    let file = PageRange::new(0, PageCount::for_bytes(inode.len).0.max(1));
    let inside: Vec<PageRange> = all.iter().filter_map(|range| range.intersect(file)).collect();
    if inside.is_empty() { all } else { inside }
}

/// Those of the pages that are on the pool for want of room in `dram`, and the others.
fn apart(pages: Vec<PageRange>, inode: &Inode, pool: PoolId) -> (Vec<PageRange>, Vec<PageRange>) {
    let runs = extent::pool_runs(&inode.spilled()).into_iter().filter(|run| run.pool == pool);
    let spilled: Vec<PageRange> = runs.map(|run| run.pages).collect();
    let there = pages.iter().flat_map(|range| spilled.iter().filter_map(|run| range.intersect(*run)));
    let there = there.collect();
    let cut =
        |left: Vec<PageRange>, run: &PageRange| left.iter().flat_map(|range| range.without(*run)).collect();
    (there, spilled.iter().fold(pages, cut))
}

/// The files that somebody holds, as a plan says.
pub(super) fn held_by(plan: &Plan) -> Vec<HeldFile> {
    let held = plan.obstacles.iter().filter_map(|o| match o {
        Obstacle::Held { file, by } => Some(HeldFile { path: file.clone(), by: by.clone() }),
        _ => None,
    });
    held.collect()
}

/// Whether a file is held and nobody can be found who does.
pub(super) fn nobody_shows(held: &HeldFile) -> bool {
    held.by.iter().all(|by| *by == unseen())
}

pub(super) fn describe_held(held: &[HeldFile]) -> String {
    const SHOWN: usize = 5;
    let mut text: Vec<String> = held
        .iter()
        .take(SHOWN)
        .map(|h| {
            let by: Vec<String> =
                h.by.iter()
                    .map(|b| {
                        b.pid.map_or_else(
                            || format!("{} {}", b.command, b.why),
                            |pid| format!("process {pid} ({}) {}", b.command, b.why),
                        )
                    })
                    .collect();
            let by = if by.is_empty() { vec!["by a process that could not be found".to_owned()] } else { by };
            format!("{} is held: {}", h.path, by.join(", "))
        })
        .collect();
    if held.len() > SHOWN {
        text.push(format!("and {} more", held.len() - SHOWN));
    }
    if text.is_empty() {
        text.push("frames are still held by a process that could not be found".to_owned());
    }
    text.join("; ")
}

/// Why the plan can't be carried out, if it can't; with `waits`, holders are no reason.
pub(super) fn refusal(name: &str, plan: &Plan, waits: bool) -> Option<Error> {
    let some = |files: &[String]| {
        let shown = files.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        if files.len() > 5 { format!("{shown} and {} more", files.len() - 5) } else { shown }
    };
    let mut held = Vec::new();
    for obstacle in &plan.obstacles {
        match obstacle {
            Obstacle::NoRoom { missing, files } => {
                return Some(Error::no_space(format!(
                    "drain {name}: {missing} bytes have no place elsewhere: {}",
                    some(files)
                )));
            }
            Obstacle::Volatile { files } => {
                return Some(Error::device_state(format!(
                    "drain {name}: it outlives the power, and where there is room for these files doesn't: {} (--volatile lets them go there)",
                    some(files)
                )));
            }
            Obstacle::Placement { files } => {
                return Some(Error::device_state(format!(
                    "drain {name}: a strict placement keeps files on it: {} (codax placement PATH --on {name} lets them go for a drain)",
                    some(files)
                )));
            }
            Obstacle::Lent { bytes } => {
                return Some(Error::busy(format!(
                    "drain {name}: {bytes} bytes of it are lent to the rest of the system, and are not back yet"
                )));
            }
            Obstacle::Held { file, by } => held.push(HeldFile { path: file.clone(), by: by.clone() }),
        }
    }
    (!waits && !held.is_empty()).then(|| {
        Error::busy(format!(
            "drain {name}: {} (--wait DUR waits, --evict ends who holds)",
            describe_held(&held)
        ))
    })
}
