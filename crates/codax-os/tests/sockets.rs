//! Sockets that carry descriptors.
#![forbid(unsafe_code)]

use codax_os::{process, sock};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::time::Duration;

#[test]
fn a_descriptor_arrives_with_its_packet() {
    let (a, b) = sock::pair().unwrap();
    let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all(b"inside").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    sock::send(&a, b"one", &[file.as_fd()]).unwrap();
    sock::send(&a, b"two!", &vec![file.as_fd(); sock::FDS_MAX]).unwrap();

    let mut buf = Vec::new();
    let (len, mut fds) = sock::recv(&b, &mut buf, 100).unwrap();
    assert_eq!((&buf[..len], fds.len()), (&b"one"[..], 1));
    let mut text = String::new();
    std::fs::File::from(fds.remove(0)).read_to_string(&mut text).unwrap();
    assert_eq!(text, "inside");
    let (len, fds) = sock::recv(&b, &mut buf, 100).unwrap();
    assert_eq!((&buf[..len], fds.len()), (&b"two!"[..], sock::FDS_MAX));

    let too_many = vec![file.as_fd(); sock::FDS_MAX + 1];
    assert_eq!(sock::send(&a, b"x", &too_many).unwrap_err().kind(), ErrorKind::InvalidInput);
    drop(a);
    assert_eq!(sock::recv(&b, &mut buf, 100).unwrap().0, 0);
    assert_eq!(sock::send(&b, b"x", &[]).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_packet_that_is_too_large_is_an_error_and_the_next_one_is_not() {
    let (a, b) = sock::pair().unwrap();
    sock::send(&a, &[1; 101], &[]).unwrap();
    sock::send(&a, &[2; 100], &[]).unwrap();
    let mut buf = Vec::new();
    assert_eq!(sock::recv(&b, &mut buf, 100).unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(sock::recv(&b, &mut buf, 100).unwrap().0, 100);
    sock::set_recv_timeout(&b, Some(Duration::from_millis(5))).unwrap();
    assert_eq!(sock::recv(&b, &mut buf, 100).unwrap_err().kind(), ErrorKind::WouldBlock);
    sock::set_send_timeout(&a, Some(Duration::from_millis(5))).unwrap();
    let full = (0..10_000).find_map(|_| sock::send(&a, &[0; 4096], &[]).err()).unwrap();
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    sock::shutdown(&a).unwrap();
}

#[test]
fn a_listener_says_who_connects_and_replaces_a_dead_one() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    // Longer than a socket's address holds.
    let deep = dir.path().join("d".repeat(100));
    std::fs::create_dir(&deep).unwrap();
    let path = deep.join("sock");
    assert_eq!(sock::connect(&path).unwrap_err().kind(), ErrorKind::NotFound);
    drop(sock::listen(&path, 0o666).unwrap());
    assert_eq!(sock::connect(&path).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let listener = sock::listen(&path, 0o666).unwrap();
    let client = sock::connect(&path).unwrap();
    let server = sock::accept(&listener).unwrap();
    let peer = sock::peer(&server).unwrap();
    assert_eq!((peer.pid, peer.uid, peer.gid), (std::process::id(), process::uid(), process::gid()));
    assert!(peer.pidfd.is_some());
    sock::send(&client, b"hi", &[]).unwrap();
    assert_eq!(sock::recv(&server, &mut Vec::new(), 10).unwrap().0, 2);

    let plain = deep.join("file");
    std::fs::write(&plain, "mine").unwrap();
    assert!(sock::listen(&plain, 0o600).is_err());
    assert_eq!(std::fs::read_to_string(&plain).unwrap(), "mine");
}
