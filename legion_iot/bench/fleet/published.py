"""What Legion's authors have published, to stand beside what is measured.

Source: Choi, Lee, Kang and Park, Legion: Tailoring Grouped Neural Execution Considering Heterogeneity on Multiple Edge
Devices, ICCD 2021, doi 10.1109/ICCD53106.2021.00067: boards on 100 Mbit/s Ethernet, TVM, float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Speed-up of Legion over one device of the group's faster kind, by network and group.
SPEEDUP: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "vgg16": {"2F": 1.45, "3F": 1.75, "4F": 2.04, "5F": 2.19, "6F": 2.38},
        "vgg19": {"2F": 1.46, "3F": 1.77, "4F": 2.04, "5F": 2.21, "6F": 2.48},
        "yolov2": {
            "2F": 0.76, "3F": 1.08, "4F": 1.21, "5F": 1.33, "6F": 1.38,
            "1F+1O": 0.75, "2F+1O": 0.97, "2F+2O": 1.09, "3F+2O": 1.36, "3F+3O": 1.32,
        },
    }
)  # fmt: skip

# Loss against the full searching scheme in percent, mean and worst; and how many times cheaper profiling is.
LOSS, WORST_LOSS, PROFILING_RATIO = 3.4, 12.4, 48.7
