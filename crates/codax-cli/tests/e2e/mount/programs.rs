//! Programs that nobody here wrote, with their files in the mount.
//!
//! Each is skipped by name where it isn't there. Python's packages come from its registry, into an environment of this build's.

use super::{Mounted, mounted};
use crate::rig::{Plan, Rig, skipped};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Whether a program can be started.
pub fn there(test: &str, program: &str) -> bool {
    let started = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if started.is_err() {
        skipped(test, &format!("{program} is not installed"));
    }
    started.is_ok()
}

/// Runs a script of the shell in a directory; it must not fail. What it wrote is returned.
#[track_caller]
pub fn sh(dir: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", script])
        .current_dir(dir)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n--- out\n{out}\n--- err\n{err}");
    out.into_owned()
}

/// Moves a file to a pool, unless somebody holds it just now.
#[track_caller]
fn moved(rig: &Rig, path: &str, pool: &str) -> bool {
    let said = rig.run(&["move", path, "--to", pool]);
    assert!(said.code == 0 || said.code == 5, "{said}");
    said.code == 0
}

/// Python with packages; `None` where they can't be had.
fn python(test: &str) -> Option<PathBuf> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = PYTHON.get_or_init(|| {
        let dir = crate::setting::scratch().join("python");
        let python = dir.join("bin/python");
        let has = |python: &Path| {
            let imports = ["-c", "import lmdb, numpy, pyarrow"];
            Command::new(python)
                .args(imports)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        };
        if has(&python) {
            return Ok(python);
        }
        let run = |program: &Path, words: &[&str]| {
            let output =
                Command::new(program).args(words).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
            let said = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("failed").to_owned();
            if output.status.success() { Ok(()) } else { Err(said) }
        };
        run(Path::new("python3"), &["-m", "venv", dir.to_str().ok_or("a path that is not text")?])?;
        run(&python, &["-m", "pip", "install", "--quiet", "lmdb", "numpy", "pyarrow"])?;
        if has(&python) { Ok(python) } else { Err("the packages can't be imported".into()) }
    });
    made.as_ref()
        .map_err(|why| skipped(test, &format!("python3 with lmdb, numpy and pyarrow: {why}")))
        .ok()
        .cloned()
}

#[test]
fn sqlite_keeps_its_database_while_it_is_moved() {
    const NAME: &str = "sqlite_keeps_its_database_while_it_is_moved";
    if !there(NAME, "sqlite3") {
        return;
    }
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    let sql = |script: &str| sh(&dir, &format!("sqlite3 -cmd 'pragma mmap_size=67108864' db \"{script}\""));
    assert!(sql("pragma journal_mode=wal; create table t(id integer primary key, v blob);").contains("wal"));
    let mut moves = 0;
    for round in 1..=8 {
        sql(
            "begin; insert into t(v) select randomblob(500) from (with recursive c(x) as (select 1 union all select x+1 from c where x<500) select x from c); commit;",
        );
        assert_eq!(
            sql("pragma integrity_check; select count(*) from t;"),
            format!("67108864\nok\n{}\n", round * 500)
        );
        moves += u32::from(moved(&rig, "/db", if round % 2 == 0 { "dram" } else { "sim0" }));
    }
    assert_eq!(moves, 8, "nobody holds it between two runs");
    // And while a reader has it open and mapped: it is not broken, and not moved.
    let mut reader = Command::new("sqlite3")
        .args(["-cmd", "pragma mmap_size=67108864", "db"])
        .current_dir(&dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(|child| crate::rig::Running { child })
        .expect("sqlite3 is there");
    let mut stdin = reader.child.stdin.take().expect("piped");
    let mut out = std::io::BufReader::new(reader.child.stdout.take().expect("piped"));
    let mut ask = |sql: &str| {
        let mut line = String::new();
        std::io::Write::write_all(&mut stdin, sql.as_bytes()).expect("it reads");
        std::io::BufRead::read_line(&mut out, &mut line).expect("it answers");
        line
    };
    assert_eq!(ask(""), "67108864\n");
    assert_eq!(ask("select count(*) from t;\n"), "4000\n");
    assert!(!moved(&rig, "/db", "sim0") || rig.pools_of("/db") == ["sim0"]);
    assert_eq!(ask("delete from t where id > 2000; select count(*) from t;\n"), "2000\n");
    drop(stdin);
    assert!(reader.end().success());
    assert_eq!(sql("pragma integrity_check;"), "67108864\nok\n");
    rig.sound();
}

#[test]
fn git_clones_commits_collects_and_checks() {
    const NAME: &str = "git_clones_commits_collects_and_checks";
    if !there(NAME, "git") {
        return;
    }
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    let origin = rig.beside("origin");
    std::fs::create_dir(&origin).expect("ours");
    let who = "git config user.name t; git config user.email t@t; git config commit.gpgsign false";
    sh(
        &origin,
        &format!(
            "git init -q .; {who}; for i in $(seq 300); do mkdir -p d$((i % 7)); seq $i $((i * 3)) > d$((i % 7))/f$i; done; git add .; git commit -qm one"
        ),
    );
    sh(&dir, &format!("git clone -q '{}' repo; cd repo; {who}", origin.display()));
    let repo = dir.join("repo");
    for round in 0..3 {
        sh(
            &repo,
            &format!(
                "for i in $(seq 50); do echo {round} >> d$((i % 7))/f$i; done; git mv d{round}/f$(({round} + 70)) moved{round}; git commit -qam round{round}; git checkout -q -b b{round}"
            ),
        );
        sh(&repo, "git status --porcelain | (! grep .)");
    }
    sh(
        &repo,
        "git gc -q --prune=now; git fsck --full --strict; git log --oneline | wc -l | grep -qx 4; git diff --quiet HEAD~3 HEAD || true",
    );
    let objects: Vec<_> =
        std::fs::read_dir(repo.join(".git/objects/pack")).expect("packed").flatten().collect();
    assert!(!objects.is_empty());
    for (i, object) in objects.iter().enumerate() {
        let path = format!("/repo/.git/objects/pack/{}", object.file_name().to_string_lossy());
        assert!(moved(&rig, &path, if i % 2 == 0 { "sim0" } else { "dram" }));
    }
    sh(&repo, "git fsck --full --strict; git checkout -q HEAD~2; git status --porcelain | (! grep .)");
    rig.sound();
}

#[test]
fn lmdb_numpy_and_arrow_map_their_files() {
    const NAME: &str = "lmdb_numpy_and_arrow_map_their_files";
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    let Some(python) = python(NAME) else { return };
    let script = |script: &str| sh(&dir, &format!("'{}' - <<'END'\n{script}\nEND\n", python.display()));
    for round in 0..3 {
        script(&format!(
            "import lmdb
env = lmdb.open('lmdb', map_size=16<<20, writemap=True, map_async=False)
with env.begin(write=True) as txn:
    for i in range(2000): txn.put(b'%d-%d' % ({round}, i), b'v%d' % i * 5)
with env.begin() as txn:
    assert txn.stat()['entries'] == 2000 * ({round} + 1)
    assert all(txn.get(b'%d-%d' % (r, i)) == b'v%d' % i * 5 for r in range({round} + 1) for i in range(2000))
env.close()"
        ));
        assert!(moved(&rig, "/lmdb/data.mdb", if round % 2 == 0 { "sim0" } else { "dram" }));
    }
    script(
        "import numpy as np
a = np.memmap('array', dtype='float64', mode='w+', shape=(512, 1024))
a[:] = np.arange(512 * 1024).reshape(512, 1024); a.flush(); del a
b = np.memmap('array', dtype='float64', mode='r+', shape=(512, 1024)); b *= 2; b.flush()
assert np.fromfile('array').sum() == 2.0 * sum(range(512 * 1024))",
    );
    assert!(moved(&rig, "/array", "sim0"));
    script(
        "import numpy as np, pyarrow as pa
assert np.memmap('array', dtype='float64', mode='r')[-1] == 2.0 * (512 * 1024 - 1)
table = pa.table({'n': pa.array(range(100000)), 's': pa.array([str(i) for i in range(100000)])})
with pa.OSFile('table.arrow', 'wb') as f, pa.ipc.new_file(f, table.schema) as w: w.write_table(table)
with pa.memory_map('table.arrow') as f: assert pa.ipc.open_file(f).read_all().equals(table)",
    );
    assert!(moved(&rig, "/table.arrow", "sim0"));
    script(
        "import pyarrow as pa
with pa.memory_map('table.arrow') as f: assert pa.ipc.open_file(f).read_all().column('n').to_pylist() == list(range(100000))",
    );
    rig.sound();
}

#[test]
fn trees_are_copied_in_and_out_and_searched() {
    const NAME: &str = "trees_are_copied_in_and_out_and_searched";
    if !["tar", "rsync", "rg"].into_iter().all(|program| there(NAME, program)) {
        return;
    }
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    let source = rig.beside("source");
    std::fs::create_dir(&source).expect("ours");
    sh(
        &source,
        "for i in $(seq 200); do mkdir -p d$((i % 9)); head -c $((i * 137)) /dev/urandom > d$((i % 9))/f$i; done
ln -s d1/f1 link; ln d2/f2 hard; mkfifo pipe; mkdir empty; chmod 4751 d3/f3; touch -d '2001-02-03 04:05:06.789012345' d4/f4
echo 'the needle is here' > d5/text; truncate -s 300000 sparse; echo x > 'name with
newline'; chown 12:34 d6/f6",
    );
    let (source, back) = (source.display().to_string(), rig.beside("back").display().to_string());
    // tar, in and out.
    sh(&dir, &format!("mkdir tar; tar -C '{source}' -cf - . | tar -C tar -xpf -; tar -C tar -cf all.tar ."));
    sh(&dir, &format!("tar -C '{source}' --compare -f all.tar 2>&1 | (! grep -v 'is the same')"));
    // rsync, in and out, with checksums, times, links, owners.
    sh(&dir, &format!("rsync -aHSD --checksum '{source}/' rsync/; rsync -aHSD --checksum rsync/ '{back}/'"));
    let left = sh(
        &dir,
        &format!(
            "rsync -aHSDn --checksum --delete --itemize-changes '{source}/' '{back}/'; rsync -aHSDn --checksum --delete --itemize-changes '{source}/' rsync/; rsync -aHSDn --checksum --delete --itemize-changes '{source}/' tar/"
        ),
    );
    assert_eq!(left, "", "nothing differs");
    assert_eq!(sh(&dir, "rg -l needle rsync tar | sort"), "rsync/d5/text\ntar/d5/text\n");
    assert_eq!(sh(&dir, "rg --mmap -c needle rsync/d5/text"), "1\n");
    sh(
        &dir,
        "cp -a rsync copy; mv copy moved; diff -r --no-dereference -x pipe rsync moved; rm -r rsync moved tar all.tar",
    );
    rig.sound();
    assert_eq!(rig.pool("dram", "used"), 0);
}

#[test]
fn the_posix_suite_finds_nothing() {
    const NAME: &str = "the_posix_suite_finds_nothing";
    if !there(NAME, "pjdfstest") {
        return;
    }
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    let config = "[features]\nposix_fallocate = {}\nrename_ctime = {}\nutimensat = {}\nutime_now = {}\n\
                  [settings]\nnaptime = 0.02\nallow_remount = false\n\
                  [dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n";
    let file = rig.beside("pjdfstest.toml");
    std::fs::write(&file, config).expect("ours");
    let said =
        sh(&rig.beside("."), &format!("pjdfstest -c '{}' -p '{}' -s .", file.display(), dir.display()));
    assert!(said.contains("Summary: 0 failed"), "{said}");
    rig.sound();
}

#[test]
fn random_operations_are_as_a_model_has_them() {
    const NAME: &str = "random_operations_are_as_a_model_has_them";
    if !there(NAME, "fsx") {
        return;
    }
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    for seed in 1..=4 {
        sh(&dir, &format!("fsx -S {seed} -N 5000 file{seed} >/dev/null"));
        assert!(moved(&rig, &format!("/file{seed}"), "sim0"));
        rig.sound();
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    const NAME: &str = "fio_verifies_what_it_wrote";
    if !there(NAME, "fio") {
        return;
    }
    let Some(Mounted { rig, dir }) = mounted(NAME, Plan::new()) else { return };
    for engine in ["psync", "mmap"] {
        for pattern in ["randwrite", "randrw"] {
            let name = format!("{engine}-{pattern}");
            sh(
                &dir,
                &format!(
                    "fio --name={name} --filename={name} --ioengine={engine} --rw={pattern} --size=8M --bs=4k --verify=crc32c --do_verify=1 --verify_fatal=1 --numjobs=1 --output=/dev/null --thread"
                ),
            );
            assert!(moved(&rig, &format!("/{name}"), "sim0"));
            sh(
                &dir,
                &format!(
                    "fio --name={name} --filename={name} --ioengine={engine} --rw={pattern} --size=8M --bs=4k --verify=crc32c --verify_only=1 --verify_fatal=1 --output=/dev/null --thread"
                ),
            );
        }
    }
    rig.sound();
}
