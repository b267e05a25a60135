"""A certificate and its key, checked before the server starts: what is wrong with them is one line."""

from __future__ import annotations

import ssl
from pathlib import Path

from jslm.errors import JslmError
from jslm.serve.keys import warn_if_open


def open_tls(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with that pair of PEM files; None where neither is given.

    Raises JslmError where one is missing, can't be read, is not PEM, is encrypted, or does not go with the other.
    """
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, other = ("--tls-key", "--tls-cert") if cert is None else ("--tls-cert", "--tls-key")
        raise JslmError(
            f"{given} without {other}: TLS needs both, the certificate (with its chain) and its private key"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, cert, key)
    warn_if_open(Path(key), "--tls-key")
    return context


def load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """The pair as it is on the disk now, for connections from now on. Raises JslmError as `open_tls` does."""
    _check(cert, "--tls-cert", "CERTIFICATE-----", "a certificate (-----BEGIN CERTIFICATE-----)")
    words = _check(key, "--tls-key", "PRIVATE KEY-----", "a private key (-----BEGIN PRIVATE KEY-----)")
    if "ENCRYPTED" in words:
        raise JslmError(f"--tls-key {key}: is encrypted; decrypt it first: openssl pkey -in {key} -out plain.pem")
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise JslmError(
                f"--tls-cert {cert} --tls-key {key}: the key is not that of the certificate (the first one in its "
                "file); give the pair that was made together"
            ) from None
        raise JslmError(
            f"--tls-cert {cert} --tls-key {key}: OpenSSL does not take them ({error.reason or error}); expected PEM "
            "files that are whole"
        ) from None


def _check(file: str, option: str, mark: str, wanted: str) -> str:
    try:
        text = Path(file).read_text("ascii", "replace")
    except OSError as error:
        raise JslmError(f"{option} {file}: cannot be read: {error.strerror}") from None
    if mark not in text:
        raise JslmError(f"{option} {file}: found no {mark.removesuffix('-----')}; expected a PEM file with {wanted}")
    return text
