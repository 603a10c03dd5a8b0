//! What the real program says to words that need no daemon: wrong ones, and those about itself.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the program with these words, with `store` as the store's directory.
fn codax(store: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_codax"))
        .args(words)
        .env("CODAX_STORE", store)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program ends by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are text")
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory for the test")
}

#[test]
fn words_that_make_no_sense_are_usage_errors() {
    let dir = place();
    for words in [
        &["nonsense"][..],
        &["status", "--nonsense"],
        &["rm"],
        &["rm", "-r", "/a", "/"],
        &["put", "-"],
        &["put", "-", "/a", "--on", "a", "--prefer", "b"],
        &["put", "-", "/a", "--strict"],
        &["put", "-", "/a", "--interleave", "one"],
        &["put", "-", "/a//b"],
        &["put", "-", "/../a"],
        &["placement", "/a", "--on", "a", "--clear"],
        &["up", "--dram", "-5"],
        &["up", "--dram=-5"],
        &["up", "--dram", "0"],
        &["up", "--dram", "5000"],
        &["up", "--dram", "18446744073709551615"],
        &["up", "--device", "sim0"],
        &["up", "--device", "a/b=emulated:1MiB"],
        &["up", "--device", "a=emulated:1MiB", "--device", "a=emulated:1MiB"],
        &["device"],
        &["device", "drain", "sim0", "--wait", "5"],
        &["device", "drain", "sim0", "--limit", "fast"],
        &["move", "/a"],
        &["move", "/a", "--to", "sim0", "--range", "5"],
        &["move", "/a", "--to", "sim0", "--range", "0:0"],
        &["move", "/a", "--to", "sim0", "--range", "4096:18446744073709551615"],
        &["chmod", "u+q", "/a"],
        &["chmod", "99", "/a"],
        &["chown", "no-such-user-here", "/a"],
        &["pages", "a/b"],
        &["pages", ".."],
        &["probe", "--time", "5"],
        &["probe", "--time", "1ms"],
        &["probe", "--time", "2m"],
        &["probe", "--size", "5000000"],
        &["probe", "--size", "4KiB"],
        &["probe", "--dir", "/a//b"],
        &["device", "discover", "cxl0"],
        &["completions", "nonsense"],
        &["--store=", "status"],
    ] {
        let output = codax(dir.path(), words);
        assert_eq!(code(&output), 2, "{words:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{words:?}");
    }
    assert_eq!(dir.path().read_dir().expect("it is there").count(), 0, "nothing was made");
}

#[test]
fn names_that_are_too_long_are_usage_errors() {
    let dir = place();
    for path in ["x".repeat(256), "/x".repeat(3000)] {
        assert_eq!(code(&codax(dir.path(), &["stat", &path])), 2);
    }
}

#[test]
fn without_a_daemon_every_question_says_how_to_start_one() {
    let dir = place();
    for words in [
        &["status"][..],
        &["ls"],
        &["put", "-", "/a"],
        &["chmod", "-x", "/a"],
        &["chmod", "--json", "go-w", "/a"],
        &["device", "list", "--json"],
        &["device", "drain", "sim0", "--wait", "5s", "--limit", "2.5"],
        &["move", "/a", "--to", "sim0", "--range", "1MiB:2MiB"],
        &["events", "--follow"],
        &["check"],
        &["probe"],
        &["probe", "sim0", "--json"],
        &["reload"],
        &["down", "--purge"],
    ] {
        let output = codax(dir.path(), words);
        assert_eq!(code(&output), 8, "{words:?}: {}", stderr(&output));
        let wanted = format!(
            "codax: no daemon serves {0}: start it with `codax up --store {0}`\n",
            dir.path().display()
        );
        assert_eq!(stderr(&output), wanted);
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let dir = place();
    let store = dir.path().to_str().expect("text");
    let output = codax(Path::new(""), &["--store", store, "status"]);
    assert_eq!(code(&output), 8, "{}", stderr(&output));
    assert_ne!(code(&codax(Path::new(""), &["doctor"])), 2);
}

#[test]
fn files_of_this_machine_have_exit_codes_too() {
    let dir = place();
    let missing = codax(dir.path(), &["put", "/no/such/file", "/a"]);
    assert_eq!(code(&missing), 3, "{}", stderr(&missing));
    assert!(stderr(&missing).starts_with("codax: reading /no/such/file\n  because "), "{}", stderr(&missing));
    let directory = codax(dir.path(), &["put", "/", "/a"]);
    assert_eq!(code(&directory), 2, "{}", stderr(&directory));
    assert_eq!(stderr(&directory), "codax: / is a directory: put it with -r\n");
    let missing = codax(dir.path(), &["pages", "sim0"]);
    assert_eq!(code(&missing), 3, "{}", stderr(&missing));
    let missing = codax(dir.path(), &["up", "--config", "/no/such/codax.toml"]);
    assert_eq!(code(&missing), 3, "{}", stderr(&missing));
}

#[test]
fn doctor_needs_no_daemon_and_says_how_to_mend() {
    let dir = place();
    let output = codax(dir.path(), &["doctor", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!((&json["schema"], &json["command"]), (&1.into(), &"doctor".into()));
    let rows = json["rows"].as_array().expect("rows");
    let missing = rows.iter().any(|row| row["level"] == "missing");
    assert_eq!(code(&output), i32::from(missing), "{}", stderr(&output));
    for fact in ["kernel", "userfaultfd", "kernel-mode faults", "huge pages", "mounts"] {
        assert!(rows.iter().any(|row| row["fact"] == fact), "{fact}");
    }
    for row in rows {
        assert_eq!(row["mend"].is_null(), row["level"] == "ok", "{row}");
    }
}

#[test]
fn help_tells_the_exit_codes_and_the_forms_of_json() {
    let dir = place();
    let output = codax(dir.path(), &["--help"]);
    assert_eq!(code(&output), 0);
    let help =
        String::from_utf8(output.stdout).expect("text").split_whitespace().collect::<Vec<_>>().join(" ");
    for said in ["8 no daemon", "path_hex", "CODAX_STORE", "KiB"] {
        assert!(help.contains(said), "{said}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = place();
    let pages = dir.path().join("new/man");
    let output = codax(dir.path(), &["man", "--json", pages.to_str().expect("text")]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let json: Value = serde_json::from_slice(&output.stdout).expect("one object");
    let rows = json["rows"].as_array().expect("rows");
    assert!(rows.iter().all(|row| Path::new(row["path"].as_str().expect("text")).is_file()));
    for page in ["codax.1", "codax-put.1", "codax-probe.1", "codax-device.1", "codax-device-discover.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
}

#[test]
fn completions_are_scripts() {
    let dir = place();
    for shell in ["bash", "zsh", "fish"] {
        let output = codax(dir.path(), &["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(String::from_utf8(output.stdout).expect("text").contains("codax"));
    }
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let dir = place();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_codax"));
    let output = command.args(["completions", "bash"]).current_dir(dir.path()).stdout(writer).output();
    let output = output.expect("the program starts");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}
