"""`torch.save` itself, read back without PyTorch."""

from __future__ import annotations

import argparse
import collections
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.errors import JslmError
from jslm.formats.pickles.reader import Record, read_torch_file

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

pytestmark = pytest.mark.peer

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32"),
)


@dataclasses.dataclass
class Settings:
    d_model: int = 512
    eps: float = 1e-6
    name: str = "é"
    none: None = None


@pytest.fixture(params=[True, False], ids=["zip", "stream"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def save(value: Any) -> Any:
        path = tmp_path / "file.pt"
        torch.save(value, path, _use_new_zipfile_serialization=request.param)
        return read_torch_file(path)

    return save


def same(array: np.ndarray, tensor: Any) -> None:
    """Bits, shape and type."""
    assert array.shape == tuple(tensor.shape)
    assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
    expected = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    assert np.ascontiguousarray(array).tobytes() == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(saved: Any, dtype: str) -> None:
    bits = torch.randint(0, 2 if dtype == "bool" else 256, (4 * 16,), dtype=torch.uint8)
    tensor = bits.view(getattr(torch, dtype)).reshape(2, -1)
    same(saved({"x": tensor})["x"], tensor)


def test_views_share_a_storage(saved: Any) -> None:
    base = torch.randn(6, 8, 5)
    views = {
        "base": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[2:4, 1:7:2, 3],
        "scalar": base[1, 1, 1],
        "empty": torch.zeros(0, 7),
        "again": base,
    }
    for name, array in saved(views).items():
        same(array, views[name])
        assert not array.flags.writeable


def test_a_whole_training_checkpoint(saved: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 4, bias=False))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "config": Settings(),
        "arguments": argparse.Namespace(lr=0.5, betas=(0.9, 0.95)),
        "best": torch.tensor(1.5),
        "float": np.float64(2.5),
        "shape": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "counts": collections.OrderedDict(a=1),
        "names": {"x", "y"},
        "bytes": b"\x00\xff",
        "large": 2**80,
    }
    found = saved(checkpoint)
    assert found["model"].keys() == checkpoint["model"].keys()
    for name, tensor in checkpoint["model"].items():
        same(found["model"][name], tensor)
    same(found["optimizer"]["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert isinstance(found["config"], Record)
    assert found["config"].name.endswith("Settings")
    assert found["config"].attributes == dataclasses.asdict(Settings())
    assert found["arguments"] == Record("argparse.Namespace", (), {"lr": 0.5, "betas": (0.9, 0.95)})
    assert found["best"] == 1.5
    assert found["float"] == 2.5
    assert found["shape"] == (1, 2)
    assert found["device"] == "cpu"
    assert found["parameter"].tolist() == [1, 1, 1]
    assert found["counts"] == {"a": 1}
    assert found["names"] == {"x", "y"}
    assert found["bytes"] == b"\x00\xff"
    assert found["large"] == 2**80


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


def test_a_call_is_refused_by_name(saved: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(JslmError, match=r"file\.pt: refused: it calls builtins\.print"):
        saved({"model": torch.ones(2), "x": Harmful()})
    assert capsys.readouterr().out == ""
