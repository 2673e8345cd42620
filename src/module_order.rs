//! Checks that modules import only modules below them, in the order of ARCHITECTURE.md's table.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The modules from bottom to top.
const ORDER: &[&str] = &[
    "sync",
    "post",
    "telemetry",
    "backoff",
    "model",
    "clean",
    "filter",
    "fail_point",
    "classify",
    "kafka",
    "feed",
    "store",
    "http",
    "config",
    "pipeline",
    "cli",
];

#[test]
fn no_module_imports_one_above_itself() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rank = |module: &str| ORDER.iter().position(|known| *known == module);
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in rust_files(&source) {
        let module = module_of(file.strip_prefix(&source).unwrap());
        if ["lib", "main", "module_order"].contains(&module.as_str()) {
            continue;
        }
        let own =
            rank(&module).unwrap_or_else(|| panic!("add the module {module} to the order and to ARCHITECTURE.md"));
        seen.insert(module);
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if rank(&import).is_some_and(|other| other > own) {
                wrong.push(format!("{} imports {import}", file.display()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(seen.len(), ORDER.len(), "remove deleted modules from the order");
}

#[test]
fn the_table_in_architecture_has_the_same_order() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let rows: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `src/"))
        .filter_map(|row| row.split('`').next())
        .map(|path| module_of(Path::new(path)))
        .collect();
    assert_eq!(rows, ORDER);
}

#[test]
fn imports_are_found_in_every_spelling() {
    let text = "use crate::post::Post;\nuse crate::{\n    kafka::{Record, Partition},\n    model,\n};\n// crate::cli\nfn f() { crate::store::day_of(x) }";
    let found: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(found, ["kafka", "model", "post", "store"]);
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Returns the top-level module of a path below `src/`.
fn module_of(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Returns the top-level modules that a source file refers to as `crate::...`.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.extend(word(rest)),
            Some(list) => found.extend(heads(list)),
        }
    }
    found
}

/// Returns the first word of each element of a braced list, ignoring nested lists.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut found, mut at_head) = (0_usize, Vec::new(), true);
    for (place, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && !c.is_whitespace() => {
                found.extend(word(&list[place..]));
                at_head = false;
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}
