//! Clients that speak something else, and journals that are not what they were.

use crate::holders::{ask, greeted};
use crate::rig::{MIB, Plan, Rig, pattern, root, skipped};
use codax::ErrorKind;
use codax_core::request::Handle;
use codax_wire::{Attach, Channel, Hello, MAGIC, PACKET_MAX, Reply, Request, SOCKET, VERSION};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

fn socket(rig: &Rig) -> OwnedFd {
    let fd = codax_os::sock::connect(&rig.dir().join(SOCKET)).expect("a daemon");
    codax_os::sock::set_recv_timeout(&fd, Some(crate::setting::patience())).expect("a limit");
    fd
}

/// What the daemon says to these packets, up to its end of the connection.
fn replies(rig: &Rig, packets: &[Vec<u8>]) -> Vec<Reply> {
    let fd = socket(rig);
    for packet in packets {
        // It may have hung up by then.
        let _ = codax_os::sock::send(&fd, packet, &[]);
    }
    let channel = Channel::new(fd);
    std::iter::from_fn(|| channel.recv::<Reply>().ok().flatten().map(|(reply, _)| reply)).collect()
}

fn packet(request: &Request) -> Vec<u8> {
    let (here, there) = codax_os::sock::pair().expect("sockets");
    Channel::new(here).send(request, &[]).expect("sent");
    let mut bytes = Vec::new();
    let (len, _) = codax_os::sock::recv(&there, &mut bytes, PACKET_MAX).expect("got");
    bytes.truncate(len);
    bytes
}

fn hello(magic: u32, version: u32) -> Vec<u8> {
    packet(&Request::Hello(Hello { magic, version }))
}

fn kind(reply: &Reply) -> Option<ErrorKind> {
    match reply {
        Reply::Error(e) => Some(e.kind),
        _ => None,
    }
}

#[test]
fn garbage_is_answered_and_dropped_and_the_daemon_serves_on() {
    let rig = Plan::new().up();
    rig.put("/f", b"f", &[]).ok();
    let greeting = hello(MAGIC, VERSION);
    let refused: &[(&str, Vec<Vec<u8>>)] = &[
        ("random bytes", vec![pattern(999, 1)]),
        ("one byte", vec![vec![0xff]]),
        ("half a greeting", vec![greeting[..greeting.len() / 2].to_vec()]),
        ("another magic", vec![hello(7, VERSION)]),
        ("a newer version", vec![hello(MAGIC, VERSION + 1)]),
        ("a request before the greeting", vec![packet(&Request::Status)]),
        ("the largest packet of zeros", vec![vec![0; PACKET_MAX]]),
        ("garbage after the greeting", vec![greeting.clone(), pattern(500, 2)]),
        ("half a request", vec![greeting.clone(), packet(&Request::Check { repair: false })[..1].to_vec()]),
    ];
    for (what, packets) in refused {
        let said = replies(&rig, packets);
        assert!(said.last().and_then(kind).is_some(), "{what}: {said:?}");
        assert_eq!(rig.get("/f"), b"f", "{what}");
    }
    let said = replies(&rig, &[hello(MAGIC, VERSION + 1)]);
    assert!(matches!(&said[0], Reply::Error(e) if e.message.contains("version")), "{said:?}");
    // More than a packet may have, if the socket takes it at all.
    let said = replies(&rig, &[greeting, vec![0; PACKET_MAX + 1]]);
    assert!(said.len() <= 2, "{said:?}");
    rig.ok(&["status"]);
    rig.sound();
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_request_is_harmless() {
    let rig = Plan::new().up();
    rig.put("/f", b"f", &["--on", "sim0"]).ok();
    let path = codax_core::name::StorePath::parse(b"/f").expect("a path");
    let whole = packet(&Request::Stat(path));
    let channel_with = |bytes: &[u8]| {
        let fd = socket(&rig);
        codax_os::sock::send(&fd, &hello(MAGIC, VERSION), &[]).expect("sent");
        let _ = codax_os::sock::send(&fd, bytes, &[]);
        let channel = Channel::new(fd);
        let welcome = channel.recv::<Reply>().expect("a greeting");
        assert!(matches!(welcome, Some((Reply::Welcome { .. }, _))));
        channel.recv::<Reply>()
    };
    for end in 0..whole.len() {
        let answer = channel_with(&whole[..end]);
        assert!(!matches!(answer, Ok(Some((Reply::File(_), _)))), "{end} bytes of {}", whole.len());
    }
    for bit in 8..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // Whatever it means now, there is an answer or an end.
        let _ = channel_with(&bytes);
    }
    assert_eq!(rig.get("/f"), b"f");
    rig.sound();
}

#[test]
fn silent_clients_hold_nobody_up_and_are_dropped() {
    let rig = Plan::new().up();
    let silent: Vec<_> = (0..50).map(|_| Channel::new(socket(&rig))).collect();
    rig.put("/f", b"f", &[]).ok();
    assert_eq!(rig.get("/f"), b"f");
    // One that asks and never reads.
    let deaf = greeted(&rig);
    codax_os::sock::set_send_timeout(&deaf, Some(std::time::Duration::from_millis(200))).expect("a limit");
    for _ in 0..2000 {
        if deaf.send(&Request::Status, &[]).is_err() {
            break;
        }
    }
    rig.ok(&["status"]);
    drop(deaf);
    for channel in silent {
        let said = channel.recv::<Reply>().ok().flatten();
        assert!(said.is_none_or(|(reply, _)| kind(&reply) == Some(ErrorKind::Busy)));
    }
    rig.ok(&["status"]);
}

#[test]
fn what_makes_no_sense_in_a_session_is_refused_and_the_session_goes_on() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(MIB, 3), &["--on", "sim0"]).ok();
    let channel = greeted(&rig);
    let handle = Handle(12_345);
    let pages = codax_core::PageRange::new(0, 1);
    for request in [
        Request::Hello(Hello { magic: MAGIC, version: VERSION }),
        Request::Map { handle, write: true },
        Request::Raw { handle, write: true },
        Request::SetLen { handle, len: 1 },
        Request::StatHandle(handle),
        Request::Pin { handle, pages },
        Request::Unpin(codax_core::request::PinId(9)),
        Request::Attach(Attach { kernel_faults: true, user_faults_ok: true, mapped: Vec::new(), links: 1 }),
    ] {
        let (reply, fds) = ask(&channel, &request);
        assert!(kind(&reply).is_some() && fds.is_empty(), "{request:?}: {reply:?}");
    }
    for request in [
        Request::Close(handle),
        Request::Unmap { file: codax::FileId(2) },
        Request::RawDone { file: codax::FileId(2) },
    ] {
        channel.send(&request, &[]).expect("the daemon listens");
    }
    // A descriptor that is no socket for the control connection, and more than anybody needs.
    let null = std::fs::File::open("/dev/null").expect("there");
    let attach =
        Request::Attach(Attach { kernel_faults: true, user_faults_ok: true, mapped: Vec::new(), links: 1 });
    channel.send(&attach, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("sent");
    let (reply, _) = channel.recv::<Reply>().expect("an answer").expect("no end");
    assert!(kind(&reply).is_some(), "{reply:?}");
    assert!(matches!(ask(&channel, &Request::Status).0, Reply::Store(_)));
    rig.ok(&["device", "drain", "sim0"]);
    rig.sound();
}

/// Files of the journal, by name.
fn journal(rig: &Rig) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = rig.dir().join("meta");
    let mut files: Vec<_> =
        std::fs::read_dir(dir).expect("ours").map(|entry| entry.expect("ours").path()).collect();
    files.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).expect("text");
        name == "db" || name == "words" || name.starts_with("log.")
    });
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("ours"))).collect()
}

/// A store that is not served, with something in its database and something in its log.
fn with_journal() -> Rig {
    let rig = Plan::new().up();
    for i in 0..40 {
        rig.put(&format!("/{i}"), &pattern(5000, i), &["--on", "sim0"]).ok();
    }
    rig.down();
    rig.up();
    rig.put("/last", b"last", &[]).ok();
    rig.ok(&["mv", "/1", "/one"]);
    rig.kill();
    rig
}

#[test]
fn a_damaged_journal_is_never_used_as_if_it_were_whole() {
    let rig = with_journal();
    let files = journal(&rig);
    assert_eq!(files.len(), 3, "{:?}", files.iter().map(|(path, _)| path).collect::<Vec<_>>());
    let restore = || files.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("ours"));
    let refused = |what: &str| {
        let said = rig.try_up("").expect_err(what);
        said.fails(9, &["meta/"]);
        rig.run(&["status"]).fails(8, &[]);
    };
    for (path, bytes) in &files {
        let name = path.file_name().and_then(|name| name.to_str()).expect("text");
        for len in [0, 7, bytes.len() / 2, bytes.len() - 1] {
            // The end of the log may be room that was never used.
            if name == "words" || name == "db" || len < 64 {
                std::fs::write(path, &bytes[..len]).expect("ours");
                refused(&format!("{name} cut to {len}"));
            }
        }
        restore();
        std::fs::remove_file(path).expect("ours");
        if name == "words" {
            // Without it the store would begin anew; what is there must not be thrown away in silence.
            let said = rig.try_up("").expect_err("the words are gone");
            assert_eq!(said.code, 9, "{said}");
        } else {
            refused(&format!("{name} is gone"));
        }
        restore();
    }
    rig.up();
    assert_eq!((rig.get("/last"), rig.get("/one")), (b"last".to_vec(), pattern(5000, 1)));
    rig.sound();
}

#[test]
fn a_journal_with_a_flipped_bit_is_refused_or_says_the_truth() {
    let rig = with_journal();
    let files = journal(&rig);
    rig.up();
    let truth = |rig: &Rig| -> Vec<_> {
        let rows = rig.rows(&["ls"]);
        rows.iter()
            .map(|row| [&row["name"], &row["len"], &row["runs"], &row["id"], &row["mode"]].map(Clone::clone))
            .collect()
    };
    let whole = truth(&rig);
    rig.kill();
    let mut refused = 0;
    for (path, bytes) in &files {
        // What was folded or written by that start is put back with the rest.
        for i in 0..8 {
            files.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).expect("ours"));
            let mut damaged = bytes.clone();
            let at = match (path.ends_with("words"), i) {
                (true, _) => (512 + i % 3) * 8 + i,
                (false, _) => bytes.len() * (2 * i + 1) / 40 + i,
            };
            damaged[at] ^= 1 << (i % 8);
            std::fs::write(path, damaged).expect("ours");
            match rig.try_up("") {
                Err(said) => {
                    refused += 1;
                    said.fails(9, &["meta/"]);
                }
                Ok(()) => {
                    let said = rig.run(&["check"]);
                    assert!(
                        said.code == 9 || truth(&rig) == whole,
                        "bit {i} of byte {at} of {}",
                        path.display()
                    );
                    rig.kill();
                }
            }
        }
    }
    assert!(refused >= 8, "only {refused} were noticed");
}

/// The checksum of the journal's files.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1));
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| bit(crc)))
}

#[test]
fn a_journal_from_a_newer_version_is_refused() {
    let rig = with_journal();
    let files = journal(&rig);
    let (path, bytes) =
        files.iter().find(|(path, _)| !path.ends_with("db") && !path.ends_with("words")).expect("a log");
    let mut newer = bytes.clone();
    newer[8..12].copy_from_slice(&99_u32.to_le_bytes());
    let mut checked = newer[..12].to_vec();
    checked.extend(&newer[16..64]);
    newer[12..16].copy_from_slice(&crc32c(&checked).to_le_bytes());
    std::fs::write(path, newer).expect("ours");
    rig.try_up("").expect_err("a newer version").fails(9, &["version 99"]);
    std::fs::write(path, bytes).expect("ours");
    rig.up();
    assert_eq!(rig.get("/last"), b"last");
}

#[test]
fn a_store_with_a_full_pool_still_has_room_for_its_journal() {
    if !root() {
        return skipped(
            "a_store_with_a_full_pool_still_has_room_for_its_journal",
            "the journal has a mount of its own only with root",
        );
    }
    let rig = Plan::new().dram("1MiB").device("1MiB").up();
    rig.put("/full", &pattern(MIB, 1), &[]).ok();
    rig.put("/more", b"x", &[]).fails(4, &["/more"]);
    for i in 0..50 {
        rig.ok(&["mkdir", &format!("/d{i}")]);
    }
    rig.put("/empty", b"", &[]).ok();
    rig.kill();
    rig.up();
    assert_eq!(rig.rows(&["ls"]).len(), 52);
    rig.sound();
}
