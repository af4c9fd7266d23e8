//! From the tree to the model, with every problem at its place.
//!
//! A serde deserializer, so that the model's derives are the only list of keys, types and choices. Serde stops at the
//! first error; here it does not: a value that fails is reported, marked, and the tree is decoded again without it,
//! until a pass finds nothing new. A bad item of a list is left out, a bad value of a key is as if it were not given,
//! and where a required key's value is bad or missing, a stand-in takes its place; what is made of those is only good
//! for finding further problems. Required keys and ranges come from the schema of the same types.
//!
//! Invariant: every pass but the last one marks at least one more node, so the passes end.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::located::LOCATED;
use super::model::{LATER, SYNONYMS};
use super::problem::{Report, Severity, nearest};
use super::schema::{self, Range, Shape};
use super::tree::{Kind, NodeId, ROOT, Tree, join};

/// What can't be relied on in a decoded configuration.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// Nodes whose value was refused, and is a default or a stand-in in the model.
    marked: HashSet<NodeId>,
    /// Required keys that maps lack, for which the model has stand-ins.
    missing: HashSet<(NodeId, &'static str)>,
}

impl Doubts {
    /// Whether the model has what the file says of `key` in `map`, or its default.
    pub fn is_sound(&self, tree: &Tree, map: NodeId, key: &str) -> bool {
        match tree.child(map, key) {
            Some(child) => !self.marked.contains(&child),
            None => !self.missing.contains(&(map, key)),
        }
    }
}

/// Decodes the whole tree. `None` if nothing could be made of it; every problem is in the report.
pub(super) fn decode<T: DeserializeOwned>(
    tree: &Tree,
    report: &mut Report<'_>,
) -> Option<(T, Doubts)> {
    let state = RefCell::new(State {
        report,
        doubts: Doubts::default(),
    });
    let made = loop {
        let marks = state.borrow().doubts.marked.len();
        let at = At {
            tree,
            state: &state,
            id: ROOT,
        };
        let made = T::deserialize(at);
        if let Err(Failure(Some(message))) = &made {
            at.refuse(message);
        }
        if state.borrow().doubts.marked.len() == marks || at.is_marked(ROOT) {
            break made.ok();
        }
    };
    made.map(|made| (made, state.into_inner().doubts))
}

struct State<'r, 't> {
    report: &'r mut Report<'t>,
    doubts: Doubts,
}

/// Why a value could not be made; `None` when the report has it already.
#[derive(Debug)]
struct Failure(Option<String>);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("reported"))
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Some(message.to_string()))
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(Some(format!("expected {expected}, found {found}")))
    }

    fn missing_field(field: &'static str) -> Self {
        Self(Some(format!("`{field}` is missing")))
    }
}

/// A node to be decoded.
#[derive(Clone, Copy)]
struct At<'a, 'r, 't> {
    tree: &'a Tree,
    state: &'a RefCell<State<'r, 't>>,
    id: NodeId,
}

impl<'a> At<'a, '_, '_> {
    fn to(self, id: NodeId) -> Self {
        Self { id, ..self }
    }

    fn is_marked(self, id: NodeId) -> bool {
        self.state.borrow().doubts.marked.contains(&id)
    }

    /// Reports a problem with the node's value and marks the node.
    fn refuse(self, message: &str) {
        let mut state = self.state.borrow_mut();
        let (place, path) = (self.tree.place(self.id), self.tree.path(self.id));
        state.report.add(Severity::Error, place, path, message);
        state.doubts.marked.insert(self.id);
    }

    /// Decodes a child; reports and marks it if that fails.
    fn decode_child<'de, S: DeserializeSeed<'de>>(
        self,
        child: NodeId,
        seed: S,
    ) -> Result<S::Value, Failure> {
        seed.deserialize(self.to(child)).map_err(|failure| {
            if let Failure(Some(message)) = failure {
                self.to(child).refuse(&message);
            }
            Failure(None)
        })
    }

    /// The children that are not marked.
    fn rest(self, children: &'a [NodeId]) -> impl Iterator<Item = NodeId> + 'a
    where
        Self: 'a,
    {
        children
            .iter()
            .copied()
            .filter(move |c| !self.is_marked(*c))
    }

    /// The node's text, and whether it stands there without quotes.
    fn scalar(self, expected: &str) -> Result<(&'a str, bool), Failure> {
        match &self.tree.node(self.id).kind {
            Kind::Scalar(text, plain) => Ok((text, *plain)),
            _ => Err(self.mismatch(expected)),
        }
    }

    fn mismatch(self, expected: &str) -> Failure {
        let node = self.tree.node(self.id);
        let found = match &node.kind {
            _ if node.is_null() => match node.key() {
                Some(key) => {
                    return Failure(Some(format!(
                        "`{key}` has no value; give it one or remove the line"
                    )));
                }
                None => "nothing".to_owned(),
            },
            Kind::Scalar(text, true) => format!("`{}`", cut(text)),
            Kind::Scalar(text, false) => format!("the text \"{}\"", cut(text)),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map of keys".to_owned(),
        };
        Failure(Some(format!("expected {expected}, found {found}")))
    }

    fn integer(self, min: i128, max: i128) -> Result<i128, Failure> {
        let (text, plain) = self.scalar("a whole number")?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let number = plain && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !number {
            return Err(self.mismatch("a whole number"));
        }
        if digits.len() > 1 && digits.starts_with('0') {
            let short = digits.trim_start_matches('0');
            let why = "starts with 0, which some programs read as octal; did you mean";
            return Err(Failure(Some(format!(
                "`{}` {why} `{}`?",
                cut(text),
                if short.is_empty() { "0" } else { cut(short) }
            ))));
        }
        match text.parse::<i128>() {
            Ok(value) if (min..=max).contains(&value) => Ok(value),
            _ => Err(Failure(Some(format!(
                "{} is out of range; {min} to {max} is allowed",
                cut(text)
            )))),
        }
    }

    /// Refuses a value, or items of a list, outside of the range that the schema has for the key.
    fn check_range(self, range: &Range) -> Result<(), Failure> {
        for item in self.rest(self.tree.items(self.id)).collect::<Vec<_>>() {
            if let Err(Failure(Some(message))) = self.to(item).check_range(range) {
                self.to(item).refuse(&message);
            }
        }
        let Kind::Scalar(text, plain) = &self.tree.node(self.id).kind else {
            return Ok(());
        };
        // A number in quotes is refused for the quotes.
        if range.admits(text) || (!plain && matches!(range, Range::Int(..))) {
            return Ok(());
        }
        Err(Failure(Some(format!(
            "{} is out of range; {range} is allowed",
            cut(text)
        ))))
    }

    /// The required keys that have no value, or none that will do. Reports those that are not there at all,
    /// but not those that an unknown key was taken for.
    fn lacking(
        self,
        shape: &'static Shape,
        children: &[NodeId],
        meant: &[&str],
    ) -> Vec<&'static str> {
        let find = |key: &str| {
            children
                .iter()
                .find(|c| self.tree.node(**c).key() == Some(key))
        };
        let required = shape.required.iter().map(String::as_str);
        let lacking: Vec<_> = required
            .filter(|key| find(key).is_none_or(|c| self.is_marked(*c)))
            .collect();
        for key in lacking.iter().copied().filter(|key| find(key).is_none()) {
            let mut state = self.state.borrow_mut();
            if state.doubts.missing.insert((self.id, key)) && !meant.contains(&key) {
                let mut path = self.tree.path(self.id);
                join(&mut path, key);
                let message = format!(
                    "`{key}` is missing from the {} that starts here",
                    shape.noun
                );
                state
                    .report
                    .add(Severity::Error, self.tree.place(self.id), path, &message);
            }
        }
        lacking
    }

    /// Reports a key that the model does not have, and returns the one that was probably meant.
    fn unknown_key(
        self,
        child: NodeId,
        name: &str,
        fields: &'static [&'static str],
    ) -> Option<&'static str> {
        let key = self.tree.node(child).key().unwrap_or_default();
        let mut state = self.state.borrow_mut();
        state.doubts.marked.insert(child);
        // Looking for near keys is not free, and a hostile file has many unknown ones.
        let meant = if state.report.is_full() {
            None
        } else {
            suggest_key(key, fields)
        };
        // What the key that was meant has is not known.
        state
            .doubts
            .missing
            .extend(meant.map(|known| (self.id, known)));
        let message = if LATER.contains(&(name, key)) {
            format!("this release of Polder does not have `{key}` yet; remove it")
        } else if let Some(known) = meant {
            format!("unknown key; did you mean `{known}`?")
        } else {
            format!("unknown key; known here are {}", list(fields, "and"))
        };
        let (place, path) = (self.tree.key_place(child), self.tree.path(child));
        state.report.add(Severity::Error, place, path, &message);
        meant
    }
}

/// The key of `fields` that is a slip's or another program's word's meaning.
fn suggest_key(key: &str, fields: &'static [&'static str]) -> Option<&'static str> {
    let word = key.to_lowercase().replace('-', "_");
    let known = |name: &str| fields.iter().copied().find(|f| *f == name);
    let synonym = SYNONYMS
        .iter()
        .filter(|(theirs, _)| *theirs == word)
        .find_map(|(_, ours)| known(ours));
    known(&word)
        .or(synonym)
        .or_else(|| nearest(key, fields.iter().copied()))
}

/// The first characters of a text of the file, which may be megabytes long.
fn cut(text: &str) -> &str {
    text.char_indices()
        .nth(60)
        .map_or(text, |(end, _)| &text[..end])
}

/// ``a`, `b` and `c``.
pub(super) fn list(words: &[&str], and: &str) -> String {
    let quoted: Vec<_> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} {and} {last}", rest.join(", ")),
        _ => quoted.join(""),
    }
}

macro_rules! integers {
    ($($method:ident => $visit:ident: $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            let value = self.integer(<$type>::MIN.into(), <$type>::MAX.into())?;
            visitor.$visit(value.try_into().expect("the value was checked against the type's range"))
        }
    )*};
}

impl<'de> Deserializer<'de> for At<'_, '_, '_> {
    type Error = Failure;

    /// For types that take more than one kind of value: what the plain text looks like.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let node = self.tree.node(self.id);
        match &node.kind {
            _ if node.is_null() => Err(self.mismatch("a value")),
            Kind::Scalar(text, true) if matches!(text.as_str(), "true" | "false") => {
                visitor.visit_bool(text == "true")
            }
            Kind::Scalar(text, true) => match text.parse::<u64>() {
                Ok(number) => visitor.visit_u64(number),
                Err(_) => visitor.visit_str(text),
            },
            Kind::Scalar(text, false) => visitor.visit_str(text),
            Kind::List(_) => self.deserialize_seq(visitor),
            Kind::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.scalar("true or false")? {
            ("true", true) => visitor.visit_bool(true),
            ("false", true) => visitor.visit_bool(false),
            (text, _) => {
                let meant = match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" | "y" | "1" => "; did you mean `true`?",
                    "false" | "no" | "off" | "n" | "0" => "; did you mean `false`?",
                    _ => return Err(self.mismatch("true or false")),
                };
                Err(Failure(Some(format!(
                    "expected true or false, found `{text}`{meant}"
                ))))
            }
        }
    }

    integers! {
        deserialize_i8 => visit_i8: i8, deserialize_i16 => visit_i16: i16,
        deserialize_i32 => visit_i32: i32, deserialize_i64 => visit_i64: i64,
        deserialize_u8 => visit_u8: u8, deserialize_u16 => visit_u16: u16,
        deserialize_u32 => visit_u32: u32, deserialize_u64 => visit_u64: u64
    }

    /// Text: a plain scalar is taken as it is written, whatever YAML would make of it (`02:00:…`, `1234`).
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let (text, _) = self.scalar("a text")?;
        if self.tree.node(self.id).is_null() {
            return Err(self.mismatch("a text"));
        }
        visitor.visit_str(text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.tree.node(self.id).is_null() {
            return Err(self.mismatch("a value"));
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        if name == LOCATED {
            return visitor.visit_seq(Pair { at: self, given: 0 });
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.tree.node(self.id).kind {
            Kind::List(items) => {
                // An item that can't be made is marked, so what is left of the list is always made.
                visitor.visit_seq(Items {
                    at: self,
                    items: self.rest(items),
                })
            }
            _ => Err(self.mismatch("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.tree.node(self.id).kind {
            Kind::Map(children) => {
                let (children, lacking) = (self.rest(children), Vec::new().into_iter());
                visitor.visit_map(Entries {
                    at: self,
                    shape: None,
                    children,
                    lacking,
                    value: None,
                })
            }
            _ => Err(self.mismatch("a map of keys")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let Kind::Map(children) = &self.tree.node(self.id).kind else {
            let mut refused = self.mismatch(&format!(
                "a map with keys such as `{}`",
                fields.first().unwrap_or(&"")
            ));
            let all_defaults = schema::shape(name).is_some_and(|shape| shape.required.is_empty());
            if let (Ok(("true", true)), true, Some(why)) =
                (self.scalar(""), all_defaults, &mut refused.0)
            {
                why.push_str("; did you mean `{}`?");
            }
            return Err(refused);
        };
        let unknown = |c: &NodeId| {
            self.tree
                .node(*c)
                .key()
                .is_none_or(|key| !fields.contains(&key))
        };
        let unknown: Vec<_> = self.rest(children).filter(unknown).collect();
        let meant: Vec<_> = unknown
            .into_iter()
            .filter_map(|child| self.unknown_key(child, name, fields))
            .collect();
        let shape = schema::shape(name);
        let lacking = shape.map_or(Vec::new(), |shape| self.lacking(shape, children, &meant));
        let children = self.rest(children);
        visitor.visit_map(Entries {
            at: self,
            shape,
            children,
            lacking: lacking.into_iter(),
            value: None,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let (text, _) = self.scalar(&list(variants, "or"))?;
        if self.tree.node(self.id).is_null() {
            return Err(self.mismatch(""));
        }
        if variants.contains(&text) {
            let text: StrDeserializer<'_, Failure> = text.into_deserializer();
            return visitor.visit_enum(text);
        }
        let message = choice_message(name, text, variants);
        Err(Failure(Some(message)))
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// What is said of `text` where only `choices` are allowed. `name` is the list's in [`LATER`].
pub(super) fn choice_message(name: &str, text: &str, choices: &[&str]) -> String {
    let text = cut(text);
    let allowed = list(choices, "and");
    if LATER.contains(&(name, text)) {
        return format!("this release of Polder does not have `{text}` yet; it has {allowed}");
    }
    let lower = text.to_lowercase();
    let synonym = SYNONYMS
        .iter()
        .filter(|(theirs, _)| *theirs == lower)
        .map(|(_, ours)| *ours);
    let near = synonym.into_iter().find(|ours| choices.contains(ours));
    let hint = near.or_else(|| nearest(text, choices.iter().copied()));
    let hint = hint.map_or(String::new(), |n| format!("; did you mean `{n}`?"));
    format!("`{text}` is not one of {allowed}{hint}")
}

/// The node's index and then its value, which is what [`super::located::Located`] asks for.
struct Pair<'a, 'r, 't> {
    at: At<'a, 'r, 't>,
    given: u8,
}

impl<'de> SeqAccess<'de> for Pair<'_, '_, '_> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failure> {
        self.given += 1;
        match self.given {
            1 => seed.deserialize(self.at.id.into_deserializer()).map(Some),
            2 => self.at.decode_child(self.at.id, seed).map(Some),
            _ => Ok(None),
        }
    }
}

struct Items<'a, 'r, 't, I> {
    at: At<'a, 'r, 't>,
    items: I,
}

impl<'de, I: Iterator<Item = NodeId>> SeqAccess<'de> for Items<'_, '_, '_, I> {
    type Error = Failure;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failure> {
        let Some(id) = self.items.next() else {
            return Ok(None);
        };
        self.at.decode_child(id, seed).map(Some)
    }
}

struct Entries<'a, 'r, 't, I> {
    at: At<'a, 'r, 't>,
    shape: Option<&'static Shape>,
    children: I,
    /// Required keys whose value is a stand-in.
    lacking: std::vec::IntoIter<&'static str>,
    /// The node of the key that was given out last; none for a stand-in.
    value: Option<NodeId>,
}

impl<'de, I: Iterator<Item = NodeId>> MapAccess<'de> for Entries<'_, '_, '_, I> {
    type Error = Failure;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Failure> {
        self.value = self.children.next();
        let key = match self.value {
            Some(id) => self.at.tree.node(id).key(),
            None => self.lacking.next(),
        };
        let Some(key) = key else { return Ok(None) };
        let key: StrDeserializer<'_, Failure> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Failure> {
        let Some(id) = self.value.take() else {
            return seed.deserialize(StandIn);
        };
        let key = self.at.tree.node(id).key().unwrap_or_default();
        let range = self.shape.and_then(|shape| shape.ranges.get(key));
        let value = self.at.to(id);
        if let Some(Err(Failure(Some(message)))) = range.map(|range| value.check_range(range)) {
            value.refuse(&message);
            return Err(Failure(None));
        }
        self.at.decode_child(id, seed)
    }
}

/// Makes some value of any type that a required key can have. Text values know one themselves.
struct StandIn;

impl<'de> Deserializer<'de> for StandIn {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_none()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_bool(false)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_u8(1)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_u16(1)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_u32(1)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_str("")
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        let nothing: Vec<u8> = Vec::new();
        visitor.visit_seq(de::value::SeqDeserializer::new(nothing.into_iter()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let first: StrDeserializer<'_, Failure> = variants
            .first()
            .copied()
            .unwrap_or_default()
            .into_deserializer();
        visitor.visit_enum(first)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u64 u128 f32 f64 char str bytes byte_buf option unit unit_struct newtype_struct
        tuple tuple_struct map struct identifier ignored_any
    }
}
