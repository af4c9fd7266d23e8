//! The YAML text as a tree of values, each with its place.
//!
//! Owns what is allowed of YAML: one document of maps, lists and scalars. Anchors, aliases, tags and non-text keys are
//! refused, so the tree is never larger than the text. Knows nothing of what keys mean. Invariant: a node's index is
//! greater than its parent's, keys of a map differ, and nesting is at most [`MAX_DEPTH`].

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::{Place, Report, Severity};

/// Bytes of a configuration file. 10,000 services of five servers each take about 2.6 MB.
pub const MAX_BYTES: usize = 8 << 20;
/// Values in a configuration file.
const MAX_NODES: usize = 1_000_000;
/// Levels of nesting.
const MAX_DEPTH: usize = 32;

/// Index of a node.
pub(super) type NodeId = u32;

/// The root's index.
pub(super) const ROOT: NodeId = 0;

/// How a node hangs on its parent.
#[derive(Debug)]
pub(super) enum Step {
    /// It is the document.
    Root,
    /// It is the value of a key, which stands at a place.
    Key(String, Place),
    /// It is an item of a list.
    Index(usize),
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Kind {
    /// Text, and whether it stands there without quotes.
    Scalar(String, bool),
    /// A list of nodes.
    List(Vec<NodeId>),
    /// A map: the nodes' steps hold the keys.
    Map(Vec<NodeId>),
}

/// One value of the document.
#[derive(Debug)]
pub(super) struct Node {
    parent: NodeId,
    pub step: Step,
    place: Place,
    pub kind: Kind,
}

impl Node {
    /// Whether the value is missing: nothing behind the colon, or one of YAML's words for it.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(s, true) if matches!(s.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The key that the node is the value of.
    pub fn key(&self) -> Option<&str> {
        match &self.step {
            Step::Key(key, _) => Some(key),
            _ => None,
        }
    }
}

/// The document.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// The node of an index that this tree gave out.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// The value of `key` in the map `id`.
    pub fn child(&self, id: NodeId, key: &str) -> Option<NodeId> {
        match &self.node(id).kind {
            Kind::Map(children) => children
                .iter()
                .copied()
                .find(|c| self.node(*c).key() == Some(key)),
            _ => None,
        }
    }

    /// The items of the list `id`.
    pub fn items(&self, id: NodeId) -> &[NodeId] {
        match &self.node(id).kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// The text of a scalar that has one.
    pub fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id).kind {
            Kind::Scalar(text, _) if !self.node(id).is_null() => Some(text),
            _ => None,
        }
    }

    /// Where the value stands; where its key does if it has no text of its own.
    pub fn place(&self, id: NodeId) -> Place {
        let node = self.node(id);
        match &node.step {
            Step::Key(_, key) if node.is_null() => *key,
            _ => node.place,
        }
    }

    /// Where the node's key stands; the value where it has none.
    pub fn key_place(&self, id: NodeId) -> Place {
        match &self.node(id).step {
            Step::Key(_, place) => *place,
            _ => self.place(id),
        }
    }

    /// The path of the node, such as `services[2].port`; empty for the root.
    pub fn path(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut at = id;
        while at != ROOT {
            steps.push(&self.node(at).step);
            at = self.node(at).parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Key(key, _) => join(&mut path, key),
                Step::Index(i) => path.push_str(&format!("[{i}]")),
                Step::Root => {}
            }
        }
        path
    }
}

/// Appends `.key`. A key is the file's text, so it is cut: it may be megabytes long.
pub(super) fn join(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.extend(key.chars().take(80));
}

/// Parses `text`. `None` when there is no tree; the report then says why.
pub(super) fn parse(text: &str, report: &mut Report<'_>) -> Option<Tree> {
    if let Some(place) = control_character(text) {
        let message = "the file contains a control character; a configuration is plain UTF-8 text";
        report.add(Severity::Error, place, String::new(), message);
        return None;
    }
    let mut builder = Builder {
        tree: Tree { nodes: Vec::new() },
        open: Vec::new(),
        report,
    };
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let stop = match event {
            Err(scan) => {
                let at = scan.marker();
                let place = Place {
                    line: at.line(),
                    column: at.col() + 1,
                    len: 1,
                };
                Err((place, syntax_message(scan.info(), text, place)))
            }
            Ok((Event::StreamEnd, _)) => break,
            Ok((Event::DocumentStart(_), span)) => {
                documents += 1;
                if documents > 1 {
                    Err((
                        place_of(span),
                        "a second YAML document starts here; a configuration is one".to_owned(),
                    ))
                } else {
                    Ok(())
                }
            }
            Ok((event, span)) => builder.event(event, place_of(span)),
        };
        if let Err((place, message)) = stop {
            let path = builder
                .open
                .last()
                .map_or(String::new(), |top| builder.tree.path(top.id));
            builder.report.add(Severity::Error, place, path, &message);
            return None;
        }
    }
    let tree = builder.tree;
    if tree.nodes.first().is_none_or(Node::is_null) {
        let message = "the configuration is empty; it needs at least `ports` and `services`";
        report.add(
            Severity::Error,
            Place {
                line: 1,
                column: 1,
                len: 1,
            },
            String::new(),
            message,
        );
        return None;
    }
    Some(tree)
}

/// The first character that text does not have: the parser would take NUL for the end of the file.
fn control_character(text: &str) -> Option<Place> {
    let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    let before = &text[..text.find(bad)?];
    let line_start = before.rfind(['\n', '\r']).map_or(0, |i| i + 1);
    let breaks = before.matches(['\n', '\r']).count() - before.matches("\r\n").count();
    Some(Place {
        line: breaks + 1,
        column: before[line_start..].chars().count() + 1,
        len: 1,
    })
}

fn place_of(span: Span) -> Place {
    // A collection's span may end before it starts or lines later; one line's part is underlined.
    let len = if span.start.line() == span.end.line() {
        span.end.index().saturating_sub(span.start.index())
    } else {
        1
    };
    Place {
        line: span.start.line(),
        column: span.start.col() + 1,
        len: len.max(1),
    }
}

/// The parser's message in the operator's words where a common slip is behind it.
fn syntax_message(info: &str, text: &str, place: Place) -> String {
    let line = text.lines().nth(place.line.saturating_sub(1)).unwrap_or("");
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    if indent.contains('\t') || info.contains("tab") {
        return "YAML does not allow tabs for indentation; use spaces".to_owned();
    }
    format!("not valid YAML: {info}")
}

/// A collection that is not closed yet.
struct Open {
    id: NodeId,
    /// Key of a map that waits for its value.
    key: Option<(String, Place)>,
    /// Keys of a map so far, and their lines.
    seen: HashMap<String, usize>,
}

struct Builder<'r, 't> {
    tree: Tree,
    open: Vec<Open>,
    report: &'r mut Report<'t>,
}

impl Builder<'_, '_> {
    /// Takes the next event. An error ends the parse.
    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), (Place, String)> {
        let (kind, anchor, tag) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                if self.takes_key() && anchor == 0 && tag.is_none() {
                    self.key(text.into_owned(), place);
                    return Ok(());
                }
                (Kind::Scalar(text.into_owned(), plain), anchor, tag)
            }
            Event::SequenceStart(anchor, tag) => (Kind::List(Vec::new()), anchor, tag),
            Event::MappingStart(anchor, tag) => (Kind::Map(Vec::new()), anchor, tag),
            Event::Alias(_) => return Err((place, ALIAS.to_owned())),
            Event::SequenceEnd | Event::MappingEnd => {
                self.open.pop();
                return Ok(());
            }
            _ => return Ok(()),
        };
        if anchor != 0 {
            return Err((place, ALIAS.to_owned()));
        }
        if let Some(tag) = tag {
            return Err((
                place,
                format!("the YAML tag `{tag}` is not accepted; write the plain value"),
            ));
        }
        if self.takes_key() {
            return Err((
                place,
                "a key must be a plain word, not a list or a map".to_owned(),
            ));
        }
        self.value(kind, place)
    }

    /// Whether the next event is a key.
    fn takes_key(&self) -> bool {
        self.open.last().is_some_and(|top| {
            top.key.is_none() && matches!(self.tree.node(top.id).kind, Kind::Map(_))
        })
    }

    fn key(&mut self, key: String, place: Place) {
        if let Some(top) = self.open.last_mut() {
            top.key = Some((key, place));
        }
    }

    /// Adds a value to the innermost open collection.
    fn value(&mut self, kind: Kind, place: Place) -> Result<(), (Place, String)> {
        let id = self.tree.nodes.len();
        if id >= MAX_NODES {
            return Err((place, format!("the file has more than {MAX_NODES} values")));
        }
        let id = NodeId::try_from(id).expect("MAX_NODES is below the range of a node's index");
        let collection = !matches!(kind, Kind::Scalar(..));
        if collection && self.open.len() >= MAX_DEPTH {
            return Err((
                place,
                format!("values are nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        let (parent, step) = self.hang(id);
        self.tree.nodes.push(Node {
            parent,
            step,
            place,
            kind,
        });
        if collection {
            self.open.push(Open {
                id,
                key: None,
                seen: HashMap::new(),
            });
        }
        Ok(())
    }

    /// Registers node `id` with its parent. The value of a repeated key is reported and stays out of the parent.
    fn hang(&mut self, id: NodeId) -> (NodeId, Step) {
        let Some(top) = self.open.last_mut() else {
            return (ROOT, Step::Root);
        };
        let parent = top.id;
        let Some((key, place)) = top.key.take() else {
            let Kind::List(items) = &mut self.tree.nodes[parent as usize].kind else {
                return (parent, Step::Root);
            };
            items.push(id);
            return (parent, Step::Index(items.len() - 1));
        };
        if let Some(first) = top.seen.get(&key) {
            let mut path = self.tree.path(parent);
            join(&mut path, &key);
            let message = format!("the key is given twice; the first one is in line {first}");
            self.report.add(Severity::Error, place, path, &message);
        } else if let Kind::Map(children) = &mut self.tree.nodes[parent as usize].kind {
            top.seen.insert(key.clone(), place.line);
            children.push(id);
        }
        (parent, Step::Key(key, place))
    }
}

const ALIAS: &str = "YAML anchors and aliases (`&name`, `*name`) are not accepted; write the value out at each place";
