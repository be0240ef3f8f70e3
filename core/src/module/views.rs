//! Public views of statements for readers outside the core, so that there is one parser.

use super::messages as m;
use super::state::State;
use crate::encoding::View;
use crate::error::{Code, Result, fail};
use crate::ids::{Hash, NodeId};
use crate::seal::statement::{self, Signed, Statement};

fn with_meta(label: &str, signer: &NodeId, hash: Hash, body: View) -> View {
    let mut fields = vec![
        ("label", View::Text(label.to_owned())),
        ("signer", View::Text(signer.to_string())),
        ("hash", View::Bytes(hash.0.to_vec())),
    ];
    if let View::Record(body) = body {
        fields.extend(body);
    }
    View::Record(fields)
}

fn of_signed<T: Statement>(signed: &Signed<T>) -> View {
    with_meta(T::LABEL, signed.signer(), signed.hash(), signed.body().view())
}

macro_rules! dispatch {
    ($label:expr, $open:ident, $($t:ident),+) => {
        match $label {
            $(m::$t::LABEL => Ok(of_signed(&$open!(m::$t))),)+
            other => fail(Code::WrongKind, format!("{other} is no statement with a public view")),
        }
    };
}

macro_rules! approved {
    ($label:expr, $open:ident, $($t:ident),+) => {
        match $label {
            $(m::$t::LABEL => {
                let a = $open!(m::$t);
                Ok(with_meta(m::$t::LABEL, &NodeId::operator(), a.hash(), crate::encoding::Wire::view(a.body())))
            })+
            other => fail(Code::WrongKind, format!("{other} is no operator-signed statement")),
        }
    };
}

/// The view of a module-signed statement, its signature not checked.
pub fn unverified(bytes: &[u8]) -> Result<View> {
    macro_rules! open {
        ($t:ty) => {
            statement::read_unverified::<$t>(bytes)?
        };
    }
    let (label, _) = statement::peek(bytes)?;
    dispatch!(
        label.as_str(),
        open,
        Roster,
        EnrolRequest,
        Rekey,
        FleetKeyKept,
        FleetKeyRetired,
        Mark,
        Plan,
        PlanKey,
        Dealing,
        Configuration,
        Complaint,
        Opening,
        Prepared,
        Activated,
        Erased,
        Clean,
        Dropped,
        SessionRequest,
        Grant,
        Answer,
        Refusal,
        Closed,
        KeyRecord,
        AliasRecord,
        AccessSeal
    )
}

/// The view of an operator-signed statement, its signature not checked.
pub fn unverified_approved(bytes: &[u8]) -> Result<View> {
    macro_rules! open {
        ($t:ty) => {
            statement::read_approved::<$t>(bytes)?
        };
    }
    let label = statement::peek_any(bytes)?;
    approved!(label.as_str(), open, FleetInfo, Entry, Token, Charter, AccessKey)
}

/// The view of a statement whose signature this module has checked against roster or operator key.
pub fn verified(s: &State, bytes: &[u8]) -> Result<View> {
    macro_rules! signed {
        ($t:ty) => {
            s.verify::<$t>(bytes)?
        };
    }
    macro_rules! by_operator {
        ($t:ty) => {
            s.verify_operator::<$t>(bytes)?
        };
    }
    let label = statement::peek_any(bytes)?;
    if matches!(
        label.as_str(),
        m::FleetInfo::LABEL | m::Entry::LABEL | m::Token::LABEL | m::Charter::LABEL | m::AccessKey::LABEL
    ) {
        return approved!(label.as_str(), by_operator, FleetInfo, Entry, Token, Charter, AccessKey);
    }
    dispatch!(
        label.as_str(),
        signed,
        Roster,
        Rekey,
        FleetKeyKept,
        FleetKeyRetired,
        Mark,
        Plan,
        PlanKey,
        Dealing,
        Configuration,
        Complaint,
        Opening,
        Prepared,
        Activated,
        Erased,
        Clean,
        Dropped,
        SessionRequest,
        Grant,
        Answer,
        Refusal,
        Closed,
        KeyRecord,
        AliasRecord,
        AccessSeal
    )
}
