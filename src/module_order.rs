//! Checks that modules import only modules below them, in the order of ARCHITECTURE.md's table.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules from bottom to top.
const ORDER: &[&str] = &[
    "kernels",
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
        let source = root.join(source);
        for folder in folders(&source) {
            assert_eq!(
                loops(&siblings(&source, &folder)),
                BTreeSet::new(),
                "in {}",
                folder.display()
            );
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

#[test]
fn re_exported_names_are_found() {
    let face = "pub use a::One;\npub use self::{\n    a::{Two, Three},\n    b::Four,\n};\nuse super::a::Five;\n";
    assert_eq!(
        exports(face, "a").into_iter().collect::<Vec<_>>(),
        ["One", "Three", "Two"]
    );
    assert_eq!(exports(face, "b").into_iter().collect::<Vec<_>>(), ["Four"]);
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

/// Returns the modules of a folder below `source`, each with those beside it that it refers to outside its tests, directly
/// or by a name that the folder re-exports.
fn siblings(source: &Path, folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut modules = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let files = if path.is_dir() { rust_files(&path) } else { vec![path] };
        if !["mod", "lib", "main", "tests"].contains(&name.as_str()) && files.iter().all(|file| is_rust(file)) {
            modules.insert(name, files);
        }
    }
    let face = ["mod.rs", "lib.rs"].map(|face| fs::read_to_string(folder.join(face)).unwrap_or_default());
    let exported: BTreeMap<String, &String> = modules
        .keys()
        .flat_map(|name| exports(&face.concat(), name).into_iter().map(move |item| (item, name)))
        .collect();
    let own_path: String = folder
        .strip_prefix(source)
        .unwrap()
        .iter()
        .map(|part| format!("{}::", part.to_string_lossy()))
        .collect();
    let imported = |name: &String, files: &Vec<PathBuf>| {
        let mut found = BTreeSet::new();
        for file in files {
            let below = file.strip_prefix(folder).unwrap();
            if below.iter().any(|part| part == "tests" || part == "tests.rs") {
                continue;
            }
            let text = fs::read_to_string(file).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let depth = below.iter().count() - usize::from(below.ends_with("mod.rs"));
            let up = "super::".repeat(depth);
            let code = code
                .replace(&format!("super::{up}"), "above::")
                .replace(&up, "here::")
                .replace(&format!("crate::{own_path}"), "here::");
            found.extend(imports(&code, "here::").into_iter().filter_map(|item| {
                let module = modules.get_key_value(&item).map(|(name, _)| name);
                module.or_else(|| exported.get(&item).copied()).cloned()
            }));
        }
        found.remove(name);
        found
    };
    modules
        .iter()
        .map(|(name, files)| (name.clone(), imported(name, files)))
        .collect()
}

/// Returns the names that a `mod.rs` imports from the module beside it.
fn exports(face: &str, module: &str) -> BTreeSet<String> {
    let uses = face.split("use ").skip(1).filter_map(|rest| rest.split(';').next());
    uses.flat_map(|tree| {
        let tree = tree.replace("self::", "");
        let path = format!("{module}::");
        let starts = tree
            .match_indices(&path)
            .filter(|(at, _)| !tree[..*at].ends_with([':', '_']) && !tree[..*at].ends_with(char::is_alphanumeric));
        starts
            .flat_map(|(at, _)| items(&tree[at + path.len()..]))
            .collect::<Vec<_>>()
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
        } else if is_rust(&path) {
            files.push(path);
        }
    }
    files
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
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
    code.split(root).skip(1).flat_map(items).collect()
}

/// Returns the first words of what follows a path: one, or those of a braced list.
fn items(rest: &str) -> Vec<String> {
    match rest.strip_prefix('{') {
        None => word(rest).into_iter().collect(),
        Some(list) => heads(list),
    }
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
