//! What every list of reasons has: a word for metrics, a sentence for people, and a place for its counter.
//!
//! Owns the shape only. The lists are where the reasons arise.

/// Declares an enum of reasons with their words and meanings in one place. The numbers of the variants are the places
/// of their counters.
macro_rules! reasons {
    ($(#[$doc:meta])* $reasons:ident; $($variant:ident $name:literal $help:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $reasons {
            $(#[doc = $help] $variant,)*
        }

        impl $reasons {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The word in metrics, listings and JSON.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// A sentence for people.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

pub(crate) use reasons;
