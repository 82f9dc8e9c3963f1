"""What a module prints: all its settings, as otherwise two that differ look alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

import straightthrough as st

Make = Callable[..., nn.Module]

# The module, and a value of each setting beside the default.
SETTINGS: dict[str, tuple[Make, dict[str, object]]] = {
    "LFQ": (
        lambda **s: st.nn.LFQ(4, **s),
        {"entropy": 0.2, "diversity": 2.0, "commitment": 0.3, "inverse_temperature": 100.0},
    ),
    "VectorQuantizer": (
        lambda **s: st.nn.VectorQuantizer(8, 4, **s),
        {
            "learn": "loss",
            "decay": 0.8,
            "commitment": 1.5,
            "revive": 0.1,
            "k_means": False,
            "update": "manual",
            "metric": "cosine",
        },
    ),
    "HardConcreteGate": (
        lambda **s: st.nn.HardConcreteGate(3, **s),
        {"probs": 0.9, "tau": 0.5, "gamma": -0.3, "zeta": 1.2, "hard": True},
    ),
    "ResidualVQ": (lambda **s: st.nn.ResidualVQ(2, 8, 4, **s), {"dropout": True, "decay": 0.8}),
    "Quantizer": (lambda **s: st.nn.Quantizer(st.grids.Int(4), **s), {"transform": "tanh"}),
}


@pytest.mark.parametrize(
    ("name", "setting"), [(name, each) for name, (_, some) in SETTINGS.items() for each in some]
)
def test_every_setting_is_shown(name: str, setting: str) -> None:
    make, settings = SETTINGS[name]
    value = settings[setting]
    assert f"{setting}={value!r}" in repr(make(**{setting: value}))
    assert repr(make()) != repr(make(**{setting: value}))


def test_what_is_switched_off_says_so() -> None:
    quantize, quantizer = st.nn.Quantizer(st.grids.Int(4)), st.nn.VectorQuantizer(8, 4)
    assert "enabled" not in repr(quantize)
    assert "frozen" not in repr(quantizer)
    quantize.enabled, quantizer.book.frozen = False, True
    assert "enabled=False" in repr(quantize)
    assert "frozen" in repr(quantizer)
