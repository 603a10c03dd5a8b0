//! On which CPUs a thread runs.
#![forbid(unsafe_code)]

use crate::util::{invalid, to_u64, to_usize};
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use std::io;

/// CPUs on which the calling thread may run.
pub fn allowed() -> io::Result<Vec<u32>> {
    let set = sched_getaffinity(None)?;
    let all = 0..u32::try_from(CpuSet::MAX_CPU).unwrap_or(u32::MAX);
    Ok(all.filter(|cpu| set.is_set(to_usize(u64::from(*cpu)))).collect())
}

/// Lets the calling thread run on these CPUs only.
pub fn stay_on(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        let cpu = to_usize(u64::from(*cpu));
        if cpu >= CpuSet::MAX_CPU {
            return Err(invalid(format!(
                "CPU {cpu} is beyond the {} that can be asked for",
                CpuSet::MAX_CPU
            )));
        }
        set.set(cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// The CPU on which the calling thread runs at the moment.
#[must_use]
pub fn current() -> u32 {
    u32::try_from(to_u64(sched_getcpu())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_is_told() {
        let cpus = allowed().expect("it runs somewhere");
        let last = *cpus.last().expect("it runs somewhere");
        // A thread of its own: the others run where they like.
        std::thread::spawn(move || {
            stay_on(&[last]).expect("it may run there");
            assert_eq!((allowed().expect("it runs"), current()), (vec![last], last));
            assert!(stay_on(&[u32::MAX]).is_err() && stay_on(&[]).is_err());
        })
        .join()
        .expect("it ends");
        assert_eq!(allowed().expect("it runs somewhere"), cpus);
    }
}
