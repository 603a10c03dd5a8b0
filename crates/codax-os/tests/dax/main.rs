//! DAX devices and files on DAX filesystems: mapping, copying, durability, holders and damage.
//!
//! Devices are named by the environment: `CODAX_TEST_DEVDAX` and `CODAX_TEST_HMEM` are devices in devdax mode, on an NVDIMM and not, whose bytes are the
//! tests' to change; `CODAX_TEST_FSDAX` is a directory on a filesystem that is mounted with `dax`. `CODAX_TEST_DAMAGE` allows to damage them until the next
//! boot. A test without what it needs is skipped by name.

mod damage;
mod devices;
mod files;
mod raw;
mod setting;
