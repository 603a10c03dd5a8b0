//! Time, randomness and threads as the system has them, and the places where tests make a daemon stop or die.

use codax_core::{Error, Result};
use codax_engine::env::Env;
use rustix::rand::GetRandomFlags;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tracing::error;

/// Stack of the engine's threads, in bytes.
const STACK_BYTES: usize = 512 << 10;

/// How often a thread that can't be started is tried again, and how long between.
const SPAWN_TRIES: u32 = 20;
const SPAWN_PAUSE: Duration = Duration::from_millis(100);

/// Variable with the test hooks, see [`RealEnv::new`].
pub const HOOKS_VARIABLE: &str = "CODAX_AT";

/// [`Env`] in earnest.
#[derive(Debug)]
pub struct RealEnv {
    start: Instant,
    hooks: Box<[Hook]>,
}

#[derive(Debug)]
struct Hook {
    point: String,
    /// Times the point must still be reached before the hook acts; it acts once.
    left: AtomicU64,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Kill,
    Stop,
    Sleep(Duration),
}

impl RealEnv {
    /// With the test hooks of the variable `CODAX_AT`, if it is set: a list `POINT[:N]=kill|stop|sleep:MS`, separated by commas. When
    /// execution reaches POINT for the Nth time (the first, if N is left out) the daemon kills or stops itself with a signal, or that
    /// thread sleeps for so many milliseconds. It is there for tests of crashes and late answers, and for nothing else. `Invalid` if it can't be read.
    pub fn new() -> Result<Self> {
        let hooks = std::env::var(HOOKS_VARIABLE).unwrap_or_default();
        Ok(Self { start: Instant::now(), hooks: parse_hooks(&hooks)? })
    }
}

fn parse_hooks(text: &str) -> Result<Box<[Hook]>> {
    let hooks = text.split(',').filter(|item| !item.is_empty());
    hooks
        .map(|item| {
            parse_hook(item).ok_or_else(|| {
                Error::invalid(format!("{HOOKS_VARIABLE}: `{item}` is not POINT[:N]=kill|stop|sleep:MS"))
            })
        })
        .collect()
}

fn parse_hook(item: &str) -> Option<Hook> {
    let (at, action) = item.split_once('=')?;
    let (point, left) = match at.rsplit_once(':') {
        Some((point, n)) => (point, n.parse().ok().filter(|n| *n > 0)?),
        None => (at, 1),
    };
    let action = match action.split_once(':') {
        None if action == "kill" => Action::Kill,
        None if action == "stop" => Action::Stop,
        Some(("sleep", ms)) => Action::Sleep(Duration::from_millis(ms.parse().ok()?)),
        _ => return None,
    };
    Some(Hook { point: point.to_owned(), left: AtomicU64::new(left), action })
}

impl Hook {
    fn reached(&self) {
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if before != Ok(1) {
            return;
        }
        let done = match self.action {
            Action::Kill => {
                let myself = rustix::process::getpid();
                rustix::process::kill_process(myself, rustix::process::Signal::KILL)
                    .map_err(std::io::Error::from)
            }
            // This thread first: sent to the process, the signal would reach it when some other thread has taken it.
            Action::Stop => codax_os::process::stop(),
            Action::Sleep(time) => return std::thread::sleep(time),
        };
        if let Err(e) = done {
            error!("{HOOKS_VARIABLE}: {}: {e}", self.point);
        }
    }
}

impl Env for RealEnv {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn wall_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // Eight bytes come whole once the system's generator is seeded, and the call waits for that.
        while rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()) != Ok(bytes.len()) {}
        u64::from_le_bytes(bytes)
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }

    fn spawn(&self, name: &str, job: Box<dyn FnOnce() + Send>) {
        // `Builder::spawn` drops what it was given when it fails, so the job waits in a place that outlives a failed try.
        let job = std::sync::Arc::new(std::sync::Mutex::new(Some(job)));
        for _ in 0..SPAWN_TRIES {
            let job = job.clone();
            let run = move || {
                let job = job.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                if let Some(job) = job {
                    job();
                }
            };
            match std::thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run) {
                Ok(_) => return,
                Err(e) => error!("can't start the thread {name}, trying again: {e}"),
            }
            std::thread::sleep(SPAWN_PAUSE);
        }
        // A daemon that lacks one of its threads would keep its clients waiting for ever. One that is gone can be started again, and has
        // lost nothing.
        error!(
            "ending: no thread could be started for {SPAWN_TRIES} times; see `ulimit -u` and the memory left"
        );
        std::process::abort();
    }

    fn reached(&self, point: &'static str) {
        for hook in &self.hooks {
            if hook.point == point {
                hook.reached();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_read_and_count_down() {
        let hooks = parse_hooks("commit:3=kill,freeze=stop,journal.append:1=sleep:20").unwrap();
        assert_eq!(hooks.len(), 3);
        assert_eq!((hooks[0].point.as_str(), hooks[0].action), ("commit", Action::Kill));
        assert_eq!(hooks[1].action, Action::Stop);
        assert_eq!(hooks[2].action, Action::Sleep(Duration::from_millis(20)));
        let env = RealEnv { start: Instant::now(), hooks };
        env.reached("commit");
        env.reached("commit");
        env.reached("elsewhere");
        assert_eq!(env.hooks[0].left.load(Ordering::Relaxed), 1, "the third time would kill this test");
        let before = Instant::now();
        env.reached("journal.append");
        assert!(before.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn bad_hooks_are_refused_with_one_line() {
        for bad in [
            "commit",
            "commit=",
            "commit=burn",
            "commit:0=kill",
            "commit:x=kill",
            "commit=sleep",
            "commit=sleep:x",
        ] {
            let error = parse_hooks(bad).unwrap_err().message;
            assert!(error.contains(bad) && !error.contains('\n'), "{error}");
        }
        assert!(parse_hooks("").unwrap().is_empty());
    }

    #[test]
    fn clocks_go_on_and_numbers_differ() {
        let env = RealEnv { start: Instant::now(), hooks: Box::default() };
        let (now, wall) = (env.now(), env.wall_ns());
        env.sleep(Duration::from_millis(2));
        assert!(env.now() > now && env.wall_ns() > wall);
        assert_ne!(env.random(), env.random());
        let (done, wait) = std::sync::mpsc::channel();
        env.spawn("test", Box::new(move || done.send(()).unwrap()));
        wait.recv().unwrap();
    }
}
