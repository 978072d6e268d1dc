"""The text of hsmitm.toml as `init` writes it. No I/O but the template's."""

from __future__ import annotations

from importlib import resources
from string import Template

from hsm.uri import KeyURI
from proxy.commands.init.files import certificate_name, key_label, toml
from proxy.commands.init.login import pin_toml
from proxy.commands.init.place import Place
from proxy.commands.init.wanted import Wanted
from proxy.commands.pace import Fitting


def text(wanted: Wanted, place: Place, fit: Fitting | None = None) -> str:
    template = Template(resources.files("proxy.config").joinpath("hsmitm.toml.template").read_text())
    pairs = ", ".join(f"{toml(name)} = {toml(value)}" for name, value in place.environment.items())
    label = str(KeyURI(token=place.label)).removesuffix(";type=private")
    fit = fit or Fitting()
    return template.substitute(
        {name: getattr(fit, name) for name in fit.__struct_fields__},
        member=toml(place.member),
        module=toml(place.module),
        token=toml(place.label),
        pin=pin_toml(place.pin_source),
        user_type=toml(place.user_type),
        environment=f"environment = {{ {pairs} }}" if pairs else '# environment = { NAME = "VALUE" }',
        trust=toml(f"{label};object={key_label('trust')};type=private"),
        trust_certificate=toml(certificate_name("trust")),
        untrust_certificate=toml(certificate_name("untrust")),
        untrust=toml(f"{label};object={key_label('untrust')};type=private"),
        listen=toml(wanted.listen),
        status_listen=toml(wanted.status_listen),
        upstream_ca=f"upstream_ca = {toml(wanted.upstream_ca)}"
        if wanted.upstream_ca
        else '# upstream_ca = "company-roots.pem"',
        scripts=toml(list(wanted.scripts)),
        allow_destinations=toml(list(wanted.allow_destinations)),
    )
