//! What is on a device, before anything is believed of it.

use super::area::{Area, Copies, read_all};
use super::geometry::superblock_at;
use super::superblock::{Block, MEDIUM_VERSION, SUPERBLOCK_BYTES, Superblock, UncheckedSuperblock};
use crate::fields::{index, is_zero};
use codax_core::units::format_size;
use codax_core::{Error, ErrorKind, Result};

/// What a device, or the two files of an fsdax, turned out to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: zeros wherever a superblock or somebody else's mark would be.
    Blank,
    /// Something that isn't ours, for people: "an ext4 filesystem".
    Foreign(&'static str),
    /// Something that was ours, and why it can't be used.
    Damaged(String),
    /// Ours, of a later version of the layout.
    Newer(u32),
    /// Ours, of a device of another length.
    OtherLength {
        /// What the superblock says, in bytes.
        said: u64,
        /// What the device has.
        is: u64,
    },
    /// Ours; and what differs between the two superblocks, a line each.
    Ours(Box<Superblock>, Vec<String>),
}

/// Marks that others leave within the first 128 KiB: at which byte, which bytes, whose.
const MARKS: &[(usize, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "a LUKS volume"),
    (0, b"SKUL\xba\xbe", "a LUKS volume"),
    (0, b"XFSB", "an xfs filesystem"),
    (0, b"BTT_ARENA_INFO\0\0", "an nvdimm namespace in sector mode"),
    (0x1000, b"BTT_ARENA_INFO\0\0", "an nvdimm namespace in sector mode"),
    (0x1000, b"NVDIMM_PFN_INFO\0", "an nvdimm namespace in fsdax mode"),
    (0x1000, b"NVDIMM_DAX_INFO\0", "an nvdimm namespace in devdax mode"),
    (0x200, b"EFI PART", "a GPT partition table"),
    (0x200, b"LABELONE", "an LVM physical volume"),
    (0x438, b"\x53\xef", "an ext4 filesystem"),
    (0x1_0040, b"_BHRfS_M", "a btrfs filesystem"),
    (0xff6, b"SWAPSPACE2", "swap space"),
    (0x1fe, b"\x55\xaa", "a boot sector or partition table"),
];

/// Bytes from the device's start in which marks are looked for.
const START_BYTES: u64 = 128 << 10;

/// So many bytes of a superblock may differ from the other copy's for it to be taken for that copy, damaged: a line of a cache. What differs in
/// more, and doesn't begin as ours, is somebody else's.
const DAMAGE_MAX: usize = 64;

impl Found {
    /// The superblock, and what differs between the copies; for people the device is `what`. The error says what to do.
    pub fn ours(self, what: &str) -> Result<(Superblock, Vec<String>)> {
        let (kind, why) = match self {
            Self::Ours(superblock, notes) => return Ok((*superblock, notes)),
            Self::Blank => {
                (ErrorKind::NotFound, "holds nothing yet: say `format` to make a pool of it".to_owned())
            }
            Self::Foreign(whose) => (
                ErrorKind::Exists,
                format!(
                    "holds {whose}, not a pool: it is left alone unless you say `format`, which overwrites it"
                ),
            ),
            Self::Damaged(why) => (
                ErrorKind::Corrupt,
                format!("held a pool, and can't be used: {why}; `format` makes an empty pool of it"),
            ),
            Self::Newer(version) => (
                // As of a journal from a later version.
                ErrorKind::Corrupt,
                format!(
                    "has a pool of layout version {version}, and this codax knows up to version {MEDIUM_VERSION}: use the codax that made it"
                ),
            ),
            Self::OtherLength { said, is } => {
                let than = if is < said { "shorter" } else { "longer" };
                (
                    ErrorKind::DeviceState,
                    format!(
                        "has {is} bytes ({}), {than} than the {said} ({}) of the pool that it holds: bring the device back to that size",
                        format_size(is),
                        format_size(said)
                    ),
                )
            }
        };
        Err(Error::new(kind, format!("{what} {why}")))
    }
}

/// Looks at the superblocks of a device of `device_bytes` (`None` where data is elsewhere than the copies). Writes nothing.
///
/// The superblocks are found whatever the areas' lengths are, as long as the first begins where the device does, and the second ends there;
/// [`super::Catalog::open`] wants areas as the superblock's geometry says.
#[must_use]
pub fn probe(copies: &Copies, device_bytes: Option<u64>) -> Found {
    let raw = read_superblocks(copies);
    let blocks = [raw[0].check(), raw[1].check()];
    let found = judge(copies, &raw, &blocks);
    let said = match (&found, &blocks[0]) {
        (Found::Ours(superblock, _), _) => Some(superblock.geometry.device_bytes),
        // The second superblock is elsewhere on a device that has changed its length.
        (Found::Foreign(_) | Found::Damaged(_), Block::Ours(first)) => Some(first.geometry.device_bytes),
        _ => None,
    };
    match said.zip(device_bytes) {
        Some((said, is)) if said != is => Found::OtherLength { said, is },
        _ => found,
    }
}

/// What is in the places of both superblocks.
pub(super) fn read_superblocks(copies: &Copies) -> [UncheckedSuperblock; 2] {
    std::array::from_fn(|copy| {
        let area = &*copies[copy];
        let len = area.len();
        let fits = len >= SUPERBLOCK_BYTES as u64;
        let bytes =
            if fits { read_all(area, superblock_at(copy, len), SUPERBLOCK_BYTES) } else { Vec::new() };
        UncheckedSuperblock(bytes)
    })
}

fn judge(copies: &Copies, raw: &[UncheckedSuperblock; 2], blocks: &[Block; 2]) -> Found {
    match blocks {
        [Block::Newer(version), _] | [_, Block::Newer(version)] => Found::Newer(*version),
        [Block::Ours(a), Block::Ours(b)] if a == b => Found::Ours(Box::new(a.clone()), Vec::new()),
        [Block::Ours(a), Block::Ours(b)] if a.pool != b.pool => {
            Found::Damaged(format!("its two superblocks are of different pools, {} and {}", a.pool, b.pool))
        }
        [Block::Ours(a), Block::Ours(b)] => {
            let newer = if a.revision >= b.revision { a } else { b };
            let note = format!(
                "the superblocks have revisions {} and {}: a change of them was cut off, and the later counts",
                a.revision, b.revision
            );
            Found::Ours(Box::new(newer.clone()), vec![note])
        }
        [Block::Ours(ours), _] => alone(ours, 0, copies, raw, &blocks[1]),
        [_, Block::Ours(ours)] => alone(ours, 1, copies, raw, &blocks[0]),
        [Block::Unfinished(_), _] | [_, Block::Unfinished(_)] => {
            Found::Damaged("a format of it was cut off".into())
        }
        [Block::Damaged(why), Block::Damaged(_)] => {
            Found::Damaged(format!("both superblocks are damaged: {why}"))
        }
        [Block::Damaged(why), _] => match mark(&*copies[0]) {
            Some(whose) => Found::Foreign(whose),
            None => Found::Damaged(format!("its first superblock is damaged ({why}), and the other is gone")),
        },
        [_, Block::Damaged(why)] => match mark(&*copies[0]) {
            Some(whose) => Found::Foreign(whose),
            None => {
                Found::Damaged(format!("its second superblock is damaged ({why}), and the other is gone"))
            }
        },
        [Block::Zero | Block::Other, Block::Zero | Block::Other] => stranger(copies, blocks),
    }
}

/// The superblock of copy `copy` is `ours`, and the other isn't.
fn alone(
    ours: &Superblock,
    copy: usize,
    copies: &Copies,
    raw: &[UncheckedSuperblock; 2],
    other: &Block,
) -> Found {
    let which = ["first", "second"][1 - copy];
    let (good, bad) = (&raw[copy].0, &raw[1 - copy].0);
    // Who makes something else of the device may leave zeros where the superblock was.
    let marked = if copy == 0 { None } else { mark(&*copies[0]) };
    if let (Some(whose), Block::Zero | Block::Other) = (marked, other) {
        return Found::Foreign(whose);
    }
    let why = match other {
        Block::Unfinished(_) => "is from a format that was cut off".to_owned(),
        Block::Damaged(why) => format!("is damaged: {why}"),
        Block::Zero => "is gone".to_owned(),
        _ => {
            let area = &*copies[1 - copy];
            let readable = area.read(superblock_at(1 - copy, area.len()), &mut vec![0; bad.len()]).is_ok();
            let differ = good.iter().zip(bad).filter(|(a, b)| a != b).count();
            match readable {
                false => "can't be read".to_owned(),
                true if differ <= DAMAGE_MAX => "is damaged: it doesn't begin as one".to_owned(),
                true => return Found::Foreign("something else where one of a pool's superblocks was"),
            }
        }
    };
    Found::Ours(Box::new(ours.clone()), vec![format!("the {which} superblock {why}; the other one counts")])
}

/// Neither superblock is ours, nor was.
fn stranger(copies: &Copies, blocks: &[Block; 2]) -> Found {
    if let Some(whose) = mark(&*copies[0]) {
        return Found::Foreign(whose);
    }
    let start = start_of(&*copies[0]);
    if is_zero(&start) && *blocks == [Block::Zero, Block::Zero] {
        Found::Blank
    } else {
        Found::Foreign("something")
    }
}

/// Whose mark is at the start of the device.
fn mark(first: &dyn Area) -> Option<&'static str> {
    let start = start_of(first);
    let whose =
        |(at, bytes, _): &&(usize, &[u8], &str)| start.get(*at..).is_some_and(|rest| rest.starts_with(bytes));
    MARKS.iter().find(whose).map(|(_, _, whose)| *whose)
}

fn start_of(first: &dyn Area) -> Vec<u8> {
    read_all(first, 0, index(first.len().min(START_BYTES)))
}
