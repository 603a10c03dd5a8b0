use super::{Channel, decode, encode};
use crate::{Attach, Hello, MAGIC, PACKET_MAX, Reply, Request, VERSION};
use codax_core::extent::{Extent, PoolRun};
use codax_core::info::{
    Event, FileInfo, Finding, HeldFile, JobInfo, JobReport, QuotaInfo, Severity, StoreInfo,
};
use codax_core::live::{MoverAck, MoverMsg, Step};
use codax_core::name::StorePath;
use codax_core::namespace::Kind;
use codax_core::placement::Placement;
use codax_core::plan::{Holder, Plan, PlannedMove};
use codax_core::request::{DeviceRun, Handle, Layout, Mapped, OnDevice, Open, PinId, PlacementSpec, QuotaOf};
use codax_core::{Error, ErrorKind, FileId, Frame, MoveId, PageCount, PageNo, PageRange, PoolId};
use codax_os::sock;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

fn path() -> impl Strategy<Value = StorePath> {
    vec(vec(1_u8..=255, 1..20).prop_filter("a name", |n| !n.contains(&b'/') && n != b"." && n != b".."), 0..4)
        .prop_map(|names| StorePath::parse(&[b"/", &names.join(&b'/')[..]].concat()).unwrap())
}

fn pages() -> impl Strategy<Value = PageRange> {
    (any::<u32>(), any::<u32>()).prop_map(|(start, count)| PageRange::new(start.into(), count.into()))
}

fn runs() -> impl Strategy<Value = Vec<PoolRun>> {
    vec((pages(), any::<u16>()).prop_map(|(pages, pool)| PoolRun { pages, pool: PoolId(pool) }), 0..4)
}

fn spec() -> impl Strategy<Value = PlacementSpec> {
    prop_oneof![
        (".*", any::<bool>()).prop_map(|(pool, strict)| PlacementSpec::On { pool, strict }),
        ".*".prop_map(|pool| PlacementSpec::Prefer { pool }),
        vec(".*", 0..3).prop_map(|pools| PlacementSpec::Interleave { pools }),
    ]
}

fn open() -> impl Strategy<Value = Open> {
    (path(), any::<[bool; 6]>(), any::<u16>(), option::of(spec()), any::<u64>(), any::<Option<bool>>())
        .prop_map(|(path, [read, write, create, exclusive, truncate, unnamed], mode, placement, len, map)| {
            let no_emergency = unnamed;
            Open {
                path,
                read,
                write,
                create,
                exclusive,
                truncate,
                unnamed,
                mode,
                placement,
                no_emergency,
                len,
                map,
            }
        })
}

fn attach() -> impl Strategy<Value = Attach> {
    let mapped = (any::<u64>(), any::<u32>(), any::<bool>(), runs())
        .prop_map(|(file, mappings, write, runs)| Mapped { file: FileId(file), mappings, write, runs });
    (any::<bool>(), any::<bool>(), vec(mapped, 0..3), any::<u32>()).prop_map(
        |(kernel_faults, user_faults_ok, mapped, links)| Attach {
            kernel_faults,
            user_faults_ok,
            mapped,
            links,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let handle = || any::<u32>().prop_map(Handle);
    let files = prop_oneof![
        open().prop_map(Request::Open),
        attach().prop_map(Request::Attach),
        handle().prop_map(Request::Close),
        (handle(), any::<bool>()).prop_map(|(handle, write)| Request::Map { handle, write }),
        any::<u32>().prop_map(Request::Links),
        any::<u64>().prop_map(|file| Request::Unmap { file: FileId(file) }),
        (handle(), any::<bool>()).prop_map(|(handle, write)| Request::Raw { handle, write }),
        (handle(), any::<u64>()).prop_map(|(handle, len)| Request::SetLen { handle, len }),
        (handle(), path(), any::<bool>()).prop_map(|(handle, path, replace)| Request::Publish {
            handle,
            path,
            replace
        }),
        (handle(), pages()).prop_map(|(handle, pages)| Request::Pin { handle, pages }),
        any::<u32>().prop_map(|pin| Request::Unpin(PinId(pin))),
    ];
    let names = prop_oneof![
        path().prop_map(Request::Stat),
        (path(), any::<Option<Vec<u8>>>()).prop_map(|(path, after)| Request::ReadDir { path, after }),
        (path(), any::<u16>(), option::of(spec())).prop_map(|(path, mode, placement)| Request::Mkdir {
            path,
            mode,
            placement
        }),
        (path(), path(), any::<bool>()).prop_map(|(from, to, noreplace)| Request::Rename {
            from,
            to,
            noreplace
        }),
        (path(), any::<Option<u16>>(), any::<Option<u32>>(), option::of(option::of(spec()))).prop_map(
            |(path, mode, uid, placement)| Request::SetAttr { path, mode, uid, gid: uid, placement }
        ),
        (path(), ".*", any::<Option<(u64, u64)>>()).prop_map(|(path, to, range)| Request::Move {
            path,
            to,
            range
        }),
        (".*", any::<(bool, bool)>(), any::<u64>(), any::<Option<u64>>()).prop_map(
            |(pool, (dry_run, evict), wait_ns, limit)| Request::Drain {
                reset: evict,
                running: dry_run,
                pool,
                dry_run,
                wait_ns,
                limit,
                volatile: evict,
                evict
            }
        ),
    ];
    let quotas = (path(), any::<(u32, bool)>(), option::of(".*"), any::<Option<u64>>()).prop_map(
        |(path, (uid, user), pool, bytes)| Request::SetQuota {
            of: if user { QuotaOf::User(uid) } else { QuotaOf::Dir(path) },
            pool,
            bytes,
        },
    );
    prop_oneof![
        files,
        names,
        quotas,
        Just(Request::Status),
        Just(Request::Hello(Hello { magic: MAGIC, version: VERSION }))
    ]
}

fn held() -> impl Strategy<Value = Vec<HeldFile>> {
    let holder =
        (any::<Option<u32>>(), ".*").prop_map(|(pid, why)| Holder { pid, command: why.clone(), why });
    vec((".*", vec(holder, 0..3)).prop_map(|(path, by)| HeldFile { path, by }), 0..3)
}

/// Without obstacles: these are tagged inside for the sake of JSON, which postcard can't read back.
fn plan() -> impl Strategy<Value = Plan> {
    (runs(), any::<u64>()).prop_map(|(to, frames)| Plan {
        moves: vec![PlannedMove { file: FileId(frames), path: "f".into(), to }],
        obstacles: Vec::new(),
        frames: PageCount(frames),
    })
}

fn file_info() -> impl Strategy<Value = FileInfo> {
    (any::<(u64, u16, u32, i64, bool)>(), runs(), vec(any::<u32>(), 0..3)).prop_map(
        |((n, mode, uid, time, flag), runs, mapped_by)| FileInfo {
            id: FileId(n),
            kind: if flag { Kind::File } else { Kind::Dir },
            mode,
            uid,
            gid: uid,
            nlink: uid,
            len: n,
            backed: n,
            mtime_ns: time,
            ctime_ns: time,
            placement: Placement::Interleave(vec![PoolId(mode)]),
            placement_own: flag,
            no_emergency: flag,
            extents: vec![Extent {
                page: PageNo(n),
                count: PageCount(n),
                pool: PoolId(mode),
                frame: Frame(n),
            }],
            away: runs.clone(),
            spilled: flag.then(|| uid.to_string()),
            runs,
            mapped_by,
            pins: uid,
            persistent: flag,
            lost: Vec::new(),
        },
    )
}

fn on_device() -> impl Strategy<Value = OnDevice> {
    let run = || (pages(), any::<u64>()).prop_map(|(pages, at)| DeviceRun { pages, at });
    (any::<u16>(), ".*", any::<u64>(), vec(run(), 0..3)).prop_map(|(pool, path, rdev, runs)| OnDevice {
        pool: PoolId(pool),
        path,
        rdev,
        runs,
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let error = (prop_oneof![Just(ErrorKind::NoSpace), Just(ErrorKind::Cancelled)], ".*")
        .prop_map(|(kind, message)| Reply::Error(Error { kind, message }));
    let layout = || {
        (any::<u64>(), runs(), 1_u64.., vec(on_device(), 0..3)).prop_map(|(len, runs, block, devices)| {
            let persistent = devices.iter().map(|device| device.pool).collect();
            Layout { len, runs, block, devices, persistent }
        })
    };
    let opened =
        (any::<(u32, u64, bool)>(), option::of(layout())).prop_map(|((handle, n, created), layout)| {
            Reply::Opened { handle: Handle(handle), file: FileId(n), len: n, created, layout }
        });
    let job = (any::<u64>(), held(), option::of(plan())).prop_map(|(n, left, plan)| {
        Reply::Job(Box::new(JobReport { bytes: n, files: n, nanos: n, left, plan }))
    });
    let progress = (any::<u64>(), held()).prop_map(|(n, waiting)| {
        Reply::Progress(JobInfo {
            what: "move".into(),
            done: n,
            total: n,
            files_done: n,
            files_total: n,
            waiting,
        })
    });
    let event = any::<(u64, i64, String)>().prop_map(|(n, time_ns, text)| {
        let (what, subject) = ("move".to_owned(), text.clone());
        Reply::Events(vec![Event { seq: n, time_ns, what, subject, detail: text, bytes: n }])
    });
    let quota = |used| QuotaInfo {
        of: QuotaOf::User(u32::MAX),
        pool: "sim0".to_owned(),
        used,
        limit: 4096,
        over: used > 4096,
    };
    let store = any::<(u64, u32, String)>().prop_map(move |(n, uid, text)| {
        Reply::Store(Box::new(StoreInfo {
            version: text.clone(),
            pid: uid,
            uptime_ns: n,
            dir: text.clone().into_bytes(),
            uid,
            inodes: n,
            sessions: n,
            journal_bytes: n,
            pools: Vec::new(),
            recovery: vec![text],
            mounts: vec![codax_core::info::MountInfo { dir: b"/mnt".to_vec(), passthrough: true }],
            quotas: vec![quota(n)],
            more_quotas: n,
        }))
    });
    prop_oneof![
        error,
        layout().prop_map(Reply::Layout),
        opened,
        job,
        progress,
        event,
        store,
        file_info().prop_map(|info| Reply::File(Box::new(info))),
        (vec((any::<Vec<u8>>(), file_info()), 0..3), any::<bool>())
            .prop_map(|(entries, more)| Reply::Entries { entries, more }),
        any::<u64>().prop_map(move |n| Reply::Quotas { quotas: vec![quota(n)], more: n }),
        any::<(u64, String)>().prop_map(|(n, pool)| Reply::Usage {
            files: n,
            dirs: n,
            len: n,
            backed: vec![(pool, n)]
        }),
        ".*".prop_map(|what| Reply::Findings(vec![Finding {
            severity: Severity::Lost,
            what,
            repaired: true
        }])),
        any::<(u32, u32, u64)>().prop_map(|(version, pid, epoch)| Reply::Welcome { version, pid, epoch }),
    ]
}

fn mover_msg() -> impl Strategy<Value = MoverMsg> {
    let ids = any::<(u32, u32)>().prop_map(|(id, chunk)| (MoveId(id), chunk));
    prop_oneof![
        (any::<(u32, u16, u64, u16, bool)>(), vec(pages(), 0..5), option::of(on_device())).prop_map(
            |((id, slot, file, to, persistent), chunks, device)| {
                let (id, file, to) = (MoveId(id), FileId(file), PoolId(to));
                MoverMsg::Begin { id, slot, file, to, chunks, persistent, device }
            }
        ),
        (ids, 0..5).prop_map(|((id, chunk), step)| match step {
            0 => MoverMsg::Freeze { id, chunk, closed: chunk % 2 == 0 },
            1 => MoverMsg::Hold { id, chunk },
            2 => MoverMsg::Switch { id, chunk },
            3 => MoverMsg::Rollback { id, chunk },
            _ => MoverMsg::End { id },
        }),
    ]
}

fn mover_ack() -> impl Strategy<Value = MoverAck> {
    any::<(u32, u32, Option<String>)>().prop_map(|(id, n, refused)| MoverAck {
        id: MoveId(id),
        step: if n % 2 == 0 { Step::Hold(n) } else { Step::End },
        mappings: n,
        refused,
    })
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    let mut packet = Vec::new();
    encode(message, &mut packet).unwrap();
    assert_eq!(&decode::<T>(&packet).unwrap(), message);
    // A packet cut short, or with something after its end, is not a message.
    assert_eq!(decode::<T>(&packet[..packet.len() - 1]).unwrap_err().kind, ErrorKind::Corrupt);
    packet.push(0);
    assert_eq!(decode::<T>(&packet).unwrap_err().kind, ErrorKind::Corrupt);
}

proptest! {
    #[test]
    fn requests_round_trip(message in request()) { round_trip(&message); }

    #[test]
    fn replies_round_trip(message in reply()) { round_trip(&message); }

    #[test]
    fn mover_messages_round_trip(message in mover_msg(), ack in mover_ack()) {
        round_trip(&message);
        round_trip(&ack);
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..400)) {
        let _ = decode::<Request>(&bytes);
        let _ = decode::<Reply>(&bytes);
        let _ = decode::<MoverMsg>(&bytes);
        let _ = decode::<MoverAck>(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(message in request(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let mut packet = Vec::new();
        encode(&message, &mut packet).unwrap();
        let at = at.index(packet.len());
        packet[at] = with;
        let _ = decode::<Request>(&packet);
    }
}

fn pair() -> (Channel, Channel) {
    let (a, b) = sock::pair().unwrap();
    (Channel::new(a), Channel::new(b))
}

#[test]
fn a_message_arrives_with_its_descriptors() {
    let (a, b) = pair();
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(b"hello").unwrap();
    a.send(&Reply::Attached, &[file.as_fd()]).unwrap();
    a.send(&Reply::Done, &[]).unwrap();
    let (message, fds) = b.recv::<Reply>().unwrap().unwrap();
    assert_eq!(message, Reply::Attached);
    let mut text = String::new();
    let mut got = File::from(fds.into_iter().next().unwrap());
    got.rewind().unwrap();
    got.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    let (message, fds): (Reply, Vec<OwnedFd>) = b.recv().unwrap().unwrap();
    assert_eq!((message, fds.len()), (Reply::Done, 0));
}

#[test]
fn the_end_of_a_connection_is_not_an_error_and_sending_to_nobody_is() {
    let (a, b) = pair();
    a.send(&Reply::Done, &[]).unwrap();
    drop(a);
    assert_eq!(b.recv::<Reply>().unwrap().unwrap().0, Reply::Done);
    assert!(b.recv::<Reply>().unwrap().is_none());
    assert_eq!(b.send(&Reply::Done, &[]).unwrap_err().kind, ErrorKind::NoDaemon);
}

#[test]
fn garbage_is_corrupt_and_the_next_message_is_read() {
    let (a, b) = pair();
    sock::send(a.as_fd(), &[0xff; 70], &[]).unwrap();
    a.send(&Request::Status, &[]).unwrap();
    assert_eq!(b.recv::<Request>().unwrap_err().kind, ErrorKind::Corrupt);
    assert_eq!(b.recv::<Request>().unwrap().unwrap().0, Request::Status);
}

#[test]
fn what_no_packet_holds_is_refused_before_it_is_sent() {
    let (a, _b) = pair();
    let lines = Reply::Lines(vec!["x".repeat(PACKET_MAX)]);
    assert_eq!(a.send(&lines, &[]).unwrap_err().kind, ErrorKind::Invalid);
    let lines = Reply::Lines(vec!["x".repeat(PACKET_MAX - 100)]);
    a.send(&lines, &[]).unwrap();
}

#[test]
fn a_packet_larger_than_allowed_is_corrupt() {
    let (a, b) = pair();
    sock::send(a.as_fd(), &vec![0; PACKET_MAX + 1], &[]).unwrap();
    assert_eq!(b.recv::<Reply>().unwrap_err().kind, ErrorKind::Corrupt);
}
