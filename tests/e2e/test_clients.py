"""Clients as they come: SDKs in threads and processes, and those that are slow, rude or wrong. Only sockets and SDKs
here; the numbers are those of docs/clients.md.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import aws_encryption_sdk
import boto3
import pytest
from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
from aws_cryptographic_material_providers.mpl.models import (
    CreateAwsKmsKeyringInput,
    CreateDefaultCryptographicMaterialsManagerInput,
    CreateRequiredEncryptionContextCMMInput,
)
from aws_encryption_sdk.exceptions import AWSEncryptionSDKClientError
from aws_encryption_sdk.identifiers import Algorithm, CommitmentPolicy
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSHTTPSConnection, AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from tests.e2e.fleet import Fleet, until

HEADER_SECONDS = BODY_SECONDS = WRITE_SECONDS = 10
HALF_OPEN = 256
SLACK_SECONDS = 5
"""For noticing it, for the end of TLS, and for a slow machine."""
BIG = 32_000
"""Bytes of the longest description of a key."""
AS_ADVISED = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard"})
"""docs/clients.md. A handshake under way may be the oldest of a flood, and give way; the SDK begins another."""
GROWTH = 16 << 20
"""Bytes by which a node may grow while it is ill-treated."""
A_HANDSHAKE = 160 << 10
"""Bytes of a handshake that has begun: TLS's state and buffers."""


@pytest.fixture(scope="module")
def kms(own_fleet: Fleet) -> Any:
    return own_fleet.client()


@pytest.fixture(scope="module")
def key(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["Arn"])


class Nodes:
    """What the operating system tells of the nodes' processes."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.pids = [fleet.run_of(f"node-{number}")["pid"] for number in range(1, 6)]

    def files(self) -> list[int]:
        """How many files each has open."""
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.pids]

    def memory(self) -> list[int]:
        """Bytes that each has in memory."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids]
        return [count * os.sysconf("SC_PAGE_SIZE") for count in pages]

    def until_files(self, before: list[int]) -> None:
        until(
            lambda: all(now <= then for now, then in zip(self.files(), before, strict=True)),
            what=f"open files {before}",
        )

    def assert_well(self) -> None:
        """The same processes are ready, and no log tells of an exception."""
        assert {node["state"] for node in self._fleet.status()["nodes"]} == {"ready"}
        assert [self._fleet.run_of(f"node-{number}")["pid"] for number in range(1, 6)] == self.pids
        for log in (self._fleet.data / "logs").glob("node-*.log*"):
            assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


@pytest.fixture(scope="module")
def nodes(own_fleet: Fleet, endpoint: "Endpoint", key: str) -> Nodes:
    for _ in range(20):  # each has met a client
        with endpoint.tls() as sock:
            sock.sendall(endpoint.signed("GenerateDataKey", KeyId=key, KeySpec="AES_256"))
            assert answer(sock.makefile("rb"))
    return Nodes(own_fleet)


class Endpoint:
    """The KMS port, without an SDK."""

    def __init__(self, fleet: Fleet) -> None:
        self._env = fleet.env
        url = urlsplit(self._env["AWS_ENDPOINT_URL_KMS"])
        assert url.hostname and url.port
        self.address = (url.hostname, url.port)
        self.host = url.netloc
        self._context = ssl.create_default_context(cafile=self._env["AWS_CA_BUNDLE"])

    @contextlib.contextmanager
    def tcp(self, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        with socket.socket() as plain:
            if receive_buffer is not None:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            plain.settimeout(HEADER_SECONDS + SLACK_SECONDS)
            plain.connect(self.address)
            yield plain

    @contextlib.contextmanager
    def tls(self, receive_buffer: int | None = None) -> Iterator[ssl.SSLSocket]:
        with (
            self.tcp(receive_buffer) as plain,
            self._context.wrap_socket(plain, server_hostname=self.address[0]) as secured,
        ):
            yield secured

    def signed(self, operation: str, **members: Any) -> bytes:
        """A request as botocore signs it."""
        body = json.dumps(members).encode()
        head = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"TrentService.{operation}"}
        request = AWSRequest("POST", f"https://{self.host}/", {**head, "Host": self.host}, body)
        keys = Credentials(self._env["AWS_ACCESS_KEY_ID"], self._env["AWS_SECRET_ACCESS_KEY"])
        SigV4Auth(keys, "kms", self._env["AWS_DEFAULT_REGION"]).add_auth(request)
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        head_lines = ["POST / HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""]
        return "\r\n".join(head_lines).encode() + body


@pytest.fixture(scope="module")
def endpoint(own_fleet: Fleet) -> Endpoint:
    return Endpoint(own_fleet)


def answer(stream: BinaryIO) -> tuple[int, dict[str, str], bytes] | None:
    """Status, header fields and body of the next answer; None when the server has ended the connection."""
    try:
        first = stream.readline()
        if not first:
            return None
        fields = {}
        while (line := stream.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        return int(first.split()[1]), fields, stream.read(int(fields["content-length"]))
    except ConnectionError:
        return None


# SDKs


@pytest.fixture
def environment(own_fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `quorate env` prints, and nothing else of AWS's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in own_fleet.env.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
class TestEncryptionSdk:
    """aws-encryption-sdk, with nothing but the variables of `quorate env`."""

    CONTEXT = {"tenant": "17", "purpose": "invoices"}  # noqa: RUF012

    def required(self, key: str, kms: Any) -> Any:
        """A materials manager for which `tenant` is required, and not stored in the message."""
        providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
        keyring = providers.create_aws_kms_keyring(CreateAwsKmsKeyringInput(kms_key_id=key, kms_client=kms))
        plain = providers.create_default_cryptographic_materials_manager(
            CreateDefaultCryptographicMaterialsManagerInput(keyring=keyring)
        )
        return providers.create_required_encryption_context_cmm(
            CreateRequiredEncryptionContextCMMInput(
                required_encryption_context_keys=["tenant"], underlying_cmm=plain
            )
        )

    def test_a_file_comes_back_only_with_the_context_that_it_was_encrypted_with(
        self, key: str, tmp_path: Path
    ) -> None:
        client = aws_encryption_sdk.EncryptionSDKClient()
        kms, refusals = boto3.client("kms"), []
        kms.meta.events.register(
            "after-call.kms.Decrypt",
            lambda parsed, **_: refusals.extend([parsed["Error"]["Code"]] if "Error" in parsed else []),
        )
        manager = self.required(key, kms)
        plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
        plain.write_bytes(random.Random(17).randbytes(100_000))

        def through(mode: str, source: Path, target: Path, context: dict[str, str]) -> None:
            with (
                source.open("rb") as read,
                target.open("wb") as written,
                client.stream(
                    mode=mode, source=read, materials_manager=manager, encryption_context=context
                ) as stream,
            ):
                for chunk in stream:
                    written.write(chunk)

        through("encrypt", plain, sealed, self.CONTEXT)
        assert b"invoices" in sealed.read_bytes()
        assert b"tenant" not in sealed.read_bytes()
        through("decrypt", sealed, opened, self.CONTEXT)
        assert opened.read_bytes() == plain.read_bytes()
        through("decrypt", sealed, opened, {"tenant": "17"})  # the message holds the rest
        assert opened.read_bytes() == plain.read_bytes()

        with pytest.raises(AWSEncryptionSDKClientError, match="No Configured KMS Key"):
            through("decrypt", sealed, opened, {"tenant": "18"})
        assert refusals == ["InvalidCiphertextException"]
        assert opened.read_bytes() == b""
        for context in ({"tenant": "17", "purpose": "other"}, {"purpose": "invoices"}, {}):
            with pytest.raises(AWSEncryptionSDKClientError, match=r"(?i)encryption context"):
                through("decrypt", sealed, opened, context)
            assert opened.read_bytes() == b""

    def test_messages_commit_to_their_key_by_default(self, key: str) -> None:
        client = aws_encryption_sdk.EncryptionSDKClient()
        provider = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key])
        sealed, header = client.encrypt(source=b"x" * 5000, key_provider=provider)
        assert header.algorithm is Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY_ECDSA_P384
        assert client.decrypt(source=sealed, key_provider=provider)[0] == b"x" * 5000
        lenient = aws_encryption_sdk.EncryptionSDKClient(
            commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT
        )
        old, _ = lenient.encrypt(source=b"x", key_provider=provider)
        assert lenient.decrypt(source=old, key_provider=provider)[0] == b"x"
        with pytest.raises(AWSEncryptionSDKClientError, match="requiring only committed messages"):
            client.decrypt(source=old, key_provider=provider)

    def test_cached_materials_spare_calls(self, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[str] = []
        made = boto3.session.Session.client

        def counted(*args: Any, **options: Any) -> Any:
            client = made(*args, **options)
            client.meta.events.register("before-call.kms", lambda model, **_: calls.append(model.name))
            return client

        monkeypatch.setattr(boto3.session.Session, "client", counted)
        client = aws_encryption_sdk.EncryptionSDKClient()
        manager = aws_encryption_sdk.CachingCryptoMaterialsManager(
            master_key_provider=aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key]),
            cache=aws_encryption_sdk.LocalCryptoMaterialsCache(10),
            max_age=60.0,
            max_messages_encrypted=5,
        )
        sealed = [
            client.encrypt(source=b"%d" % n, materials_manager=manager, encryption_context={"a": "b"})[0]
            for n in range(10)
        ]
        assert calls == ["GenerateDataKey"] * 2
        opened = [client.decrypt(source=blob, materials_manager=manager)[0] for blob in sealed]
        assert opened == [b"%d" % n for n in range(10)]
        assert calls == ["GenerateDataKey"] * 2 + ["Decrypt"] * 2


def mixed(kms: Any, key: str, seed: int, rounds: int) -> list[str]:
    """What went wrong in `rounds` rounds of five calls."""
    chance = random.Random(seed)
    wrong = []
    for number in range(rounds):
        text, context = chance.randbytes(chance.randrange(1, 4096)), {"seed": str(seed), "n": str(number)}
        try:
            blob = kms.encrypt(KeyId=key, Plaintext=text, EncryptionContext=context)["CiphertextBlob"]
            made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
            for ciphertext, plain in ((blob, text), (made["CiphertextBlob"], made["Plaintext"])):
                got = kms.decrypt(CiphertextBlob=ciphertext, EncryptionContext=context)
                if (got["Plaintext"], got["KeyId"]) != (plain, key):
                    wrong.append(f"seed {seed}, round {number}: another plaintext")
            with contextlib.suppress(kms.exceptions.InvalidCiphertextException):
                kms.decrypt(CiphertextBlob=blob, EncryptionContext={**context, "n": "other"})
                wrong.append(f"seed {seed}, round {number}: opened with another context")
        except Exception as why:
            wrong.append(f"seed {seed}, round {number}: {why!r}")
    return wrong


def in_a_process(env: dict[str, str], key: str, seed: int, rounds: int) -> list[str]:
    os.environ.update(env)
    return mixed(boto3.client("kms", config=Config(retries={"total_max_attempts": 1})), key, seed, rounds)


def test_eight_threads_share_a_client(own_fleet: Fleet, key: str) -> None:
    shared = own_fleet.client(
        config=Config(retries={"total_max_attempts": 1}, read_timeout=10, max_pool_connections=8)
    )
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda seed: mixed(shared, key, seed, 10), range(8)))
    assert results == [[]] * 8


def test_four_processes_work_at_once(own_fleet: Fleet, key: str) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(in_a_process, own_fleet.env, key, 100 + n, 10) for n in range(4)]
        assert [run.result(timeout=60) for run in runs] == [[]] * 4


# Connections


def test_calls_in_a_row_use_one_connection(
    own_fleet: Fleet, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[AWSHTTPSConnection] = []
    connect = AWSHTTPSConnection.connect

    def counted(self: AWSHTTPSConnection) -> None:
        opened.append(self)
        connect(self)

    monkeypatch.setattr(AWSHTTPSConnection, "connect", counted)
    client = own_fleet.client()
    for _ in range(50):
        client.generate_data_key(KeyId=key, KeySpec="AES_256")
    with contextlib.suppress(client.exceptions.InvalidCiphertextException):
        client.decrypt(CiphertextBlob=b"nonsense")  # a refusal does not end it either
    client.encrypt(KeyId=key, Plaintext=b"x")
    assert len(opened) == 1


def test_connections_that_come_and_go_leave_nothing(endpoint: Endpoint, nodes: Nodes) -> None:
    before = nodes.files()

    def one(_: int) -> int:
        with endpoint.tls() as sock:
            sock.sendall(endpoint.signed("GenerateRandom", NumberOfBytes=16))
            found = answer(sock.makefile("rb"))
            assert found is not None
            return found[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(300))) == [200] * 300
    nodes.until_files(before)


def test_n76_a_pipelined_request_is_not_run_and_the_one_before_it_is_answered(
    endpoint: Endpoint, kms: Any, key: str
) -> None:
    blob = endpoint.signed("DescribeKey", KeyId=key)
    second = endpoint.signed("CreateAlias", AliasName="alias/pipelined", TargetKeyId=key)
    for after in (second, b"\0nonsense\r\n\r\n", second[:40]):
        with endpoint.tls() as sock:
            sock.sendall(blob + after)
            stream = sock.makefile("rb")
            found = answer(stream)
            assert found is not None
            status, fields, body = found
            assert (status, json.loads(body)["KeyMetadata"]["Arn"]) == (200, key)
            assert fields["connection"] == "close"
            assert answer(stream) is None
    assert kms.list_aliases()["Aliases"] == []
    with endpoint.tls() as sock:  # one after the other is no pipelining
        stream = sock.makefile("rb")
        for request, expected in ((blob, 200), (second, 200), (blob, 200)):
            sock.sendall(request)
            found = answer(stream)
            assert found is not None
            assert found[0] == expected
    kms.delete_alias(AliasName="alias/pipelined")


# Slow clients, and too many of them


class Slow:
    """Each method is one client that the server must end; it returns what came, and when the end came (seconds)."""

    def __init__(self, endpoint: Endpoint, big: str) -> None:
        """`big`: a key whose description has `BIG` bytes."""
        self._endpoint = endpoint
        self._request = endpoint.signed("DescribeKey", KeyId=big)

    def never_starts_tls(self) -> tuple[bytes, float]:
        with self._endpoint.tcp() as sock:
            return _drain(sock)

    def stops_in_the_handshake(self) -> tuple[bytes, float]:
        with self._endpoint.tcp() as sock:
            sock.sendall(bytes.fromhex("16030100c8010000c40303"))
            return _drain(sock)

    def sends_nothing(self) -> tuple[bytes, float]:
        with self._endpoint.tls() as sock:
            return _drain(sock)

    def sends_its_header_slowly(self) -> tuple[bytes, float]:
        with self._endpoint.tls() as sock:
            return _drain(sock, self._endpoint.signed("ListKeys"))

    def sends_half_of_a_later_header(self) -> tuple[bytes, float]:
        request = self._endpoint.signed("ListKeys")
        with self._endpoint.tls() as sock:
            sock.sendall(request)
            found = answer(sock.makefile("rb"))
            assert found is not None and found[0] == 200
            sock.sendall(request[:100])
            return _drain(sock)

    def sends_half_a_body(self) -> tuple[bytes, float]:
        with self._endpoint.tls() as sock:
            sock.sendall(self._endpoint.signed("ListKeys", Marker="x" * 1000)[:-500])
            return _drain(sock)

    def sends_no_body(self) -> tuple[bytes, float]:
        head, _, _ = self._endpoint.signed("ListKeys").partition(b"\r\n\r\n")
        with self._endpoint.tls() as sock:
            sock.sendall(head + b"\r\n\r\n")
            return _drain(sock)

    def sends_its_body_slowly(self) -> tuple[bytes, float]:
        head, _, body = self._endpoint.signed("ListKeys", Marker="x" * 1000).partition(b"\r\n\r\n")
        with self._endpoint.tls() as sock:
            sock.sendall(head + b"\r\n\r\n")
            return _drain(sock, body)

    def sends_an_unasked_body_slowly(self) -> tuple[bytes, float]:
        with self._endpoint.tls() as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
            return _drain(sock, b"x" * 1000)

    def never_reads(self) -> tuple[bytes, float]:
        with self._endpoint.tls(receive_buffer=4096) as sock:
            self._fill(sock)
            begun, port = time.monotonic(), sock.getsockname()[1]
            until(lambda: queued(port) is None, WRITE_SECONDS + SLACK_SECONDS, what="the end")
            return b"", time.monotonic() - begun

    def _fill(self, sock: socket.socket) -> None:
        """Asks again each time that the kernel has the whole of the last answer, until it takes no more."""
        port, held = sock.getsockname()[1], 0
        for _ in range(1000):
            sock.sendall(self._request)
            grown = time.monotonic() + 1.0
            while (now := queued(port)) is not None and now < held + BIG and time.monotonic() < grown:
                select.select([], [], [], 0.002)
            if now is None or now < held + BIG:  # dropped meanwhile, or full
                return
            held = now
        pytest.fail("the kernel took everything")


def queued(port: int) -> int | None:
    """Bytes for the client at `port` that the kernel holds; None when the server has dropped the connection."""
    waiting = {}
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues = row.split()[:5]
        sent, received = (int(queue, 16) for queue in queues.split(":"))
        if state == "01" and int(local.split(":")[1], 16) == port:
            waiting["client"] = received
        elif state == "01" and int(remote.split(":")[1], 16) == port:
            waiting["server"] = sent
    return sum(waiting.values()) if len(waiting) == 2 else None


def _drain(sock: socket.socket, slowly: bytes = b"") -> tuple[bytes, float]:
    """Sends `slowly` a byte each half second, and reads; until the server ends it."""
    begun, got, left = time.monotonic(), b"", iter(slowly)
    sock.settimeout(0.5 if slowly else HEADER_SECONDS + SLACK_SECONDS)
    while time.monotonic() - begun < HEADER_SECONDS + SLACK_SECONDS:
        try:
            if slowly:
                sock.sendall(bytes([next(left)]))
            more = sock.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        if not more:
            break
        got += more
    return got, time.monotonic() - begun


def meanwhile(kms: Any, key: str, bad: list[Future[Any]]) -> int:
    """How many calls of a good client came through while the others were at it, each within 2 s."""
    calls = 0
    while wait(bad, timeout=0.05).not_done:
        begun = time.monotonic()
        blob = kms.encrypt(KeyId=key, Plaintext=b"good")["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"good"
        assert time.monotonic() - begun < 2.0
        calls += 1
    return calls


def test_n62_slow_clients_are_cut_off_and_others_notice_nothing(
    own_fleet: Fleet, endpoint: Endpoint, nodes: Nodes, kms: Any, key: str
) -> None:
    big = kms.create_key(Description="\N{GRINNING FACE}" * (BIG // 4))["KeyMetadata"]["Arn"]
    slow = Slow(endpoint, big)
    kinds: dict[str, tuple[Callable[[], tuple[bytes, float]], int, int]] = {
        "never starts TLS": (slow.never_starts_tls, 0, 20),
        "stops in the handshake": (slow.stops_in_the_handshake, 0, 5),
        "sends nothing": (slow.sends_nothing, 0, 20),
        "sends its header slowly": (slow.sends_its_header_slowly, 0, 5),
        "sends half of a later header": (slow.sends_half_of_a_later_header, 0, 5),
        "sends half a body": (slow.sends_half_a_body, 408, 5),
        "sends no body": (slow.sends_no_body, 408, 5),
        "sends its body slowly": (slow.sends_its_body_slowly, 408, 5),
        "sends an unasked body slowly": (slow.sends_an_unasked_body_slowly, 408, 5),
        "never reads": (slow.never_reads, 0, 3),
    }
    files, memory = nodes.files(), nodes.memory()
    with ThreadPoolExecutor(sum(count for _, _, count in kinds.values())) as pool:
        runs = {
            what: [pool.submit(client) for _ in range(count)] for what, (client, _, count) in kinds.items()
        }
        calls = meanwhile(own_fleet.client(), key, list(itertools.chain(*runs.values())))
        grown = [now - then for now, then in zip(nodes.memory(), memory, strict=True)]
    for what, (_, status, _) in kinds.items():
        for got, seconds in (run.result() for run in runs[what]):
            assert seconds < HEADER_SECONDS + SLACK_SECONDS, what
            assert got.startswith(b"HTTP/1.1 %d " % status if status else b""), (what, got)
            assert bool(got) == bool(status), (what, got)
    assert calls > 20
    assert max(grown) < GROWTH
    nodes.until_files(files)
    nodes.assert_well()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Leave for this process to open thousands."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_n62_the_oldest_of_too_many_half_open_connections_gives_way(
    own_fleet: Fleet, endpoint: Endpoint, nodes: Nodes, key: str
) -> None:
    files, memory = nodes.files(), nodes.memory()
    with contextlib.ExitStack() as held, ThreadPoolExecutor(1) as pool:

        def flood() -> list[socket.socket]:
            return [held.enter_context(endpoint.tcp()) for _ in range(2 * 5 * HALF_OPEN)]

        flooding = pool.submit(flood)
        assert meanwhile(own_fleet.client(config=AS_ADVISED), key, [flooding]) > 0
        for _ in range(10):  # new connections, too
            begun = time.monotonic()
            own_fleet.client(config=AS_ADVISED).encrypt(KeyId=key, Plaintext=b"good")
            assert time.monotonic() - begun < 2.0
        held_by_nodes = [now - then for now, then in zip(nodes.files(), files, strict=True)]
        assert max(held_by_nodes) < HALF_OPEN + 20, held_by_nodes
        grown = [now - then for now, then in zip(nodes.memory(), memory, strict=True)]
        assert max(grown) < HALF_OPEN * A_HANDSHAKE, grown
    nodes.until_files(files)
    nodes.assert_well()


# Wrong clients

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
WRONG: dict[str, tuple[bytes, int]] = {
    "no method": (b" / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an unknown method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no target": (b"POST HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 403),
    "a target that is no ASCII": (b"POST /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no HTTP": (b"\x00\x01\x02\x03" * 20, 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 403),
    "HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 403),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400),
    "HTTP/9.9": (b"POST / HTTP/9.9\r\nHost: a\r\n\r\n", 400),
    "a folded header": (HEAD + b"X: a\r\n b\r\n\r\n", 400),
    "a header without a colon": (HEAD + b"nonsense\r\n\r\n", 400),
    "a space before the colon": (HEAD + b"Content-Length : 0\r\n\r\n", 400),
    "a zero byte in a header": (HEAD + b"X: a\x00b\r\n\r\n", 400),
    "a length that is no number": (HEAD + b"Content-Length: ten\r\n\r\n", 400),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "a huge length": (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "a length above the limit": (HEAD + b"Content-Length: 200000\r\n\r\n", 413),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "length and chunks": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "an encoding that is not chunked": (HEAD + b"Transfer-Encoding: gzip\r\n\r\nabc", 400),
    "a chunk's size that is no number": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n", 400),
    "a chunk longer than it says": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nabcdef\r\n", 400),
    "a body in chunks above the limit": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n%s\r\n" % (b"x" * 0x8000) * 5,
        413,
    ),
    "Upgrade to h2c": (
        HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        403,
    ),
    "Upgrade to h2c with a body": (
        HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}more",
        403,
    ),
    "Upgrade to WebSocket": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n\x81\x00",
        403,
    ),
    "a header of 1 MiB that does not end": (HEAD + b"X: " + b"x" * (1 << 20), 431),
    "a target of 1 MiB": (b"POST /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
    "101 headers": (HEAD + b"X: y\r\n" * 100 + b"\r\n", 431),
    "100 headers": (HEAD + b"X: y\r\n" * 98 + b"Connection: close\r\n\r\n", 403),
    "10,000 headers": (HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(10_000)) + b"\r\n", 431),
    "5,000 requests at once": (b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 5000, 200),
}


def test_n76_wrong_http_is_refused_and_nothing_breaks(endpoint: Endpoint, nodes: Nodes) -> None:
    """Each has one answer, which ends the connection."""
    before, memory = nodes.files(), nodes.memory()
    for what, (request, status) in WRONG.items():
        begun = time.monotonic()
        with endpoint.tls() as sock:
            sock.sendall(request)
            sock.settimeout(5)
            stream = sock.makefile("rb")
            found = answer(stream)
            assert found is not None, what
            assert found[0] == status, (what, found)
            assert answer(stream) is None, what
        assert time.monotonic() - begun < 5, what
    assert max(now - then for now, then in zip(nodes.memory(), memory, strict=True)) < GROWTH
    nodes.until_files(before)
    nodes.assert_well()


def test_n70_a_trailer_is_no_header(endpoint: Endpoint, kms: Any, key: str) -> None:
    """A field after a body in chunks is not what was signed as a header."""
    head, _, body = endpoint.signed("DescribeKey", KeyId=key).partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not re.match(rb"(?i)content-length|x-amz-date", line)]
    date = re.search(rb"(?i)x-amz-date: .*?\r\n", head)
    assert date is not None
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    start = b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b""])
    for request, expected in (
        (start + date[0] + b"\r\n" + chunks + b"\r\n", 200),
        (start + b"\r\n" + chunks + date[0] + b"\r\n", 403),
    ):
        with endpoint.tls() as sock:
            sock.sendall(request)
            found = answer(sock.makefile("rb"))
            assert found is not None
            assert found[0] == expected, found


def test_a_client_that_gives_up_in_the_middle_leaves_nothing(
    endpoint: Endpoint, nodes: Nodes, key: str
) -> None:
    before = nodes.files()
    request = endpoint.signed("GenerateDataKey", KeyId=key, KeySpec="AES_256")
    for length in (0, 1, 20, len(request) // 2, len(request) - 1, len(request)):
        with endpoint.tls() as sock:
            sock.sendall(request[:length])
    nodes.until_files(before)
    nodes.assert_well()
