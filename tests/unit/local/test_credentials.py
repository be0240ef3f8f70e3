"""What a client gets: `quorate env`, profiles, the CA bundle."""

import os
import subprocess
from pathlib import Path

import pytest

from quorate.errors import BadInput
from quorate.local.credentials import (
    client_environment,
    export_lines,
    write_ca_bundle,
    write_credentials,
    write_profile,
)
from quorate.local.layout import Layout
from quorate.local.operator import AccessPair, create_key
from quorate.local.shape import Shape, write_shape

SHAPE = Shape(nodes=5, threshold=3, port=4510, region="eu-central-1", account="000000000000")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout.at(tmp_path / "it's here")
    layout.data.mkdir()
    write_shape(layout, SHAPE)
    write_credentials(layout, AccessPair("AKIAEXAMPLE", "se/cr+et", "admin", "admin"))
    return layout


def test_env_has_the_contracts_lines_in_order(layout: Layout) -> None:
    assert export_lines(client_environment(layout)) == [
        "export AWS_ENDPOINT_URL_KMS='https://localhost:4510'",
        "export AWS_ENDPOINT_URL_STS='https://localhost:4510'",
        "export AWS_ACCESS_KEY_ID='AKIAEXAMPLE'",
        "export AWS_SECRET_ACCESS_KEY='se/cr+et'",
        "export AWS_DEFAULT_REGION='eu-central-1'",
        "export AWS_CA_BUNDLE='" + str(layout.ca_bundle).replace("'", "'\\''") + "'",
    ]


def test_a_shell_reads_back_what_env_means(layout: Layout) -> None:
    script = "\n".join([*export_lines(client_environment(layout)), 'printf %s "$AWS_CA_BUNDLE"'])
    assert subprocess.check_output(["sh", "-c", script], text=True) == str(layout.ca_bundle)


def test_the_credentials_are_for_their_owner_alone(layout: Layout) -> None:
    assert layout.credentials.stat().st_mode & 0o777 == 0o600


def test_the_pair_does_not_show_its_secret() -> None:
    assert "se/cr+et" not in repr(AccessPair("AKIAEXAMPLE", "se/cr+et", "admin", "admin"))


def test_env_before_a_first_up_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no finished fleet"):
        client_environment(Layout.at(tmp_path))


def test_a_profile_leaves_the_rest_of_the_files_alone(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials, config = tmp_path / "aws" / "creds", tmp_path / "aws" / "conf"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    credentials.parent.mkdir()
    mine = "# mine\n[work]\naws_access_key_id = A\naws_secret_access_key = B\n"
    credentials.write_text(mine + "[lab]\naws_access_key_id = old\n\n[other]\nx = y")
    config.write_text("[profile work]\nregion = us-west-2\ns3 =\n  max_queue_size = 5\n")
    for _ in range(2):  # a second time changes nothing
        assert write_profile(client_environment(layout), "lab") == (credentials, config)
    text = credentials.read_text()
    assert text.startswith(mine)
    assert "old" not in text
    assert "[other]\nx = y\n" in text
    assert text.count("[lab]") == 1
    assert config.read_text().startswith("[profile work]\nregion = us-west-2\ns3 =\n  max_queue_size = 5\n")

    session = pytest.importorskip("botocore.session").Session(profile="lab")
    assert session.get_credentials().secret_key == "se/cr+et"
    assert session.get_config_variable("region") == "eu-central-1"
    assert session.get_config_variable("ca_bundle") == str(layout.ca_bundle)
    assert session.create_client("kms").meta.endpoint_url == "https://localhost:4510"
    assert session.create_client("sts").meta.endpoint_url == "https://localhost:4510"


def test_the_bundle_holds_the_operators_root_and_the_systems(layout: Layout) -> None:
    import ssl

    key = create_key(layout.operator, region="us-east-1", account="000000000000")
    write_ca_bundle(layout, key.tls_root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(layout.ca_bundle)
    roots = context.get_ca_certs(binary_form=True)
    assert key.tls_root in roots
    system = ssl.get_default_verify_paths().cafile
    assert system is None or len(roots) > 1
