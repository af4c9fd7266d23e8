//! Names of hosts and services, both ways: what the system's resolver and `/etc/services` say.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

/// What a resolver can do; the tests have one of their own.
type Forward = Box<dyn Fn(&str) -> Option<Ipv4Addr>>;
type Reverse = Box<dyn Fn(IpAddr) -> Option<String>>;

/// A resolver.
pub struct Names {
    /// Name, port and protocol's word, in the file's order, aliases behind their name.
    services: Vec<(String, u16, String)>,
    forward: Forward,
    reverse: Reverse,
    /// Addresses that were asked for already.
    known: RefCell<HashMap<IpAddr, Option<String>>>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Names {
    /// The system's. A host without a list of services has no names of ports.
    #[must_use]
    pub fn system() -> Self {
        let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
        let forward = |name: &str| {
            let mut all = (name, 0).to_socket_addrs().ok()?;
            all.find_map(|a| match a.ip() {
                IpAddr::V4(a) => Some(a),
                IpAddr::V6(_) => None,
            })
        };
        let reverse = |addr: IpAddr| {
            let name = dns_lookup::lookup_addr(&addr).ok()?;
            // Without a name the resolver answers with the address.
            name.parse::<IpAddr>().is_err().then_some(name)
        };
        Self::new(&services, Box::new(forward), Box::new(reverse))
    }

    /// Names of a list of services, as `/etc/services` has it, and of a resolver.
    #[must_use]
    pub fn new(services: &str, forward: Forward, reverse: Reverse) -> Self {
        let mut list = Vec::new();
        for line in services.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let (Some(name), Some(at)) = (words.next(), words.next()) else {
                continue;
            };
            let Some((port, proto)) = at.split_once('/') else {
                continue;
            };
            let Ok(port) = port.parse() else { continue };
            let of = |name: &str| (name.to_owned(), port, proto.to_owned());
            list.extend(std::iter::once(name).chain(words).map(of));
        }
        Self {
            services: list,
            forward,
            reverse,
            known: RefCell::default(),
        }
    }

    /// The first IPv4 address of a host.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        (self.forward)(name)
    }

    /// The name of an address.
    #[must_use]
    pub fn name_of(&self, addr: IpAddr) -> Option<String> {
        let mut known = self.known.borrow_mut();
        let asked = known.entry(addr).or_insert_with(|| (self.reverse)(addr));
        asked.clone()
    }

    /// The port of a service's name.
    #[must_use]
    pub fn port_of(&self, name: &str, proto: u8) -> Option<u16> {
        let of = |s: &&(String, u16, String)| s.0 == name && s.2 == word(proto);
        self.services.iter().find(of).map(|s| s.1)
    }

    /// The name of a port.
    #[must_use]
    pub fn service_of(&self, port: u16, proto: u8) -> Option<&str> {
        let of = |s: &&(String, u16, String)| s.1 == port && s.2 == word(proto);
        self.services.iter().find(of).map(|s| s.0.as_str())
    }
}

/// A protocol in `/etc/services`.
fn word(proto: u8) -> &'static str {
    match proto {
        17 => "udp",
        132 => "sctp",
        _ => "tcp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_names_and_aliases_by_protocol() {
        let list =
            "# comment\nhttp 80/tcp www # web\ndomain\t53/udp\ndomain 53/tcp\nbad x/tcp\nalone\n";
        let names = Names::new(list, Box::new(|_| None), Box::new(|_| None));
        assert_eq!(names.port_of("www", 6), Some(80));
        assert_eq!(names.port_of("www", 17), None);
        assert_eq!(names.service_of(80, 6), Some("http"));
        assert_eq!(names.service_of(53, 17), Some("domain"));
        assert_eq!(names.service_of(53, 132), None);
    }

    #[test]
    fn an_address_is_asked_for_once() {
        let asked = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = std::rc::Rc::clone(&asked);
        let reverse = move |_| {
            count.set(count.get() + 1);
            None
        };
        let names = Names::new("", Box::new(|_| None), Box::new(reverse));
        let addr = IpAddr::from([192, 0, 2, 1]);
        assert_eq!((names.name_of(addr), names.name_of(addr)), (None, None));
        assert_eq!(asked.get(), 1);
    }
}
