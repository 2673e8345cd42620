//! Checks that modules import only modules below them, in the order of ARCHITECTURE.md's table.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
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
        for import in imports(&fs::read_to_string(&file).unwrap(), "crate::") {
            if rank(&import).is_some_and(|other| other > own) {
                wrong.push(format!("{} imports {import}", file.display()));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(seen.len(), ORDER.len(), "remove deleted modules from the order");
}

#[test]
fn no_files_of_a_folder_import_each_other_in_a_loop() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for source in ["src", "models/lab/src", "examples/demo/src"] {
        for folder in folders(&root.join(source)) {
            assert_eq!(loops(&siblings(&folder)), BTreeSet::new(), "in {}", folder.display());
        }
    }
}

#[test]
fn loops_are_found_behind_and_before_other_files() {
    let imports = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let files = BTreeMap::from([
        ("above".to_owned(), imports(&["error"])),
        ("error".to_owned(), imports(&["graph"])),
        ("graph".to_owned(), imports(&["error", "below"])),
        ("below".to_owned(), imports(&[])),
    ]);
    assert_eq!(loops(&files), imports(&["error", "graph"]));
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
    let found: Vec<String> = imports(text, "crate::").into_iter().collect();
    assert_eq!(found, ["kafka", "model", "post", "store"]);
}

/// Returns the folder and all folders below it.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(folders(&path));
        }
    }
    found
}

/// Returns the modules of a folder, each with those beside it that it refers to outside its tests.
fn siblings(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let face = if path.is_dir() {
            path.join("mod.rs")
        } else {
            path.clone()
        };
        let is_module = !["mod", "lib", "main", "tests"].contains(&name.as_str());
        if is_module && face.extension().is_some_and(|extension| extension == "rs") {
            texts.insert(name, fs::read_to_string(face).unwrap_or_default());
        }
    }
    texts
        .iter()
        .map(|(name, text)| {
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let mut found = imports(&code.replace("super::super::", "above::"), "super::");
            found.retain(|other| other != name && texts.contains_key(other));
            (name.clone(), found)
        })
        .collect()
}

/// Returns the modules that are in a loop, or on a way between two loops.
fn loops(imports: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut left: BTreeSet<String> = imports.keys().cloned().collect();
    loop {
        let is_free =
            |name: &String| imports[name].is_disjoint(&left) || !left.iter().any(|other| imports[other].contains(name));
        let free: Vec<String> = left.iter().filter(|name| is_free(name)).cloned().collect();
        if free.is_empty() {
            return left;
        }
        left.retain(|name| !free.contains(name));
    }
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

/// Returns the modules that a source file refers to by paths that start with `root` (`crate::` or `super::`).
fn imports(text: &str, root: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split(root).skip(1) {
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
