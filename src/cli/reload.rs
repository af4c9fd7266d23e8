//! `polder reload`: makes the running appliance take over its file.

use std::io::Write;

use hyper::Method;
use hyper::body::Bytes;

use super::Failure;
use super::args::{Output, ReloadArgs};
use super::client::{Client, typed};
use super::{show, table};

/// Reloads and tells on `out` what changed.
///
/// # Errors
/// Every problem of the file; nothing has changed then.
pub fn run(args: &ReloadArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let answer =
        Client::new(&args.socket.socket)?.request(&Method::POST, "/v1/reload", Bytes::new())?;
    match args.output {
        Output::Table => super::print(out, &table::reloaded(&typed(answer)?)),
        output => show::print_value(&answer, output, out),
    }
}
