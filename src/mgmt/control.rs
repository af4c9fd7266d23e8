//! The control socket: HTTP with JSON bodies over a UNIX socket.
//!
//! Translates between HTTP and the manager; decides nothing. Invariant: a GET changes nothing, and every answer that
//! is no success has an `error` sentence in it.

mod edit;

use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, MutexGuard};
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, patch, post, put};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::api::{self, Error, ErrorBody, ErrorKind};
use super::conns::{LIMIT_DEFAULT, LIMIT_MAX, Lister, Position};
use super::manager::{Manager, ServerEdit, Shared, lock};
use super::names;
use super::socket::SocketFile;
use super::templates;
use crate::table::ServiceId;

/// Bytes of a request's body at most.
const BODY_MAX: usize = 64 * 1024;

/// What there is, for those who ask for what there is not.
const ENDPOINTS: &[&str] = &[
    "GET /v1/version",
    "GET /v1/services",
    "GET /v1/servers",
    "GET /v1/connections?service=NAME&limit=N&from=NEXT",
    "GET /v1/templates?service=NAME&limit=N&from=NEXT",
    "GET /v1/neighbours",
    "GET /v1/workers",
    "GET /v1/ports",
    "GET /v1/drops",
    "GET /v1/ipvs",
    "GET /v1/sync",
    "POST /v1/reload",
    "PUT /v1/servers/{service}/{server} {\"forwarding\": \"masq|direct|tunnel\", \"tunnel\": {\"type\": \"ipip|gue|gre\", \"port\": N, \"checksum\": \"none|csum|remcsum\"}}",
    "DELETE /v1/servers/{service}/{server}",
    "GET /v1/services/{service}",
    "POST /v1/services {a service as the configuration has it}",
    "POST /v1/services/{service}/servers {a server as the configuration has it}",
    "PATCH /v1/services/{service} {\"scheduler\": \"NAME\", \"scheduler_flags\": [\"NAME\"]}",
    "DELETE /v1/services/{service}",
    "DELETE /v1/services",
    "POST /v1/zero {\"service\": \"NAME\"} or {}",
    "GET /v1/timeouts",
    "PATCH /v1/timeouts {\"NAME\": \"15m\"}",
    "PUT /v1/servers/{service}/{server} {\"weight\": N}",
    "PUT /v1/servers/{service}/{server} {\"state\": \"ready|drain|maint\"}",
    "PUT /v1/servers/{service}/{server} {\"upper_threshold\": N, \"lower_threshold\": N}",
    "PUT /v1/servers/{service}/{server} {\"up\": B}",
    "PATCH /v1/services/{service} {\"one_packet\": B, \"persistence\": {\"timeout\": \"60s|off\", \"netmask\": \"M\", \"engine\": \"sip|payload|none\", \"offset\": N, \"length\": N, \"unit\": \"bytes|bits\"}}",
    "PATCH /v1/ipvs {\"NAME\": N}",
    "POST /v1/sync {\"role\": \"off|master|backup|both\"} or {\"start\": {\"role\": \"master|backup\", …}} or {\"stop\": \"master|backup\"}",
    "POST /v1/handover {\"begin\": {\"port\": N, \"key\": \"…\"}} or \"finish\", \"cancel\", \"ask\"",
    "GET /v1",
];

#[derive(Clone)]
struct App {
    manager: Shared,
    lister: Arc<Lister>,
}

impl App {
    fn manager(&self) -> MutexGuard<'_, Manager> {
        lock(&self.manager)
    }
}

/// The control socket, listening and not yet answering.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    // Last, since it removes the socket once nobody listens.
    file: SocketFile,
}

impl ControlServer {
    /// Listens at `path`. To be called within a runtime.
    ///
    /// # Errors
    /// A sentence that says why it can't.
    pub fn bind(path: &Path) -> Result<Self, String> {
        let (file, listener) = SocketFile::listen(path)?;
        let listener = UnixListener::from_std(listener)
            .map_err(|e| format!("can't listen on the control socket {}: {e}", path.display()))?;
        Ok(Self { listener, file })
    }

    /// Answers until `stop` is done, then removes the socket.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn serve(
        self,
        manager: Shared,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let served = axum::serve(self.listener, router(manager))
            .with_graceful_shutdown(stop)
            .await;
        drop(self.file);
        served
    }
}

/// The control socket's routes.
pub fn router(manager: Shared) -> Router {
    let plane = Arc::clone(lock(&manager).plane());
    let app = App {
        manager,
        lister: Arc::new(Lister::new(plane)),
    };
    Router::new()
        .route("/v1", get(index))
        .route("/v1/version", get(version))
        .route(
            "/v1/services",
            get(services)
                .post(edit::add_service)
                .delete(edit::clear_services),
        )
        .route("/v1/servers", get(servers))
        .route(
            "/v1/servers/{service}/{server}",
            put(update).post(update).delete(edit::delete_server),
        )
        .route("/v1/connections", get(connections))
        .route(
            "/v1/services/{service}",
            patch(update_service)
                .put(update_service)
                .get(edit::service)
                .delete(edit::delete_service),
        )
        .route("/v1/services/{service}/servers", post(edit::add_server))
        .route("/v1/zero", post(edit::zero))
        .route(
            "/v1/timeouts",
            get(edit::timeouts)
                .patch(edit::update_timeouts)
                .put(edit::update_timeouts),
        )
        .route("/v1/templates", get(templates))
        .route("/v1/neighbours", get(neighbours))
        .route("/v1/workers", get(workers))
        .route("/v1/ports", get(ports))
        .route("/v1/drops", get(drops))
        .route("/v1/ipvs", get(ipvs).patch(update_ipvs).put(update_ipvs))
        .route("/v1/sync", get(sync).post(update_sync))
        .route("/v1/handover", post(hand_over))
        .route("/v1/reload", post(reload))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::BadRequest => StatusCode::BAD_REQUEST,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(self.body)).into_response()
    }
}

#[derive(Serialize)]
struct Index {
    endpoints: &'static [&'static str],
}

async fn index() -> Json<Index> {
    Json(Index {
        endpoints: ENDPOINTS,
    })
}

async fn not_found(uri: Uri) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no {}; GET /v1 lists what there is", uri.path()),
    )
}

async fn not_allowed(method: Method, uri: Uri) -> (StatusCode, Json<ErrorBody>) {
    let error = format!(
        "{method} is not for {}; GET /v1 lists what there is",
        uri.path()
    );
    let body = ErrorBody {
        error,
        problems: Vec::new(),
        code: None,
    };
    (StatusCode::METHOD_NOT_ALLOWED, Json(body))
}

async fn version() -> Json<api::Version> {
    Json(api::Version::current())
}

async fn services(State(app): State<App>) -> Json<api::Services> {
    Json(app.manager().services())
}

async fn servers(State(app): State<App>) -> Json<api::Servers> {
    Json(app.manager().servers())
}

async fn neighbours(State(app): State<App>) -> Json<api::Neighbours> {
    Json(app.manager().neighbours())
}

async fn workers(State(app): State<App>) -> Json<api::Workers> {
    Json(app.manager().workers(Instant::now()))
}

async fn ports(State(app): State<App>) -> Json<api::Ports> {
    Json(app.manager().ports())
}

async fn drops(State(app): State<App>) -> Json<api::Drops> {
    Json(app.manager().drops(Instant::now()))
}

/// What a listing in pages is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    service: Option<String>,
    limit: Option<usize>,
    from: Option<String>,
}

/// A page that is asked for.
struct Page<P> {
    service: Option<ServiceId>,
    from: P,
    limit: usize,
}

/// Makes sense of a query; without a place in it the listing begins at `start`.
fn page<P: FromStr<Err = String>>(
    app: &App,
    query: Result<Query<PageQuery>, QueryRejection>,
    start: P,
) -> Result<Page<P>, Error> {
    let bad = |e: String| Error::new(ErrorKind::BadRequest, e);
    let Query(query) = query.map_err(|e| bad(e.body_text()))?;
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if limit == 0 || limit > LIMIT_MAX {
        return Err(bad(format!(
            "`limit` is {limit}; it must be 1 to {LIMIT_MAX}: go on with `from` for more"
        )));
    }
    let from = match query.from {
        Some(from) => from.parse().map_err(bad)?,
        None => start,
    };
    let service = match query.service {
        Some(name) => Some(app.manager().service_id(&name)?),
        None => None,
    };
    Ok(Page {
        service,
        from,
        limit,
    })
}

async fn connections(
    State(app): State<App>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<api::Connections>, Error> {
    let p = page(&app, query, Position::START)?;
    let listed = app.lister.connections(p.service, p.from, p.limit);
    listed.await.map(Json)
}

async fn templates(
    State(app): State<App>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<api::Templates>, Error> {
    let p = page(&app, query, templates::Place::START)?;
    let plane = Arc::clone(app.manager().plane());
    Ok(Json(
        templates::page(&plane, p.service, p.from, p.limit).await,
    ))
}

async fn reload(State(app): State<App>) -> Result<Json<api::Reloaded>, Error> {
    app.manager().reload(SystemTime::now()).map(Json)
}

async fn update_service(
    State(app): State<App>,
    UrlPath(service): UrlPath<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::ServiceUpdated>, Error> {
    let bad = |e: String| Error::new(ErrorKind::BadRequest, e);
    let body = body.map_err(|e| bad(e.body_text()))?;
    let update: api::ServiceUpdate = serde_json::from_slice(&body).map_err(|e| {
        bad(format!(
            "the body must be {{\"one_packet\": true|false}}, {{\"persistence\": {{…}}}} or {{\"scheduler\": …}}: {e}"
        ))
    })?;
    app.manager().edit_service(&service, &update).map(Json)
}

async fn ipvs(State(app): State<App>) -> Json<api::Ipvs> {
    Json(app.manager().ipvs())
}

async fn update_ipvs(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::IpvsUpdated>, Error> {
    let bad = |e: String| Error::new(ErrorKind::BadRequest, e);
    let body = body.map_err(|e| bad(e.body_text()))?;
    let update: api::IpvsUpdate = serde_json::from_slice(&body).map_err(|e| {
        bad(format!(
            "the body must be {{\"NAME\": N}} with names of GET /v1/ipvs: {e}"
        ))
    })?;
    app.manager().edit_ipvs(&update).map(Json)
}

async fn sync(State(app): State<App>) -> Json<api::SyncStatus> {
    Json(app.manager().sync_listing())
}

async fn hand_over(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::HandOverState>, Error> {
    let bad = |e: String| Error::new(ErrorKind::BadRequest, e);
    let body = body.map_err(|e| bad(e.body_text()))?;
    let step = serde_json::from_slice(&body)
        .map_err(|e| bad(format!("the body must be a step of a take-over: {e}")))?;
    app.manager().hand_over(&step).map(Json)
}

async fn update_sync(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::SyncUpdated>, Error> {
    let bad = |e: String| Error::new(ErrorKind::BadRequest, e);
    let body = body.map_err(|e| bad(e.body_text()))?;
    let update: api::SyncUpdate = serde_json::from_slice(&body).map_err(|e| {
        bad(format!(
            "the body must be {{\"role\": …}}, {{\"start\": {{\"role\": …}}}} or {{\"stop\": …}}: {e}"
        ))
    })?;
    app.manager().edit_sync(&update).map(Json)
}

async fn update(
    State(app): State<App>,
    UrlPath((service, server)): UrlPath<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<api::ServerUpdated>, Error> {
    let bad = |e: String| Error::new(ErrorKind::BadRequest, e);
    let body = body.map_err(|e| bad(e.body_text()))?;
    let update: api::ServerUpdate = serde_json::from_slice(&body).map_err(|e| {
        bad(format!(
            "the body must be {{\"weight\": N}}, {{\"state\": \"ready|drain|maint\"}}, \
             {{\"upper_threshold\": N, \"lower_threshold\": N}}, {{\"up\": B}} or {{\"forwarding\": …}}: {e}"
        ))
    })?;
    let edit = checked(&update)?;
    app.manager().edit_server(&service, &server, edit).map(Json)
}

fn checked(update: &api::ServerUpdate) -> Result<ServerEdit, Error> {
    let invalid = |e: String| Error::new(ErrorKind::Invalid, e);
    let weight = match update.weight {
        None => None,
        Some(w) => Some(u16::try_from(w).map_err(|_| {
            let most = u16::MAX;
            invalid(format!("weight {w} is above {most}, the largest there is")).with_code("ERANGE")
        })?),
    };
    let admin = match update.state.as_deref() {
        None => None,
        Some(word) => Some(names::parse_admin(word).ok_or_else(|| {
            invalid(format!(
                "`{word}` is no state; there is: ready, drain, maint"
            ))
        })?),
    };
    let edit = ServerEdit {
        weight,
        admin,
        upper: threshold("upper", update.upper_threshold).map_err(invalid)?,
        lower: threshold("lower", update.lower_threshold).map_err(invalid)?,
        up: update.up,
        forwarding: edit::forwarding(update).map_err(|e| invalid(e).with_code("EINVAL"))?,
    };
    if edit == ServerEdit::default() {
        return Err(invalid(
            "nothing to change: give `weight`, `state`, `upper_threshold`, `lower_threshold`, `up`, `forwarding`, or \
             several"
                .to_owned(),
        ));
    }
    Ok(edit)
}

/// A threshold, if it is one (specification §1.3).
fn threshold(which: &str, given: Option<u64>) -> Result<Option<u32>, String> {
    const MOST: u32 = i32::MAX as u32;
    let Some(n) = given else { return Ok(None) };
    match u32::try_from(n) {
        Ok(n) if n <= MOST => Ok(Some(n)),
        _ => Err(format!(
            "{which} threshold {n} is above {MOST}, the largest there is"
        )),
    }
}

impl Manager {
    /// The slot of a service.
    ///
    /// # Errors
    /// There is none of that name; the sentence names those that there are.
    pub fn service_id(&self, name: &str) -> Result<ServiceId, Error> {
        let at = self.find_service(name)?;
        Ok(self.services.order[at])
    }
}
