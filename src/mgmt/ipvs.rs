//! The settings that LVS has as sysctls, by name: what they are, how they are changed at run time, what is in force.
//!
//! Owns [`SETTINGS`], the one list of what `polder set ipvs` can change. Pure functions of set-ups but for the listing.

use super::api;
use super::manager::Manager;
use crate::forward::Setup;
use crate::forward::defence::{Active, Mode};

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name, as in the file and in LVS.
    pub name: &'static str,
    /// The values that it can have, both ends included; a switch has 0 and 1.
    range: (u64, u64),
    get: fn(&Setup) -> u64,
    set: fn(&mut Setup, u64),
}

/// Entries that `amemthresh` can ask for at most, as in the file.
const AMEMTHRESH_MAX: u64 = 256 << 20;

macro_rules! settings {
    ($($name:ident $range:expr, |$s:ident| $get:expr, |$t:ident, $v:ident| $set:expr;)*) => {
        &[$(Setting {
            name: stringify!($name),
            range: $range,
            get: |$s| $get,
            set: |$t, $v| $set,
        },)*]
    };
}

/// All settings, in the order of the listing.
pub static SETTINGS: &[Setting] = settings! {
    drop_entry (0, 3), |s| s.sysctls.drop_entry.number().into(), |s, v| s.sysctls.drop_entry = mode(v);
    drop_packet (0, 3), |s| s.sysctls.drop_packet.number().into(), |s, v| s.sysctls.drop_packet = mode(v);
    secure_tcp (0, 3), |s| s.sysctls.secure_tcp.number().into(), |s, v| s.sysctls.secure_tcp = mode(v);
    am_droprate (1, u32::MAX as u64), |s| s.sysctls.am_droprate.into(),
        |s, v| s.sysctls.am_droprate = u32::try_from(v).unwrap_or(u32::MAX);
    amemthresh (0, AMEMTHRESH_MAX), |s| s.sysctls.amemthresh, |s, v| s.sysctls.amemthresh = v;
    expire_quiescent_template (0, 1), |s| s.expire_quiescent_template.into(),
        |s, v| s.expire_quiescent_template = v != 0;
    nat_icmp_send (0, 1), |s| s.sysctls.nat_icmp_send.into(), |s, v| s.sysctls.nat_icmp_send = v != 0;
    schedule_icmp (0, 1), |s| s.sysctls.schedule_icmp.into(), |s, v| s.sysctls.schedule_icmp = v != 0;
    pmtu_disc (0, 1), |s| s.sysctls.pmtu_disc.into(), |s, v| s.sysctls.pmtu_disc = v != 0;
    conn_reuse_mode (0, 3), |s| s.switches.conn_reuse_mode.into(),
        |s, v| s.switches.conn_reuse_mode = u32::try_from(v).unwrap_or(1);
    expire_nodest_conn (0, 1), |s| s.switches.expire_nodest_conn.into(),
        |s, v| s.switches.expire_nodest_conn = v != 0;
    sloppy_tcp (0, 1), |s| s.switches.sloppy_tcp.into(), |s, v| s.switches.sloppy_tcp = v != 0;
    sloppy_sctp (0, 1), |s| s.switches.sloppy_sctp.into(), |s, v| s.switches.sloppy_sctp = v != 0;
};

fn mode(number: u64) -> Mode {
    Mode::of(number).unwrap_or_default()
}

/// Changes what `update` names, all of it; tells what, a clause each.
///
/// # Errors
/// There is no such setting, or it can't have that value. `setup` may then be changed in part.
pub fn apply(setup: &mut Setup, update: &api::IpvsUpdate) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    for (name, value) in &update.0 {
        let names = || SETTINGS.iter().map(|s| s.name);
        let setting = SETTINGS.iter().find(|s| s.name == name).ok_or_else(|| {
            let hint = super::names::suggestion(name, names());
            format!("there is no setting `{name}` that can be changed at run time{hint}")
        })?;
        let value = match value {
            api::IpvsValue::Number(n) => *n,
            api::IpvsValue::Switch(on) => u64::from(*on),
        };
        let (least, most) = setting.range;
        if value < least || value > most {
            return Err(format!("`{name}` is {least} to {most}, not {value}"));
        }
        let before = (setting.get)(setup);
        (setting.set)(setup, value);
        done.push(format!("{name} {before} -> {}", (setting.get)(setup)));
    }
    if done.is_empty() {
        return Err("nothing to change: give a setting and its value".to_owned());
    }
    Ok(done)
}

/// Whether two set-ups differ in a setting.
#[must_use]
pub fn differ(a: &Setup, b: &Setup) -> bool {
    SETTINGS.iter().any(|s| (s.get)(a) != (s.get)(b))
}

/// Gives `new` the settings that were made at run time where the file says the same as it did, and tells of them.
pub fn keep(file: &Setup, running: &Setup, new: &mut Setup) -> Vec<String> {
    let mut kept = Vec::new();
    for setting in SETTINGS {
        let (now, says) = ((setting.get)(running), (setting.get)(new));
        if says == (setting.get)(file) && now != says {
            kept.push(format!(
                "ipvs keeps {} {now} that was set at run time (the file says {says})",
                setting.name
            ));
            (setting.set)(new, now);
        }
    }
    kept
}

impl Manager {
    /// The settings, and which defences are in force.
    #[must_use]
    pub fn ipvs(&self) -> api::Ipvs {
        let active = self.plane.defence.active.get();
        let settings = SETTINGS.iter().map(|s| {
            let (value, file) = ((s.get)(&self.setup), (s.get)(&self.file));
            let active = in_force(s.name, active);
            api::IpvsSetting {
                name: s.name.to_owned(),
                // An automatic mode is listed as LVS lists it: 2 while it is in force.
                value: if value == 1 && active == Some(true) {
                    2
                } else {
                    value
                },
                active,
                overridden: value != file,
            }
        });
        let dropped = |f: fn(&crate::table::WorkerCounters) -> u64| -> u64 {
            self.plane.workers.iter().map(|w| f(&w.counters)).sum()
        };
        api::Ipvs {
            settings: settings.collect(),
            drop_rate: active.drop_rate,
            free_entries: self.plane.free_entries(),
            dropped_connections: dropped(|c| c.dropped_entries.get()),
            dropped_templates: dropped(|c| c.dropped_templates.get())
                .wrapping_add(self.plane.defence.dropped_templates.get()),
        }
    }
}

/// Whether the defence of a name is in force; `None` for what is no defence.
fn in_force(name: &str, active: Active) -> Option<bool> {
    match name {
        "drop_entry" => Some(active.drop_entry),
        "drop_packet" => Some(active.drop_rate > 0),
        "secure_tcp" => Some(active.secure_tcp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(json: &str) -> api::IpvsUpdate {
        serde_json::from_str(json).expect(json)
    }

    #[test]
    fn every_setting_can_be_set_to_both_ends_of_its_range_and_is_what_was_set() {
        for s in SETTINGS {
            let mut setup = Setup::default();
            for value in [s.range.0, s.range.1] {
                let json = format!("{{\"{}\": {value}}}", s.name);
                apply(&mut setup, &update(&json)).expect("a value of the range");
                assert_eq!((s.get)(&setup), value, "{}", s.name);
            }
            let json = format!("{{\"{}\": {}}}", s.name, s.range.1 + 1);
            let refused = apply(&mut setup, &update(&json)).expect_err("beyond the range");
            assert!(refused.contains(s.name), "{refused}");
        }
    }

    #[test]
    fn switches_take_words_of_json_and_numbers() {
        let mut setup = Setup::default();
        let done = apply(
            &mut setup,
            &update(r#"{"nat_icmp_send": true, "pmtu_disc": 0}"#),
        );
        let told = ["nat_icmp_send 0 -> 1", "pmtu_disc 1 -> 0"];
        assert_eq!(done.expect("good"), told);
        assert!(setup.sysctls.nat_icmp_send && !setup.sysctls.pmtu_disc);
    }

    #[test]
    fn an_unknown_name_is_answered_with_one_that_there_is() {
        let refused = apply(&mut Setup::default(), &update(r#"{"drop_entri": 1}"#));
        let refused = refused.expect_err("no such");
        assert!(refused.contains("drop_entry"), "{refused}");
    }

    #[test]
    fn what_was_set_at_run_time_is_kept_until_the_file_changes_it() {
        let file = Setup::default();
        let mut running = file.clone();
        running.sysctls.drop_entry = Mode::Always;
        let mut same = file.clone();
        let kept = keep(&file, &running, &mut same);
        assert_eq!(same, running);
        let told = "ipvs keeps drop_entry 3 that was set at run time (the file says 0)";
        assert_eq!(kept, [told]);
        let mut other = file.clone();
        other.sysctls.drop_entry = Mode::Automatic;
        assert!(keep(&file, &running, &mut other).is_empty());
        assert_eq!(other.sysctls.drop_entry, Mode::Automatic);
    }
}
