"""Package definition of streamgauge.

`install_requires` stays empty on purpose: Beam stages this package to workers
that carry their own, pinned environment. Dependencies are extras; the exact
versions with hashes are in `infra/locks/`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (Path(__file__).parent / "src" / "streamgauge" / "__init__.py").read_text(encoding="utf-8"),
    re.MULTILINE,
)[1]

EXTRAS = {
    # Everything that scores, replays, submits and reads alerts. No torch, no Java.
    "run": [
        "apache-beam==2.70.0",
        "confluent-kafka>=2.16,<3",
        "crc32c>=2.9,<3",
        "jinja2>=3.1,<4",
        "kafka-python>=3.0.12,<4",
        "msgspec>=0.22,<0.23",
        "numba>=0.68,<0.69",
        "numpy>=2.2,<2.3",
        "pyarrow>=18,<19",
        "pyyaml>=6,<7",
        "rich>=15,<16",
        "safetensors>=0.8,<0.9",
        "scipy>=1.17,<2",
        "typer>=0.29,<0.30",
    ],
    # Only where artifacts are made and judged; torch's default wheel is the large CUDA build.
    "train": [
        "optuna>=5,<6",
        "scikit-learn>=1.7,<2",
        "tensorboardX>=2.6.5,<3",
        "torch>=2.9,<3",
    ],
    "dev": [
        "hypothesis>=6.170,<7",
        "mypy>=2.4,<3",
        "pytest>=9,<10",
        "pytest-timeout>=2.4,<3",
        "ruff>=0.17,<0.18",
        "types-PyYAML",
    ],
}

# Making an artifact includes scoring with it.
EXTRAS["train"] = [*EXTRAS["run"], *EXTRAS["train"]]

setup(
    name="streamgauge",
    version=VERSION,
    description="Streaming anomaly detection per entity: Kafka in, explained alerts out",
    license="Apache-2.0",
    keywords="anomaly detection, streaming, Kafka, Apache Beam, Apache Flink, telemetry",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Information Analysis",
        "Topic :: System :: Monitoring",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.12",
    # `src/streamgauge` links to the four top-level folders, so that they are imported as
    # `streamgauge.models` and so on (docs/decisions/0032).
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "streamgauge": ["py.typed"],
        "streamgauge.infra": ["locks/*.txt", "docker/*"],
        "streamgauge.infra.local": ["*.xml"],
        "streamgauge.transforms.messages": ["schemas/*.json"],
        "streamgauge.pipeline.replay": ["bundled/*", "bundled/*/*"],
        "streamgauge.pipeline.report": ["*.html"],
    },
    install_requires=[],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["streamgauge=streamgauge.__main__:main"]},
)
