//! The defences against floods: what is configured, and what of it is in force (specification §2.9).
//!
//! Owns the modes, the decision whether memory is low, and the word by which the management core tells workers. Knows
//! no table and no packet. Memory is that of the bounded tables: it is low when fewer connection entries are free than
//! `amemthresh`. Invariant: a mode that is off is never in force, one that is "always" always is.

use std::sync::atomic::{AtomicU64, Ordering};

/// When a defence is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Never; 0.
    #[default]
    Off,
    /// While memory is low; 1, or 2 while it is.
    Automatic,
    /// Always; 3.
    Always,
}

impl Mode {
    /// The mode of a setting's number, 0 to 3. 1 and 2 are one mode: IPVS itself writes the one that holds.
    #[must_use]
    pub fn of(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Off),
            1 | 2 => Some(Self::Automatic),
            3 => Some(Self::Always),
            _ => None,
        }
    }

    /// The number, as the file has it.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Automatic => 1,
            Self::Always => 3,
        }
    }

    fn in_force(self, low: bool) -> bool {
        match self {
            Self::Off => false,
            Self::Automatic => low,
            Self::Always => true,
        }
    }
}

/// Settings that LVS has as sysctls and that can be changed at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// Once a second connections that are worth little are ended (specification §2.10).
    pub drop_entry: Mode,
    /// Of the packets that need a server, one in so many is dropped.
    pub drop_packet: Mode,
    /// TCP goes by the table of specification §7.2.
    pub secure_tcp: Mode,
    /// One packet in so many with `drop_packet` always; 0 as 1.
    pub am_droprate: u32,
    /// Free connection entries of all workers below which memory is low.
    pub amemthresh: u64,
    /// A real server's packet of no connection is answered with port unreachable (specification §2.6).
    pub nat_icmp_send: bool,
    /// An ICMP error about a packet of no connection may make one (specification §8.6).
    pub schedule_icmp: bool,
    /// The don't-fragment bit is heeded, and copied, where packets enter an IPv4 tunnel (specification §8.4).
    pub pmtu_disc: bool,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self {
            drop_entry: Mode::Off,
            drop_packet: Mode::Off,
            secure_tcp: Mode::Off,
            am_droprate: 10,
            amemthresh: 0,
            nat_icmp_send: false,
            schedule_icmp: false,
            pmtu_disc: true,
        }
    }
}

/// Which defences are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Active {
    /// Of the packets that need a server, one in so many is dropped; 0 for none.
    pub drop_rate: u32,
    /// Connections that are worth little are ended.
    pub drop_entry: bool,
    /// The alternative TCP table holds.
    pub secure_tcp: bool,
}

impl Active {
    /// What is in force with so many free connection entries.
    #[must_use]
    pub fn of(settings: &Sysctls, free: u64) -> Self {
        let threshold = settings.amemthresh;
        let low = free < threshold;
        let drop_rate = match settings.drop_packet {
            Mode::Automatic if low => {
                u32::try_from(threshold / (threshold - free)).unwrap_or(u32::MAX)
            }
            Mode::Always => settings.am_droprate.max(1),
            Mode::Automatic | Mode::Off => 0,
        };
        Self {
            drop_rate,
            drop_entry: settings.drop_entry.in_force(low),
            secure_tcp: settings.secure_tcp.in_force(low),
        }
    }

    fn pack(self) -> u64 {
        u64::from(self.drop_rate)
            | u64::from(self.drop_entry) << 32
            | u64::from(self.secure_tcp) << 33
    }

    #[allow(clippy::cast_possible_truncation)] // The lower half is meant.
    fn unpack(word: u64) -> Self {
        Self {
            drop_rate: word as u32,
            drop_entry: word >> 32 & 1 != 0,
            secure_tcp: word >> 33 & 1 != 0,
        }
    }
}

/// The word by which the management core tells the workers what is in force. Nothing at first.
#[derive(Debug, Default)]
pub struct Published(AtomicU64);

impl Published {
    /// What is in force.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Active {
        // Relaxed: the word carries all its meaning itself.
        Active::unpack(self.0.load(Ordering::Relaxed))
    }

    /// Puts something else in force.
    pub fn set(&self, active: Active) {
        self.0.store(active.pack(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(mode: Mode, amemthresh: u64) -> Sysctls {
        Sysctls {
            drop_entry: mode,
            drop_packet: mode,
            secure_tcp: mode,
            am_droprate: 7,
            amemthresh,
            ..Sysctls::default()
        }
    }

    #[test]
    fn modes_are_in_force_by_memory_as_specified() {
        // Mode, free entries of a threshold of 100, drop rate, the other two.
        for (mode, free, drop_rate, on) in [
            (Mode::Off, 0, 0, false),
            (Mode::Automatic, 100, 0, false),
            (Mode::Automatic, 99, 100, true),
            (Mode::Automatic, 50, 2, true),
            (Mode::Automatic, 1, 1, true),
            (Mode::Automatic, 0, 1, true),
            (Mode::Always, 100, 7, true),
            (Mode::Always, 0, 7, true),
        ] {
            let got = Active::of(&settings(mode, 100), free);
            let want = Active {
                drop_rate,
                drop_entry: on,
                secure_tcp: on,
            };
            assert_eq!(got, want, "{mode:?} with {free} free");
        }
    }

    #[test]
    fn memory_is_never_low_without_a_threshold() {
        assert_eq!(
            Active::of(&settings(Mode::Automatic, 0), 0),
            Active::default()
        );
    }

    #[test]
    fn what_is_published_is_what_is_read() {
        let word = Published::default();
        assert_eq!(word.get(), Active::default());
        for drop_rate in [0, 1, u32::MAX] {
            for (drop_entry, secure_tcp) in [(false, true), (true, false), (true, true)] {
                let active = Active {
                    drop_rate,
                    drop_entry,
                    secure_tcp,
                };
                word.set(active);
                assert_eq!(word.get(), active);
            }
        }
    }

    #[test]
    fn there_are_four_numbers_and_three_modes() {
        let modes: Vec<_> = (0..5).map(Mode::of).collect();
        let auto = Some(Mode::Automatic);
        assert_eq!(
            modes,
            [Some(Mode::Off), auto, auto, Some(Mode::Always), None]
        );
    }
}
