//! The demo on devices as the kernel shows them; on the emulated one it is a step of `.ci/run`.

use crate::numa::far;
use crate::rig::{MIB, Plan, pattern, root, run_limited, skipped};
use crate::setting;
use std::fs;
use std::process::Command;

/// Runs the demo, a short one, on the device of the plan.
#[track_caller]
fn demo_on(plan: Plan) {
    let place = plan.place();
    let input = place.beside("input");
    fs::create_dir(&input).expect("ours");
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        fs::write(input.join(name), pattern(MIB + seed, seed)).expect("room");
    }
    let mut demo = Command::new(setting::program());
    demo.args(["demo", "--json", "--device", place.device(), "--input"]).arg(&input);
    let said = run_limited(&mut demo, "demo".to_owned(), b"").ok();
    let row: serde_json::Value = serde_json::from_str(said.text()).expect("JSON");
    for fact in ["drained", "recovered"] {
        assert_eq!(row[fact], true, "{said}");
    }
    for fact in ["lost_writes", "stale_reads", "checksum_errors"] {
        assert_eq!(row[fact], 0, "{said}");
    }
}

#[test]
fn the_demo_runs_on_a_node() {
    const NAME: &str = "the_demo_runs_on_a_node";
    let Some(node) = far().first().copied().filter(|_| root()) else {
        return skipped(NAME, "wants root, and a NUMA node without CPUs");
    };
    for page in ["", ",page=2M"] {
        demo_on(Plan::new().device_as(&format!("sim0=numa:{node}{page}")));
    }
}

#[test]
fn the_demo_runs_on_a_dax_device() {
    if !setting::is_dax() {
        return skipped("the_demo_runs_on_a_dax_device", "wants a DAX device, as CODAX_TEST_DEVICE");
    }
    demo_on(Plan::new().device("160MiB"));
}
