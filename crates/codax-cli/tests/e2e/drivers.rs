//! Drivers in processes of their own, well and bad: what the store does with one that is late, lies, is somebody else's or is killed.

use crate::client::{self, Client};
use crate::mount::{Mounted, mounted};
use crate::rig::{MIB, NOBODY, Plan, Rig, Running, pattern, root, skipped, until};
use codax::driver::{Cache, Counter, Description, Driver, Health, Link, Range, serve};
use codax::{Request, Result, Store};
use codax_wire::driver::{Answer, Call, Drive, FromDriver, ToDriver};
use codax_wire::{Channel, Hello, MAGIC, Reply, SOCKET, VERSION};
use rustix::fs::FallocateFlags;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A driver that says each call, and waits for a line before it answers those of one kind.
#[derive(Debug)]
struct Gated {
    gated: String,
    /// `state LEN`: of so many bytes.
    state: usize,
    lines: Mutex<Receiver<()>>,
}

impl Gated {
    fn called(&self, call: &str) -> Result<()> {
        client::say(call);
        if self.gated == call {
            // The test ends it without a line if it is to wait for ever.
            let _ = self.lines.lock().expect("no panic under it").recv();
        }
        Ok(())
    }
}

fn npu() -> Description {
    Description {
        caches: vec![Cache { name: "L2".into(), bytes: 8 << 20 }],
        link: Link { name: "CXL 2.0 x8".into(), ..Link::default() },
        operations: vec!["copy".into(), "crc32c".into()],
        has_state: true,
        ..Description::coprocessor("npu", "1.2")
    }
}

impl Driver for Gated {
    fn describe(&self) -> Description {
        npu()
    }

    fn write_back(&self, ranges: &[Range]) -> Result<()> {
        assert!(ranges.iter().all(|range| range.len > 0));
        self.called("write_back")
    }

    fn quiesce(&self, _within: Duration) -> Result<()> {
        self.called("quiesce")
    }

    fn save(&self) -> Result<Vec<u8>> {
        self.called("save")?;
        // One that is refused for its length need not be in memory.
        Ok(if self.state > 1 << 30 { vec![0; self.state] } else { vec![5; self.state] })
    }

    fn reset(&self) -> Result<()> {
        self.called("reset")
    }

    fn restore(&self, state: &[u8]) -> Result<()> {
        self.called(&format!("restore {}", state.iter().filter(|byte| **byte == 5).count()))
    }

    fn resume(&self) -> Result<()> {
        self.called("resume")
    }

    fn health(&self) -> Result<Health> {
        Ok(Health::Degraded("a fan\nstands still".into()))
    }

    fn counters(&self) -> Result<Vec<Counter>> {
        Ok(vec![Counter { name: "operations".into(), value: 41 }])
    }
}

/// The role of a driver of `words[0]`, which waits in calls of the name `words[1]`, and whose state has `words[2]` bytes.
pub fn drive(store: &Store, words: &[&str]) {
    let (line, lines) = channel();
    std::thread::spawn(move || {
        std::io::stdin()
            .lines()
            .map_while(std::io::Result::ok)
            .for_each(|_| line.send(()).unwrap_or_default())
    });
    let state = words[2].parse().expect("a number");
    let driver = Gated { gated: words[1].to_owned(), state, lines: Mutex::new(lines) };
    let e = serve(store, words[0], &driver).expect_err("it ends with an error");
    client::say(&format!("{:?}: {e}", e.kind));
}

/// The role of a driver that says what it should not: `words[1]`.
pub fn lie(store: &Store, words: &[&str]) {
    let channel = Channel::new(codax_os::sock::connect(&store.dir().join(SOCKET)).expect("a daemon"));
    channel.send(&Request::Hello(Hello { magic: MAGIC, version: VERSION }), &[]).expect("sent");
    let welcome = channel.recv::<Reply>().expect("received");
    assert!(matches!(welcome, Some((Reply::Welcome { .. }, _))));
    let drive = Drive { device: words[0].to_owned(), description: npu() };
    channel.send(&Request::Drive(Box::new(drive)), &[]).expect("sent");
    client::say(match channel.recv::<Reply>().expect("received") {
        Some((Reply::Done, _)) => "taken",
        _ => "refused",
    });
    let answer = |number, answer| channel.send(&FromDriver { number, answer }, &[]);
    while let Ok(Some((message, _))) = channel.recv::<ToDriver>() {
        let ToDriver::Call { number, call } = message else { continue };
        // What can't be sent any more was one too many.
        let _ = match (words[1], call) {
            ("garbage", Call::WriteBack(_)) => {
                codax_os::sock::send(&channel, &[0xff; 999], &[]).map_err(|_| codax::Error::invalid("gone"))
            }
            ("another number", Call::WriteBack(_)) => answer(number + 1, Answer::Done),
            ("another answer", Call::WriteBack(_)) => answer(number, Answer::State { len: 1 }),
            ("a flood", Call::Save) => (answer(number, Answer::State { len: 4 << 30 }))
                .and_then(|()| (0..).try_for_each(|_| answer(number, Answer::Part(vec![7; 90 << 10])))),
            ("more than it said", Call::Save) => (answer(number, Answer::State { len: 9 }))
                .and_then(|()| answer(number, Answer::Part(vec![7; 90 << 10]))),
            (_, Call::Save) => (answer(number, Answer::State { len: 1 }))
                .and_then(|()| answer(number, Answer::Part(vec![7]))),
            (_, Call::Health) => answer(number, Answer::Health(Health::Well)),
            (_, Call::Counters) => answer(number, Answer::Counters(Vec::new())),
            _ => answer(number, Answer::Done),
        };
    }
    client::say("hung up on");
    // It goes on to be there.
    let _ = std::io::stdin().lines().next();
}

/// A store whose drivers have so many milliseconds.
fn impatient(ms: u64) -> Plan {
    Plan::new().config(&format!("ack_timeout = \"{ms}ms\"\nquiesce_timeout = \"{ms}ms\"\n"))
}

/// Starts a driver of `sim0`, and waits until it has been told to run.
fn start(rig: &Rig, gated: &str, state: &str) -> Client {
    let driver = Client::spawn(rig, "drive", &["sim0", gated, state]);
    assert_eq!(driver.line(), "resume");
    // The store has heard that it does.
    until("a device that runs", || {
        (rig.row(&["device", "show", "sim0"])["device"]["standing"] == "running").then_some(())
    });
    driver
}

#[test]
fn a_device_shows_what_its_driver_says() {
    let rig = Plan::new().up();
    let shown = rig.ok(&["device", "show", "sim0"]);
    for line in ["class", "type 3", "caches", "none", "driver", "expander"] {
        assert!(shown.text().contains(line), "{shown}");
    }
    assert!(shown.text().contains("\nlink           none\n"), "{shown}");
    let _driver = start(&rig, "", "100");
    let shown = rig.ok(&["device", "show", "sim0"]);
    for line in [
        "type 2",
        "L2 8 MiB; of any memory",
        "CXL 2.0 x8",
        "npu 1.2, process ",
        "copy, crc32c",
        "running",
        "degraded: a fan stands still",
        "operations 41",
    ] {
        assert!(shown.text().contains(line), "`{line}`: {shown}");
    }
    let row = rig.row(&["device", "show", "sim0"]);
    assert_eq!((&row["name"], &row["device"]["description"]["class"]), (&"sim0".into(), &"type2".into()));
    assert_eq!(row["device"]["counters"][0]["value"], 41);
    assert!(rig.row(&["device", "show", "dram"])["device"].is_null());
    assert!(!rig.ok(&["device", "show", "dram"]).text().contains("link"));
    assert_eq!(rig.events("driver").len(), 1);
}

#[test]
fn a_device_shows_what_its_link_is_and_what_it_needs() {
    let figures = "read_ns=300,write_ns=150,gbps=12.5";
    let rig = Plan::new()
        .device_as(&format!("sim0=software:16MiB,{figures}"))
        .and_device("nic0=software")
        .and_device(&format!("sim1=emulated:16MiB,{figures}"))
        .up();
    let announced = "read 300 ns, write 150 ns, 12.5 GB/s, as announced";
    let has = |name: &str, line: &str| {
        let shown = rig.ok(&["device", "show", name]);
        assert!(shown.text().lines().any(|found| found == line), "`{line}`: {shown}");
    };
    has("sim0", &format!("link           {announced}"));
    has("sim1", &format!("link           {announced}"));
    has("nic0", "link           none");
    let driver = Client::spawn(&rig, "drive", &["sim1", "", "100"]);
    assert_eq!(driver.line(), "resume");
    has("sim1", &format!("link           CXL 2.0 x8: {announced}"));
}

#[test]
fn a_move_under_a_program_waits_for_a_slow_invalidate() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(2 * MIB, 1), &["--on", "sim0"]).ok();
    let mut user = Client::start(&rig, "hold", &["/f", "rw"]);
    let mut driver = start(&rig, "write_back", "100");
    let mut moving = rig.command(&["move", "/f", "--to", "dram"]);
    let mut moving = Running { child: moving.stdout(Stdio::null()).spawn().expect("the program starts") };
    assert_eq!(driver.line(), "write_back");
    // Frozen, and not copied yet: readers go on, and the file is where it was.
    user.number("get 8");
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    assert!(moving.child.try_wait().expect("our child").is_none());
    driver.tell("go on");
    // Once for each chunk, and once more before the frames are given back.
    while moving.child.try_wait().expect("our child").is_none() {
        if rig.pools_of("/f") == ["dram"] && rig.pool("sim0", "used") == 0 {
            break;
        }
        driver.tell("go on");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(moving.end().success());
    assert_eq!(rig.pools_of("/f"), ["dram"]);
    user.ask("set 8 5");
    assert_eq!(user.number("get 8"), 5);
    user.end();
    rig.sound();
}

#[test]
fn a_driver_that_never_answers_invalidate_keeps_the_file_where_it_is_until_it_is_killed() {
    let rig = impatient(1500).up();
    rig.put("/f", &pattern(MIB, 2), &["--on", "sim0"]).ok();
    let mut user = Client::start(&rig, "hold", &["/f", "rw"]);
    let mut driver = start(&rig, "write_back", "100");
    let pid = format!("process {}", driver.pid());
    for path in ["/f", "/idle"] {
        if path == "/idle" {
            rig.put(path, &pattern(MIB, 3), &["--on", "sim0"]).ok();
        }
        rig.run(&["move", path, "--to", "dram"]).fails(5, &[path, &pid, "npu", "sim0", "written back"]);
        assert_eq!(rig.pools_of(path), ["sim0"]);
    }
    user.ask("set 8 7");
    rig.run(&["device", "drain", "sim0", "--keep-running"]).fails(5, &[&pid, "npu"]);
    assert_eq!(rig.state("sim0"), "online");
    driver.process.kill();
    until("a device without a driver", || {
        rig.ok(&["device", "show", "sim0"]).text().contains("none: npu is gone").then_some(())
    });
    rig.ok(&["move", "/f", "--to", "dram"]);
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(user.number("get 8"), 7);
    user.end();
    rig.sound();
}

#[test]
fn what_a_mount_takes_from_a_file_waits_for_a_slow_invalidate_and_for_none_for_ever() {
    let name = "what_a_mount_takes_from_a_file_waits_for_a_slow_invalidate_and_for_none_for_ever";
    let Some(Mounted { rig, dir }) = mounted(name, impatient(4000)) else { return };
    rig.put("/f", &pattern(4 * MIB, 1), &["--on", "sim0"]).ok();
    let mut driver = start(&rig, "write_back", "100");
    let file = std::fs::OpenOptions::new().write(true).open(dir.join("f")).expect("it is there");
    let cut = || file.set_len(3 * MIB);
    let punch = || {
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&file, how, MIB, MIB)?)
    };
    let takes: [&(dyn Fn() -> std::io::Result<()> + Sync); 2] = [&cut, &punch];
    for take in takes {
        let busy = take().expect_err("the driver does not answer").raw_os_error();
        assert_eq!(busy, Some(rustix::io::Errno::BUSY.raw_os_error()));
        assert_eq!(driver.line(), "write_back");
        // Nothing is taken, and everybody is served.
        let before = rig.pool("sim0", "used");
        driver.tell("go on");
        std::thread::scope(|scope| {
            // Until the late answer is there it is refused unasked.
            let taking = scope.spawn(|| until("the driver to have answered", || take().ok()));
            assert_eq!(driver.line(), "write_back");
            assert_eq!(rig.pool("sim0", "used"), before);
            driver.tell("go on");
            // Once more before it is somebody else's.
            assert_eq!(driver.line(), "write_back");
            driver.tell("go on");
            taking.join().expect("it answers");
        });
        assert_eq!(rig.pool("sim0", "used"), before - MIB);
    }
    drop(file);
    // A name goes at once, and the memory when the driver has answered.
    std::fs::remove_file(dir.join("f")).expect("it is there");
    assert_eq!(driver.line(), "write_back");
    assert_eq!((rig.pool("sim0", "used"), rig.pool("sim0", "held")), (0, 2 * MIB));
    driver.tell("go on");
    until("nothing to be held", || (rig.pool("sim0", "held") == 0).then_some(()));
    rig.sound();
}

#[test]
fn a_driver_that_never_answers_quiesce_is_named_and_reset_or_ended() {
    let rig = impatient(1500).up();
    rig.put("/f", &pattern(MIB, 2), &["--on", "sim0"]).ok();
    let mut driver = start(&rig, "quiesce", "100");
    let pid = format!("process {}", driver.pid());
    rig.run(&["device", "drain", "sim0"]).fails(5, &["sim0", "npu", &pid, "safe point", "--reset-device"]);
    assert_eq!((rig.state("sim0").as_str(), rig.pools_of("/f")), ("online", vec!["sim0".to_owned()]));
    assert_eq!(driver.line(), "quiesce");
    // Stuck in that call, it can't be reset either.
    rig.run(&["device", "drain", "sim0", "--reset-device"]).fails(6, &["sim0", "npu", &pid, "end it"]);
    driver.process.kill();
    until("a device without a driver", || {
        rig.row(&["device", "show", "sim0"])["device"]["pid"].is_null().then_some(())
    });
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.pools_of("/f"), ["dram"]);
    rig.ok(&["device", "online", "sim0"]);
    // One that is stopped is no other than one that hangs, and one that goes on then is told to.
    let driver = start(&rig, "", "100");
    driver.process.stop();
    rig.run(&["device", "drain", "sim0"]).fails(5, &["sim0", "safe point"]);
    assert!(rig.ok(&["device", "show", "sim0"]).text().contains("does not say"), "and it holds nobody up");
    driver.process.go_on();
    assert_eq!([driver.line(), driver.line()], ["quiesce", "resume"]);
    rig.sound();
}

#[test]
fn a_state_outlives_a_killed_daemon_and_a_killed_driver() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(MIB, 2), &["--on", "sim0"]).ok();
    let len = (1_000_000).to_string();
    let mut driver = start(&rig, "", &len);
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!([driver.line(), driver.line()], ["quiesce", "save"]);
    assert!(rig.ok(&["device", "show", "sim0"]).text().contains("are saved"));
    driver.process.kill();
    rig.kill();
    rig.up();
    let other = Client::spawn(&rig, "drive", &["sim0", "", &len]);
    until("a driver", || rig.row(&["device", "show", "sim0"])["device"]["pid"].is_number().then_some(()));
    rig.ok(&["device", "online", "sim0"]);
    assert_eq!([other.line(), other.line()], ["restore 1000000", "resume"]);
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
    assert!(rig.row(&["device", "show", "sim0"])["device"]["saved"].is_null());
    // The daemon's end is heard.
    rig.down();
    // Behind what the return asked it for.
    while !other.line().contains("NoDaemon") {}
}

#[test]
fn a_state_of_nothing_or_of_4_gib_refuses_the_drain_and_the_device_goes_on() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(MIB, 2), &["--on", "sim0"]).ok();
    for (len, says) in [("0", "empty"), ("4294967296", "4294967296 bytes")] {
        let mut driver = start(&rig, "", len);
        rig.run(&["device", "drain", "sim0"]).fails(6, &["sim0", "npu", "process", says]);
        assert_eq!([driver.line(), driver.line(), driver.line()], ["quiesce", "save", "resume"]);
        assert_eq!((rig.state("sim0").as_str(), rig.pools_of("/f")), ("online", vec!["sim0".to_owned()]));
        driver.process.kill();
        until("a device without", || {
            rig.row(&["device", "show", "sim0"])["device"]["pid"].is_null().then_some(())
        });
    }
    rig.sound();
}

#[test]
fn a_driver_that_lies_is_not_listened_to_and_harms_nobody() {
    for how in ["garbage", "another number", "another answer", "a flood", "more than it said"] {
        let rig = impatient(2000).up();
        rig.put("/f", &pattern(MIB, 2), &["--on", "sim0"]).ok();
        let mut driver = Client::spawn(&rig, "lie", &["sim0", how]);
        assert_eq!(driver.line(), "taken", "{how}");
        until("a device that runs", || {
            (rig.row(&["device", "show", "sim0"])["device"]["standing"] == "running").then_some(())
        });
        rig.run(&["device", "drain", "sim0"]).fails(6, &["sim0", "npu"]);
        assert_eq!(
            (rig.state("sim0").as_str(), rig.pools_of("/f")),
            ("online", vec!["sim0".to_owned()]),
            "{how}"
        );
        if how != "a flood" {
            assert_eq!(driver.line(), "hung up on", "{how}");
            // What it has in its caches it may write back as long as it is there.
            rig.run(&["move", "/f", "--to", "dram"]).fails(6, &["sim0", "npu", "end it"]);
        }
        driver.process.kill();
        until("a device without", || {
            rig.row(&["device", "show", "sim0"])["device"]["pid"].is_null().then_some(())
        });
        rig.ok(&["move", "/f", "--to", "dram"]);
        rig.sound();
    }
}

#[test]
fn one_driver_a_device_and_of_the_user_that_is_configured() {
    let rig = Plan::new().up();
    let first = start(&rig, "", "100");
    let pid = format!("process {}", first.pid());
    let second = Client::spawn(&rig, "drive", &["sim0", "", "100"]);
    let said = second.line();
    assert!(said.starts_with("Busy") && said.contains("sim0") && said.contains(&pid), "{said}");
    for (device, kind) in [("dram", "Invalid"), ("none", "NotFound")] {
        let said = Client::spawn(&rig, "drive", &[device, "", "100"]).line();
        assert!(said.starts_with(kind) && said.contains(device), "{said}");
    }
    rig.run(&["run", "sim0", "nop"]).fails(2, &["sim0", "takes no queues"]);
    // The first goes on.
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!([first.line(), first.line()], ["quiesce", "save"]);
    rig.run(&["run", "sim0", "nop"]).fails(2, &["sim0", "takes no queues"]);
    if !root() {
        return skipped("one_driver_a_device_and_of_the_user_that_is_configured", "other users need root");
    }
    let rig = Plan::new().up();
    let words = ["sim0", "", "100"];
    let said = client::run(&rig, "drive", &words, Some(NOBODY));
    assert!(said[0].starts_with("Permission") && said[0].contains("driver_user"), "{said:?}");
    assert!(said[0].contains(&format!("only root may drive it, not uid {NOBODY}")), "{said:?}");
    let rig = Plan::new().device_as(&format!("sim0=emulated:64MiB,driver_user={NOBODY}")).up();
    let mut command = client::itself(&rig, "drive", &words);
    std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
    let _driver =
        Running { child: command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts") };
    until("a driver of another user", || {
        rig.row(&["device", "show", "sim0"])["device"]["pid"].is_number().then_some(())
    });
}
