//! Quotas: what is charged to whom by every way in which a file gets or loses frames, what is refused, and what is found.

// Files of some MiB, and single bytes on purpose.
#![allow(clippy::cast_possible_truncation)]

mod fs_support;
mod store_support;

use codax_core::info::{Finding, QuotaInfo};
use codax_core::request::{Open, PlacementSpec, QuotaOf};
use codax_core::{ErrorKind, ROOT};
use codax_engine::env::Env;
use codax_engine::fs::{Allocate, Fs, FsOpen, How, New, NewKind, RenameFlags, Set, Who};
use codax_engine::{DeviceSpec, DrainOptions, Format, Session, Store};
use fs_support::*;
use std::sync::Arc;
use std::time::Duration;
use store_support::media::Media;

const ANN: u32 = 1000;
const BOB: u32 = 1001;

fn user(uid: u32) -> QuotaOf {
    QuotaOf::User(uid)
}

fn dir(text: &str) -> QuotaOf {
    QuotaOf::Dir(path(text))
}

fn limit(store: &Store, of: &QuotaOf, pool: &str, bytes: u64) {
    admin(store).set_quota(of, Some(pool), Some(bytes)).expect("set");
}

/// What a quota has, and whether it is over.
fn has(store: &Store, of: &QuotaOf, pool: &str) -> (u64, bool) {
    seen(&admin(store), of, pool)
}

/// The same as a session sees it, whose end makes the store take back what it can.
fn seen(session: &Session, of: &QuotaOf, pool: &str) -> (u64, bool) {
    let (quotas, more) = session.quotas(0, 100);
    assert_eq!(more, 0);
    let its = |q: &&QuotaInfo| q.of == *of && q.pool == pool;
    let quota = quotas.iter().find(its).unwrap_or_else(|| panic!("no quota of {of:?}: {quotas:?}"));
    (quota.used, quota.over)
}

fn events(store: &Store) -> Vec<String> {
    let events = store.events(1, 1000).into_iter().filter(|event| event.what == "quota");
    events.map(|event| format!("{} {}", event.subject, event.detail)).collect()
}

fn as_user(store: &Store, uid: u32) -> Session {
    session(store, uid, false)
}

/// Looks after a store only when it is asked to: what it finds is there until then.
#[derive(Debug)]
struct Unattended(Arc<TestEnv>);

impl Env for Unattended {
    fn now(&self) -> Duration {
        self.0.now()
    }

    fn wall_ns(&self) -> i64 {
        self.0.wall_ns()
    }

    fn random(&self) -> u64 {
        self.0.random()
    }

    fn sleep(&self, time: Duration) {
        self.0.sleep(time);
    }

    fn spawn(&self, name: &str, job: Box<dyn FnOnce() + Send>) {
        if name != "maintenance" {
            self.0.spawn(name, job);
        }
    }

    fn reached(&self, _point: &'static str) {}
}

/// A directory for everybody, whose files go to `sim0`.
fn shared(store: &Store, text: &str) {
    let at = PlacementSpec::On { pool: "sim0".into(), strict: false };
    admin(store).mkdir(&path(text), 0o777, Some(&at)).expect("made");
}

/// A new file that stays open.
fn kept(session: &Session, text: &str, len: u64) -> codax_core::Result<codax_engine::Opened> {
    session.open(&Open { exclusive: true, ..open_of(text, len) })
}

/// A new file that nobody has open.
fn sized(session: &Session, text: &str, len: u64) -> codax_core::Result<()> {
    kept(session, text, len).map(|open| session.close(open.handle))
}

fn passes(store: &Store) {
    assert_eq!(store.check(false).expect("check"), []);
}

#[test]
fn a_user_fills_what_they_may_and_no_more_while_others_have_theirs() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    limit(&store, &user(ANN), "sim0", 4 * MIB + 100);
    let (ann, bob) = (as_user(&store, ANN), as_user(&store, BOB));
    let a = kept(&ann, "/d/a", 3 * MIB).expect("made");
    let e = sized(&ann, "/d/b", MIB + 1).expect_err("too much");
    assert_eq!(e.kind, ErrorKind::QuotaExceeded);
    for word in ["user 1000", "3 MiB (3145728 bytes) of the 4 MiB (4194304 bytes)", "sim0", "codax quota set"]
    {
        assert!(e.message.contains(word), "{word}: {e}");
    }
    assert_eq!(kind(ann.stat(&path("/d/b"))), ErrorKind::NotFound);
    ann.set_len(a.handle, 4 * MIB).expect("all of it");
    assert_eq!(kind(ann.set_len(a.handle, 4 * MIB + 1)), ErrorKind::QuotaExceeded);
    assert_eq!(has(&store, &user(ANN), "sim0"), (4 * MIB, false));
    // The other has the rest of the device, and ann has the other pool.
    sized(&bob, "/d/bob", 28 * MIB).expect("made");
    assert_eq!(kind(sized(&bob, "/d/more", 4096)), ErrorKind::NoSpace);
    ann.open(&Open { placement: on("dram"), ..open_of("/d/elsewhere", 8 * MIB) }).expect("made");
    // Cut, and removed, is given back.
    ann.set_len(a.handle, MIB).expect("cut");
    assert_eq!(has(&store, &user(ANN), "sim0"), (MIB, false));
    sized(&ann, "/d/b", 3 * MIB).expect("made");
    ann.close(a.handle);
    ann.remove(&path("/d/a"), false).expect("removed");
    assert_eq!(has(&store, &user(ANN), "sim0"), (3 * MIB, false));
    passes(&store);
}

#[test]
fn every_directory_above_counts_and_the_tightest_binds() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    let s = admin(&store);
    s.mkdir(&path("/d/sub"), 0o777, None).expect("made");
    limit(&store, &dir("/d"), "sim0", 4 * MIB);
    limit(&store, &dir("/d/sub"), "sim0", 2 * MIB);
    limit(&store, &dir("/"), "sim0", 16 * MIB);
    let bob = as_user(&store, BOB);
    sized(&bob, "/d/sub/a", 2 * MIB).expect("made");
    let e = sized(&bob, "/d/sub/b", 4096).expect_err("full");
    assert!(e.kind == ErrorKind::QuotaExceeded && e.message.starts_with("/d/sub has "), "{e}");
    sized(&bob, "/d/c", 2 * MIB).expect("made");
    let e = sized(&bob, "/d/e", 4096).expect_err("full");
    assert!(e.kind == ErrorKind::QuotaExceeded && e.message.starts_with("/d has "), "{e}");
    s.open(&Open { placement: on("sim0"), ..open_of("/else", 4 * MIB) }).expect("made");
    assert_eq!(has(&store, &dir("/"), "sim0"), (8 * MIB, false));
    assert_eq!(has(&store, &dir("/d"), "sim0"), (4 * MIB, false));
    assert_eq!(has(&store, &dir("/d/sub"), "sim0"), (2 * MIB, false));
    // A directory's quota goes with it.
    s.remove(&path("/d/sub"), true).expect("removed");
    assert_eq!(admin(&store).quotas(0, 10).0.len(), 2);
    assert_eq!(has(&store, &dir("/d"), "sim0"), (2 * MIB, false));
    passes(&store);
}

#[test]
fn owners_and_names_move_what_is_charged() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    shared(&store, "/d");
    shared(&store, "/e");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    limit(&store, &user(BOB), "sim0", 2 * MIB);
    limit(&store, &dir("/d"), "sim0", 4 * MIB);
    limit(&store, &dir("/e"), "sim0", 3 * MIB);
    let ann = as_user(&store, ANN);
    ann.mkdir(&path("/d/t"), 0o777, None).expect("made");
    for (name, len) in [("/d/t/a", 2 * MIB), ("/d/t/b", MIB)] {
        sized(&ann, name, len).expect("made");
    }
    sized(&s, "/e/x", MIB).expect("made");
    // A tree that doesn't fit stays; one that fits goes with all that is below it.
    let e = ann.rename(&path("/d/t"), &path("/e/t"), false).expect_err("too much");
    assert!(e.kind == ErrorKind::QuotaExceeded && e.message.starts_with("/e has 1 MiB"), "{e}");
    assert_eq!((has(&store, &dir("/d"), "sim0").0, has(&store, &dir("/e"), "sim0").0), (3 * MIB, MIB));
    ann.rename(&path("/d/t/b"), &path("/e/b"), false).expect("fits");
    s.remove(&path("/e/x"), false).expect("removed");
    ann.rename(&path("/d/t"), &path("/e/t"), false).expect("fits now");
    assert_eq!((has(&store, &dir("/d"), "sim0").0, has(&store, &dir("/e"), "sim0").0), (0, 3 * MIB));
    // Where there is no room left one can still rename.
    ann.rename(&path("/e/t/a"), &path("/e/a"), false).expect("within");
    // Who gives a file to another is root, and isn't refused: it is counted.
    s.set_attr(&path("/e/a"), None, Some(BOB), None, None).expect("given");
    s.set_attr(&path("/e/b"), None, Some(BOB), None, None).expect("given");
    assert_eq!(has(&store, &user(ANN), "sim0"), (0, false));
    assert_eq!(has(&store, &user(BOB), "sim0"), (3 * MIB, true));
    let bob = as_user(&store, BOB);
    assert_eq!(kind(sized(&bob, "/d/bob", 4096)), ErrorKind::QuotaExceeded);
    sized(&bob, "/d/empty", 0).expect("no frames are asked for");
    passes(&store);
    // An exchange is looked at as a whole.
    let fs = store.fs(false);
    let (d, e) = (fs.lookup(ROOT, b"d").expect("there").id, fs.lookup(ROOT, b"e").expect("there").id);
    sized(&s, "/d/y", 4 * MIB).expect("made");
    let swap = RenameFlags { noreplace: false, exchange: true };
    assert_eq!(kind(fs.rename((d, b"y"), (e, b"b"), swap)), ErrorKind::QuotaExceeded);
    let handle = s.open(&Open { create: false, ..open_of("/d/y", 0) }).expect("opens").handle;
    s.set_len(handle, MIB).expect("cut");
    fs.rename((d, b"y"), (e, b"b"), swap).expect("as much as comes goes");
    assert_eq!((has(&store, &dir("/d"), "sim0").0, has(&store, &dir("/e"), "sim0").0), (MIB, 3 * MIB));
    passes(&store);
}

#[test]
fn a_file_with_several_names_counts_where_the_first_is() {
    let rig = Rig::new();
    let store = rig.open();
    let (s, fs) = (admin(&store), store.fs(false));
    shared(&store, "/d");
    shared(&store, "/e");
    limit(&store, &dir("/d"), "sim0", 4 * MIB);
    limit(&store, &dir("/e"), "sim0", MIB);
    sized(&s, "/d/a", 2 * MIB).expect("made");
    let (d, e) = (fs.lookup(ROOT, b"d").expect("there").id, fs.lookup(ROOT, b"e").expect("there").id);
    let id = fs.lookup(d, b"a").expect("there").id;
    fs.link(id, e, b"b").expect("linked");
    assert_eq!((has(&store, &dir("/d"), "sim0").0, has(&store, &dir("/e"), "sim0").0), (2 * MIB, 0));
    // What can't be refused is counted.
    fs.unlink(d, b"a").expect("unlinked");
    assert_eq!(has(&store, &dir("/d"), "sim0"), (0, false));
    assert_eq!(has(&store, &dir("/e"), "sim0"), (2 * MIB, true));
    passes(&store);
}

#[test]
fn what_has_lost_its_name_is_charged_where_it_was_until_its_frames_are_free() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    limit(&store, &dir("/d"), "sim0", 4 * MIB);
    let ann = as_user(&store, ANN);
    // The usual way to a nameless file: made, removed, and filled after that.
    let nameless = Open { placement: on("sim0"), ..open_of("/d/tmp", 0) };
    let open = ann.open(&nameless).expect("made");
    ann.remove(&path("/d/tmp"), false).expect("removed");
    ann.set_len(open.handle, 3 * MIB).expect("grown");
    assert_eq!(has(&store, &dir("/d"), "sim0"), (3 * MIB, false));
    assert_eq!(kind(ann.set_len(open.handle, 5 * MIB)), ErrorKind::QuotaExceeded);
    passes(&store);
    // A quota that is set while it is so.
    limit(&store, &user(ANN), "sim0", 8 * MIB);
    assert_eq!(has(&store, &user(ANN), "sim0"), (3 * MIB, false));
    assert_eq!(has(&store, &dir("/d"), "sim0"), (3 * MIB, false));
    ann.close(open.handle);
    assert_eq!((has(&store, &dir("/d"), "sim0").0, has(&store, &user(ANN), "sim0").0), (0, 0));
    // One that the library makes so is charged to the directory for which it is made, and to another if it is named there.
    shared(&store, "/e");
    limit(&store, &dir("/e"), "sim0", MIB);
    let open = ann.open(&Open { unnamed: true, ..open_of("/d/f", 2 * MIB) }).expect("made");
    assert_eq!(has(&store, &dir("/d"), "sim0"), (2 * MIB, false));
    assert_eq!(kind(ann.set_len(open.handle, 5 * MIB)), ErrorKind::QuotaExceeded);
    assert_eq!(kind(ann.publish(open.handle, &path("/e/f"), false)), ErrorKind::QuotaExceeded);
    ann.set_len(open.handle, MIB).expect("cut");
    ann.publish(open.handle, &path("/e/f"), false).expect("named");
    assert_eq!((has(&store, &dir("/d"), "sim0").0, has(&store, &dir("/e"), "sim0").0), (0, MIB));
    passes(&store);
}

#[test]
fn a_quota_below_what_is_used_is_set_and_gives_nothing_until_there_is_less() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    let ann = as_user(&store, ANN);
    let a = kept(&ann, "/d/a", 4 * MIB).expect("made");
    limit(&store, &user(ANN), "sim0", MIB);
    assert_eq!(has(&store, &user(ANN), "sim0"), (4 * MIB, true));
    for _ in 0..3 {
        assert_eq!(kind(sized(&ann, "/d/b", 4096)), ErrorKind::QuotaExceeded);
        assert_eq!(kind(ann.set_len(a.handle, 4 * MIB + 1)), ErrorKind::QuotaExceeded);
    }
    // What is there can be used.
    write(&ann, &a, b"still writable", 5);
    ann.set_len(a.handle, MIB - 4096).expect("cut");
    assert_eq!(has(&store, &user(ANN), "sim0"), (MIB - 4096, false));
    sized(&ann, "/d/b", 4096).expect("made");
    assert_eq!(kind(sized(&ann, "/d/c", 4096)), ErrorKind::QuotaExceeded);
    admin(&store).set_quota(&user(ANN), None, None).expect("cleared");
    sized(&ann, "/d/c", 4 * MIB).expect("made");
    let told = events(&store);
    let of = |word: &str| told.iter().filter(|line| line.contains(word)).count();
    assert!(told.iter().all(|line| line.starts_with("user 1000 sim0: ")), "{told:?}");
    // Refused when it was over, and again when it was full: not each time.
    assert_eq!(
        (of(" set: "), of(" refused "), of(" no longer over"), of(" cleared")),
        (1, 2, 1, 1),
        "{told:?}"
    );
    passes(&store);
}

#[test]
fn what_can_t_be_set_is_said() {
    let rig = Rig::new();
    let store = rig.open();
    let (s, ann) = (admin(&store), as_user(&store, ANN));
    sized(&s, "/f", 0).expect("made");
    let set = |of: &QuotaOf, pool, bytes| s.set_quota(of, Some(pool), Some(bytes)).expect_err("refused");
    for (error, kind, says) in [
        (set(&user(ANN), "sim7", MIB), ErrorKind::NotFound, "no pool sim7"),
        (set(&user(ANN), "sim0", 100), ErrorKind::Invalid, "100 bytes is less than one frame"),
        (set(&dir("/none"), "sim0", MIB), ErrorKind::NotFound, "/none"),
        (set(&dir("/f"), "sim0", MIB), ErrorKind::NotDir, "/f is not a directory"),
        (
            s.set_quota(&user(ANN), Some("sim0"), None).expect_err("none"),
            ErrorKind::NotFound,
            "user 1000 has no quota on sim0",
        ),
        (s.set_quota(&dir("/"), None, None).expect_err("none"), ErrorKind::NotFound, "/ has no quota"),
        (
            ann.set_quota(&user(ANN), Some("sim0"), Some(MIB)).expect_err("not theirs"),
            ErrorKind::Permission,
            "quota set",
        ),
        (
            ann.set_quota(&user(ANN), None, None).expect_err("not theirs"),
            ErrorKind::Permission,
            "quota clear",
        ),
    ] {
        assert!(error.kind == kind && error.message.contains(says), "{error:?}");
    }
    assert_eq!(admin(&store).quotas(0, 10), (Vec::new(), 0));
    // Nothing at all, and more than there is, can be said.
    limit(&store, &user(ANN), "dram", 0);
    limit(&store, &user(ANN), "sim0", u64::MAX);
    assert_eq!(kind(sized(&ann, "/g", 4096)), ErrorKind::Permission);
    s.set_attr(&path("/f"), None, Some(ANN), None, None).expect("given");
    let f = ann.open(&Open { create: false, ..open_of("/f", 0) }).expect("opens");
    assert_eq!(kind(ann.set_len(f.handle, 1)), ErrorKind::QuotaExceeded);
    assert_eq!(admin(&store).quotas(1, 10).0.len(), 1);
    assert_eq!((admin(&store).quotas(0, 1).0.len(), admin(&store).quotas(0, 1).1), (1, 1));
}

#[test]
fn quotas_and_what_is_charged_outlive_the_daemon() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    limit(&store, &user(BOB), "sim0", 4 * MIB);
    limit(&store, &dir("/d"), "sim0", 6 * MIB);
    limit(&store, &user(BOB), "dram", MIB);
    sized(&as_user(&store, ANN), "/d/a", 3 * MIB).expect("made");
    sized(&as_user(&store, BOB), "/d/b", MIB).expect("made");
    admin(&store).set_quota(&user(BOB), Some("dram"), None).expect("cleared");
    store.end();
    // Once out of the log, and once out of the database.
    for folded in [false, true] {
        let store = rig.open();
        assert_eq!(admin(&store).quotas(0, 10).0.len(), 3);
        assert_eq!(has(&store, &user(ANN), "sim0"), (3 * MIB, false));
        assert_eq!(has(&store, &user(BOB), "sim0"), (MIB, false));
        assert_eq!(has(&store, &dir("/d"), "sim0"), (4 * MIB, false));
        assert_eq!(kind(sized(&as_user(&store, ANN), "/d/c", MIB + 1)), ErrorKind::QuotaExceeded);
        passes(&store);
        if !folded {
            store.close(false).expect("closed");
        }
        store.end();
    }
}

#[test]
fn a_preferred_pool_is_full_to_a_tenant_when_the_quota_is_and_turns_are_not_taken_without() {
    let rig = Rig::new();
    let store = rig.open();
    admin(&store).mkdir(&path("/d"), 0o777, None).expect("made");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    let ann = as_user(&store, ANN);
    let prefer = |pool: &str| Some(PlacementSpec::Prefer { pool: pool.into() });
    let a = ann.open(&Open { placement: prefer("sim0"), ..open_of("/d/a", 6 * MIB) }).expect("made");
    ann.close(a.handle);
    assert_eq!(pool_of(&ann, "/d/a"), [1, 0]);
    assert_eq!(has(&store, &user(ANN), "sim0"), (4 * MIB, false));
    ann.open(&Open { placement: prefer("sim0"), ..open_of("/d/b", MIB) }).expect("made");
    assert_eq!(pool_of(&ann, "/d/b"), [0]);
    limit(&store, &user(ANN), "dram", 4 * MIB);
    let both = Some(PlacementSpec::Interleave { pools: vec!["dram".into(), "sim0".into()] });
    let turns = Open { placement: both, ..open_of("/d/c", 4 * MIB) };
    assert_eq!(kind(ann.open(&turns)), ErrorKind::QuotaExceeded);
    ann.remove(&path("/d/a"), false).expect("removed");
    ann.open(&turns).expect("made");
    assert_eq!(has(&store, &user(ANN), "sim0").0, 2 * MIB);
    assert_eq!(has(&store, &user(ANN), "dram").0, 3 * MIB);
    // The other pool of the turns has room for it, and this one hasn't.
    limit(&store, &user(ANN), "sim0", 2 * MIB);
    let c = ann.open(&Open { create: false, ..open_of("/d/c", 0) }).expect("opens");
    assert_eq!(kind(ann.set_len(c.handle, 8 * MIB)), ErrorKind::QuotaExceeded);
    assert_eq!(has(&store, &user(ANN), "dram").0, 3 * MIB);
    passes(&store);
}

#[test]
fn a_mount_s_new_file_is_made_where_the_quota_leaves_room() {
    let rig = Rig::new();
    let store = rig.open();
    let prefer = PlacementSpec::Prefer { pool: "sim0".into() };
    admin(&store).mkdir(&path("/d"), 0o777, Some(&prefer)).expect("made");
    limit(&store, &user(ANN), "sim0", MIB);
    let fs = store.fs(true);
    for (name, pools) in [("a", [1]), ("b", [0])] {
        let (id, open) = made(&fs, name);
        assert_eq!(fs.write(open.handle, 0, &vec![1; MIB as usize], false), Ok(MIB as usize));
        assert_eq!(pool_of(&admin(&store), &format!("/d/{name}")), pools);
        assert_eq!(fs.attr(id).expect("attr").backed, MIB);
        fs.release(open.handle);
    }
    assert_eq!(has(&store, &user(ANN), "sim0"), (MIB, false));
    passes(&store);
}

#[test]
fn a_move_is_bound_and_a_drain_and_its_return_are_counted() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    s.mkdir(&path("/d"), 0o777, None).expect("made");
    limit(&store, &user(ANN), "sim0", 2 * MIB);
    limit(&store, &user(ANN), "dram", 4 * MIB);
    let ann = as_user(&store, ANN);
    ann.open(&Open { placement: on("dram"), ..open_of("/d/a", 3 * MIB) }).expect("made");
    let e = ann.move_file(&path("/d/a"), "sim0", None, &mut |_| true).expect_err("too much");
    assert!(e.kind == ErrorKind::QuotaExceeded && e.message.contains("3 MiB"), "{e}");
    assert_eq!(pool_of(&ann, "/d/a"), [0]);
    assert_eq!(has(&store, &user(ANN), "sim0"), (0, false));
    ann.move_file(&path("/d/a"), "sim0", Some((0, 2 * MIB)), &mut |_| true).expect("fits");
    assert_eq!((has(&store, &user(ANN), "sim0").0, has(&store, &user(ANN), "dram").0), (2 * MIB, MIB));
    limit(&store, &user(ANN), "dram", 2 * MIB);
    // The operator's decision.
    s.drain("sim0", DrainOptions::default(), &mut |_| true).expect("drained");
    assert_eq!(has(&store, &user(ANN), "sim0"), (0, false));
    assert_eq!(has(&store, &user(ANN), "dram"), (3 * MIB, true));
    assert_eq!(kind(ann.open(&open_of("/d/b", 4096))), ErrorKind::QuotaExceeded);
    limit(&store, &user(ANN), "sim0", MIB);
    s.online("sim0", &mut |_| true).expect("online");
    assert_eq!(has(&store, &user(ANN), "sim0"), (2 * MIB, true));
    assert_eq!(has(&store, &user(ANN), "dram"), (MIB, false));
    passes(&store);
}

/// A mount's file of ann's in `/d`, opened for writing.
fn made(fs: &Fs, name: &str) -> (codax_core::FileId, FsOpen) {
    let new = New { mode: 0o666, who: Who { uid: ANN, gid: ANN, pid: 1 }, kind: NewKind::File };
    let d = fs.lookup(ROOT, b"d").expect("there").id;
    let (attr, open) = fs.create(d, name.as_bytes(), &new, true, true).expect("created");
    (attr.id, open)
}

#[test]
fn a_mount_writes_through_the_daemon_under_a_quota_and_is_told_when_it_is_full() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    for privileged in [true, false] {
        let fs = store.fs(privileged);
        let name = format!("f{privileged}");
        let (id, open) = made(&fs, &name);
        assert_eq!((open.direct, matches!(open.how, How::Passthrough(_))), (privileged, privileged));
        let h = open.handle;
        let mib = vec![7; MIB as usize];
        for at in 0..3 {
            assert_eq!(fs.write(h, at * MIB, &mib, false), Ok(mib.len()));
        }
        assert_eq!(fs.append(h, &mib[..MIB as usize / 2], false), Ok(MIB as usize / 2));
        // As much as there is room for, and then nothing.
        assert_eq!(fs.append(h, &mib, false), Ok(MIB as usize / 2));
        assert_eq!(kind(fs.append(h, b"x", false)), ErrorKind::QuotaExceeded);
        assert_eq!(kind(fs.write(h, 4 * MIB, b"x", false)), ErrorKind::QuotaExceeded);
        assert_eq!(fs.write(h, MIB, &mib, false), Ok(mib.len()), "what is there is written over");
        assert_eq!(fs.attr(id).expect("attr").len, 4 * MIB);
        assert_eq!(has(&store, &user(ANN), "sim0"), (4 * MIB, false));
        // A length is a hole; memory for it is asked for.
        fs.set(id, &Set { len: Some(16 * MIB), ..Set::default() }).expect("longer");
        let keep = Allocate { keep_size: true, ..Allocate::default() };
        assert_eq!(kind(fs.allocate(h, 8 * MIB, 4096, keep)), ErrorKind::QuotaExceeded);
        assert_eq!(kind(fs.write(h, 8 * MIB, b"x", false)), ErrorKind::QuotaExceeded);
        let punch = Allocate { keep_size: true, punch: true, zero: false };
        fs.allocate(h, 0, 2 * MIB, punch).expect("punched");
        assert_eq!(has(&store, &user(ANN), "sim0"), (2 * MIB, false));
        fs.allocate(h, 8 * MIB, 2 * MIB, keep).expect("given");
        assert_eq!(kind(fs.allocate(h, 12 * MIB, 4096, keep)), ErrorKind::QuotaExceeded);
        fs.set(id, &Set { len: Some(0), ..Set::default() }).expect("cut");
        assert_eq!(has(&store, &user(ANN), "sim0"), (0, false));
        fs.release(h);
        let d = fs.parent(id).unwrap_or(ROOT);
        let d = if d == ROOT { fs.lookup(ROOT, b"d").expect("there").id } else { d };
        fs.unlink(d, name.as_bytes()).expect("removed");
        passes(&store);
    }
}

#[test]
fn only_those_who_write_under_a_quota_ask_the_daemon() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    let fs = store.fs(true);
    let (id, first) = made(&fs, "f");
    assert!(!first.direct);
    limit(&store, &user(BOB), "sim0", MIB);
    limit(&store, &user(ANN), "dram", MIB);
    let again = fs.open(id, true, true, WHO).expect("opens");
    assert!(!again.direct);
    assert_eq!(fs.served(id).expect("served").why, "programs have it open so");
    for open in [first, again] {
        let (handle, object) = object_of(open);
        drop(object);
        fs.release(handle);
    }
    limit(&store, &user(ANN), "sim0", MIB);
    let why = fs.served(id).expect("served").why;
    assert!(why.ends_with("sim0; who writes to it asks the daemon, since a quota counts that"), "{why}");
    let (read, write) = (fs.open(id, true, false, WHO), fs.open(id, true, true, WHO));
    assert_eq!((read.expect("opens").direct, write.expect("opens").direct), (false, true));
}

#[test]
fn what_programs_took_of_an_object_by_themselves_is_found_charged_and_closes() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    let fs = store.fs(true);
    // Open from before the quota: nobody is asked.
    let (id, open) = made(&fs, "f");
    let (h, object) = object_of(open);
    codax_os::object::write_all_at(&object, &vec![1; 3 * MIB as usize], 0).expect("written");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    assert_eq!(has(&store, &user(ANN), "sim0"), (3 * MIB, false));
    codax_os::object::write_all_at(&object, &vec![1; 3 * MIB as usize], 3 * MIB).expect("written");
    assert_eq!(has(&store, &user(ANN), "sim0"), (6 * MIB, true));
    let ann = as_user(&store, ANN);
    assert_eq!(kind(sized(&ann, "/d/more", 4096)), ErrorKind::QuotaExceeded);
    assert_eq!(kind(fs.write(h, 8 * MIB, b"x", false)), ErrorKind::QuotaExceeded);
    sized(&as_user(&store, BOB), "/d/bob", MIB).expect("others are not closed");
    assert!(events(&store).iter().any(|line| line.contains("over: 6 MiB")), "{:?}", events(&store));
    fs.set(id, &Set { len: Some(2 * MIB), ..Set::default() }).expect("cut");
    assert_eq!(has(&store, &user(ANN), "sim0"), (2 * MIB, false));
    sized(&ann, "/d/more", 4096).expect("made");
    drop(object);
    fs.release(h);
    passes(&store);
}

#[test]
fn growth_by_a_descriptor_of_the_library_s_is_found_charged_and_taken_back() {
    let rig = Rig::new();
    let store = Store::open(rig.options(), Arc::new(Unattended(TestEnv::new()))).expect("opens");
    shared(&store, "/d");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    limit(&store, &dir("/d"), "sim0", 16 * MIB);
    let s = admin(&store);
    let (ann, bob) = (as_user(&store, ANN), as_user(&store, BOB));
    let a = kept(&ann, "/d/a", 2 * MIB).expect("made");
    let (_, mut fds) = ann.raw(a.handle, true).expect("raw");
    let object = fds.remove(0);
    // What it was given it has said it is done with, and it has it still.
    ann.raw_done(a.file);
    codax_os::object::write_all_at(&object, &vec![1; 4 * MIB as usize], 2 * MIB).expect("written");
    assert_eq!(seen(&s, &user(ANN), "sim0"), (6 * MIB, true));
    assert_eq!(seen(&s, &dir("/d"), "sim0"), (6 * MIB, false));
    assert_eq!(kind(sized(&ann, "/d/b", 4096)), ErrorKind::QuotaExceeded);
    assert_eq!(kind(ann.move_file(&path("/d/a"), "dram", None, &mut |_| true)), ErrorKind::Busy);
    sized(&bob, "/d/bob", MIB).expect("others are not closed");
    // Asked again, it is counted once.
    assert_eq!(seen(&s, &user(ANN), "sim0"), (6 * MIB, true));
    // Whoever ends makes the store look whether it can take back what is held.
    drop(bob);
    assert_eq!(seen(&s, &user(ANN), "sim0"), (2 * MIB, false));
    sized(&ann, "/d/b", 2 * MIB).expect("made");
    let told = events(&store);
    let of = |word: &str| told.iter().filter(|line| line.contains(word)).count();
    assert_eq!((of("user 1000 sim0: over: "), of("user 1000 sim0: no longer over")), (1, 1), "{told:?}");
    store.check(true).expect("mended: its length");
    passes(&store);
}

#[test]
fn statfs_is_that_of_the_tightest_quota_above() {
    let rig = Rig::new();
    let store = rig.open();
    let s = admin(&store);
    shared(&store, "/d");
    s.mkdir(&path("/d/sub"), 0o777, None).expect("made");
    let fs = store.fs(false);
    let d = fs.lookup(ROOT, b"d").expect("there").id;
    let sub = fs.lookup(d, b"sub").expect("there").id;
    limit(&store, &dir("/d"), "sim0", 8 * MIB);
    limit(&store, &user(0), "sim0", 5 * MIB);
    let of = |id| fs.statfs(id).map(|stat| (stat.bytes, stat.free, stat.available)).expect("statfs");
    assert_eq!(of(sub), (8 * MIB, 8 * MIB, 8 * MIB));
    sized(&s, "/d/f", 3 * MIB).expect("made");
    assert_eq!((of(d), of(sub)), ((8 * MIB, 5 * MIB, 5 * MIB), (8 * MIB, 5 * MIB, 5 * MIB)));
    let f = fs.lookup(d, b"f").expect("there").id;
    assert_eq!(of(f), of(d));
    limit(&store, &dir("/d/sub"), "sim0", MIB);
    assert_eq!((of(d), of(sub)), ((8 * MIB, 5 * MIB, 5 * MIB), (MIB, MIB, MIB)));
    // Over: there is nothing. Larger than the pool: there is no more than the pool has.
    limit(&store, &dir("/d"), "sim0", 2 * MIB);
    assert_eq!(of(sub), (2 * MIB, 0, 0));
    limit(&store, &dir("/d"), "sim0", u64::MAX);
    assert_eq!(of(d).0, 32 * MIB);
    assert_eq!(of(ROOT).0, 64 * MIB);
}

#[test]
fn quotas_hold_while_many_allocate_at_once() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    limit(&store, &user(ANN), "sim0", 8 * MIB);
    limit(&store, &dir("/d"), "sim0", 12 * MIB);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let uid = if thread % 2 == 0 { ANN } else { BOB };
                let s = as_user(store, uid);
                for round in 0..40 {
                    let name = format!("/d/{thread}-{round}");
                    let Ok(open) = kept(&s, &name, (round % 5 + 1) * 300_000) else { continue };
                    let _ = s.set_len(open.handle, (round % 7) * 400_000);
                    if round % 3 > 0 {
                        s.remove(&path(&name), false).expect("there");
                    }
                    s.close(open.handle);
                }
            });
        }
        for _ in 0..50 {
            let (quotas, _) = admin(&store).quotas(0, 10);
            assert!(quotas.iter().all(|quota| quota.used <= quota.limit && !quota.over), "{quotas:?}");
        }
    });
    passes(&store);
    let left: u64 = store.info().pools[1].used;
    assert_eq!(has(&store, &dir("/d"), "sim0").0, left);
}

#[test]
fn other_devices_have_quotas_of_their_own() {
    let rig = Rig::new();
    let mut options = rig.options();
    options.devices.push(DeviceSpec::emulated("sim1", 16 * MIB, Default::default()));
    let store = Store::open(options, TestEnv::new()).expect("opens");
    let s = admin(&store);
    limit(&store, &user(0), "sim1", MIB);
    make(&s, "/a", 4 * MIB, "sim0");
    let too_much = s.open(&Open { placement: on("sim1"), ..open_of("/b", 2 * MIB) });
    assert_eq!(kind(too_much), ErrorKind::QuotaExceeded);
    make(&s, "/b", MIB, "sim1");
    assert_intact(&s, "/b", MIB);
    assert_eq!(has(&store, &user(0), "sim1"), (MIB, false));
    passes(&store);
}

#[test]
fn a_miscount_is_found_and_mended() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    let ann = as_user(&store, ANN);
    sized(&ann, "/d/a", 2 * MIB).expect("made");
    sized(&ann, "/d/b", MIB).expect("made");
    // Who may write to the frame table makes frames nobody's, and they are free then.
    let table = std::fs::File::options().write(true).open(rig.layout().frame_table("sim0")).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&table, &[0; 512 * 16], 4096).expect("written");
    ann.remove(&path("/d/a"), false).expect("removed");
    assert_eq!(has(&store, &user(ANN), "sim0"), (3 * MIB, false));
    let wrong =
        |found: Vec<Finding>| found.into_iter().filter(|f| f.what.contains("quota")).collect::<Vec<_>>();
    let found = wrong(store.check(false).expect("check"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].what, "the quota of user 1000 on sim0 counts 768 frames where there are 256");
    let mended = wrong(store.check(true).expect("check"));
    assert!(mended.len() == 1 && mended[0].repaired, "{mended:?}");
    assert_eq!(has(&store, &user(ANN), "sim0"), (MIB, false));
    passes(&store);
}

#[test]
fn a_quota_binds_on_a_medium_that_outlives_the_store_and_growth_is_found_there() {
    let (media, rig) = (Media::new(), Rig::new());
    let options = media.options(&rig, &["pmem0"], Format::IfNotOurs);
    let store = Store::open(options, Arc::new(Unattended(TestEnv::new()))).expect("opens");
    let s = admin(&store);
    limit(&store, &user(0), "pmem0", 4 * MIB);
    let a = make(&s, "/a", 2 * MIB, "pmem0");
    let more = Open { placement: on("pmem0"), ..open_of("/b", 2 * MIB + 1) };
    assert_eq!(kind(s.open(&more)), ErrorKind::QuotaExceeded);
    let (_, mut fds) = s.raw(a.handle, true).expect("raw");
    let object = fds.remove(0);
    s.raw_done(a.file);
    assert_eq!(seen(&s, &user(0), "pmem0"), (2 * MIB, false));
    codax_os::object::write_all_at(&object, &vec![1; 3 * MIB as usize], 2 * MIB).expect("written");
    assert_eq!(seen(&s, &user(0), "pmem0"), (5 * MIB, true));
    assert_eq!(kind(s.open(&Open { len: 4096, ..more.clone() })), ErrorKind::QuotaExceeded);
    drop(object);
    drop(as_user(&store, BOB));
    assert_eq!(seen(&s, &user(0), "pmem0"), (2 * MIB, false));
    assert_intact(&s, "/a", 2 * MIB);
    store.check(true).expect("mended: its length");
    passes(&store);
}

#[test]
fn what_programs_took_while_there_was_no_daemon_is_charged_to_them() {
    let rig = Rig::new();
    let store = rig.open();
    shared(&store, "/d");
    limit(&store, &user(ANN), "sim0", 4 * MIB);
    limit(&store, &dir("/d"), "sim0", 16 * MIB);
    let fs = store.fs(true);
    let (id, open) = made(&fs, "f");
    let (h, object) = object_of(open);
    assert_eq!(fs.write(h, 0, &vec![1; MIB as usize], false), Ok(MIB as usize));
    drop(fs);
    store.end();
    codax_os::object::write_all_at(&object, &vec![1; 4 * MIB as usize], MIB).expect("written");
    let store = rig.open();
    assert_eq!(has(&store, &user(ANN), "sim0"), (5 * MIB, true));
    assert_eq!(has(&store, &dir("/d"), "sim0"), (5 * MIB, false));
    assert_eq!(kind(sized(&as_user(&store, ANN), "/d/more", 4096)), ErrorKind::QuotaExceeded);
    drop(object);
    let fs = store.fs(true);
    fs.set(id, &Set { len: Some(0), ..Set::default() }).expect("cut");
    assert_eq!(has(&store, &user(ANN), "sim0"), (0, false));
    passes(&store);
}
