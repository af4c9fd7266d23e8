//! Lists whose items remember where in the file they stand.
//!
//! Owns the agreement with the decoder: under `LOCATED` an item is asked for as its node's index and its value,
//! and one that fails is left out (the decoder has reported it). From any other deserializer (JSON of the control
//! socket) a list is a plain list, and a bad item fails it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Name by which the decoder knows an item.
pub(super) const LOCATED: &str = "$polder::located";

/// An item of a list. Two are equal when their values are.
#[derive(Clone, Debug)]
pub struct Located<T> {
    value: T,
    /// Its node in the file it was read from, if it was.
    pub(super) node: Option<u32>,
}

/// A list of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(Vec<Located<T>>);

impl<T> From<T> for Located<T> {
    fn from(value: T) -> Self {
        Self { value, node: None }
    }
}

impl<T: PartialEq> PartialEq for Located<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Located<T> {}

impl<T> Deref for Located<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Located<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().map(Located::from).collect())
    }
}

impl<T> Deref for List<T> {
    type Target = Vec<Located<T>>;
    fn deref(&self) -> &Vec<Located<T>> {
        &self.0
    }
}

impl<T> DerefMut for List<T> {
    fn deref_mut(&mut self) -> &mut Vec<Located<T>> {
        &mut self.0
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|item| &item.value))
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        Vec::<T>::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<T>::json_schema(generator)
    }
}

/// An item, or nothing where the decoder has reported why there is none.
struct Item<T>(Option<Located<T>>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Item<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_newtype_struct(LOCATED, ItemVisitor(PhantomData))
    }
}

struct ItemVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ItemVisitor<T> {
    type Value = Item<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item of a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Item<T>, A::Error> {
        let node = pair.next_element()?;
        // The error is in the report already.
        let value = pair.next_element().unwrap_or(None);
        Ok(Item(value.map(|value| Located { value, node })))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<Item<T>, D::Error> {
        Ok(Item(Some(T::deserialize(from)?.into())))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(ListVisitor(PhantomData))
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Item(item)) = items.next_element::<Item<T>>()? {
            list.extend(item);
        }
        Ok(List(list))
    }
}
