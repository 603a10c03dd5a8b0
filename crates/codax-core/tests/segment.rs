//! Segments under every order of answers, deaths, refusals and late answers that chance brings: the promises of the machine hold, and
//! no byte is lost in a model of the memory it moves.

use codax_core::live::{MoverMsg, Step};
use codax_core::segment::{Action, Part, Segment, Target};
use codax_core::{FileId, MoveId, PageRange, PoolId, SessionId};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

const CHUNKS: u32 = 5;

/// How a mapper sees a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Old,
    Frozen,
    Held,
    New,
}

/// A mapper: it answers its messages in order, when it is its turn.
#[derive(Debug)]
struct Mapper {
    inbox: VecDeque<MoverMsg>,
    views: Vec<View>,
    mappings: u32,
    ended: bool,
}

/// The memory: each chunk's value in the old and in the new object, and what it should be.
#[derive(Debug)]
struct World {
    segment: Segment,
    mappers: BTreeMap<SessionId, Mapper>,
    old: Vec<u32>,
    new: Vec<u32>,
    truth: Vec<u32>,
    committed: u32,
    ready: u32,
}

fn step_of(message: &MoverMsg) -> Step {
    match *message {
        MoverMsg::Begin { .. } => Step::Begin,
        MoverMsg::Freeze { chunk, .. } => Step::Freeze(chunk),
        MoverMsg::Hold { chunk, .. } => Step::Hold(chunk),
        MoverMsg::Switch { chunk, .. } => Step::Switch(chunk),
        MoverMsg::Rollback { chunk, .. } => Step::Rollback(chunk),
        MoverMsg::End { .. } => Step::End,
    }
}

impl World {
    fn new(mappings: &[u32], batch: u32) -> Self {
        let sessions: Vec<SessionId> = (0..mappings.len() as u64).map(SessionId).collect();
        let part = |i| Part { pages: PageRange::new(i * 512, 512), closed: i % 2 == 1 };
        let parts: Vec<Part> = (0..u64::from(CHUNKS)).map(part).collect();
        let to = Target { pool: PoolId(1), persistent: false, device: None };
        let segment = Segment::new(MoveId(7), 3, FileId(9), to, &parts, sessions.iter().copied(), batch);
        let mapper = |&mappings: &u32| Mapper {
            inbox: VecDeque::new(),
            views: vec![View::Old; CHUNKS as usize],
            mappings,
            ended: false,
        };
        let mut world = Self {
            segment,
            mappers: sessions.into_iter().zip(mappings.iter().map(mapper)).collect(),
            old: vec![0; CHUNKS as usize],
            new: vec![u32::MAX; CHUNKS as usize],
            truth: vec![0; CHUNKS as usize],
            committed: 0,
            ready: 0,
        };
        world.act();
        world
    }

    fn act(&mut self) {
        while let Some(action) = self.segment.next_action() {
            match action {
                Action::Send(session, message) => {
                    if let Some(m) = self.mappers.get_mut(&session) {
                        m.inbox.push_back(message);
                    }
                }
                Action::MakeReady(first, count) => {
                    assert!(first == self.ready && count > 0, "chunks are made ready once, in order");
                    let open = self
                        .mappers
                        .values()
                        .flat_map(|m| &m.views)
                        .any(|v| matches!(v, View::Frozen | View::Held));
                    assert!(!open, "somebody waits while memory is made ready");
                    self.ready += count;
                }
                Action::Copy(chunk) => {
                    assert!(chunk < self.ready, "chunk {chunk} is copied to what is not ready");
                    let at = chunk as usize;
                    let frozen = self.mappers.values().all(|m| m.views[at] != View::Old);
                    assert!(frozen, "chunk {chunk} is copied while somebody may write it");
                    self.new[at] = self.old[at];
                    self.segment.copied(chunk, Ok(()));
                }
                Action::Commit(count) => {
                    assert_eq!(count, self.committed + 1, "commits come in order");
                    let at = count as usize - 1;
                    // With one mapping left there is nobody who could read what is stale.
                    if self.mappers.values().map(|m| m.mappings).sum::<u32>() > 1 {
                        let held = self.mappers.values().all(|m| m.views[at] == View::Held);
                        assert!(held, "chunk {at} is committed while somebody can still read the old bytes");
                    }
                    assert_eq!(self.new[at], self.truth[at], "what is committed is not what was written");
                    self.committed = count;
                }
            }
        }
    }

    /// A program stores into a chunk through its mapping, if the mapping lets it.
    fn write(&mut self, session: SessionId, chunk: usize, value: u32) {
        let Some(m) = self.mappers.get(&session) else { return };
        match m.views[chunk] {
            View::Old => self.old[chunk] = value,
            View::New => self.new[chunk] = value,
            View::Frozen | View::Held => return,
        }
        self.truth[chunk] = value;
    }

    fn read(&self, session: SessionId, chunk: usize) {
        let Some(m) = self.mappers.get(&session) else { return };
        let seen = match m.views[chunk] {
            View::Old | View::Frozen => self.old[chunk],
            View::New => self.new[chunk],
            View::Held => return,
        };
        assert_eq!(seen, self.truth[chunk], "a stale read of chunk {chunk}");
    }

    /// A mapper does its next message and answers.
    fn answer(&mut self, session: SessionId, refuse: bool) {
        let Some(m) = self.mappers.get_mut(&session) else { return };
        let Some(message) = m.inbox.pop_front() else { return };
        let refuse = refuse
            && matches!(message, MoverMsg::Begin { .. } | MoverMsg::Freeze { .. } | MoverMsg::Hold { .. });
        if !refuse {
            match message {
                MoverMsg::Freeze { chunk, closed, .. } => {
                    assert_eq!(closed, chunk % 2 == 1);
                    m.views[chunk as usize] = View::Frozen;
                }
                MoverMsg::Hold { chunk, .. } => m.views[chunk as usize] = View::Held,
                MoverMsg::Switch { chunk, .. } => {
                    assert!(chunk < self.committed, "a chunk is switched before it is committed");
                    m.views[chunk as usize] = View::New;
                }
                MoverMsg::Rollback { chunk, .. } => {
                    assert!(chunk >= self.committed, "a committed chunk is rolled back");
                    m.views[chunk as usize] = View::Old;
                }
                MoverMsg::End { .. } => m.ended = true,
                MoverMsg::Begin { .. } => {}
            }
        }
        let mappings = m.mappings;
        self.segment.acked(session, step_of(&message), mappings, refuse.then(|| "no".to_owned()));
        self.act();
    }

    fn die(&mut self, session: SessionId) {
        self.mappers.remove(&session);
        self.segment.gone(session);
        self.act();
    }

    fn finish(&mut self) {
        for _ in 0..1000 {
            let sessions: Vec<SessionId> = self.mappers.keys().copied().collect();
            for s in sessions {
                self.answer(s, false);
            }
            if self.segment.done() {
                break;
            }
        }
        assert!(self.segment.done(), "the segment never ends: {:?}", self.segment);
        assert_eq!(self.segment.committed(), self.committed);
        for m in self.mappers.values() {
            assert!(m.ended, "a mapper was not told of the end");
            for (at, view) in m.views.iter().enumerate() {
                let want = if at < self.committed as usize { View::New } else { View::Old };
                assert_eq!(*view, want, "chunk {at} after the end");
            }
        }
        for (at, truth) in self.truth.iter().enumerate() {
            let kept = if at < self.committed as usize { self.new[at] } else { self.old[at] };
            assert_eq!(kept, *truth, "chunk {at} lost a write");
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    Answer(u64, bool),
    Write(u64, usize),
    Read(u64, usize),
    Die(u64),
    Stop,
    Late,
}

fn event() -> impl Strategy<Value = Event> {
    let chunk = 0..CHUNKS as usize;
    prop_oneof![
        30 => (0..3u64).prop_map(|s| Event::Answer(s, false)),
        1 => (0..3u64).prop_map(|s| Event::Answer(s, true)),
        10 => (0..3u64, chunk.clone()).prop_map(|(s, c)| Event::Write(s, c)),
        10 => (0..3u64, chunk).prop_map(|(s, c)| Event::Read(s, c)),
        1 => (0..3u64).prop_map(Event::Die),
        1 => Just(Event::Stop),
        1 => Just(Event::Late),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_write_is_lost_and_no_read_is_stale(
        mappings in prop::collection::vec(1..3u32, 1..4),
        batch in 1..4u32,
        events in prop::collection::vec(event(), 0..120),
    ) {
        let mut world = World::new(&mappings, batch);
        for (i, event) in events.into_iter().enumerate() {
            match event {
                Event::Answer(s, refuse) => world.answer(SessionId(s), refuse),
                Event::Write(s, chunk) => world.write(SessionId(s), chunk, u32::try_from(i).unwrap_or(0) + 1),
                Event::Read(s, chunk) => world.read(SessionId(s), chunk),
                Event::Die(s) => world.die(SessionId(s)),
                Event::Stop => { world.segment.stop(); world.act(); }
                Event::Late => { world.segment.late("late"); world.act(); }
            }
        }
        world.finish();
    }
}

#[test]
fn undisturbed_it_commits_every_chunk() {
    for mappings in [&[1u32][..], &[1, 1], &[2, 1, 1]] {
        let mut world = World::new(mappings, 2);
        world.finish();
        assert_eq!(world.committed, CHUNKS);
        assert!(world.segment.failures().is_empty());
    }
}

#[test]
fn without_mappers_it_only_copies() {
    let mut world = World::new(&[], 2);
    world.act();
    world.finish();
    assert_eq!(world.committed, CHUNKS);
}

#[test]
fn a_late_mapper_can_be_left_when_it_holds_what_it_has_not_switched() {
    let mut world = World::new(&[1, 1], 2);
    for _ in 0..3 {
        world.answer(SessionId(0), false);
    }
    // The second never answers.
    world.segment.late("has not answered");
    world.act();
    assert!(world.segment.can_be_left());
    assert_eq!(world.committed, 0);
    world.segment.leave();
    world.act();
    assert_eq!(world.segment.waiting_for(), [SessionId(0), SessionId(1)].into());
    world.finish();
    assert_eq!(world.committed, 0);
}

#[test]
fn the_end_of_a_session_that_has_no_part_in_it_changes_nothing() {
    let mut world = World::new(&[1, 2], 2);
    let before = format!("{:?}", world.segment);
    world.segment.gone(SessionId(99));
    assert_eq!(format!("{:?}", world.segment), before);
    assert!(world.segment.next_action().is_none());
}
