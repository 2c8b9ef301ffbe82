"""Numbers of the paper, typed from it: Chen, Li, Tang, Probing then Editing, arXiv 2511.09414, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SOURCE: Final = "Chen, Li and Tang, arXiv 2511.09414"
Line = tuple[float | None, ...]

# Table 6: Acc_f, Acc_r, Acc_ft, Acc_rt, H-Mean, MIA. Its Bad Teacher stands beside ours without retained windows: the
# text names only Finetune and SCRUB as having them.
T6: Final[Mapping[str, Mapping[str, Line]]] = {
    "cwru": {
        "original": (98.92, 99.04, 91.22, 92.05, None, 97.95),
        "retrain": (0.0, 98.71, 0.0, 92.46, 95.10, None),
        "negative_gradient": (10.15, 83.65, 6.28, 75.25, 81.40, 7.55),
        "boundary_shrink": (6.65, 91.35, 6.60, 83.97, 83.42, 2.80),
        "delete": (1.75, 96.58, 1.06, 94.21, 92.58, 0.05),
        "bad_teacher": (1.95, 92.32, 17.50, 88.15, 82.46, 0.55),
        "pte_published": (0.0, 98.66, 0.0, 92.00, 94.78, 0.0),
    },
    "rig": {  # SCUT-FD, which is not public; the rig has its shape
        "original": (100.0, 99.08, 70.12, 80.79, None, 98.23),
        "retrain": (0.0, 99.07, 0.0, 80.64, 73.93, None),
        "negative_gradient": (2.30, 97.08, 3.03, 73.55, 69.72, 1.00),
        "boundary_shrink": (1.56, 96.54, 1.90, 71.45, 68.27, 0.50),
        "delete": (0.50, 97.70, 1.00, 76.65, 72.32, 1.25),
        "bad_teacher": (1.80, 97.46, 3.50, 73.92, 68.94, 0.20),
        "pte_published": (0.0, 98.45, 0.0, 78.90, 73.70, 0.0),
    },
}

# Table 1, CIFAR-10: as table 6.
T1: Final[Mapping[str, Mapping[str, Line]]] = {
    "cifar10": {
        "original": (99.40, 99.10, 96.50, 93.69, None, 98.00),
        "retrain": (0.0, 99.71, 0.0, 95.00, 97.10, None),
        "random_label": (17.12, 95.88, 35.50, 90.62, 77.03, 0.09),
        "negative_gradient": (0.0, 17.55, 0.0, 17.63, 29.79, 8.75),
        "boundary_shrink": (1.08, 74.76, 3.80, 74.04, 83.36, 0.32),
        "boundary_expand": (20.88, 96.61, 28.70, 91.00, 81.52, 0.80),
        "delete": (2.62, 98.82, 2.90, 93.48, 95.12, 0.01),
        "bad_teacher": (45.92, 95.41, 67.40, 89.96, 78.62, 0.27),
        "imp": (0.0, 19.20, 0.0, 19.59, 35.30, 1.00),
        "scrub": (0.44, 98.09, 0.40, 93.94, 96.68, 0.0),
        "finetune": (98.16, 99.38, 93.30, 94.00, 6.21, 0.91),
        "sure": (10.16, 98.19, 9.75, 90.08, 82.35, 10.07),
        "pte_published": (0.0, 99.02, 0.0, 94.11, 96.81, 0.0),
    },
}

# Table 4, CIFAR-100: Acc_f, Acc_r, Acc_ft, Acc_rt.
T4: Final[Mapping[str, Line]] = {
    "retrain": (0.0, 94.87, 0.0, 76.65),
    "pte_published": (0.0, 95.00, 0.0, 75.23),
    "ablation_published_without_pull": (15.60, 84.61, 13.00, 66.79),
    "ablation_published_without_push": (7.85, 92.77, 5.16, 72.25),
    "ablation_published_push_then_pull": (2.60, 76.19, 3.00, 59.82),
    "ablation_published_pull_then_push": (14.22, 86.52, 10.91, 67.31),
}

# Table 3, CIFAR-100: Acc_ft and Acc_rt with 1, 5 and 10 classes forgotten at once.
T3: Final[Mapping[str, Line]] = {
    "retrain": (0.0, 76.65, 0.0, 77.31, 0.0, 77.58),
    "boundary_shrink": (2.00, 70.34, 7.80, 68.58, 3.20, 53.76),
    "bad_teacher": (3.00, 70.46, 9.40, 69.05, 5.30, 60.87),
    "delete": (3.00, 71.23, 8.40, 75.09, 11.90, 76.10),
    "pte_published": (0.0, 75.23, 0.0, 77.18, 0.0, 77.53),
}

# Table 2, CIFAR-10: Acc_f, Acc_r, Acc_ft, Acc_rt of the two-dimensional namesakes of our backbones.
T2: Final[Mapping[str, Mapping[str, Line]]] = {
    "swin_1d": {
        "original": (81.48, 82.62, 77.80, 79.91),
        "retrain": (0.0, 83.37, 0.0, 80.87),
        "bad_teacher": (8.72, 47.24, 9.50, 38.79),
        "delete": (1.06, 83.78, 0.0, 81.22),
        "pte_published": (0.0, 82.97, 0.0, 80.43),
    },
    "vit_1d": {
        "original": (65.02, 69.80, 61.70, 67.36),
        "retrain": (0.0, 70.66, 0.0, 67.54),
        "bad_teacher": (9.04, 50.70, 11.30, 52.50),
        "delete": (0.12, 71.32, 0.0, 68.18),
        "pte_published": (0.0, 71.65, 0.0, 69.05),
    },
}
