"""What is known of devices by their names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jslm.parallel import describe_devices, known_kind, peak_flops


def device(kind: str, platform: str = "gpu") -> Any:
    return SimpleNamespace(device_kind=kind, platform=platform)


@pytest.mark.parametrize(
    ("kind", "half", "single"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 494.7e12),
        ("NVIDIA L40", 181e12, 90.5e12),
        ("NVIDIA L40S", 362e12, 183e12),
        ("NVIDIA A10G", 70e12, 35e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5", 459e12, 459e12),
    ],
)
def test_peaks_of_the_data_sheets(kind: str, half: float, single: float) -> None:
    assert [peak_flops(name, device(kind)) for name in ("bfloat16", "float32")] == [half, single]


@pytest.mark.parametrize("kind", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA B200", "NVIDIA A1000"])
def test_others_are_not_guessed(kind: str) -> None:
    assert peak_flops("bfloat16", device(kind)) is None


def test_names_are_matched_by_words() -> None:
    assert known_kind("TPU v5 lite", ["TPU v5", "TPU v5 lite"]) == "TPU v5 lite"
    assert known_kind("TPU v5p", ["TPU v5"]) is None


def test_systems_without_an_affinity_count_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert describe_devices([device("cpu", "cpu")]) == "CPU, 3 cores"
