//! `polder set`: changes of the running appliance.

use std::io::Write;

use hyper::Method;

use super::Failure;
use super::args::{SetArgs, SetPersistence, SetServer, SetService, SetWhat};
use super::client::{Client, encode, typed};
use crate::mgmt::api;

/// Does what `args` ask for and tells it on `out`.
///
/// # Errors
/// A sentence.
pub fn run(args: &SetArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let client = Client::new(&args.socket.socket)?;
    let message = match &args.what {
        SetWhat::Server {
            service,
            server,
            to,
        } => {
            let path = format!("/v1/servers/{}/{}", encode(service), encode(server));
            let body = serde_json::to_vec(&server_update(to)).map_err(|e| e.to_string())?;
            let answer = client.request(&Method::PUT, &path, body.into())?;
            typed::<api::ServerUpdated>(answer)?.message
        }
        SetWhat::Service { service, to } => {
            let path = format!("/v1/services/{}", encode(service));
            let body = serde_json::to_vec(&service_update(to)).map_err(|e| e.to_string())?;
            let answer = client.request(&Method::PATCH, &path, body.into())?;
            typed::<api::ServiceUpdated>(answer)?.message
        }
        SetWhat::Ipvs { name, value } => {
            let update = api::IpvsUpdate([(name.clone(), ipvs_value(value)?)].into());
            let body = serde_json::to_vec(&update).map_err(|e| e.to_string())?;
            let answer = client.request(&Method::PATCH, "/v1/ipvs", body.into())?;
            typed::<api::IpvsUpdated>(answer)?.message
        }
    };
    super::print(out, &(message + "\n"))
}

/// A setting's value as people write it.
fn ipvs_value(text: &str) -> Result<api::IpvsValue, Failure> {
    match text {
        "on" | "true" => Ok(api::IpvsValue::Switch(true)),
        "off" | "false" => Ok(api::IpvsValue::Switch(false)),
        number => number.parse().map(api::IpvsValue::Number).map_err(|_| {
            Failure::Failed(format!("`{number}` is no value: give a number, on or off"))
        }),
    }
}

fn server_update(to: &SetServer) -> api::ServerUpdate {
    let mut update = api::ServerUpdate::default();
    match to {
        SetServer::Weight { weight } => update.weight = Some(u64::from(*weight)),
        SetServer::State { state } => update.state = Some(state.clone()),
        SetServer::UpperThreshold { connections } => {
            update.upper_threshold = Some(u64::from(*connections));
        }
        SetServer::LowerThreshold { connections } => {
            update.lower_threshold = Some(u64::from(*connections));
        }
        SetServer::Up => update.up = Some(true),
        SetServer::Down => update.up = Some(false),
    }
    update
}

fn service_update(to: &SetService) -> api::ServiceUpdate {
    let mut persistence = api::PersistenceUpdate::default();
    match to {
        SetService::OnePacket { to } => {
            return api::ServiceUpdate {
                one_packet: Some(to == "on"),
                ..api::ServiceUpdate::default()
            };
        }
        SetService::Persistence { to } => match to {
            SetPersistence::Timeout { timeout } => persistence.timeout = Some(timeout.clone()),
            SetPersistence::Netmask { netmask } => persistence.netmask = Some(netmask.clone()),
        },
        SetService::Engine {
            engine,
            offset,
            length,
            unit,
        } => {
            persistence = api::PersistenceUpdate {
                engine: Some(engine.clone()),
                offset: *offset,
                length: *length,
                unit: unit.clone(),
                ..persistence
            };
        }
    }
    api::ServiceUpdate {
        persistence: Some(persistence),
        ..api::ServiceUpdate::default()
    }
}
