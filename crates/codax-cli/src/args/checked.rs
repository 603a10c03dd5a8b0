//! What was typed means this: values that were checked once, here.

use super::WhereArgs;
use codax_core::name::StorePath;
use codax_core::request::PlacementSpec;
use codax_core::{Error, Result, units};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// A path of the store.
pub fn path(typed: &OsStr) -> Result<StorePath> {
    StorePath::parse(typed.as_bytes())
}

/// Paths of the store.
pub fn paths(typed: &[std::ffi::OsString]) -> Result<Vec<StorePath>> {
    typed.iter().map(|typed| path(typed)).collect()
}

/// Where new pages go, if anything was said about it.
pub fn placement(typed: &WhereArgs) -> Result<Option<PlacementSpec>> {
    let strict = typed.strict;
    if let Some(pool) = &typed.on {
        return Ok(Some(PlacementSpec::On { pool: pool.clone(), strict }));
    }
    if let Some(pool) = &typed.prefer {
        return Ok(Some(PlacementSpec::Prefer { pool: pool.clone() }));
    }
    let Some(list) = &typed.interleave else {
        return Ok(None);
    };
    let pools: Vec<_> = list.split(',').map(str::to_owned).collect();
    if pools.len() < 2 || pools.iter().any(String::is_empty) {
        return Err(Error::invalid(format!("--interleave {list}: name two pools or more, as in sim0,dram")));
    }
    Ok(Some(PlacementSpec::Interleave { pools }))
}

/// `OFFSET:LENGTH`, in bytes.
pub fn range(typed: &str) -> Result<(u64, u64)> {
    let (offset, len) = typed
        .split_once(':')
        .ok_or_else(|| Error::invalid(format!("--range {typed}: wants OFFSET:LENGTH, as in 64MiB:2MiB")))?;
    let (offset, len) = (units::parse_size(offset)?, units::parse_size(len)?);
    if len == 0 {
        return Err(Error::invalid(format!("--range {typed}: a length of 0 is no range")));
    }
    match offset.checked_add(len) {
        Some(_) => Ok((offset, len)),
        None => Err(Error::invalid(format!("--range {typed}: ends beyond what a file can be long"))),
    }
}

/// What `--file` of `codax pages` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSelector {
    /// By number.
    Id(codax_core::FileId),
    /// By path.
    Path(StorePath),
}

/// `#ID` or a path.
pub fn file_selector(typed: &OsStr) -> Result<FileSelector> {
    let id = typed.to_str().and_then(|text| text.strip_prefix('#')?.parse().ok());
    Ok(match id {
        Some(id) => FileSelector::Id(codax_core::FileId(id)),
        None => FileSelector::Path(path(typed)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use codax_core::FileId;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(range("4096:8KiB").unwrap(), (4096, 8192));
        assert_eq!(range("0:18446744073709551615").unwrap(), (0, u64::MAX));
        for bad in ["", "5", "0:0", "1:18446744073709551615", "-1:5", "a:b", "1:2:3"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn placements_are_what_their_options_say() {
        let typed = WhereArgs { interleave: Some("sim0,dram".to_owned()), ..WhereArgs::default() };
        let pools = vec!["sim0".to_owned(), "dram".to_owned()];
        assert_eq!(placement(&typed).unwrap(), Some(PlacementSpec::Interleave { pools }));
        assert_eq!(placement(&WhereArgs::default()).unwrap(), None);
        for bad in ["sim0", "", "sim0,,dram"] {
            let typed = WhereArgs { interleave: Some(bad.to_owned()), ..WhereArgs::default() };
            assert!(placement(&typed).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_named_by_path_or_number() {
        assert_eq!(file_selector(OsStr::new("#12")).unwrap(), FileSelector::Id(FileId(12)));
        let path = StorePath::parse(b"/#12").unwrap();
        assert_eq!(file_selector(OsStr::new("/#12")).unwrap(), FileSelector::Path(path));
        assert!(file_selector(OsStr::from_bytes(b"a//b")).is_err());
    }
}
