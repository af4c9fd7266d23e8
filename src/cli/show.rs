//! `polder show`: listings of the running appliance.

use std::io::Write;

use serde_json::Value;

use super::Failure;
use super::args::{Output, RowsArgs, ShowArgs, ShowWhat};
use super::client::{Client, encode, typed};
use super::table;
use crate::mgmt::api;

/// Rows asked for at a time.
const PAGE: u64 = 5000;

/// Shows what `args` ask for on `out`.
///
/// # Errors
/// A sentence.
pub fn run(args: &ShowArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.socket.socket)?;
    let pages = match &args.what {
        ShowWhat::Connections { rows, no_templates } if *no_templates => {
            Some((&[CONNECTIONS][..], rows))
        }
        ShowWhat::Connections { rows, .. } => Some((&[CONNECTIONS, TEMPLATES][..], rows)),
        ShowWhat::Templates { rows } => Some((&[TEMPLATES][..], rows)),
        _ => None,
    };
    if let Some((of, rows)) = pages {
        return show_pages(&client, of, rows, args.output, out);
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
        ShowWhat::Ipvs => table::ipvs(&typed(client.get(path(&args.what))?)?),
        ShowWhat::Daemon => {
            table::daemons(&typed::<api::SyncStatus>(client.get(path(&args.what))?)?.daemons)
        }
        ShowWhat::Drops { all } => table::drops(
            &typed::<api::Drops>(client.get(path(&args.what))?)?.drops,
            *all,
        ),
        ShowWhat::Connections { .. } | ShowWhat::Templates { .. } => String::new(),
    };
    super::print(out, &table)
}

fn path(what: &ShowWhat) -> &'static str {
    match what {
        ShowWhat::Services => "/v1/services",
        ShowWhat::Servers => "/v1/servers",
        ShowWhat::Connections { .. } => "/v1/connections",
        ShowWhat::Templates { .. } => "/v1/templates",
        ShowWhat::Neighbours => "/v1/neighbours",
        ShowWhat::Workers => "/v1/workers",
        ShowWhat::Ports => "/v1/ports",
        ShowWhat::Ipvs => "/v1/ipvs",
        ShowWhat::Daemon => "/v1/sync",
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

/// The pages of a listing.
struct Pages<'a> {
    client: &'a Client,
    /// The listing's name, in its address and in its answers.
    of: &'static str,
    service: Option<&'a str>,
}

impl Pages<'_> {
    /// Calls `each` with every page, and the number of its rows, until there were `limit` rows or no more; tells how
    /// many there were and where it would go on.
    fn each(
        &self,
        limit: u64,
        mut each: impl FnMut(Value) -> Result<u64, Failure>,
    ) -> Result<(u64, Option<String>), Failure> {
        let service = self
            .service
            .map_or_else(String::new, |s| format!("&service={}", encode(s)));
        let mut rows = 0;
        let mut from = String::new();
        loop {
            let ask = (limit - rows).min(PAGE);
            let path = format!("/v1/{}?limit={ask}{service}{from}", self.of);
            let page = self.client.get(&path)?;
            let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            rows += each(page)?.min(limit - rows);
            match next {
                Some(next) if rows < limit => from = format!("&from={}", encode(&next)),
                next => return Ok((rows, next)),
            }
        }
    }

    /// Prints the rows as lines, behind `header` if it was not printed yet.
    fn table(
        &self,
        limit: u64,
        header: &mut Option<String>,
        out: &mut dyn Write,
    ) -> Result<u64, Failure> {
        let print = |page: Value| {
            let lines = lines(self.of, page)?;
            // The header comes with the first page, so that there is none before an error.
            let text: String = header
                .take()
                .into_iter()
                .chain(lines.iter().cloned())
                .collect();
            super::print(out, &text)?;
            Ok(lines.len() as u64)
        };
        self.each(limit, print).map(|(rows, _)| rows)
    }

    /// The rows as they come, and where the listing would go on.
    fn value(&self, limit: u64) -> Result<(Vec<Value>, Option<String>), Failure> {
        let mut rows = Vec::new();
        let (_, next) = self.each(limit, |mut page| match page.get_mut(self.of) {
            Some(Value::Array(more)) => {
                let n = more.len() as u64;
                rows.append(more);
                Ok(n)
            }
            _ => Err(Failure::Failed(format!(
                "polder's answer has no {} in it",
                self.of
            ))),
        })?;
        Ok((rows, next))
    }
}

const CONNECTIONS: &str = "connections";
const TEMPLATES: &str = "templates";

fn lines(of: &str, page: Value) -> Result<Vec<String>, Failure> {
    Ok(if of == TEMPLATES {
        let page: api::Templates = typed(page)?;
        page.templates.iter().map(table::template).collect()
    } else {
        let page: api::Connections = typed(page)?;
        page.connections.iter().map(table::connection).collect()
    })
}

/// Shows one listing or several after each other, `limit` rows in all.
fn show_pages(
    client: &Client,
    of: &[&'static str],
    rows: &RowsArgs,
    output: Output,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let pages = |of| Pages {
        client,
        of,
        service: rows.service.as_deref(),
    };
    let mut left = rows.limit.unwrap_or(u64::MAX);
    if output == Output::Table {
        let mut header = Some(table::connections_header(of.contains(&TEMPLATES)));
        for of in of {
            if left > 0 {
                left -= pages(of).table(left, &mut header, out)?;
            }
        }
        return Ok(());
    }
    let mut all = serde_json::Map::new();
    let (mut truncated, mut next) = (false, None);
    for of in of {
        // Behind a listing that took all the room one row tells whether there is more.
        let (mut found, more) = pages(of).value(left.max(1))?;
        if left == 0 {
            truncated |= !found.is_empty();
            found.clear();
        } else {
            truncated |= more.is_some();
            next = more;
        }
        left -= found.len() as u64;
        all.insert((*of).to_owned(), found.into());
    }
    all.insert("truncated".to_owned(), truncated.into());
    all.insert("next".to_owned(), next.into());
    print_value(&all.into(), output, out)
}
