"""Members that lie: with their own keys, which is what a thief of a node has.

Here: what a liar says and leaves undone. Not here: a hub that lies (`evil`), how many may lie (`schedule`).
"""

import contextlib
from typing import Any

from quorate import _core
from quorate.ids import HUB, NodeId
from quorate.wire.links import LinkDown

from . import core
from .processes import Node

_CHOICES = {
    "epoch/plan": (
        "honest",
        "honest",
        "honest",
        "honest",
        "silent",
        "lie",
    ),
    "epoch/deal": ("honest", "silent", "lie", "lie", "lie"),
}


class Liar(Node):
    """At each message it does what an honest node does, or keeps silent, or lies; `world.lying` off: honest."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._thief = core.thief(self.world.media[self.name])
        self._spoil = ""
        self._claimed: dict[str, tuple[int, bytes]] = {}
        self._plan, self._keys = b"", list[bytes]()
        self._heard: list[bytes] = []
        """Dealings of others, whose commitments it passes off as its own."""

    def receive(self, sender: NodeId, kind: str, body: bytes) -> None:
        if self.world.deaf and kind == "epoch/deal":
            return
        if self._is_unfair(kind, body):
            return
        if not self.world.lying or not kind.startswith("epoch/"):
            super().receive(sender, kind, body)
            return
        choice = self.rng.choice(_CHOICES.get(kind, ("honest", "honest", "silent", "lie", "lie")))
        self.world.note(f"{self.name} is a liar: {choice}")
        fields = _core.decode(body)
        if kind in ("epoch/prepare", "epoch/commit"):
            self._heard = [bytes(dealing) for dealing in fields[-1 if kind == "epoch/commit" else 1]]
        if choice == "silent":
            return
        if choice == "honest" or kind == "epoch/abort":
            super().receive(sender, kind, body)
        elif kind == "epoch/deal":
            self._spoil = self.rng.choice(("sub-shares", "constant", "secret", "values", "order", "twice"))
            self._plan, self._keys = bytes(fields[0]), list(fields[2])
            super().receive(sender, kind, body)
        else:
            self._lie(kind, fields)

    def _is_unfair(self, kind: str, body: bytes) -> bool:
        """It takes part, but for one lie each time."""
        if kind == "epoch/prepare" and self.name in self.world.accusers:
            self._accuse(_core.decode(body))
            return True
        if kind == "epoch/dispute" and self.name in self.world.cheats:
            if self.rng.random() < 0.7:
                self._lie(kind, _core.decode(body))
            return True
        if kind == "epoch/deal" and self.name in self.world.cheats:
            self._spoil = "one"
            super().receive(HUB, kind, body)
            return True
        return False

    def says(self, kind: str, fields: list[Any]) -> list[Any]:
        if kind != "epoch/dealings" or not self._spoil:
            return fields
        how, self._spoil = self._spoil, ""
        plan_hash, made = fields
        return [plan_hash, [self._spoilt(how, bytes(dealing), list(sealed)) for dealing, sealed in made]]

    def _spoilt(self, how: str, dealing: bytes, sealed: list[bytes]) -> list[Any]:
        match how:
            case "sub-shares":
                there = [at for at, part in enumerate(sealed) if part]
                for at in self.rng.sample(there, self.rng.randint(1, len(there))):
                    sealed[at] = bytes(len(sealed[at]))
                return [self._thief.dealing(dealing, sealed), sealed]
            case "one":
                sealed[self.rng.choice([at for at, part in enumerate(sealed) if part])] = bytes(1200)
                return [self._thief.dealing(dealing, sealed), sealed]
            case "constant" if self._heard:
                other = self.rng.choice(self._heard)
                return [self._thief.dealing(dealing, sealed, other), sealed]
            case "secret" | "values":
                seed = self.rng.getrandbits(63)
                made, values = self._thief.deal_afresh(dealing, self._plan, self._keys, seed)
                return [made if how == "secret" else self._thief.dealing(dealing, values), values]
            case "order":
                sealed.reverse()
                return [self._thief.dealing(dealing, sealed), sealed]
        return [dealing, sealed[1:] + sealed[:1]]

    def claims(self) -> tuple[int, int, list[list[Any]]]:
        since, version, rows = super().claims()
        if self.world.lying and self._claimed:
            rows = [[domain, epoch, hash_, [], False] for domain, (epoch, hash_) in self._claimed.items()]
        return since, version, rows

    def _lie(self, kind: str, fields: list[Any]) -> None:
        match kind:
            case "epoch/plan":
                blamed = [self.rng.choice(self.world.names).value]
                plan_hash = _core.view(fields[0])["hash"]
                self._post(
                    "epoch/refused",
                    plan_hash,
                    "bad_state",
                    "it does not want to",
                    blamed[: self.rng.randint(0, 1)],
                )
            case "epoch/prepare" if self.rng.random() < 0.5:
                self._accuse(fields)
            case "epoch/dispute":
                self._post("epoch/opening", self._thief.opening(bytes(fields[1])))
            case "epoch/prepare":
                configuration = bytes(fields[0])
                self._post(
                    "epoch/prepared",
                    [self._thief.prepared(configuration, x) for x in self._own(configuration)],
                )
            case "epoch/commit":
                configuration = bytes(fields[0])
                receipts = [self._thief.activated(configuration, x) for x in self._own(configuration)]
                seen = _core.view(configuration)
                self._claimed[seen["domain"]] = (seen["epoch"], seen["hash"])
                self._post("epoch/activated", configuration, receipts)
            case "epoch/erase" if fields[0]:
                receipt = _core.view(fields[0][0])
                for epoch in self.module.epochs():
                    if epoch["configuration"] == receipt["configuration"]:
                        self._post("epoch/erased", self._thief.erased(epoch["statement"]))

    def _accuse(self, fields: list[Any]) -> None:
        """Of some of the dealers, whatever they dealt."""
        configuration, dealings = bytes(fields[0]), [bytes(dealing) for dealing in fields[1]]
        accused = self.rng.sample(dealings, self.rng.randint(1, len(dealings)))
        own = self._own(configuration)
        lies = [self._thief.complaint(configuration, dealing, x) for dealing in accused for x in own]
        self._post("epoch/complaint", lies)

    def _own(self, configuration: bytes) -> list[int]:
        plan = _core.view(_core.view(configuration)["plan"])
        return [seat["index"] for seat in plan["committee"] if seat["node"] == self.name.value]

    def _post(self, kind: str, *fields: object) -> None:
        with contextlib.suppress(LinkDown):
            self.port.post(HUB, kind, *fields)
