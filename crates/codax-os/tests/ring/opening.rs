//! Which memory is a ring, and who gets its ends.

use crate::{ends, request};
use codax_os::object;
use codax_os::ring::{Closed, End, Reason, Refused, Ring};
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

#[test]
fn only_powers_of_two_are_slots() {
    for slots in [0, 1, 3, 100, 65537, 1 << 17, u32::MAX] {
        let error = Ring::create(slots).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&format!("{slots} slots")), "{error}");
    }
    for slots in [2, 64, 65536] {
        let (ring, fd) = Ring::create(slots).unwrap();
        assert_eq!((ring.slots(), Ring::open(&fd).unwrap().slots()), (slots, slots));
    }
}

#[test]
fn a_rings_memory_is_all_there_and_stays() {
    let (_ring, fd) = Ring::create(1024).unwrap();
    let stat = object::stat(&fd).unwrap();
    assert_eq!((stat.len, stat.allocated_bytes), (4096 + 65536, 4096 + 65536));
    for len in [0, 4096, 1 << 20] {
        assert_eq!(object::set_len(&fd, len).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    // Nor can anybody keep the ends from writing to it.
    assert!(rustix::fs::fcntl_add_seals(&fd, SealFlags::FUTURE_WRITE).is_err());
}

/// Memory with these bytes at its beginning.
fn memory(len: u64, head: &[u8], seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    object::set_len(&fd, len).unwrap();
    object::write_all_at(&fd, head, 0).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn what_is_no_ring_is_refused_with_a_word_about_it() {
    let head = |version: u32, slots: u32| {
        [b"codaxrng".to_vec(), version.to_le_bytes().to_vec(), slots.to_le_bytes().to_vec()].concat()
    };
    assert!(Ring::open(memory(8192, &head(1, 64), SEALS)).is_ok());
    let bad = [
        (memory(8192, &head(1, 64), SealFlags::GROW), "not sealed against shrinking"),
        (memory(8192, &head(1, 64), SealFlags::SHRINK), "not sealed against shrinking"),
        (memory(8192, b"codaxmed", SEALS), "it begins with"),
        (memory(8192, &head(2, 64), SEALS), "version is 2"),
        (memory(8192, &head(1, 0), SEALS), "says that it has 0 slots"),
        (memory(8192, &head(1, 63), SEALS), "says that it has 63 slots"),
        (memory(8192, &head(1, 1 << 31), SEALS), "says that it has 2147483648 slots"),
        (memory(8192, &head(1, 128), SEALS), "128 slots don't take the 8192 bytes"),
        (memory(1 << 20, &head(1, 64), SEALS), "64 slots don't take the 1048576 bytes"),
        (memory(0, b"", SEALS.union(SealFlags::SEAL)), "it has 0 bytes"),
        (rustix::pipe::pipe().unwrap().0, "no memory that can be sealed"),
        (std::fs::File::open("/proc/self/exe").unwrap().into(), "no memory that can be sealed"),
    ];
    for (fd, why) in bad {
        let error = Ring::open(&fd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains(why), "{error}: {why}");
    }
}

#[test]
fn each_end_is_one_processs() {
    let (submitter, consumer, fd) = ends(4);
    let ring = Ring::open(&fd).unwrap();
    for busy in [ring.submitter().map(drop), ring.consumer().map(drop)] {
        let error = busy.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(error.to_string().contains("already"), "{error}");
    }
    assert!(ring.is_there(End::Submitter) && ring.is_there(End::Consumer));
    let clone = submitter.clone();
    drop(submitter);
    assert_eq!((ring.is_there(End::Submitter), ring.closed()), (true, None));
    drop(clone);
    assert_eq!((ring.is_there(End::Submitter), ring.closed()), (false, Some(Reason::Left)));
    drop(consumer);
    assert!(!ring.is_there(End::Consumer));
    assert_eq!(ring.submitter().unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn the_first_reason_stays_and_is_told_at_both_ends() {
    let (submitter, mut consumer, fd) = ends(4);
    let third = Ring::open(&fd).unwrap();
    third.close(Reason::Died);
    submitter.close(Reason::Corrupt);
    assert_eq!(third.closed(), Some(Reason::Died));
    let refused = submitter.try_submit(&request(0, 0)).unwrap_err();
    assert_eq!(refused, Refused::Closed(Closed(Reason::Died)));
    assert_eq!(std::io::Error::from(refused).kind(), ErrorKind::BrokenPipe);
    assert_eq!(std::io::Error::from(Refused::Full).kind(), ErrorKind::WouldBlock);
    assert_eq!(consumer.try_next().unwrap_err(), Closed(Reason::Died));
}
