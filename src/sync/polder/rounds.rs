//! Work over all entries of a mirror, done some at a time: whoever calls has other things to do.
//!
//! Owns where such a round stands. Knows nothing of what is done. Invariant: every slot is looked at at least once after
//! [`Round::ask`].

/// What it costs to do something with an entry, where one is what it costs to look at it.
pub const DONE: u32 = 3;

/// How much may still be done in this turn: so many entries may be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Budget(pub u32);

impl Budget {
    /// Takes as much as there is, at most `most`.
    pub fn take(&mut self, most: u32) -> u32 {
        let taken = self.0.min(most);
        self.0 -= taken;
        taken
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_spent(self) -> bool {
        self.0 == 0
    }
}

/// A round over all slots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    at: Option<u32>,
    again: bool,
}

impl Round {
    /// Asks for a round. One that is underway is followed by another, since what is asked for may lie behind it.
    pub fn ask(&mut self) {
        self.again = self.at.is_some();
        self.at.get_or_insert(0);
    }

    /// Gives it up.
    pub fn stop(&mut self) {
        *self = Self::default();
    }

    /// Whether there is something left of it.
    #[must_use]
    pub fn is_underway(self) -> bool {
        self.at.is_some()
    }

    /// The next slot to look at now, of so many.
    #[inline]
    pub fn next(&mut self, slots: u32, budget: &mut Budget) -> Option<u32> {
        let at = self.at?;
        if at < slots {
            self.at = Some(at + budget.take(1));
            return (self.at != Some(at)).then_some(at);
        }
        let again = std::mem::take(&mut self.again);
        self.at = (again && slots > 0).then_some(0);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(round: &mut Round, slots: u32, budget: u32) -> Vec<u32> {
        let mut budget = Budget(budget);
        std::iter::from_fn(|| round.next(slots, &mut budget)).collect()
    }

    #[test]
    fn a_round_is_over_when_all_slots_were_looked_at() {
        let mut round = Round::default();
        assert!(slots(&mut round, 10, 4).is_empty());
        round.ask();
        for part in [0..4, 4..8, 8..10] {
            assert!(round.is_underway());
            assert_eq!(slots(&mut round, 10, 4), Vec::from_iter(part));
        }
        assert!(!round.is_underway());
    }

    #[test]
    fn what_is_asked_for_during_a_round_gets_a_whole_one() {
        let mut round = Round::default();
        round.ask();
        assert_eq!(slots(&mut round, 10, 8), Vec::from_iter(0..8));
        round.ask();
        for part in [8..10, 0..8, 8..10] {
            assert_eq!(slots(&mut round, 10, 8), Vec::from_iter(part));
        }
        assert!(!round.is_underway());
    }

    #[test]
    fn a_round_over_nothing_is_over_and_one_over_more_than_there_was_goes_on() {
        let mut round = Round::default();
        round.ask();
        assert!(slots(&mut round, 0, 8).is_empty());
        assert!(!round.is_underway());
        round.ask();
        assert_eq!(slots(&mut round, 10, 8), Vec::from_iter(0..8));
        assert_eq!(slots(&mut round, 20, 100), Vec::from_iter(8..20));
        assert!(!round.is_underway());
    }
}
