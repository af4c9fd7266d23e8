//! `polder sync status`, `start`, `stop`, `role`: state sync of the running appliance.

use std::io::Write;

use hyper::Method;

use super::Failure;
use super::args::{Output, SyncRoleArgs, SyncStartArgs, SyncStatusArgs, SyncStopArgs};
use super::client::{Client, typed};
use super::{show, table};
use crate::mgmt::api;

/// Where state sync is.
const PATH: &str = "/v1/sync";

/// Shows how state sync goes.
///
/// # Errors
/// A sentence.
pub fn status(args: &SyncStatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let answer = Client::new(&args.socket.socket)?.get(PATH)?;
    match args.output {
        Output::Table => super::print(out, &table::sync(&typed(answer)?)),
        output => show::print_value(&answer, output, out),
    }
}

/// Starts a role.
///
/// # Errors
/// A sentence.
pub fn start(args: &SyncStartArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let start = api::SyncStart {
        role: args.role.clone(),
        interface: args.interface.clone(),
        sync_id: args.sync_id,
        group: args.group.clone(),
        port: args.port,
        ttl: args.ttl,
        max_message: args.max_message,
    };
    let update = api::SyncUpdate {
        start: Some(start),
        ..api::SyncUpdate::default()
    };
    change(&args.socket.socket, &update, out)
}

/// Stops a role.
///
/// # Errors
/// A sentence.
pub fn stop(args: &SyncStopArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let update = api::SyncUpdate {
        stop: Some(args.role.clone()),
        ..api::SyncUpdate::default()
    };
    change(&args.socket.socket, &update, out)
}

/// Sets the role, whatever it was.
///
/// # Errors
/// A sentence.
pub fn role(args: &SyncRoleArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let update = api::SyncUpdate {
        role: Some(args.role.clone()),
        ..api::SyncUpdate::default()
    };
    change(&args.socket.socket, &update, out)
}

fn change(
    socket: &std::path::Path,
    update: &api::SyncUpdate,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let body = serde_json::to_vec(update).map_err(|e| e.to_string())?;
    let answer = Client::new(socket)?.request(&Method::POST, PATH, body.into())?;
    let updated: api::SyncUpdated = typed(answer)?;
    let mut text = updated.message + "\n";
    if let Some(problem) = updated.sync.problem {
        text.push_str(&format!("It does not run: {problem}\n"));
    }
    super::print(out, &text)
}
