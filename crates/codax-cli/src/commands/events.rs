//! `codax events`: what the store did and refused, and why.

use super::{Context, unexpected};
use crate::args::EventsArgs;
use crate::output::text;
use anyhow::Result;
use codax::Store;
use codax_core::info::Event;
use codax_core::units::format_size;
use codax_wire::{Reply, Request};

/// How many of the events that were there before `--follow` shows first.
const BEFORE: usize = 10;

/// `codax events`.
pub fn run(context: &Context, args: &EventsArgs) -> Result<()> {
    let store = context.store()?;
    let mut since = args.since.unwrap_or(1);
    let mut events = Vec::new();
    loop {
        let more = ask(&store, &mut since, false)?;
        if more.is_empty() {
            break;
        }
        events.extend(more);
        if args.follow && args.since.is_none() {
            events.drain(..events.len().saturating_sub(BEFORE));
        }
    }
    if !args.follow {
        return context.print(&events, || events.iter().map(line).collect());
    }
    loop {
        for event in &events {
            context.print([event], || line(event))?;
        }
        // The daemon answers at the latest after a second.
        events = ask(&store, &mut since, true)?;
    }
}

/// The events from `since` on, which goes on behind the last of them.
fn ask(store: &Store, since: &mut u64, wait: bool) -> Result<Vec<Event>> {
    match store.call(Request::Events { since: *since, wait })? {
        Reply::Events(events) => {
            if let Some(last) = events.last() {
                *since = last.seq + 1;
            }
            Ok(events)
        }
        other => Err(unexpected(&other).into()),
    }
}

fn line(event: &Event) -> String {
    let Event { seq, time_ns, what, subject, detail, bytes } = event;
    let size = if *bytes > 0 { format!(", {}", format_size(*bytes)) } else { String::new() };
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    text::printable(&format!("{} #{seq} {what} {subject}{size}{detail}", text::time(*time_ns))) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let mut event = Event {
            seq: 3,
            time_ns: 0,
            what: "move".to_owned(),
            subject: "/a".to_owned(),
            detail: "to sim0\nreally".to_owned(),
            bytes: 4096,
        };
        assert_eq!(line(&event), "1970-01-01 00:00:00Z #3 move /a, 4 KiB: to sim0\\nreally\n");
        (event.detail, event.bytes) = (String::new(), 0);
        assert_eq!(line(&event), "1970-01-01 00:00:00Z #3 move /a\n");
    }
}
