//! Fleet messages: this module's one door to the others. What is not for it, was seen, or does not verify
//! is dropped with a named reason.

use super::Module;
use super::state::State;
use crate::encoding::View;
use crate::error::{Code, Error, Result, fail};
use crate::ids::NodeId;
use crate::seal::fleet::{Header, VERSION, Window, open_message, seal_message};

/// The only kind that may not know its receiver's boot number: it tells the sender's.
pub const HELLO: &str = "link/hello";

impl Module {
    /// Seals `body` to `to` as a message of `kind`.
    pub fn seal(&self, to: &NodeId, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.with(|s, _| s.seal_message(to, kind, body))
    }

    /// Opens a message: (sender, kind, body).
    pub fn open_message(&self, bytes: &[u8]) -> Result<(NodeId, String, Vec<u8>)> {
        self.with(|s, _| s.open_message(bytes))
    }

    /// The boot number under which a peer said hello last; `None` before it has.
    pub fn peer_boot(&self, peer: &NodeId) -> Result<Option<u64>> {
        self.with(|s, _| Ok(s.peers.get(peer).map(Window::boot)))
    }

    /// A statement's view, its signature checked against the roster or the operator key.
    pub fn verify_view(&self, bytes: &[u8]) -> Result<View> {
        self.with(|s, _| super::views::verified(s, bytes))
    }
}

impl State {
    fn seal_message(&mut self, to: &NodeId, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        let fleet = self.fleet()?;
        self.roster()?.active(to)?;
        let to_boot = match self.peers.get(to) {
            Some(window) => window.boot(),
            None if kind == HELLO => 0,
            None => {
                return fail(Code::BadState, format!("{to} has not said hello since this module started"));
            }
        };
        let salt = self.next_bytes();
        let Some((&fleet_epoch, key)) = self.fleet_keys.last_key_value() else { return no_fleet_key() };
        self.seq += 1;
        let header = Header {
            version: VERSION,
            fleet,
            fleet_epoch,
            from: self.name.clone(),
            to: to.clone(),
            kind: kind.to_owned(),
            boot: self.boot,
            seq: self.seq,
            to_boot: if kind == HELLO { 0 } else { to_boot },
            salt,
        };
        seal_message(&header, body, key, &self.sign)
    }

    fn open_message(&mut self, bytes: &[u8]) -> Result<(NodeId, String, Vec<u8>)> {
        let fleet = self.fleet()?;
        if self.fleet_keys.is_empty() {
            return no_fleet_key();
        }
        let key_for = |epoch| self.fleet_keys.get(&epoch);
        let (header, body) = open_message(bytes, &fleet, &self.name, &key_for, &self.key_of())?;
        let hello = header.kind == HELLO;
        if !hello && header.to_boot != self.boot {
            return fail(
                Code::StaleBoot,
                format!("a message of {} was meant for start {} of this module", header.from, header.to_boot),
            );
        }
        if !hello && !self.peers.contains_key(&header.from) {
            return fail(
                Code::StaleBoot,
                format!("{} has not said hello since this module started", header.from),
            );
        }
        self.peers
            .entry(header.from.clone())
            .or_insert_with(|| Window::new(header.boot))
            .accept(header.boot, header.seq)?;
        Ok((header.from, header.kind, body))
    }
}

fn no_fleet_key<T>() -> Result<T> {
    Err(Error::new(
        Code::NoFleetKey,
        "this module has no fleet key yet; the hub sends it once it is enrolled",
    ))
}
