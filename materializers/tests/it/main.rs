//! The folds against a naive fold of the same log, through restarts, damage and loss of power.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod damage;
mod fold;
mod fold_disk;
mod indexes;
mod oracle;
mod power_loss;
mod reclaim;
mod verify;
mod workload;
mod world;
