//! The module's command set, driven as hub and nodes drive it: the way it should go, and every known attack
//! on it (named `nNN_…` after its row in the project's list of attacks).
//!
//! Here: what a command lets through. Not here: arithmetic (`tests/sharing`), encodings (`seal`), sockets.

mod dealings;
mod fixture;
mod happy_path;
mod plans;
mod sessions;
