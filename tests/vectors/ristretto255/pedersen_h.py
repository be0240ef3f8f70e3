"""Derives the Pedersen generator H again, by RFC 9496's formulas in plain integers.

Here: an implementation that shares no code with the core, and the check that ties it to the RFC.
Not here: constant time; everything in this file is public.

Prints the JSON that stands beside it: python3 pedersen_h.py > pedersen_h.json
"""

import hashlib
import json

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
LABEL = "quorate/v1/sharing/pedersen-h"


def is_negative(x: int) -> bool:
    return x % P % 2 == 1


def magnitude(x: int) -> int:
    return -x % P if is_negative(x) else x % P


SQRT_M1 = magnitude(pow(2, (P - 1) // 4, P))


def sqrt_ratio(u: int, v: int) -> tuple[bool, int]:
    """Whether u/v is square, and the nonnegative root of u/v or of SQRT_M1·u/v (RFC 9496 §4.2)."""
    r = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    check = v * r * r % P
    correct, flipped, flipped_i = check == u % P, check == -u % P, check == -u * SQRT_M1 % P
    if flipped or flipped_i:
        r = r * SQRT_M1 % P
    return correct or flipped, magnitude(r)


# RFC 9496 §4.1 fixes the odd root of a·d − 1.
SQRT_AD_MINUS_ONE = -sqrt_ratio(-D - 1, 1)[1] % P
INVSQRT_A_MINUS_D = sqrt_ratio(1, -1 - D)[1]

Element = tuple[int, int, int, int]


def one_way_half(b: bytes) -> Element:
    """MAP of RFC 9496 §4.3.4."""
    t = int.from_bytes(b, "little") % 2**255 % P
    r = SQRT_M1 * t * t % P
    u = (r + 1) * (1 - D * D) % P
    v = (-1 - r * D) * (r + D) % P
    was_square, s = sqrt_ratio(u, v)
    c = -1
    if not was_square:
        s, c = -magnitude(s * t) % P, r
    n = (c * (r - 1) * (D - 1) ** 2 - v) % P
    w0, w1 = 2 * s * v % P, n * SQRT_AD_MINUS_ONE % P
    w2, w3 = (1 - s * s) % P, (1 + s * s) % P
    return w0 * w3 % P, w2 * w1 % P, w1 * w3 % P, w0 * w2 % P


def add(p: Element, q: Element) -> Element:
    """Edwards addition for a = −1, extended coordinates (RFC 8032 §5.1.4)."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]), (p[1] + p[0]) * (q[1] + q[0])
    c, d = 2 * p[3] * q[3] * D, 2 * p[2] * q[2]
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def encode(p: Element) -> bytes:
    """RFC 9496 §4.3.2."""
    x0, y0, z0, t0 = p
    u1, u2 = (z0 + y0) * (z0 - y0) % P, x0 * y0 % P
    _, invsqrt = sqrt_ratio(1, u1 * u2 * u2 % P)
    den1, den2 = invsqrt * u1 % P, invsqrt * u2 % P
    z_inv = den1 * den2 * t0 % P
    if is_negative(t0 * z_inv):
        x, y, den_inv = y0 * SQRT_M1 % P, x0 * SQRT_M1 % P, den1 * INVSQRT_A_MINUS_D % P
    else:
        x, y, den_inv = x0, y0, den2
    if is_negative(x * z_inv):
        y = -y % P
    return magnitude(den_inv * (z0 - y)).to_bytes(32, "little")


def hash_to_group(text: str) -> str:
    b = hashlib.sha512(text.encode()).digest()
    return encode(add(one_way_half(b[:32]), one_way_half(b[32:]))).hex()


if __name__ == "__main__":
    # RFC 9496 appendix A.3, first vector.
    rfc = hash_to_group("Ristretto is traditionally a short shot of espresso coffee")
    assert rfc == "3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46", rfc
    print(json.dumps({"label": LABEL, "hash": "SHA-512", "encoding": hash_to_group(LABEL)}, indent=2))
