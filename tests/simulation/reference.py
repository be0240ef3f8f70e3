"""What must hold at every instant (docs/protocols/epoch-change.md, "Invariants"), seen from outside of every process.

Here: the durable shards of all honest vaults, which epochs are committed, what honest nodes have signed.
Not here: what happens (`world`), who does it (`schedule`).
"""

from typing import TYPE_CHECKING, Any

from quorate import _core
from quorate.ids import HUB, NodeId
from quorate.protocol.quorum import erase_quorum

from . import core

if TYPE_CHECKING:
    from .processes import Process
    from .world import World


class Reference:
    def __init__(self, world: "World") -> None:
        self._world = world
        self._durable: dict[NodeId, list[dict[str, Any]]] = {}
        self._generations: dict[NodeId, tuple[int, int]] = {}
        self._current: dict[NodeId, int] = {}
        self._floors: dict[NodeId, int] = {}
        """The highest epoch for which a node has signed `activated`."""
        self._constant: bytes | None = None
        self._thresholds: dict[tuple[int, bytes], int] = {}
        """Committed epochs, by number and configuration."""
        self._quorums: dict[tuple[int, bytes], int] = {}
        """How many indices must hold a committed epoch before earlier ones are erased."""
        self._activated: dict[bytes, set[int]] = {}
        """Who has said so, truly or not, by configuration."""
        self._numbers: dict[bytes, int] = {}
        """Of each plan, by its hash."""
        self._disputed: set[bytes] = set()
        """Configurations of which the hub has asked that something be opened."""
        self._done: dict[tuple[NodeId, str, int], bytes] = {}
        self._kems: dict[bytes, bytes] = {}
        """The plan that each KEM key was made for."""
        self._prepared: dict[bytes, set[int]] = {}
        """The indices of which honest nodes have said so, by configuration."""
        self._phases: dict[int, str] = {}
        self._served = 0
        """The hub's committed epoch."""
        self._forgot = False
        """The hub's database was an older copy once: it does not know of all that there was."""
        self._old_disks: set[NodeId] = set()

    @property
    def committed(self) -> int:
        return len(self._thresholds)

    @property
    def newest(self) -> tuple[int, bytes] | None:
        return max(self._thresholds, default=None)

    # What it is told.

    def said(self, name: NodeId, kind: str, fields: list[Any]) -> None:
        if kind == "epoch/activated":
            for receipt in map(_core.view, fields[1]):
                self._activated.setdefault(receipt["configuration"], set()).add(receipt["index"])
        if name in self._world.liars:
            return
        match kind:
            case "epoch/plan":
                plan = _core.view(fields[0])
                self._numbers[plan["hash"]] = plan["to_epoch"]
                if not self._world.hub_lies:
                    self._once(HUB, "plans", plan["to_epoch"], plan["hash"])
            case "epoch/commit" if not self._world.hub_lies:
                seen = _core.view(fields[0])
                if (seen["epoch"], seen["hash"]) not in self._thresholds:
                    self._world.violate(
                        "certified", f"the commit of epoch {seen['epoch']} is told, and not durable"
                    )
            case "epoch/dispute" if not self._world.hub_lies:
                self._dispute(_core.view(fields[1]))
            case "epoch/plan-keys":
                self._once(name, "answers a plan", self._numbers[fields[0]], fields[0])
                for key in map(_core.view, fields[1]):
                    if self._kems.setdefault(key["kem"], fields[0]) != fields[0]:
                        self._world.violate("fresh-keys", f"{name} has a KEM key in use for two plans")
            case "epoch/dealings":
                dealt = b"".join(dealing for dealing, _ in fields[1])
                self._once(name, "deals", self._numbers[fields[0]], dealt)
            case "epoch/prepared":
                for receipt in map(_core.view, fields[0]):
                    self._once(name, "prepares", receipt["epoch"], receipt["configuration"])
                    self._prepared.setdefault(receipt["configuration"], set()).add(receipt["index"])
            case "epoch/activated" if fields[1]:
                epoch = int(_core.view(fields[0])["epoch"])
                self._floors[name] = max(epoch, self._floors.get(name, 0))

    def noted(self, event: str, members: dict[str, Any]) -> None:
        """A line is in the hub's audit log."""
        if event != "verdict":
            return
        self._world.note(f"{members['convicted']} is convicted: {members['reason']}")
        if members["proven"] and NodeId(members["convicted"]) not in self._world.liars:
            self._world.violate("just", f"{members['convicted']} is convicted, and has not lied")

    def _dispute(self, complaint: dict[str, Any]) -> None:
        """Nothing is opened of an attempt that may yet be committed."""
        row = self._world.store.attempts.get((complaint["domain"], complaint["to_epoch"]))
        if row is None or row["phase"] != "aborted":
            self._world.violate("dead", f"epoch {complaint['to_epoch']} is disputed, and not aborted")
        self._disputed.add(complaint["configuration"])

    def _once(self, name: NodeId, what: str, number: int, for_: bytes) -> None:
        """What is done for a number is done once, for one plan: it is burnt."""
        if self._done.setdefault((name, what, number), for_) != for_:
            self._world.violate("once", f"{name} {what} twice for number {number}")

    def wrote(self, epoch: int, row: dict[str, Any]) -> None:
        """A row of the hub's database is durable."""
        self._world.note(f"the database: epoch {epoch} is {row['phase']} {row['reason']}")
        if row["phase"] in ("committed", "closed"):
            self._commit(bytes(row["configuration"]))
        before, self._phases[epoch] = self._phases.get(epoch), row["phase"]
        if row["phase"] == "committed":
            self._certified(epoch, row)
        elif row["phase"] == "closed" and before == "committed" and not self._forgot:
            self._retired(epoch)

    def serves(self, epoch: int) -> None:
        """The hub's committed epoch is this one."""
        if epoch < self._served:
            self._world.violate("no-way-back", f"the hub is in epoch {epoch}, and was in {self._served}")
        self._served = epoch

    def _retired(self, epoch: int) -> None:
        """Of what is called gone, nothing is left."""
        for name in self._durable.keys() - self._old_disks:
            held = [shard for shard in self._durable[name] if shard["state"] != "pending"]
            if any(shard["epoch"] < epoch for shard in held):
                self._world.violate("retired", f"epoch {epoch} is closed, and {name} has an older share")

    def _certified(self, epoch: int, row: dict[str, Any]) -> None:
        """A commit is decided on k + z receipts, and an honest one is of a share that is durable."""
        plan, receipts = _core.view(row["plan"]), [_core.view(each) for each in _core.decode(row["receipts"])]
        needed = plan["threshold"] + plan["margin"]
        if plan["purpose"] == "create":
            needed = max(needed, erase_quorum(len(plan["committee"]), plan["threshold"]))
        if len({receipt["index"] for receipt in receipts}) < needed:
            self._world.violate(
                "certified", f"epoch {epoch} is committed on {len(receipts)} of {needed} receipts"
            )
        for receipt in receipts:
            signer = NodeId(receipt["signer"])
            if signer in self._world.liars or signer in self._old_disks:
                continue
            if receipt["index"] not in self.durable(epoch, receipt["configuration"]):
                self._world.violate(
                    "certified", f"{signer} has signed for a share of epoch {epoch} that it has not"
                )

    def look(self, process: "Process") -> None:
        """A node's module may have written."""
        name, module = process.name, process.module
        if name == HUB or name in self._world.liars:
            return
        seen = (module.boot, module.generation)
        if module.failed or self._generations.get(name) != seen:
            self._generations[name] = seen
            settled = None if module.failed else core.settled_shards(module, process.disk)
            self.look_at(name, settled)
        for epoch in module.epochs():
            if epoch["state"] == "current":
                self._is_current(name, epoch)

    def look_at(self, name: NodeId, settled: list[dict[str, Any]] | None = None) -> None:
        """What a crash that loses every unsynced write would leave of a node now: `settled`, if all is synced."""
        if name in self._world.liars:
            return
        before = self._durable.get(name, [])
        found = core.durable_shards(self._world.media[name]) if settled is None else settled
        self._durable[name] = found
        held = {(shard["epoch"], shard["configuration"]) for shard in found}
        for shard in before:
            if shard["state"] != "pending" and (shard["epoch"], shard["configuration"]) not in held:
                self._erased(name, shard["epoch"])
        for shard in found:
            what = f"{name} holds index {shard['index']} of epoch {shard['epoch']}, {shard['state']}"
            if not shard["valid"]:
                self._world.violate("on-polynomial", what)
            if shard["state"] != "pending" or (shard["epoch"], shard["configuration"]) in self._thresholds:
                self._same_key(shard["constant"], what)
        self.check_enough()

    def rolled_back(self, name: NodeId) -> None:
        """What a node signed before its disk went back does not bind it any more."""
        self._old_disks.add(name)
        self._durable.pop(name, None)
        self._floors.pop(name, None)
        self._current.pop(name, None)
        self._generations.pop(name, None)
        self._done = {key: done for key, done in self._done.items() if key[0] != name}

    def hub_forgot(self) -> None:
        """Its database is an older copy, or it lied and does not know what it did."""
        self._forgot, self._served = True, 0
        self._phases.clear()
        self._done = {key: done for key, done in self._done.items() if key[0] != HUB}

    # What it concludes.

    def _erased(self, name: NodeId, epoch: int) -> None:
        """A share goes once enough indices have said that they hold a later one."""
        later = [each for each in self._thresholds if each[0] > epoch]
        if all(len(self._activated.get(each[1], ())) < self._quorums[each] for each in later):
            self._world.violate("two-locks", f"{name} has erased epoch {epoch}, and too few hold a later one")

    def _is_current(self, name: NodeId, epoch: dict[str, Any]) -> None:
        number = int(epoch["epoch"])
        least = max(self._current.get(name, 0), self._floors.get(name, 0))
        if number < least:
            self._world.violate("no-way-back", f"{name} is in epoch {number}, and was in {least}")
        self._current[name] = number
        if (number, epoch["configuration"]) not in self._thresholds:
            self._commit(epoch["statement"])

    def _commit(self, configuration: bytes) -> None:
        seen = _core.view(configuration)
        plan = _core.view(seen["plan"])
        if (seen["epoch"], seen["hash"]) in self._thresholds:
            return
        self._thresholds[seen["epoch"], seen["hash"]] = plan["threshold"]
        told = self._prepared.get(seen["hash"], set())
        faulty = self._world.liars | self._old_disks
        may_have = sum(s["index"] in told or NodeId(s["node"]) in faulty for s in plan["committee"])
        if may_have < plan["threshold"] + plan["margin"]:
            self._world.violate(
                "certified", f"epoch {seen['epoch']} is current somewhere, and {may_have} have prepared it"
            )
        self._quorums[seen["epoch"], seen["hash"]] = erase_quorum(len(plan["committee"]), plan["threshold"])
        self._same_key(_core.encode(seen["commitments"][0]), f"the configuration of epoch {seen['epoch']}")
        if seen["hash"] in self._disputed:
            self._world.violate("dead", f"epoch {seen['epoch']} was disputed, and is committed")
        self.check_enough()

    def _same_key(self, constant: bytes, what: str) -> None:
        if self._constant is None:
            self._constant = constant
        elif constant != self._constant:
            self._world.violate("same-key", f"{what}, commits to another key")

    def durable(self, epoch: int, configuration: bytes) -> dict[int, NodeId]:
        """The indices of an epoch with a valid durable shard at an honest node."""
        return {
            shard["index"]: name
            for name, shards in self._durable.items()
            for shard in shards
            if shard["valid"] and (shard["epoch"], shard["configuration"]) == (epoch, configuration)
        }

    def check_enough(self) -> None:
        if not self._thresholds:
            return
        if all(len(self.durable(*epoch)) < k for epoch, k in self._thresholds.items()):
            held = {epoch: sorted(self.durable(epoch, hash_)) for epoch, hash_ in self._thresholds}
            self._world.violate("enough", f"no committed epoch has k shards, honest nodes hold {held}")

    def answered(self, name: NodeId, epoch: int) -> None:
        """A node gave its share of this epoch away."""
        if epoch < self._floors.get(name, 0):
            self._world.violate("no-way-back", f"{name} gave a share of epoch {epoch} away")
