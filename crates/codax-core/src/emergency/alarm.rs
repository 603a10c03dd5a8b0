//! Whether memory is short: on at once, and off only when it hasn't been for a while.

use std::time::Duration;

/// So long nothing must have been short for the alarm to be over; longer where that is told less often.
pub const CALM: Duration = Duration::from_secs(5);

/// The alarm of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    on: bool,
    calm: Duration,
    /// When memory was short last.
    last: Duration,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { on: false, calm: CALM, last: Duration::ZERO }
    }
}

impl Alarm {
    /// One for a condition that the kernel tells once in each window of this length while it lasts.
    #[must_use]
    pub fn told_every(window: Duration) -> Self {
        Self { calm: CALM.max(2 * window), ..Self::default() }
    }

    /// Takes what is seen at `now`; whether that changed it.
    pub fn see(&mut self, now: Duration, short: bool) -> bool {
        let before = self.on;
        if short {
            (self.on, self.last) = (true, now);
        } else if now.saturating_sub(self.last) >= self.calm {
            self.on = false;
        }
        self.on != before
    }

    /// Whether it is on.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_on_at_once_and_off_when_it_was_calm() {
        let mut alarm = Alarm::default();
        let at = |ms| Duration::from_millis(ms);
        assert!(!alarm.see(at(0), false) && !alarm.is_on());
        assert!(alarm.see(at(100), true) && alarm.is_on());
        assert!(!alarm.see(at(4000), true));
        assert!(!alarm.see(at(8999), false) && alarm.is_on());
        assert!(alarm.see(at(9000), false) && !alarm.is_on());
        let mut slow = Alarm::told_every(Duration::from_secs(10));
        assert!(slow.see(at(0), true));
        assert!(!slow.see(at(19_999), false) && slow.see(at(20_000), false));
    }
}
