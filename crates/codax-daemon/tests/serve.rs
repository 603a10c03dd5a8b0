//! A daemon served in this process, and clients of every kind.

use codax_core::ErrorKind;
use codax_core::name::StorePath;
use codax_core::request::Open;
use codax_daemon::{CommandLine, Config, serve};
use codax_wire::{Attach, Channel, Hello, MAGIC, PACKET_MAX, Reply, Request, SOCKET, VERSION};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

const GREETING: Request = Request::Hello(Hello { magic: MAGIC, version: VERSION });

/// A daemon with a store of its own, which ends with [`Daemon::purge`].
struct Daemon {
    _root: tempfile::TempDir,
    dir: PathBuf,
    thread: Option<JoinHandle<codax_core::Result<()>>>,
}

/// After a test that failed: the store's mounts must not stay.
impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(_) = self.thread.take() else { return };
        let Ok(fd) = codax_os::sock::connect(&self.dir.join(SOCKET)) else { return };
        let _ = codax_os::sock::set_recv_timeout(&fd, Some(Duration::from_secs(10)));
        let client = Channel::new(fd);
        for request in [GREETING, Request::Down { purge: true }] {
            let _ = client.send(&request, &[]).and_then(|()| client.recv::<Reply>());
        }
    }
}

impl Daemon {
    fn start() -> Self {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = root.path().join("store");
        let line = CommandLine {
            store: Some(dir.clone()),
            dram: Some("16MiB".into()),
            devices: vec!["sim0=emulated:16MiB".into()],
            ..CommandLine::default()
        };
        let config = Config::load(&line).unwrap();
        let (ready, wait) = channel();
        let thread = std::thread::spawn(move || serve(config, |info| ready.send(info.pid).unwrap()));
        if wait.recv().is_err() {
            panic!("no daemon: {}", thread.join().unwrap().unwrap_err());
        }
        Self { _root: root, dir, thread: Some(thread) }
    }

    fn connect(&self) -> Channel {
        let fd = codax_os::sock::connect(&self.dir.join(SOCKET)).unwrap();
        codax_os::sock::set_recv_timeout(&fd, Some(Duration::from_secs(30))).unwrap();
        Channel::new(fd)
    }

    fn greeted(&self) -> Channel {
        let client = self.connect();
        client.send(&GREETING, &[]).unwrap();
        assert!(matches!(reply(&client), Some(Reply::Welcome { version: VERSION, .. })));
        client
    }

    fn purge(mut self, client: &Channel) {
        assert_eq!(ask(client, &Request::Down { purge: true }), Reply::Done);
        self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(!Path::new(&self.dir).exists());
    }
}

fn reply(client: &Channel) -> Option<Reply> {
    client.recv().unwrap().map(|(reply, _)| reply)
}

fn ask(client: &Channel, request: &Request) -> Reply {
    client.send(request, &[]).unwrap();
    reply(client).unwrap()
}

fn kind(reply: Option<Reply>) -> Option<ErrorKind> {
    match reply? {
        Reply::Error(e) => Some(e.kind),
        other => panic!("{other:?}"),
    }
}

fn path(text: &str) -> StorePath {
    StorePath::parse(text.as_bytes()).unwrap()
}

fn new_file(name: &str, map: Option<bool>) -> Request {
    Request::Open(Open {
        path: path(name),
        read: true,
        write: true,
        create: true,
        exclusive: false,
        truncate: false,
        unnamed: false,
        mode: 0o600,
        placement: None,
        no_emergency: false,
        len: 8192,
        map,
    })
}

#[test]
fn strangers_get_one_error_and_harm_nobody() {
    let daemon = Daemon::start();
    let good = daemon.greeted();
    let silent = daemon.connect();
    let raw = |bytes: &[u8]| {
        let client = daemon.connect();
        codax_os::sock::send(client.as_fd(), bytes, &[]).unwrap();
        let first = kind(reply(&client));
        assert!(reply(&client).is_none(), "the connection is closed after the answer");
        first
    };
    assert_eq!(raw(&[0xff; 100]), Some(ErrorKind::Corrupt));
    assert_eq!(raw(b"GET / HTTP/1.1\r\n\r\n"), Some(ErrorKind::Corrupt));
    assert_eq!(raw(&vec![0; PACKET_MAX + 1]), Some(ErrorKind::Corrupt));
    let say = |request: &Request| {
        let client = daemon.connect();
        client.send(request, &[]).unwrap();
        // What it sends on top doesn't take the answer away; it may come too late.
        let _ = client.send(&Request::Status, &[]);
        kind(reply(&client))
    };
    assert_eq!(say(&Request::Hello(Hello { magic: MAGIC, version: VERSION + 1 })), Some(ErrorKind::Invalid));
    assert_eq!(say(&Request::Hello(Hello { magic: 1, version: VERSION })), Some(ErrorKind::Corrupt));
    assert_eq!(say(&Request::Status), Some(ErrorKind::Invalid));
    // Garbage and half a message of a client that has been greeted; what it had open is closed.
    for bytes in [&[0xee; 33][..], &[8]] {
        let client = daemon.greeted();
        assert!(matches!(ask(&client, &new_file("/f", None)), Reply::Opened { .. }));
        codax_os::sock::send(client.as_fd(), bytes, &[]).unwrap();
        assert_eq!(kind(reply(&client)), Some(ErrorKind::Corrupt));
        assert!(reply(&client).is_none());
    }
    drop(daemon.connect());
    assert!(matches!(ask(&good, &Request::Status), Reply::Store(_)));
    assert_eq!(kind(reply(&silent)), Some(ErrorKind::Busy), "who says nothing is told so");
    assert!(reply(&silent).is_none());
    daemon.purge(&good);
}

#[test]
fn files_are_opened_listed_moved_and_removed() {
    let daemon = Daemon::start();
    let client = daemon.greeted();
    assert_eq!(ask(&client, &Request::Mkdir { path: path("/d"), mode: 0o700, placement: None }), Reply::Done);
    let Reply::Opened { handle, len: 8192, created: true, .. } = ask(&client, &new_file("/d/f", None)) else {
        panic!()
    };
    assert_eq!(ask(&client, &Request::SetLen { handle, len: 12_288 }), Reply::Done);
    let Reply::File(info) = ask(&client, &Request::StatHandle(handle)) else { panic!() };
    assert_eq!(info.len, 12_288);
    // One-way requests are not answered: the next answer is that of the next request.
    client.send(&Request::Close(handle), &[]).unwrap();
    let Reply::Entries { entries, more: false } =
        ask(&client, &Request::ReadDir { path: path("/d"), after: None })
    else {
        panic!()
    };
    assert_eq!(entries[0].0, b"f");
    client.send(&Request::Move { path: path("/d/f"), to: "sim0".into(), range: None }, &[]).unwrap();
    let report = loop {
        match reply(&client).unwrap() {
            Reply::Progress(_) => {}
            Reply::Job(report) => break report,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(report.bytes, 12_288);
    let Reply::Usage { files: 1, backed, .. } = ask(&client, &Request::Usage(path("/d"))) else { panic!() };
    assert_eq!(backed, [("sim0".to_owned(), 12_288)]);
    let Reply::Events(events) = ask(&client, &Request::Events { since: 1, wait: false }) else { panic!() };
    assert!(events.iter().any(|event| event.what == "move"));
    assert_eq!(ask(&client, &Request::Check { repair: false }), Reply::Findings(Vec::new()));
    assert_eq!(ask(&client, &Request::Remove { path: path("/d"), recursive: true }), Reply::Done);
    daemon.purge(&client);
}

#[test]
fn only_attached_sessions_map() {
    let daemon = Daemon::start();
    let client = daemon.greeted();
    assert_eq!(kind(Some(ask(&client, &new_file("/f", Some(true))))), Some(ErrorKind::Invalid));
    let attach =
        Request::Attach(Attach { kernel_faults: true, user_faults_ok: false, mapped: Vec::new(), links: 1 });
    assert_eq!(kind(Some(ask(&client, &attach))), Some(ErrorKind::Invalid), "a control socket is missing");
    let null = std::fs::File::open("/dev/null").unwrap();
    client.send(&attach, &[null.as_fd()]).unwrap();
    assert_eq!(kind(reply(&client)), Some(ErrorKind::Invalid), "that is no socket");
    let (ours, theirs) = codax_os::sock::pair().unwrap();
    client.send(&attach, &[theirs.as_fd()]).unwrap();
    drop(theirs);
    let (attached, fds) = client.recv::<Reply>().unwrap().unwrap();
    assert!(attached == Reply::Attached && (1..=2).contains(&fds.len()));
    client.send(&new_file("/f", Some(true)), &[]).unwrap();
    let (opened, fds) = client.recv::<Reply>().unwrap().unwrap();
    assert!(matches!(opened, Reply::Opened { layout: Some(_), .. }), "{opened:?}");
    assert_eq!(fds.len(), 1);
    let Reply::File(info) = ask(&client, &Request::Stat(path("/f"))) else { panic!() };
    assert_eq!(info.mapped_by, [std::process::id()]);
    assert_eq!(
        ask(&client, &attach),
        Reply::Attached,
        "without a descriptor it says which faults are caught"
    );
    drop(ours);
    daemon.purge(&client);
}
