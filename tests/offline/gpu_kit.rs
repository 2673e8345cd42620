//! The scripts for GPU machines: how they parse the output of programs, and their time limits.

use std::process::Command;

#[test]
fn the_gpu_kit_s_own_tests_pass() {
    let Ok(out) = Command::new("python3")
        .args(["-B", "-m", "unittest", "discover", "benches/gpu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
    else {
        println!("skipped: no python3");
        return;
    };
    let report = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{report}");
    assert!(!report.contains("Ran 0 tests"), "{report}");
}
