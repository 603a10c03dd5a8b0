//! The example with a store: it is drained in the midst of its work, killed, and started anew, and its sum is right.

use codax::driver::{Counter, Health};
use codax::{PutOptions, Reply, Request, Store};
use codax_core::driver::{DeviceInfo, Standing};
use codax_testkit::Private;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Blocks of the file that is added up.
const BLOCKS: u64 = 200;

/// A driver's process, ended with this value.
struct Adder {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Adder {
    fn start(private: &Private) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_codax-example-driver"));
        command.arg(private.dir()).args(["sim0", "/numbers"]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let says = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, says }
    }

    fn sum(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("text");
        line
    }
}

impl Drop for Adder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn device(store: &Store) -> DeviceInfo {
    match store.call(Request::Device { pool: "sim0".into() }).expect("an answer") {
        Reply::Device(device) => *device,
        other => panic!("{other:?}"),
    }
}

fn counter(device: &DeviceInfo, name: &str) -> u64 {
    device.counters.iter().find(|Counter { name: its, .. }| its == name).map_or(0, |counter| counter.value)
}

/// Looks until the device is as it should be.
fn until(store: &Store, is: impl Fn(&DeviceInfo) -> bool) -> DeviceInfo {
    let begun = Instant::now();
    loop {
        let shown = device(store);
        if is(&shown) {
            return shown;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{shown:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn drain(store: &Store) {
    let request = Request::Drain {
        pool: "sim0".into(),
        dry_run: false,
        wait_ns: 0,
        limit: None,
        evict: false,
        volatile: false,
        reset: false,
        running: false,
    };
    store.call(request).expect("drained");
}

fn online(store: &Store) {
    store.call(Request::Online { pool: "sim0".into(), anew: false }).expect("online");
}

/// A store with a file on its device, and what its sum is.
fn with_numbers() -> (Private, Store, String) {
    let private = Private::start().expect("a store");
    let store = Store::connect(private.dir()).expect("a daemon");
    let bytes: Vec<u8> = (0..BLOCKS << 16).map(|i| u8::try_from(i * 31 % 251).expect("small")).collect();
    let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
    let on = PutOptions {
        placement: Some(codax::PlacementSpec::On { pool: "sim0".into(), strict: false }),
        ..PutOptions::default()
    };
    store.put(&mut &bytes[..], "/numbers", &on).expect("room");
    (private, store, format!("sum {sum}\n"))
}

#[test]
fn it_goes_on_after_each_drain_and_adds_each_block_once() {
    let (private, store, sum) = with_numbers();
    let mut adder = Adder::start(&private);
    for round in 1..4 {
        let before = until(&store, |shown| counter(shown, "blocks") >= round * 20);
        assert_eq!((before.standing, before.health), (Standing::Running, Ok(Health::Well)));
        // Moved under it while it adds, and then drained.
        store.move_file("/numbers", "dram", None, &mut |_| ()).expect("moved");
        store.move_file("/numbers", "sim0", None, &mut |_| ()).expect("moved");
        drain(&store);
        let stopped = device(&store);
        assert_eq!((&stopped.standing, stopped.saved), (&Standing::Stopped, Some(16)));
        std::thread::sleep(Duration::from_millis(20));
        let still = device(&store);
        assert_eq!(counter(&still, "blocks"), counter(&stopped, "blocks"), "it is at rest");
        assert!(counter(&still, "bytes written back") > 0);
        online(&store);
    }
    assert_eq!(adder.sum(), sum);
    assert_eq!(counter(&device(&store), "blocks"), BLOCKS);
}

#[test]
fn another_process_goes_on_where_one_that_was_killed_after_a_drain_was() {
    let (private, store, sum) = with_numbers();
    let first = Adder::start(&private);
    until(&store, |shown| counter(shown, "blocks") >= 50);
    drain(&store);
    let done = counter(&device(&store), "blocks");
    drop(first);
    until(&store, |shown| shown.driverless.is_some());
    let mut second = Adder::start(&private);
    until(&store, |shown| shown.pid.is_some());
    online(&store);
    assert_eq!(second.sum(), sum);
    assert_eq!(counter(&device(&store), "blocks"), BLOCKS - done);
}

#[test]
fn one_that_is_killed_at_work_holds_nothing_up() {
    let (private, store, sum) = with_numbers();
    let first = Adder::start(&private);
    until(&store, |shown| counter(shown, "blocks") >= 10);
    drop(first);
    drain(&store);
    online(&store);
    let mut second = Adder::start(&private);
    assert_eq!(second.sum(), sum);
}
