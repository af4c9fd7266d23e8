//! `ipvsadm -S`: the rules that `ipvsadm -R` reads (specification §10.6), and what they can't say.

use std::net::SocketAddr;

use super::grammar::shown_flags;
use super::list::{Look, Shown, mask, shown, whole_seconds};
use crate::mgmt::api;

/// All services and servers, a command line each.
#[must_use]
pub fn rules(services: &[api::Service], look: &Look<'_>) -> String {
    let mut out = String::new();
    for s in shown(services, true) {
        let of = handle(&s, look);
        out.push_str(&format!("-A {of}{}\n", service(s.service)));
        for (at, d) in &s.servers {
            out.push_str(&format!("-a {of} {}\n", server(d, *at, s.proto, look)));
        }
    }
    out
}

fn handle(s: &Shown<'_>, look: &Look<'_>) -> String {
    let Some(at) = s.at else {
        let family = if s.is_ipv6() { " -6" } else { "" };
        return format!("-f {}{family}", s.mark);
    };
    let option = match s.proto {
        17 => "-u",
        132 => "--sctp-service",
        _ => "-t",
    };
    format!("{option} {}", look.endpoint(at, s.proto))
}

fn service(s: &api::Service) -> String {
    let mut out = format!(" -s {}", s.scheduler);
    if let Some(p) = &s.persistence {
        out.push_str(&format!(" -p {}", whole_seconds(p.timeout_s)));
        if let Some(mask) = mask(s, p) {
            out.push_str(&format!(" -M {mask}"));
        }
        if let Some(engine) = &p.engine {
            out.push_str(&format!(" --pe {engine}"));
        }
    }
    if s.one_packet {
        out.push_str(" -o");
    }
    let flags = shown_flags(&s.scheduler, &s.flags);
    if !flags.is_empty() {
        out.push_str(&format!(" -b {}", flags.join(",")));
    }
    out
}

fn server(d: &api::Server, at: SocketAddr, proto: u8, look: &Look<'_>) -> String {
    let method = match d.forwarding.as_str() {
        "masq" => "-m",
        "tunnel" => "-i",
        _ => "-g",
    };
    let at = look.endpoint(at, proto);
    let tunnel = d.tunnel.as_deref().map_or_else(String::new, tunnel);
    format!("-r {at} {method} -w {}{tunnel}", d.weight)
}

/// A tunnel's options, from what `--tun-info` lists.
fn tunnel(info: &str) -> String {
    let mut parts = info.split(':');
    let kind = parts.next().unwrap_or_default();
    let mut out = format!(" --tun-type {kind}");
    for part in parts {
        match part {
            "-c" => out.push_str(" --tun-nocsum"),
            "+c" => out.push_str(" --tun-csum"),
            "r+c" => out.push_str(" --tun-remcsum"),
            port => out.push_str(&format!(" --tun-port {port}")),
        }
    }
    out
}

/// What the rules don't say of the services, a sentence each.
#[must_use]
pub fn unsaid(services: &[api::Service]) -> Vec<String> {
    let mut out = Vec::new();
    for s in services {
        if let Some(key) = &s.payload_key {
            out.push(format!(
                "service {} has payload_key {key}, for which ipvsadm has no words: restored, it is without",
                s.name
            ));
        }
        let engine = s.persistence.as_ref().and_then(|p| p.field.as_ref());
        if let Some(field) = engine {
            out.push(format!(
                "service {} has engine payload at {field}, for which ipvsadm has no words: it is not restored",
                s.name
            ));
        }
        for d in s.servers.iter().filter(|d| !d.removed) {
            if let "drain" | "maint" = d.state.as_str() {
                out.push(format!(
                    "server {}/{} has state {}, for which ipvsadm has no words: restored, it is ready and takes new \
                     connections",
                    s.name, d.name, d.state
                ));
            }
        }
    }
    out
}
