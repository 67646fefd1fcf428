"""Render leaves of 14 crop species, the project's default data set.

A reader may have no internet access, and some photographs must not be redistributed. This module draws a substitute:
single leaves on plain paper under sun or shade, healthy or diseased. Each species has the same share of the images as
in the 17,728 photos of the original study.

The botany is data (``SPECIES``); a few shared functions turn these data into an image:

1. anatomy: outline, margin and veins as polylines in leaf coordinates (u from base 0 to apex 1, v across);
2. pose: bend, warp, squeeze, rotation and scale map the polylines to the pixels of the frame;
3. pigment: colour of the blade, its veins and its diseases;
4. relief and light: a height field, lower at the veins, shaded by one lamp that also casts the shadow;
5. camera: white balance, exposure, blur, grain.

Command line: ``python -m leaves.sample --out DIR [--count 1000] [--size 128] [--seed 0]``.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from leaves.hardware import end_with_parent
from leaves.progress import tqdm

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

SUPERSAMPLE = 2  # images are computed at twice the requested size and averaged, for smooth edges and thin veins
MIN_PER_CLASS = 5
MIN_SIZE = 32
# Paper colours of the original photos, mixed at random for each leaf, and the share of leaves on black paper.
PAPERS = ((150, 142, 150), (136, 132, 144), (168, 158, 166), (192, 180, 184), (140, 108, 107), (102, 100, 104))
DARK_PAPER = 0.02

RGB = tuple[int, int, int]
Range = tuple[float, float]


# --- The botany as data -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Teeth:
    """One set of teeth on the leaf's edge; ``count`` is per side, and ``depth`` is in leaf lengths."""

    kind: str  # serrate, toothed, crenate
    count: Range
    depth: Range
    decline: float = 0.0  # 1: teeth fade to nothing at the apex, like the lobes of a tomato leaflet


@dataclass(frozen=True)
class Blade:
    """The outline of a leaf.

    A pinnate blade has one midrib; its half width is proportional to t**base * (1 - t)**apex, where t runs from 0 at
    the base to 1 at the apex. A palmate blade has ``lobes`` that spread from the stalk like the fingers of a hand.
    """

    aspect: Range  # width / length
    base: Range = (0.5, 0.6)  # below 0.5 blunt, 0.5 round, 1 wedge
    apex: Range = (0.7, 0.9)
    tip: Range = (0.0, 0.03)  # length of the thin point at the apex
    heart: Range = (0.0, 0.0)  # depth of a heart-shaped base
    lobes: tuple[tuple[float, float, float], ...] = ()  # palmate: (angle in degrees, length, half width)
    margin: tuple[Teeth, ...] = ()
    wave: float = 0.012  # deviation of the outline from the ideal, in leaf lengths


@dataclass(frozen=True)
class Venation:
    """Veins: ``pairs`` of side veins leaving the midrib at ``angle`` degrees, arched towards the apex."""

    kind: str = "pinnate"  # pinnate, palmate, parallel
    pairs: tuple[int, int] = (6, 8)
    angle: Range = (45, 55)
    arch: float = 0.10
    rungs: int = 3  # number of small veins between two neighbouring side veins
    basal: bool = False  # the first pair of side veins starts at the base of the blade
    contrast: float = 0.30  # how much paler the veins are than the blade
    midrib: float = 1.0  # factor for the thickness of the midrib
    colour: RGB = (172, 188, 128)


@dataclass(frozen=True)
class Surface:
    """The colours of the blade, mixed at random for each leaf, and the parameters of the relief."""

    colours: tuple[RGB, ...]
    spread: float = 0.09  # spread of brightness between leaves
    gloss: float = 0.2
    blister: float = 0.5  # bulge of the blade between side veins
    rugose: float = 0.3  # bulge between the smallest veins
    curl: float = 0.5  # height of the large waves of the blade
    fold: float = 0.3  # how far the halves tilt about the midrib
    grit: float = 0.3  # strength of hairs and pores that sparkle


@dataclass(frozen=True)
class Habit:
    """The position of the leaf in the frame."""

    fill: Range = (0.78, 0.98)  # longest side of the leaf / side of the frame
    turn: float = 28.0  # spread of the rotation, degrees
    bend: float = 0.10
    petiole: Range = (0.05, 0.2)
    petiole_width: float = 0.026
    shift: float = 0.05
    look_at: Range | None = None  # range of u for the centre of the frame; None: the centre of the leaf
    leaflets: tuple[tuple[float, float, float, float], ...] = ()  # (u, side, angle, scale) of side leaflets
    leaflet_chance: float = 0.0


@dataclass(frozen=True)
class Spots:
    """Separate lesions, each a core inside a rim inside a halo; radii are in leaf lengths."""

    count: tuple[int, int]
    radius: Range
    core: RGB
    rim: RGB
    halo: RGB | None = None
    stretch: float = 1.0  # length / width along the midrib
    ragged: float = 0.35
    rings: float = 0.0  # strength of the concentric rings of early blight, 0 to 1
    strength: float = 0.9


@dataclass(frozen=True)
class Blotch:
    """Patches of another colour on a share ``cover`` of the blade; about ``cells`` patches fit across the frame."""

    colour: RGB
    cover: Range
    cells: int = 4
    hard: float = 4.0
    where: str = "all"  # all, edge, tip, between (the veins)
    strength: Range = (0.6, 0.9)
    stretch: float = 1.0


@dataclass(frozen=True)
class Dust:
    """Powder or stippling finer than a lesion: grains of ``colour`` on patches of the blade."""

    colour: RGB
    cover: Range
    grain: Range = (0.3, 0.7)
    film: float = 0.35  # the even film under the grains


@dataclass(frozen=True)
class Disease:
    """A disease and the share of the species' leaves that show it; ``curl`` is a factor for `Surface.curl`."""

    name: str
    share: float
    layers: tuple[Spots | Blotch | Dust, ...]
    curl: float = 1.0


@dataclass(frozen=True)
class Species:
    """The description of a species for the renderer; ``photos`` is the number of its photos in the original study."""

    photos: int
    blade: Blade
    veins: Venation
    surface: Surface
    habit: Habit = field(default_factory=Habit)
    diseases: tuple[Disease, ...] = ()


YELLOW, GOLD, TAN, BROWN, DARK = (176, 178, 66), (196, 160, 52), (166, 138, 98), (112, 80, 56), (64, 52, 42)

SPECIES: dict[str, Species] = {
    "Apple": Species(
        988,
        Blade((0.66, 0.94), (0.48, 0.62), (0.56, 0.76), (0.02, 0.08),
            margin=(Teeth("serrate", (24, 32), (0.012, 0.02)),), wave=0.018),
        Venation(pairs=(6, 8), angle=(42, 52), contrast=0.20, colour=(150, 170, 130)),
        Surface(((58, 92, 68), (78, 112, 78), (60, 94, 92), (94, 126, 72)), gloss=0.25, curl=0.8,
            rugose=0.35, fold=0.5),
        Habit((0.70, 1.0), 30, petiole=(0.16, 0.40), petiole_width=0.028),
        (
            Disease("scab", 0.2, (Blotch((62, 66, 44), (0.06, 0.25), 7, 3.0, strength=(0.5, 0.8)),), 1.3),
            Disease("black rot", 0.2, (Spots((2, 9), (0.016, 0.034), (158, 124, 90), (104, 66, 48)),)),
            Disease("dead tip", 0.08, (Blotch((150, 104, 72), (0.08, 0.2), 3, 9.0, "edge"),)),
            Disease("cedar rust", 0.1, (Spots((4, 16), (0.012, 0.028), (190, 112, 40), (180, 150, 50),
                YELLOW),)),
        ),
    ),
    "Blueberry": Species(
        467,
        Blade((0.48, 0.92), (0.54, 0.72), (0.58, 0.85), (0.0, 0.04), wave=0.024),
        Venation(pairs=(5, 7), angle=(40, 50), arch=0.22, rungs=4, contrast=0.34, colour=(158, 178, 104)),
        Surface(((60, 100, 50), (84, 122, 62), (100, 136, 78)), gloss=0.8, blister=0.4, rugose=0.4, curl=1.0,
            fold=0.6),
        Habit((0.74, 0.98), 30, petiole=(0.02, 0.06), petiole_width=0.022),
    ),
    "Cherry": Species(
        583,
        Blade((0.64, 0.98), (0.60, 0.90), (0.60, 0.80), (0.07, 0.16),
            margin=(Teeth("serrate", (20, 26), (0.016, 0.026)),)),
        Venation(pairs=(6, 8), angle=(42, 50), rungs=3, contrast=0.42, midrib=1.2, colour=(154, 182, 98)),
        Surface(((84, 124, 66), (102, 142, 74), (112, 152, 84)), gloss=0.1, blister=0.35,
            curl=0.35, fold=0.25),
        Habit((0.90, 1.1), 30, petiole=(0.16, 0.32), petiole_width=0.042),
        (Disease("powdery mildew", 0.5, (Dust((196, 202, 182), (0.2, 0.55), (0.1, 0.3), 0.42),), 1.4),),
    ),
    "Corn": Species(
        1206,
        Blade((0.28, 0.44), (0.10, 0.22), (0.22, 0.50), wave=0.018),
        Venation("parallel", contrast=0.5, midrib=1.5, colour=(196, 208, 166)),
        Surface(((92, 126, 84), (122, 142, 92), (102, 150, 130), (76, 116, 56)), 0.12, gloss=0.45, curl=0.35,
            fold=0.35),
        Habit((1.3, 4.2), 18, bend=0.05, petiole=(0, 0), look_at=(0.25, 0.8)),
        (
            Disease("common rust", 0.31, (
                Blotch((160, 140, 98), (0.2, 0.9), 3, 1.5, "edge", (0.4, 0.85)),
                Spots((40, 110), (0.003, 0.007), (122, 76, 46), (136, 92, 58), stretch=1.6, ragged=0.2),
            )),
            Disease("leaf blight", 0.25, (Spots((3, 12), (0.006, 0.016), (176, 152, 116), (128, 100, 70),
                stretch=7.0),
                Blotch((150, 126, 90), (0.05, 0.35), 4, 3.0, "edge", stretch=2.0),)),
            Disease("gray leaf spot", 0.14, (
                Spots((14, 50), (0.004, 0.008), (186, 158, 112), (150, 112, 64), stretch=4.0),
                Blotch(TAN, (0.05, 0.3), 4, 5.0, "edge", stretch=3.0),
            )),
        ),
    ),
    "Grape": Species(
        1458,
        Blade((1.0, 1.0), lobes=((0, 1.0, 30), (52, 0.94, 30), (104, 0.86, 32), (146, 0.72, 24)),
              margin=(Teeth("toothed", (14, 19), (0.06, 0.11)),), wave=0.022),
        Venation("palmate", pairs=(4, 5), angle=(42, 52), rungs=2, contrast=0.40, colour=(148, 166, 100)),
        Surface(((46, 80, 44), (62, 92, 48), (90, 110, 50), (112, 136, 74)), 0.10, gloss=0.45, blister=1.0,
            rugose=0.5, curl=0.7, fold=0.3),
        Habit((0.80, 0.98), 24, petiole=(0.0, 0.08)),
        (
            Disease("black rot", 0.29, (Spots((5, 26), (0.014, 0.04), (112, 76, 50), (66, 42, 36),
                (124, 122, 62)),)),
            Disease("esca", 0.34, (
                Blotch((132, 74, 60), (0.04, 0.22), 9, 6.0, "between"),
                    Spots((2, 10), (0.014, 0.04), (128, 80, 62), (98, 52, 46)),
            )),
            Disease("leaf blight", 0.26, (
                Blotch((138, 132, 60), (0.4, 0.95), 3, 1.5, strength=(0.3, 0.7)),
                    Spots((2, 9), (0.03, 0.08), (98, 70, 44), (60, 42, 34), ragged=0.6),
            )),
        ),
    ),
    "Orange": Species(
        1748,
        Blade((0.78, 1.04), (0.54, 0.72), (0.62, 0.85), (0.0, 0.04), wave=0.014),
        Venation(pairs=(9, 12), angle=(58, 66), arch=0.10, rungs=0, contrast=0.13, midrib=0.7,
            colour=(134, 138, 72)),
        Surface(((56, 84, 36), (72, 98, 32), (98, 124, 22), (60, 82, 52)), 0.14, gloss=0.55, blister=0.14,
            rugose=0.05, curl=0.45, fold=0.45, grit=0.1),
        Habit((0.80, 0.99), 14, petiole=(0, 0.04)),
        (Disease("greening", 0.92, (
            Blotch((138, 140, 34), (0.15, 0.6), 3, 1.5, "between", (0.3, 0.8)),
                Blotch((104, 112, 46), (0.3, 0.6), 7, 1.6, "between", (0.2, 0.5)),
        )),),
    ),
    "Peach": Species(
        977,
        Blade((0.24, 0.46), (0.62, 0.85), (0.80, 1.10), (0.02, 0.08),
            margin=(Teeth("serrate", (30, 40), (0.005, 0.009)),), wave=0.030),
        Venation(pairs=(9, 12), angle=(52, 62), arch=0.16, rungs=1, contrast=0.25, midrib=0.9),
        Surface(((58, 90, 58), (84, 116, 62), (100, 132, 66)), 0.10, gloss=0.45, blister=0.45, curl=1.7,
            fold=1.1),
        Habit((0.86, 1.06), 42, bend=0.22, petiole=(0.02, 0.06), petiole_width=0.02),
        (
            Disease("bacterial spot", 0.50,
                (Spots((6, 40), (0.006, 0.016), (96, 66, 48), (82, 60, 40), (124, 136, 62)),)),
            Disease("yellowing", 0.44, (
                Blotch((188, 146, 58), (0.3, 0.98), 3, 3.0, strength=(0.75, 1.0)),
                    Spots((8, 36), (0.006, 0.018), (74, 48, 36), (110, 66, 34)),
            )),
        ),
    ),
    "Pepper": Species(
        765,
        Blade((0.74, 1.06), (0.58, 0.80), (0.74, 0.98), (0.08, 0.18), wave=0.026),
        Venation(pairs=(4, 5), angle=(40, 52), arch=0.26, rungs=1, contrast=0.42, midrib=1.2,
            colour=(146, 168, 96)),
        Surface(((58, 94, 54), (82, 112, 66), (98, 128, 66)), gloss=0.6, blister=0.9, rugose=0.12, curl=1.1,
            fold=0.5),
        Habit((0.88, 1.06), 28, petiole=(0.16, 0.34), petiole_width=0.042),
        (Disease("bacterial spot", 0.4, (
            Spots((4, 26), (0.006, 0.016), (150, 124, 94), (96, 72, 52), (122, 134, 66)),
                Blotch((112, 72, 50), (0.02, 0.1), 8, 8.0, "edge"),
        ), 1.2),),
    ),
    "Potato": Species(
        716,
        Blade((0.64, 0.90), (0.46, 0.58), (0.56, 0.74), (0.0, 0.06), wave=0.022),
        Venation(pairs=(6, 8), angle=(48, 58), arch=0.24, rungs=5, contrast=0.22, colour=(150, 170, 110)),
        Surface(((70, 108, 68), (94, 126, 74), (120, 144, 76)), gloss=0.3, blister=0.65, rugose=0.6,
            curl=0.8, fold=0.45, grit=0.55),
        Habit((0.80, 0.98), 28, petiole=(0.05, 0.12), leaflets=((-0.07, 1, 75, 0.13), (-0.08, -1, 80, 0.11)),
            leaflet_chance=0.25),
        (
            Disease("early blight", 0.46, (
                Blotch((158, 170, 84), (0.3, 0.95), 3, 1.6, strength=(0.2, 0.75)),
                Spots((4, 18), (0.014, 0.04), (118, 96, 80), (92, 74, 62), (160, 164, 84), ragged=0.5,
                    rings=0.5),
            )),
            Disease("late blight", 0.42, (Blotch((112, 92, 76), (0.08, 0.4), 3, 6.0, "tip"),
                Blotch((150, 156, 90), (0.1, 0.4), 4, 1.5, strength=(0.2, 0.5))), 1.5),
        ),
    ),
    "Raspberry": Species(
        264,
        Blade((0.82, 1.04), (0.40, 0.48), (0.70, 0.90), (0.02, 0.08), (0.03, 0.09),
              margin=(Teeth("serrate", (9, 12), (0.022, 0.034)), Teeth("serrate", (27, 33), (0.012, 0.018))),
                  wave=0.008),
        Venation(pairs=(7, 9), angle=(40, 46), arch=-0.02, rungs=5, contrast=0.34, colour=(128, 160, 76)),
        Surface(((52, 94, 36), (74, 112, 48), (88, 122, 62)), 0.07, gloss=0.4, blister=1.15, rugose=0.4,
            curl=0.5, fold=0.35),
        Habit((0.84, 0.98), 12, petiole=(0.02, 0.14), petiole_width=0.02),
    ),
    "Soybean": Species(
        1616,
        Blade((0.70, 1.0), (0.46, 0.60), (0.64, 0.90), (0.0, 0.06), wave=0.014),
        Venation(pairs=(5, 6), angle=(40, 48), arch=0.10, rungs=2, basal=True, contrast=0.30,
            colour=(142, 162, 124)),
        Surface(((76, 104, 90), (88, 114, 98), (98, 124, 100), (80, 106, 80)), 0.10, gloss=0.2, blister=0.35,
            rugose=0.3, curl=0.6, fold=0.4, grit=0.7),
        Habit((0.86, 1.02), 26, petiole=(0.02, 0.08), petiole_width=0.03),
    ),
    "Squash": Species(
        574,
        Blade((1.0, 1.0), lobes=((0, 1.0, 20), (46, 0.96, 19), (92, 0.86, 21), (140, 0.66, 26)),
              margin=(Teeth("crenate", (4, 7), (0.03, 0.08)), Teeth("toothed", (24, 34), (0.010, 0.02))),
                  wave=0.040),
        Venation("palmate", pairs=(3, 4), angle=(38, 48), rungs=2, contrast=0.25, colour=(160, 176, 124)),
        Surface(((80, 108, 60), (98, 122, 72), (112, 132, 66)), gloss=0.05, blister=0.35, rugose=0.35,
            curl=0.9, fold=0.3, grit=0.5),
        Habit((1.35, 2.1), 40, petiole=(0, 0.1), shift=0.10, look_at=(0.42, 0.9)),
        (
            Disease("powdery mildew", 0.86,
                (Dust((204, 212, 194), (0.6, 1.0), (0.25, 0.6), 0.22),
                    Blotch((146, 158, 62), (0.05, 0.25), 5, 2.0, "edge", (0.3, 0.7)))),
            Disease("light mildew", 0.14, (Dust((196, 206, 178), (0.2, 0.5), (0.2, 0.4), 0.2),)),
        ),
    ),
    "Strawberry": Species(
        673,
        Blade((0.84, 1.02), (0.58, 0.72), (0.38, 0.46), margin=(Teeth("crenate", (8, 11), (0.04, 0.06)),),
            wave=0.014),
        Venation(pairs=(7, 9), angle=(38, 46), arch=0.04, rungs=3, contrast=0.32, colour=(156, 182, 98)),
        Surface(((78, 120, 52), (92, 130, 58), (112, 142, 66)), gloss=0.45, blister=0.6, rugose=0.35,
            curl=1.0, fold=0.6),
        Habit((0.82, 1.04), 34, petiole=(0.03, 0.14), leaflets=((0.0, 1, 88, 0.95), (0.0, -1, 88, 0.95)),
            leaflet_chance=0.12),
        (
            Disease("scorch", 0.50, (Spots((14, 70), (0.008, 0.03), (104, 60, 56), (118, 64, 62),
                (146, 130, 74), ragged=0.5),)),
            Disease("red scorch", 0.28, (Blotch((140, 62, 54), (0.15, 0.7), 9, 3.0, "edge", (0.5, 0.9)),
                Spots((10, 40), (0.01, 0.03), (88, 44, 48), (116, 56, 54)))),
        ),
    ),
    "Tomato": Species(
        5693,
        Blade((0.54, 0.88), (0.42, 0.58), (0.80, 1.05), (0.0, 0.06),
              margin=(Teeth("toothed", (3, 6), (0.05, 0.17), 0.75),
                  Teeth("toothed", (9, 13), (0.012, 0.035))), wave=0.030),
        Venation(pairs=(5, 7), angle=(44, 56), arch=0.12, rungs=3, contrast=0.26, colour=(140, 156, 104)),
        Surface(((62, 88, 54), (84, 108, 64), (92, 118, 78), (78, 102, 78)), 0.10, gloss=0.2, blister=0.8,
            rugose=0.7, curl=1.0, fold=0.5, grit=0.6),
        Habit((0.76, 1.02), 32, bend=0.14, petiole=(0.05, 0.2),
            leaflets=((-0.10, 1, 62, 0.42), (-0.12, -1, 66, 0.38), (-0.2, 1, 80, 0.14)),
              leaflet_chance=0.28),
        (
            Disease("yellow curl", 0.28, (Blotch((158, 164, 62), (0.2, 0.7), 4, 1.8, "edge", (0.4, 0.85)),),
                1.7),
            Disease("bacterial spot", 0.12,
                (Spots((10, 50), (0.006, 0.014), DARK, (80, 66, 48), (124, 126, 62)),)),
            Disease("late blight", 0.11, (Blotch((104, 88, 66), (0.1, 0.4), 4, 5.0, "edge"),
                Blotch(DARK, (0.02, 0.1), 6, 6.0)), 1.3),
            Disease("septoria", 0.10, (Spots((14, 60), (0.007, 0.016), (140, 126, 104), (72, 58, 46),
                (150, 148, 70)),)),
            Disease("mites", 0.10, (Dust((164, 166, 106), (0.4, 0.9), (0.2, 0.5), 0.2),)),
            Disease("target spot", 0.08, (Spots((6, 26), (0.010, 0.024), (132, 106, 78), (84, 66, 50),
                (130, 132, 70)),)),
            Disease("early blight", 0.06, (
                Blotch(YELLOW, (0.1, 0.5), 4, 2.0),
                    Spots((3, 12), (0.02, 0.05), BROWN, DARK, GOLD, ragged=0.5, rings=0.5),
            )),
            Disease("leaf mold", 0.05, (Blotch((168, 164, 70), (0.15, 0.4), 7, 3.0),)),
            Disease("mosaic", 0.03, (Blotch((132, 150, 78), (0.3, 0.6), 9, 2.5, strength=(0.5, 0.8)),), 1.4),
        ),
    ),
}  # fmt: skip


# --- 1. Anatomy: outline and veins in leaf coordinates ----------------------------------------------------


@dataclass
class Anatomy:
    """The polylines of one leaf: arrays of shape (n, 2) that hold u and v, in leaf lengths."""

    outlines: list[np.ndarray]  # one closed polygon per leaflet, the last one on top
    veins: list[list[tuple[np.ndarray, int]]]  # per leaflet: (polyline, order: 1 midrib, 2 side vein, 3 small vein)
    stalks: list[np.ndarray]


def _draw(rng, bounds):
    return rng.uniform(*bounds)


def _add_teeth(half, teeth, rng):
    """Push the margin outwards by one layer of teeth. They lean towards the apex, most of all if they are serrate."""
    steps = np.hypot(*np.diff(half, axis=0).T)
    s = np.concatenate([[0.0], np.cumsum(steps)])
    s /= s[-1]
    count = round(_draw(rng, teeth.count))
    gaps = rng.uniform(0.6, 1.4, count)  # teeth of one margin are never evenly spaced
    phase = np.interp(s, np.concatenate([[0.0], np.cumsum(gaps)]) / gaps.sum(), np.arange(count + 1.0))
    size = rng.uniform(0.65, 1.25, count + 1)[np.minimum(phase.astype(int), count)]
    f = phase % 1.0
    shape = {
        "serrate": f**1.3,
        "toothed": 1 - np.abs(2 * f - 1),
        "crenate": np.sqrt(np.clip(1 - (2 * f - 1) ** 2, 0, 1)),
    }[teeth.kind]
    tangent = np.gradient(half, axis=0)
    tangent /= np.maximum(np.hypot(*tangent.T), 1e-9)[:, None]
    normal = np.column_stack([-tangent[:, 1], tangent[:, 0]])
    ends = np.clip(np.minimum(s / 0.06, (1 - s) / 0.04), 0, 1) * (1 - teeth.decline * s)
    push = (_draw(rng, teeth.depth) * ends * size)[:, None]
    lean = 0.9 if teeth.kind == "serrate" else 0.25
    return half + push * ((shape - 0.5)[:, None] * normal + lean * (shape**2)[:, None] * tangent)


def _half_outline(blade, width, rng, points=260):
    """Return the right-hand margin of a blade, without teeth, from base to apex: shape (points, 2), v >= 0."""
    if blade.lobes:
        theta = np.linspace(math.pi, 0, points)
        radius = np.zeros(points)
        for angle, length, half_width in blade.lobes:
            gap = (theta - math.radians(angle * rng.uniform(0.94, 1.06))) / math.radians(half_width)
            radius += (length * rng.uniform(0.9, 1.06) * np.exp(-(np.abs(gap) ** 3.5) * 0.5)) ** 5
        radius = radius**0.2
        radius *= 1 - 0.85 * np.exp(-(((theta - math.pi) / 0.28) ** 2))  # the notch at the stalk
        return np.column_stack([radius * np.cos(theta), radius * np.sin(theta)])
    base, apex, tip, heart = (_draw(rng, r) for r in (blade.base, blade.apex, blade.tip, blade.heart))
    t = 0.5 - 0.5 * np.cos(np.linspace(0, math.pi, points))
    v = t**base * (1 - t) ** apex
    v *= width / 2 / v.max()
    u = t - heart * np.sin(math.pi * np.clip(t / 0.35, 0, 1)) + tip * np.clip((t - 0.88) / 0.12, 0, 1)
    return np.column_stack([u, v])


def _vein(half, start, angle, arch, reach=0.97):
    """Make a polyline from ``start`` to the margin, at ``angle`` (radians from the midrib), arched towards the apex."""
    offset = half - start
    end = half[np.argmin(np.abs(np.arctan2(offset[:, 1], offset[:, 0]) - angle) + 9 * (offset[:, 1] <= 0))]
    end = start + (end - start) * reach
    bow = (start + end) / 2 + arch * np.hypot(*(end - start)) * np.array([-math.sin(angle), math.cos(angle)])
    f = np.linspace(0, 1, 14)[:, None]
    return (1 - f) ** 2 * start + 2 * f * (1 - f) * bow + f**2 * end


def _pinnate_half(half, venation, rng):
    """Return half a blade's side veins (order 2) and small veins between them (order 3): list of (polyline, order)."""
    pairs = rng.integers(venation.pairs[0], venation.pairs[1] + 1)
    length = half[-1, 0]
    starts = length * (0.03 + 0.85 * (np.arange(pairs) + rng.uniform(-0.18, 0.18, pairs).clip(-0.1)) / pairs)
    angle = math.radians(_draw(rng, venation.angle))
    sides = []
    for k, u in enumerate(starts):
        # Side veins nearer to the apex have smaller angles. With `basal`, the first pair starts at the base.
        lean = angle * (1.12 - 0.3 * u / length)
        start = np.array([0.0 if venation.basal and k == 0 else u, 0.0])
        sides.append(_vein(half, start, lean, venation.arch * rng.uniform(0.7, 1.3)))
    veins = [(side, 2) for side in sides]
    for low, high in itertools.pairwise(sides):
        for place in np.linspace(1, 11, venation.rungs + 1)[1:] if venation.rungs else ():
            i, j = np.clip(np.round(place + rng.uniform(-1.5, 1.5, 2)).astype(int), 0, 13)
            middle = (low[i] + high[j]) / 2 + rng.normal(0, 0.008, 2)
            veins.append((np.array([low[i], middle, high[j]]), 3))
    return veins


def _palmate_half(half, blade, venation, rng):
    """Return the veins of one half of a blade, a main vein and side veins in each lobe: list of (polyline, order).

    The order is 1 for a midrib, 2 for a side vein and 3 for a smaller vein.
    """
    veins = []
    mains = []
    for angle, *_ in blade.lobes:
        mains.append(
            np.linspace([0, 0], [0.95 * half[-1, 0], 0], 14)
            if angle == 0
            else _vein(half, np.zeros(2), math.radians(angle), 0.04)
        )
    for main in mains:
        heading = math.atan2(main[-1, 1], main[-1, 0])
        veins.append((main, 1 if heading == 0 else 2))
        for k in range(venation.pairs[1]):
            i = min(2 + 2 * k + int(rng.integers(0, 2)), 12)
            turn = math.radians(_draw(rng, venation.angle))
            length = np.hypot(*(main[-1] - main[i])) * 0.75
            for sign in (-1, 1):
                direction = np.array([math.cos(heading + sign * turn), math.sin(heading + sign * turn)])
                end = main[i] + length * direction
                if end[1] > 0:
                    veins.append(
                        (
                            np.linspace(main[i], end, 5) + np.outer(np.linspace(0, 1, 5) ** 2, [0.02, 0]),
                            2 if k == 0 else 3,
                        )
                    )
    return veins


def _leaflet(blade, venation, rng):
    """Return the closed outline of a leaflet, shape (n, 2), and its veins; stalk at (0, 0), apex near (1, 0)."""
    width = _draw(rng, blade.aspect)
    sides, veins = [], []
    for sign in (1, -1):
        smooth = _half_outline(blade, width * rng.uniform(0.94, 1.06), rng)
        half = smooth
        for teeth in blade.margin:
            half = _add_teeth(half, teeth, rng)
        sides.append(half * [1, sign])
        if venation.kind == "palmate":
            side_veins = _palmate_half(smooth, blade, venation, rng)
        elif venation.kind == "pinnate":
            side_veins = _pinnate_half(half, venation, rng)
        else:
            edges = np.sort(rng.uniform(0.04, 0.96, 16))
            side_veins = [(smooth[10:-4:8] * [1, edge], 3) for edge in edges]
        veins += [(line * [1, sign], order) for line, order in side_veins]
    midrib = np.column_stack([np.linspace(0, 0.97 * sides[0][-1, 0], 24), np.zeros(24)])
    return np.concatenate([sides[0], sides[1][::-1]]), [*veins, (midrib, 1)]


def _place(points, origin, degrees, scale):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return points @ np.array([[c, s], [-s, c]]) * scale + origin


def build_anatomy(species, rng):
    """Build the outlines, veins and stalks of one leaf at random.

    Parameters
    ----------
    species : Species
    rng : numpy.random.Generator

    Returns
    -------
    Anatomy
        Polylines in leaf coordinates (float64, leaf lengths), side leaflets first, the main blade last.
    """
    habit, blade = species.habit, species.blade
    anatomy = Anatomy([], [], [])
    length = _draw(rng, habit.petiole)
    if habit.leaflets and rng.random() < habit.leaflet_chance:
        chosen = habit.leaflets[: int(rng.integers(1, len(habit.leaflets) + 1))]
        for u, side, degrees, scale in chosen:
            outline, veins = _leaflet(blade, species.veins, rng)
            spot = (
                (u, side * 0.05 * (scale < 0.9)),
                side * degrees * rng.uniform(0.8, 1.2),
                scale * rng.uniform(0.75, 1.2),
            )
            anatomy.outlines.append(_place(outline, *spot))
            anatomy.veins.append([(_place(line, *spot), order) for line, order in veins])
            length = max(length, -u + 0.05)
            anatomy.stalks.append(np.array([[u, 0.0], spot[0], anatomy.outlines[-1][6]]))
    outline, veins = _leaflet(blade, species.veins, rng)
    anatomy.outlines.append(outline)
    anatomy.veins.append(veins)
    if length > 0:
        f = np.linspace(0, 1, 12)
        sag = rng.normal(0, 0.2) * length * f**2
        anatomy.stalks.append(np.column_stack([0.04 - (length + 0.04) * f, sag]))
    return anatomy


# --- 2. Pose: from leaf coordinates to the frame ----------------------------------------------------------


@dataclass
class Pose:
    """A map from leaf coordinates to pixels: a warp (ripples), a bend (arc of the midrib), then a linear map."""

    matrix: np.ndarray  # (2, 2), columns are the images of u and v
    offset: np.ndarray  # (2,) pixels
    bend: float
    ripples: np.ndarray  # (k, 5): wave numbers ku, kv, phase, amplitudes du, dv

    def shape(self, points):
        """Warp and bend points (n, 2), still in leaf coordinates."""
        ku, kv, phase, du, dv = self.ripples.T
        ripple = np.sin(np.outer(points[:, 0], ku) + np.outer(points[:, 1], kv) + phase)
        warped = points + np.column_stack([ripple @ du, ripple @ dv])
        return warped + np.column_stack([np.zeros(len(points)), self.bend * (warped[:, 0] - 0.5) ** 2 * 2])

    def to_pixels(self, points):
        """Map points (n, 2) to pixel coordinates (x, y)."""
        return self.shape(points) @ self.matrix.T + self.offset

    def lay_out(self, anatomy):
        """Return a leaf's `Anatomy` in pixels. For speed, all polylines are mapped in one call of `to_pixels`."""
        lines = [*anatomy.outlines, *anatomy.stalks, *(line for veins in anatomy.veins for line, _ in veins)]
        ends = np.cumsum([len(line) for line in lines])
        placed = iter(np.split(self.to_pixels(np.concatenate(lines)), ends[:-1]))
        outlines = [next(placed) for _ in anatomy.outlines]
        stalks = [next(placed) for _ in anatomy.stalks]
        veins = [[(next(placed), order) for _, order in veins] for veins in anatomy.veins]
        return Anatomy(outlines, veins, stalks)

    def to_leaf(self, n):
        """Return u and v of every pixel of an n x n frame, float32, without the small ripples."""
        y, x = np.mgrid[0:n, 0:n].astype(np.float32)
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        x, y = x - np.float32(self.offset[0]), y - np.float32(self.offset[1])
        u = inverse[0, 0] * x + inverse[0, 1] * y
        v = inverse[1, 0] * x + inverse[1, 1] * y
        return u, v - np.float32(2 * self.bend) * (u - np.float32(0.5)) ** 2

    @property
    def scale(self):
        """Return the number of pixels per leaf length."""
        return math.sqrt(abs(np.linalg.det(self.matrix)))


def choose_pose(species, anatomy, n, rng):
    """Choose at random how a leaf lies in an n x n frame, as `species.habit` describes; return the `Pose`."""
    habit = species.habit
    k = 4
    ripples = np.column_stack([
        rng.uniform(2, 9, k), rng.uniform(-8, 8, k), rng.uniform(0, 2 * math.pi, k),
        rng.normal(0, species.blade.wave * 0.5, k), rng.normal(0, 0.9 * species.blade.wave, k),
    ])  # fmt: skip
    turn = math.radians(rng.normal(0, habit.turn))
    if rng.random() < 0.02:
        turn += rng.uniform(-math.pi, math.pi)
    tilt, squeeze = rng.uniform(0, math.pi), rng.uniform(0.86, 1.0)
    axis = np.array([math.cos(tilt), math.sin(tilt)])
    view = np.eye(2) - (1 - squeeze) * np.outer(axis, axis)  # seen at an angle, a leaf is shorter in one direction
    c, s = math.cos(turn), math.sin(turn)
    matrix = view @ np.array([[s, c], [-c, s]])  # u points up, v to the right
    pose = Pose(matrix, np.zeros(2), rng.normal(0, habit.bend), ripples)
    points = pose.to_pixels(np.concatenate(anatomy.outlines))
    low, high = points.min(axis=0), points.max(axis=0)
    centre = (low + high) / 2
    fill = _draw(rng, habit.fill)
    if habit.look_at is not None:
        centre = pose.to_pixels(np.array([[_draw(rng, habit.look_at), rng.uniform(-0.2, 0.2) / fill]]))[0]
    zoom = n * fill / (high - low).max()
    pose.matrix = matrix * zoom
    pose.offset = n * (0.5 + rng.normal(0, habit.shift, 2)) - centre * zoom
    return pose


# --- 3. Pigment: colour of blade, veins and diseases ------------------------------------------------------


def fractal_noise(rng, n, cells, octaves=2, stretch=1.0):
    """Return smooth noise, float32 (n, n), mean 0 and standard deviation about 1, with ``cells`` waves across."""
    total = None
    for octave in range(octaves):  # each finer grid is added to the enlarged sum of the coarser grids
        rows, columns = (max(2, round(cells * 2**octave / k)) + 1 for k in (stretch, 1.0))
        grid = rng.normal(0, 1.25 * 0.65**octave, (rows, columns)).astype(np.float32)
        total = grid if total is None else grid + _enlarge(total, (columns, rows))
    return _enlarge(total, (n, n))


def _enlarge(grid, size):
    return np.asarray(Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC))


@dataclass
class Canvas:
    """The properties of one leaf at each pixel of a frame: float32, shape (n, n); distances in leaf lengths."""

    n: int
    rng: np.random.Generator
    pose: Pose
    u: np.ndarray
    v: np.ndarray
    mask: np.ndarray  # coverage 0-1 of the blade
    stalk: np.ndarray
    veins: dict[int, np.ndarray]  # vein order (see `Anatomy`) -> coverage
    vein_distance: np.ndarray  # to midrib and side veins
    rung_distance: np.ndarray  # to any vein
    edge_distance: np.ndarray


def _distance(inside, scale):
    """Compute each pixel's distance (leaf lengths) to the nearest False pixel, at half resolution for speed."""
    coarse = ndimage.distance_transform_edt(inside[::2, ::2]).astype(np.float32) * np.float32(2 / scale)
    image = Image.fromarray(coarse).resize(inside.shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image)


def draw_anatomy(species, anatomy, pose, n, rng):
    """Draw outlines and veins into pixel fields; return a `Canvas`."""
    layers = {key: Image.new("L", (n, n)) for key in ("mask", "stalk", 1, 2, 3)}
    pens = {key: ImageDraw.Draw(layer) for key, layer in layers.items()}
    unit = pose.scale
    widths = {1: 0.017 * species.veins.midrib, 2: 0.008, 3: 0.004}

    anatomy = pose.lay_out(anatomy)

    def stroke(pen, line, width, taper=0.0):
        points = [*map(tuple, line.tolist())]
        pieces = 3 if taper and width * unit > 1.5 else 1  # a vein thins out in three steps
        for k in range(pieces):
            low, high = (round(j * (len(points) - 1) / pieces) for j in (k, k + 1))
            pixels = max(1, round(width * unit * (1 - taper * k / pieces)))
            pen.line(points[low : high + 1], fill=255, width=pixels)

    for line in anatomy.stalks:
        stroke(pens["stalk"], line, species.habit.petiole_width)
    for outline, veins in zip(anatomy.outlines, anatomy.veins, strict=True):
        polygon = [*map(tuple, outline.tolist())]
        for order in (1, 2, 3):
            pens[order].polygon(polygon, fill=0)  # a leaflet hides the veins of the leaflets below it
        pens["mask"].polygon(polygon, fill=255)
        pens[2].line([*polygon, polygon[0]], fill=120, width=1)
        for line, order in veins:
            stroke(pens[order], line, widths[order], 0.6)
    fields = {key: np.asarray(layer, dtype=np.float32) / 255 for key, layer in layers.items()}
    u, v = pose.to_leaf(n)
    main = (fields[1] + fields[2]) > 0.6
    return Canvas(
        n, rng, pose, u, v, fields["mask"], fields["stalk"], {k: fields[k] for k in (1, 2, 3)},
        _distance(~main, unit), _distance(~(main | (fields[3] > 0.6)), unit), _distance(fields["mask"] > 0.5, unit),
    )  # fmt: skip


def _blend(image, colour, alpha):
    alpha = alpha.astype(np.float32, copy=False)
    for plane, value in zip(image, colour, strict=True):
        plane += (np.float32(value / 255) - plane) * alpha


def _spot_field(canvas, count, radius, stretch, ragged):
    """Place spots at random; return how far each pixel is from the nearest spot: float32, shape (n, n).

    The distance is measured from the spot's centre, in radii of this spot. Pixels far from all spots get 9.
    """
    n, rng = canvas.n, canvas.rng
    nearest = np.full((n, n), 9.0, np.float32)
    rows, columns = np.nonzero(canvas.mask[::4, ::4] > 0.5)
    if len(rows) == 0:
        return nearest
    wobble = 1 + np.float32(ragged) * fractal_noise(rng, n, 36, 2).clip(-1.2, 1.6)
    for _ in range(count):
        k = rng.integers(len(rows))
        y, x = 4 * rows[k] + int(rng.integers(4)), 4 * columns[k] + int(rng.integers(4))
        y, x = min(y, n - 1), min(x, n - 1)
        size = radius[0] * (radius[1] / radius[0]) ** rng.random()
        reach = int(size * 2.4 * max(stretch, 1) * canvas.pose.scale) + 2
        box = np.s_[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach]
        du = (canvas.u[box] - canvas.u[y, x]) / stretch
        distance = np.hypot(du, canvas.v[box] - canvas.v[y, x]) / size
        nearest[box] = np.minimum(nearest[box], distance * wobble[box])
    return nearest


def _fade(field_, edge, width):
    """Return 1 where ``field_`` is below ``edge`` and 0 where it is above, with a linear transition of ``width``."""
    return np.clip((edge - field_) / width + 0.5, 0, 1)


def _paint_spots(image, spots, canvas):
    count = int(canvas.rng.integers(spots.count[0], spots.count[1] + 1))
    distance = _spot_field(canvas, count, spots.radius, spots.stretch, spots.ragged)
    if spots.halo is not None:
        _blend(image, spots.halo, _fade(distance, 1.55, 0.9) * (0.6 * spots.strength))
    _blend(image, spots.rim, _fade(distance, 1.0, 0.3) * spots.strength)
    core = _fade(distance, 0.68, 0.3) * spots.strength
    if spots.rings:
        core = core * (1 - spots.rings * (0.5 + 0.5 * np.cos(distance * 14)))
    _blend(image, spots.core, core)


def _paint_blotch(image, blotch, canvas):
    rng = canvas.rng
    noise = fractal_noise(rng, canvas.n, blotch.cells, 5, blotch.stretch)
    if blotch.where == "edge":
        noise = noise - 16 * np.minimum(canvas.edge_distance, 0.2)
    elif blotch.where == "tip":
        heading = rng.uniform(0, 2 * math.pi)  # the leaf dies from the tip, the base or one side
        noise = noise + 6 * (math.cos(heading) * canvas.u + math.sin(heading) * canvas.v)
    elif blotch.where == "between":
        noise = noise + 18 * np.minimum(canvas.vein_distance, 0.06)
    inside = noise[canvas.mask > 0.5][::7]
    if len(inside):
        level = np.quantile(inside, 1 - min(_draw(rng, blotch.cover), 0.99))
        alpha = np.clip(0.5 + (noise - level) * blotch.hard * 0.35, 0, 1)
        _blend(image, blotch.colour, alpha * np.float32(_draw(rng, blotch.strength)))


def _paint_dust(image, dust, canvas):
    rng, n = canvas.rng, canvas.n
    patches = fractal_noise(rng, n, 5, 5)
    level = np.quantile(patches, 1 - min(_draw(rng, dust.cover), 0.99))
    film = np.clip(0.5 + (patches - level) * 0.55, 0, 1)
    grains = np.clip(fractal_noise(rng, n, 110, 1) - 0.2, 0, 1)
    grains += np.clip(fractal_noise(rng, n, 30, 1) - 0.8, 0, 1)
    alpha = film * (np.float32(dust.film) + np.float32(_draw(rng, dust.grain)) * grains)
    _blend(image, dust.colour, np.clip(alpha, 0, 0.92))


PAINTERS = {Spots: _paint_spots, Blotch: _paint_blotch, Dust: _paint_dust}


def choose_disease(species, rng):
    """Choose one of the species' diseases at random, according to their shares; None means a healthy leaf."""
    at = rng.random()
    for disease in species.diseases:
        if at < disease.share:
            return disease
        at -= disease.share
    return None


def paint_blade(species, disease, canvas):
    """Return the colour of the leaf before any light falls on it, float32 (3, n, n), 0-1."""
    rng, surface, n = canvas.rng, species.surface, canvas.n
    weights = rng.dirichlet(np.full(len(surface.colours), 1.2))
    colour = weights @ np.array(surface.colours) / 255
    colour = colour * math.exp(rng.normal(0, surface.spread)) * np.exp(rng.normal(0, 0.02, 3))
    image = np.tile(colour.astype(np.float32)[:, None, None], (1, n, n))
    tone = 0.06 * fractal_noise(rng, n, 5, 3) + 0.035 * fractal_noise(rng, n, 60, 1)
    image *= 1 + tone
    image[2] *= 1 + 0.045 * fractal_noise(rng, n, 8, 4)  # chlorophyll is uneven: yellower and bluer regions
    if species.veins.kind == "parallel":
        # Parallel veins are less than a pixel apart. They are painted as noise that varies only across the blade.
        stripes = rng.normal(size=512).astype(np.float32)
        fine, coarse = (stripes[(canvas.v * k).astype(int) % 512] for k in (320, 90))
        image *= 1 + 0.07 * fine + 0.06 * coarse
    for layer in disease.layers if disease else ():
        PAINTERS[type(layer)](image, layer, canvas)
    pale = species.veins.contrast * rng.uniform(0.6, 1.3)
    for order, share in ((3, 0.35), (2, 0.8), (1, 1.5)):
        _blend(image, species.veins.colour, np.clip(canvas.veins[order] * pale * share, 0, 0.95))
    stalk = 0.5 * colour + 0.5 * np.array(species.veins.colour) / 255
    outside = canvas.stalk * (1 - canvas.mask)
    _blend(image, stalk * 255, outside)
    return image


# --- 4. Relief and light -----------------------------------------------------------------------------------


@dataclass
class Light:
    """One lamp: ``direction`` towards it (unit vector, y down), ``sun`` from 0 overcast to 1 hard sunlight."""

    direction: np.ndarray
    sun: float


def choose_light(rng):
    """Choose a lamp at random; most lamps are at the upper edge of the frame."""
    azimuth = math.radians(rng.normal(-90, 60))
    height = math.radians(rng.uniform(34, 62))
    direction = [math.cos(height) * math.cos(azimuth), math.cos(height) * math.sin(azimuth), math.sin(height)]
    return Light(np.array(direction, np.float32), float(rng.beta(1.9, 1.2)))


def build_relief(species, disease, canvas):
    """Return the height of the blade above the paper in leaf lengths, float32 (n, n)."""
    rng, surface, n = canvas.rng, species.surface, canvas.n
    curl = surface.curl * (disease.curl if disease else 1.0) * rng.uniform(0.4, 1.2)
    frame = min(1.0, n / canvas.pose.scale)  # below 1 if a leaf is larger than the frame; factor for its waves
    height = np.float32(0.022 * curl * frame) * fractal_noise(rng, n, 3, 2)
    across = np.abs(canvas.v)
    height += np.float32(surface.fold * rng.normal(0, 0.32)) * np.sqrt(across**2 + np.float32(4e-4))
    # The margin ripples more than the middle: waves along u that grow with the distance from the midrib.
    pitch, lag = np.float32(rng.uniform(10, 22)), np.float32(rng.uniform(0, 6))
    waves = np.sin(canvas.u * pitch + lag * np.sign(canvas.v))
    height += np.float32(0.10 * curl * frame) * rng.uniform(0.3, 1.0) * waves * across**1.5
    blister, rugose = surface.blister * rng.uniform(0.6, 1.3), surface.rugose * rng.uniform(0.6, 1.3)
    bulge = np.float32(0.021 * blister) * (1 - np.exp(-canvas.vein_distance / 0.022))
    bulge += np.float32(0.010 * rugose) * (1 - np.exp(-canvas.rung_distance / 0.009))
    height += ndimage.gaussian_filter(bulge, 0.004 * canvas.pose.scale)
    return height.astype(np.float32)


def shade(image, species, height, light, canvas):
    """Light the leaf: return its shaded colour, float32 (3, n, n)."""
    rng, surface = canvas.rng, species.surface
    dy, dx = np.gradient(height * np.float32(canvas.pose.scale))
    grit = fractal_noise(rng, canvas.n, canvas.n // 2, 1) * np.float32(0.02 + 0.09 * surface.grit)
    nx, ny = -dx + grit, -dy + grit[::-1]
    norm = 1 / np.sqrt(nx * nx + ny * ny + 1)
    lx, ly, lz = light.direction
    lambert = np.clip((nx * lx + ny * ly + lz) * norm, 0, 1) / lz
    ambient = 0.62 - 0.40 * light.sun
    # Sunlight is warm, the sky that fills the shade is blue.
    warmth = np.array([0.04, 0.0, -0.08], np.float32)[:, None, None] * np.float32(light.sun)
    lit = image * (ambient * (1 - 3 * warmth) + (1 - ambient) * lambert * (1 + warmth))
    # Blinn's highlight for a viewer straight above; the wax of glossy leaves also mirrors the pale sky.
    half = light.direction + np.array([0, 0, 1], np.float32)
    hx, hy, hz = half / np.linalg.norm(half)
    facing = np.clip((nx * hx + ny * hy + hz) * norm, 0, 1)
    gloss = surface.gloss * rng.uniform(0.5, 1.3) * (0.35 + 0.65 * light.sun)
    shine = (
        gloss * (0.55 * facing**60 + 0.14 * facing**12)
        + 0.8 * surface.grit * light.sun * np.clip(grit * 4, 0, 1) * facing**12
    )
    return lit + shine * np.array([0.96, 0.98, 1.0], np.float32)[:, None, None]


def _shifted(image, dx, dy):
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, -dx, 0, 1, -dy))


def _shadow(coverage, light, rng, n):
    """Return the share of light that the leaf's shadow takes from each pixel of the paper: float32, shape (n, n).

    The edges of the shadow are soft under clouds. In the sun the shadow is hard and offset.
    """
    throw = n * rng.uniform(0.006, 0.07) * (0.25 + light.sun)
    image = Image.fromarray((coverage * 255).astype(np.uint8))
    total = np.zeros((n, n), np.float32)
    softness = n * (0.003 + 0.02 * (1 - light.sun) ** 1.5)
    for share in (0.5, 1.0):  # the distance between leaf and paper varies
        dx, dy = -1.5 * throw * share * light.direction[:2]
        blurred = _shifted(image, dx, dy).filter(ImageFilter.GaussianBlur(softness * (0.5 + share)))
        total = np.maximum(total, np.asarray(blurred, np.float32) / 255)
    return total * np.float32(0.30 + 0.58 * light.sun)


def paint_paper(light, n, rng):
    """Return plain paper with grain, a gradient of light and vignetting, float32 (3, n, n).

    The paper does not depend on the species. In the original photos the paper reveals the species; here it must not.
    """
    if rng.random() < DARK_PAPER:
        return np.zeros((3, n, n), np.float32)
    papers = np.array(PAPERS) / 255
    colour = rng.dirichlet(np.full(len(papers), 1.2)) @ papers
    colour = colour * np.exp(rng.normal(0, 0.07)) * np.exp(rng.normal(0, 0.012, 3))
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n - np.float32(0.5)
    slope = rng.normal(0, 0.16, 2)
    field_ = 1 + slope[0] * x + slope[1] * y - rng.uniform(0, 0.35) * (x * x + y * y)
    field_ += 0.02 * fractal_noise(rng, n, 4, 2)
    grain = rng.uniform(0.015, 0.05) * (0.6 + light.sun)
    speckle = fractal_noise(rng, n, n // 3, 1) + rng.standard_normal((n, n), dtype=np.float32)
    field_ += 0.6 * grain * speckle
    return colour.astype(np.float32)[:, None, None] * field_.astype(np.float32)


def damage(canvas):
    """Cut a few holes and bites out of the blade, in place, on about one leaf in six."""
    rng = canvas.rng
    if rng.random() < 0.17:
        size = min(1.0, canvas.n / canvas.pose.scale)
        holes = _spot_field(canvas, int(rng.integers(1, 5)), (0.008 * size, 0.045 * size), 1.0, 0.5)
        canvas.mask = canvas.mask * (holes > 1)


# --- 5. Camera and the whole picture -----------------------------------------------------------------------


def photograph(scene, size, rng):
    """Turn a lit scene, float32 (3, n, n), into an 8-bit RGB image of ``size`` pixels a side."""
    n = scene.shape[1]
    balance = np.exp(rng.normal(0, 0.01, 3) + rng.normal(0, 0.018) * np.array([1, 0, -1]))
    scene = scene * (255 * balance * math.exp(rng.normal(0, 0.06))).astype(np.float32)[:, None, None]
    image = Image.fromarray(np.ascontiguousarray(np.clip(scene, 0, 255).astype(np.uint8).transpose(1, 2, 0)))
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(n * rng.uniform(0.001, 0.005)))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(0.5, 3.5), (size, size, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render_leaf(species, rng, size=128):
    """Render one leaf on paper.

    Parameters
    ----------
    species : str
        A key of ``SPECIES``, such as "Apple".
    rng : numpy.random.Generator
        The only source of randomness: equal states give equal images.
    size : int
        Side of the image in pixels, at least 32.

    Returns
    -------
    PIL.Image.Image
        RGB, size x size pixels, 8 bits per channel.

    Raises
    ------
    ValueError
        If the species is unknown or the size too small.
    """
    if species not in SPECIES:
        raise ValueError(f"Unknown species {species!r}; known are {', '.join(SPECIES)}.")
    if size < MIN_SIZE:
        raise ValueError(f"The image size must be at least {MIN_SIZE} pixels, not {size}.")
    plan, n = SPECIES[species], SUPERSAMPLE * size
    anatomy = build_anatomy(plan, rng)
    pose = choose_pose(plan, anatomy, n, rng)
    canvas = draw_anatomy(plan, anatomy, pose, n, rng)
    damage(canvas)
    light, disease = choose_light(rng), choose_disease(plan, rng)
    leaf = shade(paint_blade(plan, disease, canvas), plan, build_relief(plan, disease, canvas), light, canvas)
    coverage = np.maximum(canvas.mask, canvas.stalk)
    paper = paint_paper(light, n, rng)
    paper *= 1 - _shadow(coverage, light, rng, n)
    return photograph(paper + (leaf - paper) * coverage, size, rng)


# --- The data set ------------------------------------------------------------------------------------------


def class_counts(count):
    """Divide ``count`` images among the species in proportion to the photos of the original study.

    The shares with the largest remainders are rounded up, and every species gets at least 5 images.

    Parameters
    ----------
    count : int

    Returns
    -------
    dict of str to int
        Images per species; the values sum to ``count``.

    Raises
    ------
    ValueError
        If ``count`` is too small for 5 images of each species.
    """
    least = MIN_PER_CLASS * len(SPECIES)
    if count < least:
        raise ValueError(
            f"The count must be at least {least}, {MIN_PER_CLASS} for each of {len(SPECIES)} species, not {count}."
        )
    photos = np.array([plan.photos for plan in SPECIES.values()])
    exact = count * photos / photos.sum()
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: count - shares.sum()]] += 1
    while shares.min() < MIN_PER_CLASS:  # the largest class gives one image to the smallest
        shares[shares.argmax()] -= 1
        shares[shares.argmin()] += 1
    return dict(zip(SPECIES, shares.tolist(), strict=True))


def _render_file(task):
    folder, species, number, size, seed = task
    rng = np.random.default_rng([seed, list(SPECIES).index(species), number])
    render_leaf(species, rng, size).save(Path(folder) / species / f"{species}_{number:04d}.jpg", quality=92)


def render_dataset(out, count=1000, size=128, seed=0, workers=None):
    """Render a data set of one folder per species.

    The set is rendered in a hidden folder beside ``out`` and renamed when complete, so ``out`` never holds an
    incomplete set. Worker processes are spawned, so a script that calls this function needs
    ``if __name__ == "__main__"``.

    Parameters
    ----------
    out : str or pathlib.Path
        Folder to create; it may exist if it is empty.
    count : int
        Number of images, divided among the species by `class_counts`.
    size : int
        Side of each image in pixels.
    seed : int
        Equal seeds give equal bytes, whatever the number of workers.
    workers : int, optional
        Number of processes; the default is one per processor. With 1 the images are rendered in this process.

    Returns
    -------
    pathlib.Path
        ``out``, holding ``<Species>/<Species>_0001.jpg`` and so on.

    Raises
    ------
    ValueError
        If count, size, seed or workers is out of range, or ``out`` is a file or a folder that is not empty.
    """
    out = Path(out)
    counts = class_counts(count)
    if size < MIN_SIZE:
        raise ValueError(f"The image size must be at least {MIN_SIZE} pixels, not {size}.")
    if seed < 0:
        raise ValueError(f"The seed must not be negative, but is {seed}.")
    workers = os.cpu_count() or 1 if workers is None else workers
    if workers < 1:
        raise ValueError(f"The number of workers must be at least 1, not {workers}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; name another one or remove it first.")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-partial-", dir=out.parent))
    try:
        for species in counts:
            (partial / species).mkdir()
        numbers = [(name, k) for name, total in counts.items() for k in range(1, total + 1)]
        tasks = [(str(partial), name, k, size, seed) for name, k in numbers]
        _render_all(tasks, workers)
        partial.chmod(0o755)  # mkdtemp makes folders that only the owner can read
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return out


def _render_all(tasks, workers):
    bar = {"total": len(tasks), "desc": "Rendering leaves", "unit": "leaf", "mininterval": 0.5}
    if workers == 1:
        for task in tqdm(tasks, **bar):
            _render_file(task)
        return
    # Spawned workers inherit no threads or locks of a library (TensorFlow, say) that is already loaded.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), end_with_parent)
    try:
        for _ in tqdm(pool.map(_render_file, tasks, chunksize=8), **bar):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def main(arguments=None):
    """Run the command line; exit with status 2 and one sentence if an argument is bad."""
    parser = argparse.ArgumentParser(description="Render a data set of leaves of 14 crop species.")
    parser.add_argument("--out", type=Path, required=True, help="folder to create, with one sub-folder per species")
    parser.add_argument("--count", type=int, default=1000, help="number of images (default: 1000)")
    parser.add_argument("--size", type=int, default=128, help="side of an image in pixels (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal images (default: 0)")
    options = parser.parse_args(arguments)
    try:
        out = render_dataset(options.out, options.count, options.size, options.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"Rendered {options.count} leaves into {out}.", file=sys.stderr)


if __name__ == "__main__":
    main()
