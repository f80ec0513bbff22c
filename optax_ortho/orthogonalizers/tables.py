"""The published tables of coefficients.

`COEFFICIENTS` has them by name. Which are safe is computed and not claimed: see
`Coefficients.certificate`. Three are not, and are refused unless asked for with
``unsafe=True``: ``root_2048x2048`` leaves its interval after five steps, ``aol_4`` is
negative near 1, and ``cans`` has no room above 1 for rounding.
"""

from collections.abc import Iterable

from optax_ortho.orthogonalizers.coefficients import Coefficients
from optax_ortho.orthogonalizers.polar_express import polar_express

_JORDAN = (3.4445, -4.7750, 2.0315)
_DAO = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
_MODULA = (
    (3955, -8306, 5008),
    (3735, -6681, 3463),
    (3799, -6499, 3211),
    (4019, -6385, 2906),
    (2677, -3029, 1162),
    (2172, -1833, 682),
)

KELLER_JORDAN = Coefficients(
    "keller_jordan", (_JORDAN,), "KellerJordan/Muon, muon.py", steps=5
)
YOU5 = Coefficients(
    "you5",
    (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "You Jiacheng; microsoft/dion, newton_schulz_triton.py",
)
POLAR_EXPRESS = Coefficients(
    "polar_express",
    (
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ),
    "polar_express(1e-3, 5, 1.02, 0.02); microsoft/dion, polar_express.py",
    bound=1.02,
)

_TABLES: Iterable[Coefficients] = (
    KELLER_JORDAN,
    YOU5,
    POLAR_EXPRESS,
    Coefficients(
        "you6",
        tuple((a / 1024, b / 1024, c / 1024) for a, b, c in _MODULA),
        "You Jiacheng; modula-systems/modula, atom.py",
    ),
    Coefficients(
        "polar_express_dao",
        tuple((a / 1.05, b / 1.05**3, c / 1.05**5) for a, b, c in _DAO),
        "polar_express(1e-3, 5, 1, 0.02407327), every row with safety 1.05; "
        "Dao-AILab/gram-newton-schulz",
    ),
    Coefficients(
        "polar_express_10",
        polar_express(1e-3, 10, 1.01, 0.02).rows,
        "the default of NoahAmsel/PolarExpress, polar_express.py",
        bound=1.01,
    ),
    Coefficients(
        "polar_express_8",
        (
            (8.2051, -22.9019, 16.4607),
            (4.0664, -2.8612, 0.5184),
            (3.9096, -2.8234, 0.5250),
            (3.2856, -2.4153, 0.4853),
            (2.2779, -1.6198, 0.3985),
            (1.8726, -1.2307, 0.3585),
            (1.8564, -1.2132, 0.3568),
            (1.8750, -1.2500, 0.3750),
        ),
        "NVIDIA-NeMo/Emerging-Optimizers, muon_utils.py",
    ),
    Coefficients(
        "cans",
        (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        ),
        "NVIDIA-NeMo/Emerging-Optimizers, muon_utils.py; "
        "polar_express(1e-3, 5, 1, 0) in four digits",
    ),
    Coefficients(
        "aol_4",
        (
            (4.0098, -7.0585, 2.4635),
            (3.4585, -5.5479, 2.5959),
            (2.7573, -3.2939, 1.4254),
            (2.7215, -3.0494, 1.3169),
        ),
        "NVIDIA-NeMo/Emerging-Optimizers, muon_utils.py; for the prescaling `aol`",
    ),
    Coefficients(
        "aol_4_flash",
        (
            (4.6051, -9.6552, 5.6769),
            (4.7505, -6.0861, 2.1790),
            (2.7763, -2.3190, 0.5523),
            (2.4231, -2.2861, 0.8193),
        ),
        "flash-newton-schulz, 2025-09; for the prescaling `aol`",
    ),
    Coefficients(
        "deepseek_v4",
        (_JORDAN,) * 8 + ((2.0, -1.5, 0.5),) * 2,
        "DeepSeek-V4; NVIDIA-NeMo/Emerging-Optimizers, muon_utils.py",
    ),
    Coefficients(
        "cubic5",
        (
            (3.3656576, -3.3420992, 0.0),
            (2.5744352, -1.4957376, 0.0),
            (2.5368962, -1.4312570, 0.0),
            (2.4418906, -1.2764040, 0.0),
            (2.2230472, -0.9630650, 0.0),
        ),
        "arXiv 2606.00371",
    ),
    Coefficients("taylor_3", ((1.5, -0.5, 0.0),), "Taylor of order 3", steps=5),
    Coefficients("taylor_5", ((15 / 8, -10 / 8, 3 / 8),), "Taylor of order 5", steps=5),
    Coefficients(
        "pade", ((2.0, -1.5, 0.5),), "the fixed quintic of early Muon", steps=5
    ),
    Coefficients(
        "bernstein", ((3.0, -16 / 5, 6 / 5),), "Bernstein and Newhouse 2024", steps=5
    ),
    *(
        Coefficients(
            f"root_{shape}", (row,), f"huawei-noah/noah-research, ROOT, {shape}", 5
        )
        for shape, row in {
            "2048x2048": (3.4916, -4.8224, 2.1095),
            "2048x16384": (3.1943, -3.8221, 1.5322),
            "2048x3072": (3.4509, -4.5790, 1.9325),
            "2048x8192": (2.9794, -3.6674, 1.6207),
        }.items()
    ),
)

COEFFICIENTS = {table.name: table for table in _TABLES}
"""Every published table, by name."""
