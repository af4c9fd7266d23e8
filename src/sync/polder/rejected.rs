//! Why a datagram, a message or a record was not taken, and how often.

use crate::sync::rejections::rejections;

rejections! {
    /// Why a datagram, a message, or a record of one was not taken.
    Rejected;
    // Of datagrams, in the order in which they are found.
    Short "short" "The datagram is shorter than its envelope.",
    Magic "magic" "The datagram does not begin as one of this format does.",
    Version "version" "The sender can't be understood: its format is newer or older than this release knows.",
    Kind "kind" "The message is of a kind that is not known; the sender may be of a newer release.",
    Key "key" "There is no key with the id that the datagram names: the key files differ.",
    Forged "forged" "The datagram does not fit its tag: another key, damaged or forged.",
    SyncId "sync_id" "The message is for directors with another sync id.",
    Own "own" "The datagram came back from the network to its sender.",
    Untrusted "untrusted" "The sender has not proven yet that it is alive: an old recording, or a handshake is under way.",
    Replayed "replayed" "The datagram came before, or is too old to know.",
    Body "body" "The message is shorter than its fields, or a field has a value that none can have.",
    // Of records.
    RecordCut "record_cut" "The message ends within a record.",
    RecordShort "record_short" "A record is shorter than its fields.",
    RecordValue "record_value" "A field of a record has a value that none can have.",
    Piece "piece" "A piece of a long record does not continue the one before.",
    // Of messages whose bytes are right.
    Role "role" "The message is for a director of another role.",
    Rate "rate" "The sender asked for the same too often.",
    Peers "peers" "There are too many directors already.",
    Ahead "ahead" "The message is too far ahead of what has come in order.",
    Overflow "overflow" "There are more entries than may be kept of one director.",
    Stray "stray" "The message answers nothing that was asked, or is of a stream that ended.",
}

impl Rejected {
    /// Whether nothing behind it in its message can be read either.
    #[must_use]
    pub fn ends_message(self) -> bool {
        self <= Self::RecordCut
    }
}
