//! Ports over DPDK's virtual devices, without hugepages and hardware.
//!
//! DPDK starts once per process, so each test runs itself again in a child process; those that need interfaces run
//! there in a network namespace of their own, which vanishes with them. Every test ends by asking whether all buffers
//! are back and whether received = transmitted + dropped; two tests break that on purpose to see that it is noticed.
#![cfg(feature = "dpdk")]

use std::env;
use std::fs;
use std::io::Write;
use std::mem;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use polder::io::dpdk::{
    DpdkQueue, Eal, EalConfig, EalError, Mbuf, Pool, PoolConfig, Port, PortConfig, PortError,
};
use polder::io::{Burst, PacketIo};
use polder::net::{Mac, PacketBuf};

// ---- running a case in a process and namespace of its own ----

const CASE: &str = "POLDER_DPDK_CASE";

#[derive(Clone, Copy, PartialEq)]
enum Network {
    /// The host's interfaces are not touched.
    Host,
    /// A namespace of its own.
    Private,
}

/// Runs `body` in a child process that is this very test.
fn own_process(name: &str, network: Network, body: fn()) {
    if env::var(CASE).is_ok_and(|case| case == name) {
        return body();
    }
    let Some(mut command) = child_command(network) else {
        return skip(
            name,
            "no network namespace can be made here (needs root or user namespaces)",
        );
    };
    let said = tempfile::NamedTempFile::new().expect("a file");
    let append = || {
        fs::OpenOptions::new()
            .append(true)
            .open(said.path())
            .expect("open again")
    };
    let mut child = command
        .args([
            "--exact",
            name,
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CASE, name)
        .stdin(Stdio::null())
        .stdout(append())
        .stderr(append())
        .spawn()
        .expect("the test runs itself");
    let status = wait(&mut child);
    let text = fs::read_to_string(said.path()).unwrap_or_default();
    let Some(status) = status else {
        panic!("{name}: not done within {LONGEST:?}\n{text}");
    };
    assert!(status.success(), "{name}: {status}\n{text}");
    for line in text
        .lines()
        .filter(|l| l.starts_with("SKIPPED") || l.starts_with("MEASURED"))
    {
        loudly(line);
    }
}

/// How long a case may take; far longer than any does.
const LONGEST: Duration = Duration::from_secs(90);

/// Waits for a child, and ends it when it takes too long.
fn wait(child: &mut std::process::Child) -> Option<std::process::ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < LONGEST {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().expect("a child can be killed");
    child.wait().expect("a killed child ends");
    None
}

fn child_command(network: Network) -> Option<Command> {
    let me = env::current_exe().expect("a test has a file");
    if network == Network::Host {
        return Some(Command::new(me));
    }
    let flags = ["-n", "-Urn"].into_iter().find(|flags| {
        let probe = Command::new("unshare")
            .args([flags, "true"])
            .stderr(Stdio::null())
            .status();
        probe.is_ok_and(|status| status.success())
    })?;
    let mut command = Command::new("unshare");
    command.arg(flags).arg(me);
    Some(command)
}

/// Past the harness, which swallows what a passing test prints.
fn loudly(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("stderr is open");
}

fn skip(name: &str, why: &str) {
    loudly(&format!("SKIPPED: {name}: {why}"));
}

// ---- the things that tests work with ----

/// A started DPDK with one pool.
struct Lab {
    eal: Eal,
    pool: Pool,
}

impl Lab {
    fn start() -> Self {
        let eal = Eal::start(&small()).expect("DPDK starts without hugepages");
        let pool = Pool::create(
            &eal,
            PoolConfig {
                buffers: 8191,
                room: 2048,
            },
        )
        .expect("memory");
        assert_eq!(pool.available(), 8191);
        Self { eal, pool }
    }

    fn open(&self, device: &str) -> Port {
        self.open_with(device, &PortConfig::default())
    }

    fn open_with(&self, device: &str, config: &PortConfig) -> Port {
        self.try_open(device, config)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_open(&self, device: &str, config: &PortConfig) -> Result<Port, PortError> {
        Port::open(&self.eal, &self.pool, device, config)
    }

    /// An experimental Ethernet frame with a number in it.
    fn frame(&self, number: u32, len: usize) -> Mbuf {
        let mut frame = self.pool.alloc().expect("a free buffer");
        assert!(frame.assign(&bytes(number, len)));
        frame
    }
}

fn small() -> EalConfig {
    EalConfig {
        hugepages: false,
        memory_mb: 128,
        ..EalConfig::default()
    }
}

fn bytes(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5,
    ];
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..len).map(|i| (i as u32).wrapping_mul(number | 1) as u8));
    frame
}

fn is_ours(frame: &Mbuf) -> bool {
    frame.data().get(12..14) == Some(&[0x88, 0xb5])
}

/// What became of the frames.
#[derive(Debug, Default, PartialEq)]
struct Ledger {
    received: u64,
    transmitted: u64,
    dropped: u64,
}

impl Ledger {
    /// One burst in, one burst out, the rest dropped: what a worker does.
    fn forward<B, I, O>(&mut self, from: &mut I, to: &mut O) -> usize
    where
        B: PacketBuf,
        I: PacketIo<Buf = B>,
        O: PacketIo<Buf = B>,
    {
        let mut burst = Burst::new();
        let came = from.rx_burst(&mut burst);
        self.received += came as u64;
        self.transmitted += to.tx_burst(&mut burst) as u64;
        self.dropped += burst.len() as u64;
        came
    }

    /// The two identities.
    fn check(&self, free_before: u32, free_after: u32) -> Result<(), String> {
        if self.received != self.transmitted + self.dropped {
            return Err(format!("received is not transmitted + dropped: {self:?}"));
        }
        if free_before != free_after {
            return Err(format!(
                "{free_before} buffers were free before, {free_after} after"
            ));
        }
        Ok(())
    }
}

/// Sends `frames` and receives as many of ours on any of `to`, in order of their bytes. Both sides are polled all
/// the time, as workers do: a memif cannot be sent to by a peer whose other end nobody polls.
fn carry(
    from: &mut DpdkQueue,
    to: &mut [DpdkQueue],
    frames: impl IntoIterator<Item = Mbuf>,
) -> Vec<Vec<u8>> {
    let mut frames: Vec<Mbuf> = frames.into_iter().collect();
    let count = frames.len();
    let deadline = Instant::now() + Duration::from_secs(5);
    let (mut out, mut got) = (Burst::new(), Vec::new());
    while got.len() < count {
        let next = frames.len().saturating_sub(out.remaining_capacity());
        out.extend(frames.drain(next..));
        from.tx_burst(&mut out);
        got.extend(to.iter_mut().flat_map(poll));
        assert!(
            Instant::now() < deadline,
            "{} of {count} frames came",
            got.len()
        );
    }
    sorted(got)
}

/// The frames of ours that wait in a queue.
fn poll(queue: &mut DpdkQueue) -> Vec<Vec<u8>> {
    let mut burst = Burst::new();
    queue.rx_burst(&mut burst);
    burst
        .iter()
        .filter(|f| is_ours(f))
        .map(|f| f.data().to_vec())
        .collect()
}

/// Sends frames 0 to `count` of 64 bytes to a device that takes them at once.
fn send(lab: &Lab, queue: &mut DpdkQueue, count: u32) {
    let mut burst = Burst::new();
    for number in 0..count {
        burst.push(lab.frame(number, 64));
        queue.tx_burst(&mut burst);
        assert!(burst.is_empty(), "the device takes no more frames");
    }
}

fn sorted(mut frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    frames.sort();
    frames
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.is_ok_and(|s| s.success()), "ip {arguments}");
}

fn interfaces() -> Vec<String> {
    let list = fs::read_to_string("/proc/self/net/dev").expect("readable");
    let mut names: Vec<_> = list
        .lines()
        .filter_map(|l| l.split_once(':'))
        .map(|(n, _)| n.trim().to_owned())
        .collect();
    names.sort();
    names
}

/// Two ends of a cable; the kernel has no address on either and stays silent.
fn veth() {
    for key in ["all", "default"] {
        // A kernel without IPv6 has no such file, and is silent anyway.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{key}/disable_ipv6"), "1");
    }
    ip("link add pveth0 type veth peer name pveth1");
    for end in ["pveth0", "pveth1"] {
        ip(&format!("link set {end} up"));
    }
}

/// Both directions between two ports on the ends of a cable.
fn exchange(a: &mut [DpdkQueue], b: &mut [DpdkQueue], lab: &Lab) {
    const COUNT: u32 = 500;
    let want: Vec<_> = (0..COUNT).map(|n| bytes(n, 60 + n as usize)).collect();
    let want = sorted(want);
    for round in 0..2 {
        let (from, to) = if round == 0 {
            (&mut *a, &mut *b)
        } else {
            (&mut *b, &mut *a)
        };
        let mut got = Vec::new();
        // A part at a time: the kernel's queues are short.
        for part in 0..COUNT / 50 {
            let numbers = part * 50..(part + 1) * 50;
            got.extend(carry(
                &mut from[0],
                to,
                numbers.map(|n| lab.frame(n, 60 + n as usize)),
            ));
        }
        assert_eq!(sorted(got), want, "round {round}");
    }
}

// ---- devices ----

#[test]
fn null_gives_frames_and_takes_them() {
    own_process("null_gives_frames_and_takes_them", Network::Host, || {
        let lab = Lab::start();
        let mut port = lab.open("net_null0");
        assert_eq!(port.driver(), "net_null");
        assert!(port.is_virtual() && port.link().up);
        let mut queue = port.queue(0).expect("the first queue");
        assert!(port.queue(0).is_none(), "a queue has one owner");
        let mut other = lab.open("net_null1");
        let mut out = other.queue(0).expect("the first queue");
        let mut ledger = Ledger::default();
        for _ in 0..1000 {
            ledger.forward(&mut queue, &mut out);
        }
        assert_eq!(ledger.received, 32_000);
        drop((queue, out));
        assert_eq!(
            port.close().expect("no queue is held").rx_packets,
            ledger.received
        );
        assert_eq!(
            other.close().expect("no queue is held").tx_packets,
            ledger.transmitted
        );
        ledger
            .check(lab.pool.size(), lab.pool.available())
            .expect("conserved");
    });
}

#[test]
fn each_worker_thread_polls_a_queue_of_its_own() {
    own_process(
        "each_worker_thread_polls_a_queue_of_its_own",
        Network::Host,
        || {
            let lab = Lab::start();
            let config = PortConfig {
                queues: 3,
                descriptors: 256,
                ..PortConfig::default()
            };
            let mut port = lab.open_with("net_null0", &config);
            assert_eq!((port.rx_queues(), port.tx_queues()), (3, 3));
            assert!(port.rss(), "the null device says that it can");
            let workers: Vec<_> = (0..3)
                .map(|i| {
                    let mut queue = port.queue(i).expect("a queue per worker");
                    let eal = lab.eal.clone();
                    std::thread::spawn(move || {
                        let _known = eal.register_thread().expect("room for a thread");
                        assert_eq!(eal.register_thread().err(), Some(EalError::ThreadKnown));
                        let mut ledger = Ledger::default();
                        for _ in 0..1000 {
                            let mut burst = Burst::new();
                            ledger.received += queue.rx_burst(&mut burst) as u64;
                            ledger.transmitted += queue.tx_burst(&mut burst) as u64;
                            ledger.dropped += burst.len() as u64;
                        }
                        ledger
                    })
                })
                .collect();
            let mut sum = Ledger::default();
            for worker in workers {
                let ledger = worker.join().expect("the worker ends");
                sum.received += ledger.received;
                sum.transmitted += ledger.transmitted;
                sum.dropped += ledger.dropped;
            }
            assert_eq!(port.stats().rx_packets, sum.received);
            port.close().expect("the workers dropped their queues");
            sum.check(lab.pool.size(), lab.pool.available())
                .expect("conserved");
        },
    );
}

#[test]
fn ring_gives_back_what_was_sent() {
    own_process("ring_gives_back_what_was_sent", Network::Host, || {
        let lab = Lab::start();
        let mut port = lab.open("net_ring0");
        let mut queue = port.queue(0).expect("the first queue");
        send(&lab, &mut queue, 100);
        let got: Vec<_> = (0..4).flat_map(|_| poll(&mut queue)).collect();
        assert_eq!(got, (0..100).map(|n| bytes(n, 64)).collect::<Vec<_>>());
        drop(queue);
        port.close().expect("no queue is held");
        assert_eq!(lab.pool.outstanding(), 0);
    });
}

#[test]
fn frames_that_wait_in_a_ring_are_freed_at_close() {
    own_process(
        "frames_that_wait_in_a_ring_are_freed_at_close",
        Network::Host,
        || {
            let lab = Lab::start();
            let mut port = lab.open("net_ring0");
            let mut queue = port.queue(0).expect("the first queue");
            send(&lab, &mut queue, 100);
            assert_eq!(lab.pool.outstanding(), 100);
            drop(queue);
            assert_eq!(port.close().expect("no queue is held").rx_drained, 100);
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}

#[test]
fn a_ring_that_is_full_leaves_the_rest_with_the_sender() {
    own_process(
        "a_ring_that_is_full_leaves_the_rest_with_the_sender",
        Network::Host,
        || {
            let lab = Lab::start();
            let mut port = lab.open("net_ring0");
            let mut queue = port.queue(0).expect("the first queue");
            let mut sent = 0;
            let rest = loop {
                let mut burst: Burst<Mbuf> = (sent..sent + 32).map(|n| lab.frame(n, 64)).collect();
                let took = queue.tx_burst(&mut burst) as u32;
                sent += took;
                if took < 32 {
                    break burst;
                }
            };
            assert_eq!(
                rest.len() as u32,
                32 - sent % 32,
                "the rest is what was not taken"
            );
            assert_eq!(
                rest[0].data(),
                bytes(sent, 64),
                "and begins where the device stopped"
            );
            assert_eq!(lab.pool.outstanding(), sent + rest.len() as u32);
            drop((rest, queue, port));
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}

/// Writes a capture: little-endian, microseconds, Ethernet.
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let words = |list: &[u32]| {
        list.iter()
            .flat_map(|w| w.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, 1]);
    for frame in frames {
        let len = frame.len() as u32;
        file.extend(words(&[0, 0, len, len]));
        file.extend(frame);
    }
    fs::write(path, file).expect("writable");
}

/// Reads a capture of the same kind (whatever the unit of its time stamps).
fn read_pcap(path: &Path) -> Vec<Vec<u8>> {
    let file = fs::read(path).expect("readable");
    let mut rest = &file[24..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().expect("four bytes")) as usize;
        frames.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

#[test]
fn a_capture_goes_through_unchanged() {
    own_process("a_capture_goes_through_unchanged", Network::Host, || {
        let folder = tempfile::tempdir().expect("a folder");
        let (input, output) = (
            folder.path().join("in.pcap"),
            folder.path().join("out.pcap"),
        );
        let frames: Vec<_> = (0..1400).map(|n| bytes(n, 60 + n as usize)).collect();
        write_pcap(&input, &frames);
        let lab = Lab::start();
        let (input, output) = (input.display(), output.display());
        let mut port = lab.open(&format!("net_pcap0,rx_pcap={input},tx_pcap={output}"));
        let mut queue = port.queue(0).expect("the first queue");
        let mut ledger = Ledger::default();
        loop {
            let mut burst = Burst::new();
            let came = queue.rx_burst(&mut burst);
            if came == 0 {
                break;
            }
            ledger.received += came as u64;
            ledger.transmitted += queue.tx_burst(&mut burst) as u64;
            ledger.dropped += burst.len() as u64;
        }
        drop(queue);
        port.close().expect("no queue is held");
        assert_eq!(
            ledger,
            Ledger {
                received: 1400,
                transmitted: 1400,
                dropped: 0
            }
        );
        ledger
            .check(lab.pool.size(), lab.pool.available())
            .expect("conserved");
        assert_eq!(read_pcap(&folder.path().join("out.pcap")), frames);
    });
}

#[test]
fn a_frame_that_fits_no_buffer_is_freed_and_counted() {
    own_process(
        "a_frame_that_fits_no_buffer_is_freed_and_counted",
        Network::Host,
        || {
            let folder = tempfile::tempdir().expect("a folder");
            let input = folder.path().join("in.pcap");
            write_pcap(
                &input,
                &[bytes(0, 60), bytes(1, 3000), bytes(2, 2048), bytes(3, 9000)],
            );
            let lab = Lab::start();
            let mut port = lab.open(&format!("net_pcap0,rx_pcap={}", input.display()));
            let mut queue = port.queue(0).expect("the first queue");
            let mut burst = Burst::new();
            assert_eq!(queue.rx_burst(&mut burst), 2);
            assert_eq!(
                [burst[0].data(), burst[1].data()],
                [bytes(0, 60), bytes(2, 2048)]
            );
            drop((burst, queue));
            let stats = port.close().expect("no queue is held");
            assert_eq!((stats.rx_packets, stats.rx_unfit), (4, 2));
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}

#[test]
fn a_device_with_fewer_transmit_queues_says_so() {
    own_process(
        "a_device_with_fewer_transmit_queues_says_so",
        Network::Host,
        || {
            let folder = tempfile::tempdir().expect("a folder");
            let input = folder.path().join("in.pcap");
            write_pcap(&input, &[bytes(0, 60)]);
            let (input, output) = (input.display(), folder.path().join("out.pcap"));
            let device = format!(
                "net_pcap0,rx_pcap={input},rx_pcap={input},tx_pcap={}",
                output.display()
            );
            let lab = Lab::start();
            let mut port = lab.open_with(
                &device,
                &PortConfig {
                    queues: 4,
                    ..PortConfig::default()
                },
            );
            assert_eq!((port.rx_queues(), port.tx_queues()), (2, 1));
            let mut second = port.queue(1).expect("there are two pairs");
            assert!(port.queue(2).is_none(), "and no third");
            assert!(second.receives() && !second.transmits());
            let mut burst = Burst::new();
            assert_eq!(second.rx_burst(&mut burst), 1);
            assert_eq!(
                (second.tx_burst(&mut burst), burst.len()),
                (0, 1),
                "nothing is lost"
            );
        },
    );
}

#[test]
fn af_packet_carries_frames_over_a_cable() {
    own_process(
        "af_packet_carries_frames_over_a_cable",
        Network::Private,
        || {
            veth();
            let lab = Lab::start();
            // The driver's name of today and the one it had are both understood.
            let two = PortConfig {
                queues: 2,
                ..PortConfig::default()
            };
            let mut near = lab.open_with("eth_af_packet0,iface=pveth0,qpairs=2", &two);
            let mut far = lab.open("net_af_packet1,iface=pveth1");
            assert_eq!((near.rx_queues(), near.tx_queues()), (2, 2));
            assert_eq!(near.mtu(), 1500);
            let mut a: Vec<_> = (0..2).map(|i| near.queue(i).expect("a pair")).collect();
            let mut b = [far.queue(0).expect("a pair")];
            exchange(&mut a, &mut b, &lab);
            drop((a, b));
            near.close().expect("no queue is held");
            far.close().expect("no queue is held");
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}

#[test]
fn a_tag_stays_in_the_frame() {
    own_process("a_tag_stays_in_the_frame", Network::Private, || {
        veth();
        let lab = Lab::start();
        let mut near = lab.open("net_af_packet0,iface=pveth0");
        let mut far = lab.open("net_af_packet1,iface=pveth1");
        let mut a = near.queue(0).expect("a pair");
        let mut b = far.queue(0).expect("a pair");
        let mut tagged = bytes(7, 100);
        tagged.splice(12..12, [0x81, 0x00, 0x60, 0x2a]);
        let mut frame = lab.pool.alloc().expect("a free buffer");
        assert!(frame.assign(&tagged));
        a.tx_burst(&mut Burst::from_iter([frame]));
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut burst = Burst::new();
        while !burst.iter().any(|f: &Mbuf| f.data() == tagged) {
            assert!(
                Instant::now() < deadline,
                "{:?}",
                burst.last().map(|f| f.data().to_vec())
            );
            b.rx_burst(&mut burst);
        }
    });
}

#[test]
fn tap_exchanges_frames_with_the_kernel_and_its_interface_goes_with_it() {
    let name = "tap_exchanges_frames_with_the_kernel_and_its_interface_goes_with_it";
    own_process(name, Network::Private, || {
        if !Path::new("/dev/net/tun").exists() {
            return skip("tap", "there is no /dev/net/tun");
        }
        let before = interfaces();
        let lab = Lab::start();
        let mac: Mac = "02:00:00:00:00:77".parse().expect("an address");
        let config = PortConfig {
            mac: Some(mac),
            mtu: Some(1400),
            ..PortConfig::default()
        };
        let mut tap = lab.open_with("net_tap0,iface=ptap0", &config);
        assert!(interfaces().contains(&"ptap0".to_owned()));
        assert_eq!((tap.mac(), tap.mtu()), (mac, 1400));
        let shown = fs::read_to_string("/proc/self/net/dev").expect("readable");
        assert!(shown.contains("ptap0"));
        ip("link set ptap0 up");
        let mut kernel = lab.open("net_af_packet0,iface=ptap0");
        let mut a = [tap.queue(0).expect("a pair")];
        let mut b = [kernel.queue(0).expect("a pair")];
        exchange(&mut a, &mut b, &lab);
        drop((a, b));
        kernel.close().expect("no queue is held");
        tap.close().expect("no queue is held");
        assert_eq!(lab.pool.outstanding(), 0);
        assert_eq!(interfaces(), before, "the interface went with the port");
    });
}

#[test]
fn tap_has_a_queue_per_worker() {
    own_process("tap_has_a_queue_per_worker", Network::Private, || {
        if !Path::new("/dev/net/tun").exists() {
            return skip("tap", "there is no /dev/net/tun");
        }
        let lab = Lab::start();
        let config = PortConfig {
            queues: 3,
            ..PortConfig::default()
        };
        let port = lab.open_with("net_tap0,iface=ptap0", &config);
        assert_eq!((port.rx_queues(), port.tx_queues()), (3, 3));
    });
}

#[test]
fn memif_carries_frames_between_two_ports() {
    own_process(
        "memif_carries_frames_between_two_ports",
        Network::Host,
        || {
            let folder = tempfile::tempdir().expect("a folder");
            let socket = folder.path().join("memif.sock");
            let socket = socket.display();
            let lab = Lab::start();
            let name = |i, role| {
                format!("net_memif{i},role={role},id=0,socket={socket},socket-abstract=no,rsize=10")
            };
            let mut server = lab.open(&name(0, "server"));
            let mut client = lab.open(&name(1, "client"));
            let deadline = Instant::now() + Duration::from_secs(5);
            while !(server.link().up && client.link().up) {
                assert!(Instant::now() < deadline, "the two do not connect");
            }
            let mut a = [server.queue(0).expect("a pair")];
            let mut b = [client.queue(0).expect("a pair")];
            exchange(&mut a, &mut b, &lab);
            drop((a, b));
            client.close().expect("no queue is held");
            server.close().expect("no queue is held");
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}

#[test]
fn af_xdp_carries_frames_over_a_cable() {
    own_process(
        "af_xdp_carries_frames_over_a_cable",
        Network::Private,
        || {
            veth();
            let lab = Lab::start();
            let opened = lab.try_open("net_af_xdp0,iface=pveth0", &PortConfig::default());
            let mut near = match opened {
                Ok(port) => port,
                Err(error) => return skip("af_xdp", &error.to_string()),
            };
            let mut far = lab.open("net_af_packet0,iface=pveth1");
            let mut a = [near.queue(0).expect("a pair")];
            let mut b = [far.queue(0).expect("a pair")];
            for _ in 0..5 {
                exchange(&mut a, &mut b, &lab);
            }
            drop((a, b));
            near.close().expect("no queue is held");
            far.close().expect("no queue is held");
            // The driver forgets what is in its rings, of 2048 each; but nothing of the 5,000 frames.
            assert!(
                lab.pool.outstanding() <= 2 * 2048,
                "{}",
                lab.pool.outstanding()
            );
        },
    );
}

// ---- life and death ----

#[test]
fn a_port_closes_with_the_last_of_its_queues() {
    own_process(
        "a_port_closes_with_the_last_of_its_queues",
        Network::Private,
        || {
            if !Path::new("/dev/net/tun").exists() {
                return skip("tap", "there is no /dev/net/tun");
            }
            let before = interfaces();
            let lab = Lab::start();
            let mut port = lab.open("net_tap0,iface=ptap0");
            let queue = port.queue(0).expect("a pair");
            let error = port.close().expect_err("a queue is held");
            assert!(
                matches!(error, PortError::QueuesHeld { queues: 1, .. }),
                "{error}"
            );
            assert_ne!(interfaces(), before);
            std::thread::spawn(move || drop(queue))
                .join()
                .expect("no panic");
            assert_eq!(interfaces(), before);
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}

#[test]
fn a_device_is_open_once_and_again_after_its_close() {
    own_process(
        "a_device_is_open_once_and_again_after_its_close",
        Network::Host,
        || {
            let lab = Lab::start();
            for _ in 0..3 {
                let port = lab.open("net_null0");
                let again = lab.try_open("net_null0", &PortConfig::default());
                assert!(matches!(again, Err(PortError::InUse { .. })), "{again:?}");
                port.close().expect("no queue is held");
            }
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}

#[test]
fn dpdk_starts_once_in_a_process() {
    own_process("dpdk_starts_once_in_a_process", Network::Host, || {
        let first = Eal::start(&small()).expect("the first start");
        assert_eq!(Eal::start(&small()).err(), Some(EalError::AlreadyStarted));
        drop(first);
        assert_eq!(Eal::start(&small()).err(), Some(EalError::AlreadyStarted));
    });
}

#[test]
fn a_frame_may_outlive_everything() {
    own_process("a_frame_may_outlive_everything", Network::Host, || {
        let lab = Lab::start();
        let mut frame = lab.frame(5, 100);
        drop(lab);
        assert_eq!(frame.data(), bytes(5, 100));
        frame.data_mut()[50] = 1;
        drop(frame);
    });
}

#[test]
fn an_empty_pool_allocates_nothing() {
    own_process("an_empty_pool_allocates_nothing", Network::Host, || {
        let eal = Eal::start(&small()).expect("DPDK starts");
        let pool = Pool::create(
            &eal,
            PoolConfig {
                buffers: 63,
                room: 2048,
            },
        )
        .expect("memory");
        let frames: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!((frames.len(), pool.available()), (63, 0));
        drop(frames);
        assert_eq!(pool.available(), 63);
    });
}

#[test]
fn a_burst_is_freed_in_one_call() {
    own_process("a_burst_is_freed_in_one_call", Network::Host, || {
        let lab = Lab::start();
        let mut burst: Burst<Mbuf> = (0..32).map(|n| lab.frame(n, 64)).collect();
        assert_eq!(lab.pool.outstanding(), 32);
        Mbuf::free_burst(&mut burst);
        assert_eq!((burst.len(), lab.pool.outstanding()), (0, 0));
    });
}

#[test]
fn a_buffer_grows_and_shrinks_at_both_ends_within_its_room() {
    let name = "a_buffer_grows_and_shrinks_at_both_ends_within_its_room";
    own_process(name, Network::Host, || {
        let lab = Lab::start();
        let mut frame = lab.frame(1, 100);
        let want = bytes(1, 100);
        frame.prepend(14).expect("headroom").fill(0xaa);
        frame.append(6).expect("tailroom").fill(0xbb);
        assert_eq!(frame.data(), [&[0xaa; 14], &want[..], &[0xbb; 6]].concat());
        frame.trim_front(14);
        frame.truncate(100);
        frame.truncate(200);
        assert_eq!(frame.data(), want);
        assert!(
            frame.prepend(129).is_none(),
            "there are 128 bytes of headroom"
        );
        assert!(frame.append(2048 - 100 + 1).is_none(), "and 2048 behind it");
        assert_eq!(frame.data(), want, "a refusal changes nothing");
        assert!(frame.prepend(128).is_some() && frame.append(2048 - 100).is_some());
        assert_eq!(frame.data().len(), 128 + 2048);
        assert!(frame.prepend(usize::MAX).is_none() && frame.append(usize::MAX).is_none());
        assert!(!frame.assign(&[0; 3000]) && frame.data().is_empty());
    });
}

// ---- negative controls ----

/// A port with a fault of its own.
#[derive(Debug)]
struct Faulty<I> {
    io: I,
    fault: Fault,
}

#[derive(Debug, PartialEq)]
enum Fault {
    /// Loses one frame of each burst without freeing it.
    Leak,
    /// Says that it sent one more than it did.
    CountTwice,
}

impl<I: PacketIo> PacketIo for Faulty<I> {
    type Buf = I::Buf;

    fn rx_burst(&mut self, out: &mut Burst<I::Buf>) -> usize {
        let came = self.io.rx_burst(out);
        if self.fault == Fault::Leak && came > 0 {
            mem::forget(out.pop());
            return came - 1;
        }
        came
    }

    fn tx_burst(&mut self, burst: &mut Burst<I::Buf>) -> usize {
        self.io.tx_burst(burst) + usize::from(self.fault == Fault::CountTwice)
    }

    fn alloc(&mut self) -> Option<I::Buf> {
        self.io.alloc()
    }
}

/// Forwards through a faulty port and says what the check says.
fn verdict_on(fault: Fault) -> Result<(), String> {
    let lab = Lab::start();
    let before = lab.pool.available();
    let (mut one, mut two) = (lab.open("net_null0"), lab.open("net_null1"));
    let mut faulty = Faulty {
        io: one.queue(0).expect("a pair"),
        fault,
    };
    let mut sound = two.queue(0).expect("a pair");
    let mut ledger = Ledger::default();
    for _ in 0..10 {
        match faulty.fault {
            Fault::Leak => ledger.forward(&mut faulty, &mut sound),
            Fault::CountTwice => ledger.forward(&mut sound, &mut faulty),
        };
    }
    drop((faulty, sound, one, two));
    ledger.check(before, lab.pool.available())
}

#[test]
fn a_leak_is_noticed() {
    own_process("a_leak_is_noticed", Network::Host, || {
        let noticed = verdict_on(Fault::Leak).expect_err("ten buffers are gone");
        assert!(
            noticed.contains("8191 buffers were free before, 8181 after"),
            "{noticed}"
        );
    });
}

#[test]
fn a_frame_counted_twice_is_noticed() {
    own_process("a_frame_counted_twice_is_noticed", Network::Host, || {
        let noticed = verdict_on(Fault::CountTwice).expect_err("ten were counted twice");
        assert!(
            noticed.contains("received is not transmitted + dropped"),
            "{noticed}"
        );
    });
}

// ---- bad input ----

#[test]
fn missing_hugepages_are_refused_with_the_command_that_mends_it() {
    let name = "missing_hugepages_are_refused_with_the_command_that_mends_it";
    own_process(name, Network::Host, || {
        let greedy = |memory_mb| EalConfig {
            hugepages: true,
            memory_mb,
            ..EalConfig::default()
        };
        let error = Eal::start(&greedy(1 << 30))
            .expect_err("nobody has a pebibyte")
            .to_string();
        assert!(error.contains("MB in all"), "{error}");
        let error = Eal::start(&greedy(memory_mb()))
            .expect_err("no host has hugepages only")
            .to_string();
        assert!(error.contains("hugepages: false"), "{error}");
        if Path::new("/sys/kernel/mm/hugepages").exists() {
            assert!(error.contains("> /proc/sys/vm/nr_hugepages"), "{error}");
        }
        Eal::start(&small()).expect("the refusal left DPDK untouched");
    });
}

/// The host's memory in MiB.
fn memory_mb() -> u32 {
    let meminfo = fs::read_to_string("/proc/meminfo").expect("Linux has it");
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kb = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u32>().ok());
    kb.expect("the first line of it") / 1024
}

#[test]
fn a_core_that_does_not_exist_is_refused() {
    own_process(
        "a_core_that_does_not_exist_is_refused",
        Network::Host,
        || {
            let error = Eal::start(&EalConfig {
                main_core: 4000,
                ..small()
            })
            .expect_err("no core");
            assert_eq!(error, EalError::NoSuchCore { core: 4000 });
            assert!(error.to_string().contains("no core 4000"), "{error}");
        },
    );
}

#[test]
fn what_dpdk_says_of_a_wrong_argument_is_in_the_error() {
    own_process(
        "what_dpdk_says_of_a_wrong_argument_is_in_the_error",
        Network::Host,
        || {
            let config = EalConfig {
                extra: vec!["--no-such-option".to_owned()],
                ..small()
            };
            let error = Eal::start(&config)
                .expect_err("an unknown argument")
                .to_string();
            assert!(error.starts_with("DPDK does not start: "), "{error}");
        },
    );
}

#[test]
fn memory_for_too_many_buffers_is_refused_and_the_rest_goes_on() {
    let name = "memory_for_too_many_buffers_is_refused_and_the_rest_goes_on";
    own_process(name, Network::Host, || {
        let lab = Lab::start();
        let config = PoolConfig {
            buffers: (1 << 20) - 1,
            room: 2048,
        };
        let error = Pool::create(&lab.eal, config)
            .expect_err("128 MB are not enough")
            .to_string();
        assert!(error.contains("raise `dpdk.memory`"), "{error}");
        lab.open("net_null0");
        assert_eq!(lab.pool.outstanding(), 0);
    });
}

#[test]
fn devices_that_cannot_be_opened_are_refused_in_a_sentence_and_leave_nothing() {
    let name = "devices_that_cannot_be_opened_are_refused_in_a_sentence_and_leave_nothing";
    own_process(name, Network::Private, || {
        let before = interfaces();
        let lab = Lab::start();
        let plain = PortConfig::default();
        let jumbo = PortConfig {
            mtu: Some(9000),
            ..plain.clone()
        };
        let group = Mac([0x01, 0, 0x5e, 0, 0, 1]);
        let group = PortConfig {
            mac: Some(group),
            ..plain.clone()
        };
        for (device, config, phrases) in [
            (
                "net_nonsense0",
                &plain,
                ["cannot open `net_nonsense0`", "no driver takes it"],
            ),
            (
                "net_af_packet0,iface=nope0",
                &plain,
                ["no interface nope0", "ip link"],
            ),
            (
                "net_af_xdp0,iface=nope0",
                &plain,
                ["no interface nope0", "ip link"],
            ),
            (
                "net_pcap0,rx_pcap=/nope.pcap",
                &plain,
                ["no file /nope.pcap", "net_pcap0"],
            ),
            (
                "net_af_packet0",
                &plain,
                ["cannot open `net_af_packet0`", "it failed"],
            ),
            ("net_null0,nonsense=1", &plain, ["cannot open", "nonsense"]),
            (
                "ffff:ff:1f.7",
                &plain,
                ["no PCI device ffff:ff:1f.7", "dpdk-devbind.py"],
            ),
            (
                "Eth0",
                &plain,
                ["`Eth0` is neither", "net_af_packet0,iface="],
            ),
            (
                "net_tap0,iface=ptap0",
                &jumbo,
                ["cannot do an MTU of 9000", "2010 is the most"],
            ),
            (
                "net_tap0,iface=ptap0",
                &group,
                ["cannot have the address", "01:00:5e:00:00:01"],
            ),
        ] {
            let error = lab.try_open(device, config).expect_err(device).to_string();
            for phrase in phrases {
                assert!(error.contains(phrase), "{device}: {error}");
            }
            assert_eq!(interfaces(), before, "{device} left something");
            assert_eq!(lab.pool.outstanding(), 0, "{device} keeps buffers");
        }
        lab.open("net_null0")
            .close()
            .expect("what was refused is not in the way");
    });
}

/// Files and folders of DPDK that have our process in their names.
fn traces() -> Vec<String> {
    let own = env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| "/tmp".to_owned());
    [
        "/var/run/dpdk".to_owned(),
        own + "/dpdk",
        "/dev/hugepages".to_owned(),
    ]
    .iter()
    .filter_map(|folder| fs::read_dir(folder).ok())
    .flatten()
    .map(|entry| {
        entry
            .expect("readable")
            .file_name()
            .to_string_lossy()
            .into_owned()
    })
    .filter(|name| name.contains(&std::process::id().to_string()))
    .collect()
}

#[test]
fn nothing_is_put_in_the_file_system() {
    own_process("nothing_is_put_in_the_file_system", Network::Host, || {
        let lab = Lab::start();
        assert_eq!(traces(), Vec::<String>::new());
        drop(lab);
        assert_eq!(traces(), Vec::<String>::new());
    });
}

#[test]
fn a_start_that_fails_puts_nothing_in_the_file_system() {
    own_process(
        "a_start_that_fails_puts_nothing_in_the_file_system",
        Network::Host,
        || {
            // Found by EAL only after it has set itself up a good way.
            let config = EalConfig {
                extra: vec!["--vdev=net_nonsense0".to_owned()],
                ..small()
            };
            let error = Eal::start(&config)
                .expect_err("there is no such driver")
                .to_string();
            assert!(error.contains("net_nonsense0"), "{error}");
            assert_eq!(traces(), Vec::<String>::new());
        },
    );
}

#[test]
fn hugepages_are_used_where_there_are_enough() {
    own_process(
        "hugepages_are_used_where_there_are_enough",
        Network::Host,
        || {
            let eal = match Eal::start(&EalConfig {
                memory_mb: 64,
                ..EalConfig::default()
            }) {
                Ok(eal) => eal,
                Err(error @ (EalError::TooFewHugepages { .. } | EalError::NoHugepageSupport)) => {
                    return skip("hugepages", &error.to_string());
                }
                Err(error) => panic!("{error}"),
            };
            let pool = Pool::create(
                &eal,
                PoolConfig {
                    buffers: 1023,
                    room: 2048,
                },
            )
            .expect("memory");
            let mut port = Port::open(&eal, &pool, "net_null0", &PortConfig::default())
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(
                port.queue(0).expect("a pair").rx_burst(&mut Burst::new()),
                32
            );
            port.close().expect("no queue is held");
            assert_eq!(pool.outstanding(), 0);
            assert_eq!(traces(), Vec::<String>::new());
        },
    );
}

// ---- measurement ----

const WINDOW: Duration = Duration::from_millis(100);
const WINDOWS: usize = 30;

/// Nanoseconds per frame of a loop that receives a burst and transmits it, per window, sorted.
fn io_loop(eal: &Eal, mut queue: DpdkQueue) -> Vec<f64> {
    let _known = eal.register_thread().expect("room for a thread");
    let mut burst = Burst::new();
    let mut windows: Vec<f64> = (0..WINDOWS)
        .map(|_| {
            let (start, mut frames) = (Instant::now(), 0_u64);
            while start.elapsed() < WINDOW {
                // The clock is read once per 256 bursts, so that it is not what is measured.
                for _ in 0..256 {
                    queue.rx_burst(&mut burst);
                    frames += queue.tx_burst(&mut burst) as u64;
                }
            }
            start.elapsed().as_nanos() as f64 / frames as f64
        })
        .collect();
    windows.sort_by(f64::total_cmp);
    windows
}

/// Mpps of testpmd forwarding on the same device, per second, sorted; empty where it is not installed.
fn testpmd() -> Vec<f64> {
    let arguments = "-l 0,2 --no-huge -m 256 --no-shconf --no-pci --no-telemetry --vdev=net_null0 -- \
                     --auto-start --forward-mode=io --total-num-mbufs=16384 --no-mlockall --stats-period=1";
    let child = Command::new("dpdk-testpmd")
        .args(arguments.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        return Vec::new();
    };
    std::thread::sleep(Duration::from_secs(6));
    child.kill().expect("it runs until then");
    let output = child.wait_with_output().expect("its output");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rates = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Rx-pps:"));
    let numbers = rates.filter_map(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    let mut seconds: Vec<f64> = numbers.filter(|&r| r > 0.0).map(|r| r / 1e6).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// Not a judgement: machines differ and shared ones are noisy. Run it with `--release -- --ignored`.
#[test]
#[ignore = "a measurement of some ten seconds"]
fn the_io_loop_over_null_is_measured_beside_testpmd() {
    own_process(
        "the_io_loop_over_null_is_measured_beside_testpmd",
        Network::Host,
        || {
            for _ in 0..2 {
                let rates = testpmd();
                match (rates.first(), rates.get(rates.len() / 2), rates.last()) {
                    (Some(worst), Some(median), Some(best)) => println!(
                        "MEASURED: testpmd io, net_null: {median:.1} Mpps median of {} seconds ({worst:.1}..{best:.1})",
                        rates.len()
                    ),
                    _ => skip(
                        "testpmd",
                        "dpdk-testpmd is not installed (apt-get install dpdk-dev)",
                    ),
                }
            }
            let lab = Lab::start();
            let mut port = lab.open("net_null0");
            let queue = port.queue(0).expect("a pair");
            let eal = lab.eal.clone();
            let worker = std::thread::spawn(move || {
                core_affinity::set_for_current(core_affinity::CoreId { id: 2 });
                io_loop(&eal, queue)
            });
            let ns = worker.join().expect("no panic");
            let (best, median, worst) = (ns[WINDOWS / 10], ns[WINDOWS / 2], ns[WINDOWS * 9 / 10]);
            println!(
                "MEASURED: polder io, net_null: {:.1} Mpps median of {WINDOWS} windows ({:.1}..{:.1}), {median:.2} ns per frame",
                1e3 / median,
                1e3 / worst,
                1e3 / best
            );
            assert_eq!(port.close().expect("no queue is held").rx_no_buffer, 0);
            assert_eq!(lab.pool.outstanding(), 0);
        },
    );
}
