//! What the daemon and a device's driver in another process say to each other.
//!
//! A driver connects as a client does, says [`crate::Request::Hello`] and then [`crate::Request::Drive`]. Once that is answered by [`crate::Reply::Done`] the roles on this
//! connection are turned round: the daemon sends [`ToDriver`], and each [`ToDriver::Call`] is answered by one [`FromDriver`] of the same number before the next one is
//! sent. A state goes in parts of at most [`crate::BYTES_MAX`], each a packet of its own, right behind the message that says how long it is: behind an
//! [`Answer::State`] those of [`FromDriver`] with [`Answer::Part`], of the same number; behind a [`Call::Restore`] those of [`ToDriver::Part`]. What does otherwise
//! ends the connection.

use codax_core::Error;
use codax_core::driver::{Counter, Description, Granted, Health, QueueId, Range};
use serde::{Deserialize, Serialize};

/// Most ranges in a call.
pub const RANGES_MAX: usize = 1024;

/// Body of [`crate::Request::Drive`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// The device's name.
    pub device: String,
    /// What it is.
    pub description: Description,
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDriver {
    /// The driver is to do something.
    Call {
        /// Counted from 1.
        number: u64,
        /// What.
        call: Call,
    },
    /// A part of a state.
    Part(Vec<u8>),
}

/// What a driver is to do, as in [`codax_core::driver::Driver`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Write back and forget. Answered by [`Answer::Done`].
    WriteBack(Vec<Range>),
    /// Come to a safe point. Answered by [`Answer::Done`].
    Quiesce {
        /// In so many nanoseconds.
        within_ns: u64,
    },
    /// Hand over the state. Answered by [`Answer::State`].
    Save,
    /// Stop, and forget the state. Answered by [`Answer::Done`].
    Reset,
    /// Take this state. Answered by [`Answer::Done`].
    Restore {
        /// So many bytes, which come in parts.
        len: u64,
    },
    /// Run. Answered by [`Answer::Done`].
    Resume,
    /// Answered by [`Answer::Health`].
    Health,
    /// Answered by [`Answer::Counters`].
    Counters,
    /// A program's queue. Carries the descriptor of its ring. Answered by [`Answer::Done`].
    OpenQueue(QueueId),
    /// A queue may name a file. Answered by [`Answer::Done`].
    Grant(Granted),
    /// A queue is closed. Answered by [`Answer::Done`].
    CloseQueue(QueueId),
}

/// What a driver says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromDriver {
    /// Of the call that it answers.
    pub number: u64,
    /// The answer.
    pub answer: Answer,
}

/// The answer to a [`Call`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is done.
    Done,
    /// It did not work.
    Failed(Error),
    /// To `Save`. A state longer than [`codax_core::driver::STATE_MAX`] is not sent: this is all that is said of it.
    State {
        /// So many bytes, which come in parts.
        len: u64,
    },
    /// A part of a state.
    Part(Vec<u8>),
    /// To `Health`.
    Health(Health),
    /// To `Counters`.
    Counters(Vec<Counter>),
}
