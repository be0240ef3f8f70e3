//! Fleet messages: this module's one door to the others. What is not for it, was seen, or does not verify
//! is dropped with a named reason.
//!
//! Two modules speak the newest version that both know: each tells its own in its hello, which every build can read.
//! Likewise they use the newest fleet key that both have: it is known from what the other last used.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Module;
use super::state::State;
use crate::encoding::{Bytes, View, encode};
use crate::error::{Code, Result, fail};
use crate::ids::NodeId;
use crate::seal::fleet::{Header, NEWEST, OLDEST, Window, open_message, seal_message};

/// A greeting may not know its receiver's boot number: it tells the sender's, and carries its mark.
pub const HELLO: &str = "link/hello";
/// To a peer that runs on an older copy: whatever its boot number is, it is not to be known here.
pub const BEHIND: &str = "link/behind";

/// What is known of another module since this one started.
pub struct Peer {
    window: Window,
    /// The newest version that it said it speaks, in the boot that the window is of.
    newest: u8,
    /// The newest fleet epoch that it has used in that boot.
    fleet_epoch: u64,
}

impl Peer {
    fn new(boot: u64) -> Self {
        Self { window: Window::new(boot), newest: OLDEST, fleet_epoch: 0 }
    }

    pub fn boot(&self) -> u64 {
        self.window.boot()
    }

    /// Takes a hello, whose header told the newest version in the place of a boot number.
    fn hello(&mut self, header: &Header) -> Result<()> {
        let restarted = header.boot > self.window.boot();
        self.window.accept(header.boot, header.seq)?;
        let told = u8::try_from(header.to_boot).unwrap_or(u8::MAX).max(OLDEST);
        if restarted {
            (self.newest, self.fleet_epoch) = (OLDEST, 0);
        }
        self.newest = self.newest.max(told);
        self.fleet_epoch = self.fleet_epoch.max(header.fleet_epoch);
        Ok(())
    }
}

/// The newest version that this build speaks. A build for tests can be told of one that is still to come.
pub fn newest_version() -> u8 {
    #[cfg(feature = "testing")]
    if let Some(told) = std::env::var("QUORATE_TESTING_MESSAGE_VERSION").ok().and_then(|v| v.parse().ok()) {
        return told;
    }
    NEWEST
}

impl Module {
    /// Seals `body` to `to` as a message of `kind`.
    pub fn seal(&self, to: &NodeId, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.with(|s, now| s.seal_message(to, kind, body, now))
    }

    /// The hello to `to`, with this module's mark, under each fleet key that it accepts: a peer has one of them at
    /// least, and is told by the other that we have it.
    pub fn hellos(&self, to: &NodeId) -> Result<Vec<Vec<u8>>> {
        self.with(|s, now| {
            let body = encode(&vec![Bytes(s.sign(s.own_mark()?)?.bytes().to_vec())]);
            let mut epochs = vec![s.newest_fleet_key()?.0];
            epochs.extend(s.previous_fleet_key().filter(|e| s.accepted_fleet_key(*e, now).is_ok()));
            epochs.into_iter().map(|epoch| s.seal_under(epoch, to, HELLO, &body)).collect()
        })
    }

    /// Opens a message: (sender, kind, body).
    pub fn open_message(&self, bytes: &[u8]) -> Result<(NodeId, String, Vec<u8>)> {
        self.with(|s, now| s.open_message(bytes, now))
    }

    /// The boot number under which a peer said hello last; `None` before it has.
    pub fn peer_boot(&self, peer: &NodeId) -> Result<Option<u64>> {
        self.with(|s, _| Ok(s.peers.get(peer).map(|p| p.window.boot())))
    }

    /// The version of the messages that go to `peer`; `None` before it has said hello.
    pub fn peer_version(&self, peer: &NodeId) -> Result<Option<u8>> {
        self.with(|s, _| Ok(s.peers.get(peer).map(|p| s.newest.min(p.newest))))
    }

    /// How many messages were opened since this module started, hellos left out, by their version.
    pub fn opened_versions(&self) -> Result<BTreeMap<u8, u64>> {
        self.with(|s, _| Ok(s.opened.clone()))
    }

    /// Speaks another newest version from now on, as another build would from its start.
    #[cfg(feature = "testing")]
    pub fn speak(&self, newest: u8) -> Result<()> {
        self.with(|s, _| {
            s.newest = newest;
            Ok(())
        })
    }

    /// A statement's view, its signature checked against the roster or the operator key.
    pub fn verify_view(&self, bytes: &[u8]) -> Result<View> {
        self.with(|s, _| super::views::verified(s, bytes))
    }
}

impl State {
    /// Seals under the newest fleet key that both have.
    fn seal_message(&mut self, to: &NodeId, kind: &str, body: &[u8], now: Duration) -> Result<Vec<u8>> {
        let (newest, _) = self.newest_fleet_key()?;
        let theirs = self.peers.get(to).map_or(newest, |p| p.fleet_epoch);
        let older =
            self.previous_fleet_key().filter(|e| theirs <= *e && self.accepted_fleet_key(*e, now).is_ok());
        self.seal_under(older.unwrap_or(newest), to, kind, body)
    }

    fn seal_under(&mut self, fleet_epoch: u64, to: &NodeId, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        let fleet = self.fleet()?;
        self.roster()?.active(to)?;
        let (version, to_boot) = match self.peers.get(to) {
            _ if kind == HELLO => (OLDEST, u64::from(self.newest)),
            Some(peer) => (self.newest.min(peer.newest), peer.window.boot()),
            _ if kind == BEHIND => (OLDEST, 0),
            None => {
                return fail(Code::BadState, format!("{to} has not said hello since this module started"));
            }
        };
        let salt = self.next_bytes();
        self.seq += 1;
        let header = Header {
            version,
            fleet,
            fleet_epoch,
            from: self.name.clone(),
            to: to.clone(),
            kind: kind.to_owned(),
            boot: self.boot,
            seq: self.seq,
            to_boot,
            salt,
        };
        seal_message(&header, body, &self.fleet_keys[&fleet_epoch], &self.sign)
    }

    fn open_message(&mut self, bytes: &[u8], now: Duration) -> Result<(NodeId, String, Vec<u8>)> {
        let fleet = self.fleet()?;
        self.newest_fleet_key()?;
        let key_for = |epoch| self.accepted_fleet_key(epoch, now);
        let (header, body) = open_message(bytes, self.newest, &fleet, &self.name, &key_for, &self.key_of())?;
        if header.kind == HELLO {
            self.check_hello(&header, &body)?;
            let peer = self.peers.entry(header.from.clone()).or_insert_with(|| Peer::new(header.boot));
            peer.hello(&header)?;
            return Ok((header.from, header.kind, body));
        }
        if header.kind == BEHIND {
            return Ok((header.from, header.kind, body)); // what it carries speaks for itself, once or again
        }
        self.check_behind(&header)?;
        if header.to_boot != self.boot {
            return fail(
                Code::StaleBoot,
                format!("a message of {} was meant for start {} of this module", header.from, header.to_boot),
            );
        }
        let Some(peer) = self.peers.get_mut(&header.from).filter(|p| header.boot <= p.window.boot()) else {
            return fail(
                Code::StaleBoot,
                format!("{} has not said hello since it or this module started", header.from),
            );
        };
        let version = self.newest.min(peer.newest);
        if header.version < version {
            return fail(
                Code::LowerVersion,
                format!(
                    "a message of {} has version {}, and both speak {version}",
                    header.from, header.version
                ),
            );
        }
        peer.window.accept(header.boot, header.seq)?;
        peer.fleet_epoch = peer.fleet_epoch.max(header.fleet_epoch);
        *self.opened.entry(header.version).or_default() += 1;
        Ok((header.from, header.kind, body))
    }
}
