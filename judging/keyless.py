"""Keyless signatures: Sigstore bundles by a short-lived certificate, verified offline with the ``sigstore`` package.

An optional extra: it is imported when a policy asks for it. Trust comes from a trusted root file (certificate
authorities, transparency logs, timestamp authorities), so that nothing is asked of the network.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from judging.cosign import Signature, Signer, Unverified, certificate_identity, one_line, pae
from runtime.errors import UserError

if TYPE_CHECKING:
    from sigstore.verify import Verifier

TRUSTED_ROOT_BYTES_MAX = 1024 * 1024


class Keyless:
    """Whom to trust without a key: exactly *identity* (a SAN: mail address or URI), vouched for by *issuer*."""

    def __init__(self, identity: str, issuer: str, trusted_root: Path | None = None) -> None:
        """Load the trusted root: the file, or what the package carries of the public instance (its cache, offline).

        Raises UserError where the package is missing or the file is no trusted root.
        """
        if importlib.util.find_spec("sigstore") is None:
            raise UserError("verify.cosign.keyless: needs the sigstore package, see requirements/keyless.txt")
        self.identity = identity
        self.issuer = issuer
        self._verifier = _verifier(trusted_root)

    @property
    def signer(self) -> Signer:
        """Whom a signature names that holds: ``<identity> (<issuer>)``."""
        name = f"{self.identity} ({self.issuer})"
        return Signer(name, name)

    def verify(self, signature: Signature) -> Signer:
        """Verify certificate chain, log entry, time, identity, issuer and the signature itself; Unverified otherwise.

        Bundles only: the tag form carries no inclusion proof, without which the package would have to ask the log.
        """
        from sigstore.models import Bundle
        from sigstore.verify.policy import Identity

        if signature.certificate is None:
            raise Unverified(f"{signature.where}: made with a key, not by a certificate")
        if signature.bundle is None:
            raise Unverified(
                f"{signature.where}: keyless in the tag form, which cannot be verified offline; "
                "sign with cosign 3, which writes a bundle"
            )
        policy = Identity(identity=self.identity, issuer=self.issuer)
        try:
            bundle = Bundle.from_json(signature.bundle)
            if signature.enveloped:
                kind, payload = self._verifier.verify_dsse(bundle, policy)
                if pae(kind, payload) != signature.message:  # what we have read in it is not what was signed
                    raise ValueError("the package reads another statement in the bundle than we do")
            else:
                self._verifier.verify_artifact(signature.message, bundle, policy)
        except Exception as error:  # whatever a hostile bundle makes the package raise, it is not verified
            who = certificate_identity(signature.certificate)
            reason = one_line(str(error) or type(error).__name__)
            raise Unverified(f"{signature.where}: by {who}: {reason}") from None
        return self.signer


def _verifier(trusted_root: Path | None) -> Verifier:
    from sigstore.models import ClientTrustConfig, TrustedRoot
    from sigstore.verify import Verifier

    where = "verify.cosign.keyless.trusted_root"
    if trusted_root is None:
        try:
            return Verifier(trusted_root=ClientTrustConfig.production(offline=True).trusted_root)
        except Exception as error:
            raise UserError(f"{where}: none given, and the package's own fails: {one_line(str(error))}") from None
    try:
        if trusted_root.stat().st_size > TRUSTED_ROOT_BYTES_MAX:
            raise UserError(f"{trusted_root}: larger than {TRUSTED_ROOT_BYTES_MAX:,} bytes; this is no trusted root")
        return Verifier(trusted_root=TrustedRoot.from_file(str(trusted_root)))
    except OSError as error:
        raise UserError(f"{trusted_root}: cannot be read: {error.strerror}; {where} is a trusted_root.json") from None
    except UserError:
        raise
    except Exception as error:  # pydantic's and the package's own errors, and IndexError where it names no log
        reason = one_line(next(iter(str(error).splitlines()), type(error).__name__), 120)
        raise UserError(f"{trusted_root}: is no trusted root: {reason}; {where} is a trusted_root.json") from None
