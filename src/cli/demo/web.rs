//! `polder demo web`: HTTP through NAT to three nginx servers.

use std::io::Write;
use std::time::Duration;

use super::super::args::DemoDevice;
use super::super::{Failure, print};
use super::lab::{self, Process};
use super::{Network, Promises, SERVERS, VICTIM, VIRTUAL, minus, servers_yaml, table};

/// Seconds of each of the three phases.
const PHASE: u64 = 4;
/// Connections that the load keeps open at a time.
const OPEN: u64 = 20;

/// What a load generator's run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    requests: u64,
    errors: u64,
}

pub(super) fn run(device: DemoDevice, out: &mut dyn Write) -> Result<(), Failure> {
    lab::need(&["nginx", "wrk", "curl"])?;
    let service = format!(
        "  - name: web\n    protocol: tcp\n    address: {VIRTUAL}\n    port: 80\n    scheduler: wrr\n    servers:\n{}",
        servers_yaml(80)
    );
    let net = Network::start(device, &service)?;
    net.progress("the appliance is up; starting three nginx servers");
    let start = |i: usize| {
        let addr = SERVERS[i].parse().map_err(|e| format!("{e}"))?;
        net.lab
            .nginx(&net.servers, &format!("server{}", i + 1), addr)
    };
    let mut nginx: Vec<Process> = (0..SERVERS.len())
        .map(start)
        .collect::<Result<_, String>>()?;
    let page = first_page(&net)?;

    let zero = net.given()?;
    net.progress("phase 1: all three servers");
    let before = load(&net, PHASE)?;
    let one = net.given()?;

    net.progress("phase 2: one server is killed under load and taken out");
    let mut wrk = start_load(&net, PHASE + 1)?;
    std::thread::sleep(Duration::from_secs(1));
    let alive = net.given()?;
    nginx[VICTIM].kill();
    net.set_victim("web", 80, "maint")?;
    let two = net.given()?;
    let during = finish_load(&net, &mut wrk, PHASE + 1)?;
    let three = net.given()?;

    net.progress("phase 3: it comes back");
    nginx[VICTIM] = start(VICTIM)?;
    net.set_victim("web", 80, "ready")?;
    let after = load(&net, PHASE)?;
    let four = net.given()?;
    let (received, punted, dropped, identity) = net.frames()?;
    net.progress("done");
    net.progress_end();

    let phases = [
        ("all three", minus(one, zero)),
        ("one out", minus(three, two)),
        ("back again", minus(four, three)),
    ];
    let mut text = table("connections", &phases);
    text.push_str(&format!(
        "\nrequests answered: {}, {}, {}; failed: {}, {}, {}\n\
         frames: {received} received, {punted} given to the kernel, {dropped} dropped\n\n",
        before.requests,
        during.requests,
        after.requests,
        before.errors,
        during.errors,
        after.errors
    ));
    print(out, &text)?;

    let mut promises = Promises::default();
    let (all, without, again) = (phases[0].1, phases[1].1, phases[2].1);
    promises.see(
        page.starts_with("server"),
        format!("a client gets a page from http://{VIRTUAL}/"),
    );
    promises.see(all.iter().all(|n| *n > 0), "all three servers are used");
    promises.see(
        before.requests > 0 && before.errors == 0,
        "no request fails while all are there",
    );
    promises.see(
        without[VICTIM] == 0,
        "the killed server gets no connection once it is out",
    );
    // Nobody knows that it is dead before it is taken out, which takes a moment.
    let late = minus(two, alive)[VICTIM];
    promises.see(
        during.errors <= OPEN + late,
        format!(
            "only connections that it got before it was out may fail ({} did; {OPEN} were open in all, {late} came meanwhile)",
            during.errors
        ),
    );
    promises.see(again[VICTIM] > 0, "it is used again when it is back");
    promises.see(
        after.requests > 0 && after.errors == 0,
        "no request fails after that",
    );
    promises.see(
        identity,
        "every received frame was transmitted, given to the kernel, dropped or held",
    );
    promises.see(
        net.client
            .run(&format!("curl -s -m 2 http://{VIRTUAL}/"))
            .is_ok(),
        "it still answers",
    );
    drop(nginx);
    promises.end(net, out)
}

/// The first page, which may have to wait for the kernel to find the neighbours.
fn first_page(net: &Network) -> Result<String, String> {
    let url =
        format!("curl -s -m 2 --retry 5 --retry-connrefused --retry-delay 1 http://{VIRTUAL}/");
    net.client.run(&url)
}

fn start_load(net: &Network, seconds: u64) -> Result<Process, String> {
    let mut command = net.client.command("wrk");
    command.args([
        "-t",
        "2",
        "-c",
        &OPEN.to_string(),
        "-d",
        &seconds.to_string(),
        "--timeout",
        "5",
    ]);
    command.args(["-H", "Connection: close", &format!("http://{VIRTUAL}/")]);
    Process::start("wrk", command, &net.lab.dir().join("wrk.log"))
}

fn finish_load(net: &Network, wrk: &mut Process, seconds: u64) -> Result<Load, String> {
    wrk.wait(Duration::from_secs(seconds + 15))?;
    let said = std::fs::read_to_string(net.lab.dir().join("wrk.log")).map_err(|e| e.to_string())?;
    parse(&said).ok_or_else(|| format!("wrk said what is not understood:\n{said}"))
}

fn load(net: &Network, seconds: u64) -> Result<Load, String> {
    let mut wrk = start_load(net, seconds)?;
    finish_load(net, &mut wrk, seconds)
}

/// What wrk prints at its end.
fn parse(said: &str) -> Option<Load> {
    let requests = said
        .lines()
        .find_map(|l| l.split_once(" requests in ")?.0.trim().parse().ok())?;
    let line = said.lines().find(|l| l.contains("Socket errors:"));
    let errors = line.map_or(0, |l| {
        l.split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse::<u64>().ok())
            .sum()
    });
    let bad = said.lines().find_map(|l| {
        l.trim()
            .strip_prefix("Non-2xx or 3xx responses: ")?
            .parse()
            .ok()
    });
    Some(Load {
        requests,
        errors: errors + bad.unwrap_or(0u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_generators_words_are_understood() {
        let clean = "Running 5s test\n  64201 requests in 5.10s, 8.88MB read\nRequests/sec: 1\n";
        assert_eq!(
            parse(clean),
            Some(Load {
                requests: 64_201,
                errors: 0
            })
        );
        let errors = "  12 requests in 5.00s, 1MB read\n  Socket errors: connect 1, read 20, write 0, timeout 300\n  Non-2xx or 3xx responses: 7\n";
        assert_eq!(
            parse(errors),
            Some(Load {
                requests: 12,
                errors: 328
            })
        );
        assert_eq!(parse("unable to connect"), None);
    }
}
