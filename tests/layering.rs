//! Who may import whom. The table is the rule; the test reads every `crate::` path under src/.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Module, and what it may use besides itself.
const RULES: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("table", &["net"]),
    ("persist", &["net", "table"]),
    ("sched", &["net", "table"]),
    ("sync", &["net", "table"]),
    ("forward", &["net", "table", "sched", "persist", "sync"]),
    (
        "config",
        &["net", "table", "sched", "persist", "sync", "forward"],
    ),
    ("io", &["net"]),
    ("worker", &["net", "table", "forward", "sync", "io"]),
    (
        "mgmt",
        &[
            "net", "table", "sched", "persist", "forward", "sync", "config", "io", "worker",
        ],
    ),
    (
        "cli",
        &[
            "net", "table", "sched", "persist", "forward", "sync", "config", "io", "worker", "mgmt",
        ],
    ),
    // The crate's root names everything.
    ("lib", &["*"]),
    ("main", &["cli"]),
];

/// Crates that only the modules named may use.
const CRATES: &[(&str, &[&str])] = &[
    ("serde_yaml", &["config"]),
    ("saphyr_parser", &["config"]),
    ("clap", &["cli"]),
    ("dns_lookup", &["cli"]),
    ("prometheus", &["mgmt"]),
    ("axum", &["mgmt"]),
    ("rtnetlink", &["mgmt"]),
    ("tun_rs", &["mgmt"]),
    ("dpdk_sys", &["io"]),
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The top-level module of a file.
fn module_of(src: &Path, file: &Path) -> String {
    let rel = file.strip_prefix(src).expect("below src");
    let first = rel
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Source text without comments, so that a doc link is no import.
fn code(text: &str) -> String {
    text.lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The names that follow `prefix::` in the text, those in braces included.
fn named_after(text: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let ident = |s: &str| {
        s.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    for (at, _) in text.match_indices(prefix) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let rest = &text[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => {
                found.insert(ident(rest));
            }
            Some(group) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            found.insert(ident(&item));
                            item.clear();
                            continue;
                        }
                        _ => {}
                    }
                    item.push(c);
                }
                found.insert(ident(&item));
            }
        }
    }
    found.remove("");
    found
}

fn violations(src: &Path) -> Vec<String> {
    let mut files = Vec::new();
    sources(src, &mut files);
    let mut out = Vec::new();
    for file in files {
        let module = module_of(src, &file);
        let text = code(&fs::read_to_string(&file).expect("source is text"));
        let Some((_, may)) = RULES.iter().find(|(m, _)| *m == module) else {
            out.push(format!(
                "{}: module `{module}` is not in the table",
                file.display()
            ));
            continue;
        };
        for used in named_after(&text, "crate::") {
            let known = RULES.iter().any(|(m, _)| *m == used);
            if known && used != module && !may.contains(&used.as_str()) && !may.contains(&"*") {
                out.push(format!(
                    "{}: `{module}` must not use `{used}`",
                    file.display()
                ));
            }
        }
        for (name, allowed) in CRATES {
            let uses = !named_after(&text, &format!("{name}::")).is_empty();
            if uses && !allowed.contains(&module.as_str()) {
                out.push(format!(
                    "{}: `{module}` must not use the crate `{name}`",
                    file.display()
                ));
            }
        }
        let dpdk = file.to_string_lossy().contains("/io/dpdk/")
            || file.ends_with("cli/run.rs")
            || file.ends_with("io/mod.rs");
        if !dpdk && text.contains("io::dpdk") {
            out.push(format!(
                "{}: only cli/run.rs may name io::dpdk",
                file.display()
            ));
        }
    }
    out
}

#[test]
fn imports_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let found = violations(&src);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn an_upward_import_is_found() {
    let dir = tempfile::tempdir().expect("a directory");
    for (file, text) in [
        ("net/a.rs", "use crate::{buf::X, table::conn::Conn};"),
        (
            "table/b.rs",
            "// crate::mgmt in a comment is none\nuse crate::net::Tick;",
        ),
        (
            "worker/c.rs",
            "fn f() { crate::mgmt::go(); serde_yaml::to_string(&1); }",
        ),
    ] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("created");
        fs::write(path, text).expect("written");
    }
    let mut found = violations(dir.path());
    found.sort();
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].contains("`net` must not use `table`"));
    assert!(found[1].contains("`worker` must not use `mgmt`"));
    assert!(found[2].contains("must not use the crate `serde_yaml`"));
}
