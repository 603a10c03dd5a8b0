//! Programs that do harm to their queues, or are harmed: nobody else is.

use super::*;
use crate::holders::{ask, greet, open};

#[test]
fn a_program_that_is_killed_with_work_queued_harms_nobody() {
    let rig = rig();
    let bytes = pattern(32 * MIB, 6);
    let sum = crc32c(&bytes);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let first = pid(&rig);
    let mut other = Client::start(&rig, "submit", &["4"]);
    assert_eq!(other.ask("file /f ro"), "1");
    let mut program = Client::start(&rig, "submit", &["256"]);
    assert_eq!(program.ask("file /f ro"), "1");
    assert_eq!(program.ask(&format!("crc 1 {} 100", bytes.len())), "100");
    program.process.kill();
    until("its queue to be closed", || (counter(&rig, "queues") == 1).then_some(()));
    until("nothing of it to be left", || (counter(&rig, "queue depth") == 0).then_some(()));
    assert_eq!(other.ask(&format!("crc 1 {} 1", bytes.len())), "1");
    assert_eq!(other.ask("wait"), sum);
    assert!(counter(&rig, "operations") < 101);
    assert_eq!(pid(&rig), first);
    // What it had open is closed.
    rig.ok(&["device", "drain", "sim0"]);
    other.end();
    rig.sound();
}

#[test]
fn files_that_are_removed_or_cut_under_an_operation_harm_nobody() {
    let rig = rig();
    let bytes = pattern(32 * MIB, 7);
    let sum = crc32c(&bytes);
    let first = pid(&rig);
    let mut program = Client::start(&rig, "submit", &["256"]);
    rig.put("/gone", &bytes, &["--on", "sim0"]).ok();
    assert_eq!(program.ask("file /gone ro"), "1");
    assert_eq!(program.ask(&format!("crc 1 {} 20", bytes.len())), "20");
    rig.ok(&["rm", "/gone"]);
    for _ in 0..20 {
        assert_eq!(program.ask("wait"), sum);
    }
    rig.put("/cut", &bytes, &["--on", "sim0"]).ok();
    assert_eq!(program.ask("file /cut rw"), "2");
    assert_eq!(program.ask(&format!("crc 2 {} 50", bytes.len())), "50");
    until("the first of them", || (program.number("done") > 0).then_some(()));
    let store = Store::connect(rig.dir()).expect("a daemon");
    let file = OpenOptions::new().write(true).open(&store, "/cut").expect("it is there");
    file.set_len(MIB).expect("it is cut");
    let told: Vec<String> = (0..50).map(|_| program.ask("wait")).collect();
    // Those that were done; perhaps one that was at it; and those that began afterwards.
    let rest: Vec<&str> = told.iter().map(String::as_str).skip_while(|told| *told == sum).collect();
    assert!(rest.iter().enumerate().all(|(i, told)| *told == "-34" || (i, *told) == (0, "-5")), "{told:?}");
    assert_eq!(rest.last(), Some(&"-34"), "{told:?}");
    // What is asked for from now on is beyond its end, be it to be read or to be written.
    for opcode in [6, 3] {
        assert_eq!(program.ask(&format!("ask {opcode} 0 2 0 0 0 {} 9", bytes.len())), "handed in");
        assert_eq!(program.ask("wait"), "-34");
    }
    assert_eq!(program.ask(&format!("crc 2 {MIB} 1")), "1");
    assert_eq!(program.ask("wait"), crc32c(&bytes[..1 << 20]));
    assert_eq!(pid(&rig), first, "the coprocessor is the same");
    drop((file, store));
    program.end();
    rig.sound();
}

/// Also within the last page, where a mapping shows bytes behind the end; and what comes anew behind it is a hole.
#[test]
fn what_was_cut_off_is_neither_read_nor_written_by_who_had_it_mapped() {
    let rig = rig();
    let mut program = Client::start(&rig, "submit", &["8"]);
    let store = Store::connect(rig.dir()).expect("a daemon");
    let bytes = pattern(8000, 3);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    assert_eq!(program.ask("file /f rw"), "1");
    let mut told = |ask: &str| {
        program.ask(ask);
        program.ask("wait")
    };
    assert_eq!(told("crc 1 8000 1"), crc32c(&bytes));
    let file = OpenOptions::new().write(true).open(&store, "/f").expect("it is there");
    file.set_len(5000).expect("it is cut");
    assert_eq!(told("crc 1 8000 1"), "-34");
    assert_eq!(told("ask 3 0 1 0 0 0 8000 7"), "-34");
    assert_eq!(told("crc 1 5000 1"), crc32c(&bytes[..5000]));
    file.set_len(4 * MIB).expect("it has a hole");
    let backed = || rig.pool("sim0", "used");
    let before = backed();
    let there = [&bytes[..5000], &vec![0; (4 << 20) - 5000]].concat();
    assert_eq!(told(&format!("crc 1 {} 1", 4 * MIB)), crc32c(&there));
    assert_eq!(backed(), before, "who reads a hole doesn't fill it");
    assert_eq!(told(&format!("ask 3 0 1 0 0 0 {} 7", 4 * MIB)), format!("{:08x}", 4 * MIB));
    assert!(rig.get("/f") == vec![7; 4 << 20]);
    drop((file, store));
    program.end();
    rig.sound();
}

/// The role of a program that writes anything over its queues.
pub fn scribble(store: &Store) {
    let channel = greet(store.dir());
    for round in 0..100 {
        let (Reply::Queue(queue), fds) = ask(&channel, &Request::Queue { pool: "sim0".into(), slots: 64 })
        else {
            panic!("no queue")
        };
        let ring = std::fs::File::from(fds.into_iter().next().expect("its memory"));
        // All of it, or from the slots on, where some of what is there are states as they should be.
        let all = pattern(2 * 4096, round);
        let ones = (1_u64 | 6 << 32 | (round % 40) << 40).to_le_bytes().repeat(512);
        let (at, bytes) = if round % 2 == 0 { (0, &all) } else { (4096, &ones) };
        ring.write_all_at(bytes, at).expect("written");
        if round % 3 == 0 {
            // Else it is looked at as it is closed.
            std::thread::sleep(Duration::from_millis(5));
        }
        channel.send(&Request::CloseQueue(queue), &[]).expect("sent");
    }
    client::say("scribbled");
}

#[test]
fn a_program_that_scribbles_over_its_queues_harms_nobody() {
    let rig = rig();
    let bytes = pattern(MIB, 10);
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    let first = pid(&rig);
    assert_eq!(client::run(&rig, "scribble", &[], None), ["scribbled"]);
    assert_eq!(result(&rig, &["crc32c", "/f"]), crc32c(&bytes));
    until("its queues to be gone", || (counter(&rig, "queues") == 0).then_some(()));
    assert_eq!((pid(&rig), counter(&rig, "queue depth")), (first, 0));
    rig.sound();
}

#[test]
fn a_queue_has_no_more_rights_than_who_made_it() {
    const NAME: &str = "a_queue_has_no_more_rights_than_who_made_it";
    if !root() {
        return skipped(NAME, "other users need root");
    }
    let rig = rig();
    let bytes = pattern(MIB, 8);
    for (path, mode) in [("/secret", "600"), ("/shown", "644")] {
        rig.put(path, &bytes, &[]).ok();
        rig.ok(&["chmod", mode, path]);
    }
    let mut owner = Client::start(&rig, "submit", &["4"]);
    assert_eq!(owner.ask("file /secret rw"), "1");
    let mut command = client::itself(&rig, "rights", &[&owner.ask("id")]);
    std::os::unix::process::CommandExt::uid(
        std::os::unix::process::CommandExt::gid(&mut command, NOBODY),
        NOBODY,
    );
    let said = crate::rig::run_limited(&mut command, "rights".into(), b"").ok();
    let said: Vec<&str> = said.text().lines().filter_map(|line| Some(line.split_once('@')?.1)).collect();
    let [secret, write, stolen, sum, filled] = said[..] else { panic!("{said:?}") };
    for refused in [secret, write, stolen] {
        assert!(refused.starts_with("Permission"), "{said:?}");
    }
    assert_eq!((sum, filled), (crc32c(&bytes).as_str(), "-13"));
    assert!(rig.get("/secret") == bytes && rig.get("/shown") == bytes);
    owner.end();
}

/// The role of a user who has a right to read `/shown` only. `words[0]` is the owner's queue.
pub fn rights(store: &Store, words: &[&str]) {
    let say = |e: codax::Error| client::say(&format!("{:?}: {e}", e.kind));
    let queue = store.device("sim0").queue(4).expect("anybody may have a queue");
    say(File::open(store, "/secret").expect_err("it is another's"));
    let file = File::open(store, "/shown").expect("it is open to all");
    say(queue.file(&file, true).expect_err("it is not open for writing"));
    let queue_of_owner = QueueId(words[0].parse().expect("a number"));
    say(store
        .call(Request::OpenGranted { queue: queue_of_owner, number: 1 })
        .expect_err("it drives nothing"));
    let number = queue.file(&file, false).expect("it is open for reading");
    let range = Range { file: number.into(), start: 0, len: MIB };
    let sum = Spec::new(Opcode::Crc32c).with(Which::Input, range);
    let fill = Spec::new(Opcode::Fill).with(Which::Output, range).parameter([1]);
    for spec in [sum, fill] {
        let ticket = queue.submit(&descriptor(&spec).expect("it has sense")).expect("there is room");
        client::say(&told(queue.wait(ticket, None)));
    }
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.next() % of.len() as u64).expect("an index")]
    }

    /// A slot that was submitted in this lap, with a request that may have sense.
    fn slot(&mut self, lap: u32) -> Vec<u8> {
        const PLACES: [u64; 9] = [0, 1, 4096, MIB - 1, MIB, MIB + 1, 1 << 40, u64::MAX - 15, u64::MAX];
        const FILES: [u32; 6] = [0, 1, 2, 2, 3, u32::MAX];
        let opcode = self.next() % 34;
        let mut argument = self.next().to_le_bytes().to_vec();
        argument[4..].copy_from_slice(&self.one_of(&FILES).to_le_bytes());
        argument.extend(self.one_of(&PLACES).to_le_bytes());
        let described = Descriptor {
            opcode: u16::try_from(opcode).expect("small"),
            flags: self.one_of(&[0, 0, 1, 2, 4, 7, u16::MAX]),
            files: [self.one_of(&FILES), self.one_of(&FILES)],
            offsets: [self.one_of(&PLACES), self.one_of(&PLACES)],
            len: self.one_of(&PLACES),
            argument: argument.try_into().expect("sixteen"),
        };
        let asks = lap << 2 | self.one_of(&[0, 0, 0, 1, 2, 3]);
        let state = lap << 1 | 1;
        let head = u64::from(state) | u64::from(asks) << 32;
        std::iter::once(head).chain(described.encode()).flat_map(u64::to_le_bytes).collect()
    }

    /// Something happens to a ring of so many slots.
    fn hammer(&mut self, memory: &std::fs::File, slots: u64) {
        let anything: Vec<u8> = (0..16).flat_map(|_| self.next().to_le_bytes()).collect();
        let (at, bytes) = match self.next() % 8 {
            // Anything in the header's words, or anywhere.
            0 => (64 + self.next() % 5 * 4, anything[..4].to_vec()),
            1 => (self.next() % (4096 + slots * 64 - 128), anything),
            // A slot in a state of any lap.
            2 => (4096 + self.next() % slots * 64, self.next().to_le_bytes().to_vec()),
            // All of a lap.
            _ => {
                let lap = self.one_of(&[0, 0, 1, 2, 3]);
                (4096, (0..slots).flat_map(|_| self.slot(lap)).collect())
            }
        };
        memory.write_all_at(&bytes, at).expect("written");
    }
}

/// The role of a program that hands in nonsense for `words[0]` seconds, by a random sequence that begins with `words[1]`.
pub fn hammer(store: &Store, words: &[&str]) {
    let channel = greet(store.dir());
    let handle = |path, write| match ask(&channel, &open(path, write)).0 {
        Reply::Opened { handle, .. } => handle,
        other => panic!("{other:?}"),
    };
    let handles = [(handle("/f", false), false), (handle("/scratch", true), true)];
    let mut random = Random(words[1].parse().expect("a number"));
    let until = std::time::Instant::now() + Duration::from_secs(words[0].parse().expect("a number"));
    let mut rounds = 0;
    while std::time::Instant::now() < until {
        let slots = random.one_of(&[2_u32, 8, 64]);
        let (reply, fds) = ask(&channel, &Request::Queue { pool: "sim0".into(), slots });
        // Where the device doesn't run and has no process just now, it makes none.
        let (Reply::Queue(queue), Some(memory)) = (reply, fds.into_iter().next()) else { continue };
        for (handle, write) in handles {
            ask(&channel, &Request::Grant { queue, handle, write });
        }
        let ring = codax_os::ring::Ring::open(&memory).expect("it is one");
        let memory = std::fs::File::from(memory);
        for _ in 0..random.next() % 40 {
            random.hammer(&memory, slots.into());
            if random.next().is_multiple_of(4) {
                ring.nudge();
                std::thread::sleep(Duration::from_micros(random.next() % 2000));
            }
        }
        channel.send(&Request::CloseQueue(queue), &[]).expect("sent");
        rounds += 1;
    }
    client::say(&format!("{rounds} rounds"));
}

#[test]
fn any_bytes_in_queues_harm_nobody_whether_the_device_runs_or_rests() {
    let rig = rig();
    let (bytes, scratch) = (pattern(MIB, 10), pattern(MIB, 11));
    rig.put("/f", &bytes, &["--on", "sim0"]).ok();
    rig.put("/scratch", &scratch, &["--on", "sim0"]).ok();
    let first = pid(&rig);
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("later").as_nanos();
    let seed = u64::try_from(seed % (1 << 60)).expect("it is less");
    let seeds: Vec<String> = (1..3).map(|n| (seed | n << 60).to_string()).collect();
    println!("seeds {seeds:?}");
    let hammers: Vec<Client> = seeds.iter().map(|seed| Client::spawn(&rig, "hammer", &["6", seed])).collect();
    let mut program = Client::start(&rig, "submit", &["4"]);
    assert_eq!(program.ask("file /f ro"), "1");
    for _ in 0..4 {
        assert_eq!(program.ask(&format!("crc 1 {MIB} 2")), "2");
        rig.ok(&["device", "drain", "sim0"]);
        rig.ok(&["device", "online", "sim0"]);
        assert_eq!([program.ask("wait"), program.ask("wait")], [crc32c(&bytes), crc32c(&bytes)]);
    }
    for hammer in hammers {
        let said = hammer.line();
        let rounds = said.split(' ').next().and_then(|rounds| rounds.parse::<u64>().ok());
        assert!(rounds.is_some_and(|rounds| rounds > 10), "{seeds:?}: {said}");
    }
    assert_eq!(result(&rig, &["crc32c", "/f"]), crc32c(&bytes), "{seeds:?}");
    assert!(rig.get("/f") == bytes, "{seeds:?}: a file that may be read only was written");
    until("their queues to be gone", || (counter(&rig, "queues") == 1).then_some(()));
    assert_eq!((pid(&rig), counter(&rig, "queue depth")), (first, 0), "{seeds:?}");
    program.end();
    rig.sound();
}
