//! Puts the version and, where the tree is a git checkout, its commit into the binary.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=.git/HEAD");
    let commit = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output()
        .ok()
        .filter(|o| o.status.success())
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |s| s.trim().to_owned());
    println!("cargo:rustc-env=POLDER_COMMIT={commit}");
    let dpdk = std::env::var("DEP_DPDK_VERSION").unwrap_or_else(|_| "none".to_owned());
    println!("cargo:rustc-env=POLDER_DPDK_VERSION={dpdk}");
}
