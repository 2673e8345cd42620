//! Checks that the built page in the binary matches its sources.

use std::{fs, path::Path, process::Command};

use crate::support::service::root;

const BUILT: [&str; 5] = ["index.html", "page.js", "page.css", "icon.svg", "licenses.txt"];

/// Runs a program of Node.js. Returns whether it succeeded, or `None` if it is not installed.
fn node(program: &str, args: &[&str], folder: &Path) -> Option<bool> {
    let output = Command::new(program).args(args).current_dir(folder).output().ok()?;
    if !output.status.success() {
        eprintln!(
            "{program} {args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Some(output.status.success())
}

#[test]
fn the_committed_page_matches_its_sources() {
    let (web, dist) = (root().join("src/http/page/web"), root().join("src/http/page/dist"));
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs::create_dir_all(at.join("src")).unwrap();
    let lock = fs::read(web.join("package-lock.json")).unwrap();
    let fetched = fs::read(at.join("fetched")).is_ok_and(|known| known == lock);
    for folder in ["", "src"] {
        for entry in fs::read_dir(web.join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), at.join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    if !fetched {
        match node("npm", &["ci", "--ignore-scripts", "--no-audit", "--no-fund"], &at) {
            None => return println!("skipped: npm, which builds the page, is not installed"),
            Some(false) => return println!("skipped: npm could not fetch the page's dependencies, see above"),
            Some(true) => fs::write(at.join("fetched"), lock).unwrap(),
        }
    }
    assert_eq!(
        node("npm", &["run", "--silent", "check"], &at),
        Some(true),
        "the type check failed"
    );
    assert_eq!(node("node", &["build.mjs", "out"], &at), Some(true), "the build failed");
    for file in BUILT {
        assert!(
            fs::read(at.join("out").join(file)).unwrap() == fs::read(dist.join(file)).unwrap(),
            "{file} differs from what its sources build: run `make page` and commit src/http/page/dist"
        );
    }
}
