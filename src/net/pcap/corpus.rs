//! The reader over real captures, held against what their manifest says of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{LINK_TYPE_ETHERNET, PcapError, Reader};

/// The folder with the captures, or `None`, said aloud.
fn data_folder() -> Option<PathBuf> {
    let shared = std::env::var_os("POLDER_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let data = shared.join("data");
    if data.join("pcap").is_dir() && data.join("MANIFEST-pcap.csv").is_file() {
        return Some(data);
    }
    eprintln!("SKIPPED: there are no captures in {}.", data.display());
    None
}

/// One row of the manifest.
#[derive(Debug)]
struct Capture {
    path: PathBuf,
    name: String,
    category: String,
    packets: usize,
    encapsulation: String,
}

fn captures(data: &Path) -> Vec<Capture> {
    let manifest = fs::read_to_string(data.join("MANIFEST-pcap.csv")).expect("it is a file");
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let name = fields[0]
            .split_once('/')
            .expect("the path starts with the half's name")
            .1;
        Capture {
            path: data.join(name),
            name: name.to_owned(),
            category: fields[1].to_owned(),
            packets: fields[7].parse().unwrap_or(0),
            encapsulation: fields[8].to_owned(),
        }
    };
    manifest.lines().skip(1).map(row).collect()
}

/// The number of frames, and the error that ended the file, if one did.
fn count(capture: &Capture, ethernet_only: bool) -> (usize, Option<PcapError>) {
    let file = File::open(&capture.path).expect("the manifest's file is there");
    let opened = if ethernet_only {
        Reader::open_ethernet(file)
    } else {
        Reader::open(file)
    };
    let mut reader = match opened {
        Ok(reader) => reader,
        Err(e) => return (0, Some(e)),
    };
    let mut buf = Vec::new();
    let mut frames = 0;
    loop {
        match reader.next(&mut buf) {
            Ok(Some(record)) => {
                assert!(buf.len() <= record.orig_len as usize);
                assert!(!ethernet_only || record.link_type == LINK_TYPE_ETHERNET);
                frames += 1;
            }
            Ok(None) => return (frames, None),
            Err(e) => return (frames, Some(e)),
        }
    }
}

#[test]
fn whole_captures_are_read_to_the_end_with_the_packets_of_the_manifest() {
    let Some(data) = data_folder() else { return };
    let mut wrong = Vec::new();
    let mut files = BTreeMap::new();
    for capture in captures(&data).iter().filter(|c| c.category != "damaged") {
        *files.entry(capture.category.clone()).or_insert(0) += 1;
        let (frames, error) = count(capture, false);
        if error.is_some() || frames != capture.packets {
            wrong.push(format!(
                "{}: {frames} of {} ({error:?})",
                capture.name, capture.packets
            ));
        }
    }
    println!("{files:?}");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn damaged_captures_and_other_link_types_are_refused_with_a_sentence() {
    let Some(data) = data_folder() else { return };
    let mut accepted = Vec::new();
    for capture in captures(&data) {
        if !matches!(capture.category.as_str(), "damaged" | "linktypes") {
            continue;
        }
        match count(&capture, true) {
            (frames, Some(e)) => println!("{}: {frames} frames, then: {e}", capture.name),
            (frames, None) => accepted.push(format!("{}: {frames} frames", capture.name)),
        }
    }
    assert!(accepted.is_empty(), "accepted:\n{}", accepted.join("\n"));
}

#[test]
fn captures_are_refused_as_not_ethernet_exactly_when_the_manifest_says_so() {
    let Some(data) = data_folder() else { return };
    for capture in captures(&data) {
        let (_, error) = count(&capture, true);
        let refused = matches!(error, Some(PcapError::LinkType { .. }));
        match capture.encapsulation.as_str() {
            "ether" => assert!(!refused, "{}: {error:?}", capture.name),
            // "?" is a file that can't be read. "per-packet" is said of files whose interfaces differ, of which the
            // other ones may have no packets.
            "?" | "per-packet" => {}
            _ => assert!(refused, "{}: {error:?}", capture.name),
        }
    }
}
