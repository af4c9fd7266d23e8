//! `polder show`: listings of the running appliance.

use std::io::Write;

use serde_json::{Value, json};

use super::Failure;
use super::args::{Output, ShowArgs, ShowWhat};
use super::client::{Client, encode, typed};
use super::table;
use crate::mgmt::api;

/// Connections asked for at a time.
const PAGE: u64 = 5000;

/// Shows what `args` ask for on `out`.
///
/// # Errors
/// A sentence.
pub fn run(args: &ShowArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.socket.socket)?;
    if let ShowWhat::Connections { service, limit } = &args.what {
        let all = Connections {
            client: &client,
            service: service.as_deref(),
            limit: limit.unwrap_or(u64::MAX),
        };
        return match args.output {
            Output::Table => all.table(out),
            Output::Json | Output::Yaml => print_value(&all.value()?, args.output, out),
        };
    }
    if args.output != Output::Table {
        return print_value(&client.get(path(&args.what))?, args.output, out);
    }
    let table = match &args.what {
        ShowWhat::Services => {
            table::services(&typed::<api::Services>(client.get("/v1/services")?)?.services)
        }
        ShowWhat::Servers => {
            table::servers(&typed::<api::Services>(client.get("/v1/services")?)?.services)
        }
        ShowWhat::Neighbours => {
            table::neighbours(&typed::<api::Neighbours>(client.get(path(&args.what))?)?.neighbours)
        }
        ShowWhat::Workers => table::workers(&typed(client.get(path(&args.what))?)?),
        ShowWhat::Ports => table::ports(&typed::<api::Ports>(client.get(path(&args.what))?)?.ports),
        ShowWhat::Drops { all } => table::drops(
            &typed::<api::Drops>(client.get(path(&args.what))?)?.drops,
            *all,
        ),
        ShowWhat::Connections { .. } => String::new(),
    };
    super::print(out, &table)
}

fn path(what: &ShowWhat) -> &'static str {
    match what {
        ShowWhat::Services => "/v1/services",
        ShowWhat::Servers => "/v1/servers",
        ShowWhat::Connections { .. } => "/v1/connections",
        ShowWhat::Neighbours => "/v1/neighbours",
        ShowWhat::Workers => "/v1/workers",
        ShowWhat::Ports => "/v1/ports",
        ShowWhat::Drops { .. } => "/v1/drops",
    }
}

/// Prints an answer as JSON or YAML.
///
/// # Errors
/// The output can't be written.
pub fn print_value(value: &Value, output: Output, out: &mut dyn Write) -> Result<(), Failure> {
    let text = if output == Output::Yaml {
        crate::config::value_to_yaml(value)
    } else {
        serde_json::to_string_pretty(value).map_err(|e| e.to_string())? + "\n"
    };
    super::print(out, &text)
}

/// Connections, page by page.
struct Connections<'a> {
    client: &'a Client,
    service: Option<&'a str>,
    limit: u64,
}

impl Connections<'_> {
    /// Calls `each` with every page until the limit or the end is reached; tells where it would go on.
    fn pages(
        &self,
        mut each: impl FnMut(Value) -> Result<u64, Failure>,
    ) -> Result<Option<String>, Failure> {
        let service = self
            .service
            .map_or_else(String::new, |s| format!("&service={}", encode(s)));
        let mut left = self.limit;
        let mut from = String::new();
        loop {
            let limit = left.min(PAGE);
            let page = self
                .client
                .get(&format!("/v1/connections?limit={limit}{service}{from}"))?;
            let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            left = left.saturating_sub(each(page)?);
            match next {
                Some(next) if left > 0 => from = format!("&from={}", encode(&next)),
                next => return Ok(next),
            }
        }
    }

    fn table(&self, out: &mut dyn Write) -> Result<(), Failure> {
        let mut header = Some(table::connections_header(false));
        self.pages(|page| {
            let page: api::Connections = typed(page)?;
            // The header comes with the first page, so that there is none before an error.
            let lines = page.connections.iter().map(table::connection);
            let text: String = header.take().into_iter().chain(lines).collect();
            super::print(out, &text)?;
            Ok(page.connections.len() as u64)
        })
        .map(|_| ())
    }

    fn value(&self) -> Result<Value, Failure> {
        let mut rows = Vec::new();
        let next = self.pages(|mut page| match page.get_mut("connections") {
            Some(Value::Array(more)) => {
                let n = more.len() as u64;
                rows.append(more);
                Ok(n)
            }
            _ => Err(Failure::Failed(
                "polder's answer has no connections in it".to_owned(),
            )),
        })?;
        Ok(json!({"connections": rows, "truncated": next.is_some(), "next": next}))
    }
}
