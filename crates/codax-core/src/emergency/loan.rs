//! How much of a device's node is lent to the rest of the system.

use std::time::Duration;

/// What is lent at once, at least; a sixteenth of what may be lent if that is more, and a page if that has more.
pub const STEP_MIN: u64 = 32 << 20;

/// How often something is lent or taken back.
const EVERY: Duration = Duration::from_millis(50);

/// How often it is tried at least to take something back. Each time that nothing comes the pause is twice as long, up to that, unless somebody waits for it: the
/// kernel looks far and wide for a page that it can't put together.
const SELDOM: Duration = Duration::from_secs(5);

/// What there is to go by, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanView {
    /// Whether memory is short.
    pub short: bool,
    /// What may be lent in all: none of a device that is not online.
    pub limit: u64,
    /// What is lent already and nobody has taken: nothing more is needed while that is a step.
    pub unused: u64,
    /// What the device has to lend, in files of nobody.
    pub spare: u64,
    /// What can be had of the machine beside this node, above what has to stay free.
    pub elsewhere: u64,
    /// Whether it is wanted back, or kept, for a drain or a file, whatever the rest of the system does.
    pub wanted: bool,
    /// It is lent in whole pages of so many bytes.
    pub unit: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoanAction {
    /// Nothing.
    Rest,
    /// Give so many bytes to the node.
    Lend(u64),
    /// Try to get so many back.
    TakeBack(u64),
}

/// What is lent of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    lent: u64,
    acted: Option<Duration>,
    /// How long nothing is taken back after that.
    pause: Duration,
}

impl Default for Loan {
    fn default() -> Self {
        Self { lent: 0, acted: None, pause: EVERY }
    }
}

impl Loan {
    /// What is lent, in bytes.
    #[must_use]
    pub const fn lent(&self) -> u64 {
        self.lent
    }

    /// What is to be done at `now`; what became of it is told by [`Loan::lent_more`] and [`Loan::got_back`].
    pub fn next(&mut self, now: Duration, view: LoanView) -> LoanAction {
        let action = self.wanted(view);
        let pause = match action {
            LoanAction::TakeBack(_) if !view.wanted => self.pause,
            _ => EVERY,
        };
        if action == LoanAction::Rest || self.acted.is_some_and(|acted| now.saturating_sub(acted) < pause) {
            return LoanAction::Rest;
        }
        self.acted = Some(now);
        action
    }

    /// The same, were it time.
    fn wanted(&self, view: LoanView) -> LoanAction {
        let least = (view.limit / 16).max(STEP_MIN);
        let step = least.next_multiple_of(view.unit);
        let over = self.lent.saturating_sub(view.limit);
        if self.lent > 0 && view.wanted {
            LoanAction::TakeBack(self.lent)
        } else if over > 0 {
            LoanAction::TakeBack(over.next_multiple_of(view.unit).min(self.lent))
        } else if view.short && !view.wanted && view.unused < least {
            // What isn't asked for at once isn't given at once.
            match step.min(view.limit.saturating_sub(self.lent)).min(view.spare) / view.unit * view.unit {
                0 => LoanAction::Rest,
                bytes => LoanAction::Lend(bytes),
            }
        } else if !view.short && self.lent > 0 {
            // Only as much as others can have elsewhere: what is taken back must not make it short again.
            match step.min(self.lent).min(view.elsewhere) {
                all if all == self.lent => LoanAction::TakeBack(all),
                some if some < view.unit => LoanAction::Rest,
                some => LoanAction::TakeBack(some / view.unit * view.unit),
            }
        } else {
            LoanAction::Rest
        }
    }

    /// So much was lent.
    pub fn lent_more(&mut self, bytes: u64) {
        self.lent += bytes;
    }

    /// So much has come back.
    pub fn got_back(&mut self, bytes: u64) {
        self.lent = self.lent.saturating_sub(bytes);
        self.pause = if bytes == 0 { (self.pause * 2).min(SELDOM) } else { EVERY };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HUGE_SIZE;

    const MIB: u64 = 1 << 20;
    const CALM: LoanView = LoanView {
        short: false,
        limit: 256 * MIB,
        unused: 0,
        spare: 512 * MIB,
        elsewhere: u64::MAX,
        wanted: false,
        unit: HUGE_SIZE,
    };

    /// Does what is decided every 25 ms for a while, of which the node gives back `free` at once; what is lent then.
    fn after(loan: &mut Loan, now: &mut Duration, ticks: u32, view: LoanView, free: u64) -> u64 {
        for _ in 0..ticks {
            *now += Duration::from_millis(25);
            match loan.next(*now, LoanView { spare: view.spare.saturating_sub(loan.lent()), ..view }) {
                LoanAction::Rest => {}
                LoanAction::Lend(bytes) => loan.lent_more(bytes),
                LoanAction::TakeBack(bytes) => loan.got_back(bytes.min(free)),
            }
        }
        loan.lent()
    }

    #[test]
    fn it_is_lent_in_steps_up_to_what_is_allowed_and_comes_back() {
        let (mut loan, mut now) = (Loan::default(), Duration::ZERO);
        let short = LoanView { short: true, ..CALM };
        assert_eq!(after(&mut loan, &mut now, 1, short, 0), 32 * MIB, "the first at once");
        assert_eq!(after(&mut loan, &mut now, 2, short, 0), 64 * MIB);
        let unused = LoanView { unused: 32 * MIB, ..short };
        assert_eq!(after(&mut loan, &mut now, 100, unused, 0), 64 * MIB, "nobody has taken that yet");
        assert_eq!(after(&mut loan, &mut now, 100, short, 0), 256 * MIB);
        assert_eq!(after(&mut loan, &mut now, 100, LoanView { elsewhere: 0, ..CALM }, u64::MAX), 256 * MIB);
        assert_eq!(after(&mut loan, &mut now, 100, CALM, 0), 256 * MIB, "others have it still");
        assert_eq!(after(&mut loan, &mut now, 100, CALM, u64::MAX), 0);
    }

    #[test]
    fn who_wants_it_back_comes_first() {
        let (mut loan, mut now) = (Loan::default(), Duration::ZERO);
        let short = LoanView { short: true, ..CALM };
        after(&mut loan, &mut now, 100, short, 0);
        let wanted = LoanView { wanted: true, ..short };
        assert_eq!(after(&mut loan, &mut now, 3, wanted, 100 * MIB), 56 * MIB);
        assert_eq!(after(&mut loan, &mut now, 100, wanted, u64::MAX), 0, "nothing is lent meanwhile");
        let mut never = Loan::default();
        assert_eq!(after(&mut never, &mut now, 100, LoanView { limit: 0, ..short }, 0), 0);
    }

    #[test]
    fn what_does_not_come_is_asked_for_less_and_less_often_unless_somebody_waits_for_it() {
        let (mut loan, mut now) = (Loan::default(), Duration::ZERO);
        let short = LoanView { short: true, ..CALM };
        after(&mut loan, &mut now, 100, short, 0);
        let mut tries = |loan: &mut Loan, seconds: u32, view| {
            let mut tries = 0;
            for _ in 0..seconds * 40 {
                now += Duration::from_millis(25);
                match loan.next(now, view) {
                    LoanAction::TakeBack(_) => loan.got_back(0),
                    LoanAction::Lend(bytes) => loan.lent_more(bytes),
                    LoanAction::Rest => continue,
                }
                tries += 1;
            }
            tries
        };
        assert_eq!(tries(&mut loan, 3, CALM), 5, "after 0, 0.1, 0.3, 0.7 and 1.5 seconds, or a little more");
        assert_eq!(tries(&mut loan, 50, CALM), 11);
        assert_eq!(tries(&mut loan, 1, LoanView { wanted: true, ..CALM }), 20, "a drain does");
        loan.got_back(64 * MIB);
        let again = tries(&mut loan, 1, short);
        assert_eq!((again, loan.lent()), (2, 256 * MIB), "what is lent is lent at once");
    }

    #[test]
    fn pages_of_a_gibibyte_go_and_come_whole() {
        const GIB: u64 = 1 << 30;
        let (mut loan, mut now) = (Loan::default(), Duration::ZERO);
        let short = LoanView { short: true, limit: 3 * GIB + 5, spare: 4 * GIB, unit: GIB, ..CALM };
        assert_eq!(after(&mut loan, &mut now, 1, short, 0), GIB);
        let unused = LoanView { unused: 512 * MIB, ..short };
        assert_eq!(after(&mut loan, &mut now, 100, unused, 0), GIB, "half of the first is left");
        assert_eq!(after(&mut loan, &mut now, 100, short, 0), 3 * GIB);
        let calm = LoanView { short: false, elsewhere: GIB - 1, ..short };
        assert_eq!(after(&mut loan, &mut now, 100, calm, u64::MAX), 3 * GIB, "there is no room for a page");
        let less = LoanView { limit: 5 * GIB / 2, ..calm };
        assert_eq!(after(&mut loan, &mut now, 100, less, u64::MAX), 2 * GIB);
        assert_eq!(after(&mut loan, &mut now, 100, LoanView { elsewhere: u64::MAX, ..calm }, u64::MAX), 0);
    }

    proptest::proptest! {
        #[test]
        fn never_more_than_is_allowed_or_there(
            views in proptest::collection::vec((proptest::bool::ANY, [0_u64..600, 0..100, 0..600, 0..600, 0..600], proptest::bool::ANY), 1..200),
            unit in proptest::sample::select(vec![HUGE_SIZE, 128 * MIB])
        ) {
            let (mut loan, mut now) = (Loan::default(), Duration::ZERO);
            for (short, mib, wanted) in views {
                now += Duration::from_millis(70);
                let [limit, unused, spare, elsewhere, free] = mib.map(|mib| mib * MIB);
                let view = LoanView { short, limit, unused, spare, elsewhere, wanted, unit };
                let before = loan.lent();
                match loan.next(now, view) {
                    LoanAction::Rest => {}
                    LoanAction::Lend(bytes) => {
                        proptest::prop_assert!(short && !wanted && bytes > 0 && bytes <= spare && bytes.is_multiple_of(unit));
                        proptest::prop_assert!(before + bytes <= limit);
                        loan.lent_more(bytes);
                    }
                    LoanAction::TakeBack(bytes) => {
                        proptest::prop_assert!(bytes > 0 && bytes <= before);
                        proptest::prop_assert!(wanted || before > limit || !short && bytes <= elsewhere);
                        loan.got_back(bytes.min(free));
                    }
                }
            }
        }
    }
}
