//! `check`: whether frame table, names file, journal and objects say the same, and mending what they don't.

use crate::backing::{Backing, ObjectInfo};
use crate::dax::wanted;
use crate::options::StoreOptions;
use crate::store::lost::{WithMemory, nodes_of};
use crate::store::state::{Pool, State, Trouble, marked};
use crate::store::{Inner, Store, stale_ranges};
use crate::table::shown_page;
use codax_core::change::{Change, PoolState};
use codax_core::extent::{Extent, FrameRun, PoolRun, pool_runs};
use codax_core::frame::{FrameFlags, FrameRecord, FrameState};
use codax_core::info::{Finding, Severity};
use codax_core::name::Name;
use codax_core::namespace::{Inode, Kind};
use codax_core::quota::{Account, Quota};
use codax_core::{Error, ErrorKind, FileId, Frame, PageCount, PageNo, PageRange, PoolId, Result};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Findings listed at most; a store that differs in more places differs everywhere.
const FINDINGS_MAX: usize = 500;

impl Store {
    /// Compares frame table, journal and objects; with `repair` mends what can be mended.
    ///
    /// Files that are on the move are looked at when they have come to rest, which a check waits for.
    pub fn check(&self, repair: bool) -> Result<Vec<Finding>> {
        let inner = &self.inner;
        let mut findings = Findings { list: Vec::new(), repair, troubles: BTreeSet::new() };
        inner.check_journal(&mut findings)?;
        let mut st = inner.lock();
        inner.retry_held(&mut st);
        // What programs wrote to objects by themselves is no difference.
        let ahead: Vec<FileId> = st.ns.inodes().filter(|i| i.ahead.is_some()).map(|i| i.id).collect();
        ahead.into_iter().for_each(|file| inner.refresh(&mut st, file));
        check_catalogs(&mut st, &mut findings)?;
        inner.check_names(&st, &mut findings);
        check_table_files(&mut st, &mut findings)?;
        check_table(&mut st, &mut findings);
        check_quotas(&mut st, &mut findings);
        check_nodes(&st, &inner.options(), &mut findings);
        for pool in &st.pools {
            let name = &pool.record.name;
            for e in inner.unreadable(name) {
                findings.add(Severity::Lost, format!("{name}: {}", e.message), false);
            }
        }
        for pool in st.media.all() {
            inner.check_medium(&mut st, pool, &mut findings)?;
        }
        st.recovery.retain(|note| note.of.as_ref().is_none_or(|of| findings.troubles.contains(of)));
        drop(st);
        for finding in findings.list.iter().filter(|f| f.repaired) {
            inner.event("repair", "store", &finding.what, 0);
        }
        Ok(findings.list)
    }
}

/// What is said of something that lies among the objects.
pub(crate) fn stray(path: &str) -> String {
    format!("{path} is nothing of this store's: move it away")
}

struct Findings {
    list: Vec<Finding>,
    repair: bool,
    /// What is still wrong of what a start may have noted.
    troubles: BTreeSet<Trouble>,
}

impl Findings {
    fn add(&mut self, severity: Severity, what: String, repaired: bool) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(Finding { severity, what, repaired });
        }
    }

    /// [`Findings::add`] of what a start notes, too.
    fn trouble(&mut self, severity: Severity, what: String, repaired: bool, of: Trouble) {
        self.add(severity, what, repaired);
        if !repaired {
            self.troubles.insert(of);
        }
    }
}

/// Whether the nodes of pools have memory.
fn check_nodes(st: &State, options: &StoreOptions, findings: &mut Findings) {
    let machine = WithMemory::now();
    for pool in st.pools.iter().filter(|pool| pool.record.state != PoolState::Detached) {
        if let Some(why) = machine.lost(&nodes_of(&pool.record, options)) {
            let what = format!("{}: {why}; what it holds is whole, on other nodes", pool.record.name);
            findings.trouble(Severity::Mendable, what, false, Trouble::Memory(pool.record.id));
        }
    }
}

/// What media say of themselves: whether it is whole in both copies, and the same as the journal.
fn check_catalogs(st: &mut State, findings: &mut Findings) -> Result<()> {
    for at in 0..st.pools.len() {
        let (pool, name) = (st.pools[at].record.id, st.pools[at].record.name.clone());
        let repair = findings.repair;
        let Some(catalog) = &mut st.pools[at].catalog else { continue };
        for finding in catalog.check(repair)? {
            findings.add(finding.severity, format!("{name}: {}", finding.what), finding.repaired);
        }
        let Some(catalog) = &st.pools[at].catalog else { continue };
        let difference = catalog.contents().difference(&wanted(st, pool, catalog.contents()));
        if difference.is_empty() {
            continue;
        }
        let mended = repair
            && st.pools[at].catalog.as_mut().is_some_and(|catalog| catalog.append(&difference).is_ok());
        let what = format!("{name}: its catalog differs from the journal in {} entries", difference.len());
        findings.add(Severity::Mendable, what, mended);
    }
    Ok(())
}

/// The tables as files, which anybody who is their owner may cut or write to; `repair` makes one anew from what is in memory.
fn check_table_files(st: &mut State, findings: &mut Findings) -> Result<()> {
    for at in 0..st.pools.len() {
        let table = &st.pools[at].table;
        let Some(fault) = table.fault()? else { continue };
        let what =
            format!("{}: its frame table {} {fault}", st.pools[at].record.name, table.path().display());
        if findings.repair {
            let mut new = st.new_table(st.pools[at].record.id)?;
            new.publish()?;
            st.pools[at].table = new;
        }
        findings.add(Severity::Mendable, what, findings.repair);
    }
    Ok(())
}

/// Whose the frames of a pool are, by the first of each run.
type Owners = BTreeMap<Frame, (PageCount, FileId, PageNo)>;

/// Every frame's record against the one that the journal's extents give.
fn check_table(st: &mut State, findings: &mut Findings) {
    let owners = owners(st, findings);
    for (pool, owners) in st.pools.iter().zip(&owners) {
        let at_rest = owners.iter().filter(|(_, (_, file, _))| !st.is_busy(*file));
        at_rest.for_each(|(frame, owner)| check_owner(st, pool, (*frame, *owner), findings));
    }
    st.pools.iter().for_each(|pool| check_free(pool, findings));
}

/// Whose the frames of each pool are: no frame is two files'.
fn owners(st: &State, findings: &mut Findings) -> Vec<Owners> {
    let mut owners = vec![Owners::new(); st.pools.len()];
    let held = st.pools.iter().flat_map(|p| &p.held).flat_map(|(f, list)| list.iter().map(|e| (*f, *e)));
    let owned = st.ns.inodes().flat_map(|i| i.extents.iter().map(|e| (i.id, *e)));
    for (file, e) in owned.chain(held) {
        let (map, end) = (&mut owners[usize::from(e.pool.0)], e.frame.0 + e.count.0);
        let before = map.range(..Frame(end)).next_back();
        if before.is_some_and(|(f, (count, _, _))| f.0 + count.0 > e.frame.0) {
            let (pool, path) = (st.pool_name(e.pool), st.path(file));
            let what = format!("{pool}: frames {}..{end} have two owners, {path} among them", e.frame);
            findings.add(Severity::Lost, what, false);
        }
        map.insert(e.frame, (e.count, file, e.page));
    }
    owners
}

/// Frames that are a file's.
fn check_owner(
    st: &State,
    pool: &Pool,
    (frame, (count, file, page)): (Frame, (PageCount, FileId, PageNo)),
    findings: &mut Findings,
) {
    let mut wrong = None;
    pool.table.for_each(FrameRun { frame, count }, |at, record| {
        let i = at.0 - frame.0;
        let page = shown_page(PageNo(page.0 + i));
        let right =
            record.is_ok_and(|r| r.owner == Some(file) && r.page == page && r.state != FrameState::Free);
        if !right {
            wrong.get_or_insert(i);
        }
    });
    let Some(i) = wrong else { return };
    let what = format!(
        "{}: the frame table has another owner for frame {} than the journal, {}",
        pool.record.name,
        frame.0 + i,
        st.path(file)
    );
    if findings.repair {
        let held = pool.held.contains_key(&file);
        let state = if held { FrameState::Held } else { FrameState::Used };
        pool.table.assign(FrameRun { frame, count }, file, page, state);
        let here = Extent { page, count, pool: pool.record.id, frame };
        for (_, run) in st.ns.get(file).map(|inode| marked(inode, &[here])).unwrap_or_default() {
            pool.table.set_flags(run, FrameFlags::EMERGENCY, true);
        }
    }
    findings.add(Severity::Mendable, what, findings.repair);
}

/// Frames that are free, and those that are not.
fn check_free(pool: &Pool, findings: &mut Findings) {
    let all = FrameRun { frame: Frame(0), count: PageCount(pool.record.frames) };
    pool.table.for_each(all, |frame, record| {
        let free = pool.alloc.is_free(frame);
        let right = match &record {
            Ok(record) if free => *record == FrameRecord::default(),
            Ok(record) => record.state != FrameState::Free,
            Err(_) => false,
        };
        if right {
            return;
        }
        let name = &pool.record.name;
        let what = match record {
            Ok(_) if free => {
                format!("{name}: the frame table has more to say of frame {frame} than that it is free")
            }
            Ok(_) => format!("{name}: the frame table says that frame {frame} is free, and it is not"),
            Err(e) => format!("{name}: frame {frame}: {e}"),
        };
        if findings.repair && free {
            pool.table.free(FrameRun { frame, count: PageCount(1) });
        }
        findings.add(Severity::Mendable, what, findings.repair && free);
    });
}

/// What is charged to whom against the frames that there are.
fn check_quotas(st: &mut State, findings: &mut Findings) {
    let wrong = st.miscounted();
    if findings.repair && !wrong.is_empty() {
        st.count_quotas();
    }
    for what in wrong {
        findings.add(Severity::Mendable, what, findings.repair);
    }
}

/// What the journal says of an object, to be compared with it.
struct Its {
    file: FileId,
    pool: PoolId,
    /// The file's path, and that its object is meant.
    of: String,
    /// The file's length.
    len: u64,
    here: Vec<PoolRun>,
    held: Vec<PageRange>,
    backing: Arc<dyn Backing>,
}

impl Its {
    fn new(st: &State, pool: PoolId, inode: &Inode) -> Self {
        let file = inode.id;
        let held = st.media.pools(pool).filter_map(|pool| st.pool(pool).held.get(&file));
        Self {
            file,
            pool,
            of: format!("{}: its object in {}", st.path(file), st.pool_name(pool)),
            len: inode.len,
            here: pool_runs(&st.media.extents(pool, &inode.extents)),
            held: held.flatten().map(Extent::pages).collect(),
            backing: st.pool(pool).backing.clone(),
        }
    }

    /// Pages that it is to have.
    fn expected(&self) -> u64 {
        self.here.iter().map(|run| run.pages.count.0).sum()
    }

    fn found(&self, findings: &mut Findings, severity: Severity, what: &str, mended: bool) {
        let what = format!("{} {what}", self.of);
        findings.trouble(severity, what, mended, Trouble::Object(self.file, self.pool));
    }

    fn missing(&self, st: &State, findings: &mut Findings) -> Result<()> {
        let what = format!("is missing: {} bytes are lost", PageCount(self.expected()).bytes());
        let mended = findings.repair && {
            let fd = self.backing.create(self.file, self.len)?;
            allocate(st, &fd, &self.here)
        };
        self.found(findings, Severity::Lost, &what, mended);
        Ok(())
    }

    fn cut(&self, st: &State, fd: &OwnedFd, to: u64, findings: &mut Findings) {
        let (pages, left) = (PageCount::for_bytes(self.len), PageCount::for_bytes(to));
        let behind = PageRange::new(left.0, pages.0 - left.0);
        let lost = self.here.iter().filter_map(|run| run.pages.intersect(behind));
        let lost: u64 = lost.map(|run| run.bytes()).sum();
        let what = format!("was cut to {to} bytes by who may write it: {lost} bytes are lost");
        let mended = findings.repair
            && self.backing.resize(fd.as_fd(), self.len).is_ok()
            && allocate(st, fd, &self.here);
        self.found(findings, Severity::Lost, &what, mended);
    }

    fn grown(&self, fd: &OwnedFd, to: u64, findings: &mut Findings) {
        let mended = findings.repair && self.backing.resize(fd.as_fd(), self.len).is_ok();
        let what = format!("was grown to {to} bytes behind the store's back");
        self.found(findings, Severity::Mendable, &what, mended);
    }

    fn with_holes(
        &self,
        st: &State,
        fd: &OwnedFd,
        allocated: PageCount,
        findings: &mut Findings,
    ) -> Result<()> {
        let mut bytes = 0;
        for PoolRun { pages, .. } in &self.here {
            bytes += pages.bytes() - self.backing.resident(fd.as_fd(), *pages)?.bytes().min(pages.bytes());
        }
        if !self.backing.tells_which() {
            bytes = PageCount(self.expected().saturating_sub(allocated.0)).bytes();
        }
        if bytes > 0 {
            let what = format!("has holes: {bytes} bytes read as zero and may be lost");
            let mended = findings.repair && allocate(st, fd, &self.here);
            self.found(findings, Severity::Lost, &what, mended);
        }
        Ok(())
    }

    fn with_more(&self, st: &State, fd: &OwnedFd, findings: &mut Findings) -> Result<()> {
        let mut stale = stale_ranges(st, self.pool, self.file, fd.as_fd())?;
        stale.retain(|run| !self.held.iter().any(|held| held.intersect(*run).is_some()));
        if stale.is_empty() {
            return Ok(());
        }
        let bytes: u64 = stale.iter().map(|run| run.bytes()).sum();
        let what = format!("has {bytes} bytes of memory that belong to no extent");
        let release = |run: &PageRange| self.backing.release(fd.as_fd(), *run);
        let mended = findings.repair && stale.iter().try_for_each(release).is_ok();
        self.found(findings, Severity::Mendable, &what, mended);
        Ok(())
    }
}

/// Whether pages lie where their pool is, as the kernel says: what moves pages behind the store's back doesn't tell it.
fn check_place(st: &State, file: FileId, here: &[PoolRun], findings: &mut Findings) -> Result<()> {
    for PoolRun { pages, pool } in here {
        let backing = &st.pool(*pool).backing;
        if !backing.is_placed() || findings.troubles.contains(&Trouble::Memory(*pool)) {
            continue;
        }
        let object = backing.open(file, false)?;
        let astray = backing.astray(object.as_fd(), *pages)?.bytes();
        if astray > 0 {
            let (path, pool) = (st.path(file), st.pool_name(*pool));
            let what = format!("{path}: {astray} bytes of it in {pool} lie on other NUMA nodes");
            let mended = findings.repair && backing.confirm(object.as_fd(), *pages).is_ok();
            findings.add(Severity::Mendable, what, mended);
        }
    }
    Ok(())
}

/// Gives pages of an object memory that they should have.
fn allocate(st: &State, object: &impl AsFd, here: &[PoolRun]) -> bool {
    here.iter().all(|run| st.pool(run.pool).backing.allocate(object.as_fd(), run.pages).is_ok())
}

impl Inner {
    /// The objects of a medium, and what else is there.
    fn check_medium(&self, st: &mut State, pool: PoolId, findings: &mut Findings) -> Result<()> {
        let backing = st.pool(pool).backing.clone();
        if let Some(why) = backing.gone().filter(|_| st.pool(pool).record.state != PoolState::Detached) {
            let what = format!("{}: its device is not there: {why}", st.pool_name(pool));
            findings.trouble(Severity::Mendable, what, false, Trouble::Memory(pool));
            return Ok(());
        }
        for path in backing.strays()? {
            findings.trouble(Severity::Mendable, stray(&path), false, Trouble::Stray(path));
        }
        let mut objects: HashMap<FileId, ObjectInfo> = backing.list()?.into_iter().collect();
        let files: Vec<FileId> = st.files_in(pool).map(|i| i.id).collect();
        for file in files {
            let object = objects.remove(&file);
            match st.is_busy(file) {
                // Nothing is known of it.
                true => drop(findings.troubles.insert(Trouble::Object(file, pool))),
                false => self.check_object(st, pool, file, object, findings)?,
            }
        }
        for (file, object) in objects {
            let ahead = st.ns.get(file).and_then(|inode| inode.ahead);
            let is_known = st.is_busy(file)
                || st.has_held(file, pool)
                || ahead.is_some_and(|its| st.media.same(its, pool))
                || st.making.contains_key(&file);
            if is_known {
                continue;
            }
            let (name, path, bytes) = (st.pool_name(pool), st.path(file), object.allocated.bytes());
            let what = format!("{name}: an object of {path} that the journal doesn't know of, {bytes} bytes");
            let mended =
                findings.repair && backing.sole_holder(file)?.is_some() && backing.remove(file).is_ok();
            findings.add(Severity::Mendable, what, mended);
        }
        Ok(())
    }

    fn check_object(
        &self,
        st: &mut State,
        pool: PoolId,
        file: FileId,
        object: Option<ObjectInfo>,
        findings: &mut Findings,
    ) -> Result<()> {
        // While programs write to it there is nothing to compare with.
        let Some(inode) = st.ns.get(file).filter(|inode| inode.ahead.is_none()) else { return Ok(()) };
        debug_assert_eq!(inode.kind, Kind::File, "only files have pages");
        let its = Its::new(st, pool, inode);
        let Some(object) = object else { return its.missing(st, findings) };
        let object_len = its.backing.object_len(its.len);
        let held: u64 = its.held.iter().map(|run| run.count.0).sum();
        if object.len == object_len && object.allocated.0 == its.expected() + held {
            return check_place(st, file, &its.here, findings);
        }
        let fd = its.backing.open(file, true)?;
        if object.len < object_len {
            its.cut(st, &fd, object.len, findings);
            return Ok(());
        }
        // What is held of it is cut off when it is given back.
        if object.len > object_len && its.held.is_empty() {
            its.grown(&fd, object.len, findings);
        }
        its.with_holes(st, &fd, object.allocated, findings)?;
        its.with_more(st, &fd, findings)
    }

    /// The names file against the namespace. Of several names of a file any will do.
    fn check_names(&self, st: &State, findings: &mut Findings) {
        let fault = match self.names.read() {
            Err(e) => Some(e.to_string()),
            Ok(found) => {
                let wrong = st.ns.inodes().filter(|i| st.ns.parent_of(i.id).is_some()).find(|i| {
                    let there =
                        found.get(&i.id).and_then(|(dir, name)| st.ns.lookup(*dir, &Name::new(name).ok()?));
                    there != Some(i.id)
                });
                let wrong =
                    wrong.map(|i| i.id).or_else(|| found.keys().copied().find(|id| st.ns.get(*id).is_none()));
                wrong.map(|id| format!("it has another name for {} than the journal, or none", st.path(id)))
            }
        };
        let Some(fault) = fault else { return };
        let mended = findings.repair && self.names.restore(crate::store::names_of(&st.ns)).is_ok();
        findings.add(Severity::Mendable, format!("names file: {fault}"), mended);
    }

    /// Reads all of the journal that a restart would read; `repair` writes it anew from what is in memory.
    fn check_journal(&self, findings: &mut Findings) -> Result<()> {
        match self.journal.verify() {
            Err(e) if e.kind == ErrorKind::Corrupt => {
                let mended = findings.repair && self.rewrite_journal(&self.lock()).is_ok();
                let severity = if mended { Severity::Mendable } else { Severity::Lost };
                findings.add(severity, format!("journal: {e}"), mended);
                Ok(())
            }
            other => other,
        }
    }

    fn rewrite_journal(&self, st: &State) -> Result<()> {
        if !st.segments.is_empty() {
            return Err(Error::busy("moves are on their way: repair when they are over"));
        }
        let inodes = st.ns.inodes().map(|i| Change::Put(Box::new(i.clone())));
        let links = st.ns.inodes().flat_map(|dir| {
            st.ns.entries(dir.id, None).map(|(name, child)| Change::Link {
                dir: dir.id,
                name: name.as_bytes().to_vec(),
                child,
            })
        });
        let pools = st.pools.iter().map(|p| Change::Pool(p.record.clone()));
        let quotas = st.quotas.accounts().map(|Account { subject, pool, limit, .. }| {
            Change::Quota(Quota { subject, pool, limit: Some(limit) })
        });
        let ids = [Change::IdsBelow(st.ids_below)];
        self.journal.rewrite(inodes.chain(links).chain(pools).chain(quotas).chain(ids))
    }
}
