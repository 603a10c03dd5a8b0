//! What the commands do and show, in text and in JSON.

use crate::rig::{MIB, Plan, Rig, Running, pattern, root, skipped, until};
use codax::{OpenOptions, Store};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;

fn keys(row: &Value) -> String {
    let mut keys: Vec<_> = row.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys.join(" ")
}

#[test]
fn what_comes_by_a_pipe_fits_where_its_bytes_do() {
    let rig = Plan::new().device("7MiB").up();
    // Made longer ahead of what comes, it would be 8 MiB for a moment.
    rig.put("/f", &pattern(6 * MIB, 1), &["--on", "sim0"]).ok();
    assert_eq!((rig.get("/f"), rig.pool("sim0", "free")), (pattern(6 * MIB, 1), MIB));
    rig.put("/g", &pattern(2 * MIB, 1), &["--on", "sim0"]).fails(4, &["sim0"]);
    rig.sound();
}

#[test]
fn json_has_one_shape_for_each_command() {
    let rig = Plan::new().up();
    rig.put("/f", b"bytes", &["--on", "sim0"]).ok();
    let pool = "backing bytes dax emergency exclusive files free held huge id job link missing moves_with name nodes numa persistent populated private reserve retired state swappable used";
    let file = "away backed ctime_ns extents gid id kind len lost mapped_by mode mounted mtime_ns name name_hex nlink no_emergency path path_hex persistent pins placement runs served spilled uid";
    let job = "bytes files left nanos plan subject";
    let shown = pool.replace(" dax ", " dax device ");
    let cases: &[(&[&str], usize, &str)] = &[
        (
            &["status"],
            1,
            "inodes journal_bytes more_quotas mounts path path_hex pid pools quotas recovery sessions uid uptime_ns version",
        ),
        (&["df"], 2, pool),
        (&["device", "list"], 1, pool),
        (&["device", "show", "dram"], 1, &shown),
        (&["mkdir", "/d", "/e"], 2, "path path_hex"),
        (&["mkdir", "-p", "/d/deep/er"], 1, "path path_hex"),
        (&["ls"], 3, file),
        (&["ls", "/d/deep/er"], 0, file),
        (&["ls", "/f"], 1, file),
        (&["stat", "/f", "/d"], 2, file),
        (&["chmod", "600", "/f"], 1, "gid mode path path_hex uid"),
        (&["chown", "0:0", "/d"], 1, "gid mode path path_hex uid"),
        (&["du", "/", "/d"], 2, "backed dirs files len path path_hex pools"),
        (&["quota"], 0, ""),
        (&["quota", "set", "--dir", "/d", "sim0", "1MiB"], 1, "limit path path_hex pool uid user"),
        (&["quota"], 1, "limit over path path_hex pool uid used user"),
        (&["quota", "list"], 1, "limit over path path_hex pool uid used user"),
        (&["quota", "clear", "--dir", "/d"], 1, "limit path path_hex pool uid user"),
        (&["placement", "/f"], 1, "no_emergency path path_hex placement"),
        (&["placement", "/d", "--prefer", "sim0"], 1, "no_emergency path path_hex placement"),
        (&["move", "/f", "--to", "dram"], 1, job),
        (&["mv", "/f", "/g"], 1, "from from_hex to to_hex"),
        (
            &["pages", "dram", "--file", "/g"],
            1,
            "cpu_heat device_heat file flags frame frames page path path_hex pins state",
        ),
        (&["check"], 0, ""),
        (&["reload"], 0, ""),
        (&["device", "drain", "sim0", "--dry-run"], 1, job),
        (&["device", "drain", "sim0"], 1, job),
        (&["device", "online", "sim0"], 1, job),
        (&["rm", "/g"], 1, "path path_hex"),
    ];
    for (words, rows, wanted) in cases {
        if !root() && words[0] == "chown" {
            continue;
        }
        let found = rig.rows(words);
        assert_eq!(found.len(), *rows, "{words:?}: {found:?}");
        for row in &found {
            assert_eq!(keys(row), *wanted, "{words:?}");
        }
    }
    for event in rig.rows(&["events"]) {
        assert_eq!(keys(&event), "bytes detail seq subject time_ns what");
    }
    let put = rig.put("/p", b"12345", &["--json"]).ok().rows();
    assert_eq!((keys(&put[0]).as_str(), put[0]["bytes"].as_u64()), ("bytes path path_hex", Some(5)));
    // Where standard output is the file's, the object is on standard error.
    for words in [&["get", "/p", "-", "--json"][..], &["cat", "/p", "--json"]] {
        let said = rig.ok(words);
        assert_eq!(said.out, b"12345");
        let object: Value = serde_json::from_str(&said.err).expect("an object");
        assert_eq!((object["schema"].as_u64(), object["rows"][0]["bytes"].as_u64()), (Some(1), Some(5)));
    }
    let down = rig.rows(&["down", "--purge"]);
    assert_eq!((keys(&down[0]).as_str(), &down[0]["purged"]), ("path path_hex purged", &true.into()));
}

#[test]
fn bytes_go_in_and_come_out_the_same() {
    let rig = Plan::new().up();
    for len in [0, 1, 4095, 4096, 4097, 2 * MIB - 1, 2 * MIB, 5 * MIB + 3] {
        let bytes = pattern(len, len);
        let file = rig.beside("file");
        std::fs::write(&file, &bytes).expect("room");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o751)).expect("ours");
        rig.ok(&["put", file.to_str().expect("text"), "/a", "-f", "--on", "sim0"]);
        rig.put("/b", &bytes, &["-f"]).ok();
        assert!(rig.get("/a") == bytes && rig.ok(&["cat", "/b"]).out == bytes, "{len}");
        let back = rig.beside("back");
        rig.ok(&["get", "/a", back.to_str().expect("text"), "-f"]);
        assert!(std::fs::read(&back).expect("there") == bytes, "{len}");
        assert_eq!(back.metadata().expect("there").permissions().mode() & 0o777, 0o751);
        assert_eq!(rig.row(&["stat", "/a"])["len"], len);
        assert_eq!(rig.pool("sim0", "used"), len.next_multiple_of(4096));
    }
    assert_eq!(rig.ok(&["cat", "/a", "/b"]).out.len() as u64, 2 * (5 * MIB + 3));
    let back = rig.beside("back");
    rig.run(&["get", "/a", back.to_str().expect("text")]).fails(10, &["-f"]);
    rig.sound();
}

#[test]
fn trees_go_in_and_come_out_the_same() {
    let rig = Plan::new().up();
    let tree = rig.beside("tree");
    std::fs::create_dir_all(tree.join("sub/empty")).expect("room");
    for (name, len) in [("one", 5), ("sub/two", 5000), ("sub/three", 0)] {
        std::fs::write(tree.join(name), pattern(len, len)).expect("room");
    }
    std::os::unix::fs::symlink("one", tree.join("link")).expect("room");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let said = rig.ok(&["put", "-r", &text(&tree), "/tree", "--on", "sim0"]);
    assert!(said.err.contains("left out 1 link"), "{said}");
    assert_eq!(rig.pools_of("/tree/sub/two"), ["sim0"]);
    let back = rig.beside("back");
    rig.ok(&["get", "-r", "/tree", &text(&back)]);
    for (name, len) in [("one", 5), ("sub/two", 5000), ("sub/three", 0)] {
        assert!(std::fs::read(back.join(name)).expect("there") == pattern(len, len), "{name}");
    }
    assert!(back.join("sub/empty").is_dir() && !back.join("link").exists());
    // An existing directory takes it under its own name.
    rig.ok(&["put", &text(&tree.join("one")), "/tree/sub"]);
    assert_eq!(rig.get("/tree/sub/one"), pattern(5, 5));
    rig.run(&["rm", "/tree"]).fails(5, &["not empty"]);
    rig.ok(&["rm", "-r", "/tree"]);
    rig.run(&["ls", "/tree"]).fails(3, &[]);
    assert_eq!(rig.pool("sim0", "used") + rig.pool("dram", "used"), 0);
    rig.sound();
}

#[test]
fn names_are_changed_and_replaced() {
    let rig = Plan::new().up();
    rig.put("/a", b"a", &[]).ok();
    rig.put("/b", b"b", &["--on", "sim0"]).ok();
    rig.ok(&["mkdir", "/d"]);
    rig.run(&["mv", "-n", "/a", "/b"]).fails(10, &["/b"]);
    rig.ok(&["mv", "/a", "/b"]);
    assert_eq!(rig.get("/b"), b"a");
    assert_eq!(rig.pool("sim0", "used"), 0, "what was replaced is gone");
    rig.ok(&["mv", "/b", "/d"]);
    assert_eq!(rig.get("/d/b"), b"a");
    rig.ok(&["mv", "/d", "/e"]);
    assert_eq!(rig.ok(&["ls"]).text(), "e/\n");
    rig.ok(&["rm", "-f", "/nothing"]);
    rig.sound();
}

#[test]
fn long_listings_and_modes_are_those_of_ls_and_chmod() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(5000, 1), &["--on", "sim0"]).ok();
    rig.ok(&["chmod", "u=rwx,go=r", "/f"]);
    rig.ok(&["mkdir", "/d"]);
    rig.ok(&["chmod", "1777", "/d"]);
    if root() {
        rig.ok(&["chown", "1234:5678", "/f"]);
    }
    let said = rig.ok(&["ls", "-l"]);
    let lines: Vec<Vec<_>> = said.text().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["mode", "owner", "group", "bytes", "backed", "pools", "changed", "name"]);
    assert_eq!((lines[1][0], *lines[1].last().expect("a name")), ("drwxrwxrwt", "d/"));
    assert_eq!((lines[2][0], &lines[2][3..6]), ("-rwxr--r--", &["5000", "8192", "sim0"][..]));
    if root() {
        assert_eq!(lines[2][1..3], ["1234", "5678"]);
    }
    let row = rig.row(&["stat", "/f"]);
    assert_eq!((row["mode"].as_u64(), row["kind"].as_str()), (Some(0o744), Some("file")));
    let text = rig.ok(&["stat", "/f"]);
    assert!(text.text().contains("pages 0-1 in sim0, frames"), "{text}");
}

#[test]
fn placement_is_explicit_and_handed_down() {
    let rig = Plan::new().up();
    rig.put("/plain", b"x", &[]).ok();
    assert_eq!(rig.pools_of("/plain"), ["dram"], "the default");
    rig.ok(&["mkdir", "/d", "--on", "sim0"]);
    rig.ok(&["mkdir", "-p", "/d/sub/deeper"]);
    rig.put("/d/sub/deeper/f", b"x", &[]).ok();
    assert_eq!(rig.pools_of("/d/sub/deeper/f"), ["sim0"]);
    let own = |path: &str| rig.row(&["placement", path])["placement"].clone();
    assert_eq!((&own("/d")["own"], &own("/d/sub/deeper/f")["own"]), (&true.into(), &false.into()));
    assert_eq!(own("/d/sub")["pools"][0], "sim0");
    let said = rig.ok(&["placement", "/d/sub"]);
    assert_eq!(said.text(), "--on sim0  (from a directory above)\n");
    // A change is for what comes later; what is there stays.
    rig.ok(&["placement", "/d", "--on", "dram"]);
    rig.put("/d/later", b"x", &[]).ok();
    assert_eq!(
        (rig.pools_of("/d/later"), rig.pools_of("/d/sub/deeper/f")),
        (vec!["dram".into()], vec!["sim0".to_owned()])
    );
    rig.ok(&["placement", "/d", "--clear"]);
    assert_eq!(own("/d")["own"], false);
    // Turns of 2 MiB.
    rig.put("/turns", &pattern(7 * MIB, 3), &["--interleave", "sim0,dram"]).ok();
    let runs = rig.row(&["stat", "/turns"])["runs"].clone();
    let runs: Vec<_> = runs
        .as_array()
        .expect("a list")
        .iter()
        .map(|r| (r["page"].as_u64(), r["pages"].as_u64(), r["pool"].as_str()))
        .collect();
    let wanted = [(0, 512, "sim0"), (512, 512, "dram"), (1024, 512, "sim0"), (1536, 256, "dram")];
    assert_eq!(runs, wanted.map(|(page, pages, pool)| (Some(page), Some(pages), Some(pool))));
    assert_eq!(rig.get("/turns"), pattern(7 * MIB, 3));
    let usage = rig.row(&["du", "/turns"]);
    assert_eq!(
        (usage["len"].as_u64(), usage["backed"].as_u64(), usage["files"].as_u64()),
        (Some(7 * MIB), Some(7 * MIB), Some(1))
    );
}

#[test]
fn a_part_of_a_file_is_moved_in_whole_blocks() {
    let rig = Plan::new().up();
    let bytes = pattern(7 * MIB, 4);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    rig.ok(&["move", "/f", "--to", "dram", "--range", "3MiB:1"]);
    let runs = rig.row(&["stat", "/f"])["runs"].clone();
    assert_eq!(
        (&runs[1]["page"], &runs[1]["pages"], &runs[1]["pool"]),
        (&512.into(), &512.into(), &"dram".into())
    );
    assert!(rig.get("/f") == bytes);
    assert_eq!((rig.pool("sim0", "used"), rig.pool("dram", "used")), (5 * MIB, 2 * MIB));
    // The bytes are in other frames of another object: a move is no relabelling.
    let before = rig.rows(&["pages", "dram", "--file", "/f"]);
    rig.ok(&["move", "/f", "--to", "sim0"]);
    assert_eq!((before.len(), rig.rows(&["pages", "dram", "--file", "/f"]).len()), (1, 0));
    assert!(rig.get("/f") == bytes);
    rig.sound();
}

#[test]
fn everything_is_there_after_a_restart() {
    let rig = Plan::new().up();
    rig.ok(&["mkdir", "/d", "--on", "sim0"]);
    rig.put("/d/f", &pattern(3 * MIB, 5), &[]).ok();
    rig.put("/g", &pattern(9, 6), &[]).ok();
    rig.ok(&["chmod", "640", "/g"]);
    let look = |rig: &Rig| {
        let mut rows = rig.rows(&["stat", "/", "/d", "/d/f", "/g"]);
        rows.iter_mut().for_each(|row| row["mapped_by"] = Value::Null);
        (rows, rig.pool("sim0", "used"), rig.pool("dram", "used"))
    };
    let before = look(&rig);
    for kill in [false, true, false] {
        if kill {
            rig.kill()
        } else {
            rig.down()
        }
        rig.up();
        assert_eq!(look(&rig), before);
        assert!(rig.get("/d/f") == pattern(3 * MIB, 5) && rig.get("/g") == pattern(9, 6));
        rig.sound();
    }
}

#[test]
fn pages_are_read_without_a_daemon() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(10_000, 7), &["--on", "sim0"]).ok();
    let id = rig.row(&["stat", "/f"])["id"].clone();
    let look = || {
        let rows = rig.rows(&["pages", "sim0"]);
        let used: Vec<_> = rows.iter().filter(|row| row["state"] == "used").collect();
        assert_eq!((used.len(), &used[0]["path"], &used[0]["file"]), (1, &"/f".into(), &id));
        assert_eq!((&used[0]["frames"], &used[0]["page"]), (&3.into(), &0.into()));
        let all: u64 = rows.iter().filter_map(|row| row["frames"].as_u64()).sum();
        assert_eq!(all * 4096, 64 * MIB);
        let selected = rig.rows(&["pages", "sim0", "--file", &format!("#{id}"), "--each"]);
        assert_eq!(selected.len(), 3);
    };
    look();
    rig.kill();
    look();
    assert!(rig.ok(&["pages", "sim0"]).text().contains("(/f) page 0 used"));
}

#[test]
fn many_small_files_take_a_page_each() {
    let rig = Plan::new().up();
    let tree = rig.beside("tree");
    std::fs::create_dir(&tree).expect("room");
    for i in 0..2000 {
        std::fs::write(tree.join(i.to_string()), pattern(100, i)).expect("room");
    }
    rig.ok(&["put", "-r", tree.to_str().expect("text"), "/small", "--on", "sim0"]);
    assert_eq!(rig.pool("sim0", "used"), 2000 * 4096);
    if root() {
        let pool = rig.dir().join("pools/sim0");
        let free = codax_os::mounts::fs_free(&pool).expect("a mount");
        assert!(free >= 64 * MIB - 2000 * 4096 - MIB, "{free} bytes are free");
    } else {
        skipped(
            "many_small_files_take_a_page_each",
            "what tmpfs has given is only seen on a mount of its own",
        );
    }
    assert_eq!(rig.row(&["du", "/small"])["files"], 2000);
    assert_eq!(rig.rows(&["ls", "/small"]).len(), 2000);
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.get("/small/1234"), pattern(100, 1234));
    rig.ok(&["rm", "-r", "/small"]);
    assert_eq!(rig.pool("dram", "used"), 0);
    rig.sound();
}

#[test]
fn frames_are_zeroed_before_another_owner_sees_them() {
    let rig = Plan::new().device("4MiB").up();
    let zeros = vec![0; 4 << 20];
    let store = Store::connect(rig.dir()).expect("a daemon");
    for round in 0..3 {
        rig.put("/secret", &pattern(4 * MIB, round), &["--on", "sim0"]).ok();
        match round {
            0 => drop(rig.ok(&["rm", "/secret"])),
            1 => drop(rig.ok(&["move", "/secret", "--to", "dram"])),
            _ => drop(rig.ok(&["mv", "/mine", "/secret"])),
        }
        if round < 2 {
            let options = OpenOptions::new().read(true).write(true).create_new(true).on("sim0");
            drop(options.len(4 << 20).open(&store, "/mine").expect("all of it is free"));
            assert!(rig.get("/mine") == zeros, "round {round}");
            rig.ok(&["rm", "/mine"]);
            rig.ok(&["rm", "-f", "/secret"]);
            rig.put("/mine", b"", &[]).ok();
        }
        if round < 1 {
            rig.ok(&["rm", "/mine"]);
        }
    }
    // A file that grows again over its own end.
    rig.ok(&["rm", "/secret"]);
    rig.put("/f", &pattern(10_000, 9), &["--on", "sim0"]).ok();
    let file = OpenOptions::new().read(true).write(true).open(&store, "/f").expect("there");
    file.set_len(5000).expect("cut");
    file.set_len(10_000).expect("grown");
    let bytes = rig.get("/f");
    assert!(bytes[..5000] == pattern(10_000, 9)[..5000] && bytes[5000..].iter().all(|&b| b == 0));
}

#[test]
fn a_removed_file_lives_as_long_as_it_is_mapped() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(2 * MIB, 10), &["--on", "sim0"]).ok();
    let mut client = crate::client::Client::start(&rig, "hold", &["/f", "rw"]);
    rig.ok(&["rm", "/f"]);
    client.ask("set 8 99");
    assert_eq!(client.number("get 8"), 99);
    assert_eq!(rig.pool("sim0", "used"), 2 * MIB);
    client.end();
    until("its frames", || (rig.pool("sim0", "used") == 0).then_some(()));
    rig.sound();
}

#[test]
fn events_are_followed() {
    let rig = Plan::new().up();
    rig.put("/a", b"a", &[]).ok();
    let mut follow = rig.command(&["events", "--follow", "--json"]);
    let mut follow = Running { child: follow.stdout(Stdio::piped()).spawn().expect("the program starts") };
    let mut lines = BufReader::new(follow.child.stdout.take().expect("piped")).lines();
    let mut next = || -> Value {
        serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("an object")
    };
    assert_eq!(next()["rows"][0]["what"], "start");
    assert_eq!(next()["rows"][0]["subject"], "/a");
    rig.put("/b", b"b", &["--on", "sim0"]).ok();
    let event = next();
    assert_eq!((&event["schema"], &event["rows"][0]["subject"]), (&1.into(), &"/b".into()));
    assert!(event["rows"][0]["detail"].as_str().expect("text").contains("sim0"));
    let since = rig.rows(&["events", "--since", "3"]);
    assert_eq!(since[0]["seq"], 3);
}

#[test]
fn a_configuration_is_read_again() {
    let rig = Plan::new().config("ack_timeout = \"3s\"\n").up();
    assert_eq!(rig.ok(&["reload"]).text(), "nothing changed\n");
    let config = rig.beside("codax.toml");
    std::fs::write(
        &config,
        "ack_timeout = \"1s\"\nsocket_mode = \"0600\"\nlog = \"info\"\nhuge = \"never\"\n",
    )
    .expect("ours");
    let said = rig.ok(&["reload"]);
    for word in ["ack_timeout", "socket_mode", "log is info", "huge"] {
        assert!(said.text().contains(word), "{word}: {said}");
    }
    assert_eq!(rig.dir().join("sock").metadata().expect("there").permissions().mode() & 0o777, 0o600);
    std::fs::write(&config, "ack_timeout = \"never\"\n").expect("ours");
    rig.run(&["reload"]).fails(2, &["codax.toml:1", "never"]);
    // The daemon serves on with what it had, and takes the signal for the command.
    std::fs::write(&config, "socket_mode = \"0666\"\n").expect("ours");
    rig.with_daemon(|daemon| daemon.signal(Signal::HUP));
    until("the socket's mode", || {
        (rig.dir().join("sock").metadata().expect("there").permissions().mode() & 0o777 == 0o666)
            .then_some(())
    });
    rig.ok(&["status"]);
}

#[test]
fn a_detached_daemon_logs_to_its_place_and_purge_leaves_nothing() {
    let rig = Plan::new().place();
    // Its coprocessor, too, has nothing of who started it: what the command says comes to an end.
    let row = rig.row(&["up", "--detach", "--dram", "8MiB", "--device", "sim0=software:8MiB"]);
    assert_eq!(row["detached"], true);
    let pid = u32::try_from(row["pid"].as_u64().expect("a number")).expect("a process id");
    assert!(rig.dir().join("meta/daemon.log").is_file());
    assert_eq!(rig.row(&["status"])["pid"], pid);
    rig.run(&["up", "--detach"]).fails(5, &[&pid.to_string()]);
    rig.put("/a", b"a", &["--on", "sim0"]).ok();
    rig.ok(&["down"]);
    rig.run(&["status"]).fails(8, &[]);
    rig.ok(&["up", "--detach", "--device", "sim0=software:8MiB"]);
    assert_eq!(rig.get("/a"), b"a");
    rig.ok(&["down", "--purge"]);
    assert!(!rig.dir().exists(), "the directory is gone");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("there");
    assert!(!mounts.contains(rig.dir().to_str().expect("text")), "and what was mounted in it");
}

#[test]
fn a_service_manager_hears_when_the_store_is_served() {
    let rig = Plan::new().place();
    let path = rig.beside("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(crate::setting::patience())).expect("a limit");
    let mut command = rig.command(&["up", "--dram", "8MiB"]);
    command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null());
    let mut daemon = Running { child: command.spawn().expect("the program starts") };
    let hear = |wanted: &str| {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).expect("a message");
        let said = String::from_utf8_lossy(&buffer[..len]).into_owned();
        assert!(said.contains(wanted), "{said}");
    };
    hear("READY=1");
    rig.ok(&["status"]);
    daemon.signal(Signal::HUP);
    hear("RELOADING=1");
    hear("READY=1");
    daemon.signal(Signal::TERM);
    hear("STOPPING=1");
    assert!(daemon.end().success());
}

#[test]
fn an_idle_daemon_does_nothing() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(MIB, 1), &["--on", "sim0"]).ok();
    let client = crate::client::Client::start(&rig, "hold", &["/f", "rw"]);
    let ticks = |pid: u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields = stat.rsplit_once(") ").expect("a name").1.split(' ');
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
    };
    let pids = [rig.with_daemon(|daemon| daemon.pid()), client.pid()];
    let before = pids.map(ticks);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let after = pids.map(ticks);
    assert!(
        after[0] - before[0] <= 3 && after[1] - before[1] <= 3,
        "ticks of 10 ms: {before:?} to {after:?}"
    );
    client.end();
}

#[test]
fn check_finds_what_differs_and_repair_mends_it() {
    if !root() {
        return skipped("check_finds_what_differs_and_repair_mends_it", "needs root's store to look into");
    }
    let rig = Plan::new().up();
    let bytes = pattern(2 * MIB, 12);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    rig.put("/g", &bytes, &["--on", "sim0"]).ok();
    // A stranger's file among the objects, and a frame table that says something else.
    std::fs::write(rig.dir().join("pools/sim0/00000000000fffff"), pattern(8192, 1)).expect("root may");
    let said = rig.run(&["check"]).fails(9, &["codax check --repair"]);
    assert!(!said.text().is_empty(), "{said}");
    rig.ok(&["check", "--repair"]);
    rig.sound();
    // An object that is gone.
    let id = rig.row(&["stat", "/f"])["id"].as_u64().expect("a number");
    std::fs::remove_file(rig.dir().join(format!("pools/sim0/{id:016x}"))).expect("root may");
    let said = rig.run(&["check"]);
    assert!(said.code == 9 && said.text().contains("/f") && said.text().contains("lost"), "{said}");
    let said = rig.run(&["check", "--repair"]);
    assert!(said.code == 9 && said.text().contains("/f"), "{said}");
    assert!(rig.get("/g") == bytes);
    rig.ok(&["rm", "/f"]);
    rig.sound();
}
