//! The journal on real files, with several threads at it.

mod journal_support;

use codax_core::change::Change;
use codax_core::{ErrorKind, FileId, Result};
use codax_engine::journal::Journal;
use journal_support::{Model, Still, link, put};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn open(dir: &Path) -> Result<(Journal, Model, Vec<String>)> {
    let mut model = Model::default();
    let (journal, notes) = Journal::open(dir, Arc::new(Still::default()), &mut |change| {
        model.apply(&change);
        Ok(())
    })?;
    Ok((journal, model, notes))
}

fn logs(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("log.")).count()
}

#[test]
fn commits_go_on_while_the_log_is_folded() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, empty, notes) = open(dir.path()).unwrap();
    assert_eq!((empty, notes), (Model::default(), Vec::new()));
    let stop = AtomicBool::new(false);
    let each = 3000;
    std::thread::scope(|scope| {
        let folder = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                journal.fold_above(20_000).unwrap();
            }
        });
        let writers: Vec<_> = (0..3)
            .map(|thread| {
                let journal = &journal;
                scope.spawn(move || {
                    for i in 0..each {
                        let id = 2 + thread * each + i;
                        journal.append(&[put(id, i), link(1, &id.to_le_bytes(), id)]).unwrap();
                        if i % 3 == 0 {
                            journal.append(&[Change::Drop(FileId(id))]).unwrap();
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        folder.join().unwrap();
    });
    let mut expected = Model::default();
    for id in 2..2 + 3 * each {
        let i = (id - 2) % each;
        expected.apply(&put(id, i));
        expected.apply(&link(1, &id.to_le_bytes(), id));
        if i % 3 == 0 {
            expected.apply(&Change::Drop(FileId(id)));
        }
    }
    // As after a kill, and then after a clean end.
    drop(journal);
    let (journal, found, notes) = open(dir.path()).unwrap();
    assert!(found == expected && notes.is_empty(), "{notes:?}");
    journal.fold_above(1).unwrap();
    drop(journal);
    let (journal, found, _) = open(dir.path()).unwrap();
    assert!(found == expected);
    assert_eq!((journal.bytes(), logs(dir.path())), (0, 1));
}

#[test]
fn a_directory_without_words_that_was_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, ..) = open(dir.path()).unwrap();
    journal.append(&[put(2, 2)]).unwrap();
    drop(journal);
    std::fs::remove_file(dir.path().join("words")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt);
    assert!(error.message.contains("words is missing"), "{error}");
}
