//! The whole of codax, end to end: the real program serves real stores, and processes of their own map what is in them.
//!
//! Each test has a store of its own below `/dev/shm`. Other processes are this test program again, with one of the roles in [`client`]. What a machine can't do
//! is skipped by name: `skipped: NAME: why` on standard error.

mod client;
mod raw;
mod rig;
mod setting;

mod bad_input;
mod cgroup;
mod commands;
mod coprocessors;
mod crash;
mod damage;
mod demo;
mod discover;
mod drain;
mod drivers;
mod emergency;
mod exclusive;
mod holders;
mod huge;
mod huge_moves;
mod kernel_moves;
mod live;
mod media;
mod mount;
mod numa;
mod pairs;
mod power;
mod probe;
mod queues;
mod quotas;
mod stopped;
mod strangers;
mod users;
