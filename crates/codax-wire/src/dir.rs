use std::ffi::OsString;
use std::path::PathBuf;

/// The store's directory where none is named: `/run/codax` for root; for others `$XDG_RUNTIME_DIR/codax`, which a logout removes, or
/// `/dev/shm/codax-UID` where that variable is not set, which lasts until the machine goes down (unless logind's `RemoveIPC` is set).
#[must_use]
pub fn default_dir() -> PathBuf {
    default_dir_of(codax_os::process::uid(), std::env::var_os("XDG_RUNTIME_DIR"))
}

fn default_dir_of(uid: u32, runtime: Option<OsString>) -> PathBuf {
    // The specification has relative paths ignored.
    let runtime = runtime.map(PathBuf::from).filter(|dir| dir.is_absolute());
    match (uid, runtime) {
        (0, _) => "/run/codax".into(),
        (_, Some(dir)) => dir.join("codax"),
        (_, None) => format!("/dev/shm/codax-{uid}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn everybody_has_a_directory_of_their_own() {
        assert_eq!(default_dir_of(0, Some("/run/user/0".into())), Path::new("/run/codax"));
        assert_eq!(default_dir_of(7, Some("/run/user/7".into())), Path::new("/run/user/7/codax"));
        assert_eq!(default_dir_of(7, None), Path::new("/dev/shm/codax-7"));
        assert_eq!(default_dir_of(7, Some("relative".into())), Path::new("/dev/shm/codax-7"));
    }
}
