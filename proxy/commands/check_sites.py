"""`hsmitm check` for inbound sites: do certificate, chain, names and files fit together, and how many days are left?

Whether the partition's key is the certificate's is asked of the members, by `proxy.commands.check`.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from cryptography import x509

from addons.gnutls import library
from addons.inbound.loading import pem_certificates, staple_source
from addons.revocation import staples
from hsm import names
from hsm.certificates.files import load_chain
from hsm.errors import MisconfiguredError
from proxy.commands.findings import EXPIRES_SOON_DAYS, Findings
from proxy.config.file import Config
from proxy.config.inbound import SiteSection


async def check_sites(config: Config, findings: Findings) -> None:
    """Each site of each listener, in lines."""
    if not config.file.inbound:
        return
    try:
        version = library.version()
    except MisconfiguredError as error:
        findings.wrong(str(error))
    else:
        findings.ok(f"GnuTLS {version}, for inbound inspection")
    for listener in config.file.inbound:
        for site in listener.sites:
            await _check_site(config, site, findings)


async def _check_site(config: Config, site: SiteSection, findings: Findings) -> None:
    title = f"inbound site {site.names[0]}"
    for number, file in enumerate(site.certificates):
        try:
            chain = load_chain(site.names[0], config.base / file)
        except MisconfiguredError as error:
            findings.wrong(str(error))
            continue
        _check_chain(title, file, chain, site.names, findings)
        if (where := site.settings(config.base).certificates[number].ocsp) is not None:
            await _check_staple(site, chain, where, findings)
    for field in ("upstream_ca", "upstream_certificate", "client_ca"):
        if (given := getattr(site, field)) is not None:
            read = functools.partial(pem_certificates, f"{title}: {field}", config.base / given)
            findings.attempt(f"{title}: {field} {given}", read)
    if site.rsa_key_exchange:
        findings.warn(
            f"{title}: rsa_key_exchange is on. Whoever gets the key later can read what is recorded now (no forward "
            "secrecy), and each client's padding is decrypted by the HSM, which attackers can use as an oracle where "
            "its time tells right from wrong; turn it off once no client needs it"
        )


def _check_chain(
    title: str, file: str, chain: Sequence[x509.Certificate], wanted: Sequence[str], findings: Findings
) -> None:
    leaf = chain[0]
    left = leaf.not_valid_after_utc - dt.datetime.now(dt.UTC)
    if left < dt.timedelta():
        findings.wrong(f"{title}: {file} expired on {leaf.not_valid_after_utc:%Y-%m-%d}")
    else:
        text = f"{title}: {file} is '{leaf.subject.rfc4514_string()}', {left.days} days left"
        (findings.warn if left.days < EXPIRES_SOON_DAYS else findings.ok)(text)
    if leaf.not_valid_before_utc > dt.datetime.now(dt.UTC):
        findings.wrong(f"{title}: {file} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    for child, parent in pairwise(chain):
        try:
            child.verify_directly_issued_by(parent)
        except Exception:  # noqa: BLE001  # whatever is wrong with the two, this chain does not hold
            findings.wrong(
                f"{title}: {file}: '{child.subject.rfc4514_string()}' is not issued by the certificate that follows "
                f"it, '{parent.subject.rfc4514_string()}'; put the site's first, then each one's issuer"
            )
    if len(chain) == 1 and leaf.issuer != leaf.subject:
        findings.warn(
            f"{title}: {file} holds no intermediate certificate; clients may not find the way to their root "
            f"('{leaf.issuer.rfc4514_string()}' issued it)"
        )
    missing = [name for name in map(names.check, wanted) if not _carries(leaf, name)]
    if missing:
        findings.wrong(f"{title}: {file} does not carry {', '.join(missing)}: clients of that name refuse it")


def _carries(leaf: x509.Certificate, name: str) -> bool:
    """Whether the certificate is valid for `name`, itself perhaps a wildcard."""
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    patterns = [one.lower() for one in alternative.get_values_for_type(x509.DNSName)]
    patterns += [str(one) for one in alternative.get_values_for_type(x509.IPAddress)]
    return any(names.covers(pattern, name) for pattern in patterns)


async def _check_staple(
    site: SiteSection, chain: Sequence[x509.Certificate], where: Path | Literal["fetch"], findings: Findings
) -> None:
    try:
        source = staple_source(site.names[0], chain, where, lambda _: None)
        findings.ok(await staples.check(source))
    except MisconfiguredError as error:
        findings.wrong(str(error))
