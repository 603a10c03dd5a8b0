//! Devices are mappers, too: before bytes are copied elsewhere, and before frames are given back, what devices have of them in their caches is written back and
//! forgotten, with the translations of their addresses.

use crate::drain::explain;
use crate::driver::{Asked, Call, Driven, Fault};
use crate::mover::Stuck;
use crate::store::state::{Job, State};
use crate::store::{Guard, Inner};
use codax_core::driver::{Range, Reach};
use codax_core::extent::{self, Extent, FrameRun};
use codax_core::frame::FrameState;
use codax_core::plan::Holder;
use codax_core::{Error, ErrorKind, FileId, PageCount, PageRange, PoolId, Result};
use std::sync::Arc;
use std::time::Instant;

/// Extents of a file.
pub(crate) type Part = (FileId, Vec<Extent>);

/// A device that may have some of these bytes in its caches.
struct User {
    device: String,
    driver: Arc<Driven>,
    ranges: Vec<Range>,
    own: PoolId,
}

impl User {
    fn reaches(&self, pool: PoolId) -> bool {
        reaches(self.driver.description.reach, self.own, pool)
    }
}

/// Whether a device whose memory is the pool `own` may have something of `pool` in its caches.
fn reaches(reach: Reach, own: PoolId, pool: PoolId) -> bool {
    match reach {
        Reach::Any => true,
        Reach::Own => pool == own,
        Reach::Nothing => false,
    }
}

/// A device that has not written back, and why.
struct Late {
    user: User,
    fault: Fault,
}

impl Late {
    /// What that is to who waits.
    fn stuck(self) -> Stuck {
        let User { device, driver, .. } = self.user;
        match self.fault {
            Fault::Unwanted => Stuck::Cancelled,
            Fault::Late(time) => Stuck::Held(vec![not_written_back(&driver, &device, time.as_secs_f64())]),
            fault => {
                let line = format!("{device} can't write back: its driver {}: {fault}", driver.name());
                Stuck::Failed(Error::new(ErrorKind::DeviceState, line))
            }
        }
    }
}

/// What devices are asked beside those who work with files.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    /// Somebody asks.
    on: bool,
    /// There is something since he began.
    more: bool,
    /// What is gone already, and they are only told.
    gone: Vec<Part>,
}

impl Asking {
    /// Whether who wants something asked is to ask: nobody else does.
    fn begin(&mut self) -> bool {
        self.more = true;
        !std::mem::replace(&mut self.on, true)
    }
}

impl Inner {
    /// Has all devices that may have these extents in their caches write them back and forget them, and waits for that; as long as `job` isn't cancelled, if there is
    /// one. A device whose driver is gone has nothing.
    pub fn write_back(&self, job: Option<&Job>, parts: &[Part]) -> std::result::Result<(), Stuck> {
        let users = self.lock().users_of(parts);
        let unwanted = || job.is_some_and(Job::cancelled);
        match self.ask_users(users, &unwanted).into_iter().next() {
            None => Ok(()),
            Some(late) => Err(late.stuck()),
        }
    }

    /// Asks these devices, all at once, and waits for them; those that have not done it are returned.
    fn ask_users(&self, users: Vec<User>, unwanted: &dyn Fn() -> bool) -> Vec<Late> {
        let (patience, begun) = (self.options().ack_timeout, Instant::now());
        let begin = |mut user: User| {
            let ranges = std::mem::take(&mut user.ranges);
            let asked = user.driver.begin(false, move |driver| driver.write_back(&ranges));
            (user, asked)
        };
        let asked: Vec<_> = users.into_iter().map(begin).collect();
        let wait = |(user, asked): (User, std::result::Result<Asked<()>, Fault>)| {
            let left = patience.saturating_sub(begun.elapsed());
            let call = Call { patience: left, in_any_case: false, unwanted };
            match asked.and_then(|asked| asked.wait(&user.driver, call)) {
                Ok(()) | Err(Fault::Gone) => None,
                // Nobody has had less time than that.
                Err(Fault::Late(_)) => Some(Late { user, fault: Fault::Late(patience) }),
                Err(fault) => Some(Late { user, fault }),
            }
        };
        asked.into_iter().filter_map(wait).collect()
    }

    /// Has devices let go of what is about to be given back of a file. `Busy`, with who it is, where one doesn't in time: then nothing is to be given back. One that
    /// was late already, and has not answered since, isn't waited for again: a mount has few threads, and all others wait for these.
    pub fn let_go_of(&self, file: FileId, extents: Vec<Extent>) -> Result<()> {
        let users = self.lock().users_of(&[(file, extents)]);
        let stuck = match users.iter().find(|user| user.driver.is_late()) {
            Some(User { device, driver, .. }) => {
                let why = format!("drives {device}, and has not answered yet what it was asked before");
                Some(Stuck::Held(vec![driver.holder(why)]))
            }
            None => self.ask_users(users, &|| false).into_iter().next().map(Late::stuck),
        };
        stuck.map_or(Ok(()), |stuck| Err(explain(&self.lock().path(file), stuck)))
    }

    /// Has devices let go once more of what a busy file has just lost: they may have looked it up anew until that was journalled. Whether one hasn't in time.
    pub fn let_go_again<'a>(&'a self, st: Guard<'a>, file: FileId, gone: &[Extent]) -> (Guard<'a>, bool) {
        if !st.may_be_cached(file, gone) {
            return (st, false);
        }
        for e in gone {
            let run = FrameRun { frame: e.frame, count: e.count };
            st.pool(e.pool).table.assign(run, file, e.page, FrameState::Held);
        }
        let acting = st.acting;
        drop(st);
        let late = self.write_back(None, &[(file, gone.to_vec())]).is_err();
        (self.lock_for(acting), late)
    }

    /// The same of an object that is ahead, from which it is gone already: it is nobody's, whoever doesn't let go in time.
    pub fn forget_ahead(&self, file: FileId, gone: Vec<Extent>) {
        if !gone.is_empty() {
            let _ = self.write_back(None, &[(file, gone)]);
        }
    }

    /// What devices are to let go of before an object that is ahead of its file loses `pages`: where none could have them, nobody looks.
    pub fn cached_ahead(&self, st: &mut State, file: FileId, pages: PageRange) -> Result<Vec<Extent>> {
        if !st.has_caches() {
            return Ok(Vec::new());
        }
        self.absorb(st, file)?;
        Ok(st.ns.get(file).map(|inode| extent::slice(&inode.extents, pages)).unwrap_or_default())
    }

    /// Gives back what a file has lost for good, once devices have let go of it.
    pub fn give_up(&self, st: &mut State, file: FileId, extents: Vec<Extent>) {
        if st.may_be_cached(file, &extents) {
            st.keep_stale(file, &extents);
            self.ask_beside(st);
        }
        self.give_back(st, file, extents);
    }

    /// Has devices forget what programs gave back of a file by themselves, beside the caller: it is too late to wait for that.
    pub fn tell_gone(&self, st: &mut State, file: FileId, extents: &[Extent]) {
        if st.may_be_cached(file, extents) {
            st.asking.gone.push((file, extents.to_vec()));
            self.ask_beside(st);
        }
    }

    /// Asks beside the caller, who has the state. One thread does, however much there is to be asked.
    fn ask_beside(&self, st: &mut State) {
        if st.asking.begin() {
            self.ask_on();
        }
    }

    /// Asks, beside the caller, until there is nothing new to be asked.
    fn ask_on(&self) {
        let me = self.me.clone();
        let ask = move || me.upgrade().iter().for_each(|inner| while inner.ask_round() {});
        self.env.spawn("write back", Box::new(ask));
    }

    /// Asks again for what devices have not let go of. Where they have by now, the frames are given back as soon as nobody else holds them.
    pub fn retry_stale(&self) {
        let mut st = self.lock();
        if !st.stale.is_empty() && st.asking.begin() {
            drop(st);
            if self.ask_round() {
                self.ask_on();
            }
        }
    }

    /// Asks once for all that devices have not let go of, and tells them what is gone. Whether there is more by now; if not, nobody asks any more.
    fn ask_round(&self) -> bool {
        let mut st = self.lock();
        st.asking.more = false;
        let stale: Vec<(PoolId, Part)> =
            st.stale.iter().map(|&(pool, file)| (pool, (file, st.held_of(pool, file)))).collect();
        let gone = std::mem::take(&mut st.asking.gone);
        let parts: Vec<Part> = stale.iter().map(|(_, part)| part.clone()).chain(gone).collect();
        let users = st.users_of(&parts);
        drop(st);
        let late = self.ask_users(users, &|| false);
        let mut st = self.lock();
        let before = st.stale.len();
        for (pool, (file, asked)) in stale {
            if late.iter().any(|late| late.user.reaches(pool)) {
                continue;
            }
            // What came meanwhile was not asked for.
            match st.held_of(pool, file) == asked {
                true => drop(st.stale.remove(&(pool, file))),
                false => st.asking.more = true,
            }
        }
        if st.stale.len() < before {
            self.retry_held(&mut st);
        }
        st.asking.on = st.asking.more;
        self.changed.notify_all();
        st.asking.on
    }
}

impl State {
    /// Devices that may have some of these extents in their caches, each with what it may have.
    fn users_of(&self, parts: &[Part]) -> Vec<User> {
        let mut users = Vec::new();
        for pool in &self.pools {
            let (own, driver) = (pool.record.id, &pool.driver);
            if !driver.caches() {
                continue;
            }
            let reaches = |e: &&Extent| reaches(driver.description.reach, own, e.pool);
            let range = |file: FileId, e: &Extent| Range {
                file,
                at: e.pages().offset(),
                len: e.count.bytes(),
                memory: (e.pool == own).then(|| PageCount(e.frame.0).bytes()),
            };
            let ranges: Vec<Range> = parts
                .iter()
                .flat_map(|(file, extents)| extents.iter().filter(reaches).map(|e| range(*file, e)))
                .collect();
            if !ranges.is_empty() {
                users.push(User { device: pool.record.name.clone(), driver: driver.clone(), ranges, own });
            }
        }
        users
    }

    /// Whether any device may have something in its caches.
    pub fn has_caches(&self) -> bool {
        self.pools.iter().any(|pool| pool.driver.caches())
    }

    /// Whether a device may have some of these extents in its caches.
    pub fn may_be_cached(&self, file: FileId, extents: &[Extent]) -> bool {
        !extents.is_empty() && !self.users_of(&[(file, extents.to_vec())]).is_empty()
    }

    /// These frames may not be given back before devices have let go of them.
    pub fn keep_stale(&mut self, file: FileId, extents: &[Extent]) {
        self.stale.extend(extents.iter().map(|e| (e.pool, file)));
    }

    fn held_of(&self, pool: PoolId, file: FileId) -> Vec<Extent> {
        self.pool(pool).held.get(&file).cloned().unwrap_or_default()
    }

    /// Who has not let go of what `file` had in `pool`, if a device hasn't.
    pub fn stale_holders(&self, pool: PoolId, file: FileId) -> Vec<Holder> {
        if !self.stale.contains(&(pool, file)) {
            return Vec::new();
        }
        let extents = self.held_of(pool, file);
        let why = |device| format!("drives {device}, and has not let go of it");
        let users = self.users_of(&[(file, extents)]).into_iter();
        users.map(|user| user.driver.holder(why(user.device))).collect()
    }
}

fn not_written_back(driver: &Driven, device: &str, seconds: f64) -> Holder {
    driver.holder(format!("drives {device}, and has not written back its caches within {seconds:.1} s"))
}
