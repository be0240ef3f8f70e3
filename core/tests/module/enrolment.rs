//! Who is let into the fleet: tokens, requests, entries, rosters.

use quorate_core::encoding::Bytes;
use quorate_core::error::Code;
use quorate_core::ids::{Hash, NodeId};
use quorate_core::module::messages::{EnrolRequest, Entry, FleetInfo, Role, Roster, Standing, Token};
use quorate_core::module::{Module, Sources};
use quorate_core::seal::statement;
use quorate_core::vault::Root;

use crate::fixture::{Fleet, NOW, node_id, refused, said};

fn label(name: &str) -> NodeId {
    NodeId::new(name).expect("a label")
}

/// A roster with one more entry, signed with the stolen hub's key.
fn hub_roster(fleet: &Fleet, entry: &[u8]) -> Vec<u8> {
    let known = fleet.hub.roster_bytes().expect("asked").expect("a roster");
    let mut next = said::<Roster>(&known);
    next.version += 1;
    next.parent = statement::hash_in(&known).expect("a roster");
    next.entries.push(Bytes(entry.to_vec()));
    fleet.forge("hub", next)
}

#[test]
fn n64_a_token_admits_its_module_with_its_secret_in_its_time() {
    let mut fleet = Fleet::founded();
    let module = fleet.new_module("node-7");
    let (token, invitation) = fleet.invite("node-7", Some(&module));
    let request = module.enrol_request(&invitation, "a:1").expect("a request");
    fleet.hub.check_enrolment(&request, &token, NOW + 3600).expect("until the last second");
    refused(fleet.hub.check_enrolment(&request, &token, NOW + 3601), Code::NotAuthorized);

    let check = |change: fn(&mut EnrolRequest), code: Code| {
        let mut altered = said::<EnrolRequest>(&request);
        change(&mut altered);
        let altered = fleet.forge("node-7", altered);
        refused(fleet.hub.check_enrolment(&altered, &token, NOW), code);
    };
    check(|r| r.token_secret[0] ^= 1, Code::NotAuthorized);
    check(|r| r.token_secret = [0; 32], Code::NotAuthorized);
    check(|r| r.token_id[0] ^= 1, Code::NotAuthorized);
    check(|r| r.name = label("node-8"), Code::NotAuthorized);
    check(|r| r.role = Role::Backup, Code::NotAuthorized);
    check(|r| r.zone = "elsewhere".to_owned(), Code::NotAuthorized);
    // Under another name all over: the token is for one.
    let mut renamed = said::<EnrolRequest>(&request);
    renamed.name = label("node-8");
    let renamed = fleet.forge_as("node-7", "node-8", renamed);
    refused(fleet.hub.check_enrolment(&renamed, &token, NOW), Code::NotAuthorized);
    // Signed by another key than the one it names, or not as the module it names.
    let not_its_own = fleet.forge_as("node-1", "node-7", said::<EnrolRequest>(&request));
    refused(fleet.hub.check_enrolment(&not_its_own, &token, NOW), Code::BadSignature);
    let not_its_name = fleet.forge_as("node-7", "node-1", said::<EnrolRequest>(&request));
    refused(fleet.hub.check_enrolment(&not_its_name, &token, NOW), Code::NotAuthorized);
    // A token that the hub made for itself.
    let own = statement::read_approved::<Token>(&token).expect("a token").into_body();
    let own = fleet.forge_approval("hub", &own);
    refused(fleet.hub.check_enrolment(&request, &own, NOW), Code::BadSignature);
}

#[test]
fn n64_a_token_serves_once_and_only_the_module_it_is_bound_to() {
    let mut fleet = Fleet::founded();
    let (first, second) = (fleet.new_module("node-7"), fleet.new_module("node-8"));
    let (token, invitation) = fleet.invite("node-7", Some(&second));
    let request = first.enrol_request(&invitation, "a:1").expect("a request");
    refused(fleet.hub.check_enrolment(&request, &token, NOW), Code::NotAuthorized);
    refused(second.enrol_request(&invitation, "a:1"), Code::NotAuthorized);

    let (token, invitation) = fleet.invite("node-7", None);
    let request = first.enrol_request(&invitation, "a:1").expect("a request");
    fleet.hub.check_enrolment(&request, &token, NOW).expect("fresh");
    let entry = fleet.operator.approve_entry(&request, NOW).expect("approved").0;
    fleet.hub.admit(&entry).expect("admitted");
    refused(fleet.hub.check_enrolment(&request, &token, NOW), Code::AlreadyExists);
    refused(fleet.hub.admit(&entry), Code::AlreadyExists);
    // Another module, of the same name, with the same invitation.
    let thief = Fleet::founded().new_module("node-7");
    let request = thief.enrol_request(&invitation, "b:1").expect("a request");
    refused(fleet.hub.check_enrolment(&request, &token, NOW), Code::AlreadyExists);
    let entry = fleet.operator.approve_entry(&request, NOW).expect("approved").0;
    refused(fleet.hub.admit(&entry), Code::AlreadyExists);
}

#[test]
fn n64_a_key_is_enrolled_under_one_name_only() {
    let mut fleet = Fleet::founded();
    let module = fleet.new_module("node-7");
    let (token, invitation) = fleet.invite("node-7", None);
    let honest = said::<EnrolRequest>(&module.enrol_request(&invitation, "a:1").expect("a request"));
    let entries = fleet.hub.entries().expect("entries");
    let known = &entries.iter().find(|(e, _)| e.name == node_id(1)).expect("node-1").0;
    let copies = [
        ("node-1", EnrolRequest { sign: known.sign, ..honest.clone() }),
        ("node-7", EnrolRequest { kem: known.kem.clone(), ..honest.clone() }),
        ("node-7", EnrolRequest { tls: known.tls.clone(), ..honest.clone() }),
    ];
    for (thief, copy) in copies {
        let request = fleet.forge_as(thief, "node-7", copy);
        refused(fleet.hub.check_enrolment(&request, &token, NOW), Code::DuplicateKey);
        let entry = fleet.operator.approve_entry(&request, NOW).expect("an operator sees no roster").0;
        refused(fleet.hub.admit(&entry), Code::DuplicateKey);
        refused(fleet.node(1).install_roster(&hub_roster(&fleet, &entry)), Code::DuplicateKey);
    }
}

/// The eight points of small order, and their second encodings (as in `seal/signing`).
const SMALL_ORDER: [&str; 8] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
];

#[test]
fn n64_no_module_enrols_a_key_of_small_order() {
    let mut fleet = Fleet::founded();
    let module = fleet.new_module("node-7");
    let (token, invitation) = fleet.invite("node-7", None);
    let honest = module.enrol_request(&invitation, "a:1").expect("a request");
    let sign = *said::<EnrolRequest>(&honest).sign.as_bytes();
    let at = honest.windows(32).position(|w| w == sign).expect("the key stands in the request");
    for weak in SMALL_ORDER {
        // With R the neutral point and S zero, such a key "signs" whatever it likes in one of eight tries.
        let mut request = honest.clone();
        request[at..at + 32].copy_from_slice(&hex::decode(weak).expect("hex"));
        let signature = request.len() - 64;
        request[signature..].fill(0);
        request[signature] = 1;
        refused(fleet.hub.check_enrolment(&request, &token, NOW), Code::WeakKey);
        refused(fleet.operator.approve_entry(&request, NOW), Code::WeakKey);
    }
}

#[test]
fn n92_a_hub_enrols_nobody_on_its_own_word() {
    let mut fleet = Fleet::founded();
    let module = fleet.new_module("node-7");
    let invitation = fleet.invite("node-7", None).1;
    let request = module.enrol_request(&invitation, "a:1").expect("a request");
    let entry = fleet.operator.approve_entry(&request, NOW).expect("approved").0;
    let body = statement::read_approved::<Entry>(&entry).expect("an entry").into_body();

    let own = fleet.forge_approval("hub", &body);
    refused(fleet.hub.admit(&own), Code::BadSignature);
    refused(fleet.node(1).install_roster(&hub_roster(&fleet, &own)), Code::BadSignature);
    // Nor does it change the role of a member, or retire one.
    let entries = fleet.hub.entries().expect("entries");
    let (known, bytes) = entries.iter().find(|(e, _)| e.name == node_id(1)).expect("node-1");
    let parent = statement::read_approved::<Entry>(bytes).expect("an entry").hash();
    let retired = Entry { version: 2, parent, standing: Standing::Retired, ..known.clone() };
    refused(fleet.hub.admit(&fleet.forge_approval("hub", &retired)), Code::BadSignature);
    // With the operator's signature the same roster is taken.
    let roster = hub_roster(&fleet, &entry);
    fleet.node(1).install_roster(&roster).expect("installed");
    // A member is no hub: it signs no roster.
    let by_a_member = fleet.forge("node-2", said::<Roster>(&roster));
    refused(fleet.node(3).install_roster(&by_a_member), Code::UnknownSigner);
}

#[test]
fn n92_two_rosters_of_one_version_are_not_believed() {
    let mut fleet = Fleet::founded();
    let known = fleet.hub.roster_bytes().expect("asked").expect("a roster");
    let module = fleet.new_module("node-7");
    let invitation = fleet.invite("node-7", None).1;
    let request = module.enrol_request(&invitation, "a:1").expect("a request");
    let entry = fleet.operator.approve_entry(&request, NOW).expect("approved").0;
    let next = hub_roster(&fleet, &entry);
    let node = fleet.node(1);
    let forge = |from: &[u8], change: fn(&mut Roster)| {
        let mut roster = said::<Roster>(from);
        change(&mut roster);
        fleet.forge("hub", roster)
    };
    node.install_roster(&next).expect("installed");
    node.install_roster(&next).expect("and again");
    refused(node.install_roster(&known), Code::StaleVersion);
    // The same version in another order, or without its newcomer; a higher one that leaves somebody out, or has another parent.
    refused(node.install_roster(&forge(&next, |r| r.entries.reverse())), Code::StaleVersion);
    refused(node.install_roster(&forge(&next, |r| drop(r.entries.pop()))), Code::StaleVersion);
    refused(
        node.install_roster(&forge(&next, |r| (r.version, r.parent) = (r.version + 1, Hash([1; 32])))),
        Code::StaleVersion,
    );
    refused(
        node.install_roster(&forge(&next, |r| {
            r.version += 2;
            r.entries.pop();
        })),
        Code::StaleVersion,
    );
    refused(node.install_roster(&forge(&next, |r| r.entries.clear())), Code::NotAuthorized);
    refused(
        node.install_roster(&forge(&next, |r| r.entries.push(r.entries[0].clone()))),
        Code::NotAuthorized,
    );
    refused(
        node.install_roster(&forge(&next, |r| r.entries.push(r.entries[1].clone()))),
        Code::AlreadyExists,
    );
    fleet.reopen(1);
    refused(fleet.node(1).install_roster(&known), Code::StaleVersion);
    assert_eq!(fleet.node(1).roster_bytes().expect("asked"), Some(next));
}

/// node-1's next entry, as the operator would sign it after `change`.
fn next_entry(fleet: &Fleet, change: impl FnOnce(&mut Entry)) -> Vec<u8> {
    let entries = fleet.hub.entries().expect("entries");
    let (known, bytes) = entries.iter().find(|(e, _)| e.name == node_id(1)).expect("node-1");
    let parent = statement::read_approved::<Entry>(bytes).expect("an entry").hash();
    let mut next = Entry { version: known.version + 1, parent, address: "b:2".to_owned(), ..known.clone() };
    change(&mut next);
    fleet.forge_approval("operator", &next)
}

#[test]
fn n64_an_entrys_next_version_keeps_its_keys_and_follows_the_last() {
    let mut fleet = Fleet::founded();
    // Keys that no module of the roster has: nothing but their change is wrong with them.
    let fresh = fleet.new_module("node-7");
    let invitation = fleet.invite("node-7", None).1;
    let other = said::<EnrolRequest>(&fresh.enrol_request(&invitation, "a:1").expect("a request"));
    let admit = |change: &dyn Fn(&mut Entry)| fleet.hub.admit(&next_entry(&fleet, |e| change(e)));
    refused(admit(&|e| e.sign = other.sign), Code::DuplicateKey);
    refused(admit(&|e| e.kem = other.kem.clone()), Code::DuplicateKey);
    refused(admit(&|e| e.tls = other.tls.clone()), Code::DuplicateKey);
    refused(admit(&|e| e.version += 1), Code::AlreadyExists);
    refused(admit(&|e| e.parent = Hash([1; 32])), Code::AlreadyExists);
    refused(admit(&|e| e.name = NodeId::operator()), Code::NotAuthorized);
    refused(admit(&|e| e.name = label("node-9")), Code::StaleVersion);
    admit(&|_| ()).expect("a new address");
}

#[test]
fn n92_a_stolen_hub_takes_no_entry_back() {
    let fleet = Fleet::founded();
    let before = fleet.hub.roster_bytes().expect("asked").expect("a roster");
    let next = fleet.hub.admit(&next_entry(&fleet, |_| ())).expect("admitted");
    let node = fleet.node(3);
    node.install_roster(&next).expect("installed");
    let parent = statement::hash_in(&next).expect("a roster");
    let version = said::<Roster>(&next).version + 1;
    let forge = |body: Roster| fleet.forge("hub", body);
    // The old entries as a new version; the new entries as an old one.
    refused(
        node.install_roster(&forge(Roster { version, parent, ..said::<Roster>(&before) })),
        Code::StaleVersion,
    );
    refused(node.install_roster(&forge(Roster { version: 1, ..said::<Roster>(&next) })), Code::StaleVersion);
    // Two entries of one version, both signed by the operator: the first one known stands.
    let rival = next_entry(&fleet, |e| {
        e.version -= 1;
        e.address = "c:3".to_owned();
    });
    let mut entries: Vec<Bytes> = said::<Roster>(&next).entries;
    let at = entries
        .iter()
        .position(|e| statement::read_approved::<Entry>(&e.0).expect("an entry").body().name == node_id(1));
    entries[at.expect("node-1")] = Bytes(rival);
    let split = Roster { version, parent, entries, ..said::<Roster>(&next) };
    refused(node.install_roster(&forge(split)), Code::StaleVersion);
}

#[test]
fn n97_a_stolen_hub_uses_up_no_version_of_the_roster() {
    let fleet = Fleet::founded();
    let known = fleet.hub.roster_bytes().expect("asked").expect("a roster");
    let last = Roster { version: u64::MAX, ..said::<Roster>(&known) };
    refused(fleet.node(1).install_roster(&fleet.forge("hub", last)), Code::StaleVersion);
}

#[test]
fn a_module_is_pinned_to_one_operator_for_good() {
    let mut fleet = Fleet::founded();
    let scratch = fleet.new_module("node-7");
    let invitation = fleet.invite("node-7", None).1;
    scratch.enrol_request(&invitation, "a:1").expect("a request");
    let other = Fleet::founded();
    refused(scratch.pin(other.operator.fleet_info(), &other.operator.public()), Code::WrongFleet);
    refused(other.node(1).pin(fleet.operator.fleet_info(), &fleet.operator.public()), Code::WrongFleet);
    refused(other.hub.pin(other.operator.fleet_info(), &fleet.operator.public()), Code::BadSignature);
    fleet.reopen(1);
    refused(fleet.node(1).pin(other.operator.fleet_info(), &other.operator.public()), Code::WrongFleet);
}

#[test]
fn no_module_is_called_operator() {
    let dir = std::env::temp_dir().join(format!("quorate-operator-{}", std::process::id()));
    refused(
        Module::create(&dir, &NodeId::operator(), &Root::KeyFile, Sources::system()),
        Code::NotAuthorized,
    );
    assert!(!dir.exists(), "refused before a vault was made");
}

#[test]
fn a_module_pins_no_operator_but_the_one_that_the_fleet_names() {
    let fleet = Fleet::founded();
    let scratch = fleet.new_module("node-7");
    // A thief's key signs a statement about the true operator's fleet.
    let info = statement::read_approved::<FleetInfo>(fleet.operator.fleet_info()).expect("info").into_body();
    let forged = fleet.forge_approval("node-2", &info);
    refused(scratch.pin(&forged, &fleet.stolen_key("node-2").public()), Code::NotAuthorized);
    scratch.pin(fleet.operator.fleet_info(), &fleet.operator.public()).expect("nothing was pinned");
}

#[test]
fn a_fleet_is_founded_once_by_its_hub() {
    let mut fleet = Fleet::founded();
    refused(fleet.hub.found_fleet(&fleet.hub_entry), Code::AlreadyExists);
    let second = fleet.new_module("hub-2");
    second.pin(fleet.operator.fleet_info(), &fleet.operator.public()).expect("pinned");
    refused(second.found_fleet(&fleet.hub_entry), Code::NotAuthorized);
    // An entry in this module's name, with its keys, or for its role, is not enough on its own.
    let keys = said::<EnrolRequest>(&second.enrol_request_hub("z0", "a:1").expect("a request"));
    let hub = statement::read_approved::<Entry>(&fleet.hub_entry).expect("an entry").into_body();
    for entry in [
        Entry { name: label("hub-2"), ..hub.clone() },
        Entry { sign: keys.sign, kem: keys.kem.clone(), tls: keys.tls.clone(), ..hub.clone() },
        Entry {
            name: label("hub-2"),
            sign: keys.sign,
            kem: keys.kem,
            tls: keys.tls,
            role: Role::Holder,
            ..hub
        },
    ] {
        refused(second.found_fleet(&fleet.forge_approval("operator", &entry)), Code::NotAuthorized);
    }
    // A second hub beside the first is refused, whoever approved it.
    let request = second.enrol_request_hub("z0", "a:1").expect("a request");
    let entry = fleet.operator.approve_entry(&request, NOW).expect("approved").0;
    refused(fleet.hub.admit(&entry), Code::NotAuthorized);
    refused(fleet.node(1).install_roster(&hub_roster(&fleet, &entry)), Code::NotAuthorized);
}
