"""Reading request bodies: strict JSON, declared fields, and AWS's constraint texts.

Requests are msgspec structs whose fields are all optional: an absent field and null mean the same, as with AWS, and
`Check` reports what is missing. Unknown fields are ignored, as AWS does. Base64 and types are strict.

Not here: what the values mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from quorate.kms import errors

KEY_ID_MAX = 2048
CONTEXT_MAX = 8192
"""Bytes of an encryption context, names and values together (AWS limits the serialized form to 8 KB)."""

_ECHO_MAX = 256


class Request(msgspec.Struct, rename="pascal", frozen=True):
    """Base of all request bodies; `key_id` is `KeyId` on the wire."""


R = TypeVar("R", bound=Request)


def decoder(kind: type[R]) -> Callable[[bytes], R]:
    """A function from body to request. It raises SerializationException for anything but one proper JSON object."""
    decode = msgspec.json.Decoder(kind).decode

    def read(body: bytes) -> R:
        try:
            request = decode(body)
            _DUPLICATES.decode(body.decode())
        except msgspec.ValidationError as error:
            raise errors.serialization(str(error)) from None  # names a type and a path, never a value
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise errors.serialization("The request body is not one well-formed JSON object.") from None
        return request

    return read


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> None:
    """msgspec takes the last of two equal names; other readers take the first. We take neither (ATTACKS N76)."""
    if len({name for name, _ in pairs}) != len(pairs):
        raise errors.serialization("A name occurs more than once in a JSON object of the request body.")


# Only names matter here, so numbers stay text: no cost, and no limit, for those with thousands of digits.
_DUPLICATES = json.JSONDecoder(object_pairs_hook=_reject_duplicates, parse_int=str, parse_float=str, strict=False)


class Check:
    """Collects violated constraints of one request, and raises them together in AWS's words.

    `member` names the field as AWS does, in lower camel case; a value of None violates only `required`.
    """

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: list[str] = []

    def required(self, member: str, value: object) -> None:
        if value is None:
            self._found.append(f"Value null at '{member}' failed to satisfy constraint: Member must not be null")

    def length(self, member: str, value: str | bytes | None, low: int, high: int) -> None:
        """Bytes are taken to be secret or binary, and are not repeated in the message."""
        if value is not None and not low <= len(value) <= high:
            shown = "Value" if isinstance(value, bytes) else f"Value '{value[:_ECHO_MAX]}'"
            bound = f"greater than or equal to {low}" if len(value) < low else f"less than or equal to {high}"
            self._found.append(f"{shown} at '{member}' failed to satisfy constraint: Member must have length {bound}")

    def size(self, member: str, value: list[Any] | None, low: int, high: int) -> None:
        """Length of a list, whose members are not repeated in the message."""
        if value is not None and not low <= len(value) <= high:
            bound = f"greater than or equal to {low}" if len(value) < low else f"less than or equal to {high}"
            self._found.append(f"Value at '{member}' failed to satisfy constraint: Member must have length {bound}")

    def between(self, member: str, value: int | None, low: int, high: int) -> None:
        if value is not None and not low <= value <= high:
            bound = f"greater than or equal to {low}" if value < low else f"less than or equal to {high}"
            shown = f"Value '{value}'" if abs(value) < 2**64 else "Value"
            self._found.append(f"{shown} at '{member}' failed to satisfy constraint: "
                               f"Member must have value {bound}")

    def one_of(self, member: str, value: str | None, allowed: tuple[str, ...]) -> None:
        if value is not None and value not in allowed:
            self._found.append(f"Value '{value[:_ECHO_MAX]}' at '{member}' failed to satisfy constraint: "
                               f"Member must satisfy enum value set: [{', '.join(allowed)}]")

    def pattern(self, member: str, value: str | None, compiled: re.Pattern[str]) -> None:
        if value is not None and compiled.fullmatch(value) is None:
            self._found.append(f"Value '{value[:_ECHO_MAX]}' at '{member}' failed to satisfy constraint: "
                               f"Member must satisfy regular expression pattern: {compiled.pattern}")

    def key_reference(self, member: str, value: str | None, *, needed: bool = True) -> None:
        if value is None and needed:
            self.required(member, value)
        self.length(member, value, 1, KEY_ID_MAX)

    def context(self, member: str, value: Mapping[str, str] | None) -> None:
        if not value:
            return
        if sum(len(name.encode()) + len(text.encode()) for name, text in value.items()) > CONTEXT_MAX:
            self._found.append(f"Value at '{member}' failed to satisfy constraint: names and values together must not "
                               f"exceed {CONTEXT_MAX} bytes")
        if "" in value:
            self._found.append(f"Value at '{member}' failed to satisfy constraint: Map keys must satisfy constraint: "
                               f"[Member must have length greater than or equal to 1]")

    def grant_tokens(self, value: list[str] | None) -> None:
        """Grant tokens are accepted, because SDK callers pass them, and have no effect: there are no grants."""
        self.size("grantTokens", value, 0, 10)
        for token in value or ():
            if not 1 <= len(token) <= 8192:
                self._found.append("Value at 'grantTokens' failed to satisfy constraint: Member must satisfy constraint: "
                                   "[Member must have length less than or equal to 8192, Member must have length "
                                   "greater than or equal to 1]")
                break

    def done(self) -> None:
        if self._found:
            plural = "" if len(self._found) == 1 else "s"
            raise errors.validation(f"{len(self._found)} validation error{plural} detected: {'; '.join(self._found)}")
