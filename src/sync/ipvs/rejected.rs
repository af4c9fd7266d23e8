//! Why a message or a record was not taken, and how often.

/// Declares the reasons with their words and meanings in one place.
macro_rules! reasons {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// Why a message, a record, or what follows a record was not taken (specification §9.8).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Rejected {
            $(#[doc = $help] $variant,)*
        }

        impl Rejected {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in metrics and JSON.
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

reasons! {
    Short "short" "The message is shorter than its header.",
    Size "size" "The message's size field is not its length: it was cut, or is no sync message.",
    SyncId "sync_id" "The message is for directors with another sync id.",
    Version "version" "The message is of no version that is known.",
    RecordCut "record_cut" "The message ends within a record.",
    RecordSize "record_size" "A record says that it is shorter than its fixed part.",
    RecordVersion "record_version" "A record is of a version that is not known.",
    RecordType "record_type" "A record is neither of IPv4 nor of IPv6.",
    OptionCut "option_cut" "An option is empty or ends behind its record.",
    OptionLength "option_length" "An option has a length that its type can't have.",
    OptionRepeated "option_repeated" "A record has the same option twice.",
    OptionUnknown "option_unknown" "A record has an option that is not known and may not be ignored.",
    EngineName "engine_name" "A record has a session's key without its engine's name.",
    EngineUnknown "engine_unknown" "There is no such persistence engine.",
    Protocol "protocol" "Connections of this protocol are not known.",
    State "state" "The protocol has no such state.",
    Method "method" "There is no such forwarding method, and no real server to take one from.",
}

impl Rejected {
    /// Whether nothing behind it in its message can be read either.
    #[must_use]
    pub fn ends_message(self) -> bool {
        self < Self::OptionUnknown
    }
}

/// How often each reason occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rejections([u64; Rejected::ALL.len()]);

impl Rejections {
    /// Counts one.
    pub fn note(&mut self, why: Rejected) {
        let n = &mut self.0[why as usize];
        *n = n.saturating_add(1);
    }

    /// How often `why` occurred.
    #[must_use]
    pub fn of(&self, why: Rejected) -> u64 {
        self.0[why as usize]
    }

    /// How often anything was rejected.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Rejected, u64)> {
        Rejected::ALL.iter().map(|r| (*r, self.of(*r)))
    }
}
