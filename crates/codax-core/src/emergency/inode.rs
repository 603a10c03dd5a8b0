//! What an inode says of emergencies.

use crate::extent::{self, Extent, PoolRun};
use crate::namespace::Inode;
use crate::{DRAM, PageRange};

/// The attribute under which an inode says that its pages, or those of what is below it, are never on a device for want of room in `dram`.
pub const ATTRIBUTE: &[u8] = b"user.codax.emergency";

/// Its only value.
pub const NEVER: &[u8] = b"never";

impl Inode {
    /// Whether it says that its pages are never on a device for want of room in `dram`.
    #[must_use]
    pub fn forbids_emergency(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.xattrs.contains_key(ATTRIBUTE))
    }

    /// Has it say so, or not.
    pub fn set_emergency(&mut self, never: bool) {
        if never {
            self.extra.get_or_insert_default().xattrs.insert(ATTRIBUTE.to_vec(), NEVER.to_vec());
        } else if let Some(extra) = &mut self.extra {
            extra.xattrs.remove(ATTRIBUTE);
            self.extra = self.extra.take().filter(|extra| **extra != Default::default());
        }
    }

    /// What of it is on devices for want of room in `dram`: pages whose home that is. No drain takes anything from `dram`, so nothing else is at home there.
    #[must_use]
    pub fn spilled(&self) -> Vec<Extent> {
        let homes = self.away.iter().filter(|run| run.pool == DRAM);
        homes.flat_map(|run| extent::slice(&self.extents, run.pages)).filter(|e| e.pool != DRAM).collect()
    }

    /// Notes that these pages, which it gets, are such.
    pub fn note_spilled(&mut self, pages: &[PageRange]) {
        // Where there was a hole something may be noted of what was there before.
        for new in pages {
            let rest =
                |&PoolRun { pages, pool }| pages.without(*new).map(move |pages| PoolRun { pages, pool });
            self.away = self.away.iter().flat_map(rest).collect();
        }
        self.away.extend(pages.iter().map(|&pages| PoolRun { pages, pool: DRAM }));
        self.away.sort_by_key(|run| run.pages.start);
        self.away.dedup_by(|next, last| {
            let joins = next.pool == last.pool && last.pages.end() == next.pages.start.0;
            if joins {
                last.pages.count.0 += next.pages.count.0;
            }
            joins
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Kind;
    use crate::{FileId, Frame, PageCount, PageNo, PoolId};

    #[test]
    fn what_spilled_is_what_is_elsewhere_and_at_home_in_dram() {
        let mut inode = Inode::new(FileId(9), Kind::File, 0o644, 0, 0, 0);
        let extent = |page, count, pool| Extent {
            page: PageNo(page),
            count: PageCount(count),
            pool: PoolId(pool),
            frame: Frame(page),
        };
        inode.extents = vec![extent(0, 4, 0), extent(4, 8, 1), extent(12, 4, 2)];
        inode.note_spilled(&[PageRange::new(8, 4)]);
        inode.note_spilled(&[PageRange::new(4, 4)]);
        assert_eq!(inode.away, [PoolRun { pages: PageRange::new(4, 8), pool: DRAM }]);
        inode.away.push(PoolRun { pages: PageRange::new(12, 4), pool: PoolId(1) });
        assert_eq!(inode.spilled(), [extent(4, 8, 1)]);
        // What was punched and has spilled again is noted once.
        inode.note_spilled(&[PageRange::new(6, 4)]);
        assert_eq!(inode.spilled(), [extent(4, 8, 1)]);
    }

    #[test]
    fn it_forbids_until_it_doesn_t() {
        let mut inode = Inode::new(FileId(9), Kind::Dir, 0o755, 0, 0, 0);
        inode.set_emergency(true);
        assert!(inode.forbids_emergency());
        inode.set_emergency(false);
        assert!(!inode.forbids_emergency() && inode.extra.is_none());
        inode.set_emergency(false);
    }
}
