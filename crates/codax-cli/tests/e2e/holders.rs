//! Who holds a file besides its mappers: forks, descriptors that were passed on, pins.

use crate::client::{Client, counted};
use crate::rig::{MIB, Plan, Rig, Running, pattern, skipped, state_of, until};
use crate::setting::{self, seconds};
use codax_core::name::StorePath;
use codax_core::request::Open;
use codax_wire::{Channel, Hello, MAGIC, Reply, Request, SOCKET, VERSION};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A client that speaks the protocol itself.
pub fn greeted(rig: &Rig) -> Channel {
    greet(&rig.dir())
}

/// The same, for the store in `dir`.
pub fn greet(dir: &Path) -> Channel {
    let channel = Channel::new(codax_os::sock::connect(&dir.join(SOCKET)).expect("a daemon"));
    let hello = Request::Hello(Hello { magic: MAGIC, version: VERSION });
    assert!(matches!(ask(&channel, &hello).0, Reply::Welcome { .. }));
    channel
}

pub fn ask(channel: &Channel, request: &Request) -> (Reply, Vec<OwnedFd>) {
    channel.send(request, &[]).expect("the daemon listens");
    channel.recv().expect("a reply").expect("no end")
}

/// The request to open a file that is there.
pub fn open(path: &str, write: bool) -> Request {
    Request::Open(Open {
        path: StorePath::parse(path.as_bytes()).expect("a path"),
        read: true,
        write,
        create: false,
        exclusive: false,
        truncate: false,
        unnamed: false,
        mode: 0,
        placement: None,
        no_emergency: false,
        len: 0,
        map: None,
    })
}

/// Asks for a file's objects by descriptor, as a client that copies does.
pub fn raw(channel: &Channel, path: &str, write: bool) -> Result<Vec<OwnedFd>, codax::Error> {
    let handle = match ask(channel, &open(path, write)).0 {
        Reply::Opened { handle, .. } => handle,
        Reply::Error(e) => return Err(e),
        other => panic!("{other:?}"),
    };
    match ask(channel, &Request::Raw { handle, write }) {
        (Reply::Layout(_), fds) => Ok(fds),
        (Reply::Error(e), _) => Err(e),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fork_has_no_handles_and_the_parents_mapping_moves_on() {
    let rig = Plan::new().up();
    rig.put("/f", &vec![0; 3 << 20], &["--on", "sim0"]).ok();
    let mut client = Client::start(&rig, "fork", &["/f"]);
    client.tell("fork");
    // Parent and child speak over the same pipe, in any order.
    let (a, b) = (client.line(), client.line());
    let (child, said) = if a.starts_with("child") { (b, a) } else { (a, b) };
    assert_eq!(said, "child: refused=true inherited=false anew=true");
    let child: u32 = child.parse().expect("a process id");
    for round in 1..4 {
        client.ask("add");
        rig.ok(&["device", "drain", "sim0"]);
        assert_eq!(client.number("get"), round * 2 - 1);
        client.ask("add");
        rig.ok(&["device", "online", "sim0"]);
        assert_eq!(client.number("get"), round * 2);
    }
    assert!(state_of(child).is_some(), "all the time it was there");
    assert_eq!(client.ask("reap"), "true");
    client.end();
    rig.sound();
}

#[test]
fn a_client_that_dies_is_gone_although_its_fork_lives() {
    let rig = Plan::new().patient(Duration::from_millis(500)).up();
    rig.put("/f", &vec![0; 1 << 20], &["--on", "sim0"]).ok();
    let mut client = Client::start(&rig, "fork", &["/f"]);
    client.tell("fork");
    let (a, b) = (client.line(), client.line());
    let child = if a.starts_with("child") { b } else { a };
    let child: u32 = child.parse().expect("a process id");
    client.process.kill();
    let fork = codax_os::process::pidfd(child).expect("it lives");
    let drained = rig.run(&["device", "drain", "sim0", "--wait", &seconds(10)]);
    codax_os::process::kill(&fork).expect("ours");
    drained.ok();
}

#[test]
fn a_descriptor_that_was_passed_on_is_a_holder_with_a_name() {
    let rig = Plan::new().up();
    let bytes = pattern(MIB, 5);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    rig.put("/other", &bytes, &["--on", "sim0"]).ok();
    let channel = greeted(&rig);
    let fd = raw(&channel, "/f", true).expect("ours").remove(0);
    let mut sleeper = Running {
        child: Command::new("sleep").arg("1000").stdin(fd).stdout(Stdio::null()).spawn().expect("sleep"),
    };
    // The client that got it is gone.
    drop(channel);
    let pid = format!("process {}", sleeper.pid());
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/f", &pid, "sleep"]);
    assert_eq!(rig.state("sim0"), "online");
    assert_eq!(rig.pools_of("/other"), ["sim0"], "refused before anything moved");
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &pid]);
    let plan = rig.row(&["device", "drain", "sim0", "--dry-run"]);
    let obstacles = plan["plan"]["obstacles"].as_array().expect("a list");
    assert!(obstacles.iter().any(|o| o.to_string().contains(&sleeper.pid().to_string())), "{plan}");
    sleeper.kill();
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.get("/f"), bytes);
}

#[test]
fn a_descriptor_that_no_process_has_is_found_by_the_lease() {
    // Who holds it shows nowhere, and gets as long as a client to let go.
    let rig = Plan::new().patient(Duration::from_secs(1)).up();
    let bytes = pattern(MIB, 6);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let channel = greeted(&rig);
    let fds = raw(&channel, "/f", true).expect("ours");
    // On its way between two sockets: no table of descriptors has it.
    let (here, there) = codax_os::sock::pair().expect("sockets");
    codax_os::sock::send(&here, b"x", &[fds[0].as_fd()]).expect("sent");
    drop((fds, channel));
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/f"]);
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f"]);
    assert_eq!((rig.pools_of("/f"), rig.state("sim0")), (vec!["sim0".to_owned()], "online".to_owned()));
    drop((here, there));
    rig.ok(&["device", "drain", "sim0"]);
    assert_eq!(rig.get("/f"), bytes);
}

#[test]
fn a_mapped_file_whose_old_object_is_held_keeps_its_device_from_being_empty() {
    // Who holds it shows nowhere, and gets as long as a client to let go.
    let rig = Plan::new().patient(Duration::from_secs(1)).up();
    rig.put("/f", &counted(2 * MIB, 7), &["--on", "sim0"]).ok();
    let channel = greeted(&rig);
    let fds = raw(&channel, "/f", true).expect("ours");
    let (here, there) = codax_os::sock::pair().expect("sockets");
    codax_os::sock::send(&here, b"x", &[fds[0].as_fd()]).expect("sent");
    let stray = fds[0].try_clone().expect("a descriptor");
    drop((fds, channel));
    drop(stray);
    let mut counter = Client::start(&rig, "count", &["/f", "1", "100"]);
    // The mapper can be moved, but the old frames can't be given to anybody else.
    rig.run(&["device", "drain", "sim0"]).fails(5, &[]);
    assert_eq!(rig.state("sim0"), "online");
    let held_back = rig.pool("sim0", "held") + rig.pool("sim0", "used");
    assert_eq!(held_back, 2 * MIB, "frames that somebody can still write to belong to nobody else");
    drop((here, there));
    rig.ok(&["device", "drain", "sim0", "--wait", &seconds(10)]);
    assert_eq!(rig.pool("sim0", "held"), 0);
    let rounds = counter.number("stop");
    crate::client::check_counted(&rig.get("/f"), 7, &[rounds]);
    counter.end();
}

#[test]
fn pinned_memory_is_not_moved_until_it_is_unpinned() {
    let rig = Plan::new().up();
    rig.put("/f", &pattern(4 * MIB, 8), &["--on", "sim0"]).ok();
    let mut client = Client::start(&rig, "hold", &["/f", "rw"]);
    assert_eq!(client.ask("pin"), "pinned");
    let pid = format!("process {}", client.pid());
    for words in [&["move", "/f", "--to", "dram"][..], &["device", "drain", "sim0"]] {
        rig.run(words).fails(5, &["/f", &pid, "pinned"]);
    }
    assert_eq!(rig.row(&["stat", "/f"])["pins"], 1);
    let pinned = rig.rows(&["pages", "sim0", "--file", "/f"]);
    assert!(
        pinned.iter().all(|run| run["flags"].to_string().contains("pinned") && run["pins"] == 1),
        "{pinned:?}"
    );
    // What is not pinned goes.
    rig.put("/g", b"g", &["--on", "sim0"]).ok();
    rig.ok(&["move", "/g", "--to", "dram"]);
    assert_eq!(client.ask("unpin"), "unpinned");
    rig.ok(&["device", "drain", "sim0"]);
    client.end();
    rig.sound();
}

#[test]
fn a_direct_read_into_pinned_memory_arrives() {
    let rig = Plan::new().up();
    let source = crate::setting::scratch().join(format!("direct-{}", std::process::id()));
    std::fs::write(&source, pattern(2 * MIB, 9)).expect("room");
    rig.put("/f", &vec![0; 2 << 20], &["--on", "sim0"]).ok();
    let mut client = Client::spawn(&rig, "direct", &["/f", source.to_str().expect("text")]);
    let said = client.line();
    if said.starts_with("no O_DIRECT") {
        std::fs::remove_file(&source).expect("ours");
        return skipped("a_direct_read_into_pinned_memory_arrives", &said);
    }
    assert_eq!(said, "read");
    let pid = format!("process {}", client.pid());
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &pid]);
    assert_eq!(client.ask("unpin"), "unpinned");
    assert_eq!(client.line(), "same=true");
    rig.ok(&["move", "/f", "--to", "dram"]);
    client.end();
    assert!(rig.get("/f") == std::fs::read(&source).expect("there"));
    std::fs::remove_file(&source).expect("ours");
}

#[test]
fn evict_ends_who_holds_a_descriptor() {
    let rig = Plan::new().up();
    // A whole huge page, where a pool has these.
    rig.put("/f", &pattern(2 * MIB, 10), &["--on", "sim0"]).ok();
    let channel = greeted(&rig);
    let fd = raw(&channel, "/f", false).expect("ours").remove(0);
    let mut sleeper = Running { child: Command::new("sleep").arg("1000").stdin(fd).spawn().expect("sleep") };
    drop(channel);
    rig.ok(&["device", "drain", "sim0", "--evict", "--wait", "100ms"]);
    until("the sleeper's end", || sleeper.child.try_wait().expect("ours"));
    let evictions = rig.events("evict");
    assert!(
        evictions.iter().any(|e| e.contains("/f") && e.contains(&sleeper.pid().to_string())),
        "{evictions:?}"
    );
    let row = rig.rows(&["events"]).into_iter().find(|event| event["what"] == "evict").expect("noted");
    let why = row["detail"].as_str().expect("text");
    assert!(why.contains("(sleep) was killed for the drain of sim0: has a descriptor of it"), "{row}");
    assert_eq!(row["bytes"], 2 * MIB, "{row}");
}

/// Maps a part of a DAX device by itself, and reads through that: `get` is answered with the first number there.
pub fn map_device(path: &str, off: u64, len: u64) {
    let device = codax_os::dax::DaxDevice::open(Path::new(path), false).expect("root may");
    let map = device.map(off, len).expect("mapped");
    drop(device);
    crate::client::serve(|_| {
        let mut word = [0; 8];
        map.read(off, &mut word).expect("it is there");
        u64::from_le_bytes(word).to_string()
    });
}

/// A process that maps the frames of a file in `sim0`, which must lie together.
fn mapper_of(rig: &Rig, path: &str) -> Client {
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let extent = rig.row(&["stat", path])["extents"][0].clone();
    let memory = rig.row(&["device", "show", "sim0"])["dax"].clone();
    let off = number(&memory["data"]) + (number(&extent["frame"]) << 12);
    let device = memory["path"].as_str().expect("text").to_owned();
    let len = number(&extent["pages"]) << 12;
    Client::start(rig, "map-device", &[&device, &off.to_string(), &len.to_string()])
}

#[test]
fn who_maps_a_device_by_himself_is_a_holder_with_a_name() {
    if !setting::is_devdax() {
        return skipped("who_maps_a_device_by_himself_is_a_holder_with_a_name", "it is about DAX devices");
    }
    let rig = Plan::new().up();
    let bytes = pattern(2 * MIB, 11);
    let first = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    for name in ["/f", "/other", "/third"] {
        rig.put(name, &bytes, &["--on", "sim0"]).ok();
    }
    let mut mapper = mapper_of(&rig, "/f");
    assert_eq!(mapper.number("get"), first, "those are its frames");
    let pid = format!("process {}", mapper.pid());
    rig.run(&["move", "/f", "--to", "dram"]).fails(5, &["/f", &pid]);
    rig.run(&["device", "drain", "sim0"]).fails(5, &["/f", &pid]);
    assert_eq!((rig.state("sim0"), rig.pools_of("/f")), ("online".to_owned(), vec!["sim0".to_owned()]));
    // Who else lies on the device is none of his.
    rig.ok(&["move", "/other", "--to", "dram"]);
    // A file's name goes, and its frames are nobody's until he lets go of them.
    rig.ok(&["rm", "/f"]);
    assert_eq!((rig.pool("sim0", "held"), rig.pool("sim0", "used")), (2 * MIB, 2 * MIB));
    rig.put("/new", &pattern(2 * MIB, 12), &["--on", "sim0"]).ok();
    assert_eq!(mapper.number("get"), first, "nobody else writes there");
    mapper.end();
    until("the frames are free", || (rig.pool("sim0", "held") == 0).then_some(()));
    let mut mapper = mapper_of(&rig, "/third");
    rig.ok(&["device", "drain", "sim0", "--evict", "--wait", "100ms"]);
    assert!(!mapper.process.end().success(), "it was ended");
    let evictions = rig.events("evict");
    assert!(
        evictions.iter().any(|e| e.contains("/third") && e.contains(&mapper.pid().to_string())),
        "{evictions:?}"
    );
    for (name, seed) in [("/other", 11), ("/new", 12), ("/third", 11)] {
        assert!(rig.get(name) == pattern(2 * MIB, seed), "{name}");
    }
    rig.sound();
}
