//! Services and servers that come and go at run time, and listings that begin to count again.
//!
//! What is asked for comes in the configuration's words and is judged by the rules of the configuration's file, so that
//! what can be done at run time can also be written there. Each change is published whole or not at all, and refused
//! with the error that IPVS would have for it, where it has one (specification §1.1, §1.3).

use serde_json::{Map, Value};

use super::api::{self, Error, ErrorKind};
use super::manager::{Manager, TAKEN_BACK};
use super::{names, reload};
use crate::config::{self, Judged, model};
use crate::forward::{BuildError, DestDef, ServiceDef, Setup};
use crate::net::Af;
use crate::sync::settings::{Format, Role};

/// The largest weight that a server can have.
const WEIGHT_MAX: u64 = u16::MAX as u64;

fn exists(why: String) -> Error {
    Error::new(ErrorKind::Conflict, why).with_code("EEXIST")
}

fn unknown(why: String) -> Error {
    Error::new(ErrorKind::Invalid, why).with_code("ENOENT")
}

fn out_of_range(why: String) -> Error {
    Error::new(ErrorKind::Invalid, why).with_code("ERANGE")
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why).with_code("EINVAL")
}

fn refused(problems: Vec<String>) -> Error {
    invalid("it can't be so").with_problems(problems)
}

fn unbuilt(why: &BuildError) -> Error {
    let code = match why {
        BuildError::TooManyServices { .. } | BuildError::TooManyServers { .. } => "ENOMEM",
        BuildError::Scheduler { .. } => "EINVAL",
    };
    Error::new(ErrorKind::Invalid, why.to_string()).with_code(code)
}

fn object(given: &Value) -> Result<Map<String, Value>, Error> {
    given
        .as_object()
        .cloned()
        .ok_or_else(|| invalid("an object with the configuration's keys is needed"))
}

/// What a service would be recognised by, as far as that can be told.
fn kind_of(given: &Map<String, Value>) -> Option<crate::forward::ServiceKind> {
    const KEYS: [&str; 5] = ["protocol", "address", "port", "mark", "family"];
    let identity: Map<String, Value> = given
        .iter()
        .filter(|(key, _)| KEYS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let service: model::Service = serde_json::from_value(identity.into()).ok()?;
    service.kind()
}

/// Names that stand for nothing that there is (specification §1.1).
fn check_names(scheduler: Option<&str>, engine: Option<&str>) -> Result<(), Error> {
    if let Some(name) = scheduler.filter(|name| !crate::sched::NAMES.contains(name)) {
        let there = crate::sched::NAMES.join(", ");
        return Err(unknown(format!(
            "there is no scheduler `{name}`; there are {there}"
        )));
    }
    const ENGINES: [&str; 2] = ["sip", "payload"];
    if let Some(name) = engine.filter(|name| !ENGINES.contains(name)) {
        let there = ENGINES.join(", ");
        return Err(unknown(format!(
            "there is no persistence engine `{name}`; there are {there}"
        )));
    }
    Ok(())
}

/// The same of an update.
pub(super) fn check_update(update: &api::ServiceUpdate) -> Result<(), Error> {
    let engine = update
        .persistence
        .as_ref()
        .and_then(|p| p.engine.as_deref());
    let engine = engine.filter(|name| *name != "none");
    check_names(update.scheduler.as_deref(), engine)
}

/// Numbers of a server that contradict each other or are too large (specification §1.3).
fn check_numbers(given: &Map<String, Value>) -> Result<(), Error> {
    let number = |key| given.get(key).and_then(Value::as_u64).unwrap_or(0);
    let weight = number("weight");
    if weight > WEIGHT_MAX {
        return Err(out_of_range(format!(
            "weight {weight} is above {WEIGHT_MAX}, the largest there is"
        )));
    }
    let (upper, lower) = (number("upper_threshold"), number("lower_threshold"));
    if lower > upper {
        return Err(out_of_range(format!(
            "the lower threshold, {lower}, is above the upper one, {upper}"
        )));
    }
    Ok(())
}

impl Manager {
    /// Adds a service, given in the configuration's words, behind all others.
    ///
    /// One without a name gets that which the file has for the same service, else the default one.
    ///
    /// # Errors
    /// There is such a service (`EEXIST`), no such scheduler or engine (`ENOENT`), no room (`ENOMEM`), or it can't be so
    /// (`EINVAL`).
    pub fn add_service(&mut self, given: &Value) -> Result<api::ServiceAdded, Error> {
        let mut given = object(given)?;
        let kind = kind_of(&given);
        let same = |s: &&ServiceDef| Some(s.kind) == kind;
        if let Some(there) = self.setup.services.iter().find(same) {
            let name = names::service(there);
            return Err(exists(format!("there is service {name} already")));
        }
        let engine = given.get("persistence").and_then(|p| p.get("engine"));
        check_names(
            given.get("scheduler").and_then(Value::as_str),
            engine.and_then(Value::as_str),
        )?;
        let servers = given.get("servers").and_then(Value::as_array);
        for server in servers.into_iter().flatten().filter_map(Value::as_object) {
            check_numbers(server)?;
        }
        if !given.contains_key("name")
            && let Some(filed) = self.file.services.iter().find(same)
            && !self.setup.services.iter().any(|s| s.name == filed.name)
        {
            given.insert("name".to_owned(), filed.name.clone().into());
        }
        let Judged { service, warnings } =
            config::judge(&self.setup, &Value::Object(given)).map_err(refused)?;
        self.check_mixed(&service, service.servers.iter())?;
        if self.setup.services.iter().any(|s| s.name == service.name) {
            let why = format!("there is another service named `{}`", service.name);
            return Err(invalid(why));
        }
        let alone = Setup {
            services: vec![service.clone()],
            ..Setup::default()
        };
        let problems = reload::duplicates(&alone);
        if !problems.is_empty() {
            return Err(refused(problems));
        }
        let mut setup = self.setup.clone();
        setup.services.push(service);
        self.publish_edit(setup)?;
        let at = self.setup.services.len() - 1;
        let id = self.services.order[at];
        self.baselines
            .zero(&self.services, &[id], &self.plane.workers);
        let service = self.listed_service(at);
        Ok(api::ServiceAdded {
            message: format!(
                "service {} added ({TAKEN_BACK})",
                names::service(&self.setup.services[at])
            ),
            service,
            // There are none yet where it was only just added.
            warnings: warnings
                .into_iter()
                .filter(|w| !w.starts_with("servers: "))
                .collect(),
        })
    }

    /// Takes a service out. Its connections go on as when a reload does so.
    ///
    /// # Errors
    /// There is no such service (`ESRCH`).
    pub fn delete_service(&mut self, service: &str) -> Result<api::Deleted, Error> {
        let at = self.find_service(service)?;
        let mut setup = self.setup.clone();
        let name = names::service(&setup.services.remove(at));
        self.publish_edit(setup)?;
        Ok(api::Deleted {
            message: format!("service {name} deleted ({TAKEN_BACK})"),
            deleted: vec![name],
        })
    }

    /// Takes all services out.
    ///
    /// # Errors
    /// None that is known.
    pub fn clear_services(&mut self) -> Result<api::Deleted, Error> {
        let mut setup = self.setup.clone();
        let deleted: Vec<_> = setup
            .services
            .drain(..)
            .map(|s| names::service(&s))
            .collect();
        self.publish_edit(setup)?;
        let what = match deleted.len() {
            0 => {
                return Ok(api::Deleted {
                    message: "there was no service".to_owned(),
                    deleted,
                });
            }
            n => config::some(n, "service"),
        };
        Ok(api::Deleted {
            message: format!("{what} deleted ({TAKEN_BACK})"),
            deleted,
        })
    }

    /// Adds a server, given in the configuration's words, behind all others of the service.
    ///
    /// # Errors
    /// There is no such service (`ESRCH`), there is such a server (`EEXIST`), numbers contradict each other (`ERANGE`),
    /// there is no room (`ENOMEM`), or it can't be so (`EINVAL`).
    pub fn add_server(&mut self, service: &str, given: &Value) -> Result<api::ServerAdded, Error> {
        let s = self.find_service(service)?;
        let mut given = object(given)?;
        let def = &self.setup.services[s];
        let at = server_key(&given, def.port());
        let same = |d: &&DestDef| Some((d.addr, d.port)) == at;
        if let Some(there) = def.servers.iter().find(same) {
            let why = format!(
                "service `{}` has server {} already",
                def.name,
                there.label()
            );
            return Err(exists(why));
        }
        check_numbers(&given)?;
        let filed = reload::same_service(&self.file, def);
        let filed = filed.and_then(|f| f.servers.iter().find(same));
        if let Some(name) = filed.and_then(|d| d.name.as_ref())
            && !given.contains_key("name")
            && !def.servers.iter().any(|d| &d.label() == name)
        {
            given.insert("name".to_owned(), name.clone().into());
        }
        let Judged { service, warnings } = self.judge_last(def, given.into())?;
        let added = service.servers.into_iter().next_back();
        let added = added.ok_or_else(|| invalid("it can't be so"))?;
        let label = added.label();
        if def.servers.iter().any(|d| d.label() == label) {
            let why = format!("service `{}` has a server `{label}` already", def.name);
            return Err(invalid(why));
        }
        let d = def.servers.len();
        self.check_mixed(def, [&added])?;
        let mut setup = self.setup.clone();
        setup.services[s].servers.push(added);
        self.publish_edit(setup)?;
        let server = self.listed_server(s, d);
        Ok(api::ServerAdded {
            message: format!(
                "server {}/{} added ({TAKEN_BACK})",
                server.service, server.name
            ),
            server,
            warnings,
        })
    }

    /// Takes a server out. Its connections go on as when a reload does so.
    ///
    /// # Errors
    /// There is no such service (`ESRCH`) or server (`ENOENT`).
    pub fn delete_server(&mut self, service: &str, server: &str) -> Result<api::Deleted, Error> {
        let (s, d) = self.find_server(service, server)?;
        let mut setup = self.setup.clone();
        let service = &mut setup.services[s];
        let gone = service.servers.remove(d);
        let name = format!("{}/{}", service.name, gone.label());
        self.publish_edit(setup)?;
        Ok(api::Deleted {
            message: format!("server {name} deleted ({TAKEN_BACK})"),
            deleted: vec![name],
        })
    }

    /// Lets listings of one service, or of all, count from 0 again (specification §10.7). Counters go on.
    ///
    /// # Errors
    /// There is no such service (`ESRCH`).
    pub fn zero(&mut self, which: &api::Zero) -> Result<api::Zeroed, Error> {
        let ids = match &which.service {
            Some(name) => vec![self.service_id(name)?],
            None => self.services.order.clone(),
        };
        self.baselines
            .zero(&self.services, &ids, &self.plane.workers);
        let what = config::some(ids.len(), "service");
        Ok(api::Zeroed {
            message: format!("listings of {what} count from 0"),
        })
    }

    /// Judges a service of the running configuration as the file's would be.
    ///
    /// # Errors
    /// It can't be so.
    pub(super) fn judge_service(&self, service: &ServiceDef) -> Result<(), Error> {
        let words = config::service_value(service);
        let judged = config::judge(&self.setup, &words);
        judged.map(|_| ()).map_err(refused)
    }

    /// Judges a service of `setup` of which a server was changed.
    ///
    /// # Errors
    /// It can't be so.
    pub(super) fn judge_server(&self, setup: &Setup, s: usize, d: usize) -> Result<(), Error> {
        let service = &setup.services[s];
        let server = &service.servers[d];
        let others = || service.servers.iter().enumerate().filter(|(i, _)| *i != d);
        let rest = ServiceDef {
            servers: others().map(|(_, d)| d.clone()).collect(),
            ..service.clone()
        };
        self.judge_last(&rest, config::server_value(server))?;
        self.check_mixed(service, [server])
    }

    /// Judges a server, given in the configuration's words, as the last one of a service. It is the last one of what
    /// comes back, too, and warnings and problems name only what is of it or of the service.
    fn judge_last(&self, of: &ServiceDef, server: Value) -> Result<Judged, Error> {
        // The others were judged when they came. What they may share with it is looked at by the caller, but for this.
        let alone = server.get("quic_server_id").is_none();
        let others = if alone {
            &[][..]
        } else {
            of.servers.as_slice()
        };
        let mut words = config::service_value(&ServiceDef {
            servers: others.to_vec(),
            ..of.clone()
        });
        if let Some(servers) = words["servers"].as_array_mut() {
            servers.push(server);
        }
        let own = format!("servers[{}].", others.len());
        let of_it = |problem: &String| problem.strip_prefix(&own).map(str::to_owned);
        let judged = config::judge(&self.setup, &words).map_err(|problems| {
            let problems = problems
                .iter()
                .map(|p| of_it(p).unwrap_or_else(|| p.clone()));
            refused(problems.collect())
        })?;
        Ok(Judged {
            warnings: judged.warnings.iter().filter_map(of_it).collect(),
            ..judged
        })
    }

    /// Messages of the ipvs format have no room for a server of another family than its clients (specification §1.3).
    fn check_mixed<'a>(
        &self,
        service: &ServiceDef,
        servers: impl IntoIterator<Item = &'a DestDef>,
    ) -> Result<(), Error> {
        let Some(settings) = self.sync.as_ref().map(|sync| sync.settings()) else {
            return Ok(());
        };
        let tells = settings.role != Role::Off && matches!(settings.format, Format::Ipvs(_));
        let mut mixed = servers
            .into_iter()
            .filter(|d| Af::of(d.addr) != service.af());
        match mixed.next() {
            Some(d) if tells => Err(invalid(format!(
                "server {} has another address family than its clients, for which messages of the ipvs format, in which \
                 state sync runs, have no room",
                d.label()
            ))),
            _ => Ok(()),
        }
    }

    fn publish_edit(&mut self, setup: Setup) -> Result<(), Error> {
        self.publish(setup).map_err(|e| unbuilt(&e))
    }

    /// A server by its indices in the set-up, as listings have it.
    pub(super) fn listed_server(&self, service: usize, server: usize) -> api::Server {
        self.listed_service(service).servers.swap_remove(server)
    }
}

/// Address and port of a server that is given in the configuration's words, as far as they can be told.
fn server_key(given: &Map<String, Value>, service_port: u16) -> Option<(std::net::IpAddr, u16)> {
    let addr = given.get("address")?.as_str()?.parse().ok()?;
    let port = match given.get("port") {
        None => service_port,
        Some(port) => u16::try_from(port.as_u64()?).ok()?,
    };
    Some((addr, port))
}
