//! The JSON Schema of the configuration, and what the decoder takes from it.
//!
//! Generated from the model's types, so that schema, documentation and checks can't differ: required keys and ranges
//! are declared once, at the field. Draft-07, which editors' YAML language servers understand.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::model::Config;
use super::values::{millis, number};

/// The schema as a JSON value.
#[must_use]
pub fn schema() -> Schema {
    SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<Config>()
}

/// The text of `conf/polder.schema.json`.
#[must_use]
pub fn schema_text() -> String {
    let json = serde_json::to_string_pretty(&schema()).expect("a schema is plain JSON");
    json + "\n"
}

/// What the schema says of one map.
#[derive(Debug)]
pub(super) struct Shape {
    /// What it is called in a sentence.
    pub noun: String,
    /// Keys that must be there.
    pub required: Vec<String>,
    /// Ranges by key; that of a list's items where the key has a list.
    pub ranges: HashMap<String, Range>,
}

/// The values a key may have.
#[derive(Debug)]
pub(super) enum Range {
    /// A whole number from the first to the second.
    Int(i128, i128),
    /// A duration or size: the range as written, what measures a value, and the range measured.
    Text {
        written: String,
        measure: fn(&str) -> Option<u64>,
        min: u64,
        max: u64,
    },
}

impl Range {
    /// Whether `text` is in the range; what isn't of its kind is for others to refuse.
    pub fn admits(&self, text: &str) -> bool {
        match self {
            Self::Int(min, max) => text
                .parse()
                .map_or(true, |n: i128| (*min..=*max).contains(&n)),
            Self::Text {
                measure, min, max, ..
            } => measure(text).is_none_or(|n| (*min..=*max).contains(&n)),
        }
    }

    fn of(property: &Value) -> Option<Self> {
        if let Some(written) = property.get("x-range").and_then(Value::as_str) {
            let (low, high) = written.split_once(" to ")?;
            let measure = if millis(low).is_some() {
                millis
            } else {
                number
            };
            let (min, max) = (measure(low)?, measure(high)?);
            return Some(Self::Text {
                written: written.to_owned(),
                measure,
                min,
                max,
            });
        }
        let property = property.get("items").unwrap_or(property);
        let bound = |key| property.get(key).and_then(Value::as_i64).map(i128::from);
        Some(Self::Int(bound("minimum")?, bound("maximum")?))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(min, max) => write!(f, "{min} to {max}"),
            Self::Text { written, .. } => f.write_str(written),
        }
    }
}

/// The shape of the model's type `name`.
pub(super) fn shape(name: &str) -> Option<&'static Shape> {
    static SHAPES: OnceLock<HashMap<String, Shape>> = OnceLock::new();
    SHAPES.get_or_init(shapes).get(name)
}

/// `payload key` for `PayloadKey`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

fn shapes() -> HashMap<String, Shape> {
    let schema = schema();
    let mut shapes = HashMap::new();
    let root = ("Config".to_owned(), schema.as_value());
    let definitions = schema.get("definitions").and_then(Value::as_object);
    let others = definitions
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.clone(), schema));
    for (name, schema) in others.chain([root]) {
        let strings = |v: &Value| v.as_str().map(str::to_owned);
        let required = schema.get("required").and_then(Value::as_array);
        let required = required.into_iter().flatten().filter_map(strings).collect();
        let properties = schema.get("properties").and_then(Value::as_object);
        let ranges = properties.into_iter().flatten();
        let ranges = ranges
            .filter_map(|(key, p)| Some((key.clone(), Range::of(p)?)))
            .collect();
        let noun = if name == "Config" {
            "configuration".to_owned()
        } else {
            words(&name)
        };
        shapes.insert(
            name,
            Shape {
                noun,
                required,
                ranges,
            },
        );
    }
    shapes
}
