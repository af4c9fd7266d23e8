//! What state sync knows of templates, by their places in the table.
//!
//! Owns notes, each for one life of its place. Knows nothing of what they say. In parts, so that nothing ever goes over
//! all of them at once: neither tidying up nor growth.

use hashbrown::HashMap;

use crate::table::{TemplateRef, Templates};

/// Places of one part.
pub const PART: u32 = 1024;

/// Notes of templates.
#[derive(Debug)]
pub struct Places<T> {
    parts: Vec<HashMap<u32, (u32, T)>>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { parts: Vec::new() }
    }
}

impl<T: Copy> Places<T> {
    /// What is noted of a place, and for which of its lives.
    #[must_use]
    pub fn get(&self, place: u32) -> Option<(u32, T)> {
        self.parts.get(part(place))?.get(&place).copied()
    }

    /// Notes something of a template, instead of what was noted of its place before.
    pub fn insert(&mut self, at: TemplateRef, note: T) {
        let part = part(at.index);
        if self.parts.len() <= part {
            self.parts.resize_with(part + 1, HashMap::new);
        }
        self.parts[part].insert(at.index, (at.version, note));
    }

    /// Forgets what is noted of a place.
    pub fn remove(&mut self, place: u32) {
        if let Some(part) = self.parts.get_mut(part(place)) {
            part.remove(&place);
        }
    }

    /// Forgets what is noted of templates that are gone, in the part that `place` is in.
    pub fn tidy(&mut self, place: u32, templates: &Templates) {
        let Some(part) = self.parts.get_mut(part(place)) else {
            return;
        };
        part.retain(|at, (life, _)| templates.get(*at).version == *life);
        if part.is_empty() {
            *part = HashMap::new();
        }
    }
}

fn part(place: u32) -> usize {
    (place / PART) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_place_until_another_takes_its_place() {
        let at = |index, version| TemplateRef { index, version };
        let mut places = Places::default();
        places.insert(at(5, 1), 'a');
        places.insert(at(5 + 3 * PART, 1), 'b');
        places.insert(at(5, 2), 'c');
        assert_eq!(places.get(5), Some((2, 'c')));
        assert_eq!(places.get(5 + 3 * PART), Some((1, 'b')));
        assert_eq!(places.get(5 + PART), None);
        assert_eq!(places.get(5 + 9 * PART), None);
        places.remove(5);
        places.remove(5 + 9 * PART);
        assert_eq!(places.get(5), None);
    }
}
