//! When pages that were spilled go home.

use crate::{HUGE_PAGES, PageCount};
use std::time::Duration;

/// So long after the last page was spilled none goes home.
pub const HOLD: Duration = Duration::from_secs(2);

/// The longest that becomes of it where pages come back soon after they went home.
pub const HOLD_MAX: Duration = Duration::from_secs(300);

/// What has to be left of `dram` when a page has come home, of so many frames: else the next file would spill at once.
#[must_use]
pub fn margin(capacity: PageCount) -> PageCount {
    PageCount((capacity.0 / 16).min(64 * HUGE_PAGES))
}

/// When something was spilled, and when something came home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Homing {
    hold: Duration,
    spilled: Option<Duration>,
    home: Option<Duration>,
}

impl Default for Homing {
    fn default() -> Self {
        Self { hold: HOLD, spilled: None, home: None }
    }
}

impl Homing {
    /// Something is spilled at `now`. Soon after something came home that was too early, and the next time is later: no page goes to and fro.
    pub fn spilled(&mut self, now: Duration) {
        if let Some(home) = self.home.take() {
            self.hold = match now.saturating_sub(home) < 4 * self.hold {
                true => (2 * self.hold).min(HOLD_MAX),
                false => HOLD,
            };
        }
        self.spilled = Some(now);
    }

    /// Whether something may go home at `now`.
    #[must_use]
    pub fn may_go(&self, now: Duration) -> bool {
        self.spilled.is_none_or(|spilled| now.saturating_sub(spilled) >= self.hold)
    }

    /// Something has come home at `now`.
    pub fn came_home(&mut self, now: Duration) {
        self.home = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_soon_stays_longer() {
        let mut homing = Homing::default();
        let mut now = Duration::from_secs(100);
        assert!(homing.may_go(now), "what was there before the start goes when there is room");
        let mut waited = Vec::new();
        for _ in 0..10 {
            homing.spilled(now);
            let begun = now;
            while !homing.may_go(now) {
                now += Duration::from_secs(1);
            }
            waited.push((now - begun).as_secs());
            homing.came_home(now);
            now += Duration::from_secs(1);
        }
        assert_eq!(waited, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        now += Duration::from_secs(1200);
        homing.spilled(now);
        assert!(homing.may_go(now + HOLD), "it was calm for long");
    }

    #[test]
    fn while_files_spill_nothing_goes_home() {
        let mut homing = Homing::default();
        for ms in (0..60_000).step_by(500) {
            let now = Duration::from_millis(ms);
            homing.spilled(now);
            assert!(!homing.may_go(now + Duration::from_millis(499)));
        }
    }

    #[test]
    fn the_margin_is_a_part_and_bounded() {
        assert_eq!(margin(PageCount(16 * 100)), PageCount(100));
        assert_eq!(margin(PageCount(1 << 40)), PageCount(64 * HUGE_PAGES));
    }
}
