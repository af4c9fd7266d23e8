//! Broken configurations and what is said of each.

mod hostile;
mod rules;
mod sessions;
mod sync;

use std::fmt::Write as _;
use std::time::Duration;

use super::model::LATER;
use super::*;
use crate::forward::PortId;
use crate::table::Method;

/// Line 1 of most inputs: one port, without a kernel interface so that nothing is left to the kernel's routes.
const PORT: &str = "ports: [{name: wan0, device: net_null0, addresses: [192.0.2.10/24, 10.0.0.1/8, 2001:db8::a/64]}]\n";
/// Line 2 of some: a service that is valid.
const WEB: &str =
    "services: [{protocol: tcp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}]\n";

fn problems(text: &str) -> Vec<Problem> {
    match load_str("t.yaml", text) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    }
}

/// The first line of each problem's text, without the file's name.
fn lines(text: &str) -> Vec<String> {
    let problems = problems(text);
    let first = |p: &Problem| p.to_string().lines().next().unwrap_or_default().to_owned();
    problems
        .iter()
        .map(|p| first(p).trim_start_matches("t.yaml:").to_owned())
        .collect()
}

/// A configuration with one service, whose lines start in line 3 with six blanks' indentation.
fn service(lines: &str) -> String {
    format!("{PORT}services:\n{lines}")
}

/// An input, and how each of its problems begins: all of them, in order.
struct Row {
    what: &'static str,
    text: String,
    want: &'static [&'static str],
}

fn row(what: &'static str, text: impl Into<String>, want: &'static [&'static str]) -> Row {
    Row {
        what,
        text: text.into(),
        want,
    }
}

fn check(rows: Vec<Row>) {
    let mut wrong = String::new();
    for Row { what, text, want } in rows {
        let found = lines(&text);
        let same = found.len() == want.len()
            && found
                .iter()
                .zip(want)
                .all(|(found, want)| found.starts_with(want));
        if !same {
            let _ = writeln!(
                wrong,
                "{what}: wanted {want:#?}, found {found:#?}\nin:\n{text}"
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn what_is_not_a_yaml_map_is_refused() {
    check(vec![
        row(
            "empty file",
            "",
            &["1:1: error: the configuration is empty"],
        ),
        row(
            "only comments",
            "# nothing\n\n",
            &["1:1: error: the configuration is empty"],
        ),
        row(
            "only null",
            "~\n",
            &["1:1: error: the configuration is empty"],
        ),
        row(
            "a list",
            "- a\n- b\n",
            &["1:1: error: expected a map with keys such as `dpdk`, found a list"],
        ),
        row(
            "a word",
            "hello\n",
            &["1:1: error: expected a map with keys such as `dpdk`, found `hello`"],
        ),
        row(
            "tab indentation",
            "dpdk:\n\tcores: [1]\n",
            &["2:2: error: dpdk: YAML does not allow tabs for indentation; use spaces"],
        ),
        row("unclosed list", "ports: [\n", &["2:1: error: "]),
        row(
            "unclosed quote",
            "ports: \"abc\n",
            &["1:8: error: ports: not valid YAML: "],
        ),
        row(
            "bad indentation",
            "dpdk:\n    cores: [1]\n  memory: 1G\n",
            &["3:3: error: "],
        ),
        row(
            "two documents",
            format!("{PORT}{WEB}---\n{PORT}"),
            &["3:1: error: a second YAML document starts here"],
        ),
        row(
            "anchor",
            "ports: &p []\n",
            &["1:8: error: ports: YAML anchors and aliases"],
        ),
        row("alias", "ports: []\nservices: *p\n", &["2:11: error: "]),
        row("tag", "ports: !!seq []\n", &["1:8: error: "]),
        row("own tag", "ports: !list []\n", &["1:8: error: "]),
        row(
            "list as key",
            "? [a, b]\n: 3\n",
            &["1:3: error: a key must be a plain word"],
        ),
        row(
            "NUL",
            "ports: []\0\n",
            &["1:10: error: the file contains a control character"],
        ),
        row(
            "escape",
            "# \u{1b}[31m\n",
            &["1:3: error: the file contains a control character"],
        ),
        row(
            "control after CR LF",
            "a:\r\nb: \u{7}\r\n",
            &["2:4: error: the file contains a control character"],
        ),
    ]);
}

#[test]
fn keys_are_checked() {
    check(vec![
        row(
            "no ports",
            WEB,
            &["1:1: error: ports: `ports` is missing from the configuration"],
        ),
        row(
            "empty ports",
            format!("ports: []\n{WEB}"),
            &["1:1: error: ports: there must be at least one port"],
        ),
        row(
            "unknown key",
            format!("{PORT}{WEB}portz: []\n"),
            &["3:1: error: portz: unknown key; did you mean `ports`?"],
        ),
        row(
            "another's word",
            format!("{PORT}real_servers: []\n{WEB}"),
            &["2:1: error: real_servers: unknown key; known here are `dpdk`"],
        ),
        row(
            "dash for underscore",
            format!("{PORT}{WEB}dpdk: {{management-core: 0}}\n"),
            &["3:8: error: dpdk.management-core: unknown key; did you mean `management_core`?"],
        ),
        row(
            "nothing near",
            format!("{PORT}{WEB}metrics: {{colour: red}}\n"),
            &["3:11: error: metrics.colour: unknown key; known here are `listen` and `detail`"],
        ),
        row(
            "duplicate key",
            format!("{PORT}{WEB}{WEB}"),
            &["3:1: error: services: the key is given twice; the first one is in line 2"],
        ),
        row(
            "duplicate inner key",
            format!(
                "{PORT}{WEB}metrics:\n  listen: 127.0.0.1:1\n  detail: server\n  listen: 127.0.0.1:2\n"
            ),
            &["6:3: error: metrics.listen: the key is given twice; the first one is in line 4"],
        ),
        row(
            "no value",
            format!("{PORT}services:\n"),
            &["2:1: error: services: `services` has no value"],
        ),
        row(
            "list for map",
            format!("{PORT}{WEB}dpdk: [1, 2]\n"),
            &["3:7: error: dpdk: expected a map with keys such as `cores`, found a list"],
        ),
        row(
            "map for list",
            format!("{PORT}services: {{name: x}}\n"),
            &["2:11: error: services: expected a list, found a map"],
        ),
        row(
            "text for list",
            format!("{PORT}{WEB}routes: none\n"),
            &["3:9: error: routes: expected a list, found `none`"],
        ),
        row(
            "empty item",
            format!("{PORT}{WEB}routes:\n  -\n"),
            &["4:4: error: routes[0]: expected a map with keys such as `to`, found nothing"],
        ),
    ]);
}

#[test]
fn values_have_their_types_and_ranges() {
    check(vec![
        row(
            "text for number",
            format!("{PORT}{WEB}dpdk: {{management_core: zero}}\n"),
            &["3:25: error: dpdk.management_core: expected a whole number, found `zero`"],
        ),
        row(
            "quoted number",
            format!("{PORT}{WEB}dpdk: {{management_core: \"0\"}}\n"),
            &["3:25: error: dpdk.management_core: expected a whole number, found the text \"0\""],
        ),
        row(
            "fraction",
            format!("{PORT}{WEB}dpdk: {{cores: [1.5]}}\n"),
            &["3:16: error: dpdk.cores[0]: expected a whole number, found `1.5`"],
        ),
        row(
            "octal",
            format!("{PORT}{WEB}dpdk: {{cores: [010]}}\n"),
            &[
                "3:16: error: dpdk.cores[0]: `010` starts with 0, which some programs read as octal; did you mean `10`?",
            ],
        ),
        row(
            "hexadecimal",
            format!("{PORT}{WEB}dpdk: {{cores: [0x10]}}\n"),
            &["3:16: error: dpdk.cores[0]: expected a whole number, found `0x10`"],
        ),
        row(
            "huge number",
            format!("{PORT}{WEB}dpdk: {{cores: [99999999999999999999999999999999999999999]}}\n"),
            &[
                "3:16: error: dpdk.cores[0]: 99999999999999999999999999999999999999999 is out of range",
            ],
        ),
        row(
            "yes",
            format!("{PORT}{WEB}dpdk: {{hugepages: yes}}\n"),
            &[
                "3:19: error: dpdk.hugepages: expected true or false, found `yes`; did you mean `true`?",
            ],
        ),
        row(
            "memory without suffix",
            format!("{PORT}{WEB}dpdk: {{memory: 1024}}\n"),
            &["3:16: error: dpdk.memory: 1024 is out of range; 64M to 1T is allowed"],
        ),
        row(
            "memory suffix",
            format!("{PORT}{WEB}dpdk: {{memory: 1GiB}}\n"),
            &[
                "3:16: error: dpdk.memory: `1GiB` is not a number or size such as 1000, 64k, 4M or 2G; did you mean `1G`?",
            ],
        ),
        row(
            "odd memory",
            format!("{PORT}{WEB}dpdk: {{memory: 1000000000}}\n"),
            &[
                "3:16: error: dpdk.memory: the memory must be a whole number of megabytes; did you mean `953M`?",
            ],
        ),
        row(
            "limit",
            format!("{PORT}{WEB}limits: {{connections: 1G}}\n"),
            &["3:23: error: limits.connections: 1G is out of range; 1 to 256M is allowed"],
        ),
        row(
            "limit of 0",
            format!("{PORT}{WEB}limits: {{services: 0}}\n"),
            &["3:20: error: limits.services: 0 is out of range; 1 to 64k is allowed"],
        ),
        row(
            "duration without unit",
            format!("{PORT}{WEB}timeouts: {{udp: 60}}\n"),
            &[
                "3:17: error: timeouts.udp: `60` is not a duration such as 250ms, 60s, 15m, 1h or 1d; did you mean `60s`?",
            ],
        ),
        row(
            "long unit",
            format!("{PORT}{WEB}timeouts: {{udp: 5 min}}\n"),
            &[
                "3:17: error: timeouts.udp: `5 min` is not a duration such as 250ms, 60s, 15m, 1h or 1d; did you mean `5m`?",
            ],
        ),
        row(
            "short timeout",
            format!("{PORT}{WEB}timeouts: {{udp: 250ms}}\n"),
            &["3:17: error: timeouts.udp: 250ms is out of range; 1s to 31d is allowed"],
        ),
        row(
            "long timeout",
            format!("{PORT}{WEB}timeouts: {{tcp_close: 32d}}\n"),
            &["3:23: error: timeouts.tcp_close: 32d is out of range; 1s to 31d is allowed"],
        ),
        row(
            "listen without host",
            format!("{PORT}{WEB}metrics: {{listen: \":9108\"}}\n"),
            &[
                "3:19: error: metrics.listen: `:9108` is not an address and port to listen on, such as 127.0.0.1:9108; did you mean `127.0.0.1:9108`?",
            ],
        ),
        row(
            "detail",
            format!("{PORT}{WEB}metrics: {{detail: servers}}\n"),
            &[
                "3:19: error: metrics.detail: `servers` is not one of `service`, `server` and `worker`; did you mean `server`?",
            ],
        ),
        row(
            "relative socket",
            format!("{PORT}{WEB}control: {{socket: run/polder.sock}}\n"),
            &["3:19: error: control.socket: the socket needs an absolute path"],
        ),
        row(
            "long socket",
            format!("{PORT}{WEB}control: {{socket: /{}}}\n", "x".repeat(107)),
            &["3:19: error: control.socket: the path has 108 bytes; the kernel allows 107"],
        ),
    ]);
}

#[test]
fn all_problems_of_a_file_are_found_at_once() {
    let text = "\
ports:
  - name: wan0
    device: net_null0
    mtu: 100
    mac: nonsense
    colour: red
services:
  - protocol: tpc
    address: 224.0.0.1
    port: 99999
    scheduler: best
    servers:
      - {address: 10.0.0.300, weight: -5, forwarding: magic, state: asleep}
      - {weight: x}
      - 7
  - {}
timeouts: {udp: never, tcp_close: 1w}
";
    let paths: Vec<_> = problems(text).into_iter().map(|p| p.path).collect();
    let server = "services[0].servers[0]";
    assert_eq!(
        paths,
        [
            "ports[0].mtu",
            "ports[0].mac",
            "ports[0].colour",
            "services[0].protocol",
            "services[0].address",
            "services[0].port",
            "services[0].scheduler",
            &format!("{server}.address"),
            &format!("{server}.weight"),
            &format!("{server}.forwarding"),
            &format!("{server}.state"),
            "services[0].servers[1].address",
            "services[0].servers[1].weight",
            "services[0].servers[2]",
            "services[1].protocol",
            "services[1].address",
            "services[1].port",
            "services[1].servers",
            "timeouts.udp",
            "timeouts.tcp_close",
        ]
    );
}

#[test]
fn a_refused_value_has_no_follow_ups() {
    // The protocol is unknown, so that these two may or may not be the same service.
    let text = service(
        "  - {protocol: tcp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n  \
         - {protocol: udpp, address: 192.0.2.80, port: 80, servers: [{address: 10.0.0.11}]}\n",
    );
    assert_eq!(lines(&text).len(), 1, "{:?}", lines(&text));
    // The port's name is known although its device is missing.
    let text = format!("{WEB}ports: [{{name: a}}]\nroutes: [{{to: 10.0.0.0/8, port: a}}]\n");
    assert_eq!(lines(&text).len(), 1, "{:?}", lines(&text));
    // The service's address is missing, so its server's family can't be wrong.
    let text = service("  - {protocol: tcp, port: 80, servers: [{address: \"2001:db8::1\"}]}\n");
    assert_eq!(lines(&text).len(), 1, "{:?}", lines(&text));
}

#[test]
fn a_problem_is_shown_with_its_line_and_a_caret() {
    let text = format!("{PORT}{WEB}timeouts:\n  udp: never\n");
    let shown: Vec<_> = problems(&text).iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "t.yaml:4:8: error: timeouts.udp: `never` is not a duration such as 250ms, 60s, 15m, 1h or 1d\n \
          4 |   udp: never\n   |        ^^^^^"
        ]
    );
}

#[test]
fn a_snippet_of_a_long_line_is_a_window_around_the_place() {
    let text = format!("ports: [{}]\nservices: []\n", "1, ".repeat(100_000) + "7");
    let problems = problems(&text);
    assert!(problems.len() <= 1001 + 1, "{}", problems.len());
    for problem in &problems[..1000] {
        assert!(problem.snippet.chars().count() < 400);
        let mut lines = problem.snippet.lines();
        let (line, caret) = (
            lines.next().expect("a line"),
            lines.next().expect("a caret"),
        );
        let at = caret.chars().position(|c| c == '^').expect("a caret");
        assert_eq!(line.chars().nth(at), Some('1'), "{}", problem.snippet);
    }
    assert!(
        problems[1000].message.contains("further problems"),
        "{:?}",
        problems[1000]
    );
    assert_eq!(problems[1000].severity, Severity::Error);
}

#[test]
fn line_ends_and_a_byte_order_mark_do_not_move_positions() {
    let text = format!("{PORT}{WEB}timeouts:\n  udp: never\n");
    let want = lines(&text);
    assert_eq!(lines(&text.replace('\n', "\r\n")), want);
    assert_eq!(lines(&format!("\u{feff}{text}")), want);
    assert_eq!(
        lines(&format!("\u{feff}{}", text.replace('\n', "\r\n"))),
        want
    );
}

#[test]
fn columns_count_characters() {
    let text = format!("{PORT}{WEB}\"ä🙂\": 1\ncontrol: {{\"µ\": 1, sockett: /x}}\n");
    assert_eq!(
        lines(&text)[1],
        "4:11: error: control.µ: unknown key; known here are `socket`"
    );
    assert!(
        lines(&text)[2].starts_with("4:19: error: control.sockett"),
        "{:?}",
        lines(&text)
    );
}

#[test]
fn bytes_that_are_not_text_are_refused_where_they_are() {
    let problems = load_bytes("t.yaml", b"ports: []\nname: a\xffb\n").expect_err("it is not UTF-8");
    assert_eq!((problems[0].line, problems[0].column), (2, 8));
    assert!(problems[0].message.contains("not UTF-8"));
}

#[test]
fn a_file_that_can_not_be_read_is_a_problem_without_a_position() {
    let problems = load(std::path::Path::new("/nonexistent/p.yaml")).expect_err("it is not there");
    let text = problems[0].to_string();
    assert!(
        text.starts_with("/nonexistent/p.yaml: error: the file can't be read: "),
        "{text}"
    );
    let large = tempfile::NamedTempFile::new().expect("a file");
    let size = super::MAX_BYTES as u64 + 1;
    large.as_file().set_len(size).expect("a hole");
    let problems = load(large.path()).expect_err("it is too large");
    let message = &problems[0].message;
    assert!(message.contains("larger than 8 MB"), "{message}");
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_waited_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.is_ok_and(|status| status.success()), "a pipe");
    for path in [pipe.as_path(), std::path::Path::new("/dev/zero")] {
        let problems = load(path).expect_err("it is no file");
        let message = &problems[0].message;
        assert!(message.contains("not a regular file"), "{message}");
    }
}

#[test]
fn what_is_announced_for_later_is_not_in_the_model() {
    for (map, key) in LATER {
        let schema = schema().to_value();
        let target = if *map == "Config" {
            &schema
        } else {
            &schema["definitions"][map]
        };
        assert!(target["properties"].get(key).is_none(), "{map}.{key}");
    }
}

#[test]
fn the_reference_names_every_scheduler() {
    let schema = schema().to_value();
    let key = &schema["definitions"]["Service"]["properties"]["scheduler"];
    let said = key["description"].as_str().expect("a description");
    let names = crate::sched::NAMES.join(", ");
    assert!(said.contains(&names), "{said} does not say {names}");
}

#[test]
fn a_default_that_depends_on_other_values_is_filled_in() {
    let loaded = load_str("t.yaml", &format!("{PORT}{WEB}")).expect("it is valid");
    assert!(loaded.warnings.is_empty());
    let service = &loaded.config.services[0];
    assert_eq!(service.name.as_deref(), Some("tcp-192.0.2.80-80"));
    assert_eq!(service.servers[0].port, Some(80));
}

#[test]
fn lowering_leaves_nothing_to_interpret() {
    let text = "\
ports:
  - {name: lan0, device: net_null1, kernel_interface: false}
  - {name: wan0, device: net_null0, addresses: [192.0.2.10/24], mac: 02:00:00:00:00:10, mtu: 9000}
neighbours: [{port: wan0, address: 192.0.2.1, mac: 02:00:00:00:00:01}]
routes: [{to: 0.0.0.0/0, via: 192.0.2.1, port: wan0}, {to: 10.0.0.0/8, port: lan0}]
services:
  - {name: dns, protocol: udp, address: 192.0.2.53, port: 53, scheduler: rr, servers: [
      {name: a, address: 10.0.0.1, weight: 3, upper_threshold: 8, lower_threshold: 6, state: drain},
      {address: 10.0.0.2, port: 5353, forwarding: masq}, {address: \"2001:db8::1\", forwarding: tunnel}]}
timeouts: {udp: 90s}
dpdk: {cores: [2, 3], memory: 2G, hugepages: false, eal: [--log-level=8]}
limits: {connections: 4M}
metrics: {listen: \"[::1]:9108\", detail: worker}
control: {socket: /tmp/p.sock}
";
    let lowered = load_str("t.yaml", text).expect("it is valid").lowered;
    let setup = &lowered.setup;
    assert_eq!(setup.ports[0].mtu, 1500);
    assert!(!setup.ports[0].kernel_interface && setup.ports[1].kernel_interface);
    assert_eq!(
        setup.ports[1].mac.map(|m| m.to_string()).as_deref(),
        Some("02:00:00:00:00:10")
    );
    assert_eq!(
        (setup.neighbours[0].port, setup.routes[0].port),
        (PortId(1), PortId(1))
    );
    assert_eq!(
        (setup.routes[1].port, setup.routes[1].via),
        (PortId(0), None)
    );
    let servers = &setup.services[0].servers;
    assert_eq!(
        (servers[0].port, servers[1].port, servers[2].port),
        (53, 5353, 53)
    );
    assert_eq!(
        (servers[0].method, servers[2].method),
        (Method::Masq, Method::Tunnel)
    );
    assert_eq!(servers[0].admin, crate::table::AdminState::Drain);
    assert_eq!(servers[1].label(), "10.0.0.2:5353");
    assert_eq!(setup.timeouts.udp, Duration::from_secs(90));
    assert_eq!(lowered.dpdk.memory_mb, 2048);
    assert_eq!(lowered.dpdk.cores, [2, 3]);
    assert_eq!(lowered.limits.connections, 4 << 20);
    assert_eq!(lowered.metrics.detail, Detail::Worker);
    assert_eq!(lowered.metrics.listen.to_string(), "[::1]:9108");
}

#[test]
fn defaults_of_the_model_are_those_of_the_data_path() {
    let lowered = load_str("t.yaml", &format!("{PORT}{WEB}"))
        .expect("it is valid")
        .lowered;
    assert_eq!(lowered.setup.timeouts, crate::forward::Timeouts::default());
}

#[test]
fn a_service_can_be_given_as_json() {
    let json = r#"{"protocol": "tcp", "address": "192.0.2.80", "port": 80, "servers": [{"address": "10.0.0.1"}]}"#;
    let service: model::Service = serde_json::from_str(json).expect("it is a service");
    let def = lower_service(&service).expect("it has all that it needs");
    assert_eq!(
        (def.name.as_str(), def.servers[0].port),
        ("tcp-192.0.2.80-80", 80)
    );
    let null = json.replace("\"192.0.2.80\"", "null");
    let null: model::Service =
        serde_json::from_str(&null).expect("null is as if it were not given");
    assert_eq!(lower_service(&null), Err(LowerError::Incomplete));
    let unknown = json.replace("\"port\"", "\"prot\"");
    assert!(serde_json::from_str::<model::Service>(&unknown).is_err());
}

#[test]
fn the_exit_code_follows_the_worst_problem() {
    let dir = tempfile::tempdir().expect("a directory for the test");
    let code = |text: &str, format| {
        let path = dir.path().join("t.yaml");
        std::fs::write(&path, text).expect("it can be written");
        let mut out = Vec::new();
        let code = run_check(&path, format, &mut out).expect("a Vec takes everything");
        (code, String::from_utf8(out).expect("it is text"))
    };
    // Core 0 is there on every machine, but has the management core on it.
    let warned = format!("{PORT}{WEB}dpdk: {{cores: [0]}}\n");
    for format in [Format::Text, Format::Json, Format::Yaml] {
        assert_eq!(code(&warned, format).0, 2);
        assert_eq!(code(&format!("ports: 7\n{WEB}"), format).0, 1);
    }
    let (_, text) = code(&warned, Format::Text);
    assert!(
        text.ends_with("is valid with 1 warning: 1 port, 1 service, 1 server\n"),
        "{text}"
    );
    let (_, json) = code(&format!("ports: 7\n{WEB}"), Format::Json);
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(
        (&json["valid"], &json["config"]),
        (&false.into(), &serde_json::Value::Null)
    );
    let problem = &json["problems"][0];
    assert_eq!(
        (&problem["line"], &problem["column"]),
        (&1.into(), &8.into())
    );
    assert_eq!(
        (&problem["severity"], &problem["path"]),
        (&"error".into(), &"ports".into())
    );
    let (_, yaml) = code(&warned, Format::Yaml);
    assert!(load_str("normalised", &yaml).is_ok(), "{yaml}");
}

#[test]
fn cores_that_the_machine_lacks_are_a_warning_of_check() {
    let warnings = |text: &str, cpus: &str| {
        let cpus = check::parse_cpus(cpus).expect("it is a list");
        let loaded = load::load_bytes_for("t.yaml", text.as_bytes(), Some(&cpus));
        let warnings = loaded.expect("it is valid").warnings;
        let first = |p: &Problem| p.to_string().lines().next().unwrap_or_default().to_owned();
        warnings.iter().map(first).collect::<Vec<_>>()
    };
    let text = format!("{PORT}{WEB}dpdk: {{cores: [1, 9]}}\n");
    let found = warnings(&text, "0-3,8\n");
    assert_eq!(
        found,
        [
            "t.yaml:3:19: warning: dpdk.cores[1]: this machine has no core 9 online; `polder run` would refuse it"
        ]
    );
    let found = warnings(&format!("{PORT}{WEB}"), "0");
    assert!(
        found[0].starts_with("t.yaml:1:1: warning: dpdk.cores: this machine has no core 1 online")
    );
    assert!(warnings(&text, "0-31").is_empty());
}
