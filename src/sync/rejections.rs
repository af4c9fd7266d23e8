//! How often what peers send was not taken, by reason. Each format has its own reasons.

/// Declares a format's reasons, as `reasons!` does, and `Rejections`, which counts them.
macro_rules! rejections {
    ($(#[$doc:meta])* Rejected; $($rest:tt)*) => {
        crate::net::reasons::reasons! { $(#[$doc])* Rejected; $($rest)* }

        /// How often each reason occurred.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct Rejections([u64; Rejected::COUNT]);

        impl Rejections {
            /// Counts one.
            pub fn note(&mut self, why: Rejected) {
                let n = &mut self.0[why as usize];
                *n = n.saturating_add(1);
            }

            /// How often `why` occurred.
            #[must_use]
            pub fn of(&self, why: Rejected) -> u64 {
                self.0[why as usize]
            }

            /// How often anything was rejected.
            #[must_use]
            pub fn total(&self) -> u64 {
                self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
            }

            /// Every reason with its count.
            pub fn iter(&self) -> impl Iterator<Item = (Rejected, u64)> {
                Rejected::ALL.iter().map(|r| (*r, self.of(*r)))
            }
        }
    };
}

pub(crate) use rejections;
