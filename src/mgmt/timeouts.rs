//! Idle times of connections by state: the one list of their names, and their change at run time.

use std::time::Duration;

use super::api::{self, Error, ErrorKind};
use super::manager::{Manager, TAKEN_BACK};
use crate::config::values::Period;
use crate::forward::Setup;
use crate::forward::defs::Timeouts;

/// Name, how it is read, how it is set.
type Timeout = (
    &'static str,
    fn(&Timeouts) -> Duration,
    fn(&mut Timeouts, Duration),
);

macro_rules! timeouts {
    ($($name:ident)*) => {
        &[$((stringify!($name), |t| t.$name, |t, d| t.$name = d),)*]
    };
}

/// All of them, in the configuration's order and by its names.
pub static ALL: &[Timeout] = timeouts! {
    tcp_none tcp_established tcp_syn_sent tcp_syn_recv tcp_fin_wait tcp_time_wait tcp_close tcp_close_wait tcp_last_ack
    tcp_listen tcp_synack udp sctp_none sctp_init1 sctp_init sctp_c_sent sctp_c_replied sctp_c_wait sctp_cookie
    sctp_c_echoed sctp_established sctp_s_sent sctp_s_received sctp_s_ack_sent sctp_rejected sctp_closed
};

/// What the configuration allows.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(31 * 86_400);

/// Changes what `update` names, all of it; tells what, a clause each.
fn apply(setup: &mut Setup, update: &api::TimeoutsUpdate) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    for (name, text) in &update.0 {
        let names = || ALL.iter().map(|(name, _, _)| *name);
        let (_, get, set) = ALL.iter().find(|(n, _, _)| n == name).ok_or_else(|| {
            let hint = super::names::suggestion(name, names());
            format!("there is no timeout `{name}`{hint}")
        })?;
        let Period(to) = text.parse().map_err(|e| format!("`{name}`: {e}"))?;
        if !(LEAST..=MOST).contains(&to) {
            return Err(format!(
                "`{name}`: {text} is out of range; 1s to 31d is allowed"
            ));
        }
        let before = get(&setup.timeouts);
        set(&mut setup.timeouts, to);
        done.push(format!("{name} {} -> {}", Period(before), Period(to)));
    }
    if done.is_empty() {
        return Err("nothing to change: give a timeout and its duration".to_owned());
    }
    Ok(done)
}

impl Manager {
    /// The timeouts in force.
    #[must_use]
    pub fn timeouts(&self) -> api::Timeouts {
        let one = |(name, get, _): &Timeout| {
            let now = get(&self.setup.timeouts);
            api::Timeout {
                name: (*name).to_owned(),
                seconds: now.as_secs_f64(),
                overridden: now != get(&self.file.timeouts),
            }
        };
        api::Timeouts {
            timeouts: ALL.iter().map(one).collect(),
        }
    }

    /// Changes timeouts at run time, all of `update` at once. A connection takes a new one over when its next packet
    /// comes (specification §10.8).
    ///
    /// # Errors
    /// No such timeout, or it can't be so long or so short.
    pub fn edit_timeouts(
        &mut self,
        update: &api::TimeoutsUpdate,
    ) -> Result<api::TimeoutsUpdated, Error> {
        let refused = |why: String| Error::new(ErrorKind::Invalid, why).with_code("EINVAL");
        let mut setup = self.setup.clone();
        let done = apply(&mut setup, update).map_err(refused)?;
        if setup != self.setup {
            self.publish(setup).map_err(|e| refused(e.to_string()))?;
        }
        let timeouts = self.timeouts().timeouts;
        let named = |t: &api::Timeout| update.0.contains_key(&t.name) && t.overridden;
        let lasts = match timeouts.iter().any(named) {
            true => TAKEN_BACK,
            false => "as the file says",
        };
        Ok(api::TimeoutsUpdated {
            message: format!("timeouts: {} ({lasts})", done.join(", ")),
            timeouts,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(json: &str) -> api::TimeoutsUpdate {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn every_timeout_of_the_configuration_can_be_set_by_its_name() {
        let model = serde_json::to_value(crate::config::model::Timeouts::default());
        let model = model.expect("a map");
        let names: Vec<_> = model.as_object().expect("a map").keys().collect();
        let ours: Vec<_> = ALL.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(ours, names);
        for (name, get, _) in ALL {
            let mut setup = Setup::default();
            apply(&mut setup, &update(&format!("{{\"{name}\": \"77s\"}}"))).expect("good");
            assert_eq!(get(&setup.timeouts), Duration::from_secs(77));
            assert_ne!(setup, Setup::default());
        }
    }

    #[test]
    fn what_is_no_timeout_is_refused() {
        for (json, says) in [
            ("{}", "nothing to change"),
            (r#"{"tcp_fin_weit": "1m"}"#, "did you mean `tcp_fin_wait`?"),
            (r#"{"udp": "0s"}"#, "1s to 31d"),
            (r#"{"udp": "32d"}"#, "1s to 31d"),
            (r#"{"udp": "x"}"#, "`udp`:"),
        ] {
            let refused = apply(&mut Setup::default(), &update(json)).expect_err(json);
            assert!(refused.contains(says), "{refused}");
        }
    }
}
