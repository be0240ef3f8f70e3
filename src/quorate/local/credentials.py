"""What a client of the fleet needs: the environment of `quorate env`, AWS profiles, the CA bundle.

Here: DATA/credentials (mode 0600), DATA/ca-bundle.pem, and the two files of the AWS command line, of which the
rest is kept as it is.
Not here: making an access key (`operator`).
"""

import os
import re
import shlex
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from quorate.errors import BadInput
from quorate.host.files import replace_file
from quorate.local.layout import Layout
from quorate.local.operator import AccessPair
from quorate.local.shape import read_shape

_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def write_credentials(layout: Layout, pair: AccessPair) -> None:
    text = (
        "# The admin access key that `quorate up` made. Format: AWS shared credentials file.\n"
        f"[default]\naws_access_key_id = {pair.access_key_id}\n"
        f"aws_secret_access_key = {pair.secret_access_key}\n"
    )
    replace_file(layout.credentials, text.encode(), mode=0o600)


def read_credentials(layout: Layout) -> tuple[str, str] | None:
    """(access key id, secret access key), None when there is no file. Raises `BadInput`."""
    try:
        text = layout.credentials.read_text()
    except FileNotFoundError:
        return None
    found = dict(re.findall(r"^(aws_\w+)\s*=\s*(\S+)\s*$", text, re.MULTILINE))
    try:
        return found["aws_access_key_id"], found["aws_secret_access_key"]
    except KeyError as why:
        raise BadInput(
            f"{layout.credentials} lacks {why}",
            remedy="remove the file and run `quorate up`, which makes a new access key",
        ) from why


def write_ca_bundle(layout: Layout, operator_root: bytes) -> None:
    """The operator's root (DER), and the system's roots, so that other services stay reachable with it."""
    parts = [f"# Quorate's operator root\n{ssl.DER_cert_to_PEM_cert(operator_root)}"]
    default = ssl.get_default_verify_paths().cafile
    for path in ([default] if default else []) + list(_SYSTEM_ROOTS):
        if Path(path).is_file():
            parts.append(f"# {path}\n{Path(path).read_text(errors='replace')}")
            break
    replace_file(layout.ca_bundle, "\n".join(parts).encode(), mode=0o644)


def client_environment(layout: Layout) -> dict[str, str]:
    """The variables of `quorate env`, in its order. Raises `BadInput` before a first `up`."""
    shape, pair = read_shape(layout), read_credentials(layout)
    if shape is None or pair is None:
        raise BadInput(
            f"{layout.data} holds no finished fleet",
            remedy="run `quorate up` first, or point --data at its directory",
        )
    url = f"https://localhost:{shape.port}"
    return {
        "AWS_ENDPOINT_URL_KMS": url,
        "AWS_ENDPOINT_URL_STS": url,
        "AWS_ACCESS_KEY_ID": pair[0],
        "AWS_SECRET_ACCESS_KEY": pair[1],
        "AWS_DEFAULT_REGION": shape.region,
        "AWS_CA_BUNDLE": str(layout.ca_bundle),
    }


def export_lines(environment: Mapping[str, str]) -> list[str]:
    """`export NAME='value'`, quoted for a POSIX shell."""
    quoted = {name: "'" + value.replace("'", "'\\''") + "'" for name, value in environment.items()}
    return [f"export {name}={value}" for name, value in quoted.items()]


def write_profile(environment: Mapping[str, str], profile: str) -> tuple[Path, Path]:
    """Puts the client's settings into the AWS files under `profile`; returns their paths.

    Other sections, comments and order are kept; an earlier section of this name is replaced.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", profile):
        raise BadInput(f"{profile!r} is no profile name", remedy="use letters, digits, '-', '_' and '.'")
    home = Path.home() / ".aws"
    credentials = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials").expanduser()
    config = Path(os.environ.get("AWS_CONFIG_FILE") or home / "config").expanduser()
    _replace_sections(
        credentials,
        {
            profile: [
                f"aws_access_key_id = {environment['AWS_ACCESS_KEY_ID']}",
                f"aws_secret_access_key = {environment['AWS_SECRET_ACCESS_KEY']}",
            ]
        },
        mode=0o600,
    )
    services = f"services {profile}-quorate"
    _replace_sections(
        config,
        {
            "default" if profile == "default" else f"profile {profile}": [
                f"region = {environment['AWS_DEFAULT_REGION']}",
                f"ca_bundle = {environment['AWS_CA_BUNDLE']}",
                f"services = {profile}-quorate",
            ],
            services: [
                f"kms =\n  endpoint_url = {environment['AWS_ENDPOINT_URL_KMS']}",
                f"sts =\n  endpoint_url = {environment['AWS_ENDPOINT_URL_STS']}",
            ],
        },
        mode=0o600,
    )
    return credentials, config


def _replace_sections(path: Path, sections: Mapping[str, Sequence[str]], *, mode: int) -> None:
    """Each section of the INI file `path` becomes these lines; all others stay as they are, byte for byte."""
    path = path.resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else ""
    kept: list[str] = []
    dropping = False
    for line in before.splitlines(keepends=True):
        header = re.match(r"\[\s*([^\]]+?)\s*\]", line)
        if header:
            dropping = " ".join(header[1].split()) in sections
        if not dropping:
            kept.append(line)
    text = "".join(kept)
    if text and not text.endswith("\n"):
        text += "\n"
    for name, lines in sections.items():
        text += ("\n" if text else "") + f"[{name}]\n" + "\n".join(lines) + "\n"
    if path.exists():
        mode = path.stat().st_mode & 0o777
    replace_file(path, text.encode(), mode=mode)


def shell_hint(layout: Layout) -> str:
    """The command that puts the client's environment into a shell."""
    return f'eval "$(quorate env --data {shlex.quote(str(layout.data))})"'
