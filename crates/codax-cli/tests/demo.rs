//! What `codax demo` says to input that makes no sense, and that it leaves nothing behind when it is interrupted.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

fn demo(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codax"));
    command.arg("demo").args(words).stdin(Stdio::null());
    command
}

/// Exit code and message, which is one line.
fn refused(words: &[&str]) -> (Option<i32>, String) {
    let output = demo(words).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty() && message.lines().count() == 1, "{words:?}: {message}");
    (output.status.code(), message)
}

#[test]
fn input_that_makes_no_sense_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (empty, none, file) =
        (text(dir.path()), text(&dir.path().join("none")), text(&dir.path().join("file")));
    assert_eq!(refused(&["--input", &empty]).0, Some(2));
    fs::write(&file, "some bytes").unwrap();
    assert_eq!(refused(&["--input", &file]).0, Some(2));
    let (code, message) = refused(&["--input", &none]);
    assert!(code == Some(3) && message.contains("none"), "{message}");
    for size in ["0", "-1", "many", "18446744073709551616", "9"] {
        assert_eq!(refused(&["--input", &empty, &format!("--size={size}")]).0, Some(2), "{size}");
    }
    // A file of more bytes than there are: it takes none of them.
    let huge = dir.path().join("huge");
    fs::create_dir(&huge).unwrap();
    fs::File::create(huge.join("sparse")).unwrap().set_len(1 << 43).unwrap();
    let (code, message) = refused(&["--input", &text(&huge)]);
    assert!(code == Some(4) && message.contains("--size"), "{message}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), vec![7; 1 << 20]).unwrap();
    let mut child = demo(&["--input", dir.path().to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let left = || {
        let prefix = format!("codax-demo-{pid}-");
        let dirs = fs::read_dir("/dev/shm").unwrap().flatten();
        let dirs = dirs.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).count();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let commands = fs::read_dir("/proc").unwrap().flatten();
        let commands = commands.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let processes = commands.filter(|line| String::from_utf8_lossy(line).contains(&prefix)).count();
        (dirs, mounts.matches(&prefix).count(), processes)
    };
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("load")), "the demo loads its files");
    // Its daemon runs; a worker may too.
    let (dirs, _, processes) = left();
    assert!(dirs == 1 && processes >= 1);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(lines.any(|line| line.contains("cancelled")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(left(), (0, 0, 0));
}
