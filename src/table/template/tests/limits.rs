//! Bounds and hostile data.

use proptest::prelude::*;

use super::*;

#[test]
fn a_table_of_no_capacity_refuses() {
    let table = table(0);
    assert_eq!(dest_of(&table, &key(1, None), Tick(0)), None);
    let refused = insert(&table, &key(1, None), &new(1, 100), Tick(0));
    assert_eq!(refused, Err(InsertRefused::TableFull));
    assert!(swept(&table, Tick(0)).is_empty());
    assert!(rows(&table, Tick(0)).is_empty());
    table.prefetch(5);
    table.prefetch_entry(5);
}

#[test]
fn a_capacity_beyond_the_index_is_an_error() {
    let error = Templates::new(MAX_CAPACITY + 1, 1, HashKey::from_seed(1));
    assert!(matches!(error, Err(TableError::Capacity { .. })));
}

#[test]
fn a_full_table_refuses_and_evicts_nothing() {
    let table = table(2);
    made(&table, &key(1, None), &new(1, 100), Tick(0));
    made(&table, &key(2, None), &new(2, 100), Tick(0));
    let refused = insert(&table, &key(3, None), &new(3, 100), Tick(0));
    assert_eq!(refused, Err(InsertRefused::TableFull));
    assert_eq!((table.len(), table.in_service(ServiceId(1))), (2, 2));
    assert_eq!(dest_of(&table, &key(1, None), Tick(1)), Some(1));
    assert_eq!(dest_of(&table, &key(2, None), Tick(1)), Some(2));
}

#[test]
fn a_service_has_no_more_templates_than_its_limit() {
    let table = table(8);
    let limited = NewTemplate {
        service_limit: 2,
        ..new(1, 100)
    };
    made(&table, &key(1, None), &limited, Tick(0));
    made(&table, &key(2, None), &limited, Tick(0));
    let third = key(3, None);
    let refused = insert(&table, &third, &limited, Tick(0));
    assert_eq!(refused, Err(InsertRefused::ServiceLimit));
    let other = TemplateKey {
        service: ServiceId(2),
        ..third
    };
    made(&table, &other, &limited, Tick(0));
    // An expired template of the same key makes room at once, the others when they are swept.
    made(&table, &key(1, None), &limited, Tick(100));
    swept(&table, Tick(100));
    made(&table, &third, &limited, Tick(100));
    assert_eq!(table.in_service(ServiceId(1)), 2);
}

#[test]
fn a_service_beyond_the_slots_is_refused() {
    let table = table(8);
    let key = TemplateKey {
        service: ServiceId(4),
        ..key(1, None)
    };
    let refused = insert(&table, &key, &new(1, 100), Tick(0));
    assert_eq!(refused, Err(InsertRefused::ServiceLimit));
    assert_eq!(table.in_service(ServiceId(4)), 0);
}

#[test]
fn a_client_has_no_more_templates_than_its_limit_whatever_the_mask() {
    let table = Templates::new(4096, 4, HashKey::from_seed(1)).expect("memory");
    let by = |client: u8| NewTemplate {
        client_limit: 2,
        source: [client; 16],
        ..new(1, 100)
    };
    made(&table, &key(0, Some(b"a")), &by(1), Tick(0));
    made(&table, &key(0, Some(b"b")), &by(1), Tick(0));
    let refused = insert(&table, &key(0, Some(b"c")), &by(1), Tick(0));
    assert_eq!(refused, Err(InsertRefused::ClientLimit));
    made(&table, &key(0, Some(b"c")), &by(2), Tick(0));
    assert_eq!(table.limits.of_clients(), 3);
    swept(&table, Tick(100));
    assert_eq!(table.limits.of_clients(), 0);
    made(&table, &key(0, Some(b"d")), &by(1), Tick(100));
}

#[test]
fn data_that_are_hostile_are_only_data() {
    let table = table(16);
    let long = vec![0xff; 60_000];
    let longest = vec![0; DATA_MAX];
    let all: [&[u8]; 6] = [b"", b"\0", b"\0\0", &[0xff; 104], &long, &longest];
    for (i, data) in (0..).zip(all) {
        made(&table, &key(0, Some(data)), &new(i, 100 + i), Tick(0));
    }
    for (i, data) in (0..).zip(all) {
        assert_eq!(dest_of(&table, &key(0, Some(data)), Tick(1)), Some(i));
    }
    let mut nearly = long.clone();
    nearly[59_999] = 0;
    assert_eq!(dest_of(&table, &key(0, Some(&nearly)), Tick(1)), None);
    let mut ended = Vec::new();
    table.sweep(Tick(200), |e| ended.push(e.key.data.map(<[u8]>::to_vec)));
    assert_eq!(ended.len(), 6);
    assert!(all.iter().all(|data| ended.contains(&Some(data.to_vec()))));
}

#[test]
fn longer_data_than_there_may_be_are_refused() {
    let table = table(16);
    let data = vec![1; DATA_MAX + 1];
    let refused = insert(&table, &key(0, Some(&data)), &new(1, 100), Tick(0));
    assert_eq!(refused, Err(InsertRefused::DataFull));
    assert_eq!(dest_of(&table, &key(0, Some(&data)), Tick(0)), None);
}

#[test]
fn without_chunks_long_data_are_refused_short_ones_are_not_and_nothing_leaks() {
    let table = Templates::with_chunks(8, 2, 4, HashKey::from_seed(1)).expect("memory");
    let (two, three) = (vec![1; INLINE + 112], vec![2; INLINE + 113]);
    let refused = insert(&table, &key(0, Some(&three)), &new(1, 100), Tick(0));
    assert_eq!(refused, Err(InsertRefused::DataFull));
    assert_eq!((table.pool.free(), table.len()), (2, 0));
    made(&table, &key(0, Some(&two)), &new(1, 100), Tick(0));
    assert_eq!(table.pool.free(), 0);
    let more = vec![3; INLINE + 1];
    let refused = insert(&table, &key(0, Some(&more)), &new(1, 100), Tick(0));
    assert_eq!(refused, Err(InsertRefused::DataFull));
    made(&table, &key(0, Some(&more[1..])), &new(2, 100), Tick(0));
    assert_eq!(swept(&table, Tick(100)), [1, 2]);
    assert_eq!(table.pool.free(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn data_of_any_bytes_and_length_come_back_and_no_others_match(
        data in proptest::collection::vec(any::<u8>(), 0..400),
        flip in any::<usize>(),
    ) {
        let table = table(4);
        made(&table, &key(0, Some(&data)), &new(1, 100), Tick(0));
        prop_assert_eq!(dest_of(&table, &key(0, Some(&data)), Tick(1)), Some(1));
        prop_assert_eq!(&rows(&table, Tick(1))[0].data, &Some(data.clone()));
        if !data.is_empty() {
            // The same hash, so that the bytes have to tell.
            let hash = table.hash(&key(0, Some(&data)));
            let mut other = data.clone();
            other[flip % data.len()] ^= 1;
            prop_assert_eq!(table.lookup(&key(0, Some(&other)), hash, Tick(1)), None);
            let shorter = &data[..data.len() - 1];
            prop_assert_eq!(table.lookup(&key(0, Some(shorter)), hash, Tick(1)), None);
        }
    }
}
