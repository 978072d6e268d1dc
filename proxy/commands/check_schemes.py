"""`hsmitm check` for the schemes of keys: what no token makes, and what that means for clients.

A token may list a mechanism and forbid it, so this is said of what was proved by signatures.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa

from addons.tls.protocol import Version
from hsm import schemes
from hsm.group.group import Group
from hsm.member.key import Key
from proxy.commands.findings import Findings
from proxy.config.file import Config


def check_schemes(config: Config, group: Group, findings: Findings) -> None:
    """Each key that a member serves, in lines; nothing where every member makes what clients want."""
    for name, key in group.keys.items():
        serving = [member for member in group.members if member.serves(name)]
        for member in serving:
            for why, several in schemes.by_reason(member.lacks(name)).items():
                findings.warn(f"member {member.name}: {key.uri} makes no {several}: {why}")
        if serving and key.inbound:
            _check_site_key(group, key, _versions(config, group, key), findings)
        elif serving:
            _check_ca_key(group, key, findings)


def _check_ca_key(group: Group, key: Key, findings: Findings) -> None:
    used = group.schemes(key.name)[0]
    if used is key.scheme:
        return
    text = f"{key.title}: leaves are signed in {used.name}, because {_nobody(group)} {key.scheme.name}"
    if used.family == "rsa_pss":
        text += "; TLS 1.2 clients that do not know RSA-PSS refuse them: an EC key suits all"
    findings.warn(text)


def _versions(config: Config, group: Group, key: Key) -> list[tuple[Version, Version]]:
    """The oldest and the newest TLS version of each listener that has a site with this key and no better one."""
    better = {site for other in group.keys.values() if _signs_1_3(group, other) for site in other.sites}
    alone = set(key.sites) - (set() if _signs_1_3(group, key) else better)
    return [
        (listener.minimum_version, listener.maximum_version)
        for listener in config.file.inbound
        if any(site.names[0] in alone for site in listener.sites)
    ]


def _signs_1_3(group: Group, key: Key) -> bool:
    """Whether some member makes what TLS 1.3 is signed with."""
    return bool(_makers(group, key, "rsa_pss") or _makers(group, key, "ecdsa"))


def _check_site_key(group: Group, key: Key, versions: list[tuple[Version, Version]], findings: Findings) -> None:
    if not isinstance(key.public, rsa.RSAPublicKey):
        return
    pss = _makers(group, key, "rsa_pss")
    if not pss and any(newest == "TLS1.3" for _, newest in versions):
        text = f"{key.title}: TLS 1.3 needs RSA-PSS, which {_nobody(group)}: use an EC key"
        if any(oldest == "TLS1.3" for oldest, _ in versions):
            findings.wrong(f"{text}, or set minimum_version to TLS1.2: no client is served as it is")
        else:
            findings.warn(f"{text}; with this one clients get TLS 1.2")
    elif 0 < len(pss) < len(group.proved_by(key.name)):
        findings.warn(
            f"{key.title}: RSA-PSS, which TLS 1.3 needs, is made by {', '.join(pss)} alone: while that is away new "
            "clients get TLS 1.2"
        )
    if not _makers(group, key, "rsa_pkcs1") and any(oldest == "TLS1.2" for oldest, _ in versions):
        findings.warn(
            f"{key.title}: TLS 1.2 clients that do not know RSA-PSS are refused: {_nobody(group)} PKCS#1 v1.5 "
            "signatures with it"
        )


def _makers(group: Group, key: Key, family: str) -> list[str]:
    """The members that make a scheme of this family with the key."""
    names = [one.name for one in key.schemes if one.family == family]
    return [one.name for one in group.members if one.schemes(key.name) & set(names)]


def _nobody(group: Group) -> str:
    return "this token does not make" if len(group.members) == 1 else "no token of these members makes"
