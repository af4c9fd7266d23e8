//! The shipped configurations, schema and reference page follow the code.
//!
//! `BLESS=1 cargo test --test conf` rewrites conf/polder.schema.json and docs/config.md.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use polder::config::{self, Format};
use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn conf_files() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("conf")).expect("conf/ is part of the source");
    let paths = entries.map(|e| e.expect("conf/ can be read").path());
    let mut files: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
}

/// Compares a generated file with what is in the tree, or rewrites it.
fn matches_file(path: &Path, wanted: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(path, wanted).expect("the tree can be written");
        return;
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is out of date: run the test with BLESS=1",
        path.display()
    );
}

#[test]
fn every_shipped_configuration_loads_without_a_problem() {
    assert!(conf_files().len() >= 13, "the examples are there");
    for file in conf_files() {
        match config::load(&file) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{:#?}", loaded.warnings),
            Err(problems) => {
                let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
                panic!("{}", text.join("\n"));
            }
        }
    }
}

#[test]
fn every_shipped_configuration_names_its_schema() {
    for file in conf_files() {
        let text = fs::read_to_string(&file).expect("it was listed");
        let modeline = "# yaml-language-server: $schema=polder.schema.json\n";
        assert!(text.starts_with(modeline), "{}", file.display());
    }
}

#[test]
fn a_normalised_configuration_loads_as_the_same() {
    for file in conf_files() {
        let first = config::load(&file).expect("it is valid");
        let yaml = config::to_yaml(&first.config);
        let second = config::load_str("normalised", &yaml).expect("what is printed is valid");
        assert_eq!(first.config, second.config, "{}", file.display());
        assert_eq!(first.lowered, second.lowered, "{}", file.display());
    }
}

#[test]
fn the_example_has_every_key_and_every_key_is_documented() {
    let example = fs::read_to_string(root().join("conf/example.yaml")).expect("it is shipped");
    let docs = docs();
    for table in tables() {
        for key in table.keys {
            assert!(
                example.contains(&format!("{}:", key.name)),
                "example: {}",
                key.name
            );
            assert!(
                docs.contains(&format!("`{}`", key.name)),
                "docs: {}",
                key.name
            );
            assert!(
                key.description.ends_with('.'),
                "{} has a sentence",
                key.name
            );
        }
    }
}

#[test]
fn the_example_shows_the_defaults_where_it_says_so() {
    let minimal = config::load(&root().join("conf/minimal.yaml"))
        .expect("it is valid")
        .config;
    let example = config::load(&root().join("conf/example.yaml"))
        .expect("it is valid")
        .config;
    assert_eq!(example.timeouts, minimal.timeouts);
    assert_eq!(example.limits, minimal.limits);
    assert_eq!(example.metrics, minimal.metrics);
    assert_eq!(example.control, minimal.control);
    assert_eq!(example.dpdk.memory, minimal.dpdk.memory);
}

#[test]
fn the_shipped_schema_is_that_of_the_model() {
    matches_file(
        &root().join("conf/polder.schema.json"),
        &config::schema_text(),
    );
    assert!(config::schema_text().contains("http://json-schema.org/draft-07/schema#"));
}

#[test]
fn the_reference_page_is_that_of_the_model() {
    matches_file(&root().join("docs/config.md"), &docs());
}

#[test]
fn check_prints_the_file_with_its_defaults_as_json() {
    let mut out = Vec::new();
    let file = root().join("conf/minimal.yaml");
    let code = config::run_check(&file, Format::Json, &mut out).expect("a Vec takes everything");
    let json: Value = serde_json::from_slice(&out).expect("it is JSON");
    // A machine with one CPU gets a warning that there is no core 1.
    assert!(code == 0 || code == 2);
    assert_eq!(json["valid"], true);
    assert_eq!(json["errors"], 0);
    let service = &json["config"]["services"][0];
    assert_eq!(service["name"], "tcp-192.0.2.80-80");
    assert_eq!(service["scheduler"], "wlc");
    assert_eq!(service["servers"][0]["port"], 80);
    assert_eq!(service["servers"][0]["weight"], 1);
    assert_eq!(service["servers"][0]["forwarding"], "masq");
    assert_eq!(json["config"]["timeouts"]["tcp_established"], "15m");
    assert_eq!(json["config"]["limits"]["connections"], 1_048_576);
    assert_eq!(json["config"]["ports"][0]["mtu"], 1500);
}

/// One map of the configuration.
struct Table {
    title: String,
    description: String,
    keys: Vec<Key>,
}

/// One key of it.
struct Key {
    name: String,
    kind: String,
    default: String,
    description: String,
}

/// The maps of the schema in the order in which the file has them.
fn tables() -> Vec<Table> {
    let schema = config::schema().to_value();
    let mut tables = Vec::new();
    walk("", &schema, &schema, &mut tables);
    tables
}

fn walk(path: &str, schema: &Value, root: &Value, tables: &mut Vec<Table>) {
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().replace('\n', " ");
    let properties = schema["properties"].as_object().expect("a map has keys");
    let required: Vec<_> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (mut keys, mut inner) = (Vec::new(), Vec::new());
    for (name, property) in properties {
        let (kind, target) = kind(property, root);
        let default = match &property["default"] {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null => "–".to_owned(),
            Value::Object(_) => "see below".to_owned(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let mut description = text(property, "description");
        for (word, means) in definition(property, root)
            .filter(|d| d["oneOf"].is_array())
            .into_iter()
            .flat_map(choices)
        {
            let _ = write!(description, " `{word}`: {means}");
        }
        keys.push(Key {
            name: name.clone(),
            kind,
            default,
            description,
        });
        if let Some(target) = target {
            let list = if property["type"] == "array" {
                "[]"
            } else {
                ""
            };
            let dot = if path.is_empty() { "" } else { "." };
            inner.push((format!("{path}{dot}{name}{list}"), target));
        }
    }
    let title = if path.is_empty() {
        "The file".to_owned()
    } else {
        format!("`{path}`")
    };
    tables.push(Table {
        title,
        description: text(schema, "description"),
        keys,
    });
    for (path, target) in inner {
        walk(&path, target, root, tables);
    }
}

/// The words of a choice and what each means.
fn choices(target: &Value) -> impl Iterator<Item = (&str, &str)> {
    let choices = target["oneOf"]
        .as_array()
        .expect("what is no map is a choice")
        .iter();
    choices.map(|c| {
        let text = |key: &str| {
            c[key]
                .as_str()
                .expect("a choice has a word and a description")
        };
        (text("const"), text("description"))
    })
}

/// The definition that a key refers to.
fn definition<'v>(property: &Value, root: &'v Value) -> Option<&'v Value> {
    let reference = property["$ref"]
        .as_str()
        .or_else(|| property["allOf"][0]["$ref"].as_str())
        // What may be left out.
        .or_else(|| property["anyOf"][0]["$ref"].as_str());
    let name = reference.and_then(|r| r.strip_prefix("#/definitions/"))?;
    Some(&root["definitions"][name])
}

/// What a key takes, and the map behind it if it is one or a list of them.
fn kind<'v>(property: &'v Value, root: &'v Value) -> (String, Option<&'v Value>) {
    if let Some(target) = definition(property, root) {
        if target["properties"].is_object() {
            return ("map".to_owned(), Some(target));
        }
        let words = choices(target).map(|(word, _)| format!("`{word}`"));
        return (words.collect::<Vec<_>>().join(" "), None);
    }
    if property["type"] == "array" {
        let (item, target) = kind(&property["items"], root);
        return (format!("list of {item}"), target);
    }
    // An optional value also has the type null.
    let word = match (&property["title"], &property["type"]) {
        (Value::String(title), _) => title.as_str(),
        (_, Value::Array(types)) => types[0].as_str().unwrap_or_default(),
        (_, one) => one.as_str().unwrap_or_default(),
    };
    let plain = match word {
        "string" => "text",
        "boolean" => "true or false",
        "integer" => "number",
        other => other,
    };
    (plain.to_owned(), None)
}

/// The reference page.
fn docs() -> String {
    let mut page = String::from(
        "# The configuration file\n\n\
         Generated from the model (`src/config/model.rs`) by `BLESS=1 cargo test --test conf`; \
         do not edit.\n\n\
         One YAML file, at most 8 MB. Unknown keys are errors, and so are keys that are given twice, YAML \
         anchors, aliases and tags, tabs for indentation, and a second document. `polder check -c FILE` \
         shows all problems of a file.\n\n\
         - **duration**: a whole number and `ms`, `s`, `m`, `h` or `d`: `250ms`, `60s`, `15m`, `1h`.\n\
         - **size**: a whole number, or one with a binary suffix, for bytes and for counts alike: \
         `k` = 2¹⁰, `M` = 2²⁰, `G` = 2³⁰, `T` = 2⁴⁰. `4M` connections are 4,194,304.\n\
         - **address**: IPv4 or IPv6; names are not resolved. **address/length**: with a prefix length.\n\
         - Lists are in the operator's order: a service or server comes after those above it, as if \
         `ipvsadm` had been called from top to bottom.\n",
    );
    for table in tables() {
        let (title, description) = (table.title, table.description);
        let _ = write!(page, "\n## {title}\n\n{description}\n\n");
        page.push_str("| key | takes | default | meaning |\n|---|---|---|---|\n");
        for Key {
            name,
            kind,
            default,
            description,
        } in table.keys
        {
            let _ = writeln!(page, "| `{name}` | {kind} | {default} | {description} |");
        }
    }
    page
}
