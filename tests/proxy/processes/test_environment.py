"""Which variables of the environment reach whom."""

from __future__ import annotations

from proxy.processes import environment

_OURS = {
    "PATH": "/bin", "LC_TIME": "C", "TZ": "UTC", "SSL_CERT_FILE": "/roots.pem", "PYTHONPATH": "/lib",
    "VAULT_TOKEN": "s.secret", "HSM_PIN": "4711", "AWS_SECRET_ACCESS_KEY": "x", "https_proxy": "http://u:p@proxy",
    "CREDENTIALS_DIRECTORY": "/run/credentials", "NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "1", "MINE": "1",
}  # fmt: skip


def test_a_worker_gets_what_holds_no_secret() -> None:
    """What a PIN command needs, a PIN, a proxy's password: no worker has it, whatever it is called."""
    given = environment.of_worker(_OURS, [], [])
    assert given.keys() == {"PATH", "LC_TIME", "TZ", "SSL_CERT_FILE", "PYTHONPATH"}


def test_a_script_gets_what_the_operator_names() -> None:
    """A variable that a script reads is named in the configuration; one that leads to a PIN cannot be."""
    assert environment.of_worker(_OURS, ["MINE", "ABSENT"], [])["MINE"] == "1"
    assert "HSM_PIN" not in environment.of_worker(_OURS, ["HSM_PIN"], ["HSM_PIN"])
    assert "TZ" not in environment.of_worker(_OURS, [], ["TZ"])


def test_the_signer_gets_what_pin_sources_need() -> None:
    """A PIN command finds its token; what the service manager says to us is for us alone."""
    assert _OURS.keys() - environment.of_signer(_OURS).keys() == {"NOTIFY_SOCKET", "WATCHDOG_USEC"}
