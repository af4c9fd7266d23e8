//! What the template table promises: by example, against a naive model, under explored schedules
//! and under real threads.

mod limits;
mod model;
mod schedules;
mod threads;
mod timeline;

use super::*;
use crate::net::Af;
use crate::table::dest::ServiceId;

pub fn table(capacity: usize) -> Templates {
    Templates::new(capacity, 4, HashKey::from_seed(1)).expect("memory for a small table")
}

pub fn key(client: u8, data: Option<&[u8]>) -> TemplateKey<'_> {
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 0, 0, client]);
    TemplateKey {
        service: ServiceId(1),
        af: Af::V4,
        proto: 17,
        client: address,
        vaddr: [0; 16],
        vport: 5060,
        data,
    }
}

pub fn new(dest: u32, timeout: u32) -> NewTemplate {
    NewTemplate {
        dest: DestId(dest),
        timeout,
        origin: Origin::Local,
        source: [7; 16],
        service_limit: 0,
        client_limit: 0,
    }
}

pub fn insert<W: Word>(
    table: &Table<W>,
    key: &TemplateKey<'_>,
    new: &NewTemplate,
    now: Tick,
) -> Result<Placed, InsertRefused> {
    table.insert(key, table.hash(key), new, now)
}

pub fn made<W: Word>(
    table: &Table<W>,
    key: &TemplateKey<'_>,
    new: &NewTemplate,
    now: Tick,
) -> TemplateRef {
    match insert(table, key, new, now) {
        Ok(Placed::New(at)) => at,
        other => panic!("not made: {other:?}"),
    }
}

pub fn dest_of<W: Word>(table: &Table<W>, key: &TemplateKey<'_>, now: Tick) -> Option<u32> {
    table
        .lookup(key, table.hash(key), now)
        .map(|(_, dest)| dest.0)
}

/// The servers of the templates that a sweep ends, in order.
pub fn swept<W: Word>(table: &Table<W>, now: Tick) -> Vec<u32> {
    let mut dests = Vec::new();
    table.sweep(now, |ended| dests.push(ended.dest.0));
    dests.sort_unstable();
    dests
}

pub fn rows<W: Word>(table: &Table<W>, now: Tick) -> Vec<TemplateRow> {
    let (mut rows, mut cursor) = (Vec::new(), Some(0));
    while let Some(at) = cursor {
        cursor = table.dump(at, 3, now, |row| rows.push(row));
    }
    rows
}

#[test]
fn a_template_is_found_until_its_deadline_and_not_at_it() {
    let table = table(8);
    made(&table, &key(1, None), &new(3, 100), Tick(5));
    assert_eq!(dest_of(&table, &key(1, None), Tick(104)), Some(3));
    assert_eq!(dest_of(&table, &key(1, None), Tick(105)), None);
    assert_eq!(dest_of(&table, &key(2, None), Tick(5)), None);
}

#[test]
fn every_part_of_the_key_tells_templates_apart() {
    let table = table(64);
    let base = key(1, Some(b"a"));
    let mut address = base.client;
    address[15] = 1;
    let variants = [
        base,
        TemplateKey {
            service: ServiceId(2),
            ..base
        },
        TemplateKey { af: Af::V6, ..base },
        TemplateKey { proto: 6, ..base },
        TemplateKey {
            client: address,
            ..base
        },
        TemplateKey {
            vaddr: address,
            ..base
        },
        TemplateKey { vport: 0, ..base },
        TemplateKey { data: None, ..base },
        TemplateKey {
            data: Some(b""),
            ..base
        },
        TemplateKey {
            data: Some(b"a\0"),
            ..base
        },
        TemplateKey {
            data: Some(b"A"),
            ..base
        },
    ];
    for (i, key) in (0..).zip(&variants) {
        made(&table, key, &new(i, 100), Tick(0));
    }
    for (i, key) in (0..).zip(&variants) {
        assert_eq!(dest_of(&table, key, Tick(1)), Some(i), "{key:?}");
    }
    assert_eq!(table.len(), variants.len());
    let listed = rows(&table, Tick(1));
    for (i, key) in (0..).zip(&variants) {
        let row = listed
            .iter()
            .find(|row| row.dest == DestId(i))
            .expect("listed");
        assert_eq!(
            TemplateKey {
                data: row.data.as_deref(),
                ..row.key
            },
            *key
        );
        assert_eq!((row.remaining, row.timeout), (99, 100));
    }
}

#[test]
fn a_second_insertion_gets_the_first_one_s_server() {
    let table = table(8);
    let at = made(&table, &key(1, None), &new(3, 100), Tick(0));
    let again = insert(&table, &key(1, None), &new(4, 100), Tick(50));
    assert_eq!(again, Ok(Placed::Existing(at, DestId(3))));
    assert_eq!(table.len(), 1);
}

#[test]
fn an_expired_template_is_replaced_before_the_sweeper_comes_and_both_are_accounted_for() {
    let table = table(8);
    made(&table, &key(1, None), &new(3, 100), Tick(0));
    made(&table, &key(1, None), &new(4, 100), Tick(100));
    assert_eq!(dest_of(&table, &key(1, None), Tick(101)), Some(4));
    assert_eq!((table.len(), table.in_service(ServiceId(1))), (1, 1));
    assert_eq!(swept(&table, Tick(101)), [3]);
    assert_eq!(swept(&table, Tick(200)), [4]);
    assert!(table.is_empty());
}

#[test]
fn a_stale_reference_does_nothing() {
    let table = table(1);
    let old = made(&table, &key(1, None), &new(3, 100), Tick(0));
    assert!(table.end(old));
    assert_eq!(swept(&table, Tick(0)), [3]);
    let fresh = made(&table, &key(2, None), &new(4, 100), Tick(0));
    assert_eq!(fresh.index, old.index);
    let never = TemplateRef {
        index: 77,
        version: 0,
    };
    for stale in [old, never, table.get(77), table.get(u32::MAX)] {
        assert!(!table.acquire(stale, Tick(1)));
        assert!(!table.touch(stale, Tick(1)));
        assert!(!table.assure(stale));
        assert!(!table.end(stale));
        assert_eq!(table.repoint(stale, DestId(4), DestId(5)), Repoint::Gone);
        assert_eq!(table.holder(stale), None);
        assert_eq!(table.swap_holder(stale, 1, Tick(1)), None);
        assert_eq!(table.swap_holder_if(stale, 0, 1, Tick(1)), None);
        assert_eq!((table.dest(stale), table.assured(stale)), (None, None));
    }
    assert!(!table.release(77, Tick(1)));
    assert!(!table.release(fresh.index, Tick(1)), "it controls nothing");
    assert_eq!(table.get(fresh.index), fresh);
    assert_eq!(table.holder(fresh), Some(0));
    assert_eq!(table.dest(fresh), Some(DestId(4)));
}

#[test]
fn a_place_that_connections_hold_is_not_used_again() {
    let table = table(1);
    let at = made(&table, &key(1, None), &new(3, 100), Tick(0));
    assert!(table.acquire(at, Tick(0)));
    assert!(table.end(at));
    assert_eq!(swept(&table, Tick(0)), [3]);
    let full = insert(&table, &key(2, None), &new(4, 100), Tick(0));
    assert_eq!(full, Err(InsertRefused::TableFull));
    assert!(table.release(at.index, Tick(0)));
    assert!(swept(&table, Tick(0)).is_empty());
    made(&table, &key(2, None), &new(4, 100), Tick(0));
}

#[test]
fn of_two_who_move_a_template_one_does_and_the_other_learns_where() {
    let table = table(1);
    let at = made(&table, &key(1, None), &new(3, 100), Tick(0));
    assert_eq!(table.repoint(at, DestId(3), DestId(4)), Repoint::Moved);
    let other = table.repoint(at, DestId(3), DestId(5));
    assert_eq!(other, Repoint::Already(DestId(4)));
    assert_eq!(table.dest_of(at.index), Some(DestId(4)));
    assert_eq!(swept(&table, Tick(100)), [4]);
    assert_eq!(table.repoint(at, DestId(4), DestId(5)), Repoint::Gone);
}

#[test]
fn a_template_remembers_assurance_and_holder_and_tells_them_at_its_end() {
    let table = table(1);
    let at = made(&table, &key(1, Some(b"x")), &new(3, 100), Tick(0));
    assert_eq!(
        (table.assured(at), table.holder(at)),
        (Some(false), Some(0))
    );
    assert!(table.assure(at) && table.assure(at));
    assert_eq!(table.swap_holder(at, u64::MAX, Tick(1)), Some(0));
    assert_eq!(table.swap_holder_if(at, 0, 9, Tick(1)), Some(Err(u64::MAX)));
    assert_eq!(table.swap_holder_if(at, u64::MAX, 9, Tick(1)), Some(Ok(())));
    assert_eq!((table.assured(at), table.holder(at)), (Some(true), Some(9)));
    assert_eq!(table.controlled(at), Some(0));
    let mut told = 0;
    table.sweep(Tick(100), |ended| {
        assert!(ended.assured && ended.holder == 9);
        assert_eq!(ended.key, key(1, Some(b"x")));
        told += 1;
    });
    assert_eq!(told, 1);
    let next = made(&table, &key(1, None), &new(3, 100), Tick(200));
    assert_eq!(
        (table.assured(next), table.holder(next)),
        (Some(false), Some(0))
    );
}
