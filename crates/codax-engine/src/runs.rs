//! Frame tables for people: records that say the same, put together and in words.

use codax_core::frame::{FrameFlags, FrameRecord, FrameState};
use codax_core::{FileId, Frame, PageNo};

/// Frames that follow each other and whose records say the same, with pages that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub frame: Frame,
    /// How many.
    pub count: u64,
    /// The first frame's record; `None` if it can't be true.
    pub record: Option<FrameRecord>,
}

impl Run {
    /// The file that owns them.
    #[must_use]
    pub fn owner(&self) -> Option<FileId> {
        self.record.and_then(|record| record.owner)
    }

    /// Whether `next` continues it.
    fn continues(&self, next: Option<&FrameRecord>) -> bool {
        match (&self.record, next) {
            (Some(first), Some(next)) => {
                let page = if first.owner.is_some() { PageNo(first.page.0 + self.count) } else { next.page };
                FrameRecord { page, ..*first } == *next
            }
            (None, None) => true,
            _ => false,
        }
    }

    /// A line: `frames 0-511 file 12 (/path) page 0 used`. `path` tells a file's path, where it is known.
    pub fn line(&self, path: impl FnOnce(FileId) -> Option<String>) -> String {
        let first = self.frame.0;
        let mut line = match self.count {
            1 => format!("frame {first}"),
            count => format!("frames {first}-{}", first + count - 1),
        };
        let record = self.record.unwrap_or_default();
        if let Some(owner) = record.owner {
            line += &format!(" file {owner}");
            if let Some(path) = path(owner) {
                line += &format!(" ({path})");
            }
            line += &format!(" page {}", record.page);
        }
        line = line + " " + state(self.record.as_ref());
        for flag in flags(record.flags) {
            line = line + " " + flag;
        }
        match record.pins {
            0 => line,
            pins => format!("{line} pins {pins}"),
        }
    }
}

/// Records as runs, or `each` by itself.
pub fn runs(
    records: impl Iterator<Item = (Frame, Option<FrameRecord>)>,
    each: bool,
) -> impl Iterator<Item = Run> {
    let mut records = records.peekable();
    std::iter::from_fn(move || {
        let (frame, record) = records.next()?;
        let mut run = Run { frame, count: 1, record };
        while !each && records.next_if(|(_, next)| run.continues(next.as_ref())).is_some() {
            run.count += 1;
        }
        Some(run)
    })
}

/// The word for a record's state; "damaged" for a record that can't be true.
#[must_use]
pub const fn state(record: Option<&FrameRecord>) -> &'static str {
    match record {
        None => "damaged",
        Some(record) => match record.state {
            FrameState::Free => "free",
            FrameState::Used => "used",
            FrameState::Reserved => "reserved",
            FrameState::Held => "held",
            FrameState::Retired => "retired",
        },
    }
}

/// The words for flags.
#[must_use]
pub fn flags(flags: FrameFlags) -> Vec<&'static str> {
    let names = [
        (FrameFlags::PINNED, "pinned"),
        (FrameFlags::MOVING, "moving"),
        (FrameFlags::EMERGENCY, "emergency"),
        (FrameFlags::POISONED, "poisoned"),
        (FrameFlags::DEVICE_PRIVATE, "device-private"),
    ];
    names.into_iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| name).collect()
}
