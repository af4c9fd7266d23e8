//! The demos keep their promises: as root, over AF_XDP where the kernel has it, and without root in a user namespace.
#![cfg(feature = "dpdk")]

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use polder::cli::demo::lab::{Lab, need};

/// The demos measure time; one at a time has the processors to itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn demo(name: &str, before: &[&str], arguments: &[&str]) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let tools = need(&[
        "ip", "unshare", "nsenter", "setpriv", "sysctl", "ethtool", "nginx", "wrk", "curl", "sipp",
    ]);
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
    assert!(
        text.contains("all three") && !text.contains("NOT SEEN"),
        "{text}"
    );
}

#[test]
fn the_web_demo_keeps_its_promises() {
    demo("demo web", &[], &["web"]);
}

#[test]
fn the_sip_demo_keeps_its_promises() {
    demo("demo sip", &[], &["sip"]);
}

#[test]
fn the_web_demo_runs_over_af_xdp() {
    demo("demo web over af_xdp", &[], &["web", "--device", "af_xdp"]);
}

#[test]
fn the_web_demo_needs_no_root_in_a_user_namespace() {
    demo(
        "demo web in a user namespace",
        &["unshare", "-Urn"],
        &["web"],
    );
}
