"""What the load adds to a forward request."""

from __future__ import annotations

from bench.inbound.forward_latency import ForwardRound, forward_figures


def test_forward_figures() -> None:
    """What load adds is the difference of percentiles, of the site where it is greatest."""

    def one(name: str, idle: float, loaded: float) -> ForwardRound:
        return ForwardRound(host=name, rate=10, idle_ms=[idle], loaded_ms=[loaded], inbound_ms=[30], late_ms=[1],
                            generator_share=0.1, others_share=0, errors=[])  # fmt: skip

    figures = forward_figures([one("a", 2, 5), one("b", 2, 9), one("b", 2, 9)])
    assert (figures["forward_p99_added_ms"], figures["forward_p50_added_ms"]) == (7, 7)
    assert (figures["half_load_per_s"], figures["half_load_p99_ms"]) == (10, 30)
