"""Operations on aliases: create, delete, list. An alias is a name for a key, and names one key at a time.

Not here: how a request's alias finds its key (operation.py).
"""

from __future__ import annotations

import re
from typing import Any

from quorate.kms import errors, paging
from quorate.kms.operation import Context, Operation, find_key, require_not_pending
from quorate.kms.validation import Check, Request, decoder

_NAME = re.compile(r"^[a-zA-Z0-9:/_-]+$")


class CreateAliasRequest(Request, frozen=True):
    alias_name: str | None = None
    target_key_id: str | None = None


class DeleteAliasRequest(Request, frozen=True):
    alias_name: str | None = None


class ListAliasesRequest(Request, frozen=True):
    key_id: str | None = None
    limit: int | None = None
    marker: str | None = None


async def _create_alias(context: Context, request: CreateAliasRequest) -> None:
    check = Check()
    _check_name(check, request.alias_name)
    check.key_reference("targetKeyId", request.target_key_id)
    check.done()
    name = _own_name(request.alias_name or "")
    key = await find_key(context, request.target_key_id or "", aliases=False)
    require_not_pending(context, key)
    await context.backend.create_alias(context.call, name, key.key_id)


async def _delete_alias(context: Context, request: DeleteAliasRequest) -> None:
    check = Check()
    _check_name(check, request.alias_name)
    check.done()
    name = _own_name(request.alias_name or "")
    context.call.key_id = await context.backend.resolve_alias(name) or ""
    await context.backend.delete_alias(context.call, name)


async def _list_aliases(context: Context, request: ListAliasesRequest) -> dict[str, Any]:
    check = Check()
    check.key_reference("keyId", request.key_id, needed=False)
    check.between("limit", request.limit, 1, 100)
    check.length("marker", request.marker, 1, 1024)
    check.done()
    limit = request.limit or 50
    key_id = None
    if request.key_id is not None:
        key_id = (await find_key(context, request.key_id, aliases=False)).key_id
    found = await context.backend.list_aliases(key_id, paging.after(request.marker), limit + 1)
    last = found[limit - 1].name if len(found) > limit else ""
    shown, members = paging.page(found, limit, last)
    return {"Aliases": [{"AliasName": alias.name, "AliasArn": context.arn_prefix + alias.name,
                         "TargetKeyId": alias.key_id, "CreationDate": alias.created, "LastUpdatedDate": alias.updated}
                        for alias in shown], **members}


def _check_name(check: Check, name: str | None) -> None:
    check.required("aliasName", name)
    check.length("aliasName", name, 1, 256)
    check.pattern("aliasName", name, _NAME)


def _own_name(name: str) -> str:
    """Raises InvalidAliasNameException unless the name is one that customers may give."""
    if not name.startswith("alias/") or name == "alias/":
        raise errors.invalid_alias_name('Alias must start with the prefix "alias/", followed by a name.')
    if name.startswith("alias/aws/"):
        raise errors.invalid_alias_name('Aliases that begin with "alias/aws/" are reserved.')
    if ":" in name:
        raise errors.invalid_alias_name(f"{name} contains invalid characters for an alias")
    return name


OPERATIONS = (
    Operation("CreateAlias", decoder(CreateAliasRequest), _create_alias, admin=True, changes_state=True, once=True),
    Operation("DeleteAlias", decoder(DeleteAliasRequest), _delete_alias, admin=True, changes_state=True, once=True),
    Operation("ListAliases", decoder(ListAliasesRequest), _list_aliases),
)
