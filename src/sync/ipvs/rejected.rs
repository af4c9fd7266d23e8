//! Why a message or a record was not taken, and how often.

use crate::sync::rejections::rejections;

rejections! {
    /// Why a message, a record, or what follows a record was not taken (specification §9.8).
    Rejected;
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
