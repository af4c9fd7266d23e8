//! What `polder ipvsadm` tells of refusals (specification §10.4), and its help.

use crate::mgmt::api::ErrorBody;

/// What is told of a command line that does not begin with a command.
pub(super) const TRY: &str = "Try `ipvsadm -h' or 'ipvsadm --help' for more information.";

/// ipvsadm's texts for refusals that mean different things to different commands (specification §10.4).
pub(super) struct Texts {
    exists: &'static str,
    not_there: &'static str,
    unknown: &'static str,
}

pub(super) const OF_SERVICE: Texts = Texts {
    exists: "Service already exists",
    not_there: "No such service",
    unknown: "Scheduler or persistence engine not found",
};
pub(super) const OF_SERVER: Texts = Texts {
    exists: "Destination already exists",
    not_there: "Service not defined",
    unknown: "No such destination",
};
pub(super) const START_DAEMON: Texts = Texts {
    exists: "Daemon has already run",
    not_there: "No such process",
    unknown: "No such file or directory",
};
pub(super) const STOP_DAEMON: Texts = Texts {
    not_there: "No daemon is running",
    ..START_DAEMON
};

/// A refusal in ipvsadm's words; where those say little, Polder's stand behind them.
pub(super) fn refusal(of: &Texts, body: &ErrorBody) -> String {
    let (text, says_all) = match body.code.as_deref() {
        Some("EEXIST") => (of.exists, true),
        Some("ESRCH") => (of.not_there, true),
        Some("ENOENT") => (of.unknown, true),
        Some("ERANGE") => ("Numerical result out of range", true),
        Some("ENODEV") => ("No such device", true),
        Some("ENOMEM") => ("Memory allocation problem", false),
        Some("EINVAL") => (
            "Invalid operation.  Possibly wrong module version, address not unicast, ...",
            false,
        ),
        _ => ("", false),
    };
    if says_all {
        return text.to_owned();
    }
    let own = match body.problems.as_slice() {
        [] => std::slice::from_ref(&body.error),
        problems => problems,
    };
    let own = own.iter().map(|why| format!("polder: {why}"));
    let text = Some(text.to_owned()).filter(|text| !text.is_empty());
    text.into_iter().chain(own).collect::<Vec<_>>().join("\n")
}

/// What `-h` tells.
pub(super) const HELP: &str = "\
ipvsadm v1.31's command line, on the running polder

Usage:
  ipvsadm -A|-E SERVICE [-s SCHEDULER] [-p [SECONDS]] [-M NETMASK] [--pe ENGINE] [-o] [-b FLAGS]
  ipvsadm -D SERVICE
  ipvsadm -C
  ipvsadm -a|-e SERVICE -r SERVER [-g|-i|-m] [-w WEIGHT] [-x CONNECTIONS] [-y CONNECTIONS] [TUNNEL]
  ipvsadm -d SERVICE -r SERVER
  ipvsadm -L|-l [SERVICE|-c|--timeout|--daemon] [-n] [--stats|--rate|--thresholds|--persistent-conn|--tun-info] …
  ipvsadm -Z [SERVICE]
  ipvsadm -S [-n]
  ipvsadm -R < RULES
  ipvsadm --set TCP TCPFIN UDP
  ipvsadm --start-daemon master|backup [DAEMON OPTIONS]
  ipvsadm --stop-daemon master|backup
  ipvsadm -h|-v

Commands, the first word:
  -A --add-service     a new service             -a --add-server      a new server of a service
  -E --edit-service    another one in its place  -e --edit-server     another one in its place
  -D --delete-service  without the service       -d --delete-server   without the server
  -C --clear           without any service       -Z --zero            listings count from 0 again
  -L --list            what there is             -S --save            the same as rules
  -R --restore         does rules from stdin     --set                timeouts in seconds, 0 keeps one
  --start-daemon, --stop-daemon                  state sync
  -h --help            this                      -v --version         the version

SERVICE:
  -t --tcp-service HOST[:PORT]    -u --udp-service HOST[:PORT]    --sctp-service HOST[:PORT]
  -f --fwmark-service MARK [-6]   that of a mark, with -6 of IPv6

Of services:
  -s --scheduler NAME     rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos, and Polder's hprio; default wlc
  -p --persistent [SECONDS]  clients stay on their server; default 360
  -M --netmask NETMASK    which clients stay together: an IPv4 netmask, an IPv6 prefix length
     --pe ENGINE          what else tells sessions apart: sip
  -o --ops                each UDP datagram is scheduled by itself
  -b --sched-flags FLAGS  sh-fallback, sh-port, mh-fallback, mh-port, by commas

Of servers:
  -r --real-server HOST[:PORT]
  -g --gatewaying (default)  -i --ipip  -m --masquerading
  -w --weight N           default 1; 0 takes no new connections
  -x --u-threshold N      takes no more connections than that   -y --l-threshold N  and new ones below that
     --tun-type ipip|gue|gre  --tun-port PORT  --tun-nocsum  --tun-csum  --tun-remcsum

Of listings:
  -n --numeric            no names          -c --connection        connections and templates
     --stats              counters             --rate              the same in a second
     --thresholds         thresholds           --persistent-conn   templates
     --tun-info           tunnels           -X --exact             numbers in full
     --nosort             in the order of the configuration, servers newest first
     --timeout            timeouts             --daemon            state sync

Of daemons:
  --mcast-interface NAME  --syncid N  --sync-maxlen BYTES  --mcast-group ADDRESS  --mcast-port PORT  --mcast-ttl N

What is changed here lasts until the next `polder reload` or restart. `polder ipvsadm --socket PATH …` and the variable
POLDER_SOCKET name another control socket than /run/polder/control.sock.
";
