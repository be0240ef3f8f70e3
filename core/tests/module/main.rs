//! The module's command set, driven as hub and nodes drive it: the way it should go, and every known attack
//! on it (named `nNN_…` after its row in the project's list of attacks).
//!
//! Here: what a command lets through. Not here: arithmetic (`tests/sharing`), encodings (`seal`), sockets.

mod access;
mod complaints;
mod dealings;
mod enrolment;
mod fixture;
mod fleet_key;
mod happy_path;
mod keys;
mod marks;
mod membership;
mod messages;
mod plans;
mod redealing;
mod rotation;
mod sessions;
mod stack;
