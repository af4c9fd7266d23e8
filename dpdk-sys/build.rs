//! Finds libdpdk with pkg-config, compiles the shim and generates the bindings.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The libraries that hold what is bound. `rte_log` is a part of `rte_eal` before 24.03.
const LIBRARIES: [&str; 6] = [
    "rte_eal",
    "rte_log",
    "rte_ethdev",
    "rte_mbuf",
    "rte_mempool",
    "rte_ring",
];

/// Every function that Polder calls.
const FUNCTIONS: &[&str] = &[
    "polder_.*",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_init",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_intr_callback_register",
    "rte_intr_fd_set",
    "rte_intr_instance_alloc",
    "rte_intr_type_set",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_openlog_stream",
    "rte_pktmbuf_copy",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
];

/// Constants, all of them ours.
const CONSTANTS: &str = "POLDER_.*";

/// Structures that are only pointed to. `rte_mbuf` is here because its fields move between releases.
const OPAQUE: [&str; 7] = [
    "rte_mbuf",
    "rte_mempool",
    "rte_device",
    "rte_intr_handle",
    "rte_eth_vmdq_.*",
    "rte_eth_dcb_.*",
    "_IO_FILE",
];

fn main() {
    for file in ["build.rs", "wrapper.h", "shim.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    for variable in [
        "PKG_CONFIG",
        "PKG_CONFIG_PATH",
        "PKG_CONFIG_LIBDIR",
        "LIBCLANG_PATH",
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let version = pkg_config("--modversion").concat();
    let cflags = pkg_config("--cflags");
    link(&pkg_config("--libs"));
    compile_shim(&cflags);
    bind(&cflags);
    println!("cargo:version={version}");
}

/// The words that pkg-config prints for libdpdk.
fn pkg_config(question: &str) -> Vec<String> {
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let said = match Command::new(&program).args([question, "libdpdk"]).output() {
        Ok(output) if output.status.success() => {
            return String::from_utf8_lossy(&output.stdout)
                .split_whitespace()
                .map(str::to_owned)
                .collect();
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("{} does not run: {error}", program.to_string_lossy()),
    };
    eprintln!(
        "pkg-config does not find libdpdk: {said}\n\n\
         Install it:               apt-get install libdpdk-dev pkg-config clang libclang-dev\n\
         or name its folder:       PKG_CONFIG_PATH=/opt/dpdk/lib/pkgconfig cargo build\n\
         or build without it:      cargo build --no-default-features"
    );
    std::process::exit(1)
}

/// Links the few libraries that are called. The drivers are plugins that EAL loads at run time.
fn link(words: &[String]) {
    for word in words {
        if let Some(folder) = word.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
        }
        if let Some(name) = word
            .strip_prefix("-l")
            .filter(|name| LIBRARIES.contains(name))
        {
            println!("cargo:rustc-link-lib=dylib={name}");
        }
    }
}

fn compile_shim(cflags: &[String]) {
    let mut build = cc::Build::new();
    build
        .file("shim.c")
        .include(".")
        .define("ALLOW_EXPERIMENTAL_API", None);
    for flag in cflags {
        build.flag(flag);
    }
    // DPDK's own headers have warnings that are nobody's business here.
    build
        .warnings(false)
        .opt_level(3)
        .compile("polder_dpdk_shim");
}

fn bind(cflags: &[String]) {
    choose_libclang();
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        .clang_arg("-DALLOW_EXPERIMENTAL_API")
        .rust_edition(bindgen::RustEdition::Edition2024)
        .allowlist_var(CONSTANTS)
        .blocklist_item("per_lcore_.*")
        .blocklist_type("rte_mbuf_.*")
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for structure in OPAQUE {
        builder = builder.opaque_type(structure);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    builder
        .generate()
        .unwrap_or_else(|error| panic!("bindgen cannot read the headers of libdpdk: {error}"))
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");
}

/// With several LLVM versions installed, bindgen loads the newest libclang, which then reads the intrinsics' headers
/// of another version and fails. Debian 12's own version is taken unless the caller chose one.
fn choose_libclang() {
    const DEBIAN_12: &str = "/usr/lib/llvm-14/lib";
    if env::var_os("LIBCLANG_PATH").is_none() && Path::new(DEBIAN_12).exists() {
        // SAFETY: the build script has one thread.
        unsafe { env::set_var("LIBCLANG_PATH", DEBIAN_12) };
    }
}
