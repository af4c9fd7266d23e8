//! Problems of a configuration: what one is, and the report that collects all of them.
//!
//! Knows text and positions, nothing of what a configuration means. Invariant: a report never loses an error: beyond
//! [`MAX_PROBLEMS`] they are counted, no longer kept.

use std::fmt;

use serde::Serialize;

/// Problems that a report keeps; further ones are only counted.
pub const MAX_PROBLEMS: usize = 1000;

/// Characters of a line that a snippet shows.
const SNIPPET_WIDTH: usize = 120;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration can't be used.
    Error,
    /// The configuration can be used, but is likely not what was meant.
    Warning,
}

/// One problem. The field names are those of `polder check --format json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// File, as it was named by the caller.
    pub file: String,
    /// Line, from 1; 0 where the problem is with the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 where the problem is with the file as a whole.
    pub column: usize,
    /// Path of the value, such as `services[2].servers[0].weight`; empty for the whole file.
    pub path: String,
    /// What is wrong, a sentence without its full stop.
    pub message: String,
    /// What was probably meant, where something is near.
    pub suggestion: Option<String>,
    /// The line and a caret below the place.
    pub snippet: String,
}

impl fmt::Display for Problem {
    /// The text form of `polder check`: `file:line:column: severity: path: message`, then the snippet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        if !self.snippet.is_empty() {
            write!(f, "\n{}", self.snippet)?;
        }
        Ok(())
    }
}

/// A place in the text: one line's characters from `column` on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Line, from 1; 0 is the file as a whole.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Characters to underline, at least one is.
    pub len: usize,
}

/// All problems of one text.
#[derive(Debug)]
pub(super) struct Report<'t> {
    file: String,
    lines: Vec<&'t str>,
    kept: Vec<(Place, Problem)>,
    errors: usize,
    warnings: usize,
}

impl<'t> Report<'t> {
    /// An empty report on `text`, which is called `file` in it.
    pub fn new(file: &str, text: &'t str) -> Self {
        let kept = Vec::new();
        Self {
            file: file.to_owned(),
            lines: split_lines(text),
            kept,
            errors: 0,
            warnings: 0,
        }
    }

    /// Adds a problem. A `message` may end in ``; did you mean `X`?``.
    pub fn add(&mut self, severity: Severity, place: Place, path: String, message: &str) {
        match severity {
            Severity::Error => self.errors += 1,
            Severity::Warning => self.warnings += 1,
        }
        if self.is_full() {
            return;
        }
        let place = self.within(place);
        let (message, suggestion) = match message.rsplit_once("; did you mean `") {
            Some((message, rest)) => (message, Some(rest.trim_end_matches("`?").to_owned())),
            None => (message, None),
        };
        let problem = Problem {
            severity,
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            path,
            message: message.to_owned(),
            suggestion,
            snippet: self.snippet(place),
        };
        self.kept.push((place, problem));
    }

    /// Whether further problems are only counted, so that composing a message is a waste.
    pub fn is_full(&self) -> bool {
        self.kept.len() >= MAX_PROBLEMS
    }

    /// Errors so far, kept or not.
    pub fn errors(&self) -> usize {
        self.errors
    }

    /// The problems in the order of the text.
    pub fn finish(mut self) -> Vec<Problem> {
        self.kept.sort_by_key(|(place, _)| *place);
        let left_out = self.errors + self.warnings - self.kept.len();
        let mut problems: Vec<_> = self.kept.into_iter().map(|(_, problem)| problem).collect();
        if left_out > 0 {
            // An error if any was left out, so that the list as a whole says what the count says.
            let severity = if self.errors > 0 {
                Severity::Error
            } else {
                Severity::Warning
            };
            problems.push(Problem {
                severity,
                file: self.file,
                line: 0,
                column: 0,
                path: String::new(),
                message: format!("{left_out} further problems are not shown"),
                suggestion: None,
                snippet: String::new(),
            });
        }
        problems
    }

    /// The end of the text for a place behind it, where the parser sees what ends too early.
    fn within(&self, place: Place) -> Place {
        match self.lines.last() {
            Some(last) if place.line > self.lines.len() => Place {
                line: self.lines.len(),
                column: last.chars().count() + 1,
                len: 1,
            },
            _ => place,
        }
    }

    fn snippet(&self, place: Place) -> String {
        let Some(line) = place.line.checked_sub(1).and_then(|i| self.lines.get(i)) else {
            return String::new();
        };
        let column = place.column.max(1) - 1;
        // A window around the place: the line may be megabytes long.
        let from = if column < SNIPPET_WIDTH {
            0
        } else {
            column - SNIPPET_WIDTH / 2
        };
        let shown: String = line.chars().skip(from).take(SNIPPET_WIDTH).collect();
        let shown = shown.replace(|c: char| c.is_control(), " ");
        let (shown, caret) = if from > 0 {
            (format!("…{shown}"), column - from + 1)
        } else {
            (shown, column)
        };
        let room = shown.chars().count().saturating_sub(caret).max(1);
        let underline = "^".repeat(place.len.clamp(1, room));
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        let (shown, pad) = (shown.trim_end(), " ".repeat(caret));
        format!(" {number} | {shown}\n {margin} | {pad}{underline}")
    }
}

/// Lines of `text` without their ends, which are those of YAML: LF, CR LF, CR.
fn split_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\n', '\r']) {
        lines.push(&rest[..end]);
        let width = if rest[end..].starts_with("\r\n") {
            2
        } else {
            1
        };
        rest = &rest[end + width..];
    }
    lines.push(rest);
    lines
}

/// The candidate that `word` is most likely a slip of, if one is near.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    // Longer words can't be near a key, and comparing costs their length squared.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let near = |c: &str| {
        let distance = strsim::damerau_levenshtein(&word, c);
        // A third of the letters may be wrong; two-letter words are too short to guess from more than one.
        (distance <= (c.len().max(word.len()) / 3).max(1) && distance < c.len()).then_some(distance)
    };
    let scored = candidates
        .into_iter()
        .filter_map(|c| near(c).map(|d| (d, c)));
    scored.min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}
