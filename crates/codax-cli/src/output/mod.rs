//! How answers are shown: JSON for programs, text and tables for people, progress while they wait.

pub mod json;
pub mod progress;
pub mod table;
pub mod text;
