"""When a leaf is renewed, and that what is open goes on with the new one. The clock is an argument."""

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from quorate import _core
from quorate.errors import BadInput
from quorate.host.certificates import LIFETIME, Certificates, Renewal
from quorate.hub.directory import Directory
from quorate.hub.setup import init
from quorate.local.operator import create_key

NAMES = ["127.0.0.1", "localhost"]
BORN = 1_900_000_000.0
HELD = LIFETIME + 3600
"""From an hour before it was made."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Directory:
    """One with the TLS authority that the operator certified."""
    data = tmp_path_factory.mktemp("data")
    key = create_key(data / "operator", region="us-east-1", account="000000000000")
    asyncio.run(init(data, operator=key, fleet_listen="127.0.0.1:0", enrol_listen="127.0.0.1:0"))
    return Directory.of(data)


@pytest.fixture(scope="module")
def module(hub: Directory) -> _core.Module:
    return _core.Module.open(hub.module)


@pytest.fixture
def certificates(hub: Directory, module: _core.Module, tmp_path: Path) -> Certificates:
    """Made at `BORN`."""
    made = Certificates.of(tmp_path)
    root = ssl.PEM_cert_to_DER_cert(hub.certificates.files.roots.read_text())
    made.write(module, NAMES, hub.certificates.authority.read_bytes(), root, BORN)
    return made


def serial(certificates: Certificates) -> int:
    return x509.load_pem_x509_certificate(certificates.files.cert_chain.read_bytes()).serial_number


def test_a_leaf_holds_from_an_hour_before_for_a_year(certificates: Certificates) -> None:
    held = certificates.validity()
    assert (held.begins, held.ends) == (BORN - 3600, BORN + LIFETIME)
    assert held.due == held.ends - HELD / 3


@pytest.mark.parametrize(
    ("at", "renewed"),
    [
        (BORN, False),
        (BORN + LIFETIME - HELD / 3 - 1, False),
        (BORN + LIFETIME - HELD / 3 + 1, True),
        (BORN + LIFETIME + 86400, True),  # expired: the process was down
        (BORN - 3601, True),  # the clock was set back
    ],
)
def test_a_leaf_is_renewed_when_less_than_a_third_of_its_time_is_left(
    at: float, renewed: bool, certificates: Certificates, module: _core.Module
) -> None:
    before, key = serial(certificates), certificates.files.key.read_bytes()
    assert certificates.renew_when_due(module, NAMES, at) is renewed
    assert (serial(certificates) != before) is renewed
    assert certificates.files.key.read_bytes() == key
    if renewed:
        assert certificates.validity().ends == int(at) + LIFETIME


class Clock:
    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def test_a_running_process_renews_once_and_takes_it_up(
    certificates: Certificates, module: _core.Module
) -> None:
    clock, seen = Clock(BORN), [serial(certificates)]
    renewal = Renewal(certificates, module, NAMES, clock, lambda: seen.append(serial(certificates)))
    due = certificates.validity().due
    for at in (BORN + 1, due - 1, due + 1, due + 2, due + 3):
        clock.at = at
        renewal.tick()
    assert len(seen) == 2 == len(set(seen))
    assert certificates.validity().ends == int(due + 1) + LIFETIME
    clock.at = certificates.validity().due + 1
    renewal.tick()
    assert len(seen) == 3 == len(set(seen))


def test_a_renewal_that_fails_is_logged_and_tried_again_a_minute_later(
    certificates: Certificates, module: _core.Module, caplog: pytest.LogCaptureFixture
) -> None:
    clock, taken = Clock(BORN), []
    renewal = Renewal(certificates, module, NAMES, clock, lambda: taken.append(1))
    authority = certificates.authority.read_bytes()
    certificates.authority.unlink()
    clock.at = certificates.validity().due + 1
    renewal.tick()
    renewal.tick()
    assert caplog.text.count("could not be renewed") == 1
    certificates.authority.write_bytes(authority)
    renewal.tick()
    assert taken == []
    clock.at += 61
    renewal.tick()
    assert taken == [1]


def test_a_context_in_use_shows_the_new_leaf_to_new_connections(
    certificates: Certificates, module: _core.Module
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.files.take_up(context)
    before = shown(context)
    assert before == serial(certificates)
    assert certificates.renew_when_due(module, NAMES, BORN + LIFETIME)
    assert shown(context) == before  # a file is not enough
    certificates.files.take_up(context)
    assert shown(context) == serial(certificates) != before


def shown(context: ssl.SSLContext) -> int:
    """The serial number that a client of `context` sees, in memory."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for end in (client, server, client, server):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    der = client.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der).serial_number


def test_what_cannot_be_read_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=str(tmp_path)):
        Certificates.of(tmp_path).validity()


@pytest.mark.parametrize("years", [1, 5, 15])
def test_a_leaf_that_expired_long_ago_is_renewed(
    certificates: Certificates, module: _core.Module, years: int
) -> None:
    at = certificates.validity().ends + years * LIFETIME
    assert certificates.renew_when_due(module, NAMES, at)
    assert certificates.validity().ends == int(at) + LIFETIME


@pytest.mark.parametrize("missing", ["leaf.pem", "key.pem"])
def test_a_lost_key_or_leaf_is_made_anew(
    certificates: Certificates, module: _core.Module, missing: str
) -> None:
    before = serial(certificates)
    (certificates.path / missing).unlink()
    assert certificates.renew_when_due(module, NAMES, BORN)
    assert serial(certificates) != before
    certificates.files.take_up(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    assert not certificates.renew_when_due(module, NAMES, BORN)
