//! Every capture of the shared test data through `replay`: no panic, every frame meets exactly one fate, and a damaged
//! file ends with a sentence. Skipped, loudly, where the data is not there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use polder::cli::replay::{Clock, Options, replay};
use polder::config;
use polder::worker::assemble::Sizes;

/// Virtual services on ports that the captures use, on any address there is: the corpus is read, not understood, so
/// the services are made for addresses that occur in it.
const CONFIG: &str = r#"
ports:
  - {name: wan0, device: net_null0, addresses: [192.0.2.10/24, "2001:db8:1::10/64"]}
neighbours:
  - {port: wan0, address: 192.0.2.1, mac: "02:00:00:00:00:01"}
  - {port: wan0, address: "2001:db8:1::1", mac: "02:00:00:00:00:01"}
routes:
  - {to: 0.0.0.0/0, via: 192.0.2.1, port: wan0}
  - {to: "::/0", via: "2001:db8:1::1", port: wan0}
services:
"#;

fn data() -> Option<PathBuf> {
    let root = std::env::var_os("POLDER_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let dir = root.join("data/pcap");
    if dir.is_dir() {
        Some(dir)
    } else {
        eprintln!("SKIPPED: no shared test data at {}", dir.display());
        None
    }
}

fn captures(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            captures(&path, out);
        } else if path.extension().is_some_and(|e| e != "csv") {
            out.push(path);
        }
    }
}

/// The busiest destinations of a capture, as (protocol, address, port).
fn destinations(path: &Path) -> Vec<(u8, std::net::IpAddr, u16)> {
    use polder::net::{L3, parse, pcap::Reader};
    let mut counts = std::collections::BTreeMap::new();
    let Ok(mut reader) = std::fs::File::open(path)
        .map_err(drop)
        .and_then(|f| Reader::open(f).map_err(drop))
    else {
        return Vec::new();
    };
    let mut frame = Vec::new();
    while let Ok(Some(_)) = reader.next(&mut frame) {
        let key = match parse(&frame).map(|p| p.l3) {
            Ok(L3::V4(p)) => (p.flow.proto, p.flow.dst.into(), p.flow.dst_port),
            Ok(L3::V6(p)) => (p.flow.proto, p.flow.dst.into(), p.flow.dst_port),
            _ => continue,
        };
        if matches!(key.0, 6 | 17 | 132) && key.2 != 0 {
            *counts.entry(key).or_insert(0u32) += 1;
        }
    }
    let mut all: Vec<_> = counts
        .into_iter()
        .map(|(k, n)| (std::cmp::Reverse(n), k))
        .collect();
    all.sort();
    all.into_iter().map(|(_, k)| k).take(20).collect()
}

/// A configuration whose services are the capture's own destinations.
fn config_for(path: &Path) -> String {
    let mut text = CONFIG.to_owned();
    let methods = ["masq", "direct", "tunnel"];
    let mut n = 0;
    for (proto, addr, port) in destinations(path) {
        let name = match proto {
            6 => "tcp",
            17 => "udp",
            _ => "sctp",
        };
        let (server, via) = match addr {
            std::net::IpAddr::V4(_) => ("192.0.2.1", "192.0.2.1"),
            std::net::IpAddr::V6(_) => ("2001:db8:1::1", "2001:db8:1::1"),
        };
        let _ = via;
        let service = format!(
            "  - {{name: s{n}, protocol: {name}, address: \"{addr}\", port: {port}, scheduler: wlc, servers: [{{address: \"{server}\", forwarding: {}}}]}}\n",
            methods[n % 3]
        );
        // Some captured destinations can't be virtual addresses (multicast, broadcast); those are left out.
        if config::load_str("one", &format!("{CONFIG}{service}")).is_ok() {
            text.push_str(&service);
            n += 1;
        }
    }
    if n == 0 {
        text.replace("services:\n", "")
    } else {
        text
    }
}

fn run(path: &Path, workers: usize) -> Result<polder::cli::replay::Finished, String> {
    let loaded = config::load_str("corpus", &config_for(path)).map_err(|p| format!("{p:?}"))?;
    let options = Options {
        inputs: vec![("wan0".into(), path.to_owned())],
        outputs: Vec::new(),
        clock: Clock::Capture,
        repeat: 1,
        settle: Duration::from_secs(600),
        workers,
        sizes: Sizes {
            connections: 4096,
            templates: 1024,
            services: 64,
            servers: 64,
            seed: 1,
        },
        connections: None,
    };
    replay(&loaded.lowered.setup, &options).map_err(|e| e.to_string())
}

#[test]
fn every_capture_is_replayed_and_every_frame_accounted_for() {
    let Some(dir) = data() else { return };
    let mut files = Vec::new();
    captures(&dir, &mut files);
    let total = files.len();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::sync::Mutex::new((0usize, 0usize, 0u64, Vec::new()));
    std::thread::scope(|s| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get().min(4)) {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(path) = files.get(i) else { return };
                    let hostile = path
                        .components()
                        .any(|c| matches!(c.as_os_str().to_str(), Some("damaged" | "linktypes")));
                    let result = run(path, 1 + i % 3);
                    let mut r = results.lock().expect("no panic holds it");
                    match result {
                        Ok(f) if f.report.identity_ok && f.report.held == 0 => {
                            r.0 += 1;
                            r.2 += f.report.received;
                            if hostile && f.cut.is_none() {
                                let name = path.display();
                                r.3.push(format!("{name}: read to the end without a word"));
                            }
                        }
                        Ok(f) => r.3.push(format!("{}: {:?}", path.display(), f.report)),
                        Err(sentence) => {
                            r.1 += 1;
                            if !hostile && !sentence.contains("only Ethernet") {
                                r.3.push(sentence);
                            }
                        }
                    }
                }
            });
        }
    });
    let (replayed, refused, frames, wrong) = results.into_inner().expect("no panic held it");
    eprintln!("{total} captures: {replayed} replayed ({frames} frames), {refused} refused");
    assert!(
        wrong.is_empty(),
        "{} of {total}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(
        replayed > 1500,
        "{replayed} of {total} replayed, {refused} refused"
    );
}

/// What a replay did that does not hang on the clock or on how many workers there were.
fn outcome(finished: &polder::cli::replay::Finished) -> String {
    let r = &finished.report;
    let services: Vec<_> = r
        .services
        .iter()
        .map(|s| serde_json::to_string(s).expect("JSON"))
        .collect();
    format!(
        "{} {} {} {:?} {} {services:?}",
        r.received, r.transmitted, r.punted, r.dropped, r.expired
    )
}

#[test]
fn captures_of_sctp_come_out_the_same_on_any_number_of_workers() {
    let Some(dir) = data() else { return };
    let mut files = Vec::new();
    captures(&dir.join("sctp"), &mut files);
    let mut associations = 0;
    for path in &files {
        let replayed: Result<Vec<_>, _> = [1, 2, 4].map(|n| run(path, n)).into_iter().collect();
        let all = match replayed {
            Err(why) if why.contains("only Ethernet") => continue,
            other => other.expect("it is replayed"),
        };
        let [one, two, four] = &all[..] else {
            unreachable!("three were asked for")
        };
        for finished in &all {
            assert!(finished.report.identity_ok, "{}", path.display());
        }
        assert_eq!(outcome(two), outcome(one), "{}", path.display());
        assert_eq!(outcome(four), outcome(one), "{}", path.display());
        associations += one.report.expired;
    }
    eprintln!(
        "{} captures of SCTP, {associations} connections",
        files.len()
    );
    assert!(associations > 0, "some begin with an INIT");
}
