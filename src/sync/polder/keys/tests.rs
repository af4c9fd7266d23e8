use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

const A: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const B: &str = "FFEEDDCCBBAA99887766554433221100ffeeddccbbaa99887766554433221100";

fn wrong(text: &str) -> String {
    Keys::parse(text).expect_err("it is wrong").to_string()
}

#[test]
fn the_first_key_that_is_not_receive_only_is_sent_with() {
    let text = format!("# keys\n\n9 {A} receive\n  200\t{B} # since May\n1 {A}\n");
    let keys = Keys::parse(&text).expect("good keys");
    assert_eq!(keys.sending_id(), 200);
    assert_eq!(keys.ids().collect::<Vec<_>>(), [9, 200, 1]);
    assert!(keys.get(9).is_some());
    assert!(keys.get(2).is_none());
}

#[test]
fn wrong_lines_are_told_by_number() {
    let last = &A[..63];
    let same = "ab".repeat(32);
    let zero = "0".repeat(64);
    let cases = [
        ("\n1\n".to_owned(), "line 2: a line is"),
        (format!("1 {A} send"), "line 1: a line is"),
        (format!("1 {A} receive now"), "line 1: a line is"),
        (format!("0 {A}"), "line 1: a key's id"),
        (format!("256 {A}"), "line 1: a key's id"),
        (format!("x {A}"), "line 1: a key's id"),
        (format!("1 {A}\n2 {B}\n1 {B}"), "line 3: another key"),
        (format!("1 {last}"), "line 1: a key has 64"),
        (format!("1 {last}g"), "line 1: a key has 64"),
        (format!("1 {}é", &A[..62]), "line 1: a key has 64"),
        (format!("1 {zero}"), "line 1: all bytes"),
        (format!("1 {same}"), "line 1: all bytes"),
        (format!("1 {A} receive"), "has no key to send with"),
        (String::new(), "has no key to send with"),
    ];
    for (text, start) in cases {
        let told = wrong(&text);
        assert!(told.starts_with(start), "{text:?}: {told}");
        assert!(!told.contains(&A[..16]), "{told}");
    }
}

#[test]
fn keys_are_not_printed() {
    let keys = Keys::parse(&format!("1 {A}\n2 {B} receive")).expect("good keys");
    assert_eq!(format!("{keys:?}"), "Keys { ids: [1, 2], sending: 1, .. }");
}

#[test]
fn a_key_file_is_its_owners_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys");
    std::fs::write(&path, format!("1 {A}\n")).expect("written");
    let read_with = |mode: u32| {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("changed");
        Keys::read(&path).map_err(|e| e.to_string())
    };
    assert!(read_with(0o600).is_ok());
    assert!(read_with(0o400).is_ok());
    for mode in [0o640, 0o604, 0o620, 0o601] {
        let told = read_with(mode).expect_err("others may read it");
        let expected = format!("key file {}: others than its owner", path.display());
        assert!(told.starts_with(&expected), "{told}");
        assert!(told.contains(&format!("{mode:03o}")), "{told}");
    }
}

#[test]
fn what_is_no_key_file_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let told = |path: &Path| Keys::read(path).expect_err("no keys").to_string();
    assert!(told(&dir.path().join("none")).contains("No such file"));
    assert!(told(dir.path()).contains("is no regular file"));
    let path = dir.path().join("keys");
    let write = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("changed");
    };
    write(&vec![b'#'; 65_537]);
    assert!(told(&path).contains("longer than"));
    write(&[0xff, 0xfe]);
    assert!(told(&path).contains("UTF-8"));
    write(b"1 x\n");
    assert!(told(&path).contains("line 1: a key has 64"));
}
