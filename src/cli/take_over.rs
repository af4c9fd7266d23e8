//! `polder run --take-over`: has the polder that runs hand its sessions over and end, before this one opens its ports.

use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::body::Bytes;

use super::client::Client;
use crate::mgmt::api::{HandOverState, HandOverStep};
use crate::mgmt::sync::takeover::{Collector, Inheritance, one_time_key};

/// How long nothing new may come before the take-over is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the process before may take to end.
const END: Duration = Duration::from_secs(20);
/// Between two looks.
const REST: Duration = Duration::from_micros(500);
/// Between two questions how far it has come.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long a control socket is waited for whose process does not run.
const STALE: Duration = Duration::from_secs(1);
/// Answers: everything was handed over, and nothing is any more.
const DONE: &str = "done";
const GIVEN_UP: &str = "none";

fn step(client: &Client, step: &HandOverStep) -> Result<HandOverState, String> {
    let body = serde_json::to_vec(step).map_err(|e| e.to_string())?;
    let answer = client.request(&Method::POST, "/v1/handover", Bytes::from(body))?;
    serde_json::from_value(answer).map_err(|e| {
        format!("the polder that runs answers something else than this one understands: {e}")
    })
}

/// Collects what the polder at `socket` has, and waits for its end. `stop` says whether to give up.
///
/// # Errors
/// A sentence; the polder that runs goes on unless it had ended already.
pub fn collect(socket: &Path, stop: &mut dyn FnMut() -> bool) -> Result<Inheritance, String> {
    let client = Client::new(socket)?;
    let told = |e: String| format!("can't take over: {e}");
    let before = step(&client, &HandOverStep::Ask).map_err(told)?;
    let key = one_time_key()?;
    let most = usize::try_from(before.entries_max).unwrap_or(usize::MAX);
    let mut collector = Collector::new(&key, most)?;
    let port = collector.port()?;
    step(&client, &HandOverStep::Begin { port, key }).map_err(told)?;
    // A process in another container is not seen, whether it runs or not.
    let seen = runs(before.pid).then_some(before.pid);
    let mut stopped = false;
    let mut stop = || {
        stopped = stopped || stop();
        stopped
    };
    if let Err(e) = follow(&client, &mut collector, seen, &mut stop) {
        // It notices by itself, too, after a while.
        let cancelled = step(&client, &HandOverStep::Cancel);
        let too_late = cancelled.is_ok_and(|state| state.state == DONE);
        if stopped || !too_late {
            return Err(told(e));
        }
        // Everything is here, and the other ends: nobody would serve.
    }
    let inheritance = collector.finish();
    wait_for_end(seen, socket).map_err(told)?;
    Ok(inheritance)
}

/// Collects until everything is here, or until the other has ended: then what is here is all that there is.
fn follow(
    client: &Client,
    collector: &mut Collector,
    pid: Option<u32>,
    stop: &mut dyn FnMut() -> bool,
) -> Result<(), String> {
    let mut finishing = false;
    let (mut most, mut since) = (0, Instant::now());
    let mut asked = Instant::now();
    loop {
        collector.turn();
        if collector.len() > most {
            (most, since) = (collector.len(), Instant::now());
        }
        if stop() {
            return Err("a signal came".to_owned());
        }
        if since.elapsed() > PATIENCE {
            return Err(format!(
                "the polder that runs has told nothing new for {} s; it goes on",
                PATIENCE.as_secs()
            ));
        }
        if !finishing && collector.is_covered() {
            step(client, &HandOverStep::Finish)?;
            finishing = true;
            since = Instant::now();
        }
        if asked.elapsed() >= ASK_EVERY {
            asked = Instant::now();
            match step(client, &HandOverStep::Ask).map(|answer| answer.state) {
                Ok(state) if state == DONE => return Ok(()),
                Ok(state) if state == GIVEN_UP => {
                    return Err("the polder that runs has given it up; it goes on".to_owned());
                }
                Err(_) if pid.is_some_and(|pid| !runs(pid)) => {
                    if !finishing {
                        eprintln!(
                            "polder: the polder that ran has ended midway; what it told so far is taken over"
                        );
                    }
                    return Ok(());
                }
                // On its way out it does not answer any more.
                Ok(_) | Err(_) => {}
            }
        }
        std::thread::sleep(REST);
    }
}

/// Whether a process runs; one that nobody has asked for its exit status yet does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or("").trim_start();
    !state.is_empty() && !state.starts_with(['Z', 'X'])
}

/// Waits until the process has ended and its control socket is free.
fn wait_for_end(pid: Option<u32>, socket: &Path) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let waits = match pid {
            Some(pid) if runs(pid) => true,
            // One that was killed leaves its socket behind.
            Some(_) => socket.exists() && began.elapsed() < STALE,
            None => socket.exists(),
        };
        if !waits {
            return Ok(());
        }
        if began.elapsed() > END {
            let who = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
            return Err(format!(
                "the polder that ran{who} has handed everything over but does not end; stop it and start this one"
            ));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
