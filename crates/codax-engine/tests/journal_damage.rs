//! Damage to what was committed is found and said, never used as if it were whole.

mod journal_support;

use codax_core::change::{Change, PoolState};
use codax_core::{ErrorKind, FileId, MoveId};
use codax_engine::journal::{CommitWords, SLOTS};
use journal_support::{Image, Model, Sim, link, move_begin, open, pool, put, unlink};

/// A small journal: something in the database, something in the log.
fn small() -> (Image, Model) {
    let sim = Sim::new(1);
    let (journal, ..) = open(&sim).unwrap();
    for id in 2..40 {
        journal.append(&[put(id, id * 1000), link(1, format!("file{id}").as_bytes(), id)]).unwrap();
    }
    journal.fold_above(1).unwrap();
    journal.append(&[unlink(1, b"file3"), Change::Drop(FileId(3)), pool(1, PoolState::Online)]).unwrap();
    journal.append(&[move_begin(5)]).unwrap();
    // The process is gone without closing anything.
    let image = sim.image();
    drop(journal);
    let (_, model, _) = open(&Sim::from_image(&image)).unwrap();
    (image, model)
}

fn log_name(image: &Image) -> String {
    image.keys().find(|name| name.starts_with("log.")).unwrap().clone()
}

fn is_corrupt(image: &Image, what: &str) {
    match open(&Sim::from_image(image)) {
        Ok(_) => panic!("{what}: opened"),
        Err(error) => assert_eq!(error.kind, ErrorKind::Corrupt, "{what}: {error}"),
    }
}

fn flipped(image: &Image, name: &str, bit: usize) -> Image {
    let mut image = image.clone();
    image.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
    image
}

#[test]
fn each_flipped_bit_of_the_log_is_found() {
    let (image, _) = small();
    let name = log_name(&image);
    for bit in 0..image[&name].len() * 8 {
        is_corrupt(&flipped(&image, &name, bit), &format!("bit {bit} of {name}"));
    }
}

#[test]
fn each_flipped_bit_of_the_committed_lengths_is_found() {
    let (image, _) = small();
    let words = usize::from(SLOTS);
    for bit in words * 64..(words + 3) * 64 {
        is_corrupt(&flipped(&image, "words", bit), &format!("bit {bit} of words"));
    }
}

#[test]
fn each_truncation_is_found() {
    let (image, _) = small();
    for name in [log_name(&image), "words".to_owned()] {
        for len in 0..image[&name].len() {
            let mut image = image.clone();
            image.get_mut(&name).unwrap().truncate(len);
            is_corrupt(&image, &format!("{name} cut to {len}"));
        }
    }
    for eighth in 0..8 {
        let mut image = image.clone();
        let db = image.get_mut("db").unwrap();
        db.truncate(db.len() / 8 * eighth);
        is_corrupt(&image, &format!("db cut to {eighth}/8"));
    }
}

#[test]
fn missing_and_foreign_files_are_found() {
    let (image, _) = small();
    let name = log_name(&image);
    for missing in [&name[..], "db", "words"] {
        let mut image = image.clone();
        image.remove(missing);
        is_corrupt(&image, &format!("{missing} missing"));
    }
    // Of another store (the environment's numbers begin anew in each, so its random numbers are drawn on).
    let (other, _) = {
        let sim = Sim::new(2);
        let (journal, ..) = open(&sim).unwrap();
        drop(journal);
        let mut image = sim.image();
        let at = (usize::from(SLOTS) + 2) * 8;
        image.get_mut("words").unwrap()[at] ^= 2;
        (image, ())
    };
    is_corrupt(&other, "log of another store");
    // An older database beside a newer log.
    let sim = Sim::from_image(&image);
    let (journal, ..) = open(&sim).unwrap();
    journal.append(&[put(9, 9)]).unwrap();
    journal.fold_above(1).unwrap();
    let mut newer = sim.image();
    newer.insert("db".into(), image["db"].clone());
    is_corrupt(&newer, "older database");
    // And an older log beside a newer database.
    let mut older = image.clone();
    older.insert("db".into(), sim.image()["db"].clone());
    is_corrupt(&older, "newer database");
}

#[test]
fn a_flipped_bit_of_the_database_never_yields_wrong_data() {
    let (image, model) = small();
    let bits = image["db"].len() * 8;
    // All of the beginning, where redb has its header, and an odd sample of the rest.
    let sample = (0..320 * 8).step_by(3).chain((4096 * 8..bits).step_by(12_289));
    let mut found = 0;
    for bit in sample {
        match open(&Sim::from_image(&flipped(&image, "db", bit))) {
            Ok((_, same, _)) => assert_eq!(same, model, "bit {bit}"),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Corrupt, "bit {bit}: {error}");
                found += 1;
            }
        }
    }
    assert!(found > 0, "no flip was ever found");
}

#[test]
fn a_flipped_bit_of_a_row_is_found() {
    let (image, model) = small();
    let db = &image["db"];
    let at = db.windows(6).position(|window| window == b"file17").unwrap();
    let mut found = 0;
    for bit in at * 8..(at + 16) * 8 {
        match open(&Sim::from_image(&flipped(&image, "db", bit))) {
            Ok((_, same, _)) => assert_eq!(same, model, "bit {bit}"),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Corrupt, "bit {bit}: {error}");
                found += 1;
            }
        }
    }
    assert!(found > 0, "no flip was ever found");
}

/// A journal whose log says that it has another format version.
fn with_version(image: &Image, version: u8) -> Image {
    let mut image = image.clone();
    let log = image.get_mut(&log_name(&image)).unwrap();
    log[8] = version;
    let check = crc32c::crc32c_append(crc32c::crc32c(&log[..12]), &log[16..64]);
    log[12..16].copy_from_slice(&check.to_le_bytes());
    image
}

#[test]
fn a_newer_version_is_refused_and_those_before_are_read() {
    let (image, model) = small();
    let error = open(&Sim::from_image(&with_version(&image, 7))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains("format version 7"), "{error}");
    assert!(error.message.contains(&log_name(&image)), "{error}");
    for version in [4, 5] {
        let sim = Sim::from_image(&with_version(&image, version));
        let (journal, found, _) = open(&sim).unwrap();
        assert_eq!(found, model, "version {version}");
        // What is written from then on is not for who knows that version.
        journal.renew().unwrap();
        assert_eq!(journal.bytes(), 0, "all of it is in the database");
        journal.renew().unwrap();
        drop(journal);
        let now = sim.image();
        assert_eq!(now[&log_name(&now)][8..12], 6_u32.to_le_bytes());
        assert_eq!(open(&sim).unwrap().1, model);
    }
    assert_eq!(open(&Sim::from_image(&with_version(&image, 3))).unwrap_err().kind, ErrorKind::Corrupt);
}

#[test]
fn what_was_not_acknowledged_is_dropped_and_said() {
    let (mut image, model) = small();
    let name = log_name(&image);
    image.get_mut(&name).unwrap().extend([7; 100]);
    let sim = Sim::from_image(&image);
    let (journal, found, notes) = open(&sim).unwrap();
    assert_eq!(found, model);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("100 bytes"), "{notes:?}");
    drop(journal);
    assert!(open(&sim).unwrap().2.is_empty());
}

#[test]
fn damage_under_a_running_store_is_found_and_can_be_mended() {
    let (image, model) = small();
    let log = log_name(&image);
    let row = image["db"].windows(6).position(|window| window == b"file17").unwrap();
    for (name, bit) in [
        (&log[..], 10),
        (&log, 800),
        ("words", usize::from(SLOTS) * 64 + 5),
        ("words", usize::from(SLOTS) * 64 + 65),
        ("db", row * 8),
    ] {
        let sim = Sim::from_image(&image);
        let (journal, ..) = open(&sim).unwrap();
        journal.verify().unwrap();
        sim.flip(name, bit);
        let found = journal.verify();
        // The word of the log before is not in use, but a restart would look at it.
        assert_eq!(found.unwrap_err().kind, ErrorKind::Corrupt, "bit {bit} of {name}");
        journal.rewrite(model.changes()).unwrap();
        journal.verify().unwrap();
        journal.append(&[put(3, 3)]).unwrap();
        drop(journal);
        let (_, found, notes) = open(&sim).unwrap();
        assert_eq!(found, model.with(&[put(3, 3)]));
        assert!(notes.is_empty());
    }
}

#[test]
fn commit_words_are_checked() {
    let sim = Sim::new(1);
    let (journal, ..) = open(&sim).unwrap();
    let words: CommitWords = journal.words().clone();
    let (a, b) = (MoveId(77), MoveId(0x0100_0001));
    assert_eq!(words.read(3, a).unwrap_err().kind, ErrorKind::Corrupt);
    words.begin(3, a).unwrap();
    assert_eq!(words.read(3, a).unwrap(), 0);
    words.commit(3, a, 1000).unwrap();
    words.begin(SLOTS - 1, b).unwrap();
    assert_eq!((words.read(3, a).unwrap(), words.read(SLOTS - 1, b).unwrap()), (1000, 0));
    assert_eq!(words.read(3, b).unwrap_err().kind, ErrorKind::Corrupt);
    assert!(words.begin(SLOTS, a).is_err());
    let image = sim.image();
    for bit in 3 * 64..4 * 64 {
        let (journal, ..) = open(&Sim::from_image(&flipped(&image, "words", bit))).unwrap();
        assert_eq!(journal.words().read(3, a).unwrap_err().kind, ErrorKind::Corrupt, "bit {bit}");
    }
}
