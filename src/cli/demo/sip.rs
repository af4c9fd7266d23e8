//! `polder demo sip`: a thousand calls of real SIP user agents on one 5-tuple, to three servers.
//!
//! The caller has one socket for all of its calls, as a proxy has, so addresses and ports say nothing about which call a
//! datagram belongs to: a one-packet service with the `sip` engine keeps each call where it began. What went where is
//! read from the servers' own records of what they heard, never from the appliance's counters.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::args::DemoDevice;
use super::super::{Failure, print};
use super::lab::{self, Lab, Namespace, Process};
use super::{CLIENT, Network, Promises, SERVERS, VICTIM, VIRTUAL, minus, servers_yaml};

/// Calls, and how many begin a second.
const CALLS: u64 = 1200;
const RATE: u64 = 80;
/// How long a call lasts, in milliseconds.
const TALK_MS: u64 = 4000;
/// When the server is killed, and how long it is away: longer than a call lasts.
const KILLED_AFTER: Duration = Duration::from_millis(5000);
const AWAY: Duration = Duration::from_millis(5500);
/// The longest that all calls may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// Processes that answer: a server each, and the killed one's second life.
const AGENTS: usize = SERVERS.len() + 1;
/// The second life.
const SECOND_LIFE: usize = SERVERS.len();

/// What a caller's run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub good: u64,
    pub failed: u64,
}

pub(super) fn run(device: DemoDevice, out: &mut dyn Write) -> Result<(), Failure> {
    lab::need(&["sipp"])?;
    let service = format!(
        "  - name: sip\n    protocol: udp\n    address: {VIRTUAL}\n    port: 5060\n    scheduler: rr\n    one_packet: true\n    \
         persistence: {{timeout: 60s, netmask: 0.0.0.0, engine: sip}}\n    servers:\n{}",
        servers_yaml(5060)
    );
    let net = Network::start(device, &service)?;
    net.progress("the appliance is up; starting three SIP servers");
    let mut agents: Vec<Process> = (0..SERVERS.len())
        .map(|i| answerer(&net, i))
        .collect::<Result<_, String>>()?;
    // A call or three to let the kernel find the neighbours.
    let caller = Caller {
        name: OURS,
        own: CLIENT,
        target: VIRTUAL,
        calls: CALLS,
        rate: RATE,
        talk_ms: TALK_MS,
        patience_ms: Some(4000),
    };
    let (mut warm, file) = Caller {
        name: "warm",
        calls: 3,
        talk_ms: 0,
        ..caller
    }
    .start(&net.lab, &net.client)?;
    finish_calls(&mut warm, &file, PATIENCE)?;

    net.progress(&format!("{CALLS} calls on one 5-tuple begin"));
    let (mut caller, file) = caller.start(&net.lab, &net.client)?;
    std::thread::sleep(KILLED_AFTER);
    net.progress("one server is killed with calls in progress and taken out");
    agents[VICTIM].kill();
    net.set_victim("sip", 5060, "maint")?;
    // What the workers had in hand by the configuration before.
    std::thread::sleep(Duration::from_millis(100));
    let out_at = net.given()?;
    std::thread::sleep(AWAY);
    let away = minus(net.given()?, out_at);
    net.progress("it comes back");
    agents[VICTIM] = answerer(&net, SECOND_LIFE)?;
    net.set_victim("sip", 5060, "ready")?;
    let calls = finish_calls(&mut caller, &file, PATIENCE)?;
    let (received, punted, dropped, identity) = net.frames()?;
    net.progress("done");
    net.progress_end();

    let records: Vec<_> = (0..AGENTS).map(|agent| record(&net, agent)).collect();
    let heard = heard_by_all(&records)?;
    let tally = Tally::of(&heard);
    let mut text = tally.table();
    text.push_str(&format!(
        "\nmisdirected in-dialog requests = {}\n\
         calls completed: {}, failed: {}; {} were open on the server when it was killed\n\
         frames: {received} received, {punted} given to the kernel, {dropped} dropped\n\n",
        tally.misdirected(),
        calls.good,
        calls.failed,
        tally.orphans,
    ));
    print(out, &text)?;

    let mut promises = Promises::default();
    let begun: u64 = tally.agents.iter().map(|a| a.calls).sum();
    promises.see(
        begun == CALLS && calls.good + calls.failed == CALLS,
        format!("{CALLS} calls of {} s on one 5-tuple", TALK_MS / 1000),
    );
    promises.see(
        tally.agents[..SERVERS.len()].iter().all(|a| a.calls > 0),
        "all three servers have calls",
    );
    promises.see(
        tally.misdirected() == 0,
        "every request within a call of a living server reaches the server that has the call",
    );
    promises.see(
        tally.agents[..SERVERS.len()]
            .iter()
            .all(|a| a.in_dialog > 0)
            && tally.orphans > 0,
        "there were such requests to every server, and calls on the killed one",
    );
    promises.see(
        away[VICTIM] == 0,
        "the killed server gets nothing once it is out",
    );
    promises.see(
        calls.failed <= tally.orphans,
        format!(
            "only calls that were open on it may fail ({} did, {} were)",
            calls.failed, tally.orphans
        ),
    );
    promises.see(
        tally.agents[SECOND_LIFE].calls > 0,
        "it is used again when it is back",
    );
    promises.see(
        identity,
        "every received frame was transmitted, given to the kernel, dropped or held",
    );
    drop(agents);
    promises.end(net, out)
}

/// Which server an answering process is.
fn server_of(agent: usize) -> usize {
    if agent == SECOND_LIFE { VICTIM } else { agent }
}

/// Where an answering process writes what it hears and says.
fn record(net: &Network, agent: usize) -> PathBuf {
    net.lab.dir().join(format!("uas{agent}.messages"))
}

/// A SIP server that answers calls.
fn answerer(net: &Network, agent: usize) -> Result<Process, String> {
    let log = net.lab.dir().join(format!("uas{agent}.log"));
    answer(
        &net.servers,
        SERVERS[server_of(agent)],
        &record(net, agent),
        &log,
    )
}

/// A SIP server on port 5060 of `addr`, which writes what it hears and says into `record`.
pub(super) fn answer(
    ns: &Namespace,
    addr: &str,
    record: &Path,
    log: &Path,
) -> Result<Process, String> {
    let mut command = ns.command("sipp");
    command.current_dir(log.parent().unwrap_or_else(|| Path::new("/")));
    command.args(["-sn", "uas", "-i", addr, "-p", "5060"]);
    command.args(["-nostdin", "-t", "u1"]);
    command.args(["-trace_shortmsg", "-shortmessage_file"]);
    command.arg(record);
    let mut process = Process::start("sipp uas", command, log)?;
    // It listens within a moment; a call that comes too early is sent again by its caller.
    std::thread::sleep(Duration::from_millis(300));
    if process.is_running() {
        return Ok(process);
    }
    let said = std::fs::read_to_string(log).unwrap_or_default();
    Err(format!("a SIP server did not start:\n{said}"))
}

/// How the Call-IDs of the calls that count begin.
pub(super) const OURS: &str = "call";

/// A user agent that calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    /// How its Call-IDs begin.
    pub name: &'a str,
    /// Its address.
    pub own: &'a str,
    /// Whom it calls, on port 5060.
    pub target: &'a str,
    /// Calls in all, and how many begin a second.
    pub calls: u64,
    pub rate: u64,
    /// How long a call lasts, in milliseconds.
    pub talk_ms: u64,
    /// After how long a request without an answer is given up, in milliseconds; SIP's own time otherwise.
    pub patience_ms: Option<u64>,
}

impl Caller<'_> {
    /// Starts it; its statistics go into the file.
    pub(super) fn start(&self, lab: &Lab, ns: &Namespace) -> Result<(Process, PathBuf), String> {
        let name = self.name;
        let file = lab.dir().join(format!("{name}.csv"));
        let mut command = ns.command("sipp");
        command.current_dir(lab.dir());
        // One socket for all calls, and one port for all callers.
        command.args(["-sn", "uac", "-t", "u1", "-i", self.own, "-p", "5060"]);
        command
            .args(["-nostdin", "-cid_str"])
            .arg(format!("{name}-%u@demo"));
        let numbers = [
            ("-r", Some(self.rate)),
            ("-m", Some(self.calls)),
            ("-d", Some(self.talk_ms)),
            ("-l", Some(self.calls)),
            ("-recv_timeout", self.patience_ms),
        ];
        for (option, value) in numbers {
            if let Some(value) = value {
                command.arg(option).arg(value.to_string());
            }
        }
        command.args(["-fd", "1", "-trace_stat", "-stf"]).arg(&file);
        command.arg(format!("{}:5060", self.target));
        let log = lab.dir().join(format!("{name}.log"));
        let process = Process::start("sipp uac", command, &log)?;
        Ok((process, file))
    }
}

pub(super) fn finish_calls(
    caller: &mut Process,
    file: &Path,
    patience: Duration,
) -> Result<Calls, String> {
    caller.wait(patience)?;
    let text =
        std::fs::read_to_string(file).map_err(|e| format!("sipp left no statistics: {e}"))?;
    parse(&text).ok_or_else(|| format!("sipp's statistics are not understood:\n{text}"))
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

/// A request that a server has heard.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heard {
    /// Seconds since 1970.
    pub at: f64,
    pub agent: usize,
    pub call: String,
    pub method: Method,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Invite,
    Ack,
    Bye,
}

/// All requests of calls that count, from the servers' records, in the order of time.
pub(super) fn heard_by_all(records: &[PathBuf]) -> Result<Vec<Heard>, String> {
    let mut all = Vec::new();
    for (agent, path) in records.iter().enumerate() {
        let text = std::fs::read_to_string(path)
            .map_err(|e| format!("a SIP server left no record of its messages: {e}"))?;
        all.extend(text.lines().filter_map(|line| heard(agent, line)));
    }
    all.sort_by(|a, b| a.at.total_cmp(&b.at));
    Ok(all)
}

/// A line of sipp's short messages: date, time, seconds, received or sent, Call-ID, CSeq, first line; tabs between them.
fn heard(agent: usize, line: &str) -> Option<Heard> {
    let fields: Vec<_> = line.split('\t').collect();
    let [_, _, at, "R", call, _, first] = fields[..] else {
        return None;
    };
    let method = match first.split(' ').next()? {
        "INVITE" => Method::Invite,
        "ACK" => Method::Ack,
        "BYE" => Method::Bye,
        _ => return None,
    };
    call.starts_with(OURS).then_some(())?;
    Some(Heard {
        at: at.parse().ok()?,
        agent,
        call: call.to_owned(),
        method,
    })
}

/// What one server heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    /// Calls that began there.
    calls: u64,
    /// Requests within those.
    in_dialog: u64,
    /// Requests within calls that a living server has.
    misdirected: u64,
    /// Requests within calls that the killed server had.
    inherited: u64,
}

/// What all servers heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    agents: [Share; AGENTS],
    /// Calls that had begun on the killed server and not ended there.
    orphans: u64,
}

impl Tally {
    /// From all requests in the order of time. A call is where its first INVITE was heard; a request of a call that no
    /// server has heard an INVITE of is misdirected wherever it is heard.
    fn of(heard: &[Heard]) -> Self {
        let mut home: HashMap<&str, usize> = HashMap::new();
        for h in heard.iter().filter(|h| h.method == Method::Invite) {
            home.entry(&h.call).or_insert(h.agent);
        }
        let mut tally = Self::default();
        for agent in home.values() {
            tally.agents[*agent].calls += 1;
        }
        let mut ended: HashSet<&str> = HashSet::new();
        for h in heard {
            let share = &mut tally.agents[h.agent];
            match home.get(&*h.call) {
                Some(own) if *own == h.agent => {
                    share.in_dialog += u64::from(h.method != Method::Invite);
                    if h.method == Method::Bye && *own == VICTIM {
                        ended.insert(&h.call);
                    }
                }
                Some(&VICTIM) => share.inherited += 1,
                _ => share.misdirected += 1,
            }
        }
        tally.orphans = tally.agents[VICTIM].calls - ended.len() as u64;
        tally
    }

    fn misdirected(&self) -> u64 {
        self.agents.iter().map(|a| a.misdirected).sum()
    }

    /// A row for each server and life.
    fn table(&self) -> String {
        let mut text = format!(
            "\n{:<26}{:>8}{:>21}{:>14}{:>28}\n",
            "server", "calls", "in-dialog requests", "misdirected", "of the killed one's calls"
        );
        for (agent, share) in self.agents.iter().enumerate() {
            let life = match agent {
                VICTIM => " (until killed)",
                SECOND_LIFE => " (back again)",
                _ => "",
            };
            text.push_str(&format!(
                "{:<26}{:>8}{:>21}{:>14}{:>28}\n",
                format!("{}{life}", SERVERS[server_of(agent)]),
                share.calls,
                share.in_dialog,
                share.misdirected,
                share.inherited
            ));
        }
        text
    }
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

    #[test]
    fn the_servers_records_are_understood() {
        let line =
            "2026-01-02\t03:04:05.5\t1795247394.25\tR\tcall-1@demo\tCSeq:2 BYE\tBYE sip:x SIP/2.0";
        let h = heard(2, line).expect("a request");
        assert_eq!(
            (h.agent, &*h.call, h.method),
            (2, "call-1@demo", Method::Bye)
        );
        assert!((h.at - 1_795_247_394.25).abs() < 1e-6);
        assert_eq!(heard(2, &line.replace("\tR\t", "\tS\t")), None, "sent");
        assert_eq!(heard(2, &line.replace("call-1", "warm-1")), None);
        assert_eq!(
            heard(2, &line.replace("BYE sip:x SIP/2.0", "SIP/2.0 200 OK")),
            None
        );
    }

    #[test]
    fn a_request_at_another_server_than_its_call_s_is_misdirected_unless_that_was_killed() {
        let mut at = 0.0;
        let mut h = |agent, call: &str, method| {
            at += 1.0;
            Heard {
                at,
                agent,
                call: call.to_owned(),
                method,
            }
        };
        let heard = [
            h(0, "a", Method::Invite),
            h(0, "a", Method::Ack),
            h(2, "a", Method::Bye),
            h(VICTIM, "b", Method::Invite),
            h(2, "b", Method::Bye),
            h(VICTIM, "c", Method::Invite),
            h(VICTIM, "c", Method::Bye),
            h(2, "unheard of", Method::Ack),
            h(2, "a", Method::Invite),
            h(SECOND_LIFE, "d", Method::Invite),
            h(SECOND_LIFE, "d", Method::Bye),
        ];
        let tally = Tally::of(&heard);
        assert_eq!(tally.misdirected(), 3);
        assert_eq!(tally.orphans, 1);
        assert!(
            tally.table().contains("  of the killed one's calls\n"),
            "columns stay apart"
        );
        let share = |calls, in_dialog, misdirected, inherited| Share {
            calls,
            in_dialog,
            misdirected,
            inherited,
        };
        assert_eq!(tally.agents[0], share(1, 1, 0, 0));
        assert_eq!(tally.agents[VICTIM], share(2, 1, 0, 0));
        assert_eq!(tally.agents[2], share(0, 0, 3, 1));
        assert_eq!(tally.agents[SECOND_LIFE], share(1, 1, 0, 0));
    }
}
