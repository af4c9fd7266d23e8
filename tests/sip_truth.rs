//! The Call-ID against messages with known truth (shared test data; skipped, loudly, where it is not there).

use std::path::PathBuf;

use polder::persist::sip::{Scratch, call_id};

fn data() -> Option<PathBuf> {
    let root = std::env::var_os("POLDER_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let dir = root.join("data");
    if dir.is_dir() {
        Some(dir)
    } else {
        eprintln!("SKIPPED: no shared test data at {}", dir.display());
        None
    }
}

/// Fields of a CSV line; a field may be quoted, and a quote in it is doubled.
fn fields(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                out.last_mut().expect("one field").push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            c => out.last_mut().expect("one field").push(c),
        }
    }
    out
}

fn shown(key: Option<&[u8]>) -> String {
    key.map_or_else(
        || "!NONE".to_owned(),
        |k| {
            k.iter()
                .map(|b| match b {
                    33..=126 => char::from(*b).to_string(),
                    b => format!("\\x{b:02x}"),
                })
                .collect()
        },
    )
}

/// Rows of the two tables: file, expected, whether it must be met.
fn check(dir: &str, expected_column: usize) -> (usize, Vec<String>) {
    let Some(data) = data() else {
        return (0, Vec::new());
    };
    let table = std::fs::read_to_string(data.join(dir).join("GROUNDTRUTH.csv")).expect("the table");
    let mut n = 0;
    let mut wrong = Vec::new();
    for line in table.lines().skip(1) {
        let row = fields(line);
        let name = row[0]
            .trim_start_matches("dev/")
            .trim_start_matches(&format!("{dir}/"))
            .to_owned();
        let message = std::fs::read(data.join(dir).join(&name)).expect("a message");
        let mut scratch = Scratch::new();
        let got = shown(call_id(&message, &mut scratch));
        n += 1;
        // An empty value is no key.
        let want = if row[expected_column].is_empty() {
            "!NONE"
        } else {
            &row[expected_column]
        };
        if got != want {
            wrong.push(format!(
                "{name}: {got}, expected {want} ({})",
                row.last().expect("traits")
            ));
        }
    }
    (n, wrong)
}

#[test]
fn every_agreed_message_of_the_wild_gives_its_call_id() {
    let (n, wrong) = check("sip-msg", 2);
    assert!(
        wrong.is_empty(),
        "{} of {n}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_rewritten_header_gives_its_call_id() {
    let (n, wrong) = check("sip-variants-derived", 3);
    assert!(
        wrong.is_empty(),
        "{} of {n}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
