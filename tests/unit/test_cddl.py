"""`docs/protocol.cddl` says what the core encodes: the same labels, records, fields, order and types.

Both sides are parsed here: the Rust declarations (`record!`, `statements!`) and the CDDL rules. Two real statements are
read by an independent reader (cbor2, and RFC 9052's Sig_structure made by hand).
"""

import re
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quorate import _core

ROOT = Path(__file__).resolve().parents[2]
CDDL = (ROOT / "docs/protocol.cddl").read_text()
MESSAGES = (ROOT / "docs/protocols/messages.md").read_text()

SOURCES = (
    "module/messages.rs",
    "seal/fleet.rs",
    "seal/hpke.rs",
    "keys/token.rs",
    "module/enrolment.rs",
    "module/records.rs",
    "module/fleet_key.rs",
)
TYPES = {
    "FleetId": "fleet-id",
    "NodeId": "node-id",
    "DomainId": "domain-id",
    "SessionId": "session-id",
    "Hash": "hash",
    "Epoch": "epoch",
    "ShareIndex": "share-index",
    "VerifyKey": "verify-key",
    "KemPublic": "kem-public",
    "Commitments": "commitments",
    "String": "tstr",
    "u64": "uint",
    "u32": "u32",
    "u8": "u8",
    "bool": "bool",
    "[u8; 16]": "bytes16",
    "[u8; 32]": "bytes32",
    "[u8; 64]": "bytes64",
}
BUILT_IN = {"any", "bool", "bytes", "nil", "tstr", "uint"}

Fields = list[tuple[str, str]]


def kebab(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower()


def as_cddl(rust: str) -> str:
    """A Rust type in CDDL's words; `Bytes` stays, for the document may say more of what it holds."""
    if option := re.fullmatch(r"Option<(.+)>", rust):
        return f"{as_cddl(option[1])} / nil"
    if many := re.fullmatch(r"Vec<(.+)>", rust):
        return f"[* {as_cddl(many[1])}]"
    return rust if rust == "Bytes" else TYPES.get(rust, kebab(rust))


def split(text: str) -> list[str]:
    """Splits at commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += {"[": 1, "(": 1, "{": 1, "<": 1, "]": -1, ")": -1, "}": -1, ">": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [part for part in (*parts, text[start:].strip()) if part]


def rust_records() -> dict[str, tuple[str | None, Fields]]:
    """Of each declared structure, under its name in CDDL: its label, and its fields with their types."""
    found: dict[str, tuple[str | None, Fields]] = {}
    for source in SOURCES:
        text = (ROOT / "core/src" / source).read_text().split("#[cfg(test)]")[0]
        text = re.sub(r"//[^\n]*", "", text)
        for block in re.finditer(r"^(?:crate::)?(?:record|statements)! \{\n(.*?)^\}", text, re.S | re.M):
            declared = re.findall(r'pub struct (\w+)(?: = "([^"]+)")? \{(.*?)\}', block[1], re.S)
            for name, label, body in declared:
                fields = [field.removeprefix("pub ").partition(":") for field in split(body)]
                found[kebab(name)] = (
                    label or None,
                    [(field.strip(), as_cddl(kind.strip())) for field, _, kind in fields],
                )
    return found


def rules() -> dict[str, str]:
    """Every rule of the document, without comments."""
    text = re.sub(r";[^\n]*", "", CDDL)
    found = re.findall(r"^([a-z][a-z0-9-]*) = (.*?)(?=^[a-z][a-z0-9-]* = |\Z)", text, re.S | re.M)
    assert len({name for name, _ in found}) == len(found), "a rule stands twice"
    return {name: " ".join(body.split()) for name, body in found}


def marked(word: str) -> dict[str, str]:
    """The rules under a line `; label "…"` or `; kind "…"`: name of the rule by label or kind."""
    return dict(re.findall(rf'^; {word} "([^"]+)"\n([a-z][a-z0-9-]*) = ', CDDL, re.M))


def fields(rule: str) -> Fields:
    assert rule.startswith("[") and rule.endswith("]"), rule
    return [(name, kind.strip()) for name, _, kind in (part.partition(":") for part in split(rule[1:-1]))]


RECORDS = rust_records()
RULES = rules()


def test_the_sources_are_read() -> None:
    assert len(RECORDS) == 45
    assert RECORDS["seat"] == (None, [("index", "share-index"), ("node", "node-id"), ("role", "role")])
    assert RECORDS["closed"][1][-1] == ("culprits", "[* share-index]")


def test_every_label_of_the_core_stands_in_the_document_and_no_other() -> None:
    declared = {label: name for name, (label, _) in RECORDS.items() if label is not None}
    assert marked("label") == declared


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_record_has_the_same_fields_in_the_same_order(name: str) -> None:
    want = RECORDS[name][1]
    got = fields(RULES[name])
    assert [field for field, _ in got] == [field for field, _ in want]
    for (field, in_document), (_, in_core) in zip(got, want, strict=True):
        if "Bytes" not in in_core:
            assert in_document == in_core, f"{name}.{field}"
            continue
        shape = re.escape(in_core).replace("Bytes", r"(?P<content>[a-z0-9 .-]+?)")
        match = re.fullmatch(shape, in_document)
        assert match is not None, f"{name}.{field}: {in_document}"
        content = match["content"]
        assert content.startswith("bytes") or RULES[content].startswith("bytes"), (
            f"{name}.{field}: {in_document}"
        )


def test_every_word_of_the_core_is_allowed_by_the_document() -> None:
    text = (ROOT / "core/src/module/messages.rs").read_text()
    words = re.findall(r"^words!\(.*?(\w+) \{(.*?)\}\s*\);", text, re.S | re.M)
    assert len(words) == 9
    for name, body in words:
        assert RULES[kebab(name)].split(" / ") == re.findall(r'"[^"]+"', body), name


def test_every_message_has_a_body_with_as_many_fields() -> None:
    table = dict(re.findall(r"^\| `([a-z]+/[a-z-]+)` \|[^|]*\| `(\[.*?\])`", MESSAGES, re.M))
    table["domain/locked"] = "[domain, had a lease]"  # stands in the row of its question
    kinds = marked("kind")
    assert set(kinds) == set(table)
    for kind, rule in kinds.items():
        assert rule == "body-" + kind.replace("/", "-")
        listed = split(re.sub(r"\(.*?\)", "", table[kind])[1:-1])
        assert len(fields(RULES[rule])) == len(listed), kind


def test_every_rule_that_is_named_is_defined() -> None:
    for name, rule in RULES.items():
        bare = re.sub(r'"[^"]*"', "", rule)
        bare = re.sub(r"\.(?:cbor|size|regexp)\b|\b[a-z_]+:(?!/)", "", bare)
        for used in re.findall(r"[a-z][a-z0-9-]*", bare):
            assert used in RULES or used in BUILT_IN, f"{used} in {name}"


def test_an_approval_reads_as_the_document_says(tmp_path: Path) -> None:
    operator = _core.Operator.create(tmp_path / "operator", region="eu-1", account="1" * 12, not_before=0)
    payload, signatures = cbor2.loads(operator.fleet_info)
    [[protected, unprotected, detached, signature]] = signatures
    label = "quorate/v1/fleet/info"
    assert cbor2.loads(protected) == {1: -8, 4: b"operator", 16: label}
    assert (unprotected, detached, len(signature)) == ({}, None, 64)
    signed = cbor2.dumps(["Signature1", protected, operator.fleet, payload])
    Ed25519PublicKey.from_public_bytes(operator.public_key).verify(signature, signed)
    body = cbor2.loads(payload)
    assert len(body) == len(fields(RULES[marked("label")[label]]))
    assert body[:4] == [operator.fleet, operator.public_key, "eu-1", "1" * 12]


def test_a_statement_reads_as_the_document_says(tmp_path: Path) -> None:
    operator = _core.Operator.create(tmp_path / "operator", region="eu-1", account="1" * 12, not_before=0)
    module = _core.Module.create(tmp_path / "module", "a")
    try:
        _, invitation = operator.invite(
            name="a", role="holder", zone="z", enrol_address="127.0.0.1:1", expires=1
        )
        protected, unprotected, payload, signature = cbor2.loads(
            module.enrol_request(invitation, address="127.0.0.1:2")
        )
    finally:
        module.close()
    label = "quorate/v1/enrol/request"
    assert cbor2.loads(protected) == {1: -8, 4: b"a", 16: label}
    assert unprotected == {}
    names = [name for name, _ in fields(RULES[marked("label")[label]])]
    body = dict(zip(names, cbor2.loads(payload), strict=True))
    assert (body["name"], body["role"], body["zone"], body["address"]) == ("a", "holder", "z", "127.0.0.1:2")
    assert len(body["kem"]) == 1216
    signed = cbor2.dumps(["Signature1", protected, operator.fleet, payload])
    Ed25519PublicKey.from_public_bytes(body["sign"]).verify(signature, signed)
