//! The routes of services and servers that come and go, of timeouts, and of counters that begin again.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path as UrlPath, State};
use axum::response::Json;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::api::{self, Error, ErrorKind};
use super::App;
use crate::net::tunnel::{Tunnel, TunnelChecksum, TunnelKind};
use crate::table::Method;

type Body = Result<Bytes, BytesRejection>;

/// A body that is JSON; `must_be` says what of.
fn parsed<T: DeserializeOwned>(body: Body, must_be: &str) -> Result<T, Error> {
    let bad = |e: String| Error::new(ErrorKind::BadRequest, e);
    let body = body.map_err(|e| bad(e.body_text()))?;
    serde_json::from_slice(&body).map_err(|e| bad(format!("the body must be {must_be}: {e}")))
}

pub(super) async fn service(
    State(app): State<App>,
    UrlPath(service): UrlPath<String>,
) -> Result<Json<api::Service>, Error> {
    let manager = app.manager();
    let at = manager.find_service(&service)?;
    Ok(Json(manager.listed_service(at)))
}

pub(super) async fn add_service(
    State(app): State<App>,
    body: Body,
) -> Result<Json<api::ServiceAdded>, Error> {
    let given: Value = parsed(body, "a service as the configuration has it")?;
    app.manager().add_service(&given).map(Json)
}

pub(super) async fn delete_service(
    State(app): State<App>,
    UrlPath(service): UrlPath<String>,
) -> Result<Json<api::Deleted>, Error> {
    app.manager().delete_service(&service).map(Json)
}

pub(super) async fn clear_services(State(app): State<App>) -> Result<Json<api::Deleted>, Error> {
    app.manager().clear_services().map(Json)
}

pub(super) async fn add_server(
    State(app): State<App>,
    UrlPath(service): UrlPath<String>,
    body: Body,
) -> Result<Json<api::ServerAdded>, Error> {
    let given: Value = parsed(body, "a server as the configuration has it")?;
    app.manager().add_server(&service, &given).map(Json)
}

pub(super) async fn delete_server(
    State(app): State<App>,
    UrlPath((service, server)): UrlPath<(String, String)>,
) -> Result<Json<api::Deleted>, Error> {
    app.manager().delete_server(&service, &server).map(Json)
}

pub(super) async fn zero(State(app): State<App>, body: Body) -> Result<Json<api::Zeroed>, Error> {
    let which: api::Zero = parsed(body, "{\"service\": \"NAME\"} or {}")?;
    app.manager().zero(&which).map(Json)
}

pub(super) async fn timeouts(State(app): State<App>) -> Json<api::Timeouts> {
    Json(app.manager().timeouts())
}

pub(super) async fn update_timeouts(
    State(app): State<App>,
    body: Body,
) -> Result<Json<api::TimeoutsUpdated>, Error> {
    let update = parsed(body, "{\"NAME\": \"15m\"} with names of GET /v1/timeouts")?;
    app.manager().edit_timeouts(&update).map(Json)
}

/// The forwarding that an update asks for; whether it can be is judged with the service.
pub(super) fn forwarding(update: &api::ServerUpdate) -> Result<Option<(Method, Tunnel)>, String> {
    let method = match (update.forwarding.as_deref(), &update.tunnel) {
        (None, None) => return Ok(None),
        (Some("masq"), None) => Method::Masq,
        (Some("direct"), None) => Method::Direct,
        (Some("tunnel"), _) => Method::Tunnel,
        (Some("masq" | "direct") | None, Some(_)) => {
            return Err("`tunnel` needs `forwarding: tunnel`".to_owned());
        }
        (Some(word), _) => {
            return Err(format!(
                "`{word}` is no forwarding; there is: masq, direct, tunnel"
            ));
        }
    };
    let tunnel = update.tunnel.as_ref().map(tunnel).transpose()?;
    Ok(Some((method, tunnel.unwrap_or_default())))
}

fn tunnel(update: &api::TunnelUpdate) -> Result<Tunnel, String> {
    let kind = match update.kind.as_str() {
        "ipip" => TunnelKind::Ipip,
        "gue" => TunnelKind::Gue,
        "gre" => TunnelKind::Gre,
        word => return Err(format!("`{word}` is no tunnel; there is: ipip, gue, gre")),
    };
    let port = match (kind, update.port) {
        (TunnelKind::Gue, Some(port)) => u16::try_from(port).unwrap_or(0),
        (TunnelKind::Gue, None) => 0,
        (_, None) => 0,
        (_, Some(_)) => return Err("only `gue` has a `port`".to_owned()),
    };
    if kind == TunnelKind::Gue && port == 0 {
        return Err("`gue` needs a `port`, 1 to 65535".to_owned());
    }
    let checksum = match (kind, update.checksum.as_deref()) {
        (_, None) => TunnelChecksum::None,
        (TunnelKind::Ipip, Some(_)) => return Err("`ipip` has no checksum of its own".to_owned()),
        (_, Some("none")) => TunnelChecksum::None,
        (_, Some("csum")) => TunnelChecksum::Full,
        (TunnelKind::Gue, Some("remcsum")) => TunnelChecksum::Remote,
        (_, Some(word)) => return Err(format!("`{word}` is no checksum of the tunnel")),
    };
    Ok(Tunnel {
        kind,
        port,
        checksum,
    })
}
