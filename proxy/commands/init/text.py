"""The text of hsmitm.toml as `init` writes it. No I/O but the template's."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from string import Template

from hsm.uri import KeyURI
from hsm.wire.worker import Authority
from proxy.commands.init.files import certificate_name, toml
from proxy.commands.init.login import pin_toml
from proxy.commands.init.place import Place
from proxy.commands.init.wanted import Wanted
from proxy.commands.pace import Fitting


def text(wanted: Wanted, place: Place, keys: Mapping[Authority, KeyURI], fit: Fitting | None = None) -> str:
    """The file's text. `keys` are the CAs' keys, their partition included; `fit` are settings for a slow HSM."""
    template = Template(resources.files("proxy.config").joinpath("hsmitm.toml.template").read_text())
    pairs = ", ".join(f"{toml(name)} = {toml(value)}" for name, value in place.environment.items())
    selector = place.selector
    named = {"token": selector.label, "serial": selector.serial, "slot": selector.slot}
    partition = next(f"{field} = {toml(value)}" for field, value in named.items() if value is not None)
    fit = fit or Fitting()
    return template.substitute(
        {name: getattr(fit, name) for name in fit.__struct_fields__},
        member=toml(place.member),
        module=toml(place.module),
        partition=partition,
        pin=pin_toml(place.pin_source),
        user_type=toml(place.user_type),
        environment=f"environment = {{ {pairs} }}" if pairs else '# environment = { NAME = "VALUE" }',
        trust=toml(str(keys["trust"])),
        trust_certificate=toml(certificate_name("trust")),
        untrust_certificate=toml(certificate_name("untrust")),
        untrust=toml(str(keys["untrust"])),
        listen=toml(wanted.listen),
        status_listen=toml(wanted.status_listen),
        upstream_ca=f"upstream_ca = {toml(wanted.upstream_ca)}"
        if wanted.upstream_ca
        else '# upstream_ca = "company-roots.pem"',
        scripts=toml(list(wanted.scripts)),
        allow_destinations=toml(list(wanted.allow_destinations)),
    )
