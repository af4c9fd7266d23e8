//! The demos keep their promises: as root, over AF_XDP where the kernel has it, and without root in a user namespace.
#![cfg(feature = "dpdk")]

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use polder::cli::demo::lab::{Lab, is_root, need};

/// The demos measure time; one at a time has the processors to itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a demo; it must say all of `says`.
fn demo(name: &str, before: &[&str], arguments: &[&str], says: &[&str]) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tools = vec!["ip", "unshare", "nsenter", "setpriv", "sysctl", "ethtool"];
    match arguments[0] {
        "web" => tools.extend(["nginx", "wrk", "curl"]),
        "sip" => tools.push("sipp"),
        _ => tools.extend(["sipp", "keepalived"]),
    }
    let tools = need(&tools);
    if let Err(e) = tools.and_then(|()| Lab::new()?.namespace("probe").map(drop)) {
        eprintln!("SKIPPED: {name}: {e}");
        return;
    }
    let binary = env!("CARGO_BIN_EXE_polder");
    let mut words = before.to_vec();
    words.push(binary);
    words.push("demo");
    words.extend(arguments);
    if let Some(wrapper) = before.first() {
        let possible = Command::new(wrapper)
            .args(&before[1..])
            .arg("true")
            .status();
        if !possible.is_ok_and(|s| s.success()) {
            eprintln!(
                "SKIPPED: {name}: `{}` is not allowed here",
                before.join(" ")
            );
            return;
        }
    }
    let out = Command::new(words[0])
        .args(&words[1..])
        .output()
        .expect("the demo runs");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    if text.contains("XDP") && text.contains("did not start") {
        eprintln!("SKIPPED: {name}: this kernel has no AF_XDP for virtual interfaces");
        return;
    }
    assert!(out.status.success(), "{}\n{text}", out.status);
    let missing: Vec<_> = says.iter().filter(|s| !text.contains(**s)).collect();
    assert!(
        missing.is_empty() && !text.contains("NOT SEEN"),
        "does not say {missing:?}:\n{text}"
    );
}

#[test]
fn the_web_demo_keeps_its_promises() {
    demo("demo web", &[], &["web"], &["all three"]);
}

#[test]
fn the_sip_demo_keeps_its_promises() {
    let says = [
        "misdirected in-dialog requests = 0",
        "seen      1200 calls of 4 s on one 5-tuple",
    ];
    demo("demo sip", &[], &["sip"], &says);
}

#[test]
fn the_web_demo_runs_over_af_xdp() {
    demo(
        "demo web over af_xdp",
        &[],
        &["web", "--device", "af_xdp"],
        &["all three"],
    );
}

#[test]
fn the_web_demo_needs_no_root_in_a_user_namespace() {
    demo(
        "demo web in a user namespace",
        &["unshare", "-Urn"],
        &["web"],
        &["all three"],
    );
}

#[test]
fn the_failover_demo_keeps_its_promises() {
    if !is_root() {
        eprintln!("SKIPPED: demo failover: keepalived needs root");
        return;
    }
    let says = [
        "misdirected in-dialog requests = 0",
        "broken established TCP connections older than 3 s = 0",
        "the addresses moved twice and no more",
    ];
    let arguments = ["failover", "--calls", "150", "--connections", "60"];
    demo("demo failover", &[], &arguments, &says);
}
