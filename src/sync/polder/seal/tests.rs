use proptest::prelude::*;

use super::*;

const A: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const B: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

fn keys(text: &str) -> Keys {
    Keys::parse(text).expect("good keys")
}

fn sealed(keys: &Keys, encrypt: bool, body: &[u8]) -> Vec<u8> {
    let mut out = vec![9; 5];
    Sealer::new(0x1122, keys.clone()).seal(Kind::Want, 7, encrypt, body, &mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn what_was_sealed_opens() {
    let keys = keys(&format!("5 {A}"));
    for encrypt in [false, true] {
        for body in [&b""[..], b"x", &[3; 1428]] {
            let mut datagram = sealed(&keys, encrypt, body);
            assert_eq!(datagram.len(), OVERHEAD + body.len());
            let opened = open(&keys, &mut datagram).expect("it is genuine");
            let expected = Opened {
                kind: Kind::Want,
                sync_id: 7,
                boot: 0x1122,
                counter: 1,
                key_id: 5,
                encrypted: encrypt,
                body,
            };
            assert_eq!(opened, expected);
        }
    }
}

#[test]
fn the_layout_is_what_the_decision_says() {
    let keys = keys(&format!("5 {A}"));
    let header = |flags: &str| {
        format!("504c4452 01 05 {flags} 06 07 000000 0000000000001122 0000000000000001")
            .replace(' ', "")
    };
    let plain = hex(&sealed(&keys, false, b"body"));
    assert!(
        plain.starts_with(&(header("00") + &hex(b"body"))),
        "{plain}"
    );
    let secret = hex(&sealed(&keys, true, b"body"));
    assert!(secret.starts_with(&header("01")), "{secret}");
    assert!(!secret.contains(&hex(b"body")), "{secret}");
    // As an implementation of XChaCha20-Poly1305 written from its definition made them.
    assert_eq!(&plain[64..], "e792d468e1baf9cd2d0776657c0ff26b");
    assert_eq!(&secret[56..], "8c2addfcb05a1138eea523697855ebfaf2bb79ad");
}

#[test]
fn every_bit_of_a_datagram_counts() {
    let keys = keys(&format!("5 {A}\n4 {B}"));
    for encrypt in [false, true] {
        let good = sealed(&keys, encrypt, b"a body");
        for bit in 0..good.len() * 8 {
            let mut datagram = good.clone();
            datagram[bit / 8] ^= 1 << (bit % 8);
            let before = datagram.clone();
            let why = open(&keys, &mut datagram).expect_err("it was changed");
            let expected = match bit / 8 {
                0..4 => Rejected::Magic,
                4 => Rejected::Version,
                // To the id of the other key, or of none.
                5 if before[5] == 4 => Rejected::Forged,
                5 => Rejected::Key,
                7 if Kind::from_number(before[7]).is_none() => Rejected::Kind,
                _ => Rejected::Forged,
            };
            assert_eq!(why, expected, "bit {bit}");
            assert_eq!(datagram, before, "it is left as it came");
        }
    }
}

#[test]
fn a_cut_or_longer_datagram_does_not_open() {
    let keys = keys(&format!("5 {A}"));
    let good = sealed(&keys, false, b"a body");
    for len in 0..good.len() {
        let why = open(&keys, &mut good[..len].to_vec()).expect_err("it was cut");
        let expected = match len {
            0..OVERHEAD => Rejected::Short,
            _ => Rejected::Forged,
        };
        assert_eq!(why, expected, "{len} bytes");
    }
    let mut longer = good;
    longer.push(0);
    assert_eq!(open(&keys, &mut longer), Err(Rejected::Forged));
}

#[test]
fn keys_change_without_a_gap() {
    let steps = [
        format!("1 {A}"),
        format!("1 {A}\n2 {B} receive"),
        format!("2 {B}\n1 {A} receive"),
        format!("2 {B}"),
    ];
    let opens =
        |from: &str, to: &str| open(&keys(to), &mut sealed(&keys(from), false, b"")).is_ok();
    for pair in steps.windows(2) {
        assert!(opens(&pair[0], &pair[1]) && opens(&pair[1], &pair[0]));
    }
    assert!(!opens(&steps[0], &steps[3]));
    // The same id with another key.
    assert!(!opens(&format!("1 {A}"), &format!("1 {B}")));
}

#[test]
fn a_sealer_counts_and_changes_keys() {
    let mut sealer = Sealer::new(3, keys(&format!("1 {A}")));
    let mut out = Vec::new();
    sealer.seal(Kind::Stream, 0, true, b"", &mut out);
    sealer.set_keys(keys(&format!("2 {B}")));
    sealer.seal(Kind::Stream, 0, true, b"", &mut out);
    let opened = open(sealer.keys(), &mut out).expect("it is genuine");
    assert_eq!((opened.key_id, opened.boot, opened.counter), (2, 3, 2));
    assert_eq!(sealer.counter(), 2);
}

#[test]
fn a_listing_reads_without_keys() {
    let keys = keys(&format!("5 {A}"));
    let plain = sealed(&keys, false, b"body");
    assert_eq!(open_unchecked(&plain).expect("an envelope").body, b"body");
    let secret = sealed(&keys, true, b"body");
    assert!(open_unchecked(&secret).expect("an envelope").encrypted);
}

#[test]
fn the_same_numbers_are_not_taken_twice() {
    let mut window = Window::default();
    let cases = [
        (0, false),
        (1, true),
        (1, false),
        (3, true),
        (2, true),
        (2, false),
        (1025, true),
        // 1024 back from the newest is still known, what is behind it is not.
        (1, false),
        (4, true),
        (2000, true),
        (977, true),
        (976, false),
        (1025, false),
        (u64::MAX, true),
        (u64::MAX, false),
        (u64::MAX - 1023, true),
        (u64::MAX - 1024, false),
    ];
    for (counter, taken) in cases {
        assert_eq!(window.is_fresh(counter), taken, "{counter}");
        assert_eq!(window.note(counter).is_ok(), taken, "{counter}");
    }
    assert_eq!(window.newest(), u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_window_knows_what_a_set_knows(
        start in 0..5000u64,
        steps in proptest::collection::vec((-1500i64..1500, 0..20u8), 1..400),
    ) {
        let mut window = Window::default();
        let mut came = std::collections::BTreeSet::from([0]);
        let (mut at, mut newest) = (start, 0);
        for (step, big) in steps {
            // Mostly small steps, as of a network that reorders.
            let step = if big == 0 { step } else { step / 100 };
            at = at.saturating_add_signed(step);
            let fresh = at + 1024 > newest && came.insert(at);
            prop_assert_eq!(window.note(at).is_ok(), fresh, "{} of {}", at, newest);
            newest = newest.max(at);
        }
    }
}
