//! A directory that is being read.
//!
//! The kernel remembers where a reader is as a number, and comes back with one that it was given earlier; the store goes on after a *name*. Each
//! name that was handed out has a number here for as long as the directory is open (or until it is rewound), so a position means "after this name"
//! whatever is made or removed meanwhile: nothing is repeated, nothing that stays is left out.

/// The position after `.`, and after `..`.
pub(crate) const AFTER_SELF: u64 = 1;
pub(crate) const AFTER_PARENT: u64 = 2;

/// Names that were handed out, in that order.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The names, one after the other.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Listing {
    /// Forgets all positions: the reader begins anew.
    pub fn rewind(&mut self) {
        *self = Self::default();
    }

    /// The name that a position is after; `None` at the beginning, and for a position that was never given out.
    pub fn name(&self, position: u64) -> Option<&[u8]> {
        let index = usize::try_from(position.checked_sub(AFTER_PARENT + 1)?).ok()?;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    /// The position after `name`, which is handed out by a reader at `position`. One who reads the same again gets the same.
    pub fn after(&mut self, position: u64, name: &[u8]) -> u64 {
        if self.name(position + 1) == Some(name) {
            return position + 1;
        }
        self.bytes.extend_from_slice(name);
        self.ends.push(self.bytes.len());
        AFTER_PARENT + self.ends.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_after_its_name_for_good() {
        let mut listing = Listing::default();
        let a = listing.after(AFTER_PARENT, b"a");
        let b = listing.after(a, b"bb");
        let c = listing.after(b, b"");
        assert_eq!((a, b, c), (3, 4, 5));
        assert_eq!(listing.name(a), Some(&b"a"[..]));
        assert_eq!(listing.name(b), Some(&b"bb"[..]));
        assert_eq!(listing.name(c), Some(&b""[..]));
        for none in [0, AFTER_SELF, AFTER_PARENT, c + 1, u64::MAX] {
            assert_eq!(listing.name(none), None);
        }
    }

    #[test]
    fn reading_again_gives_the_same_positions_unless_names_went() {
        let mut listing = Listing::default();
        let a = listing.after(AFTER_PARENT, b"a");
        let b = listing.after(a, b"b");
        let c = listing.after(b, b"c");
        assert_eq!(listing.after(AFTER_PARENT, b"a"), a);
        assert_eq!(listing.after(a, b"b"), b);
        // `b` is removed: who reads on from `a` is given `c`, at a position of its own, and the old ones still mean what they meant.
        let c2 = listing.after(a, b"c");
        assert_ne!(c2, b);
        assert_eq!((listing.name(b), listing.name(c)), (Some(&b"b"[..]), Some(&b"c"[..])));
        assert_eq!(listing.name(c2), Some(&b"c"[..]));
        listing.rewind();
        assert_eq!(listing.name(a), None);
    }
}
