//! Files that have spilled to a device in an emergency, and what they grow by through root's mount.

use super::{Mounted, mounted as mount};
use crate::rig::{MIB, Plan, Rig, pattern, until};
use codax_os::area::Region;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;

/// `dram` of 32 MiB that is full, and `/f` of 4 MiB, which is on a device that allows so much.
fn spilled(test: &str, at_most: &str) -> Option<Mounted> {
    let device = format!("sim0=emulated:64MiB,emergency=allow,at_most={at_most}");
    let store = mount(test, Plan::new().dram("32MiB").device_as(&device))?;
    fill(&store.rig);
    Some(store)
}

fn fill(rig: &Rig) {
    rig.put("/full", &pattern(32 * MIB, 1), &[]).ok();
    rig.put("/f", &pattern(4 * MIB, 2), &[]).ok();
    assert_eq!(rig.pools_of("/f"), ["sim0"]);
}

/// Whoever can't map it.
fn appender(store: &Mounted) -> File {
    OpenOptions::new().append(true).open(store.at("f")).expect("opens")
}

/// Whoever can. A mount serves a file in one way until its last handle is closed, of which the daemon hears a little later.
fn editor(store: &Mounted) -> File {
    until("the kernel would serve it", || {
        let stat = store.rig.ok(&["stat", "/f"]);
        let says = ["by the kernel", "who writes to it asks the daemon"];
        says.iter().all(|says| stat.text().contains(says)).then_some(())
    });
    OpenOptions::new().read(true).write(true).open(store.at("f")).expect("opens")
}

/// A shared mapping of the first `len` bytes.
fn mapped(file: &File, len: usize) -> Region {
    let map = Region::reserve(len).expect("addresses");
    map.place(0, len, file, 0, true).expect("mapped");
    map
}

/// What is used of the device for the emergency, all that is there.
fn used(rig: &Rig) -> u64 {
    let used = rig.row(&["device", "show", "sim0"])["emergency"]["used"].as_u64().expect("a number");
    let pages = rig.rows(&["pages", "sim0", "--file", "/f"]);
    assert!(pages.iter().all(|run| run["flags"] == serde_json::json!(["emergency"])), "{pages:?}");
    used
}

fn no_space<T: std::fmt::Debug>(done: std::io::Result<T>) {
    assert_eq!(done.expect_err("no space").kind(), ErrorKind::StorageFull);
}

/// It grows by nothing, however it is opened, and has what it had.
fn grows_by_nothing(store: &Mounted) {
    let (rig, more) = (&store.rig, pattern(MIB, 3));
    no_space(appender(store).write_all(&more));
    let file = editor(store);
    no_space(file.write_at(&more, 4 * MIB));
    no_space(file.set_len(5 * MIB));
    // What it has can be written over, and mapped.
    assert_eq!(file.write_at(&pattern(MIB, 2), 0).expect("it is there"), more.len());
    let map = mapped(&file, 4 << 20);
    map.memory().store_u64(8, u64::from_le_bytes(pattern(16, 2)[8..].try_into().expect("eight")));
    drop((map, file));
    assert_eq!((used(rig), rig.pool("sim0", "used")), (4 * MIB, 4 * MIB));
    assert!(fs::read(store.at("f")).expect("there") == pattern(4 * MIB, 2));
    rig.sound();
}

/// All of it, so long, goes home when there is room.
fn goes_home(store: &Mounted, len: u64) {
    let rig = &store.rig;
    rig.ok(&["rm", "/full"]);
    until("it is home", || (rig.pools_of("/f") == ["dram"]).then_some(()));
    assert_eq!((rig.pool("sim0", "used"), rig.row(&["stat", "/f"])["len"].as_u64()), (0, Some(len)));
    rig.sound();
}

#[test]
fn what_has_spilled_grows_on_the_device_by_no_more_than_is_allowed() {
    let test = "what_has_spilled_grows_on_the_device_by_no_more_than_is_allowed";
    let Some(store) = spilled(test, "4MiB") else { return };
    grows_by_nothing(&store);
    // Where a quota binds it elsewhere it is the same.
    store.rig.ok(&["quota", "set", "--user", "0", "dram", "64MiB"]);
    grows_by_nothing(&store);
    goes_home(&store, 4 * MIB);
    appender(&store).write_all(&pattern(MIB, 3)).expect("there is room at home");
    assert_eq!(store.rig.pools_of("/f"), ["dram"]);
}

#[test]
fn what_has_spilled_grows_on_no_device_that_is_never_used_by_now() {
    let test = "what_has_spilled_grows_on_no_device_that_is_never_used_by_now";
    let device = |word: &str| {
        format!(
            "[[device]]\nname = \"sim0\"\nbacking = \"emulated\"\nsize = \"64MiB\"\nemergency = \"{word}\"\n"
        )
    };
    let plan = Plan::new().dram("32MiB").without_devices().config(&device("allow"));
    let Some(store) = mount(test, plan) else { return };
    let rig = &store.rig;
    fill(rig);
    rig.ok(&["placement", "/f", "--no-emergency"]);
    grows_by_nothing(&store);
    rig.ok(&["placement", "/f", "--emergency"]);
    let before = editor(&store);
    fs::write(rig.beside("codax.toml"), device("never")).expect("ours");
    rig.ok(&["reload"]);
    no_space(before.write_at(&pattern(MIB, 3), 4 * MIB));
    drop(before);
    grows_by_nothing(&store);
    goes_home(&store, 4 * MIB);
}

#[test]
fn what_grows_on_the_device_is_marked_and_goes_home() {
    let Some(store) = spilled("what_grows_on_the_device_is_marked_and_goes_home", "12MiB") else { return };
    let rig = &store.rig;
    appender(&store).write_all(&pattern(MIB, 3)).expect("it is allowed");
    assert_eq!((used(rig), rig.pool("sim0", "used")), (5 * MIB, 5 * MIB));
    let file = editor(&store);
    file.write_all_at(&pattern(MIB, 4), 5 * MIB).expect("it is allowed");
    // A hole that is filled by who maps it.
    file.set_len(8 * MIB).expect("it may be filled");
    let map = mapped(&file, 8 << 20);
    let fill = |map: &Region| (6 << 20..8 << 20).step_by(4096).for_each(|at| map.memory().store_u64(at, 5));
    fill(&map);
    until("it is found", || (rig.pool("sim0", "used") == 8 * MIB).then_some(()));
    assert_eq!(used(rig), 8 * MIB);
    no_space(file.write_all_at(&pattern(5 * MIB, 6), 8 * MIB));
    assert!(file.metadata().expect("there").len() <= 12 * MIB);
    file.set_len(8 * MIB).expect("shorter");
    drop((map, file));
    goes_home(&store, 8 * MIB);
    let bytes = fs::read(store.at("f")).expect("there");
    let expected = [pattern(4 * MIB, 2), pattern(MIB, 3), pattern(MIB, 4)].concat();
    assert!(bytes[..6 << 20] == expected[..] && bytes[6 << 20..].chunks(4096).all(|page| page[0] == 5));
}

#[test]
fn holes_filled_beyond_what_is_allowed_count_and_nothing_more_is_given() {
    let test = "holes_filled_beyond_what_is_allowed_count_and_nothing_more_is_given";
    let Some(store) = spilled(test, "8MiB") else { return };
    let rig = &store.rig;
    let file = editor(&store);
    file.set_len(8 * MIB).expect("it may be filled");
    rig.put("/g", &pattern(3 * MIB, 7), &[]).ok();
    let map = mapped(&file, 8 << 20);
    let fill = |from: usize| (from << 20..8 << 20).step_by(4096).for_each(|at| map.memory().store_u64(at, 5));
    fill(6);
    until("it is found", || (rig.pool("sim0", "used") == 9 * MIB).then_some(()));
    assert_eq!(used(rig), 9 * MIB);
    // A start finds it as well.
    rig.kill();
    fill(4);
    rig.up();
    assert_eq!((used(rig), rig.pool("sim0", "used")), (11 * MIB, 11 * MIB));
    rig.put("/more", &pattern(MIB, 8), &[]).fails(4, &["sim0 has all that at_most allows of it, 8 MiB"]);
    no_space(appender(&store).write_all(&[1]));
    assert!(
        rig.events("refuse")
            .iter()
            .any(|said| said.contains("/f") && said.contains("it is open, and on sim0"))
    );
    drop((map, file));
    goes_home(&store, 8 * MIB);
}

#[test]
fn a_new_file_that_outgrows_what_is_left_goes_on_on_the_device() {
    let test = "a_new_file_that_outgrows_what_is_left_goes_on_on_the_device";
    let device = "sim0=emulated:64MiB,emergency=allow";
    let Some(store) = mount(test, Plan::new().dram("32MiB").device_as(device)) else { return };
    let rig = &store.rig;
    rig.put("/full", &pattern(31 * MIB, 1), &[]).ok();
    let (from, to) = (rig.beside("twenty"), store.at("b"));
    fs::write(&from, pattern(20 * MIB, 2)).expect("ours");
    rig.ok(&["mkdir", "--no-emergency", "/never"]);
    for (dir, by) in [("", "may outgrow what is left of dram"), ("never", "is one object in dram")] {
        let said = rig.run(&["doctor", store.at(dir).to_str().expect("text")]);
        assert!(said.text().contains(by), "{said}");
    }
    fs::copy(&from, &to).expect("with what is on the device");
    assert_eq!(rig.pools_of("/b"), ["dram", "sim0"]);
    assert!(fs::read(&to).expect("there") == pattern(20 * MIB, 2));
    rig.sound();
}
