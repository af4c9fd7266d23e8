//! When messages go, and what happens when they can't.

use super::*;
use crate::net::Addr4;
use crate::sync::ipvs::{AnyEnds, ConnRecord, Engine, Receiver, TemplateRecord};
use crate::table::Ends;

const NOW: Tick = Tick(u32::MAX - 50);

fn record(cport: u16) -> Record<'static> {
    Record::Conn(ConnRecord {
        ends: AnyEnds::V4(Ends {
            proto: 17,
            caddr: Addr4(1),
            cport,
            vaddr: Addr4(2),
            vport: 2,
            daddr: Addr4(3),
            dport: 3,
        }),
        flags: 0,
        state: 0,
        mark: 0,
        timeout_s: 300,
        seq: None,
    })
}

/// An outbox of messages of two records.
fn outbox(queue_max: usize) -> Outbox {
    Outbox::new(Version::V1, 1, 8 + 2 * 36, queue_max)
}

fn fill(outbox: &mut Outbox, records: u16, now: Tick) {
    for cport in 0..records {
        assert_eq!(outbox.push(&record(cport), now), Ok(()));
    }
}

/// The client ports in a message.
fn ports(message: &[u8]) -> Vec<u16> {
    let opened = Receiver::default().open(message).expect("a message");
    let records = opened.records().map(|r| r.expect("a record"));
    records.map(|r| r.entry().ends.all()[0].port()).collect()
}

#[test]
fn a_lone_record_goes_after_two_seconds() {
    let mut outbox = outbox(10);
    assert_eq!((outbox.wake_at(), outbox.next(NOW)), (None, None));
    fill(&mut outbox, 1, NOW);
    let at = NOW.plus(AGE_MAX);
    assert_eq!(outbox.wake_at(), Some(at));
    assert_eq!(outbox.next(NOW.plus(AGE_MAX - 1)), None);
    let message = outbox.next(at).expect("it is time");
    assert_eq!(ports(&message), [0]);
    assert_eq!(outbox.wake_at(), None);
}

#[test]
fn a_full_message_waits_for_20_ms_or_seven_more() {
    let mut outbox = outbox(10);
    fill(&mut outbox, 3, NOW);
    assert_eq!((outbox.waiting(), outbox.wake_at()), (1, Some(NOW.plus(2))));
    assert_eq!(outbox.next(NOW.plus(1)), None);
    fill(&mut outbox, 12, NOW.plus(1));
    assert_eq!((outbox.waiting(), outbox.wake_at()), (7, Some(NOW.plus(2))));
    fill(&mut outbox, 2, NOW.plus(1));
    assert_eq!((outbox.waiting(), outbox.wake_at()), (8, Some(NOW.plus(1))));
    let mut sent = 0;
    while let Some(buffer) = outbox.next(NOW.plus(1)) {
        assert_eq!(ports(&buffer).len(), 2);
        outbox.sent(buffer);
        sent += 1;
    }
    assert_eq!(sent, 8);
    // The message that was begun has its own time.
    assert_eq!(outbox.wake_at(), Some(NOW.plus(1 + AGE_MAX)));
}

#[test]
fn what_is_too_much_is_discarded_and_counted() {
    let mut outbox = outbox(2);
    fill(&mut outbox, 9, NOW);
    let counts = outbox.counts();
    assert_eq!(
        (counts.records, counts.discarded, counts.discarded_records),
        (9, 2, 4)
    );
    let first = outbox.next(NOW.plus(GATHER)).expect("it is time");
    assert_eq!(ports(&first), [0, 1]);
    let second = outbox.next(NOW.plus(GATHER)).expect("it is time");
    assert_eq!(ports(&second), [2, 3]);
    let last = outbox.next(NOW.plus(AGE_MAX)).expect("it is time");
    assert_eq!(ports(&last), [8]);
    assert_eq!(outbox.counts().messages, 3);
}

#[test]
fn what_the_format_can_not_carry_is_counted_and_delays_nothing() {
    let mut outbox = outbox(2);
    let Record::Conn(mut entry) = record(1) else {
        panic!("a connection");
    };
    entry.flags = crate::sync::ipvs::flag::TEMPLATE;
    let long = Record::Template(TemplateRecord {
        entry,
        engine: Some(Engine {
            name: b"sip",
            data: &[b'x'; 256],
        }),
    });
    assert_eq!(outbox.push(&long, NOW), Err(CantCarry::EngineData));
    assert_eq!((outbox.counts().unfit, outbox.wake_at()), (1, None));
}

#[test]
fn a_master_that_stops_forgets_everything() {
    let mut outbox = outbox(4);
    fill(&mut outbox, 5, NOW);
    outbox.clear();
    assert_eq!((outbox.wake_at(), outbox.waiting()), (None, 0));
    assert_eq!(outbox.next(NOW.plus(AGE_MAX)), None);
}
