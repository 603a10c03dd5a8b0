//! Permissions, times, and changes that make no sense. What operations do to the tree is tested against a model in `tests/namespace.rs`.

use super::*;
use crate::{ErrorKind, Frame, PageNo, PoolId};

const ADMIN: Cred = Cred { uid: 0, gid: 0, groups: Vec::new(), admin: true };

fn user(uid: u32, groups: &[u32]) -> Cred {
    Cred { uid, gid: uid, groups: groups.to_vec(), admin: false }
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text.as_bytes()).unwrap()
}

fn apply(ns: &mut Namespace, changes: &[Change]) {
    for change in changes {
        ns.apply(change).unwrap();
    }
}

fn new_file(id: FileId, mode: u16, uid: u32) -> Inode {
    let extent = Extent { page: PageNo(0), count: PageCount(1), pool: DRAM, frame: Frame(id.0) };
    Inode { len: 1, extents: vec![extent], ..Inode::new(id, Kind::File, mode, uid, uid, 1) }
}

/// A store with `/open` (0777), `/sticky` (1777), `/mine` (0700 of user 7), and a file `f` (0640 of 7:7) in each.
fn store() -> Namespace {
    let mut ns = Namespace::new();
    apply(&mut ns, &Namespace::format(0, 0, 1));
    for (dir, mode) in [("/open", 0o777), ("/sticky", 0o1777), ("/mine", 0o700)] {
        let changes = ns.mkdir(&ADMIN, &path(dir), mode, None, 1).unwrap();
        apply(&mut ns, &changes);
        let file = new_file(ns.take_id(), 0o640, 7);
        let (parent, name) = ns.parent_for_new(&ADMIN, &path(dir).join(&Name::new(b"f").unwrap())).unwrap();
        let changes = ns.create(parent, &name, file);
        apply(&mut ns, &changes);
    }
    let owner = SetAttr { uid: Some(7), gid: Some(7), ..SetAttr::default() };
    let changes = ns.set_attr(&ADMIN, &path("/mine"), &owner, 1).unwrap();
    apply(&mut ns, &changes);
    ns
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind
}

#[test]
fn the_first_class_that_fits_decides() {
    let mut ns = store();
    let id = ns.resolve(&ADMIN, &path("/open/f")).unwrap();
    let check = |ns: &Namespace, cred: &Cred, want| ns.check(cred, id, want, &path("/open/f")).is_ok();
    assert!(check(&ns, &user(7, &[]), Want::WRITE));
    assert!(!check(&ns, &user(8, &[7]), Want::WRITE));
    assert!(check(&ns, &user(8, &[7]), Want::READ));
    assert!(!check(&ns, &user(8, &[]), Want::READ));
    assert!(check(&ns, &ADMIN, Want(7)));
    let changes =
        ns.set_attr(&ADMIN, &path("/open/f"), &SetAttr { mode: Some(0o066), ..SetAttr::default() }, 1);
    apply(&mut ns, &changes.unwrap());
    assert!(!check(&ns, &user(7, &[7]), Want::READ));
    assert!(check(&ns, &user(8, &[]), Want::READ));
}

#[test]
fn directories_that_may_not_be_searched_hide_what_is_in_them() {
    let ns = store();
    let stranger = user(8, &[]);
    for hidden in ["/mine/f", "/mine/nothing"] {
        assert_eq!(kind(ns.resolve(&stranger, &path(hidden))), ErrorKind::Permission);
        assert_eq!(kind(ns.parent_for_new(&stranger, &path(hidden))), ErrorKind::Permission);
    }
    let error = ns.resolve(&stranger, &path("/mine/f")).unwrap_err();
    assert_eq!(error.message, "/mine: user 8 may not search it (mode 0700, owner 7:7)");
    assert!(ns.resolve(&user(7, &[]), &path("/mine/f")).is_ok());
    // The root is 0755 of root.
    assert_eq!(kind(ns.parent_for_new(&stranger, &path("/new"))), ErrorKind::Permission);
    assert_eq!(kind(ns.parent_for_new(&stranger, &path("/open"))), ErrorKind::Exists);
    assert_eq!(kind(ns.rename(&stranger, &path("/open/f"), &path("/g"), false, 2)), ErrorKind::Permission);
    assert_eq!(kind(ns.rename(&stranger, &path("/mine"), &path("/open/m"), false, 2)), ErrorKind::Permission);
}

#[test]
fn sticky_directories_protect_other_users_files() {
    let ns = store();
    let (owner, stranger) = (user(7, &[]), user(8, &[]));
    assert!(ns.remove(&stranger, &path("/open/f"), 2).is_ok());
    assert_eq!(kind(ns.remove(&stranger, &path("/sticky/f"), 2)), ErrorKind::Permission);
    assert_eq!(
        kind(ns.rename(&stranger, &path("/sticky/f"), &path("/open/g"), false, 2)),
        ErrorKind::Permission
    );
    assert_eq!(
        kind(ns.rename(&stranger, &path("/open/f"), &path("/sticky/f"), false, 2)),
        ErrorKind::Permission
    );
    assert!(ns.rename(&stranger, &path("/open/f"), &path("/sticky/g"), false, 2).is_ok());
    assert!(ns.remove(&owner, &path("/sticky/f"), 2).is_ok());
}

#[test]
fn a_directory_that_moves_elsewhere_must_be_writable() {
    let mut ns = store();
    let changes = ns.mkdir(&user(8, &[]), &path("/open/d"), 0o755, None, 2).unwrap();
    apply(&mut ns, &changes);
    let stranger = user(9, &[]);
    assert_eq!(
        kind(ns.rename(&stranger, &path("/open/d"), &path("/sticky/d"), false, 2)),
        ErrorKind::Permission
    );
    assert!(ns.rename(&stranger, &path("/open/d"), &path("/open/e"), false, 2).is_ok());
    assert!(ns.rename(&user(8, &[]), &path("/open/d"), &path("/sticky/d"), false, 2).is_ok());
}

#[test]
fn setgid_directories_hand_on_their_group() {
    let mut ns = store();
    let set = SetAttr { mode: Some(0o2777), gid: Some(50), ..SetAttr::default() };
    let changes = ns.set_attr(&ADMIN, &path("/open"), &set, 1).unwrap();
    apply(&mut ns, &changes);
    let changes = ns.mkdir(&user(8, &[]), &path("/open/d"), 0o755, None, 2).unwrap();
    apply(&mut ns, &changes);
    let dir = ns.get(ns.resolve(&ADMIN, &path("/open/d")).unwrap()).unwrap();
    assert_eq!((dir.mode, dir.uid, dir.gid), (0o2755, 8, 50));
    let (parent, name) = ns.parent_for_new(&user(8, &[]), &path("/open/d/x")).unwrap();
    let program = new_file(ns.take_id(), 0o2755, 8);
    let id = program.id;
    let changes = ns.create(parent, &name, program);
    apply(&mut ns, &changes);
    let program = ns.get(id).unwrap();
    assert_eq!((program.mode, program.gid), (0o755, 50));
}

#[test]
fn attributes_belong_to_the_owner() {
    let mut ns = store();
    let (owner, stranger) = (user(7, &[60]), user(8, &[7]));
    let f = path("/open/f");
    let mode = |mode| SetAttr { mode: Some(mode), ..SetAttr::default() };
    let uid = |uid| SetAttr { uid: Some(uid), ..SetAttr::default() };
    let gid = |gid| SetAttr { gid: Some(gid), ..SetAttr::default() };
    let place = |pool| SetAttr { placement: Some(Some(Placement::Prefer(pool))), ..SetAttr::default() };
    for set in [mode(0o600), uid(7), gid(7), place(PoolId(1))] {
        assert_eq!(kind(ns.set_attr(&stranger, &f, &set, 2)), ErrorKind::Permission);
        assert!(ns.set_attr(&owner, &f, &set, 2).is_ok());
    }
    assert_eq!(ns.set_attr(&stranger, &f, &SetAttr::default(), 2), Ok(vec![]));
    assert_eq!(kind(ns.set_attr(&owner, &f, &mode(0o10000), 2)), ErrorKind::Invalid);
    assert_eq!(kind(ns.set_attr(&owner, &f, &uid(8), 2)), ErrorKind::Permission);
    assert_eq!(kind(ns.set_attr(&owner, &f, &gid(61), 2)), ErrorKind::Permission);
    for set in [mode(0o6755), gid(60), place(PoolId(1))] {
        let changes = ns.set_attr(&owner, &f, &set, 2).unwrap();
        apply(&mut ns, &changes);
    }
    let file = ns.get(ns.resolve(&ADMIN, &f).unwrap()).unwrap();
    // chown took setuid and setgid away.
    assert_eq!((file.mode, file.gid, file.ctime_ns, file.mtime_ns), (0o755, 60, 2, 1));
    assert_eq!(file.placement, Some(Placement::Prefer(PoolId(1))));
    // Nobody makes a file setgid for a group they are not in.
    let changes = ns.set_attr(&user(7, &[]), &f, &mode(0o2755), 3).unwrap();
    apply(&mut ns, &changes);
    assert_eq!(ns.get(ns.resolve(&ADMIN, &f).unwrap()).unwrap().mode, 0o755);
}

#[test]
fn changed_directories_have_new_times() {
    let mut ns = store();
    let changes = ns.rename(&ADMIN, &path("/open/f"), &path("/mine/g"), false, 9).unwrap();
    apply(&mut ns, &changes);
    for (name, mtime, ctime) in [("/open", 9, 9), ("/mine", 9, 9), ("/mine/g", 1, 9), ("/sticky", 1, 1)] {
        let inode = ns.get(ns.resolve(&ADMIN, &path(name)).unwrap()).unwrap();
        assert_eq!((inode.mtime_ns, inode.ctime_ns), (mtime, ctime), "{name}");
    }
}

#[test]
fn without_a_placement_above_it_is_dram() {
    let mut ns = store();
    let orphan = Inode { nlink: 0, ..new_file(ns.take_id(), 0o600, 7) };
    apply(&mut ns, &[Change::Put(Box::new(orphan.clone()))]);
    assert_eq!(ns.placement(orphan.id), Placement::On { pool: DRAM, strict: false });
    assert_eq!(ns.path_of(orphan.id), None);
    assert_eq!(ns.path_of(FileId(999)), None);
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let mut ns = store();
    let open = ns.resolve(&ADMIN, &path("/open")).unwrap();
    let mine = ns.resolve(&ADMIN, &path("/mine")).unwrap();
    let file = ns.resolve(&ADMIN, &path("/open/f")).unwrap();
    let link = |dir, name: &[u8], child| Change::Link { dir, name: name.to_vec(), child };
    let put = |inode: Inode| Change::Put(Box::new(inode));
    let good = ns.get(file).unwrap().clone();
    let twice = vec![good.extents[0]; 2];
    let bad = [
        Change::Drop(FileId(999)),
        Change::Drop(ROOT),
        Change::Drop(open),
        Change::Drop(file),
        Change::Unlink { dir: open, name: b"g".to_vec() },
        Change::Unlink { dir: file, name: b"g".to_vec() },
        link(open, b"g", FileId(999)),
        link(FileId(999), b"g", file),
        link(file, b"g", open),
        link(open, b"a/b", file),
        link(open, b"g", ROOT),
        link(open, b"g", open),
        link(mine, b"g", open),
        put(Inode { id: FileId(0), ..good.clone() }),
        put(Inode { id: FileId(1 << 48), ..good.clone() }),
        put(Inode { id: open, ..good.clone() }),
        put(Inode { len: LEN_MAX + 1, ..good.clone() }),
        put(Inode { extents: twice, len: 8192, ..good.clone() }),
        put(Inode { extents: good.extents.clone(), ..ns.get(open).unwrap().clone() }),
    ];
    let before = format!("{ns:?}");
    for change in &bad {
        assert_eq!(ns.apply(change).unwrap_err().kind, ErrorKind::Corrupt, "{change:?}");
    }
    assert_eq!(format!("{ns:?}"), before);
}

#[test]
fn many_levels_need_no_stack() {
    let mut ns = Namespace::new();
    apply(&mut ns, &Namespace::format(0, 0, 1));
    let mut dir = ROOT;
    for _ in 0..50_000 {
        let child = Inode::new(ns.take_id(), Kind::Dir, 0o755, 0, 0, 1);
        let id = child.id;
        // Linked before it is filled from below, or each step would look at all directories above.
        apply(&mut ns, &[Change::Put(Box::new(child))]);
        apply(
            &mut ns,
            &[Change::Link { dir: id, name: b"d".to_vec(), child: dir }][usize::from(dir == ROOT)..],
        );
        dir = id;
    }
    apply(&mut ns, &[Change::Link { dir: ROOT, name: b"d".to_vec(), child: dir }]);
    let all = ns.subtree(ROOT);
    assert_eq!(all.len(), 50_000);
    for (parent, name, _) in all {
        let changes = [Change::Unlink { dir: parent, name: name.as_bytes().to_vec() }];
        apply(&mut ns, &changes);
    }
    assert_eq!(ns.subtree(ROOT), []);
}

#[test]
fn lost_pages_that_follow_each_other_are_one_run() {
    let mut inode = new_file(FileId(9), 0o600, 0);
    let lost = |page, count| Lost {
        pages: PageRange::new(page, count),
        pool: crate::PoolUuid([0xff; 16]),
        frame: Frame(100 - page),
    };
    inode.extra.get_or_insert_default().lost = vec![lost(7, 1), lost(1, 2), lost(3, 1), lost(9, 2)];
    assert_eq!(inode.lost_pages(), [PageRange::new(1, 3), PageRange::new(7, 1), PageRange::new(9, 2)]);
    inode.forget_lost(PageRange::new(2, 6));
    assert_eq!(inode.lost_pages(), [PageRange::new(1, 1), PageRange::new(9, 2)]);
}
