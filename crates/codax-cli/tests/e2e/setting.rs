//! What a run is told by environment variables, where it is not `cargo test` on the machine that built it: in a guest, on another
//! device, on a slow machine.
//!
//! | variable | |
//! | --- | --- |
//! | `CODAX_TEST_PROGRAM` | the program to test, in place of the one built with the tests |
//! | `CODAX_TEST_SCRATCH` | a directory on a disk |
//! | `CODAX_TEST_SLOW` | how many times slower than usual everything is: a whole number that limits are multiplied with |
//! | `CODAX_TEST_DEVICE` | what the device `sim0` is, as behind `--device sim0=`; `{size}` stands for the size that a test wants, `{dir}` for a name of a directory that nothing has yet: each store's own |
//! | `CODAX_TEST_DEVDAX` | a DAX device that outlives the power, whatever is on it |
//! | `CODAX_TEST_HMEM` | one that doesn't |
//! | `CODAX_TEST_FSDAX` | a directory of a DAX filesystem |
//! | `CODAX_TEST_MACHINE` | set where tests may change settings of the whole machine |
//! | `CODAX_TEST_HUGE` | which huge pages `dram` has, as the key `huge` |
//! | `CODAX_TEST_DRAM` | what `dram` is, as behind `--dram`, in the same way |

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// How long anything may take on a usual machine before the test fails. Far more than it needs, also when the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `{size}` stands for in a device's description.
const SIZE: &str = "{size}";

/// What `{dir}` stands for is the store's to say.
pub const DIR: &str = "{dir}";

fn told(name: &str) -> Option<String> {
    let text = std::env::var_os(name)?;
    Some(text.into_string().unwrap_or_else(|text| panic!("{name} is not text: {}", text.display())))
}

/// The program.
pub fn program() -> PathBuf {
    told("CODAX_TEST_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_codax").into(), PathBuf::from)
}

/// A directory that is not on tmpfs, where the tests may leave nothing.
pub fn scratch() -> PathBuf {
    told("CODAX_TEST_SCRATCH").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

/// Whether tests may change settings of the whole machine: a guest's.
pub fn may_change_machine() -> bool {
    told("CODAX_TEST_MACHINE").is_some()
}

/// A limit of a usual machine, as it is here.
pub fn slowed(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| {
        let told =
            told("CODAX_TEST_SLOW").map(|text| text.parse().expect("CODAX_TEST_SLOW is a whole number"));
        told.unwrap_or(1).max(1)
    });
    limit * *factor
}

/// The same, as commands and the configuration take it.
pub fn slowed_text(limit: Duration) -> String {
    format!("{}ms", slowed(limit).as_millis())
}

/// A limit of so many seconds, in the same way.
pub fn seconds(number: u64) -> String {
    slowed_text(Duration::from_secs(number))
}

/// How long anything may take before the test fails.
pub fn patience() -> Duration {
    slowed(PATIENCE)
}

/// The device of a store whose test wants an emulated one of this size under this name.
pub fn device(name: &str, size: &str) -> String {
    let what = told("CODAX_TEST_DEVICE").unwrap_or_else(|| format!("emulated:{SIZE}"));
    format!("{name}={}", what.replace(SIZE, size))
}

fn is_kind(kinds: &[&str]) -> bool {
    told("CODAX_TEST_DEVICE").is_some_and(|what| kinds.iter().any(|kind| what.starts_with(kind)))
}

/// Whether that is one that the kernel maps without a page cache: a DAX device, or a directory of files.
pub fn is_dax() -> bool {
    is_kind(&["devdax:", "fsdax:"])
}

/// Whether it is a DAX device.
pub fn is_devdax() -> bool {
    is_kind(&["devdax:"])
}

/// The DAX device that a run may do with what it likes: one that outlives the power.
pub fn devdax() -> Option<String> {
    told("CODAX_TEST_DEVDAX")
}

/// One that doesn't outlive it.
pub fn hmem() -> Option<String> {
    told("CODAX_TEST_HMEM")
}

/// A directory of a DAX filesystem.
pub fn fsdax() -> Option<String> {
    told("CODAX_TEST_FSDAX")
}

/// What goes into the configuration of a store whose test says nothing of huge pages.
pub fn huge() -> String {
    told("CODAX_TEST_HUGE").map_or_else(String::new, |mode| format!("huge = \"{mode}\"\n"))
}

/// Whether that is one that takes huge pages of a node.
pub fn takes_huge_pages() -> bool {
    told("CODAX_TEST_DEVICE")
        .is_some_and(|what| ["page=2M", "page=1G"].iter().any(|page| what.contains(page)))
}

/// The file by whose lock tests take turns that take huge pages of a node: shared, or alone where they count what others take.
pub const HUGE_LOCK: &str = "/dev/shm/codax-e2e-huge.lock";

/// The host's own memory in a store whose test wants this much.
pub fn dram(size: &str) -> String {
    told("CODAX_TEST_DRAM").unwrap_or_else(|| SIZE.to_owned()).replace(SIZE, size)
}
