//! What the software coprocessor computes: operations on ranges of files, one step after the other.
//!
//! Pure: no I/O, no clock, no unsafe code. An [`Operation`] is made from a [`Spec`] (which operation, which ranges), reads and
//! writes its ranges through a [`Memory`], and comes back from each [step](Operation::step) after a budget of bytes; between two
//! steps its whole state is a few hundred bytes that can be [saved](Operation::save), moved, and [restored](Operation::restore).
//! What it gives is the same wherever it is interrupted. The table of operations is in `docs/operations.md`, and in [`Opcode`].
//!
//! # Memory that others write
//!
//! The ranges are mapped files: other processes may write them at any time, and a page may turn out not to be there. What an operation only reads it looks at
//! where it lies, through [`Memory::look`], which may leave it in the middle; all that it has found out since is forgotten then. A result of bytes that were written meanwhile is
//! that of some mixture of old and new ones, and nothing worse.
//!
//! Where that can't be had, bytes are copied out and computed on then. The copy would nearly halve the speed if it were a pass of its own, over chunks of 64 KiB and more:
//! memory would wait for the computation, and the computation for memory. So a chunk is just [`CHUNK`] bytes long, which stay in the first-level cache, and whoever implements
//! [`Memory::read`] for mappings has the memory fetch the bytes some KiB further on while it copies (codax-os's `Guard::read` does): these come in while the chunk is computed on.
#![forbid(unsafe_code)]

mod chunk;
pub mod kernel;
mod memory;
mod opcode;
mod operation;
mod spec;
pub mod state;
mod value;
mod work;

pub use chunk::CHUNK;
pub use memory::{Fault, Look, Memory, Which};
pub use opcode::{Opcode, Shape};
pub use operation::{DEFAULT_BUDGET, Operation, Step};
pub use spec::{Invalid, NEEDLE_MAX, Range, Spec};
pub use state::{BadState, STATE_MAX};
pub use value::{Outcome, Value};
