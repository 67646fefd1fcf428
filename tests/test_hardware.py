"""What a training's result says of the processor that computed it."""

from leaves import hardware

import pytest

X86 = "processor\t: 0\ncpu family\t: 26\nmodel\t: 2\nmodel name\t: AMD EPYC\nflags\t: fma {}\n\nmodel name\t: another\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\nCPU part\t: 0xd40\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86.format("avx avx2 avx512f"), "AMD EPYC (26-2), AVX-512"),
        (X86.format("avx512f avx512_bf16"), "AMD EPYC (26-2), AVX-512 BF16"),
        (X86.format("avx avx2 avx512_bf16_of_another_name"), "AMD EPYC (26-2), AVX2"),
        (X86.format("sse4_2"), "AMD EPYC (26-2)"),
        (ARM.format("sve"), "aarch64, SVE"),
        (ARM.format("crc32"), "aarch64, NEON"),
    ],
)
def test_the_processor_and_its_newest_vectors_are_named(monkeypatch, text, expected):
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_, **__: text)
    monkeypatch.setattr("platform.processor", lambda: "aarch64")
    assert hardware.processor_kind() == expected


def test_without_linux_the_system_tells_the_name(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr("pathlib.Path.read_text", missing)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert hardware.processor_kind() == "arm64"
    assert hardware.instructions() == set()
