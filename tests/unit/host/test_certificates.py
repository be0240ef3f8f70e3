"""TLS leaves: when one is renewed, and that an expired one is."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from quorate import _core
from quorate.host.certificates import LIFETIME, Certificates
from quorate.ids import HUB

BEGAN = 1_700_000_000
YEAR = 365 * 86400


@pytest.fixture
def module(tmp_path: Path) -> Iterator[_core.Module]:
    operator = _core.Operator.create(
        tmp_path / "operator", region="us-east-1", account="000000000000", not_before=BEGAN
    )
    module = _core.Module.create(tmp_path / "module", HUB.value)
    module.pin(operator.fleet_info, operator.public_key)
    request = module.enrol_request_hub(zone="hub", address="127.0.0.1:1")
    _, authority = operator.approve_entry(request, not_before=BEGAN)
    Certificates(tmp_path / "tls").write(module, ["localhost"], authority, operator.tls_root)
    yield module
    module.close()


@pytest.fixture
def files(tmp_path: Path, module: _core.Module) -> Certificates:
    return Certificates(tmp_path / "tls")


def leaf(files: Certificates) -> x509.Certificate:
    return x509.load_pem_x509_certificate(files.files.cert_chain.read_bytes())


def test_a_fresh_leaf_is_kept_and_one_with_a_third_left_or_less_is_renewed(
    files: Certificates, module: _core.Module
) -> None:
    before = leaf(files)
    began, ends = before.not_valid_before_utc.timestamp(), before.not_valid_after_utc.timestamp()
    assert not files.renew_when_due(module, ["localhost"], began + 1)
    assert not files.renew_when_due(module, ["localhost"], ends - (ends - began) / 3 - 1)
    assert leaf(files) == before
    assert files.renew_when_due(module, ["localhost"], ends - (ends - began) / 3 + 1)
    assert leaf(files).serial_number != before.serial_number
    assert leaf(files).public_key() == before.public_key()


@pytest.mark.parametrize("years", [1, 5, 15])
def test_an_expired_leaf_is_renewed_by_the_module(
    files: Certificates, module: _core.Module, years: int
) -> None:
    at = leaf(files).not_valid_after_utc.timestamp() + years * YEAR
    assert files.renew_when_due(module, ["localhost"], at)
    assert leaf(files).not_valid_after_utc.timestamp() > at + LIFETIME - 7200


@pytest.mark.parametrize("missing", ["leaf.pem", "key.pem"])
def test_a_lost_key_or_leaf_is_made_anew(files: Certificates, module: _core.Module, missing: str) -> None:
    before = leaf(files)
    now = before.not_valid_before_utc.timestamp() + 1
    (files.path / missing).unlink()
    assert files.renew_when_due(module, ["localhost"], now)
    assert leaf(files).public_key() != before.public_key()
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.files.cert_chain, files.files.key)
    assert not files.renew_when_due(module, ["localhost"], now)
