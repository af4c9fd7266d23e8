//! `polder set`: changes of the running appliance.

use std::io::Write;

use hyper::Method;

use super::Failure;
use super::args::{SetArgs, SetServer, SetWhat};
use super::client::{Client, encode, typed};
use crate::mgmt::api;

/// Does what `args` ask for and tells it on `out`.
///
/// # Errors
/// A sentence.
pub fn run(args: &SetArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let SetWhat::Server {
        service,
        server,
        to,
    } = &args.what;
    let mut update = api::ServerUpdate::default();
    match to {
        SetServer::Weight { weight } => update.weight = Some(u64::from(*weight)),
        SetServer::State { state } => update.state = Some(state.clone()),
    }
    let body = serde_json::to_vec(&update).map_err(|e| e.to_string())?;
    let path = format!("/v1/servers/{}/{}", encode(service), encode(server));
    let answer = Client::new(&args.socket.socket)?.request(&Method::PUT, &path, body.into())?;
    let updated: api::ServerUpdated = typed(answer)?;
    super::print(out, &(updated.message + "\n"))
}
