//! The benches' Python scripts, for GPU machines and for peers: how they parse the output of programs, and their time limits.

use std::process::Command;

#[test]
fn the_gpu_kit_s_own_tests_pass() {
    python_tests_pass("benches/gpu");
}

#[test]
fn the_tests_of_the_comparison_with_peers_pass() {
    python_tests_pass("benches/peers");
}

fn python_tests_pass(folder: &str) {
    let Ok(out) = Command::new("python3")
        .args(["-B", "-m", "unittest", "discover", folder])
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
