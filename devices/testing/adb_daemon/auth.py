"""Authentication of a host: an RSA signature of a token, by a key that the device trusts (AOSP, daemon/auth.cpp)."""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import Literal

AuthMode = Literal["open", "prompt", "required", "deny"]
TOKEN_BYTES = 20
# PKCS #1 v1.5 (RFC 8017, section 9.2): DER of the algorithm identifier of SHA-1; adb signs the token as if it were the digest
_SHA1_IDENTIFIER = bytes.fromhex("3021300906052b0e03021a05000414")


@dataclass(frozen=True)
class PublicKey:
    """An RSA key as `~/.android/adbkey.pub` has it: word count, n0inv, modulus, R^2, exponent, all little-endian, in base64."""

    modulus: int
    exponent: int

    @classmethod
    def parse(cls, offered: bytes) -> PublicKey:
        """The key of an AUTH packet: base64, perhaps the user's name, a zero byte. Raises ValueError where it is none."""
        try:
            raw = base64.b64decode(offered.rstrip(b"\0").split()[0], validate=True)
            size = struct.unpack_from("<I", raw)[0] * 4
            (exponent,) = struct.unpack_from("<I", raw, 8 + 2 * size)
        except (IndexError, struct.error, binascii.Error) as error:
            raise ValueError("not a public key of adb") from error
        return cls(int.from_bytes(raw[8 : 8 + size], "little"), exponent)

    def signed(self, token: bytes, signature: bytes) -> bool:
        """Whether the owner of the private key signed `token`."""
        size = (self.modulus.bit_length() + 7) // 8
        digest = _SHA1_IDENTIFIER + token
        expected = b"\0\1" + b"\xff" * (size - 3 - len(digest)) + b"\0" + digest
        number = int.from_bytes(signature, "big")
        return number < self.modulus and pow(number, self.exponent, self.modulus).to_bytes(size, "big") == expected
