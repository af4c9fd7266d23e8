//! The network between the nodes, and who listens in on it.

use std::collections::BTreeMap;

use super::world::Rng;

/// What the network does to datagrams; shares of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub drop: u64,
    pub double: u64,
    pub cut: u64,
    pub damage: u64,
    /// Every datagram takes one tick and up to this many more.
    pub delay: u64,
    /// Of a thousand, how many take up to a second.
    pub late: u64,
}

impl Faults {
    pub fn random(rng: &mut Rng) -> Self {
        let mut some = |most: u64| {
            if rng.chance(500) {
                rng.below(most + 1)
            } else {
                0
            }
        };
        Self {
            drop: some(300),
            double: some(100),
            cut: some(50),
            damage: some(50),
            delay: some(20),
            late: some(100),
        }
    }

    pub fn loses(&self) -> bool {
        self.drop + self.cut + self.damage + self.late > 0
    }
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Flying {
    pub from: usize,
    pub to: usize,
    pub bytes: Vec<u8>,
    /// Which recording it is of; none when it was damaged.
    pub recording: Option<usize>,
}

/// A datagram as the attacker has it.
#[derive(Clone, Debug)]
pub struct Recording {
    pub bytes: Vec<u8>,
    pub from: usize,
    pub sent: u64,
    /// Processes that it came to.
    pub came_to: Vec<u64>,
}

/// Recordings that the attacker keeps.
const RECORDINGS_MAX: usize = 6000;

#[derive(Debug, Default)]
pub struct Network {
    pub faults: Faults,
    pub flying: BTreeMap<(u64, u64), Flying>,
    pub count: u64,
    pub recordings: Vec<Recording>,
    /// Until when one does not reach the other.
    pub cut_off: BTreeMap<(usize, usize), u64>,
    pub lost: u64,
}

impl Network {
    pub fn cut_off(&mut self, a: usize, b: usize, until: u64) {
        self.cut_off.insert((a, b), until);
    }

    pub fn heal(&mut self) {
        self.cut_off.clear();
        self.faults = Faults::default();
    }

    pub fn is_cut_off(&self, a: usize, b: usize, now: u64) -> bool {
        self.cut_off.get(&(a, b)).is_some_and(|until| *until > now)
    }

    /// Sends a datagram to each of `to`.
    pub fn send(&mut self, now: u64, from: usize, to: &[usize], bytes: &[u8], rng: &mut Rng) {
        if self.recordings.len() >= RECORDINGS_MAX {
            // Some old ones stay.
            let at = usize::try_from(rng.below(RECORDINGS_MAX as u64)).expect("small");
            self.recordings[at] = Recording {
                bytes: bytes.to_vec(),
                from,
                sent: now,
                came_to: Vec::new(),
            };
            // Flying ones may name it; their arrival is noted at the wrong one otherwise.
            for flying in self.flying.values_mut().filter(|f| f.recording == Some(at)) {
                flying.recording = None;
            }
            return self.fly(now, from, to, at, bytes, rng);
        }
        self.recordings.push(Recording {
            bytes: bytes.to_vec(),
            from,
            sent: now,
            came_to: Vec::new(),
        });
        self.fly(now, from, to, self.recordings.len() - 1, bytes, rng);
    }

    fn fly(&mut self, now: u64, from: usize, to: &[usize], at: usize, bytes: &[u8], rng: &mut Rng) {
        for &to in to {
            let copies = 1 + u64::from(rng.chance(self.faults.double));
            for _ in 0..copies {
                if self.is_cut_off(from, to, now) || rng.chance(self.faults.drop) {
                    self.lost += 1;
                    continue;
                }
                let mut flying = Flying {
                    from,
                    to,
                    bytes: bytes.to_vec(),
                    recording: Some(at),
                };
                if rng.chance(self.faults.cut) {
                    flying.bytes.truncate(rng.index(bytes.len()));
                    flying.recording = None;
                } else if rng.chance(self.faults.damage) {
                    let bit = rng.index(8 * bytes.len());
                    flying.bytes[bit / 8] ^= 1 << (bit % 8);
                    flying.recording = None;
                }
                let late = if rng.chance(self.faults.late) { 100 } else { 0 };
                let at = now + 1 + rng.below(self.faults.delay + late + 1);
                self.count += 1;
                self.flying.insert((at, self.count), flying);
            }
        }
    }

    /// The next datagram that is there now.
    pub fn arrive(&mut self, now: u64) -> Option<Flying> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
