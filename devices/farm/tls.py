"""Who may join a farm: whoever has a key that the farm's own authority signed. Nothing unencrypted leaves a host."""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from paceline.errors import ConfigError, DeviceError
from paceline.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, CertificateBuilder

_REMEDY = "make certificates (paceline farm certificates FOLDER) and name their folder with --tls"
_CA_DAYS = 3650


@dataclass(frozen=True)
class Tls:
    """A folder with ca.pem, node.pem and node-key.pem, as `make_certificates` writes it. Raises ConfigError where one lacks."""

    folder: Path

    def __post_init__(self) -> None:
        for path in (self.authority, self.certificate, self.key):
            if not path.is_file():
                raise ConfigError(f"no {path.name} in {self.folder}; {_REMEDY}")

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "node.pem"

    @property
    def key(self) -> Path:
        return self.folder / "node-key.pem"


def check_address(address: str, tls: Tls | None) -> str:
    """`address` ("tls://farm:8786"), complete. Raises ConfigError for what is none, DeviceError for one that isn't safe."""
    text = address if "://" in address else f"{'tls' if tls else 'tcp'}://{address}"
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or port is None:
        raise ConfigError(f"{address!r} is no address of a farm; write for example tls://farm.example:8786")
    if parts.scheme == "tls" and tls is None:
        raise DeviceError(f"farm {text} needs certificates; {_REMEDY}")
    if parts.scheme == "tcp" and tls is not None:
        raise ConfigError(f"farm {text} with certificates: write tls:// instead of tcp://")
    if tls is None and not is_loopback(parts.hostname):
        raise DeviceError(
            f"farm {text}: without TLS anybody who reaches {parts.hostname} could run programs on every host of the farm;"
            f" {_REMEDY}"
        )
    return text


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_certificates(folder: Path, days: int = 730) -> Tls:
    """Makes an authority (ca.pem, ca-key.pem) unless `folder` has one, and a new key for the farm's hosts, valid for `days`."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as e:
        raise DeviceError("making certificates needs the package cryptography: pip install 'paceline[farm]'") from e

    authority, authority_key = folder / "ca.pem", folder / "ca-key.pem"
    if authority.exists() and not authority_key.exists():
        raise ConfigError(f"{folder} has a ca.pem without its ca-key.pem: it can sign nothing. Use the folder where both are.")
    if authority_key.exists() and authority.exists():
        ca = x509.load_pem_x509_certificate(authority.read_bytes())
        ca_key = _load_key(authority_key)
    else:
        ca_key = ec.generate_private_key(ec.SECP256R1())
        ca = _certificate("Paceline farm authority", ca_key, None, ca_key, _CA_DAYS)
        _write_key(authority_key, ca_key)
        write_atomically(authority, _pem(ca))
    key = ec.generate_private_key(ec.SECP256R1())
    _write_key(folder / "node-key.pem", key)
    write_atomically(folder / "node.pem", _pem(_certificate("Paceline farm node", key, ca, ca_key, days)))
    return Tls(folder)


def _certificate(
    name: str, key: EllipticCurvePrivateKey, ca: Certificate | None, ca_key: EllipticCurvePrivateKey, days: int
) -> Certificate:
    """Signed by `ca`, or by itself where that is None: an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder: CertificateBuilder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.subject if ca else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of hosts differ
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca is None, path_length=0 if ca is None else None), critical=True)
        .add_extension(_usage(signs=ca is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if ca is not None:
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return builder.sign(ca_key, hashes.SHA256())


def _usage(signs: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _write_key(path: Path, key: EllipticCurvePrivateKey) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    old = os.umask(0o077)  # never readable by others, not even for a moment
    try:
        write_atomically(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    finally:
        os.umask(old)


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is not a key that this command made; use an empty folder")
    return key
