//! Coarse time of the data path.
//!
//! Nothing below the management core reads a clock: `now` is a [`Tick`] that comes with the burst. Ticks wrap;
//! two ticks are comparable while they are less than half the range (about 248 days) apart, and no timer is
//! longer than 31 days.

use std::time::Duration;

/// A point in time, in units of 10 ms since an arbitrary start, wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// Ticks in a second.
    pub const PER_SECOND: u32 = 100;

    /// `self` plus `ticks`, wrapping.
    #[must_use]
    pub fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks))
    }

    /// Ticks from `earlier` to `self`; 0 when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        let d = self.0.wrapping_sub(earlier.0);
        if d > u32::MAX / 2 { 0 } else { d }
    }

    /// Whether `self` is at or after `other`.
    #[must_use]
    pub fn reached(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) <= u32::MAX / 2
    }

    /// The tick of `elapsed` since the start.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn from_elapsed(elapsed: Duration) -> Self {
        Self((elapsed.as_millis() / 10) as u32)
    }

    /// A duration in ticks, saturating at half the range.
    #[must_use]
    pub fn ticks(d: Duration) -> u32 {
        u32::try_from(d.as_millis() / 10)
            .unwrap_or(u32::MAX)
            .min(u32::MAX / 2)
    }
}
