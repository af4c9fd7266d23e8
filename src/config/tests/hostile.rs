//! Input that is large, damaged or made to harm: it is refused in bounded time, and nothing panics.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Nine levels of nine aliases each: 387 million values if they were expanded.
fn alias_bomb() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let _ = writeln!(
            text,
            "a{level}: &a{level} [{}]",
            vec![format!("*a{}", level - 1); 9].join(", ")
        );
    }
    text
}

#[test]
fn an_alias_bomb_is_refused_at_once() {
    let bomb = alias_bomb();
    let found = lines(&bomb);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("1:5: error: a0: YAML anchors and aliases"),
        "{found:?}"
    );
    assert!(is_done_within(Duration::from_millis(100), || drop(
        problems(&bomb)
    )));
}

#[test]
fn hostile_shapes_are_refused_in_bounded_time() {
    let keys: String = (0..50_000).fold(String::new(), |mut s, i| {
        let _ = writeln!(s, "key{i}: {i}");
        s
    });
    let texts = [
        "[".repeat(1 << 18),
        "{a: ".repeat(1 << 18),
        "- ".repeat(1 << 18),
        "? ".repeat(1 << 18),
        format!("ports: [{}]", "a,".repeat(1 << 17)),
        format!("ports: \"{}\"", "x".repeat(1 << 20)),
        format!("{}: 1\n", "x".repeat(1000)),
        " ".repeat(1 << 20),
        "\n".repeat(1 << 20),
        "a: 1\n".repeat(50_000),
        keys,
        "x".repeat(MAX_BYTES + 1),
    ];
    for text in texts {
        let start = Instant::now();
        let problems = load_str("t.yaml", &text).expect_err("it is no configuration");
        assert!(!problems.is_empty());
        let shown: usize = problems.iter().map(|p| p.to_string().len()).sum();
        assert!(shown < 2 << 20, "{shown} bytes of problems");
        let took = start.elapsed();
        // Far above what any takes; what is quadratic takes minutes.
        assert!(took < Duration::from_secs(20), "{text:.40}… {took:?}");
    }
}

/// A file of `services` services with five servers each.
fn large(services: usize) -> String {
    let mut text = String::from("ports: [{name: wan0, device: net_null0}]\nservices:\n");
    for i in 0..services {
        let (a, b) = (i / 250, i % 250 + 1);
        let _ = writeln!(
            text,
            "  - name: service-{i}\n    protocol: udp\n    address: 10.4.{a}.{b}\n    port: 5060\n    scheduler: wrr\n    servers:"
        );
        for s in 1..=5 {
            let _ = writeln!(
                text,
                "      - {{address: 10.1{s}.{a}.{b}, weight: {s}, upper_threshold: 50}}"
            );
        }
    }
    text
}

/// Whether `work` takes less than `limit`, at best of five times: the machine may be busy with other things.
fn is_done_within(limit: Duration, work: impl Fn()) -> bool {
    (0..5).any(|_| {
        let start = Instant::now();
        work();
        start.elapsed() < limit
    })
}

#[test]
fn ten_thousand_services_load_in_two_seconds() {
    let text = large(10_000);
    let load = || {
        let loaded = load_str("large.yaml", &text).expect("it is valid");
        assert_eq!(loaded.lowered.setup.services.len(), 10_000);
    };
    assert!(is_done_within(Duration::from_secs(2), load));
}

#[test]
fn beyond_a_thousand_problems_are_counted() {
    let text = large(10_000)
        .replace("weight: 3", "weight: x")
        .replace("wrr", "wrrr");
    let problems = load_str("large.yaml", &text).expect_err("it is not valid");
    assert_eq!(problems.len(), 1001);
    assert_eq!(
        problems[1000].message,
        "19000 further problems are not shown"
    );
}

/// Pieces that YAML and the model give a meaning, in any order.
fn soup() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "ports",
        "services",
        "servers",
        "name",
        "address",
        "weight",
        "dpdk",
        "cores",
        "timeouts",
        "udp",
        "protocol",
        "tcp",
        "192.0.2.1",
        "10.0.0.0/8",
        "::1",
        "5060",
        "60s",
        "4M",
        "-1",
        "~",
        "null",
        "true",
        "\"",
        "'",
        ":",
        ": ",
        "- ",
        "? ",
        "\n",
        "\n  ",
        "\n    ",
        "\n\t",
        " ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "#",
        "&a",
        "*a",
        "!!str",
        "|",
        ">",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\r\n",
        "\r",
        "<<",
        "\u{feff}",
        "é",
        "🙂",
        "@",
        "`",
        "\\",
        "\"\\x00\"",
    ]);
    prop::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

/// A valid file with one character changed.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    (
        any::<prop::sample::Index>(),
        any::<u8>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(at, byte, cut)| {
            let mut bytes = include_bytes!("../../../conf/example.yaml").to_vec();
            let index = at.index(bytes.len());
            bytes[index] = byte;
            if byte % 4 == 0 {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_the_loader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = load_bytes("t.yaml", &bytes);
    }

    #[test]
    fn no_yaml_makes_the_loader_panic(text in soup()) {
        let result = load_str("t.yaml", &text);
        prop_assert!(result.is_ok() || result.is_err_and(|problems| !problems.is_empty()));
    }

    #[test]
    fn every_problem_of_a_damaged_file_has_a_place_in_it(bytes in mutated()) {
        let lines = 1 + bytes.iter().filter(|b| matches!(b, b'\n' | b'\r')).count();
        if let Err(problems) = load_bytes("t.yaml", &bytes) {
            for problem in problems {
                prop_assert!((1..=lines).contains(&problem.line), "{}", problem);
                prop_assert!(problem.column >= 1);
            }
        }
    }
}
