//! `polder demo sip`: calls of real SIP user agents over UDP to three servers.
//!
//! A plain UDP service: each call has a socket of its own, so a call is a connection and stays on its server.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::super::args::DemoDevice;
use super::super::{Failure, print};
use super::lab::{self, Process};
use super::{
    CLIENT, NEXT, Network, Promises, SERVERS, VICTIM, VIRTUAL, minus, servers_yaml, table,
};

/// Calls of each phase, and how many begin a second.
const CALLS: u64 = 240;
const RATE: u64 = 60;
/// How long a call lasts, in milliseconds.
const TALK_MS: u64 = 1000;

/// What a caller's run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Calls {
    good: u64,
    failed: u64,
}

pub(super) fn run(device: DemoDevice, out: &mut dyn Write) -> Result<(), Failure> {
    lab::need(&["sipp"])?;
    let service = format!(
        "  - name: sip\n    protocol: udp\n    address: {VIRTUAL}\n    port: 5060\n    scheduler: rr\n    servers:\n{}",
        servers_yaml(5060)
    );
    let net = Network::start(device, &service)?;
    net.progress("the appliance is up; starting three SIP servers");
    let mut agents: Vec<Process> = (0..SERVERS.len())
        .map(|i| answerer(&net, i))
        .collect::<Result<_, String>>()?;
    // A call or two to let the kernel find the neighbours.
    calls(&net, "warm", 3)?;

    let zero = net.given()?;
    net.progress("phase 1: calls to all three servers");
    let before = calls(&net, "before", CALLS)?;
    let one = net.given()?;

    net.progress("phase 2: one server is killed with calls in progress and taken out");
    let (mut caller, file) = start_calls(&net, "during", CALLS)?;
    std::thread::sleep(Duration::from_millis(1500));
    agents[VICTIM].kill();
    net.set_victim("sip", 5060, "maint")?;
    let two = net.given()?;
    let during = finish_calls(&mut caller, &file)?;
    let three = net.given()?;

    net.progress("phase 3: it comes back");
    agents[VICTIM] = answerer(&net, VICTIM)?;
    net.set_victim("sip", 5060, "ready")?;
    let after = calls(&net, "after", CALLS)?;
    let four = net.given()?;
    let (received, punted, dropped, identity) = net.frames()?;
    net.progress("done");
    net.progress_end();

    let phases = [
        ("all three", minus(one, zero)),
        ("one out", minus(three, two)),
        ("back again", minus(four, three)),
    ];
    let mut text = table("calls given to", &phases);
    text.push_str(&format!(
        "\ncalls completed: {}, {}, {}; failed: {}, {}, {}\n\
         frames: {received} received, {punted} given to the kernel, {dropped} dropped\n\n",
        before.good, during.good, after.good, before.failed, during.failed, after.failed
    ));
    print(out, &text)?;

    // What was open to the killed server: a third of the calls of a call's length.
    let open = (RATE * (TALK_MS + 500) / 1000).div_ceil(3) + 5;
    let mut promises = Promises::default();
    promises.see(
        before.good == CALLS && before.failed == 0,
        format!("{CALLS} calls complete while all are there"),
    );
    promises.see(
        phases[0].1.iter().all(|n| *n > 0),
        "all three servers are used",
    );
    promises.see(
        phases[1].1[VICTIM] == 0,
        "the killed server gets no call once it is out",
    );
    promises.see(
        during.failed <= open,
        format!(
            "only calls that were open to it may fail ({} did, at most {open} were)",
            during.failed
        ),
    );
    promises.see(phases[2].1[VICTIM] > 0, "it is used again when it is back");
    promises.see(
        after.good == CALLS && after.failed == 0,
        "no call fails after that",
    );
    promises.see(
        identity,
        "every received frame was transmitted, given to the kernel, dropped or held",
    );
    drop(agents);
    let stopped = net.stop();
    promises.see(stopped.is_ok(), "the appliance stops cleanly");
    if let Err(e) = &stopped {
        print(out, &format!("{e}\n"))?;
    }
    promises.verdict(out)?;
    print(out, NEXT)
}

/// A SIP server that answers calls.
fn answerer(net: &Network, i: usize) -> Result<Process, String> {
    let mut command = net.servers.command("sipp");
    command.current_dir(net.lab.dir());
    command.args([
        "-sn", "uas", "-i", SERVERS[i], "-p", "5060", "-nostdin", "-t", "u1",
    ]);
    let log = net.lab.dir().join(format!("uas{i}.log"));
    let mut process = Process::start("sipp uas", command, &log)?;
    // It listens within a moment; a call that comes too early is sent again by its caller.
    std::thread::sleep(Duration::from_millis(300));
    if process.is_running() {
        return Ok(process);
    }
    let said = std::fs::read_to_string(log).unwrap_or_default();
    Err(format!("a SIP server did not start:\n{said}"))
}

fn start_calls(net: &Network, name: &str, n: u64) -> Result<(Process, PathBuf), String> {
    let file = net.lab.dir().join(format!("{name}.csv"));
    let mut command = net.client.command("sipp");
    command.current_dir(net.lab.dir());
    // One socket for each call.
    command.args([
        "-sn",
        "uac",
        "-t",
        "un",
        "-max_socket",
        "4000",
        "-i",
        CLIENT,
        "-nostdin",
    ]);
    command.args([
        "-r",
        &RATE.to_string(),
        "-m",
        &n.to_string(),
        "-d",
        &TALK_MS.to_string(),
    ]);
    // A request without an answer is given up after so long.
    command
        .args(["-recv_timeout", "4000", "-fd", "1", "-trace_stat", "-stf"])
        .arg(&file);
    command.arg(format!("{VIRTUAL}:5060"));
    let process = Process::start(
        "sipp uac",
        command,
        &net.lab.dir().join(format!("{name}.log")),
    )?;
    Ok((process, file))
}

fn finish_calls(caller: &mut Process, file: &PathBuf) -> Result<Calls, String> {
    caller.wait(Duration::from_secs(60))?;
    let text =
        std::fs::read_to_string(file).map_err(|e| format!("sipp left no statistics: {e}"))?;
    parse(&text).ok_or_else(|| format!("sipp's statistics are not understood:\n{text}"))
}

fn calls(net: &Network, name: &str, n: u64) -> Result<Calls, String> {
    let (mut caller, file) = start_calls(net, name, n)?;
    finish_calls(&mut caller, &file)
}

/// The totals in the last line of sipp's statistics.
fn parse(csv: &str) -> Option<Calls> {
    let mut lines = csv.lines();
    let names: Vec<_> = lines.next()?.split(';').collect();
    let last: Vec<_> = lines.next_back()?.split(';').collect();
    let value = |name: &str| {
        let at = names.iter().position(|n| *n == name)?;
        last.get(at)?.trim().parse().ok()
    };
    Some(Calls {
        good: value("SuccessfulCall(C)")?,
        failed: value("FailedCall(C)")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_agents_statistics_are_understood() {
        let csv = "StartTime;SuccessfulCall(P);SuccessfulCall(C);FailedCall(C);\n1;1;1;0;\n2;238;239;1;\n";
        assert_eq!(
            parse(csv),
            Some(Calls {
                good: 239,
                failed: 1
            })
        );
        assert_eq!(parse(""), None);
    }
}
